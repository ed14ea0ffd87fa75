"""One array over all shards of a capture, [rows, ...], of which only what is asked for is read."""

import operator
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from gpt2np.capture.shard_reading import Column, Shards
from gpt2np.ops import Array

Index = SupportsIndex | slice | EllipsisType | Sequence[int] | Array | None  # of one axis


class RowArray:
    """The rows of a site, token after token, mapped from the shards: `np.asarray` reads them all.

    It is indexed as a NumPy array. A slice inside one shard is a view of the file, read-only; what spans
    shards is a copy. `shards()` goes through all of it without one.

    Example:
        >>> rows = captured["h.3.resid_post"]
        >>> rows.shape, rows[1000:1010].shape, rows[[5, 3, -1]].shape
        ((81234, 192), (10, 192), (3, 192))
    """

    __array_priority__ = 0  # in an expression with an array, NumPy's rules

    def __init__(self, shards: Shards, column: Column) -> None:
        self._shards, self.column = shards, column
        self.name = column.name
        self.shape = (shards.n_rows, *column.row)
        self.dtype = column.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of numbers."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        shards = f"{len(self._shards)} shard{'s' * (len(self._shards) != 1)}"
        return f"<RowArray {self.name} {list(self.shape)} {self.dtype} in {shards}>"

    def __iter__(self) -> Iterator[Array]:
        for part in self.shards():
            yield from part

    def shards(self) -> Iterator[Array]:
        """Yield the rows of each shard in turn: read-only views of the files."""
        return (self.column.of(shard, slice(None)) for shard in self._shards)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False and (len(self._shards) != 1 or dtype not in (None, self.dtype)):
            raise ValueError(f"{self.name}: one array of {len(self._shards)} shards is a copy")
        whole = self._between(0, len(self))
        return np.array(whole, dtype, copy=True) if copy else np.asarray(whole, dtype)

    def __getitem__(self, key: Index | tuple[Index, ...]) -> Array:
        """What NumPy gives for this key of the whole array.

        Raises:
            IndexError: as NumPy.
            TraceError: a shard that it needs is missing or damaged.
        """
        rows, rest = self._split(key)
        if isinstance(rows, slice):
            return self._sliced(rows, rest)
        if not isinstance(rows, np.ndarray):
            at = self._one(rows)
            return np.asarray(self._between(at, at + 1)[(0, *rest)])
        taken = self._taken(rows.reshape(-1))
        if not rest:
            return taken.reshape(*rows.shape, *self.shape[1:])
        return np.asarray(taken[(np.arange(rows.size).reshape(rows.shape), *rest)])

    def _split(self, key: Any) -> tuple[Any, tuple[Any, ...]]:
        """The index of rows (a slice, a number, or an array of whole numbers) and those of the other axes."""
        keys = key if isinstance(key, tuple) else (key,)
        dots = [i for i, item in enumerate(keys) if item is Ellipsis]
        if len(dots) > 1:
            raise IndexError("an index can only have a single ellipsis ('...')")
        used = sum(_axes(item) for item in keys)
        if used > self.ndim:
            raise IndexError(f"too many indices: {self.name} has {self.ndim} axes, but {used} were indexed")
        if dots:
            fill = (slice(None),) * (self.ndim - used)
            keys = (*keys[: dots[0]], *fill, *keys[dots[0] + 1 :])
        if not keys:
            return slice(None), ()
        rows = keys[0]
        if rows is None:
            raise IndexError(f"{self.name}: a new axis in front of the rows needs np.asarray first")
        number = hasattr(rows, "__index__") and not isinstance(rows, bool | np.ndarray)
        if number or isinstance(rows, slice):
            return rows, keys[1:]
        return self._row_numbers(rows), keys[1:]

    def _row_numbers(self, given: Any) -> Array:
        """A list or array of rows, or a mask of them, as numbers of rows."""
        rows = np.asarray(given)
        if rows.size == 0 and not isinstance(given, np.ndarray):
            rows = rows.astype(np.intp)
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"{self.name}: a mask is of all {len(self)} rows, not of {list(rows.shape)}")
            return np.flatnonzero(rows)
        if rows.dtype.kind not in "iu":
            raise IndexError("only integers, slices, and integer or boolean arrays are valid indices")
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            self._one(int(rows[outside][0]))
        return np.where(rows < 0, rows + len(self), rows).astype(np.intp)

    def _one(self, row: Any) -> int:
        n, at = len(self), int(operator.index(row))
        if not -n <= at < n:
            raise IndexError(f"index {at} is out of bounds for axis 0 with size {n}")
        return at % n

    def _sliced(self, rows: slice, rest: tuple[Any, ...]) -> Array:
        start, stop, step = rows.indices(len(self))
        numbers = range(start, stop, step)
        if step != 1 and len(numbers) > 0:
            low, high = min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1])
            if abs(step) < 8:  # reading what lies between is faster
                block = self._between(low, high + 1)[:: abs(step)]
                block = block if step > 0 else block[::-1]
            else:
                block = self._taken(np.arange(start, stop, step))
            return np.asarray(block[(slice(None), *rest)])
        stop = max(start, stop)
        if all(isinstance(item, slice | int | np.integer) for item in rest):  # read no more than is kept
            return self._between(start, stop, rest)
        return np.asarray(self._between(start, stop)[(slice(None), *rest)])

    def _between(self, start: int, stop: int, rest: tuple[Any, ...] = ()) -> Array:
        """The rows from `start` to `stop`, indexed by `rest` in every shard."""
        starts = self._shards.starts
        first = max(int(np.searchsorted(starts, start, side="right")) - 1, 0)
        last = int(np.searchsorted(starts, stop, side="left"))
        key = (slice(None), *rest)
        if last - first == 1:
            begin = int(starts[first])
            part = self.column.of(self._shards.open(first), slice(start - begin, stop - begin))
            return np.asarray(part[key])
        shape = np.empty((0, *self.shape[1:]), self.dtype)[key].shape[1:]
        found = np.empty((max(stop - start, 0), *shape), self.dtype)
        for i in range(first, last):  # no view of a shard is held, which would hold its file open
            begin, end = max(int(starts[i]), start), min(int(starts[i + 1]), stop)
            part = self.column.of(self._shards.open(i), slice(begin - starts[i], end - starts[i]))
            found[begin - start : end - start] = part[key]
        return found

    def _taken(self, rows: Array) -> Array:
        """These rows, in this order; the files are read from front to back."""
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self._shards.starts)
        for i in range(len(self._shards)):
            mine = order[ends[i] : ends[i + 1]]
            if len(mine):
                there = rows[mine] - self._shards.starts[i]
                span = slice(there[0], there[-1] + 1)
                taken[mine] = self.column.of(self._shards.open(i), span)[there - there[0]]
        return taken


def _axes(item: Any) -> int:
    """How many axes an item of an index takes up."""
    if item is None or item is Ellipsis:
        return 0
    mask = np.asarray(item) if isinstance(item, list | np.ndarray) else None
    return mask.ndim if mask is not None and mask.dtype == bool else 1
