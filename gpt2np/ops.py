"""The operations that a GPT-2 is made of, in NumPy: each writes its result into `out`.

Every operation takes its inputs first and `out=` last, never changes an input, and works in the
precision of what it is given. Scalars are Python floats, so that float32 stays float32. Large results are
computed in pieces, most of them several at a time (`threads.each`); what a piece is depends on shapes and on
the number of threads only.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2np.threads import each, shares

Array = NDArray[Any]

# Elementwise operations run over blocks of this many bytes, so that their temporaries stay in cache.
_BLOCK_BYTES = 1 << 20
_PART_BYTES = 1 << 22  # of a weight; large enough for BLAS to share between its threads
_SMALL_PRODUCT = 1 << 21  # multiplications that take less time than handing half of them over
_MANY_ROWS = 512
# Attention runs over blocks of this many queries, and leaves out the keys that are in the future of them all.
QUERY_BLOCK = 128


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
    each(lambda rows: np.add(a[rows], b[rows], out=out[rows]), _row_blocks(out))


def linear(x: Array, p: Linear, *, out: Array) -> None:
    """`x @ weight + bias`: [pos, n_in] -> [pos, n_out]."""

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        y = out[rows, columns]
        _multiply(x[rows], p.weight[:, columns], out=y)
        y += p.bias[columns]

    each(some, _product_pieces(out, len(p.weight)))


def _multiply(x: Array, weight: Array, out: Array) -> None:
    """`x @ weight`; a few rows one by one (gemv), which is faster than BLAS is for so few together (gemm)."""
    n_in, n_out = weight.shape
    if not 1 < len(x) <= 5 or n_out <= n_in:
        np.matmul(x, weight, out=out)
        return
    first, *others = _parts_in_cache(weight)
    np.matmul(x[:, None, first], weight[first], out=out[:, None])
    for part in others:
        out += np.matmul(x[:, None, part], weight[part])[:, 0]


def layer_norm(x: Array, p: LayerNorm, *, out: Array) -> None:
    """Each row to mean 0 and variance 1, then scaled and shifted: [pos, n_embd] -> [pos, n_embd].

    The variance is the mean of squares (ddof 0) and epsilon is added inside the root
    (Ba et al. 2016, https://arxiv.org/abs/1607.06450).
    """

    def some(rows: Any) -> None:
        y = out[rows]
        np.subtract(x[rows], _mean(x[rows]), out=y)
        y *= _rstd(y, p.epsilon)
        y *= p.weight
        y += p.bias

    each(some, _row_blocks(out))


def layer_norm_statistics(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each row: [pos, n_embd] -> [pos, 1], [pos, 1]."""
    mean = _mean(x)
    return mean, _rstd(x - mean, epsilon)


def _mean(x: Array) -> Array:
    return np.asarray(np.add.reduce(x, axis=-1, keepdims=True) / x.shape[-1])


def _rstd(centred: Array, epsilon: float) -> Array:
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / centred.shape[-1]
    return 1.0 / np.sqrt(variance + epsilon)  # type: ignore[no-any-return]


def scaled_scores(q: Array, k: Array, scale: float, *, out: Array) -> None:
    """Scaled dot products of queries and keys, -inf where the key is in the query's future.

    [query, head, d_head], [key, head, d_head] -> [head, query, key]. The queries are the last ones:
    with more keys than queries, the first keys are the past.
    """
    q, k = q.transpose(1, 0, 2), k.transpose(1, 2, 0)  # [head, query, d_head], [head, d_head, key]

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        if keys.stop < out.shape[2]:
            out[heads, queries].fill(-np.inf)  # whole rows, much faster than their ends
        y = out[heads, queries, keys]
        np.matmul(q[heads, queries], k[heads, :, keys], out=y)
        y *= scale
        n = y.shape[1]  # the last n keys are those of the queries themselves
        if n > 1:
            np.copyto(y[..., -n:], -np.inf, where=_future(n))

    each(some, causal_blocks(out.shape, out.dtype))


def softmax(x: Array, *, out: Array) -> None:
    """exp(x) divided by its sum along the last axis, shifted by the maximum so that nothing overflows.

    Of [head, query, key] what lies in the future is not computed where all of it is -inf.
    """

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        future = x[heads, queries, keys.stop :]
        if future.size and future.max() != -np.inf:  # an experiment lets the future be seen
            keys = slice(0, x.shape[2])
        if future.size:
            out[heads, queries].fill(0.0)
        _softmax(x[heads, queries, keys], out[heads, queries, keys])

    if out.ndim == 3 and out.shape[1] <= out.shape[2]:
        each(some, causal_blocks(out.shape, out.dtype))
    else:
        each(lambda rows: _softmax(x[rows], out[rows]), _row_blocks(out))


def _softmax(x: Array, out: Array) -> None:
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)


def mix(pattern: Array, v: Array, *, out: Array) -> None:
    """Values averaged with the pattern as weights.

    [head, query, key], [key, head, d_head] -> [query, head, d_head]
    """
    v, z = v.transpose(1, 0, 2), out.transpose(1, 0, 2)

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        future = pattern[heads, queries, keys.stop :]
        if future.size and not (future.max() == 0.0 == future.min()):
            keys = slice(0, pattern.shape[2])
        np.matmul(pattern[heads, queries, keys], v[heads, keys], out=z[heads, queries])

    each(some, causal_blocks(pattern.shape, pattern.dtype))


def unembedding(x: Array, table: Array, *, out: Array) -> None:
    """Dot product of each row with every row of the table: [pos, n_embd], [vocab, n_embd] -> [pos, vocab]."""

    def some(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        a, b, y = x[rows], table[columns], out[rows, columns]
        if 1 < len(a) <= 8:  # one by one, as in `_multiply`
            for part in _parts_in_cache(b):
                np.matmul(a[:, None], b[part].T, out=y[:, None, part])
        else:
            np.matmul(a, b.T, out=y)

    each(some, _product_pieces(out, x.shape[1]))


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

    each(some, _row_blocks(out))


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


def _row_blocks(out: Array) -> list[Any]:
    """Slices of the first axis, each at most a block of memory."""
    if out.nbytes <= _BLOCK_BYTES or out.ndim < 2:
        return [...]
    n_rows = max(1, _BLOCK_BYTES * len(out) // out.nbytes)
    return [slice(start, start + n_rows) for start in range(0, len(out), n_rows)]


def _parts_in_cache(weight: Array) -> list[slice]:
    """Rows of a matrix in parts that stay in cache while they are multiplied again and again."""
    n = max(1, _PART_BYTES // weight[0].nbytes)
    return [slice(start, start + n) for start in range(0, len(weight), n)]


def _product_pieces(out: Array, n_in: int) -> list[tuple[slice, slice]]:
    """Rows and columns of a product over n_in: a piece for each thread, where that is worth their while.

    Pieces of few rows would spend their time on reading the weights, so that few rows are cut by columns.
    """
    n_rows, n_columns = out.shape
    n = shares()
    if n == 1 or out.size * n_in <= _SMALL_PRODUCT:
        return _WHOLE
    if n_columns <= 8 * n_rows >= 8 * _MANY_ROWS:
        return [(rows, slice(None)) for rows in _cut(n_rows, n)]
    return [(slice(None), columns) for columns in _cut(n_columns, n)]


def _cut(length: int, n: int) -> list[slice]:
    """An axis in n slices that begin at multiples of 16: as float32 a line of cache."""
    ends = [length * i // n // 16 * 16 for i in range(n)] + [length]
    return [slice(*ends[i : i + 2]) for i in range(n)]


_WHOLE = [(slice(None), slice(None))]

CausalBlock = tuple[slice, slice, slice]


def causal_blocks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[CausalBlock]:
    """Blocks of [head, query, key]: some heads, some queries, and the keys that the last of these may see."""
    n_head, n_query, n_key = shape
    if n_query == 1:
        return [(slice(0, n_head), slice(0, 1), slice(0, n_key))]
    blocks = []
    for start in range(0, n_query, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n_query)
        n_seen = n_key - n_query + stop
        n_heads = max(1, _BLOCK_BYTES // ((stop - start) * n_seen * dtype.itemsize))
        for head in range(0, n_head, n_heads):
            heads = slice(head, min(head + n_heads, n_head))
            blocks.append((heads, slice(start, stop), slice(0, n_seen)))
    return blocks


@functools.cache
def _future(n: int) -> NDArray[np.bool_]:
    """Which of n keys each of n queries may not see: those behind itself."""
    return np.triu(np.ones((n, n), bool), 1)
