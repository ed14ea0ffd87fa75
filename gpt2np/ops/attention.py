"""Attention between positions: scores of queries and keys, softmax, and the mix of values."""

import numpy as np

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.ops.causal_mask import CausalBlock, causal_blocks, unseen_keys
from gpt2np.threads import each


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
            np.copyto(y[..., -n:], -np.inf, where=unseen_keys(n))

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
        each(lambda rows: _softmax(x[rows], out[rows]), row_blocks(out))


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
