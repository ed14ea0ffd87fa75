"""The verb that lists and opens the pages that come with the package: docs."""

import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from gpt2np.cli.parser import add_verb
from gpt2np.errors import InputError, nearest, short
from gpt2np.tables import screen_width, strict_json, table, wrapped

FOLDER = Path(__file__).parents[2] / "docs"
INDEX = "index"  # the page that puts the others in order


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(verbs, "docs", docs, "docs", "docs first-hour", "docs layernorm")
    help = "the page to open, or a word to look for (default: list all)"
    verb.add_argument("page", nargs="?", metavar="PAGE", help=help)
    verb.add_argument("--path", action="store_true", help="print where the page's file is")
    verb.add_argument("--json", action="store_true", help="print JSON, for programs")


def docs(args: argparse.Namespace) -> int:
    """`gpt2np docs`."""
    if args.page is None and not args.path:
        titles = {name: title_of(read_page(name)) for name in page_names()}
        if args.json:
            print(strict_json(titles))
            return 0
        print(table([[name, title] for name, title in titles.items()], "<<", indent=0))
        print("\ngpt2np docs PAGE opens one of them")
        return 0
    if args.page is not None and (found := _search(args.page)):
        return _print_found(args, found)
    name = page_called(INDEX if args.page is None else args.page)
    path = str(FOLDER / f"{name}.md")
    if args.json:
        print(strict_json({"page": name, "path": path, "text": read_page(name)}))
    elif args.path:
        print(path)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        import pydoc

        pydoc.pager(for_terminal(read_page(name)))
    else:
        print(read_page(name), end="")
    return 0


def _search(word: str) -> dict[str, str]:
    """The pages that hold a word, which is no page's name nor near one, with the first line that does."""
    name, known = _page_name(word), page_names()
    if name in known or nearest(name, known) or len(word.strip()) < 2:
        return {}
    pages = {page: read_page(page).splitlines() for page in known}
    lines = {page: [line for line in text if word.lower() in line.lower()] for page, text in pages.items()}
    return {page: found[0] for page, found in lines.items() if found}


def _print_found(args: argparse.Namespace, found: dict[str, str]) -> int:
    """`gpt2np docs WORD`."""
    if args.path:
        raise InputError(f"there is no page {short(args.page)}")
    if args.json:
        print(strict_json({"word": args.page, "pages": found}))
        return 0
    room = screen_width() - max(map(len, found)) - 2
    rows = [[page, line if len(line) <= room else f"{line[: room - 1]}…"] for page, line in found.items()]
    print(f"{short(args.page)[1:-1]} stands in these pages:\n" + table(rows, "<<", indent=0))
    return 0


def for_terminal(page: str) -> str:
    """Markdown in lines of the terminal: words whole, each row of a table a paragraph, no comments."""
    page = re.sub(r"(?s)<!--.*?-->\n?", "", page)
    page = re.sub(r"\[([^\]]+)\]\((\w+)\.md[^)]*\)", r"\1 (gpt2np docs \2)", page)
    parts = list[str]()
    for i, block in enumerate(re.split(r"(?ms)^(```.*?^```)$", page)):
        number = (
            r"|\d+\. " if re.search(r"(?m)^1\. ", block) else ""
        )  # else a sentence may begin a line with it
        starts = rf"\n(?=\n|- |\||#{number})"  # of paragraphs, items, rows, headings
        parts += [block] if i % 2 else [_paragraph(text) for text in re.split(starts, block)]
    return "\n".join(parts)


def _paragraph(text: str) -> str:
    """A paragraph, an item of a list or a row of a table, in lines of the terminal."""
    blank, text = text.startswith("\n"), " ".join(text.split())
    if text.startswith("|"):
        cells = [cell.strip() for cell in text.strip("|").split(" | ")]
        if set("".join(cells)) <= set("-: |"):
            return ""
        lines = [wrapped(cells[0]), *(_indented(cell, 4) for cell in cells[1:] if cell and cell != "-")]
        return "\n".join(lines)
    return ("\n" if blank else "") + _indented(text, 0, 2 if text.startswith("- ") else 0)


def _indented(text: str, first: int, more: int | None = None) -> str:
    return textwrap.fill(
        text,
        screen_width(),
        initial_indent=" " * first,
        subsequent_indent=" " * (first if more is None else more),
        break_long_words=False,
        break_on_hyphens=False,
    )


def page_names() -> list[str]:
    """The names of all pages, in the order in which the index links to them; others follow."""
    there = sorted(path.name.removesuffix(".md") for path in FOLDER.iterdir())
    linked = [INDEX, *re.findall(r"\]\((\w+)\.md\)", read_page(INDEX))]
    return [name for name in dict.fromkeys([*linked, *there]) if name in there]


def _page_name(given: str) -> str:
    return given.removesuffix(".md").replace("-", "_").lower()


def page_called(given: str) -> str:
    """The page that a user means: `first-hour` and `first_hour.md` are `first_hour`.

    Raises:
        InputError: there is no such page.
    """
    name, known = _page_name(given), page_names()
    if name in known:
        return name
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else "`gpt2np docs` lists them"
    raise InputError(f"there is no page {short(given)}; {hint}")


def read_page(name: str) -> str:
    """The Markdown of a page."""
    return (FOLDER / f"{name}.md").read_text("utf-8")


def title_of(page: str) -> str:
    """The heading at the top of a page."""
    return page.partition("\n")[0].removeprefix("# ")
