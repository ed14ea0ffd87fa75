"""Which keys a query sees: its own position and those before it; and the blocks in which attention runs."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.ops.blocks import BLOCK_BYTES

# Attention runs over blocks of this many queries, and leaves out the keys that are in the future of them all.
QUERY_BLOCK = 128
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
        n_heads = max(1, BLOCK_BYTES // ((stop - start) * n_seen * dtype.itemsize))
        for head in range(0, n_head, n_heads):
            heads = slice(head, min(head + n_heads, n_head))
            blocks.append((heads, slice(start, stop), slice(0, n_seen)))
    return blocks


@functools.cache
def unseen_keys(n: int) -> NDArray[np.bool_]:
    """Which of n keys each of n queries may not see: those behind itself."""
    return np.triu(np.ones((n, n), bool), 1)
