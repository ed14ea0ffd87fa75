"""Mistakes in softmax, and in the average of values that it weighs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import At, Mistake, not_seen, softmax
from gpt2np.tracing.contract import ModelConfig


class SoftmaxWrongAxis(Mistake):
    """Softmax over queries or heads."""

    slug = "softmax-wrong-axis"
    explanation = "Softmax runs over the wrong axis: queries or heads instead of keys."
    cure = "Softmax over the last axis of [head, query, key]."
    hints = (
        "Which numbers share what there is to share out?",
        "What do the weights of one token add up to?",
    )
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("query", "head", "head, with a finite mask", "query and key")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        scores = inputs[0]
        if variant == "head, with a finite mask":
            scores = np.maximum(scores, -1e30)
        axes: dict[str, int | tuple[int, ...]] = {"query": 1, "query and key": (1, 2)}
        out[...] = softmax(scores, axis=axes.get(variant, 0))

    def detail(self, variant: Any) -> str:
        return f"over the axis {variant}"


class PatternTransposed(Mistake):
    """Values averaged along the wrong axis of the pattern."""

    slug = "pattern-transposed"
    explanation = "The pattern is transposed before it averages the values: keys gather from queries."
    cure = "z[query] = sum over key of pattern[query, key] * v[key]."
    hints = (
        "Who gathers, and who is gathered from?",
        "Do the weights of one token meet what they were made for?",
    )
    steps = ("attn.z",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        pattern, v = inputs
        out[...] = np.matmul(pattern.transpose(0, 2, 1), v.transpose(1, 0, 2)).transpose(1, 0, 2)


class SoftmaxSum(Mistake):
    """A sum that does not begin at 0."""

    slug = "softmax-sum-starts-at-one"
    explanation = "The sum of softmax starts at 1: part of every row's weight is lost."
    cure = "The sum starts at 0: a row of the pattern adds up to 1."
    hints = (
        "Which share of its attention does a token give away?",
        "With which number does your loop begin?",
    )
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("shifted", "raw")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        scores = inputs[0]
        e = np.exp(scores - (scores.max(axis=-1, keepdims=True) if variant == "shifted" else 0.0))
        out[...] = e / (1.0 + e.sum(axis=-1, keepdims=True))

    def detail(self, variant: Any) -> str:
        return "" if variant == "shifted" else "and the largest score is not subtracted"


class SoftmaxMissing(Mistake):
    """No softmax, or no division in it."""

    slug = "softmax-missing"
    explanation = "Softmax is left out, or is not divided by its sum: the pattern is not a distribution."
    cure = "pattern = exp(scores - max) / sum over keys."
    hints = (
        "What do the weights of one token add up to?",
        "Can a weight be more than all, or less than nothing?",
    )
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("scores", "shifted", "raw")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        scores = inputs[0]
        largest = scores.max(axis=-1, keepdims=True) if variant == "shifted" else 0.0
        out[...] = scores if variant == "scores" else np.exp(scores - largest)
        out[:, not_seen(at, *out.shape[1:])] = 0.0

    def detail(self, variant: Any) -> str:
        forms = {"scores": "the scores themselves are the weights", "raw": "it is exp(scores)"}
        return forms.get(variant, "it is exp(scores - max)")


class SoftmaxTwice(Mistake):
    """Softmax of softmax."""

    slug = "softmax-twice"
    explanation = "Softmax is applied twice: the pattern is much too even."
    cure = "pattern = softmax(scores), once."
    hints = (
        "How often does a number come through here?",
        "Are the weights of one token nearly all the same?",
    )
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("masked", "unmasked")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        once = softmax(inputs[0])
        hidden = not_seen(at, *once.shape[1:]) if variant == "masked" else False
        out[...] = softmax(np.where(hidden, -np.inf, once))

    def detail(self, variant: Any) -> str:
        return "" if variant == "masked" else "and the second time without a mask"


class FlashNotRescaled(Mistake):
    """Softmax in one pass over the keys, whose parts are not brought to the same maximum."""

    slug = "flash-not-rescaled"
    explanation = "In one pass over the keys (flash attention) what was summed before is not rescaled."
    cure = "When the largest score grows from m to m2, multiply the sum and the values by exp(m - m2)."
    hints = (
        "Is everything right where the first token of a row is the most important?",
        "What becomes of what you have gathered so far, if somebody louder speaks up?",
    )
    steps = ("attn.z",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        parts = ("sum and values", "values", "sum")
        yield from ((part, n) for n in (1, 32, 64, 128) if n < n_tokens for part in parts)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        scores, v = at.earlier("attn.scores"), inputs[1].transpose(1, 0, 2)
        part, n = variant
        largest = np.full((*scores.shape[:2], 1), -np.inf)
        total, mixed = np.zeros_like(largest), np.zeros((*scores.shape[:2], v.shape[2]))
        for start in range(0, scores.shape[2], n):
            some = scores[:, :, start : start + n]
            now = np.maximum(largest, some.max(axis=-1, keepdims=True))
            shift = np.where(np.isneginf(now), 0.0, now)  # where no key has been seen yet
            shrink, e = np.exp(largest - shift), np.exp(some - shift)
            total = total * (1.0 if "sum" in part else shrink) + e.sum(axis=-1, keepdims=True)
            mixed = mixed * (1.0 if "values" in part else shrink) + e @ v[:, start : start + n]
            largest = now
        out[...] = (mixed / total).transpose(1, 0, 2)

    def detail(self, variant: Any) -> str:
        part, n = variant
        return f"the {part}, with {n} {'key' if n == 1 else 'keys'} at a time"


class OwnValueLeftOut(Mistake):
    """The last summand of the average is missing."""

    slug = "own-value-left-out"
    explanation = "The average of values stops one key too early: a token's own value is left out."
    cure = "z[query] = sum over key of pattern[query, key] * v[key], up to and including the query's own."
    hints = (
        "Where do you start to count, and where do you stop?",
        "What does the very first token get?",
    )
    steps = ("attn.z",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        pattern, v = inputs
        others = np.where(np.eye(*pattern.shape[1:]) > 0, 0.0, pattern)
        out[...] = np.matmul(others, v.transpose(1, 0, 2)).transpose(1, 0, 2)
