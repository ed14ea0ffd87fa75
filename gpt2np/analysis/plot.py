"""A NamedArray as a picture: bars for one axis, a heatmap for two. Needs matplotlib, the `plot` extra."""

import importlib
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.analysis.named_array import NamedArray
from gpt2np.errors import InputError
from gpt2np.html_tables import ink_on
from gpt2np.outputs import whole_binary_file
from gpt2np.tables import cell_width

SUFFIXES = (".png", ".svg", ".pdf")
DIVERGING, SEQUENTIAL = "RdBu_r", "Blues"  # both can be told apart with any colour vision
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"  # the two ends of RdBu_r
MISSING = "#dddddd"  # NaN and infinities
LONGEST = 24  # characters of a label
LONGEST_IN_CELL = 12  # and of a text in a cell
MOST_NUMBERS = 16  # rows and columns of a heatmap whose cells show their numbers
CELL_HEIGHT = 0.28  # inches of a cell with a text
SCREEN, SHEET = 8.5, 26.0  # inches that an axis may take: a plain one, one whose labels need more
# What else is installed and has the characters that DejaVu Sans, which comes with matplotlib, has not.
FALLBACKS = """
Noto Sans CJK JP|Noto Sans CJK SC|Hiragino Sans|PingFang SC|Yu Gothic|Microsoft YaHei|Malgun Gothic
WenQuanYi Zen Hei|Droid Sans Fallback|Arial Unicode MS|Noto Emoji|Segoe UI Emoji|Symbola"""


def check_picture(path: str | os.PathLike[str]) -> None:
    """Check that a picture can be drawn under this name, before any work is done for it.

    Raises:
        InputError: matplotlib is missing, or the name ends in something other than .png, .svg or .pdf.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a picture's name ends in {', '.join(SUFFIXES)}")
    _matplotlib("figure")


def heatmap(
    named: NamedArray,
    path: str | os.PathLike[str],
    *,
    signed: bool,
    quantity: str = "value",
    texts: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw one axis as bars or two as a heatmap [down, across], and write it to a .png, .svg or .pdf.

    `signed` values get a diverging scale centred at zero. Others, which are nonnegative by nature
    (probabilities, attention, norms), a sequential one that begins at 0: one that began at the smallest would
    make 0.90 beside 0.91 look like nothing beside all. (If there is a negative one, it begins there.) NaN and
    infinities are grey. `quantity` names the scale. `texts` [row][column] stand in the cells of a heatmap of
    up to 54 columns; without them those of a small one have their numbers. Up to 160 labels all show: the
    picture grows with them. Spaces at the ends of a label show as ␣, and control characters, or those in no
    installed font, as escapes. pyplot and its figures are left alone.

    Raises:
        InputError: matplotlib is missing, the array has no entries or other than one or two axes, or the
            path has another suffix or cannot be written; nothing is left behind.
    """
    check_picture(path)
    if named.array.ndim not in (1, 2) or named.array.size == 0:
        shape = " x ".join(map(str, named.array.shape)) or "one number"
        raise InputError(f"a picture shows one axis or two, not {shape} ({' '.join(named.axes)})")
    values = np.asarray(named.array, np.float64)
    families = ["DejaVu Sans", *_installed(FALLBACKS.strip().replace("\n", "|").split("|"))]
    settings = {"font.family": families, "text.usetex": False, "axes.unicode_minus": False}
    with _matplotlib().rc_context(settings):
        figure, labels = _matplotlib("figure").Figure(layout="constrained"), _Labels(named, families)
        axes = figure.add_subplot()
        if values.ndim == 2:
            cells = _texts_of_cells(values, texts, labels)
            width = _grid(figure, axes, named, values, signed, labels, cells, quantity)
        else:
            width = _bars(figure, axes, named, values, signed, labels, quantity)
        lines = [textwrap.fill(labels.shown(line), int(10 * width)) for line in named.title.splitlines()]
        figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
        with whole_binary_file(path) as file:
            figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=150)


def _texts_of_cells(
    values: NDArray[np.float64], texts: Sequence[Sequence[str]] | None, labels: "_Labels"
) -> list[list[str]]:
    """What stands in the cells of a heatmap: `texts`, else the numbers of a small one; [] for a large one."""
    if texts is not None:
        n_rows, n_columns = values.shape
        for longest in range(LONGEST_IN_CELL, 3, -1):
            shown = [[labels.cut(text, longest) for text in row] for row in texts]
            if n_columns * _cell_width(shown) <= SHEET and n_rows * CELL_HEIGHT <= SHEET:
                return shown
        return []
    if max(values.shape) > MOST_NUMBERS:
        return []
    finite = np.abs(values[np.isfinite(values)])
    plain = 0.1 <= finite.max(initial=0.0) < 1000  # two decimals tell enough of them
    return [
        [(f"{round(x, 2) + 0.0:.2f}" if plain else f"{x:.2g}") if np.isfinite(x) else "" for x in row]
        for row in values.tolist()
    ]


def _cell_width(texts: Sequence[Sequence[str]]) -> float:
    """Inches of a cell that its text fits into."""
    return 0.14 + 0.085 * max((cell_width(text) for row in texts for text in row), default=0)


def _grid(
    figure: Any,
    axes: Any,
    named: NamedArray,
    values: NDArray[np.float64],
    signed: bool,
    labels: "_Labels",
    texts: list[list[str]],
    quantity: str,
) -> float:
    """A heatmap with its colour bar; returns the width of the figure in inches."""
    n_rows, n_columns = values.shape
    down, across = named.axes
    side = min(0.34, SCREEN / max(n_rows, n_columns))  # of a square cell, in inches; a long grid is stretched
    of_text = (_cell_width(texts), CELL_HEIGHT) if texts else (0.0, 0.0)
    wide = max(2.4, of_text[0] * n_columns, labels.length(across, n_columns, side))
    high = max(1.2, of_text[1] * n_rows, labels.length(down, n_rows, side))
    size = (
        wide + labels.inches(down, high / n_rows) + 1.6,
        high + labels.inches(across, wide / n_columns) + 1.2,
    )
    figure.set_size_inches(*size)
    shown = np.ma.masked_invalid(values)
    low, high_value = (min(float(shown.min()), 0.0), float(shown.max())) if shown.count() else (0.0, 0.0)
    if signed:
        high_value = max(abs(low), abs(high_value))
        low = -high_value
    if low == high_value:
        low, high_value = (low, low + 1) if low >= 0 else (low - 1, low)
    colours = _matplotlib().colormaps[DIVERGING if signed else SEQUENTIAL].with_extremes(bad=MISSING)
    image = axes.imshow(
        shown, cmap=colours, vmin=low, vmax=high_value, aspect="auto", interpolation="nearest"
    )
    labels.tick(axes.yaxis, down, n_rows, high)
    labels.tick(axes.xaxis, across, n_columns, wide)
    for i, j in np.ndindex(values.shape if texts else (0, 0)):
        if text := texts[i][j]:
            ink = ink_on(image.cmap(image.norm(values[i, j]))[:3])
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=ink, parse_math=False)
    bar = figure.colorbar(
        image, ax=axes, shrink=min(1.0, 4 / high), fraction=0.3 / size[0], aspect=20, pad=0.02
    )
    bar.ax.tick_params(labelsize=8)
    if quantity != "value":
        bar.set_label(labels.shown(quantity), fontsize=9, parse_math=False)
    return float(size[0])


def _bars(
    figure: Any,
    axes: Any,
    named: NamedArray,
    values: NDArray[np.float64],
    signed: bool,
    labels: "_Labels",
    quantity: str,
) -> float:
    """Bars: to the right under each other where the entries have names, else upwards."""
    (axis,) = named.axes
    n, finite = len(values), np.where(np.isfinite(values), values, 0.0)
    colours = [POSITIVE if signed and value > 0 else NEGATIVE for value in finite]
    length = max(1.2, labels.length(axis, n, min(0.22, SCREEN / n)))
    if axis in named.labels:
        size = 5 + labels.inches(axis, length / n), length + 1.1
        axes.barh(np.arange(n), finite, color=colours, height=0.8)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_ylim(n - 0.5, -0.5)
        labels.tick(axes.yaxis, axis, n, length)
        side = axes.xaxis
    else:
        size = max(4.0, length + 1.0), 3.6
        axes.bar(np.arange(n), finite, color=colours, width=0.8)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlim(-0.5, n - 0.5)
        labels.tick(axes.xaxis, axis, n, length)
        side = axes.yaxis
    side.set_label_text(quantity, parse_math=False)
    if np.abs(finite).max() >= 1e4:  # 20 M, and not 0.2 with 1e8 at the end of the axis
        side.set_major_formatter(_matplotlib("ticker").EngFormatter())
    figure.set_size_inches(*size)
    axes.spines[["top", "right"]].set_visible(False)
    return float(size[0])


class _Labels:
    """The names of the entries of each axis, such that a font can show them."""

    def __init__(self, named: NamedArray, families: Sequence[str]) -> None:
        manager = _matplotlib("font_manager")
        self._fonts = [manager.get_font(manager.findfont(family)) for family in families]
        self._labels = {axis: [self.cut(name) for name in names] for axis, names in named.labels.items()}

    def shown(self, text: str) -> str:
        """Return a text with escapes for what cannot be shown."""
        return "".join(c if self._has(c) else c.encode("unicode_escape").decode() for c in text)

    def _has(self, character: str) -> bool:
        return character.isprintable() and any(f.get_char_index(ord(character)) for f in self._fonts)

    def cut(self, label: str, longest: int = LONGEST) -> str:
        """Return a label with its outer spaces visible; cut if it is long."""
        begins = len(label) - len(label.lstrip(" "))
        ends = len(label) - begins - len(label.strip(" "))
        text = "␣" * begins + self.shown(label.strip(" ")) + "␣" * ends
        return text if len(text) <= longest else text[: longest - 1] + "…"

    def length(self, axis: str, n: int, side: float) -> float:
        """Inches of an axis of n entries, each `side` long, or so long that labels find room."""
        wanted = 0.16 * n if axis in self._labels else 0.0
        return max(side * n, wanted if wanted <= SHEET else 0.0)

    def points(self, spacing: float) -> float:
        """Return the size of labels that are so many inches apart."""
        return min(11.0, max(8.0, 32 * spacing))

    def inches(self, axis: str, spacing: float) -> float:
        """Room for the longest label."""
        each = 0.09 * self.points(spacing) / 8
        return max((each * len(label) for label in self._labels.get(axis, [])), default=0.3)

    def tick(self, side: Any, axis: str, n: int, inches: float) -> None:
        """Name an axis of the picture and its entries: each, or every 2nd, 5th, 10th ... if they are many."""
        labels, size = self._labels.get(axis), self.points(inches / n)
        upright = side.axis_name == "x" and labels is not None and max(map(len, labels)) > 2
        digits = max(map(len, labels)) if labels else len(str(n - 1))
        # inches from one to the next
        least = 0.15 if upright or side.axis_name == "y" else 0.06 + 0.01 * size * digits
        every = next(e for d in range(9) for e in (10**d, 2 * 10**d, 5 * 10**d) if e * inches / n >= least)
        shown = range(0, n, every)
        texts = [str(i) if labels is None else labels[i] for i in shown]
        side.set_ticks(
            list(shown), texts, fontsize=size, rotation=90 if upright else 0, parse_math=False, minor=False
        )
        side.set_label_text(axis, fontsize=10, parse_math=False)


def _installed(families: Sequence[str]) -> list[str]:
    names = set(_matplotlib("font_manager").fontManager.get_font_names())
    return [family for family in families if family in names]


def _matplotlib(part: str = "") -> Any:
    """matplotlib or a module of it, imported when a picture is drawn."""
    try:
        return importlib.import_module(f"matplotlib.{part}".rstrip("."))
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'gpt2np[plot]'") from None
