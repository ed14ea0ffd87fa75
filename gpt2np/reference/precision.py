"""The same model in another precision, and arrays rounded to the half ones."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.ops.narrow_weights import widened
from gpt2np.ops.readable_parameters import as_held

# The spacing of numbers just above 1.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_VARIED = 32  # different values, of which it is no chance that all have so few digits


def rounded(x: Array, precision: str) -> Array:
    """The values nearest to x that `float16` or `bfloat16` can hold, in the precision of x."""
    if precision == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(x.dtype)
    if precision == "bfloat16":  # the upper half of a float32, to the nearest, ties to even
        bits = x.astype(np.float32).view(np.uint32)
        up = ((bits >> 16) & 1) + 0x7FFF
        return np.asarray(((bits + up) & np.uint32(0xFFFF0000)).view(np.float32).astype(x.dtype))
    return x


def half_of(x: Array) -> str:
    """The half precision that can hold all values of a float32 array, where many are different; or ""."""
    if x.dtype != np.float32:
        return ""
    told = x[np.isfinite(x) & (x != 0)]
    for precision in ("bfloat16", "float16"):
        if all(np.array_equal(rounded(part, precision), part) for part in (told[:_VARIED], told)):
            return precision if len(np.unique(told)) >= _VARIED else ""
    return ""


def in_precision(model: Model, dtype: str, stored: str | None = None) -> Model:
    """The model computing in another precision; blocks are converted when they are used, to save memory.

    Its parameters are a NamedTuple of arrays and tuples of them; the field `h` is the sequence of blocks. An
    array that stands in it twice, as a tied table does, is converted once. `stored` rounds the parameters to
    a half precision first.
    """
    if model.dtype == np.dtype(dtype) and stored is None:
        return model
    other = copy.copy(model)
    vars(other).pop("_decoding_parameters", None)  # they are of the other precision
    other.dtype = np.dtype(dtype)
    other._parameters = _parameters(as_held(model.parameters), other.dtype, stored)
    return other


def _parameters(p: Any, dtype: np.dtype[Any], stored: str | None) -> Any:
    by_id: dict[int, Any] = {}
    for name, part in zip(p._fields, p, strict=True):
        if id(part) not in by_id:
            by_id[id(part)] = Blocks(part, dtype, stored) if name == "h" else converted(part, dtype, stored)
    return type(p)(*(by_id[id(part)] for part in p))


def converted(parameters: Any, dtype: np.dtype[Any], stored: str | None = None) -> Any:
    """Arrays, or a tuple of arrays and numbers, in another precision."""
    if isinstance(parameters, np.ndarray):
        parameters = widened(parameters)
        return rounded(parameters, stored).astype(dtype) if stored else parameters.astype(dtype, copy=False)
    if isinstance(parameters, tuple):
        return type(parameters)(*(converted(part, dtype, stored) for part in parameters))
    return parameters


class Blocks(Sequence[Any]):
    """The blocks of a model, each converted when it is asked for; the last one is remembered."""

    def __init__(self, blocks: Sequence[Any], dtype: np.dtype[Any], stored: str | None) -> None:
        self._blocks, self._dtype, self._stored = blocks, dtype, stored
        self._last: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Range(self, range(*index.indices(len(self))))
        if self._last is None or self._last[0] != index:
            self._last = index, converted(self._blocks[index], self._dtype, self._stored)
        return self._last[1]


class _Range(Sequence[Any]):
    """Some of the blocks, in order."""

    def __init__(self, blocks: Blocks, indices: range) -> None:
        self._blocks, self._indices = blocks, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Range(self._blocks, self._indices[index])
        return self._blocks[self._indices[index]]

    def __iter__(self) -> Iterator[Any]:
        return (self._blocks[i] for i in self._indices)
