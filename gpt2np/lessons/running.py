"""Running the cells of a lesson as a notebook does, and keeping what each of them shows."""

import ast
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpt2np.lessons.percent_file import Cell
from gpt2np.lessons.scripts import modules_beside, place_in, said
from gpt2np.lessons.showing import collecting
from gpt2np.tables import WIDTH


@dataclass(frozen=True)
class Output:
    """A part of what a cell shows: what it prints, a result in HTML, or how it failed."""

    kind: Literal["text", "html", "error"]
    content: str


@dataclass(frozen=True)
class RunCell:
    """A cell, and what it shows; a text shows nothing."""

    cell: Cell
    outputs: list[Output] = field(default_factory=list)


def run_cells(cells: Sequence[Cell], path: Path) -> list[RunCell]:
    """Run the code of a file at `path`, cell by cell, and return each cell with what it shows.

    A cell that raises an exception shows it, and the next one runs all the same. As in a notebook, the value
    of an expression at the end of a cell is shown: in HTML if it has a `_repr_html_`, else its `repr`.
    """
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    with _same_everywhere(), modules_beside(path):
        return [RunCell(cell, _outputs(cell, namespace, path)) for cell in cells]


def _outputs(cell: Cell, namespace: dict[str, Any], path: Path) -> list[Output]:
    """Run one cell."""
    if cell.kind == "markdown":
        return []
    shown: list[Output] = []
    with _collecting(shown) as printed:
        try:
            source = "\n" * (cell.line - 1) + cell.source  # so that lines have their numbers in the file
            for part in _parts(ast.parse(source, str(path))):
                mode = "single" if isinstance(part, ast.Interactive) else "exec"
                exec(compile(part, str(path), mode, dont_inherit=True), namespace)
        except (Exception, SystemExit) as error:
            printed()
            shown.append(Output("error", f"{path.name}{place_in(path, error)}: {said(error)}"))
    return shown


def _parts(tree: ast.Module) -> list[ast.Module | ast.Interactive]:
    """The statements of a cell, and the expression at its end, whose value is shown."""
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        return [ast.Module(tree.body[:-1], []), ast.Interactive(tree.body[-1:])]
    return [tree]


@contextlib.contextmanager
def _collecting(shown: list[Output]) -> Iterator[Callable[[], None]]:
    """While the block runs, what is printed or shown goes to a list; yields what hands over the prints."""
    stream = io.StringIO()

    def printed() -> None:
        if text := stream.getvalue():
            shown.append(Output("text", text))
            stream.seek(0)
            stream.truncate()

    def display(value: object) -> None:
        if value is None:
            return
        printed()
        html = getattr(value, "_repr_html_", None)
        shown.append(Output("html", html()) if callable(html) else Output("text", f"{value!r}\n"))

    before = sys.displayhook
    sys.displayhook = display
    try:
        with contextlib.redirect_stdout(stream), collecting(display):
            yield printed
        printed()
    finally:
        sys.displayhook = before


@contextlib.contextmanager
def _same_everywhere() -> Iterator[None]:
    """Tables of one width, whatever the terminal has, so that a page is the same on every machine."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
