"""What every analysis returns: an array whose axes and entries have names, and that prints itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.errors import InputError
from gpt2np.ops import Array
from gpt2np.tables import WIDTH, cell_width, number, quoted, table

MOST_ROWS = 60


@dataclass(frozen=True)
class NamedArray:
    """`array` with the name of each axis and, where its entries have names, the labels of an axis.

    `str()` is a table of at most 80 columns: one axis down, or two axes as a grid; of a larger array or a
    wider grid its largest entries by magnitude.

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

    def label(self, axis: str, index: int) -> str:
        """The name of an entry: its label, or its number."""
        labels = self.labels.get(axis)
        return str(index) if labels is None else labels[index]

    def largest(self, k: int = 10) -> list[tuple[tuple[str, ...], float]]:
        """The k entries of the largest magnitude: (their names, value); NaN counts as nothing."""
        flat = np.nan_to_num(np.abs(np.asarray(self.array, np.float64)), nan=-1.0).ravel()
        found = []
        for at in np.argsort(-flat, kind="stable")[:k]:
            index = np.unravel_index(at, self.array.shape)
            names = tuple(self.label(axis, int(i)) for axis, i in zip(self.axes, index, strict=True))
            found.append((names, float(self.array[index])))
        return found

    def to_json(self) -> dict[str, Any]:
        """For `tables.strict_json`."""
        labels = {axis: list(labels) for axis, labels in self.labels.items()}
        return {"title": self.title, "axes": self.axes, "labels": labels, "values": self.array.tolist()}

    def __str__(self) -> str:
        body = self._grid() if self.array.ndim == 2 else None
        if body is None and self.array.ndim == 1 and len(self.array) <= MOST_ROWS:
            body = self._column()
        if body is None:
            n = min(10, self.array.size)
            rows = [[*(_shown(name) for name in names), number(value)] for names, value in self.largest(n)]
            body = table([[*self.axes, "value"], *rows], "<" * len(self.axes) + ">")
            body = f"  the {n} largest of {' x '.join(map(str, self.array.shape))}\n{body}"
        return f"{self.title}\n{body}" if self.title else body

    def _column(self) -> str:
        (axis,) = self.axes
        rows = [[_shown(self.label(axis, i)), number(value)] for i, value in enumerate(self.array.tolist())]
        return table([[axis, "value"], *rows], ("<" if axis in self.labels else ">") + ">")

    def _grid(self) -> str | None:
        """Rows and columns, if that fits."""
        down, across = self.axes
        n_rows, n_columns = self.array.shape
        if n_rows > MOST_ROWS or n_columns > 24:
            return None
        head = [f"{down}\\{across}", *(_shown(self.label(across, j)) for j in range(n_columns))]
        rows = [
            [_shown(self.label(down, i)), *(number(value) for value in row)]
            for i, row in enumerate(self.array.tolist())
        ]
        text = table([head, *rows], "<" + ">" * n_columns)
        return text if max(map(cell_width, text.splitlines())) <= WIDTH else None


def _shown(label: str) -> str:
    """A label for a terminal; one that is a token with spaces or control characters stands between bars."""
    return label if label.isprintable() and label == label.strip() and label else quoted(label)
