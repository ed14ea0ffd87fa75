"""Mistakes in the cache of keys and values."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.ops import Array, linear
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig


class CacheMistake(Mistake):
    """What a query finds in the cache is not the keys and values of the positions up to its own.

    A dump's own keys and values may be those of the cache as it is left in the end, or as they should be.
    """

    of_gpt2 = True
    steps = ("attn.qkv", "attn.scores", "attn.z")
    whole = True
    unseen = ("attn.qkv", "attn.q", "attn.k", "attn.v")
    together = True

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        """Rows of keys and values that a query reads: [query+1, head, d_head]; NaN: there is no such row.

        `k` and `v` are the right ones of all positions.
        """
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        n_head = at.config.n_head
        right = np.empty((len(at.earlier("ln_1")), 3 * at.config.n_embd), out.dtype)
        linear(at.earlier("ln_1"), at.block.attn.c_attn, out=right)
        q, k, v = split_qkv(right, n_head)
        if at.step == "attn.qkv":
            out[...] = right
            keys, values = self.cache(at, variant, k, v, len(k) - 1)
            _, out_k, out_v = split_qkv(out, n_head)
            out_k[...], out_v[...] = np.nan_to_num(keys), np.nan_to_num(values)
            return
        for query in range(len(k)):
            keys, values = self.cache(at, variant, k, v, query)
            if at.step == "attn.scores":
                scores = np.einsum("hd,khd->hk", q[query], keys) * inputs[2]
                out[:, query, : query + 1] = np.where(np.isnan(scores), -np.inf, scores)
                out[:, query, query + 1 :] = -np.inf
            else:
                weights = inputs[0][:, query, : query + 1]
                out[query] = np.einsum("hk,khd->hd", weights, np.nan_to_num(values))


class StaleCacheRow(CacheMistake):
    """With a cache, a row of keys and values is not the token's own."""

    slug = "stale-cache-row"
    explanation = (
        "A row of the KV cache is stale: a new token attends to keys and values that are not its own."
    )
    cure = "Write a token's keys and values into the cache, at its own position, before attending to them."
    hints = (
        "Does it matter to your program how the text was fed in: at once, or bit by bit?",
        "When is a token remembered: before it looks around, or afterwards?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        parts = ("keys and values", "values", "keys")
        forms = [(row, filled) for row in ("own", "new") for filled in ("zero", "before")]
        forms += [("new", "last"), ("past", "zero")]
        for start in starts:
            yield from ((start, *form, part) for part in parts for form in forms)
            if len(starts) == 1:
                rows = range(n_tokens)
                yield from ((start, row, filled, parts[0]) for row in rows for filled in ("zero", "before"))

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        part = variant[3]
        keys = self._stale(k, query, variant) if "keys" in part else k[: query + 1]
        return keys, self._stale(v, query, variant) if "values" in part else v[: query + 1]

    def _stale(self, x: Array, query: int, variant: Any) -> Array:
        start, row, filled, _ = variant
        found = x[: query + 1].copy()
        new, own = range(start, query + 1), range(query, query + 1)
        rows = {"own": own, "new": new, "past": range(query)}.get(row)
        if query < start or (rows is None and row > query):
            return found
        for stale in [row] if rows is None else rows:
            source = start - 1 if filled == "last" else stale - 1
            found[stale] = 0.0 if filled == "zero" or source < 0 else x[source]
        return found

    def detail(self, variant: Any) -> str:
        start, row, filled, part = variant
        names = {"own": "the new token's own row", "new": "every new row", "past": "every row but its own"}
        which = names.get(row, f"row {row}")
        which += "" if part == "keys and values" else f" of {part}"
        held = {"before": "holds the row before it", "last": f"is row {start - 1} again"}
        return f"from position {start} on {which} {held.get(filled, 'is still 0')}"


class CacheReversed(CacheMistake):
    """New rows in front of the old ones."""

    slug = "cache-reversed"
    explanation = "New keys or values are put in front of the cache instead of after it."
    cure = "The cache comes first, then the new rows: concatenate((past, new))."
    hints = (
        "Where does the newest one queue up?",
        "Do the two things that you remember stand in the same order?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        forms = [(part, whole) for whole in (False, True) for part in ("keys", "values")]
        forms.append(("keys and values", False))  # of which nothing but the order in the cache is wrong
        yield from ((start, *form) for start in starts for form in forms)

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        start, part, whole = variant
        order = np.arange(query + 1)
        if query >= start:
            order = order[::-1] if whole else np.concatenate((order[start:][::-1], order[:start]))
        return k[order if "keys" in part else slice(query + 1)], v[
            order if "values" in part else slice(query + 1)
        ]

    def detail(self, variant: Any) -> str:
        start, part, whole = variant
        return f"{part}, from position {start} on" + (", those of the first pass too" if whole else "")


class CacheOfAnotherLayer(CacheMistake):
    """Layers share their keys and values."""

    slug = "cache-of-another-layer"
    explanation = "Keys and values are those of another layer: layers share one cache."
    cure = "Every layer has a cache of its own."
    hints = (
        "Is the first layer right, and all the others wrong?",
        "Where did what you read here come from?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        layers = ("first layer", "layer before") if config.n_layer > 1 else ()
        yield from ((layer, None) for layer in layers)
        yield from ((layer, start) for start in starts for layer in layers)

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        which, start = variant
        layer = at.layer or 0
        other = 0 if which == "first layer" else max(layer - 1, 0)
        keys, values = k, v
        if other != layer:
            _, keys, values = split_qkv(at.found[f"h.{other}.attn.qkv"], at.config.n_head)
        if start is None:
            return keys[: query + 1], values[: query + 1]
        if query < start:
            return k[: query + 1], v[: query + 1]
        return np.concatenate((keys[:query], k[query:][:1])), np.concatenate((values[:query], v[query:][:1]))

    def detail(self, variant: Any) -> str:
        which, start = variant
        return f"of the {which}" + (
            "" if start is None else f", for the tokens before the new one, from {start} on"
        )


class CacheSlot(CacheMistake):
    """New rows are written over others."""

    slug = "cache-slot"
    explanation = "New keys and values overwrite others in the cache: their row is counted wrongly."
    cure = "A new token's row in the cache is its position, the number of tokens that are in it already."
    hints = (
        "Who is forgotten when somebody new comes?",
        "At which place do you remember the newest token, and who was there before?",
    )
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (
            (s, how)
            for s in starts
            for how in ("the row before", "the row before, and reads its own", "one row")
        )

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        keys, values = self._written(k, query, variant), self._written(v, query, variant)
        return keys, values

    def _written(self, x: Array, query: int, variant: Any) -> Array:
        start, how = variant
        found = x[: query + 1].copy()
        if query < start:
            return found
        if how == "one row":
            found[start:] = np.nan
            found[start] = x[query]
        else:
            found[start - 1 : query] = x[start : query + 1]
            found[query] = np.nan if how == "the row before" else 0.0
        return found

    def detail(self, variant: Any) -> str:
        start, how = variant
        return f"from position {start} on " + (
            "all are written to one row" if how == "one row" else f"they go to {how}"
        )


class CacheHalvesSwapped(CacheMistake):
    """Old keys are read as values, old values as keys."""

    slug = "cache-halves-swapped"
    explanation = "Keys and values of the past are swapped when they are read from the cache."
    cure = "Read the halves of the cache as they were written: keys first, then values."
    hints = (
        "Does it matter to your program how the text was fed in: at once, or bit by bit?",
        "Two things are remembered of each token: which is which?",
    )
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from starts

    def cache(self, at: At, variant: Any, k: Array, v: Array, query: int) -> tuple[Array, Array]:
        n = query if query >= variant else 0
        own = slice(n, query + 1)
        return np.concatenate((v[:n], k[own])), np.concatenate((k[:n], v[own]))

    def detail(self, variant: Any) -> str:
        return f"from position {variant} on"
