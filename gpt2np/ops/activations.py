"""Activation functions of the MLP: GELU in both forms, ReLU, SiLU, tanh."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.threads import each


def gelu_tanh(x: Array, *, out: Array) -> None:
    """GELU by its tanh approximation, GPT-2's own (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)."""

    def some(rows: Any) -> None:
        a, y = x[rows], out[rows]
        np.multiply(a, a, out=y)
        y *= a
        y *= 0.044715
        y += a
        y *= math.sqrt(2.0 / math.pi)
        np.tanh(y, out=y)
        y += 1.0
        y *= a
        y *= 0.5

    each(some, row_blocks(out))


def gelu_erf(x: Array, *, out: Array) -> None:
    """GELU itself, `x * Phi(x)`, by the error function."""
    for rows in row_blocks(out):
        a, y = x[rows], out[rows]
        np.copyto(y, erf(a * math.sqrt(0.5)), casting="same_kind")
        y += 1.0
        y *= a
        y *= 0.5


def times(a: Array, b: Array, *, out: Array) -> None:
    """The product, number by number: how one of two halves of a gated MLP lets the other through."""
    each(lambda rows: np.multiply(a[rows], b[rows], out=out[rows]), row_blocks(out))


def relu(x: Array, *, out: Array) -> None:
    """The larger of x and 0."""
    np.maximum(x, 0.0, out=out)


def silu(x: Array, *, out: Array) -> None:
    """`x * sigmoid(x)`, the sigmoid by a tanh, which never overflows."""
    for rows in row_blocks(out):
        a, y = x[rows], out[rows]
        np.multiply(a, 0.5, out=y)
        np.tanh(y, out=y)
        y += 1.0
        y *= a
        y *= 0.5


def tanh(x: Array, *, out: Array) -> None:
    """The hyperbolic tangent."""
    np.tanh(x, out=out)


ACTIVATIONS = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu_erf,
    "relu": relu,
    "silu": silu,
    "tanh": tanh,
}
_ERF_STEP = 1 / 64
_ERF_END = 6.0  # erf(6) is 1 to 2e-17
_ERF_GRID = np.arange(-_ERF_END, _ERF_END + _ERF_STEP / 2, _ERF_STEP)


@functools.cache
def _erf_table() -> list[Array]:
    """erf and its Taylor coefficients around every point of the grid."""
    slope = 2 / math.sqrt(math.pi) * np.exp(-_ERF_GRID * _ERF_GRID)
    table = [np.array([math.erf(t) for t in _ERF_GRID])]
    hermite, before = np.ones_like(_ERF_GRID), np.zeros_like(_ERF_GRID)
    for order in range(1, 7):
        table.append(slope * hermite / math.factorial(order))
        hermite, before = -2 * _ERF_GRID * hermite - 2 * (order - 1) * before, hermite
    return table


def erf(x: Array) -> NDArray[np.float64]:
    """The error function in float64, to about 1e-15: NumPy has none.

    `math.erf` on a grid, carried to x by the Taylor series around the nearest grid point: the
    derivatives of erf are 2/sqrt(pi) exp(-t*t) times Hermite polynomials.
    """
    table = _erf_table()
    clipped = np.clip(x.astype(np.float64), -_ERF_END, _ERF_END)
    nearest = np.nan_to_num(np.rint((clipped + _ERF_END) / _ERF_STEP)).astype(np.intp)
    h = clipped - _ERF_GRID[nearest]
    result = table[-1][nearest]
    for coefficients in reversed(table[:-1]):
        result *= h
        result += coefficients[nearest]
    return result
