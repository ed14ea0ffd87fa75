"""Mistakes in what GPT-2 has not: keys shared by heads, gates, soft caps, scaled embeddings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, capped_scores, capped_unembedding, mix, product, scaled, unembedding
from gpt2np.reference.mistakes.base import At, Mistake, capped, not_seen, products
from gpt2np.tracing.contract import ModelConfig


class GroupsInterleaved(Mistake):
    """Query head h reads key head h % n_kv_head."""

    slug = "groups-interleaved"
    explanation = "Query head h reads key and value head h % n_kv_head (keys tiled instead of repeated)."
    cure = "Heads that share are neighbours: key head h // (n_head / n_kv_head); np.repeat, not np.tile."
    hints = (
        "Who has what in common with whom?",
        "There is less of one thing than of another: who goes without one of his own?",
    )
    steps = ("attn.scores", "attn.z")
    operations = (capped_scores, mix)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (None,) if 1 < config.n_kv_head < config.n_head else ()

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        heads = np.arange(at.config.n_head) % at.config.n_kv_head
        if at.step == "attn.scores":
            q, k, scale, *_ = inputs
            out[...] = capped(at, products(q, k[:, heads]) * scale)
            out[:, not_seen(at, len(q), len(k))] = -np.inf
        else:
            pattern, v = inputs
            out[...] = np.matmul(pattern, v[:, heads].transpose(1, 0, 2)).transpose(1, 0, 2)


class ScoresCap(Mistake):
    """No soft cap on the scores, or one that is not the config's, or one behind the mask."""

    slug = "scores-cap"
    explanation = "The soft cap of the scores is missing, is another one, or comes after the mask."
    cure = "cap * tanh(scores / cap), cap being attn_logit_softcapping, and only then -inf where not seen."
    hints = (
        "How large may these numbers become in this model?",
        "What does a bent curve make of what is infinitely far down?",
    )
    steps = ("attn.scores",)
    operations = (capped_scores,)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        cap = getattr(config, "attn_logit_softcapping", None)
        if cap is not None:
            yield from ("missing", "after the mask")
        final = getattr(config, "final_logit_softcapping", None)
        yield from (other for other in dict.fromkeys((50.0, 30.0, final)) if other not in (None, cap))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, scale, cap, _ = inputs
        found, hidden = products(q, k) * scale, not_seen(at, len(q), len(k))
        out[...] = (
            found if variant == "missing" else _bent(found, cap if isinstance(variant, str) else variant)
        )
        out[:, hidden] = -cap if variant == "after the mask" else -np.inf

    def detail(self, variant: Any) -> str:
        return variant if isinstance(variant, str) else f"it is {variant:g}"


class LogitsCap(Mistake):
    """No soft cap on the logits, or another one."""

    slug = "logits-cap"
    explanation = "The soft cap of the logits is missing, or is another one."
    cure = "logits = cap * tanh(logits / cap), cap being final_logit_softcapping."
    hints = (
        "How large may these numbers become in this model?",
        "What comes after the very last product?",
    )
    steps = ("logits",)
    operations = (capped_unembedding,)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        cap = getattr(config, "final_logit_softcapping", None)
        if cap is not None:
            yield "missing"
        scores = getattr(config, "attn_logit_softcapping", None)
        yield from (other for other in dict.fromkeys((30.0, 50.0, scores)) if other not in (None, cap))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, table, _ = inputs
        unembedding(x, table, out=out)
        if variant != "missing":
            out[...] = _bent(out, variant)

    def detail(self, variant: Any) -> str:
        return variant if isinstance(variant, str) else f"it is {variant:g}"


class GateAndUp(Mistake):
    """The two halves of the MLP in each other's place."""

    slug = "gate-and-up-swapped"
    explanation = "Gate and up are swapped: the activation function bends what should pass the gate."
    cure = "act(x @ gate_proj.T) * (x @ up_proj.T)."
    hints = (
        "Which of two halves is bent, and which passes?",
        "If two matrices have one shape, how do you know which is which?",
    )
    steps = ("mlp.pre", "mlp.up")
    operations = (product,)
    together = True

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        mlp = at.block.mlp
        product(inputs[0], mlp.up_proj if at.step == "mlp.pre" else mlp.gate_proj, out=out)


class EmbeddingUnscaled(Mistake):
    """Rows of the table as they are, or scaled twice."""

    slug = "embedding-unscaled"
    explanation = "Embeddings are not multiplied by sqrt(n_embd), or are twice, or by n_embd."
    cure = "Multiply the rows of the table by sqrt(n_embd), once; the unembedding takes them as they are."
    hints = (
        "How long should the very first vectors be?",
        "Is what enters the first layer just what you looked up?",
    )
    steps = ("embed",)
    operations = (scaled,)
    only_scales = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("not at all", "twice")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, factor = inputs
        out[...] = x if variant == "not at all" else x * factor * factor

    def detail(self, variant: Any) -> str:
        return str(variant)


def _bent(x: Array, cap: float) -> Array:
    return np.asarray(cap * np.tanh(x / cap))
