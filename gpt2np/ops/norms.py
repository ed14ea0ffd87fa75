"""LayerNorm and RMSNorm, and their statistics."""

import math
from typing import Any, NamedTuple

import numpy as np

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.ops.row_sums import ones, row_squares, row_sums
from gpt2np.tables import by_shape
from gpt2np.threads import each


class LayerNorm(NamedTuple):
    """A learned scale and shift [n_embd], and the epsilon inside the root."""

    weight: Array
    bias: Array
    epsilon: float

    def __repr__(self) -> str:
        return by_shape(self)


def layer_norm(x: Array, p: LayerNorm, *, out: Array) -> None:
    """Each row to mean 0 and variance 1, then scaled and shifted: [pos, n_embd] -> [pos, n_embd].

    The variance is the mean of squares (ddof 0) and epsilon is added inside the root
    (Ba et al. 2016, https://arxiv.org/abs/1607.06450).
    """

    if len(out) == 1:
        return _one_row(x[0], p, out[0])

    def some(rows: Any) -> None:
        y, a = out[rows], x[rows]
        np.subtract(a, _mean(a), out=y)
        y /= _deviation(y, p.epsilon)
        y *= p.weight
        y += p.bias

    each(some, row_blocks(out))


def _one_row(x: Array, p: LayerNorm, y: Array) -> None:
    """The same for [n_embd], where what counts is how many calls it takes."""
    n = x.shape[0]
    np.subtract(x, x.dot(ones(n, x.dtype)) / n, out=y)
    np.divide(y, math.sqrt(y.dot(y) / n + p.epsilon), out=y)
    np.multiply(y, p.weight, out=y)
    np.add(y, p.bias, out=y)


class RMSNorm(NamedTuple):
    """A learned scale [n_embd], and the epsilon inside the root."""

    weight: Array
    epsilon: float

    def __repr__(self) -> str:
        return by_shape(self)


Norm = LayerNorm | RMSNorm


def rms_norm(x: Array, p: RMSNorm, *, out: Array) -> None:
    """Each row divided by its root mean square, then scaled: [pos, n_embd] -> [pos, n_embd].

    No mean is taken off, and epsilon is added inside the root (Zhang & Sennrich 2019,
    https://arxiv.org/abs/1910.07467).
    """

    def some(rows: Any) -> None:
        y = out[rows]
        np.divide(x[rows], root_mean_square(x[rows], p.epsilon), out=y)
        y *= p.weight

    each(some, row_blocks(out))


def root_mean_square(x: Array, epsilon: float) -> Array:
    """Root of mean square and epsilon of each row: [pos, n_embd] -> [pos, 1]."""
    return _deviation(x, epsilon)


# -- what both norms are, taken apart ---------------------------------------------------------------


def factor(x: Array, p: Norm) -> Array:
    """Return what a norm multiplies each row by before its weight: [..., n_embd] -> [..., 1]."""
    if isinstance(p, RMSNorm):
        return np.asarray(1.0 / root_mean_square(x, p.epsilon))
    return layer_norm_statistics(x, p.epsilon)[1]


def held(x: Array, p: Norm, by: Any = 1.0) -> Array:
    """Apply a norm with its factor held and without its shift: [..., n_embd] -> [..., n_embd]."""
    centred = x if isinstance(p, RMSNorm) else x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred * (by * p.weight))


def shift(p: Norm) -> Array | None:
    """Return what a norm adds at its end; None where it adds nothing."""
    return None if isinstance(p, RMSNorm) else p.bias


def folded(p: Norm, reader: Array) -> Array:
    """All that is linear in a norm, multiplied into a matrix [n_embd, n]: x @ it is `held(x) @ reader`."""
    weighted = p.weight[:, None] * reader
    return np.asarray(weighted if isinstance(p, RMSNorm) else weighted - weighted.mean(axis=0))


def normed(x: Array, p: Norm) -> Array:
    """Return a norm of any rows: [..., n_embd] -> [..., n_embd]."""
    out = np.empty_like(x)
    if isinstance(p, RMSNorm):
        rms_norm(x, p, out=out)
    else:
        layer_norm(x, p, out=out)
    return out


def layer_norm_statistics(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Return the mean and 1 / standard deviation of each row: [pos, n_embd] -> [pos, 1], [pos, 1]."""
    mean = _mean(x)
    return mean, np.asarray(1.0 / _deviation(x - mean, epsilon))


def _mean(x: Array) -> Array:
    mean: Array = row_sums(x) / x.shape[-1]
    return mean


def _deviation(centred: Array, epsilon: float) -> Array:
    """Root of mean square and epsilon of each row."""
    found: Array = np.sqrt(row_squares(centred) / centred.shape[-1] + epsilon)
    return found
