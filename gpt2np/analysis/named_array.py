"""What every analysis returns: an array with named axes and labelled entries, which prints itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpt2np.errors import InputError
from gpt2np.html_tables import MOST_CELLS, MOST_COLUMNS, caption, heat_table, largest, text_block
from gpt2np.ops import Array
from gpt2np.tables import cell_width, first_lines, fitted, number, quoted, screen_width, table, wrapped

MOST_ROWS = 60
TOKENS = ("token", "vocab")  # axes whose entries are tokens
FEW, FEW_POSITIONS = 8, 16  # columns that are shown in blocks below each other where they do not fit
POSITIONS = ("pos", "query", "key")  # axes of the tokens of a text


@dataclass(frozen=True)
class NamedArray:
    """`array` with the name of each axis and, where its entries have names, the labels of an axis.

    `str()` is a table that fits the terminal, at most 80 columns wide: one axis down, or two axes as a grid;
    of a larger array or a wider grid its largest entries by magnitude. A notebook shows coloured cells.

    Example:
        >>> print(NamedArray(np.array([0.5, -2.0]), ("head",), title="score of each head"))
        score of each head
          head  value
             0    0.5
             1     -2
    """

    array: Array
    axes: tuple[str, ...]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        if self.array.ndim != len(self.axes):
            raise InputError(f"{self.array.ndim} axes, but names for {len(self.axes)}: {self.axes}")
        for axis, labels in self.labels.items():
            n = self.array.shape[self.axes.index(axis)]
            if len(labels) != n:
                raise InputError(f"axis {axis} has {n} entries, but {len(labels)} labels")

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.array.shape

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """The array alone, for NumPy's functions."""
        return np.array(self.array, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        """`array[index]`: numbers without the names of axes and entries."""
        return self.array[index]

    def label(self, axis: str, index: int) -> str:
        """Return the name of an entry: its label, or its number."""
        labels = self.labels.get(axis)
        return str(index) if labels is None else labels[index]

    def largest(self, k: int = 10) -> list[tuple[tuple[str, ...], float]]:
        """Return the k entries of the largest magnitude: (their names, value); NaN counts as nothing."""
        flat = np.nan_to_num(np.abs(np.asarray(self.array, np.float64)), nan=-1.0).ravel()
        found = []
        for at in np.argsort(-flat, kind="stable")[:k]:
            index = np.unravel_index(at, self.array.shape)
            names = tuple(self.label(axis, int(i)) for axis, i in zip(self.axes, index, strict=True))
            found.append((names, float(self.array[index])))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it for `tables.strict_json`."""
        labels = {axis: list(labels) for axis, labels in self.labels.items()}
        return {"title": self.title, "axes": self.axes, "labels": labels, "values": self.array.tolist()}

    def __repr__(self) -> str:
        return first_lines(str(self))

    def _repr_html_(self) -> str:
        """The entries as a table with coloured cells; of an array too large for that, the largest ones."""
        array, axes = np.asarray(self.array, np.float64), self.axes
        names = [self._names(axis) for axis in axes]
        corner = " \\ ".join(axes[-2:])
        if array.ndim == 2:
            return heat_table(array, names[0], names[1], self.title, corner)
        if array.ndim == 1:
            return heat_table(array[:, None], names[0], ["value"], self.title, axes[0])
        if array.ndim == 3 and array.size <= MOST_CELLS and array.shape[2] <= MOST_COLUMNS:
            grids = [
                heat_table(part, names[1], names[2], f"{axes[0]} {name}", corner, most=largest(array))
                for part, name in zip(array, names[0], strict=True)
            ]
            return caption(self.title) + "".join(grids)
        return text_block(str(self))

    def _names(self, axis: str) -> list[str]:
        """The name of each entry along an axis."""
        return [self.label(axis, i) for i in range(self.array.shape[self.axes.index(axis)])]

    def _has_bars(self, axis: str) -> bool:
        """Whether the names along an axis stand between bars: those of tokens, and any that need them."""
        return axis in self.labels and (axis in TOKENS or any(map(_needs_bars, self.labels[axis])))

    def _shown_names(self, axis: str) -> list[str]:
        """The name of each entry along an axis, for a terminal."""
        bars = self._has_bars(axis)
        return [_shown(name, bars) for name in self._names(axis)]

    def __str__(self) -> str:
        body = self._grid() if self.array.ndim == 2 else None
        if body is None and self.array.ndim == 1 and len(self.array) <= MOST_ROWS:
            body = self._column()
        if body is None:
            n = min(10, self.array.size)
            bars = [self._has_bars(axis) for axis in self.axes]
            rows = [
                [*map(_shown, names, bars), number(value)]  # a token in each row in the same way
                for names, value in self.largest(n)
            ]
            body = fitted([[*self.axes, "value"], *rows], "<" * len(self.axes) + ">")
            body = f"  the {n} largest of {' x '.join(map(str, self.array.shape))}\n{body}"
        return f"{wrapped(self.title)}\n{body}" if self.title else body

    def _column(self) -> str:
        (axis,) = self.axes
        labels = self._shown_names(axis)
        rows = [[label, number(value)] for label, value in zip(labels, self.array.tolist(), strict=True)]
        return table([[axis, "value"], *rows], ("<" if axis in self.labels else ">") + ">")

    def _grid(self) -> str | None:
        """Rows and columns, if that fits; positions across are then numbers. Few columns stand in blocks."""
        down, across = self.axes
        n_rows, n_columns = self.array.shape
        if n_rows > MOST_ROWS or n_columns > 24:
            return None
        rows = [
            [label, *(number(value) for value in row)]
            for label, row in zip(self._shown_names(down), self.array.tolist(), strict=True)
        ]
        labels = self._shown_names(across)
        heads = [labels, [label.split(" ")[0] for label in labels]] if across in POSITIONS else [labels]
        align = "<" + ">" * n_columns
        for labels in heads:
            head = [f"{down}\\{across}", *labels]
            text = table([head, *rows], align)
            if max(map(cell_width, text.splitlines())) <= screen_width():
                return text
        few = FEW_POSITIONS if across in POSITIONS else FEW
        return fitted([head, *rows], align) if n_columns <= few else None


def _needs_bars(label: str) -> bool:
    """Whether a name is empty, or has spaces at its ends or control characters."""
    return not label.isprintable() or label != label.strip() or not label


def _shown(label: str, bars: bool) -> str:
    """A name for a terminal."""
    return quoted(label) if bars else label
