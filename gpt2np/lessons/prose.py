"""The texts of a lesson in HTML, by markdown-it-py, which the extra `learn` brings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from gpt2np.errors import InputError
from gpt2np.lessons.percent_file import Cell

WITHOUT = "the page of a lesson needs markdown-it-py: pip install 'gpt2np[learn]'"
APART = re.compile(r"#|minutes:|\|")  # lines that no other one goes on
BEGINS = re.compile(r"#|minutes:|[-*|>] ?|\d+\. ")  # and that go on no other
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
            for child in inline.children or []:
                _keep_together(child)
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


def _keep_together(token: Any) -> None:
    """No line ends between a number and its %, or within the code of a token that begins with a space."""
    if token.type == "text":
        token.content = re.sub(r"(?<=\d) %", "\u00a0%", token.content)
    elif token.type == "code_inline" and token.content != token.content.strip():
        token.attrSet("class", "token")


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


def until_step(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Return the cells in front of the heading of a step, counted from 1; all, if there are fewer steps."""
    found, n = list[Cell](), 0
    for cell in cells:
        at = cell.source
        for heading in re.finditer(r"^## ", at if cell.kind == "markdown" else "", re.MULTILINE):
            n += 1
            if n == number:
                before = at[: heading.start()].rstrip()
                return [*found, Cell("markdown", before, cell.line)] if before else found
        found.append(cell)
    return found


def plain(text: str) -> str:
    """A text for a terminal, a paragraph on a line, without the marks of headings, emphasis and links."""
    kept = list[str]()  # code, in which nothing is a mark

    def keep(found: re.Match[str]) -> str:
        kept.append(found[1])
        return f"\0{len(kept) - 1}\0"

    text = re.sub(r"(`[^`]*`)", keep, text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?<![\w*])(\*{1,2})(?=\S)([^*]*[^*\s])\1(?![\w*])", r"\2", text)
    lines = [""]
    for line in text.split("\n"):
        if lines[-1] and not APART.match(lines[-1]) and line and not BEGINS.match(line):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    joined = "\n".join(re.sub(r"^#+ ", "", line) for line in lines[1:])
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], joined)
