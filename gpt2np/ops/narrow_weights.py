"""Weights of half precision, kept as they are stored: a block of them at a time becomes float32 on the way.

NumPy has no bfloat16. An array of it has elements of two bytes without a type, `BFLOAT16`: it can be cut,
turned and looked up like any other, and NumPy refuses to compute with it, so that nobody takes bits for
numbers. Only `multiply`, `lookup` and `unembedding` know better.
"""

import sys
import threading
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from gpt2np.ops.blocks import Array

BFLOAT16 = np.dtype("V2")
NARROW = (BFLOAT16, np.dtype(np.float16))

_UPPER = slice(1, None, 2) if sys.byteorder == "little" else slice(0, None, 2)  # halves of float32
_FEW_ROWS = 8  # up to here the weights are read from memory once and the product is as good as free...
_FEW_BYTES, _MANY_BYTES = 1 << 19, 1 << 22  # ...in small blocks; larger ones suit BLAS

_own = threading.local()  # .bfloat16 and .float16: memory that a thread widens into, again and again


def is_narrow(x: Any) -> TypeGuard[Array]:
    """Whether this is an array of weights that products widen."""
    return isinstance(x, np.ndarray) and x.itemsize == 2 and x.dtype in NARROW


def name_of_dtype(dtype: np.dtype[Any]) -> str:
    """What the type of a weight is called."""
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


def widened(x: Array) -> Array:
    """A narrow array as float32, read-only and in memory of its own; any other as it is."""
    if not is_narrow(x):
        return x
    out = np.empty_like(x, np.float32)  # in the order of x: a transposed one stays that
    widen(x, out)
    out.flags.writeable = False
    return out


def widen(x: Array, out: Array) -> None:
    """Write a narrow array as float32; exact, a bfloat16 being the upper half of a float32."""
    if x.dtype == BFLOAT16:
        np.left_shift(x.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, x)


def multiply_narrow(x: Array, weight: Array, out: Array) -> None:
    """`x @ weight`, blocks of the weight being widened as they lie in memory: [n, n_in] -> [n, n_out]."""
    if weight.strides[0] < weight.strides[1]:  # a view of [n_out, n_in]: some columns of the result at a time
        stored = weight.T
        for part in _parts(stored, len(x)):
            np.matmul(x, _in_scratch(stored[part]).T, out=out[:, part])
        return
    first, *others = _parts(weight, len(x))
    np.matmul(x[:, first], _in_scratch(weight[first]), out=out)
    for part in others:
        out += np.matmul(x[:, part], _in_scratch(weight[part]))


def float_blocks(table: Array) -> Iterator[Array]:
    """The rows of a matrix as floats: of a narrow one some at a time, good until the next are asked for."""
    if not is_narrow(table):
        yield table
        return
    for part in _parts(table, len(table)):
        yield _in_scratch(table[part])


def _parts(stored: Array, n_rows: int) -> list[slice]:
    """Rows of a stored matrix, in blocks that are best for a product with so many rows."""
    n_bytes = _FEW_BYTES if n_rows <= _FEW_ROWS else _MANY_BYTES
    n = max(16, n_bytes // (4 * max(1, stored.shape[1])) // 16 * 16)
    return [slice(start, start + n) for start in range(0, len(stored), n)] or [slice(0, 0)]


def _in_scratch(block: Array) -> Array:
    """A block as float32, until this thread widens the next one."""
    kind = name_of_dtype(block.dtype)
    memory = getattr(_own, kind, None)
    if memory is None or memory.size < block.size:
        memory = np.zeros(max(block.size, _FEW_BYTES // 4), np.float32)
        setattr(_own, kind, memory)
    wide: Array = memory[: block.size].reshape(block.shape)
    if block.dtype == BFLOAT16:  # the lower halves are 0 and stay so: this is twice as fast as shifting
        wide.view(np.uint16)[:, _UPPER] = block.view(np.uint16)
    else:
        np.copyto(wide, block)
    return wide
