"""Which keys a query sees: its own and those before it, all or in a window; and the blocks of attention."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.ops.blocks import BLOCK_BYTES, SHARE_BYTES
from gpt2np.threads import shares

# Attention runs over blocks of this many queries, and leaves out the keys that none of them sees.
QUERY_BLOCK = 128
CausalBlock = tuple[slice, slice, slice]


def first_seen(position: int, window: int | None) -> int:
    """The first key that the query at a position sees: with a window w, its own and the w - 1 before it."""
    return 0 if window is None else max(0, position - window + 1)


def unseen(queries: range, n_key: int, window: int | None) -> NDArray[np.bool_]:
    """Which of the first n_key keys the queries at these positions do not see: [query, key]."""
    query, key = np.array(queries)[:, None], np.arange(n_key)
    future = key > query
    return future if window is None else future | (key <= query - window)


def causal_blocks(
    shape: tuple[int, ...], dtype: np.dtype[Any], window: int | None = None, group: int = 1
) -> list[CausalBlock]:
    """Blocks of [head, query, key]: some heads, some queries, and the keys that any of these queries sees.

    There are at least as many as threads, where that is worth their while. The queries are the last ones.
    Blocks hold whole groups of heads, those that share a key head.
    """
    n_head, n_query, n_key = shape
    if n_query == 1:
        return [(slice(0, n_head), slice(0, 1), slice(first_seen(n_key - 1, window), n_key))]
    return _causal_blocks(n_head, n_query, n_key, dtype.itemsize, window, group, shares())


def prompts_at_once(shape: tuple[int, ...], dtype: np.dtype[Any], n: int) -> int:
    """How many of n prompts with [head, query, key] of this shape are best attended to at once.

    Of short prompts, it is the calls that take the time; others are cut in blocks, each by itself.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    return 1 if n_bytes > SHARE_BYTES else min(BLOCK_BYTES // n_bytes, -(-n // shares()))


@functools.lru_cache(64)
def _causal_blocks(
    n_head: int, n_query: int, n_key: int, n_bytes: int, window: int | None, group: int, n_shares: int
) -> list[CausalBlock]:
    """The same for several queries, of numbers of so many bytes: many prompts have the same few shapes."""
    past = n_key - n_query
    blocks = []
    large = n_head * n_query * n_key * n_bytes > SHARE_BYTES
    most_heads = -(-n_head // n_shares) if large else n_head
    for start in range(0, n_query, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, n_query)
        keys = slice(first_seen(past + start, window), past + stop)
        n_heads = BLOCK_BYTES // ((stop - start) * (keys.stop - keys.start) * n_bytes)
        n_heads = max(group, min(n_heads, most_heads) // group * group)
        for head in range(0, n_head, n_heads):
            heads = slice(head, min(head + n_heads, n_head))
            blocks.append((heads, slice(start, stop), keys))
    return blocks


def fill_beside(rows: NDArray[Any], keys: slice, value: float) -> None:
    """Fill what lies before and behind some keys of [head, query, key]."""
    if keys.start:
        rows[..., : keys.start] = value
    if keys.stop < rows.shape[-1]:
        rows[..., keys.stop :] = value


@functools.cache
def future_of(n: int) -> NDArray[np.bool_]:
    """Which of n keys each of n queries may not see: those behind itself."""
    return np.triu(np.ones((n, n), bool), 1)


@functools.lru_cache(16)
def outside_window(n_query: int, n_key: int, window: int) -> NDArray[np.bool_]:
    """Which of the last n_key keys are not in the windows of the last n_query queries."""
    return unseen(range(n_key - n_query, n_key), n_key, window)
