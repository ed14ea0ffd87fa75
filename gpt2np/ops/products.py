"""Matrix products, with a bias and without."""

from typing import NamedTuple

import numpy as np

from gpt2np.ops.blocks import Array, product_pieces
from gpt2np.ops.narrow_weights import is_narrow, multiply_narrow
from gpt2np.tables import by_shape
from gpt2np.threads import each

_PART_BYTES = 1 << 22  # of a weight; large enough for BLAS to share between its threads


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
    """`x @ weight`; a few rows one by one (gemv), which is faster than BLAS is for so few together (gemm)."""
    if is_narrow(weight):
        multiply_narrow(x, weight, out)
        return
    n_in, n_out = weight.shape
    if not 1 < len(x) <= 5 or n_out <= n_in:
        np.matmul(x, weight, out=out)
        return
    first, *others = parts_in_cache(weight)
    np.matmul(x[:, None, first], weight[first], out=out[:, None])
    for part in others:
        out += np.matmul(x[:, None, part], weight[part])[:, 0]


def parts_in_cache(weight: Array) -> list[slice]:
    """Return the rows of a matrix in parts that stay in cache while they are multiplied again and again."""
    n = max(1, _PART_BYTES // weight[0].nbytes)
    return [slice(start, start + n) for start in range(0, len(weight), n)]
