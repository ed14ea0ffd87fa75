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
    n = len(write[0])
    scores = np.full((len(reads), n, n), np.nan)
    if n == n_head:
        return scores
    near, far = (x[:-n_head].swapaxes(1, 2) for x in write)  # nothing is behind the last layer
    written, read = squares(far, near), [squares(x[n_head:], y[n_head:]) for x, y in reads]
    starts = range(0, n - n_head, _LAYERS * n_head)
    blocks = [(slice(start, start + _LAYERS * n_head), slice(start, None)) for start in starts]
    together = np.sqrt(np.maximum(inner_products(written, read, blocks), 0))
    apart = np.maximum(written.traces()[:, None] * np.stack([x.traces() for x in read])[:, None], 0)
    scores[:, :-n_head, n_head:] = together / np.maximum(np.sqrt(apart), np.finfo(float).tiny)
    layers = np.arange(n) // n_head
    scores[:, layers[:, None] >= layers] = np.nan
    return scores


def inner_products(one: Squares, others: Sequence[Squares], blocks: Sequence[tuple[slice, slice]]) -> Array:
    """The sums of the products of their entries, for blocks of pairs: [kind of other, one, other].

    What is in no block is 0. All are multiplied out in tiles; as they are symmetric, tiles right of the
    diagonal count twice, and those left of it are not computed.
    """
    every, starts, n_kinds = (one, *others), range(0, one.near.shape[1], _TILE), len(others)
    found = np.zeros((len(others[0].near), n_kinds, len(one.near)))
    memory = np.empty(len(one.near) * _TILE**2, one.near.dtype)  # new memory takes time
    of_kinds = np.empty(len(others[0].near) * n_kinds * _TILE**2, others[0].near.dtype)
    for right in starts:
        halves = [x.small @ x.near[:, right : right + _TILE].swapaxes(1, 2) for x in every]
        for above in starts[: starts.index(right) + 1]:
            uppers = [x.near[:, above : above + _TILE] for x in every]
            shape = uppers[0].shape[1], halves[0].shape[2]
            n = math.prod(shape)
            a = memory[: len(one.near) * n].reshape(-1, *shape)
            b = of_kinds[: len(found) * n_kinds * n].reshape(len(found), n_kinds, *shape)
            for upper, half, out in zip(uppers, halves, (a, *b.swapaxes(0, 1)), strict=True):
                np.matmul(upper, half, out=out)
            rows, columns, times = b.reshape(len(found), n_kinds, n), a.reshape(-1, n).T, 1 + (above < right)
            for these, those in blocks:
                some = rows[those].reshape(-1, n) @ columns[:, these]  # the longer side first is faster
                found[those, :, these] += times * some.reshape(-1, n_kinds, some.shape[1])
    return found.transpose(1, 2, 0)


@np.errstate(under="ignore")
def strongest(left: Array, right: Array, k: int) -> tuple[Array, Array, Array]:
    """The k largest singular values of every `left @ right`, and their vectors, as `LowRank.svd` has them.

    [..., n, rank] and [..., rank, m] -> [..., n, k], [..., k], [..., k, m]. They come from the eigenvalues of
    a square matrix as small as the rank, in double precision.
    """
    each = zip(left.reshape(-1, *left.shape[-2:]), right.reshape(-1, *right.shape[-2:]), strict=True)
    parts = zip(*(_strongest(*factors, k) for factors in each), strict=True)
    u, size, v = (np.stack(part).reshape(*left.shape[:-2], *part[0].shape) for part in parts)
    return u, size, v


def _strongest(left: Array, right: Array, k: int) -> tuple[Array, Array, Array]:
    """Those of one matrix: its numbers stay in a cache."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    of_left, of_right = a.T @ a, b @ b.T
    rank, k, tiny = len(of_left), min(k, *left.shape, right.shape[1]), np.finfo(float).tiny
    least = max(np.trace(of_right) * np.finfo(float).eps * rank, tiny)
    lower = np.linalg.cholesky(of_right + least * np.eye(rank))
    values, vectors = np.linalg.eigh(lower.T @ of_left @ lower)  # right = lower @ rows at right angles
    top, squared = lower @ vectors[:, : -k - 1 : -1], np.maximum(values[: -k - 1 : -1], 0)  # the largest
    of_u = top / np.sqrt(np.maximum(squared, tiny))
    of_v = (of_left @ top / np.maximum(squared, tiny)).T
    kind = np.result_type(left, right)
    return left @ of_u.astype(kind), np.sqrt(squared).astype(kind), of_v.astype(kind) @ right
