"""Into the residual stream and out of it: rows of a table, sums, and the unembedding."""

import numpy as np

from gpt2np.ops.blocks import Array, product_pieces, row_blocks
from gpt2np.ops.caps import bend
from gpt2np.ops.few_rows import LARGE_TABLE, are_few, unembed_few
from gpt2np.ops.narrow_weights import is_narrow, multiply_narrow, widen
from gpt2np.ops.products import is_one_row
from gpt2np.threads import each


def lookup(indices: Array, table: Array, *, out: Array) -> None:
    """Row `indices[i]` of the table: [pos] and [n, n_embd] -> [pos, n_embd]."""
    if is_narrow(table):
        widen(np.take(table, indices, axis=0, mode="clip"), out)
    else:
        np.take(table, indices, axis=0, out=out, mode="clip")  # indices are checked before the run


def add(a: Array, b: Array, *, out: Array) -> None:
    """The sum; how every part of the model writes to the residual stream."""
    if len(out) == 1:
        np.add(a, b, out=out)
    else:
        each(lambda rows: np.add(a[rows], b[rows], out=out[rows]), row_blocks(out))


def scaled(x: Array, factor: float, *, out: Array) -> None:
    """Every number times a factor."""
    each(lambda rows: np.multiply(x[rows], factor, out=out[rows]), row_blocks(out))


def unembedding(x: Array, table: Array, *, out: Array) -> None:
    """Dot product of each row with every row of the table: [pos, n_embd], [vocab, n_embd] -> [pos, vocab]."""
    if is_one_row(x, table):
        np.dot(x[0], table.T, out=out[0])
        return

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        a, b, y = x[rows], table[columns], out[rows, columns]
        if is_narrow(b):
            multiply_narrow(a, b.T, y)
        elif are_few(a, b, LARGE_TABLE):
            unembed_few(a, b, y)
        elif 1 < len(a) <= 8:  # one by one, as in `products.multiply`
            np.matmul(a[:, None], b.T, out=y[:, None])
        else:
            np.matmul(a, b.T, out=y)

    each(some, product_pieces(out, x.shape[1]))


def capped_unembedding(x: Array, table: Array, cap: float | None, *, out: Array) -> None:
    """`unembedding`, bent so that no logit is larger than the cap; `None` is no cap."""
    unembedding(x, table, out=out)
    if cap is not None:
        each(lambda rows: bend(out[rows], cap), row_blocks(out))
