"""Matrix products, with a bias and without."""

from typing import NamedTuple

import numpy as np

from gpt2np.ops.blocks import WHOLE, Array, product_pieces
from gpt2np.ops.few_rows import LARGE, are_few, multiply_few
from gpt2np.ops.narrow_weights import is_narrow, multiply_narrow
from gpt2np.tables import by_shape
from gpt2np.threads import each


class Linear(NamedTuple):
    """A weight [n_in, n_out] as HF's Conv1D stores it, and a bias [n_out]."""

    weight: Array
    bias: Array

    def __repr__(self) -> str:
        return by_shape(self)


def linear(x: Array, p: Linear, *, out: Array) -> None:
    """`x @ weight + bias`: [pos, n_in] -> [pos, n_out]."""
    if is_one_row(x, p.weight):
        y = out[0]
        np.dot(x[0], p.weight, out=y)
        np.add(y, p.bias, out=y)
        return
    pieces = product_pieces(out, len(p.weight))
    if pieces is WHOLE:
        multiply(x, p.weight, out)
        np.add(out, p.bias, out=out)
        return

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        y = out[rows, columns]
        multiply(x[rows], p.weight[:, columns], out=y)
        y += p.bias[columns]

    each(some, pieces)


def product(x: Array, weight: Array, *, out: Array) -> None:
    """`x @ weight`: [pos, n_in], [n_in, n_out] -> [pos, n_out]."""
    if is_one_row(x, weight):
        np.dot(x[0], weight, out=out[0])
        return

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        multiply(x[rows], weight[:, columns], out=out[rows, columns])

    each(some, product_pieces(out, len(weight)))


def project(x: Array, weight: Array, *, out: Array) -> None:
    """`x @ weight`, its columns cut into heads: [pos, n_in], [n_in, head*d_head] -> [pos, head, d_head]."""
    product(x, weight, out=out.reshape(len(out), weight.shape[1]))


def is_one_row(x: Array, weight: Array) -> bool:
    """Whether this is decoding with float weights, where what counts is how few calls it takes.

    NumPy's `dot` of a vector is called faster than its `matmul`, and multiplies by the same routine of BLAS.
    """
    return len(x) == 1 and not is_narrow(weight)


def multiply(x: Array, weight: Array, out: Array) -> None:
    """`x @ weight`: [n, n_in], [n_in, n_out] -> [n, n_out], as a few rows are multiplied fastest.

    With a weight that stays in cache, and rows that grow, that is one by one (gemv).
    """
    if is_narrow(weight):
        multiply_narrow(x, weight, out)
    elif are_few(x, weight, LARGE):
        multiply_few(x, weight, out)
    elif 1 < len(x) <= 5 and weight.shape[1] > weight.shape[0]:
        np.matmul(x[:, None], weight, out=out[:, None])
    else:
        np.matmul(x, weight, out=out)
