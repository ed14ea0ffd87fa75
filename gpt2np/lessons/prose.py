"""The texts of a lesson in HTML, by markdown-it-py, which the extra `learn` brings."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from gpt2np.errors import InputError

WITHOUT = "the page of a lesson needs markdown-it-py: pip install 'gpt2np[learn]'"
MINUTES = re.compile(r"^minutes: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Heading:
    """A heading of a page: its level, from 1, the anchor that leads to it, and its text."""

    level: int
    anchor: str
    text: str


class Prose:
    """Renders the texts of one page, and keeps their `headings`, each of which has an anchor of its own."""

    def __init__(self) -> None:
        """Raises InputError where markdown-it-py is not installed."""
        check_can_render()
        from markdown_it import MarkdownIt

        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self.headings: list[Heading] = []

    def html(self, text: str) -> str:
        """Return a text as HTML; markup in it is shown as it is written."""
        tokens = self._markdown.parse(MINUTES.sub(r"*\1 minutes*", text))
        for token, inline in pairwise(tokens):
            if token.type == "heading_open":
                token.attrSet("id", self._heading(int(token.tag[1:]), inline))
        rendered: str = self._markdown.renderer.render(tokens, self._markdown.options, {})
        return rendered

    def _heading(self, level: int, inline: Any) -> str:
        """Note a heading, and return its anchor."""
        text = "".join(child.content for child in inline.children or [])
        anchor = re.sub(r"[^\w]+", "-", text.lower()).strip("-") or "part"
        if any(heading.anchor == anchor for heading in self.headings):
            anchor = f"{anchor}-{len(self.headings)}"
        self.headings.append(Heading(level, anchor, text))
        return anchor


def can_render() -> bool:
    """Return whether markdown-it-py is installed."""
    return find_spec("markdown_it") is not None


def check_can_render() -> None:
    """Refuse to make a page where it cannot be rendered.

    Raises:
        InputError: markdown-it-py is not installed; says how to get it.
    """
    if not can_render():
        raise InputError(WITHOUT)


def plain(text: str) -> str:
    """A text for a terminal: the same without the marks of headings, emphasis, code and links."""
    text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
    pieces = text.split("`")  # every second one is code
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", pieces[i])
        pieces[i] = re.sub(r"(?<![\w*])(\*{1,2})(?=\S)([^*]*[^*\s])\1(?![\w*])", r"\2", piece)
    return "".join(pieces)
