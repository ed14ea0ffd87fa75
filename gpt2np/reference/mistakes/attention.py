"""Mistakes between qkv and the heads' results: scale, mask, softmax, cache."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import At, Mistake, future, softmax


def products(q: Array, k: Array) -> Array:
    """Dot products of queries and keys, neither scaled nor masked: [head, query, key]."""
    return np.asarray(np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0)))


class ScoresScale(Mistake):
    """Scores multiplied by something else than 1 / sqrt(d_head)."""

    steps = ("attn.scores",)

    def scale(self, at: At) -> float:
        """What the dot products are multiplied by."""
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, _ = inputs
        out[...] = products(q, k) * self.scale(at)
        out[:, future(len(q), len(k))] = -np.inf


class ScoresUnscaled(ScoresScale):
    """No scale at all."""

    slug = "scores-unscaled"
    explanation = "The dot products are not divided by sqrt(d_head)."
    cure = "scores = q @ k.T / sqrt(d_head)."

    def scale(self, at: At) -> float:
        return 1.0


class ScoresScaledByWidth(ScoresScale):
    """1 / sqrt(n_embd)."""

    slug = "scores-scaled-by-n-embd"
    explanation = "The dot products are divided by sqrt(n_embd) instead of sqrt(d_head)."
    cure = "d_head is n_embd / n_head: 64 in every released GPT-2."

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(at.config.n_embd)


class ScoresScaledByHead(ScoresScale):
    """1 / d_head."""

    slug = "scores-scaled-by-d-head"
    explanation = (
        "The dot products are divided by d_head: the root is missing, or the scale is applied twice."
    )
    cure = "scores = q @ k.T / sqrt(d_head), once."

    def scale(self, at: At) -> float:
        return 1.0 / at.config.d_head


class ScoresScaledByLayer(ScoresScale):
    """A further division by the layer's number, or none where the config asks for it."""

    slug = "scores-scaled-by-layer"
    explanation = "Scores are divided by the layer's number, or are not although the config says so."
    cure = "Divide by layer + 1 only where scale_attn_by_inverse_layer_idx is true; in GPT-2 it is false."

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (1, 0)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, scale = inputs
        divisor = max((at.layer or 0) + variant, 1)
        out[...] = products(q, k) * scale
        out *= divisor if at.config.scale_attn_by_inverse_layer_idx else 1 / divisor
        out[:, future(len(q), len(k))] = -np.inf


class MaskMissing(Mistake):
    """Every position sees every other."""

    slug = "mask-missing"
    explanation = "There is no causal mask: every position sees the whole text."
    cure = "Set scores to -inf where the key comes after the query, before softmax."
    steps = ("attn.scores",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, scale = inputs
        out[...] = products(q, k) * scale


class MaskOffByOne(Mistake):
    """The next token is seen, or the token itself is not."""

    slug = "mask-off-by-one"
    explanation = "The causal mask is shifted by one: a position sees the next token, or does not see itself."
    cure = "A query sees the keys up to and including its own position."
    steps = ("attn.scores",)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (2, 0)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, scale = inputs
        out[...] = products(q, k) * scale
        out[:, future(len(q), len(k), variant)] = -np.inf

    def detail(self, variant: Any) -> str:
        return "the next token is seen" if variant == 2 else "the token itself is not seen"


class MaskAfterSoftmax(Mistake):
    """The future takes its part in softmax, and is set to 0 afterwards."""

    slug = "mask-after-softmax"
    explanation = "The mask is applied after softmax: the rows of the pattern no longer sum to 1."
    cure = "Mask the scores with -inf before softmax."
    steps = ("attn.pattern",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k = at.earlier("attn.q"), at.earlier("attn.k")
        out[...] = softmax(products(q, k) * at.config.attention_scale(at.layer or 0))
        out[:, future(len(q), len(k))] = 0.0


class MaskValueSmall(Mistake):
    """A finite value in the future that softmax does not take for minus infinity."""

    slug = "mask-value-small"
    explanation = "Future scores get a value that is too small in magnitude: softmax still gives them weight."
    cure = "Use -inf, or at least -1e10."
    steps = ("attn.pattern",)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (("set", 0.0), ("set", -1.0), ("set", -10.0), ("set", 1e-9), ("set", -100.0))
        yield from (("add", -1.0), ("add", -10.0), ("add", -100.0))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k = at.earlier("attn.q"), at.earlier("attn.k")
        scores = products(q, k) * at.config.attention_scale(at.layer or 0)
        how, value = variant
        scores = np.where(future(len(q), len(k)), value + (scores if how == "add" else 0.0), scores)
        out[...] = softmax(scores)

    def detail(self, variant: Any) -> str:
        return f"{variant[1]:g} is {'added to' if variant[0] == 'add' else 'put in place of'} them"


class SoftmaxWrongAxis(Mistake):
    """Softmax over queries or heads."""

    slug = "softmax-wrong-axis"
    explanation = "Softmax runs over the wrong axis: queries or heads instead of keys."
    cure = "Softmax over the last axis of [head, query, key]."
    steps = ("attn.pattern",)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from ("query", "head")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = softmax(inputs[0], axis=1 if variant == "query" else 0)

    def detail(self, variant: Any) -> str:
        return f"over the axis {variant}"


class PatternTransposed(Mistake):
    """Values averaged along the wrong axis of the pattern."""

    slug = "pattern-transposed"
    explanation = "The pattern is transposed before it averages the values: keys gather from queries."
    cure = "z[query] = sum over key of pattern[query, key] * v[key]."
    steps = ("attn.z",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        pattern, v = inputs
        out[...] = np.matmul(pattern.transpose(0, 2, 1), v.transpose(1, 0, 2)).transpose(1, 0, 2)


class HeadsMergedUntransposed(Mistake):
    """[head, pos, d_head] reshaped to [pos, n_embd] as it lies in memory."""

    slug = "heads-merged-untransposed"
    explanation = (
        "[head, pos, d_head] is reshaped to [pos, n_embd] without moving the heads behind pos first."
    )
    cure = "Transpose to [pos, head, d_head] before merging heads."
    steps = ("attn.z",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        pattern, v = inputs
        out[...] = np.matmul(pattern, v.transpose(1, 0, 2)).reshape(out.shape)


class StaleCacheRow(Mistake):
    """With a cache, a row of keys and values is not the token's own."""

    slug = "stale-cache-row"
    explanation = (
        "A row of the KV cache is stale: a new token attends to keys and values that are not its own."
    )
    cure = "Write a token's keys and values into the cache, at its own position, before attending to them."
    steps = ("attn.scores", "attn.z")
    together = True

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        starts = [prefill] if prefill < n_tokens else range(1, n_tokens)
        for start in starts:
            yield from ((start, "own", filled) for filled in ("zero", "before"))
            if prefill < n_tokens:
                yield from ((start, row, f) for row in range(n_tokens) for f in ("zero", "before"))

    def _stale(self, x: Array, query: int, variant: Any) -> Array:
        start, row, filled = variant
        row = query if row == "own" else row
        if query < start or row > query:
            return x
        stale = x.copy()
        stale[row] = 0.0 if filled == "zero" or row == 0 else x[row - 1]
        return stale

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        for query in range(len(out) if at.step == "attn.z" else out.shape[1]):
            if at.step == "attn.scores":
                q, k, scale = inputs
                keys = self._stale(k, query, variant)
                out[:, query] = np.einsum("hd,khd->hk", q[query], keys) * scale
                out[:, query, query + 1 :] = -np.inf
            else:
                pattern, v = inputs
                out[query] = np.einsum("hk,khd->hd", pattern[:, query], self._stale(v, query, variant))

    def detail(self, variant: Any) -> str:
        start, row, filled = variant
        which = "the new token's own row" if row == "own" else f"row {row}"
        value = "is still 0" if filled == "zero" else "holds the row before it"
        return f"from position {start} on {which} {value}"
