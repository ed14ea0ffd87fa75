"""The verb that lists and opens the pages that come with the package: docs."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from gpt2np.cli.parser import add_verb
from gpt2np.errors import InputError, nearest, short
from gpt2np.tables import strict_json, table

FOLDER = Path(__file__).parents[2] / "docs"
INDEX = "index"  # the page that puts the others in order


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs, "docs", docs, "the documentation: list its pages, or open one", "docs", "docs first-hour"
    )
    verb.add_argument("page", nargs="?", metavar="PAGE", help="the page to open (default: list them)")
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
    name = page_called(INDEX if args.page is None else args.page)
    path = str(FOLDER / f"{name}.md")
    if args.json:
        print(strict_json({"page": name, "path": path, "text": read_page(name)}))
    elif args.path:
        print(path)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        import pydoc

        pydoc.pager(read_page(name))
    else:
        print(read_page(name), end="")
    return 0


def page_names() -> list[str]:
    """The names of all pages, in the order in which the index links to them; others follow."""
    there = sorted(path.name.removesuffix(".md") for path in FOLDER.iterdir())
    linked = [INDEX, *re.findall(r"\]\((\w+)\.md\)", read_page(INDEX))]
    return [name for name in dict.fromkeys([*linked, *there]) if name in there]


def page_called(given: str) -> str:
    """The page that a user means: `first-hour` and `first_hour.md` are `first_hour`.

    Raises:
        InputError: there is no such page.
    """
    name, known = given.removesuffix(".md").replace("-", "_").lower(), page_names()
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
