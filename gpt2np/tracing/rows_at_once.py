"""Which texts are attended to at once when each has one new token: those whose caches lie side by side.

For one new row, it is the calls that take the time, and the memory of the past: the former are made once for
several texts, the latter is read by several threads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt2np.ops import Array
from gpt2np.threads import shares
from gpt2np.tracing.cache import ALIKE, Cache, cache_nbytes

SHARE_BYTES = 1 << 21  # of keys and values of a layer; less is read sooner than handed over


class RowsAtOnce(NamedTuple):
    """Neighbours among the texts of a pass, and among its caches."""

    texts: slice
    cache: Cache  # of the first of them
    pasts: Array  # their lengths: [text]
    n_key: int  # of the longest of them, with its new row
    unseen: Array | None  # which keys stand behind a text, as [text, head, query, key] of one head and query

    @property
    def n(self) -> int:
        """How many texts."""
        return len(self.pasts)

    def so_far(self, name: str) -> Array:
        """Keys or values as far as the longest text goes: a view [text, pos, kv_head, d_head]."""
        place = self.cache.place
        seen: Array = self.cache.together[name][place : place + self.n, :, : self.n_key]
        return seen.swapaxes(1, 2)

    def store(self, name: str, values: Array) -> None:
        """Copy what a step computed for the new rows of the pass [text, ...], if any of it is cached."""
        cache = self.cache
        if self.n == 1:
            cache.store(name, int(self.pasts[0]), values[self.texts])
            return
        for cached, part in cache.sources.get(name, ()):
            rows = values if part is None else part(values, cache.config)
            places = np.arange(cache.place, cache.place + self.n)
            cache.together[cached][places, :, self.pasts] = rows[self.texts]


def rows_at_once(caches: Sequence[Cache], pasts: Sequence[int]) -> tuple[list[RowsAtOnce], bool]:
    """All texts in order, in runs; and whether these are worth being shared by threads."""
    config, dtype = caches[0].config, next(iter(caches[0].arrays.values())).dtype
    n_bytes = cache_nbytes(config, sum(pasts), dtype) // config.n_layer
    shared = shares() > 1 and n_bytes > SHARE_BYTES
    most = -(-len(caches) // shares()) if shared else len(caches)
    runs, start = list[RowsAtOnce](), 0
    for stop in range(1, len(caches) + 1):
        if stop == len(caches) or stop - start == most or not _are_alike(caches, pasts, start, stop):
            runs.append(_run(caches, pasts, slice(start, stop)))
            start = stop
    return runs, shared


def _are_alike(caches: Sequence[Cache], pasts: Sequence[int], first: int, i: int) -> bool:
    """Whether a text goes on a run: its cache is the next one there, its past of about the same length."""
    return (
        caches[i].together is caches[first].together
        and caches[i].place == caches[first].place + i - first
        and abs(pasts[i] - pasts[first]) <= ALIKE
    )


def _run(caches: Sequence[Cache], pasts: Sequence[int], texts: slice) -> RowsAtOnce:
    lengths = np.array(pasts[texts])
    unseen = np.arange(lengths.max() + 1) > lengths[:, None, None, None]
    return RowsAtOnce(texts, caches[texts.start], lengths, unseen.shape[-1], unseen if unseen.any() else None)
