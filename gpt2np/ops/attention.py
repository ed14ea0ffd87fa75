"""Attention between positions: scores of queries and keys, softmax, and the mix of values.

The shapes are those of one prompt. Several prompts of one length can be computed at once: their arrays have
an axis more, in front.
"""

import numpy as np

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.ops.caps import bend
from gpt2np.ops.causal_mask import CausalBlock, causal_blocks, fill_beside, future_of, outside_window
from gpt2np.ops.row_sums import row_sums
from gpt2np.threads import each


def scaled_scores(q: Array, k: Array, scale: float, *, out: Array) -> None:
    """Scaled dot products of queries and keys, -inf where the key is in the query's future.

    [query, head, d_head], [key, head, d_head] -> [head, query, key]. The queries are the last ones:
    with more keys than queries, the first keys are the past.
    """
    _dot_products(q, k, out, None, scale)


def dot_scores(q: Array, k: Array, window: int | None, *, out: Array) -> None:
    """Dot products of queries and keys, not scaled; -inf where the query does not see the key.

    [query, head, d_head], [key, kv_head, d_head] -> [head, query, key]. A query sees its own position and
    those before it, with a window w only the last w of these; `None` is no window. With fewer key heads than
    query heads, neighbouring query heads share one.
    """
    _dot_products(q, k, out, window, 1.0)


def capped_scores(
    q: Array, k: Array, scale: float, cap: float | None, window: int | None, *, out: Array
) -> None:
    """Scaled dot products, bent so that none is larger than the cap; -inf where a key is not seen.

    As `dot_scores`, with `cap * tanh(x / cap)` in between; `None` is no cap.
    """
    _dot_products(q, k, out, window, scale, cap)


def _dot_products(
    q: Array, k: Array, out: Array, window: int | None, scale: float, cap: float | None = None
) -> None:
    group = q.shape[-2] // k.shape[-2]
    q = q.swapaxes(-3, -2)  # [head, query, d_head]
    k = k.swapaxes(-3, -2).swapaxes(-2, -1)  # [kv_head, d_head, key]
    if out.shape[-2] == group == 1 and window is None and cap is None:  # decoding: as few calls as will do
        np.matmul(q, k, out=out)
        np.multiply(out, scale, out=out)
        return

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        fill_beside(out[..., heads, queries, :], keys, -np.inf)
        y = out[..., heads, queries, keys]
        if group == 1:
            np.matmul(q[..., heads, queries, :], k[..., heads, :, keys], out=y)
        else:
            shared = k[..., _shared(heads, group), None, :, keys]
            np.matmul(_grouped(q[..., heads, queries, :], group), shared, out=_grouped(y, group))
        if scale != 1.0:
            y *= scale
        if cap is not None:
            bend(y, cap)
        n = y.shape[-2]  # the last n keys are those of the queries themselves
        if n > 1:
            np.copyto(y[..., -n:], -np.inf, where=future_of(n))
        if n > 1 and window is not None:  # the first keys are too far away for the last queries
            n_far = max(0, y.shape[-1] - window)
            np.copyto(y[..., :n_far], -np.inf, where=outside_window(n, y.shape[-1], window)[:, :n_far])

    each(some, causal_blocks(out.shape[-3:], out.dtype, window, group))


def _grouped(x: Array, group: int) -> Array:
    """[head, ...] -> [kv_head, head of the group, ...], a view."""
    return x.reshape(*x.shape[:-3], -1, group, *x.shape[-2:])


def _shared(heads: slice, group: int) -> slice:
    """The key and value heads that some query heads share."""
    return slice(heads.start // group, heads.stop // group)


def softmax(x: Array, *, out: Array) -> None:
    """exp(x) divided by its sum along the last axis, shifted by the maximum so that nothing overflows.

    Of [head, query, key] what lies in the future, or before a window, is not computed where all of it is
    -inf.
    """

    if _is_one_query(x, -np.inf):
        return _softmax(x, out)

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        future = x[..., heads, queries, keys.stop :]
        if future.size and future.max() != -np.inf:  # an experiment lets the future be seen
            keys = slice(0, x.shape[-1])
        else:
            keys = _from_first_seen(x, block, -np.inf)
        fill_beside(out[..., heads, queries, :], keys, 0.0)
        _softmax(x[..., heads, queries, keys], out[..., heads, queries, keys])

    if out.ndim >= 3 and out.shape[-2] <= out.shape[-1]:
        each(some, causal_blocks(out.shape[-3:], out.dtype))
    else:
        each(lambda rows: _softmax(x[rows], out[rows]), row_blocks(out))


def _is_one_query(x: Array, nothing: float) -> bool:
    """Whether [head, query, key] is of one query, as in decoding, that sees keys from the first one on."""
    return x.ndim >= 3 and x.shape[-2] == 1 and x.item(0) != nothing


def _from_first_seen(x: Array, block: CausalBlock, nothing: float) -> slice:
    """The keys of a block without the first ones, where they are before the window of all of its queries."""
    heads, queries, keys = block
    x = x[..., heads, queries, keys]
    if x.flat[0] != nothing:
        return keys
    seen = (x != nothing).any(axis=tuple(range(x.ndim - 1)))
    return slice(keys.start + int(seen.argmax()), keys.stop) if seen.any() else keys


def _softmax(x: Array, out: Array) -> None:
    np.subtract(x, np.maximum.reduce(x, axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= row_sums(out)


def mix(pattern: Array, v: Array, *, out: Array) -> None:
    """Values averaged with the pattern as weights.

    [head, query, key], [key, kv_head, d_head] -> [query, head, d_head]. With fewer value heads than query
    heads, neighbouring query heads share one.
    """
    group = pattern.shape[-3] // v.shape[-2]
    v, z = v.swapaxes(-3, -2), out.swapaxes(-3, -2)
    if group == 1 and _is_one_query(pattern, 0.0):
        np.matmul(pattern, v, out=z)
        return

    def some(block: CausalBlock) -> None:
        heads, queries, keys = block
        future = pattern[..., heads, queries, keys.stop :]
        if future.size and not (future.max() == 0.0 == future.min()):
            keys = slice(0, pattern.shape[-1])
        else:
            keys = _from_first_seen(pattern, block, 0.0)
        weights, y = pattern[..., heads, queries, keys], z[..., heads, queries, :]
        if group == 1:
            np.matmul(weights, v[..., heads, keys, :], out=y)
        else:
            shared = v[..., _shared(heads, group), None, keys, :]
            np.matmul(_grouped(weights, group), shared, out=_grouped(y, group))

    each(some, causal_blocks(pattern.shape[-3:], pattern.dtype, None, group))
