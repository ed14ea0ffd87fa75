"""Matrix products, with a bias and without."""

from typing import NamedTuple

import numpy as np

from gpt2np.ops.blocks import Array, product_pieces
from gpt2np.ops.narrow_weights import is_narrow, multiply_narrow
from gpt2np.tables import by_shape
from gpt2np.threads import FEW_ROWS, each

LARGE = 1 << 19  # numbers of a weight that has to be read from memory
INNER = 64  # of the inner axis: products of so many are small enough that BLAS does not copy


class Linear(NamedTuple):
    """A weight [n_in, n_out] as HF's Conv1D stores it, and a bias [n_out]."""

    weight: Array
    bias: Array

    def __repr__(self) -> str:
        return by_shape(self)


def linear(x: Array, p: Linear, *, out: Array) -> None:
    """`x @ weight + bias`: [pos, n_in] -> [pos, n_out]."""

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        y = out[rows, columns]
        multiply(x[rows], p.weight[:, columns], out=y)
        y += p.bias[columns]

    each(some, product_pieces(out, len(p.weight)))


def product(x: Array, weight: Array, *, out: Array) -> None:
    """`x @ weight`: [pos, n_in], [n_in, n_out] -> [pos, n_out]."""

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        multiply(x[rows], weight[:, columns], out=out[rows, columns])

    each(some, product_pieces(out, len(weight)))


def project(x: Array, weight: Array, *, out: Array) -> None:
    """`x @ weight`, its columns cut into heads: [pos, n_in], [n_in, head*d_head] -> [pos, head, d_head]."""
    product(x, weight, out=out.reshape(len(out), weight.shape[1]))


def multiply(x: Array, weight: Array, out: Array) -> None:
    """`x @ weight`; of a few rows by blocks of the inner axis, which BLAS multiplies without copying them.

    With a weight that stays in cache, the rows are multiplied one by one (gemv), which is as fast.
    """
    n_in, n_out = weight.shape
    if is_narrow(weight):
        multiply_narrow(x, weight, out)
    elif 1 < len(x) <= FEW_ROWS and weight.size >= LARGE:
        _multiply_few(x, weight, out)
    elif 1 < len(x) <= 5 and n_out > n_in:
        np.matmul(x[:, None], weight, out=out[:, None])
    else:
        np.matmul(x, weight, out=out)


def _multiply_few(x: Array, weight: Array, out: Array) -> None:
    """A batch of small products, [block, row, 64] @ [block, 64, n_out], and their sum.

    For a large one, BLAS first copies the whole weight into an order that suits it, which takes longer than
    a few rows take to multiply.
    """
    n = len(weight) // INNER * INNER
    blocks = x[:, :n].reshape(len(x), -1, INNER).transpose(1, 0, 2)
    np.add.reduce(np.matmul(blocks, weight[:n].reshape(-1, INNER, weight.shape[1])), axis=0, out=out)
    if n < len(weight):
        out += np.matmul(x[:, n:], weight[n:])
