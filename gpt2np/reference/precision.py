"""The same model in another precision, and arrays rounded to the half ones."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from gpt2np.architectures.gpt2.weights import GPT2, Block
from gpt2np.model import Model
from gpt2np.ops import Array

# The spacing of numbers just above 1.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


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


def in_precision(model: Model, dtype: str, stored: str | None = None) -> Model:
    """The model computing in another precision; blocks are converted when they are used, to save memory.

    `stored` rounds the parameters to a half precision first.
    """
    if model.dtype == np.dtype(dtype) and stored is None:
        return model
    other = copy.copy(model)
    vars(other).pop("_decoding_parameters", None)  # they are of the other precision
    other.dtype = np.dtype(dtype)
    other.parameters = _parameters(model.parameters, other.dtype, stored)
    return other


def _parameters(p: GPT2, dtype: np.dtype[Any], stored: str | None) -> GPT2:
    wte = converted(p.wte, dtype, stored)
    lm_head = wte if p.lm_head is p.wte else converted(p.lm_head, dtype, stored)
    wpe, ln_f = (converted(x, dtype, stored) for x in (p.wpe, p.ln_f))
    return GPT2(wte, wpe, Blocks(p.h, dtype, stored), ln_f, lm_head)


def converted(parameters: Any, dtype: np.dtype[Any], stored: str | None = None) -> Any:
    """Arrays, or a tuple of arrays and numbers, in another precision."""
    if isinstance(parameters, np.ndarray):
        return rounded(parameters, stored).astype(dtype) if stored else parameters.astype(dtype, copy=False)
    if isinstance(parameters, tuple):
        return type(parameters)(*(converted(part, dtype, stored) for part in parameters))
    return parameters


class Blocks(Sequence[Block]):
    """The blocks of a model, each converted when it is asked for; the last one is remembered."""

    def __init__(self, blocks: Sequence[Block], dtype: np.dtype[Any], stored: str | None) -> None:
        self._blocks, self._dtype, self._stored = blocks, dtype, stored
        self._last: tuple[int, Block] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> Block: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Block]: ...

    def __getitem__(self, index: int | slice) -> Block | Sequence[Block]:
        if isinstance(index, slice):
            return _Range(self, range(*index.indices(len(self))))
        if self._last is None or self._last[0] != index:
            self._last = index, converted(self._blocks[index], self._dtype, self._stored)
        return self._last[1]


class _Range(Sequence[Block]):
    """Some of the blocks, in order."""

    def __init__(self, blocks: Blocks, indices: range) -> None:
        self._blocks, self._indices = blocks, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Range(self._blocks, self._indices[index])
        return self._blocks[self._indices[index]]

    def __iter__(self) -> Iterator[Block]:
        return (self._blocks[i] for i in self._indices)
