"""Mistakes in the scale of the scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2np.ops import Array, project
from gpt2np.reference.mistakes.base import SCORES, At, Mistake, capped, not_seen, products, scaled_products
from gpt2np.tracing.contract import ModelConfig


class ScoresScale(Mistake):
    """Scores multiplied by something else than 1 / sqrt(d_head)."""

    steps = ("attn.scores",)
    operations: ClassVar[tuple[Callable[..., None], ...]] = SCORES

    def scale(self, at: At) -> float:
        """What the dot products are multiplied by."""
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        out[...] = capped(at, products(q, k) * self.scale(at))
        out[:, not_seen(at, len(q), len(k))] = -np.inf


class ScoresUnscaled(ScoresScale):
    """No scale at all."""

    slug = "scores-unscaled"
    explanation = "The dot products are not divided by sqrt(d_head)."
    cure = "scores = q @ k.T / sqrt(d_head)."
    hints = (
        "How large does a sum of many products get?",
        "Is each row of weights nearly all on one token?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (None,) if config.attention_scale(0) != 1.0 else ()

    def scale(self, at: At) -> float:
        return 1.0


class ScoresScaledByWidth(ScoresScale):
    """1 / sqrt(n_embd)."""

    slug = "scores-scaled-by-n-embd"
    explanation = "The dot products are divided by sqrt(n_embd) instead of sqrt(d_head)."
    cure = "d_head is n_embd / n_head: 64 in every released GPT-2."
    hints = (
        "How long is one of the vectors whose products you take?",
        "Did you count all the pieces together, or one of them?",
    )

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(at.config.n_embd)


class ScoresScaledByHead(ScoresScale):
    """1 / d_head."""

    slug = "scores-scaled-by-d-head"
    explanation = (
        "The dot products are divided by d_head: the root is missing, or the scale is applied twice."
    )
    cure = "scores = q @ k.T / sqrt(d_head), once."
    hints = (
        "Are your weights nearly all the same?",
        "How does the size of a sum grow with the number of its summands?",
    )

    def scale(self, at: At) -> float:
        return 1.0 / at.config.d_head


class ScoresScaledByHeadDim(ScoresScale):
    """1 / sqrt(d_head) in a model whose config has another number for it."""

    slug = "scores-scaled-by-head-dim"
    explanation = "The dot products are divided by sqrt(head_dim), and not by sqrt(query_pre_attn_scalar)."
    cure = "Read query_pre_attn_scalar from the config: only in some sizes it is the same as head_dim."
    hints = (
        "Where did you take the number from that you divide by?",
        "Do you work something out that the makers have told you?",
    )
    operations = SCORES[2:]

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (None,) if config.attention_scale(0) != 1.0 / math.sqrt(config.d_head) else ()

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(at.config.d_head)


class ScoresScaledByLayer(ScoresScale):
    """A further division by the layer's number, or none where the config asks for it."""

    slug = "scores-scaled-by-layer"
    explanation = "Scores are divided by the layer's number, or are not although the config says so."
    operations = SCORES[:2]
    cure = "Divide by layer + 1 only where scale_attn_by_inverse_layer_idx is true; in GPT-2 it is false."
    hints = (
        "Is the very first layer right?",
        "Does your program do the same thing everywhere, and is it meant to?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (1, 0)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        divisor = max((at.layer or 0) + variant, 1)
        divided = at.config.attention_scale(0) != at.config.attention_scale(1)  # as the config asks
        out[...] = scaled_products(at, q, k)
        out *= divisor if divided else 1 / divisor
        out[:, not_seen(at, len(q), len(k))] = -np.inf


class ScoresScaledByHeads(ScoresScale):
    """1 / sqrt(n_head)."""

    slug = "scores-scaled-by-n-head"
    explanation = "The dot products are divided by sqrt(n_head) instead of sqrt(d_head): an axis is mixed up."
    cure = "scores = q @ k.T / sqrt(d_head); d_head is n_embd / n_head, the size of the last axis."
    hints = (
        "How long is one of the vectors whose products you take?",
        "Which of your axes is it that you count along here?",
    )

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(at.config.n_head)


class ScoresScaledByLength(Mistake):
    """1 / sqrt(number of keys)."""

    slug = "scores-scaled-by-length"
    explanation = "The dot products are divided by the root of the number of tokens instead of sqrt(d_head)."
    cure = "scores = q @ k.T / sqrt(d_head): the size of the last axis, whatever the text."
    hints = (
        "Would a longer text change what two tokens are to each other?",
        "Which of your axes is it that you count along here?",
    )
    steps = ("attn.scores",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("all", "those so far")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        keys = np.arange(len(k) - len(q), len(k))[:, None] + 1
        out[...] = products(q, k) / np.sqrt(len(k) if variant == "all" else keys)
        out[:, not_seen(at, len(q), len(k))] = -np.inf

    def detail(self, variant: Any) -> str:
        return "" if variant == "all" else "of those that the query sees"


class ScoresScaledByQkv(ScoresScale):
    """1 / sqrt(3 n_embd)."""

    slug = "scores-scaled-by-qkv"
    explanation = "The dot products are divided by sqrt(3 * n_embd), the width of the fused qkv."
    cure = "scores = q @ k.T / sqrt(d_head); d_head is n_embd / n_head."
    hints = (
        "How long is one of the vectors whose products you take?",
        "Did you count all the pieces together, or one of them?",
    )
    rare = True

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(3 * at.config.n_embd)


class ScoresMultiplied(ScoresScale):
    """sqrt(d_head)."""

    slug = "scores-multiplied"
    explanation = "The dot products are multiplied by sqrt(d_head) instead of divided by it."
    cure = "scores = q @ k.T / sqrt(d_head)."
    hints = (
        "Is each row of weights nearly all on one token?",
        "Do your numbers get smaller in this step, or larger?",
    )

    def scale(self, at: At) -> float:
        return math.sqrt(at.config.d_head)


class ScoresScaledAnyway(ScoresScale):
    """1 / sqrt(d_head) in a model that has no scale."""

    slug = "scores-scaled-anyway"
    explanation = "The dot products are divided by sqrt(d_head), and in this model they should not be."
    cure = "Leave q @ k.T as it is: GPT-Neo never divides it, nor does GPT-2 if scale_attn_weights is false."
    hints = (
        "Who told you to make these numbers smaller?",
        "Does this model do what the first one did that you know?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (None,) if config.attention_scale(0) == 1.0 != config.d_head else ()

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        out[...] = scaled_products(at, q, k) / math.sqrt(at.config.d_head)
        out[:, not_seen(at, len(q), len(k))] = -np.inf


class ScoresScaledOnOneSide(ScoresScale):
    """1 / d_head ** 0.25."""

    slug = "scores-scaled-by-fourth-root"
    explanation = "The dot products are divided by the fourth root of d_head: of q and k only one is scaled."
    cure = "scores = q @ k.T / sqrt(d_head): divide q and k each by d_head ** 0.25, or their product once."
    hints = (
        "How does the size of a sum grow with the number of its summands?",
        "Two vectors meet: what did you do to the one, and what to the other?",
    )
    rare = True

    def scale(self, at: At) -> float:
        return 1.0 / math.sqrt(math.sqrt(at.config.d_head))


class QueryScaled(Mistake):
    """Queries multiplied by a scale that belongs to the scores, or to another model."""

    slug = "query-scaled"
    explanation = "Queries are divided by a root of d_head, and the scores are right without that."
    cure = "GPT-Neo scales nothing; Gemma-2 scales queries, or their products with keys, once."
    hints = (
        "Who told you to make these vectors shorter?",
        "Does the same thing happen again further down?",
    )
    steps = ("attn.q",)
    operations = (project,)
    whole = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        roots = dict.fromkeys((1 / math.sqrt(config.d_head), config.attention_scale(0)))
        yield from (root for root in roots if root != 1.0)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        project(*inputs, out=out)
        out *= variant

    def detail(self, variant: Any) -> str:
        return f"by {1 / variant:.4g}"
