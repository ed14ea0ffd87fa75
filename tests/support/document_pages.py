"""The pages about the source documents: their tables are made of the steps that the tests run.

    python tests/support/document_pages.py      (writes the tables into gpt2np/docs/*.md)

A page has a region for each heading of the document under which commands or snippets stand, and for each
further table of `TABLES` in its `tests/documents/NAME_steps.py`; what is between the two lines is made here:

    <!-- generated: Command Line Tools -->
    <!-- /generated -->
"""

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from support.document_reader import Step

DOCS = TESTS.parent / "gpt2np" / "docs"
NAMES = sorted(path.stem.removesuffix("_steps") for path in (TESTS / "documents").glob("*_steps.py"))
REGION = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def steps_of(name: str) -> ModuleType:
    """`STEPS`, `HEADINGS`, `FILES` and, if there are some, `TABLES` of a document."""
    return importlib.import_module(f"documents.{name}_steps")


def page_of(name: str) -> Path:
    """Where the page of a document is."""
    return DOCS / f"{name}.md"


def rendered(name: str, page: str) -> str:
    """The page with its tables as they must be now.

    Raises:
        KeyError: a region is of no heading of the steps, and of no table.
        ValueError: a heading or a table has no region.
    """
    module = steps_of(name)
    tables = {step.heading: _of_steps(module.STEPS, step.heading) for step in module.STEPS}
    tables |= {heading: markdown(rows) for heading, rows in getattr(module, "TABLES", {}).items()}
    if missing := tables.keys() - {match[2] for match in REGION.finditer(page)}:
        raise ValueError(f"{name}.md has no region for {', '.join(sorted(missing))}")
    return REGION.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", page)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its heading."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _of_steps(steps: Sequence[Step], heading: str) -> str:
    rows = [["the document", "here", "what it does"]]
    for step in steps:
        if step.heading == heading:
            theirs, ours = step.theirs.splitlines(), step.typed.splitlines()
            if theirs == ours:
                shown = [_code(theirs), "the same"]
            elif step.language == "python":
                shown = [
                    _code([line for line in theirs if line not in ours]),
                    _code([line for line in ours if line not in theirs]),
                ]
            else:
                shown = [_code(theirs), _code(ours)]
            rows.append([*shown, step.note])
    return markdown(rows)


def _code(lines: Sequence[str]) -> str:
    """Lines of code in a cell: no more than three, without blank ones, and continued ones as one."""
    lines = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    full = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    shown = [f"`{line}`" for line in full[:3]] + ["..."] * (len(full) > 3)
    return "<br>".join(shown)


def main() -> None:
    """Write the tables of all pages."""
    for name in NAMES:
        page = page_of(name).read_text("utf-8")
        page_of(name).write_text(rendered(name, page), "utf-8")


if __name__ == "__main__":
    main()
