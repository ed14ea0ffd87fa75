"""Small pictures of a lesson: bars and maps of numbers. In a terminal a table, in a notebook a coloured one.

On a lesson's page the viewer's own drawing code draws them (`small_pictures.js`), from the numbers that their
figures carry; the tables stay, to be read.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from gpt2np.errors import InputError, short
from gpt2np.html_tables import MOST_COLUMNS, caption, coloured, escaped, largest, markup
from gpt2np.ops import Array
from gpt2np.tables import cell_width, number, screen_width, strict_json, table

_LINE_ENDS = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})
_MARKS = _LINE_ENDS | {ord(" "): "·"}
_BAR = 24  # characters of the longest bar in a terminal
_COLOURS = {"#": "#2a78b5", "-": "#c8641e"}  # of bars to the right, and of negative ones
_HATCHED = "background:repeating-linear-gradient(45deg,#8886 0 1px,transparent 1px 7px)"  # no number
_TABLE = '<table style="border-collapse:collapse" cellpadding="3">'


class Picture:
    """A picture: `str()` is a table for a terminal, a notebook shows colours, a page draws it."""

    def __init__(self, text: str, html: str, data: dict[str, object]) -> None:
        """`text` and `html` are tables; `data` is what the page draws from."""
        self.text, self.html, self.data = text, html, data

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The table, with the numbers for those who draw it anew."""
        data = markup(strict_json(self.data, None))
        title, note = str(self.data["title"]), str(self.data["note"])
        said = f"<figcaption>{caption(title, note)}</figcaption>" if title else ""
        return f'<figure class="picture" data-picture="{data}">{said}{self.html}</figure>'


def visible(token: str) -> str:
    """Return a token with line ends, and the spaces at its ends, shown as in the viewer: `·T` for " T"."""
    inner = token.strip(" ")
    start, _, end = token.partition(inner) if inner else (token, "", "")
    shown = start.translate(_MARKS) + inner.translate(_LINE_ENDS) + end.translate(_MARKS)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown) or "∅"


def bars(
    values: ArrayLike,
    labels: Sequence[str],
    title: str = "",
    *,
    percent: bool = False,
    numbered: bool = False,
) -> Picture:
    """Return numbers as bars, one below the other, each with its label; with `percent`, shares of 1.

    The whole width is the largest number, or 100 % of shares. Negative numbers go to the left. `numbered`
    puts the number of each before its label.

    Raises:
        InputError: there is not one label for each number.

    Example:
        >>> show(bars([0.75, 0.25], ["yes", "no"], percent=True))
          yes  ##################        75 %
          no   ######                    25 %
    """
    numbers = _checked(values, 1)
    if len(labels) != len(numbers):
        raise InputError(f"{len(numbers)} numbers, but {len(labels)} labels")
    names, finite = [visible(label) for label in labels], np.nan_to_num(numbers, posinf=0.0, neginf=0.0)
    left, right = max(0.0, -finite.min(initial=0.0)), finite.max(initial=1.0 if percent else 0.0)
    shares, zero = finite / ((left + right) or 1.0), left / ((left + right) or 1.0)
    told = [f"{text} %" if percent else text for text in _told(numbers, percent)]
    rows, html = [], ""
    for i, (name, share, text) in enumerate(zip(names, shares, told, strict=True)):
        first = [str(i)] if numbered else []
        rows.append([*first, name, _bar_of_signs(share, zero), text])
        html += _bar_row([*first, name], share, zero, text)
    text = table(rows, ">" * numbered + "<<>")
    data = {
        **{"kind": "bars", "title": title, "labels": names, "values": numbers.tolist()},
        **{"texts": told, "numbered": numbered, "note": "", "left": left, "right": right},
    }
    return Picture(f"{title}\n{text}" if title else text, f"{_TABLE}{html}</table>", data)


def heatmap(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    corner: str = "",
    percent: bool = False,
    numbered: bool = False,
) -> Picture:
    """Return numbers [row, column] as a map; with `percent`, shares of 1.

    What is not finite stays empty, and is hatched where there are colours. `numbered` puts the number of each
    row and column before its label.

    Raises:
        InputError: there is not one label for each row and column.

    Example:
        >>> show(heatmap(trace["h.1.attn.pattern"][0], trace.tokens, trace.tokens, percent=True))
    """
    numbers = _checked(values, 2)
    if numbers.shape != (len(rows), len(columns)):
        raise InputError(
            f"{numbers.shape} numbers, but {len(rows)} labels of rows, {len(columns)} of columns"
        )
    down, across, most = _named(rows, numbered), _named(columns, numbered), largest(numbers)
    told = _told(numbers.ravel(), percent)
    texts = [told[i * len(across) : (i + 1) * len(across)] for i in range(len(down))]
    note = "in percent" if percent else ""
    data = {
        **{"kind": "heatmap", "title": title, "rows": list(rows), "columns": list(columns)},
        **{"values": numbers.tolist(), "texts": texts, "corner": corner, "note": note},
    }
    head = "".join(f"<th scope='col'>{escaped(name)}</th>" for name in across)
    html = "".join(
        f"<tr><th scope='row' style='text-align:left'>{escaped(name)}</th>"
        + "".join(f'<td style="{_cell(v, most)}">{t}</td>' for v, t in zip(line, told_of, strict=True))
        + "</tr>"
        for name, line, told_of in zip(down, numbers, texts, strict=True)
    )
    made = f"{_TABLE}<tr><th>{escaped(corner, 30)}</th>{head}</tr>{html}</table>"
    said = f"{title}{f' ({note})' if note else ''}\n" if title else ""
    return Picture(said + _grid(down, across, texts, corner), made, data)


def _named(labels: Sequence[str], numbered: bool) -> list[str]:
    """Labels as they are shown, perhaps with their numbers in front."""
    width = len(str(len(labels) - 1))
    return [
        f"{i:>{width}} {visible(label)}" if numbered else visible(label) for i, label in enumerate(labels)
    ]


def _bar_of_signs(share: float, zero: float) -> str:
    """A bar for a terminal: to the right of where 0 is, or to the left of it."""
    before, size = round(_BAR * zero), round(_BAR * abs(share))
    return (f"{'-' * size:>{before}}" if share < 0 else " " * before + "#" * size).ljust(_BAR)


def _bar_row(names: list[str], share: float, zero: float, text: str) -> str:
    """One bar of a table: perhaps a number, a name, the bar, and what it says."""
    *before, name = names
    start, colour = min(zero, zero + share), _COLOURS["-" if share < 0 else "#"]
    return (
        f"<tr>{''.join(f'<td>{n}</td>' for n in before)}"
        f"<th scope='row' style='text-align:left'>{escaped(name)}</th><td style='width:16em'>"
        f"<div style='margin-left:{100 * start:.1f}%;width:{100 * abs(share):.1f}%;height:0.8em;"
        f"background:{colour}'></div></td>"
        f"<td style='text-align:right'>{text}</td></tr>"
    )


def _grid(down: list[str], across: list[str], texts: list[list[str]], corner: str) -> str:
    """Rows and columns for a terminal; numbers stand over the columns where the names would be too wide."""
    for names in (across, [str(i) for i in range(len(across))]):
        rows = [[corner, *names], *([name, *told] for name, told in zip(down, texts, strict=True))]
        text = table(rows, "<" + ">" * len(across), indent=1)
        if max(map(cell_width, text.splitlines())) <= screen_width() or len(across) > MOST_COLUMNS:
            break
    return text


def _checked(values: ArrayLike, n_axes: int) -> Array:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{short(values)}: these are no numbers, or not of one shape") from None
    if numbers.ndim != n_axes:
        raise InputError(f"an array with {numbers.ndim} axes: a picture like this needs {n_axes}")
    return numbers


def _told(values: Array, percent: bool) -> list[str]:
    """Numbers in a picture, all with as many places; nothing for what is not finite."""
    most = largest(values)
    if percent or not 0.1 <= most < 1e5:
        told = [f"{100 * value:.0f}" if percent else number(value) for value in values]
    else:
        places = 0 if most >= 1000 else 1 if most >= 1 else 2
        told = [f"{value:.{places}f}" for value in values]
    return [text if np.isfinite(value) else "" for text, value in zip(told, values, strict=True)]


def _cell(value: float, most: float) -> str:
    return coloured(value, most) if np.isfinite(value) else _HATCHED
