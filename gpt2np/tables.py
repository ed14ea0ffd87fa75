"""Text for terminals: aligned columns within the width of the screen, and strict JSON."""

import json
import math
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

from gpt2np.errors import printable

WIDTH = 80  # at most


def screen_width() -> int:
    """Columns to print in: those of the terminal, or of `$COLUMNS`, but 40 to 80."""
    return min(WIDTH, whole_width())


def whole_width() -> int:
    """Columns for what does not end at 80: all those of the terminal."""
    import shutil  # only when something is printed

    return max(40, shutil.get_terminal_size((WIDTH, 24)).columns)


def table(rows: Sequence[Sequence[str]], align: str, indent: int = 2) -> str:
    """Rows as aligned columns; `align` has `<` or `>` for each column.

    Example:
        >>> print(table([["0", "a"], ["10", "b"]], "><", indent=0))
         0  a
        10  b
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(cell_width(row[i]) for row in rows) for i in range(len(align))] if rows else []
    lines = []
    for row in rows:
        cells = []
        for cell, width, side in zip(row, widths, align, strict=True):
            padding = " " * (width - cell_width(cell))
            cells.append(cell + padding if side == "<" else padding + cell)
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def fitted(rows: Sequence[Sequence[str]], align: str, indent: int = 2) -> str:
    """The same, in blocks below each other where it is wider than the screen: each has the first column."""
    whole = table(rows, align, indent)
    if len(align) < 3 or max(map(cell_width, whole.splitlines()), default=0) <= screen_width():
        return whole
    blocks, columns = [], [0]
    for i in range(1, len(align)):
        if len(columns) > 1 and _total(rows, [*columns, i], indent) > screen_width():
            blocks.append(columns)
            columns = [0]
        columns = [*columns, i]
    parts = [
        table([[row[i] for i in chosen] for row in rows], "".join(align[i] for i in chosen), indent)
        for chosen in [*blocks, columns]
    ]
    return "\n\n".join(parts)


def _total(rows: Sequence[Sequence[str]], columns: Sequence[int], indent: int) -> int:
    """The width of these columns of a table."""
    widths = [max(cell_width(printable(row[i])) for row in rows) for i in columns]
    return indent + sum(widths) + 2 * (len(widths) - 1)


def wrapped(text: str) -> str:
    """Sentences in lines of the screen; the breaks that they have stay."""
    lines = [textwrap.wrap(line, screen_width(), break_on_hyphens=False) or [""] for line in text.split("\n")]
    return "\n".join(line for each in lines for line in each)


def cell_width(text: str) -> int:
    """Columns that a terminal takes for a text: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def quoted(token: str, width: int = 20) -> str:
    """A token between bars, so that its spaces show: control characters as escapes, cut to `width`."""
    shown = printable(token)
    while cell_width(shown) > width - 2:
        shown = shown[:-2] + "…"
    return f"|{shown}|"


def first_lines(text: str, most: int = 20) -> str:
    """A text of many lines cut to its first ones, with a line that says how to see the others."""
    lines = text.splitlines()
    if len(lines) <= most:
        return text
    return "\n".join([*lines[: most - 1], f"  ... {len(lines) - most + 1} more lines: print() shows all"])


def by_shape(arrays: tuple[Any, ...]) -> str:
    """A NamedTuple of arrays: each name with a shape, and with what else is there as it is."""
    parts = []
    for name, value in zip(arrays._fields, arrays, strict=True):  # type: ignore[attr-defined]
        if hasattr(value, "shape"):
            parts.append(f"{name} {list(value.shape)}")
        elif type(value) is tuple:
            parts.append(f"{name}: {len(value)} times {type(value[0]).__name__}")
        else:
            parts.append(f"{name} {value!r}")
    return f"{type(arrays).__name__}({', '.join(parts)})"


def counted(n: int, thing: str) -> str:
    """A number of things: "1 token", "1,200 tokens"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def number(value: float) -> str:
    """Four significant digits, never wider than 10 characters."""
    return f"{value:.4g}"


def strict_json(value: Any, indent: int | None = 1) -> str:
    r"""JSON as the standard has it, in ASCII: NaN and infinities become null, other characters `\u0120`.

    So every terminal and pipe can be given it, and it is read back exactly.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # some number is not finite, which is rare: looking at all of them takes long
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def stream_of_bars() -> Any:
    """The stderr for a progress bar: that of the command line shows what moves the bar as escapes."""
    return getattr(sys.stderr, "for_bars", sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
