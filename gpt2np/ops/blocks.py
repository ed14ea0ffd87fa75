"""How large results are computed in pieces: blocks that stay in cache, and shares of threads."""

import functools
from typing import Any

from numpy.typing import NDArray

from gpt2np.threads import shares

Array = NDArray[Any]
# Elementwise operations run over blocks of this many bytes, so that their temporaries stay in cache.
BLOCK_BYTES = 1 << 20
SHARE_BYTES = 1 << 17  # what is smaller takes less time than handing half of it over
_SMALL_PRODUCT = 1 << 21  # multiplications that take less time than handing half of them over
_MANY_ROWS = 512


def row_blocks(out: Array) -> list[Any]:
    """Slices of the first axis, each at most a block of memory, and as many for each thread."""
    if out.nbytes <= SHARE_BYTES or out.ndim < 2:
        return [...]
    n = shares()
    n_blocks = -(-out.nbytes // (n * BLOCK_BYTES)) * n
    if n_blocks == 1:
        return [...]
    n_rows = -(-len(out) // n_blocks)
    return [slice(start, start + n_rows) for start in range(0, len(out), n_rows)]


def product_pieces(out: Array, n_in: int) -> list[tuple[slice, slice]]:
    """Rows and columns of a product over n_in: a piece for each thread, where that is worth their while.

    Pieces of few rows would spend their time on reading the weights, so that few rows are cut by columns.
    """
    n = shares()
    if n == 1 or out.size * n_in <= _SMALL_PRODUCT:
        return WHOLE
    return _pieces(*out.shape, n)


@functools.lru_cache(64)
def _pieces(n_rows: int, n_columns: int, n: int) -> list[tuple[slice, slice]]:
    if n_columns <= 8 * n_rows >= 8 * _MANY_ROWS:
        return [(rows, slice(None)) for rows in _cut(n_rows, n)]
    return [(slice(None), columns) for columns in _cut(n_columns, n)]


def _cut(length: int, n: int) -> list[slice]:
    """An axis in n slices that begin at multiples of 16: as float32 a line of cache."""
    ends = [length * i // n // 16 * 16 for i in range(n)] + [length]
    return [slice(*ends[i : i + 2]) for i in range(n)]


WHOLE = [(slice(None), slice(None))]
