"""The operations that a GPT-2 is made of, in NumPy: each writes its result into `out`.

Every operation takes its inputs first and `out=` last, never changes an input, and works in the
precision of what it is given. Scalars are Python floats, so that float32 stays float32.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Elementwise operations run over blocks of this many bytes, so that their temporaries stay in cache.
_BLOCK_BYTES = 1 << 18


class Linear(NamedTuple):
    """A weight [n_in, n_out] as HF's Conv1D stores it, and a bias [n_out]."""

    weight: Array
    bias: Array


class LayerNorm(NamedTuple):
    """A learned scale and shift [n_embd], and the epsilon inside the root."""

    weight: Array
    bias: Array
    epsilon: float


def lookup(indices: Array, table: Array, *, out: Array) -> None:
    """Row `indices[i]` of the table: [pos] and [n, n_embd] -> [pos, n_embd]."""
    np.take(table, indices, axis=0, out=out, mode="clip")  # indices are checked before the run


def add(a: Array, b: Array, *, out: Array) -> None:
    """The sum; how every part of the model writes to the residual stream."""
    np.add(a, b, out=out)


def linear(x: Array, p: Linear, *, out: Array) -> None:
    """`x @ weight + bias`: [pos, n_in] -> [pos, n_out]."""
    np.matmul(x, p.weight, out=out)
    out += p.bias


def layer_norm(x: Array, p: LayerNorm, *, out: Array) -> None:
    """Each row to mean 0 and variance 1, then scaled and shifted: [pos, n_embd] -> [pos, n_embd].

    The variance is the mean of squares (ddof 0) and epsilon is added inside the root
    (Ba et al. 2016, https://arxiv.org/abs/1607.06450).
    """
    for rows in _row_blocks(out):
        y = out[rows]
        mean, rstd = layer_norm_statistics(x[rows], p.epsilon)
        np.subtract(x[rows], mean, out=y)
        y *= rstd
        y *= p.weight
        y += p.bias


def layer_norm_statistics(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each row: [pos, n_embd] -> [pos, 1], [pos, 1]."""
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / x.shape[-1]
    return mean, 1.0 / np.sqrt(variance + epsilon)


def scaled_scores(q: Array, k: Array, scale: float, *, out: Array) -> None:
    """Scaled dot products of queries and keys, -inf where the key is in the query's future.

    [query, head, d_head], [key, head, d_head] -> [head, query, key]. The queries are the last ones:
    with more keys than queries, the first keys are the past.
    """
    np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0), out=out)
    out *= scale
    past = k.shape[0] - q.shape[0]
    for query in range(q.shape[0] - 1):
        out[:, query, past + query + 1 :] = -np.inf


def softmax(x: Array, *, out: Array) -> None:
    """exp(x) divided by its sum along the last axis, shifted by the maximum so that nothing overflows."""
    for rows in _row_blocks(out):
        y = out[rows]
        np.subtract(x[rows], x[rows].max(axis=-1, keepdims=True), out=y)
        np.exp(y, out=y)
        y /= y.sum(axis=-1, keepdims=True)


def mix(pattern: Array, v: Array, *, out: Array) -> None:
    """Values averaged with the pattern as weights.

    [head, query, key], [key, head, d_head] -> [query, head, d_head]
    """
    np.matmul(pattern, v.transpose(1, 0, 2), out=out.transpose(1, 0, 2))


def unembedding(x: Array, table: Array, *, out: Array) -> None:
    """Dot product of each row with every row of the table: [pos, n_embd], [vocab, n_embd] -> [pos, vocab]."""
    np.matmul(x, table.T, out=out)


def gelu_tanh(x: Array, *, out: Array) -> None:
    """GELU by its tanh approximation, GPT-2's own (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
    for rows in _row_blocks(out):
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


def gelu_erf(x: Array, *, out: Array) -> None:
    """GELU itself, `x * Phi(x)`, by the error function."""
    for rows in _row_blocks(out):
        a, y = x[rows], out[rows]
        np.copyto(y, erf(a * math.sqrt(0.5)), casting="same_kind")
        y += 1.0
        y *= a
        y *= 0.5


def relu(x: Array, *, out: Array) -> None:
    """The larger of x and 0."""
    np.maximum(x, 0.0, out=out)


def silu(x: Array, *, out: Array) -> None:
    """`x * sigmoid(x)`, the sigmoid by a tanh, which never overflows."""
    for rows in _row_blocks(out):
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
_ERF_TABLE: list[Array] = []


def erf(x: Array) -> NDArray[np.float64]:
    """The error function in float64, to about 1e-15: NumPy has none.

    `math.erf` on a grid, carried to x by the Taylor series around the nearest grid point: the
    derivatives of erf are 2/sqrt(pi) exp(-t*t) times Hermite polynomials.
    """
    if not _ERF_TABLE:
        t = _ERF_GRID
        slope = 2 / math.sqrt(math.pi) * np.exp(-t * t)
        _ERF_TABLE.append(np.array([math.erf(v) for v in t]))
        hermite, before = np.ones_like(t), np.zeros_like(t)
        for order in range(1, 7):
            _ERF_TABLE.append(slope * hermite / math.factorial(order))
            hermite, before = -2 * t * hermite - 2 * (order - 1) * before, hermite
    clipped = np.clip(x.astype(np.float64), -_ERF_END, _ERF_END)
    nearest = np.nan_to_num(np.rint((clipped + _ERF_END) / _ERF_STEP)).astype(np.intp)
    h = clipped - _ERF_GRID[nearest]
    result = _ERF_TABLE[-1][nearest]
    for coefficients in reversed(_ERF_TABLE[:-1]):
        result *= h
        result += coefficients[nearest]
    return result


def _row_blocks(out: Array) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array into pieces of whole rows (last axis), each at most a block of memory."""
    if out.nbytes <= _BLOCK_BYTES or out.ndim < 2:
        yield (...,)
        return
    n_rows = max(1, _BLOCK_BYTES // (out.shape[-1] * out.itemsize))
    for before in np.ndindex(out.shape[:-2]):
        for start in range(0, out.shape[-2], n_rows):
            yield (*before, slice(start, start + n_rows))
