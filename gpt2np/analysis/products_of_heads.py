"""Products of matrices of all heads: hundreds of low rank, of which none is multiplied out whole.

Every matrix stays in its two factors, [n, rank] and [rank, m], or in the rank x rank products of these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt2np.ops import Array
from gpt2np.tables import by_shape

_TILE = 64  # rows and columns of every matrix that are multiplied out at a time: they fit into a cache
_LAYERS = 4  # whose writers are multiplied together, as small products are slow
_NUMBERS = 1 << 25  # in a factor of all heads: of larger ones there is one kind of reading at a time

Factors = tuple[Array, Array]  # of every head, [head, n_embd, rank] and [head, rank, n_embd]


class Squares(NamedTuple):
    """Symmetric matrices `near[i] @ small[i] @ near[i].T`: [matrix, n, rank] and [matrix, rank, rank]."""

    near: Array
    small: Array

    def __repr__(self) -> str:
        return by_shape(self)

    def traces(self) -> Array:
        """The sums of their diagonals: [matrix]."""
        squared = self.near.swapaxes(1, 2) @ self.near
        return np.asarray((squared * self.small).sum(axis=(1, 2), dtype=np.float64))


def squares(near: Array, far: Array) -> Squares:
    """`M M^T` of every `M = near far`, [matrix, n, rank] and [matrix, rank, m], without making an M.

    Example:
        >>> squares(np.array([[[1.0], [2.0]]]), np.array([[[3.0, 0.0]]])).traces()
        array([45.])
    """
    return Squares(near, far @ far.swapaxes(1, 2))


@np.errstate(under="ignore")
def composed(write: Factors, reads: Sequence[Factors], n_head: int) -> Array:
    """`|W R| / (|W| |R|)` in Frobenius norms for what every head writes and later ones read.

    All are factors of square matrices, one for each head, layer by layer. One or several kinds of reading
    give [kind, writer, reader], NaN where the writer is in no earlier layer.

    The square of `|W R|` is the inner product of `W^T W` and `R R^T`.
    """
    near, far = (x.swapaxes(1, 2) for x in write)
    written, n = squares(far, near), len(near)
    scores = np.full((len(reads), n, n), np.nan)
    at_once = max(1, _NUMBERS // near.size)  # kinds
    for first in range(0, len(reads), at_once):
        some = reads[first : first + at_once]
        read = squares(*(np.concatenate(side) for side in zip(*some, strict=True)))
        blocks = [
            (slice(start, start + _LAYERS * n_head), slice(i * n + start + n_head, (i + 1) * n))
            for i in range(len(some))
            for start in range(0, n - n_head, _LAYERS * n_head)
        ]
        together = np.sqrt(np.maximum(inner_products(written, read, blocks), 0))
        apart = np.sqrt(np.outer(written.traces(), np.maximum(read.traces(), 0)).clip(0))
        found = (together / np.maximum(apart, np.finfo(float).tiny)).reshape(n, len(some), n)
        scores[first : first + at_once] = np.moveaxis(found, 1, 0)
    layers = np.arange(n) // n_head
    scores[:, layers[:, None] >= layers] = np.nan
    return scores


def inner_products(one: Squares, other: Squares, blocks: Sequence[tuple[slice, slice]]) -> Array:
    """The sums of the products of their entries, for blocks of pairs: [matrix of one, matrix of other].

    What is in no block is 0. Both are multiplied out in tiles; as they are symmetric, tiles right of the
    diagonal count twice, and those left of it are not computed.
    """
    found = np.zeros((len(one.near), len(other.near)))
    starts, kind = range(0, one.near.shape[1], _TILE), np.result_type(one.near, other.near)
    memory = [np.empty(len(x.near) * _TILE**2, kind) for x in (one, other)]  # new memory takes time
    for right in starts:
        halves = [x.small @ x.near[:, right : right + _TILE].swapaxes(1, 2) for x in (one, other)]
        for above in starts[: starts.index(right) + 1]:
            a, b = (
                _tile(x.near[:, above : above + _TILE], half, own)
                for x, half, own in zip((one, other), halves, memory, strict=True)
            )
            for these, those in blocks:
                found[these, those] += (1 if above == right else 2) * (a[these] @ b[those].T)
    return found


def _tile(upper: Array, right: Array, memory: Array) -> Array:
    """`upper @ right` of every matrix as a row, in some memory: [matrix, number]."""
    shape = len(upper), upper.shape[1], right.shape[2]
    out = memory[: math.prod(shape)].reshape(shape)
    return np.matmul(upper, right, out=out).reshape(len(upper), -1)


@np.errstate(under="ignore")
def strongest(left: Array, right: Array, k: int) -> tuple[Array, Array, Array]:
    """The k largest singular values of every `left @ right`, and their vectors, as `LowRank.svd` has them.

    [..., n, rank] and [..., rank, m] -> [..., n, k], [..., k], [..., k, m]. They come from the eigenvalues of
    a square matrix as small as the rank, in double precision.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    of_left, of_right = a.swapaxes(-1, -2) @ a, b @ b.swapaxes(-1, -2)
    rank, k, tiny = a.shape[-1], min(k, *left.shape[-2:], right.shape[-1]), np.finfo(float).tiny
    least = np.trace(of_right, axis1=-2, axis2=-1)[..., None, None] * np.finfo(float).eps * rank
    lower = np.linalg.cholesky(of_right + np.maximum(least, tiny) * np.eye(rank))
    small = lower.swapaxes(-1, -2) @ of_left @ lower  # right = lower @ rows at right angles
    values, vectors = np.linalg.eigh(small)  # the smallest first
    top = lower @ vectors[..., : -k - 1 : -1]  # [..., rank, k]
    squared = np.maximum(values[..., : -k - 1 : -1], 0)
    u = a @ top / np.sqrt(np.maximum(squared, tiny))[..., None, :]
    v = (of_left @ top / np.maximum(squared, tiny)[..., None, :]).swapaxes(-1, -2) @ b
    kind = np.result_type(left, right)
    return u.astype(kind), np.sqrt(squared).astype(kind), v.astype(kind)
