"""What a notebook shows: small tables and texts in HTML with coloured cells, complete in themselves.

Each fits into `MOST_BYTES`: what is larger is cut in the middle. Nothing is fetched, and no style sheet or
script is needed, so that the same shows in a saved notebook.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.characters import readable
from gpt2np.errors import printable
from gpt2np.tables import number

MOST_BYTES = 18_000  # with what stands around it, a result is below 20 kB
MOST_CELLS, MOST_COLUMNS, MOST_TOKENS = 280, 16, 240
WIDEST = 16  # characters of a label or a text in a cell
_POSITIVE, _NEGATIVE, _NOTHING = (178, 24, 43), (33, 102, 172), "background:#ddd;color:black"
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_TABLE = '<table style="border-collapse:collapse" cellpadding="4">'


def markup(text: str) -> str:
    """A text for HTML. (Python's `html` would take longer to import than all else here.)"""
    return text.translate(_ENTITIES)


def escaped(text: str, width: int = WIDEST) -> str:
    """A text for HTML on one line: control characters as escapes, cut to a width."""
    shown = printable(text)
    return markup(shown if len(shown) <= width else shown[: width - 1] + "…")


def coloured(value: float, most: float) -> str:
    """The style of a cell: white at 0, red at `most`, blue at -`most`; the text is black or white on it."""
    if not math.isfinite(value):
        return _NOTHING
    share = min(abs(value) / most, 1.0) if most > 0 else 0.0
    end = _POSITIVE if value >= 0 else _NEGATIVE
    rgb = [round(255 + (c - 255) * share) for c in end]
    return f"background:#{bytes(rgb).hex()};color:{ink_on([c / 255 for c in rgb])}"


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever has more contrast with a colour (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def heat_table(
    values: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    corner: str = "",
    texts: Callable[[int, int], str] | None = None,
    most: float | None = None,
) -> str:
    """A table [row, column] of numbers, or of other texts, whose colours are the numbers.

    `most` is the number that has the full colour, by default the largest magnitude.
    """
    values = np.asarray(values, np.float64)
    full = largest(values) if most is None else most

    def cell(i: int | None, j: int | None) -> str:
        if i is None or j is None:
            return "<td>…</td>"
        value = float(values[i, j])
        plain = "" if math.isnan(value) else number(value)
        text = plain if texts is None else escaped(texts(i, j))
        return f'<td style="{coloured(value, full)}">{text}</td>'

    def made(n_cells: int) -> str:
        across = cut(len(columns), MOST_COLUMNS)
        down = cut(len(rows), max(2, n_cells // max(1, len(across))))
        lines = "".join(
            f"<tr><th>{'…' if i is None else escaped(rows[i])}</th>{''.join(cell(i, j) for j in across)}</tr>"
            for i in down
        )
        head = "".join(f"<th>{'…' if j is None else escaped(columns[j])}</th>" for j in across)
        corners = f"<tr><th>{escaped(corner, 30)}</th>{head}</tr>"
        scale = f"darkest at {number(full)}" + (", blue is negative" if (values < 0).any() else "")
        return f"{caption(title, scale)}{_TABLE}{corners}{lines}</table>"

    return _within(made, MOST_CELLS)


def shaded_text(
    tokens: Sequence[str], values: Sequence[float], title: str = "", what: str = "", most: float | None = None
) -> str:
    """A text whose tokens are coloured by a number each, which `what` names; NaN leaves a token plain."""
    full, tokens = largest(np.asarray(values, np.float64)) if most is None else most, readable(tokens)

    def shown(i: int | None) -> str:
        if i is None:
            return " … "
        text = markup(tokens[i]) if tokens[i].isprintable() else escaped(tokens[i], 40)
        if not math.isfinite(values[i]):
            return text
        return f'<span title="{number(values[i])}" style="{coloured(values[i], full)}">{text}</span>'

    def made(n_tokens: int) -> str:
        spans = "".join(map(shown, cut(len(tokens), n_tokens)))
        scale = f"{what}; darkest at {number(full)}" if what else ""
        return f'{caption(title, scale)}<div style="white-space:pre-wrap;max-width:60em">{spans}</div>'

    return _within(made, MOST_TOKENS)


def plain_table(rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Rows of texts, the first of them the head."""

    def made(n_rows: int) -> str:
        lines = []
        for i in cut(len(rows), n_rows):
            tag = "th" if i == 0 else "td"
            cells = ["…"] if i is None else [escaped(text, 90) for text in rows[i]]
            joined = "".join(f'<{tag} style="text-align:left">{cell}</{tag}>' for cell in cells)
            lines.append(f"<tr>{joined}</tr>")
        return f"{caption(title)}{_TABLE}{''.join(lines)}</table>"

    return _within(made, 100)


def text_block(text: str) -> str:
    """Lines as a terminal shows them."""
    lines = text.splitlines()

    def made(n_lines: int) -> str:
        shown = ["…" if i is None else markup(printable(lines[i])[:200]) for i in cut(len(lines), n_lines)]
        return "<pre>" + "\n".join(shown) + "</pre>"

    return _within(made, 80)


def caption(title: str, note: str = "") -> str:
    """A line above a table: what it shows, and how to read it; of several lines the first is the title."""
    first, _, rest = title.partition("\n")
    small = "; ".join(filter(None, [" ".join(rest.split()), note]))
    parts = [f"<b>{escaped(first, 200)}</b>"] if first else []
    parts += [f"<small>{escaped(small, 200)}</small>"] if small else []
    return f"<div>{' '.join(parts)}</div>" if parts else ""


def cut(n: int, most: int) -> list[int | None]:
    """The indices 0 to n-1, or so many from both ends with None between them."""
    if n <= most:
        return list(range(n))
    head = most // 2
    return [*range(head), None, *range(n - (most - head), n)]


def largest(values: NDArray[Any]) -> float:
    """The largest finite magnitude; 0 where there is none."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def _within(made: Callable[[int], str], most: int) -> str:
    """What is made with at most so many entries, or fewer, until it is small enough."""
    text = made(most)
    while len(text.encode("utf-8", "replace")) > MOST_BYTES and most > 4:
        most //= 2
        text = made(most)
    return text
