"""Mistakes at the end, and in what was recorded: recognised in the dump, where no replay can give them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, unembedding
from gpt2np.reference.mistakes.base import EVERY_SITE, At, Mistake, Seen
from gpt2np.tracing.contract import ModelConfig


class UntiedWeights(Mistake):
    """The unembedding is not the matrix that it should be."""

    slug = "untied-weights"
    explanation = (
        "The unembedding is another matrix: not tied to wte, or tied where the checkpoint has lm_head."
    )
    cure = "lm_head.weight is wte.weight, unless the checkpoint has an lm_head.weight of its own."
    hints = (
        "To which tokens do you compare, at the end?",
        "How many big tables are there in your model, and which of them did you take here?",
    )
    of_gpt2 = True
    steps = ("logits",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        np.matmul(inputs[0], at.parameters.wte.T, out=out)

    def recognise(self, seen: Seen) -> str | None:
        """Logits that have nothing to do with those expected, although what it reads is right."""
        values, truth = seen.values, seen.truth
        if not seen.confirmed or not np.isfinite(values).all() or values.shape[-1] < 16:
            return None
        if (values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-3):
            return None  # probabilities, of which this says nothing
        if np.allclose(np.sort(values, None), np.sort(truth, None), rtol=0, atol=float(np.max(seen.band))):
            return None  # the right ones, in another order
        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (values, truth))
        product = float(np.linalg.norm(a) * np.linalg.norm(b))
        return "" if product == 0 or abs(float(np.sum(a * b))) / product < 0.5 else None


class TransposedUnembedding(Mistake):
    """wte read as [n_embd, vocab]."""

    slug = "transposed-unembedding"
    explanation = "The unembedding reads wte as if it were [n_embd, vocab]."
    cure = "wte is [vocab, n_embd]: logits = x @ wte.T."
    hints = (
        "In which order do the numbers of a matrix lie in your file?",
        "Which of the two sides of your matrix meets the vector?",
    )
    steps = ("logits",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, table = inputs
        np.matmul(x, table.reshape(table.shape[::-1]), out=out)


class LogitsScaled(Mistake):
    """Divided by a temperature, or by sqrt(n_embd)."""

    slug = "logits-scaled"
    explanation = "The logits are multiplied by a number: a temperature, or a root of n_embd."
    cure = "logits = ln_f(x) @ wte.T: a temperature belongs to sampling."
    hints = (
        "Do your numbers lie as far apart as they should?",
        "What did you do to the scores of the tokens, after you had them?",
    )
    steps = ("logits",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (config.n_embd**-0.5, config.n_embd**0.5)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        unembedding(*inputs, out=out)
        out *= variant

    def recognise(self, seen: Seen) -> str | None:
        """Any factor at all."""
        size = float(np.sum(np.square(seen.truth)))
        factor = (
            float(np.sum(seen.values * seen.truth)) / size if size and np.isfinite(seen.values).all() else 0.0
        )
        fits = np.abs(seen.values - factor * seen.truth) <= np.maximum(factor, 1.0) * seen.band
        return self.detail(factor) if factor > 0 and abs(factor - 1) > 0.01 and fits.all() else None

    def detail(self, variant: Any) -> str:
        return f"by {variant:.4g}"


class TargetsNotShifted(Mistake):
    """The loss of the token itself, or of the one after the next."""

    slug = "targets-not-shifted"
    explanation = (
        "The loss is of a token other than the next: targets are not shifted by one, or are shifted by two."
    )
    cure = "Position p predicts token p + 1: logits[:-1] against ids[1:]."
    hints = (
        "What is a token supposed to guess?",
        "Whose probability is it that you take the logarithm of?",
    )
    steps = ("loss",)

    def recognise(self, seen: Seen) -> str | None:
        ids = np.array(seen.right.token_ids)
        logits = seen.right["logits"].astype(np.float64)
        logits = logits - logits.max(axis=-1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=-1, keepdims=True)) - logits
        for moved, detail in ((0, "it is of the token itself"), (2, "it is of the token after the next")):
            rows = np.arange(len(ids) - max(moved, 1))  # the last position has no target of its own
            if len(rows) < 3 or seen.values.shape != ids.shape:
                continue
            other = losses[rows, ids[rows + moved]]
            if (np.abs(seen.values[rows] - other) <= 2 * np.max(seen.band[rows]) + 1e-5 * other).all():
                return detail
        return None


class RowsReversed(Mistake):
    """Positions from back to front."""

    slug = "rows-reversed"
    explanation = "The rows are those of the right run, from the last position to the first."
    cure = "Record rows in the order of the text, the first token first."
    hints = (
        "Is every number right, and only its place wrong?",
        "In which direction does your array run?",
    )
    steps = EVERY_SITE
    anywhere = True

    def recognise(self, seen: Seen) -> str | None:
        values, truth = seen.values, seen.truth
        if truth.ndim < 2 or len(seen.right.token_ids) < 3 or seen.site in ("attn.scores", "attn.pattern"):
            return None
        band = np.broadcast_to(seen.band, truth.shape)[::-1]
        return "" if (np.abs(values - truth[::-1]) <= band).all() else None


class RecordOverwritten(Mistake):
    """A site that holds what a later step left in the same memory."""

    slug = "record-overwritten"
    explanation = "The array holds what a later step has written there: it was recorded without a copy."
    cure = "Copy an array when you record it, or give every layer memory of its own."
    hints = (
        "When did you look at this: at once, or at the end?",
        "Who else writes to where this one is?",
    )
    steps = EVERY_SITE
    anywhere = True

    def recognise(self, seen: Seen) -> str | None:
        """What a later layer, or another step of the residual stream, has at this place."""
        config, n = seen.right.config, seen.right.config.n_layer
        table = config.architecture.sites
        if seen.site in ("wte", "wpe"):
            return None
        if seen.layer is not None:
            later = [table[seen.site].full_name(layer) for layer in range(seen.layer + 1, n)]
        else:
            later = []
        if seen.site in ("embed", "resid_mid", "resid_post"):
            own = seen.layer if seen.layer is not None else 0
            later += [f"h.{i}.{kind}" for i in range(own, n) for kind in ("resid_mid", "resid_post")]
            later.append("ln_f")
        for name in dict.fromkeys(later):
            if name == (table[seen.site].full_name(seen.layer)):
                continue
            other = seen.right[name]
            with np.errstate(invalid="ignore"):
                scale = np.max(np.abs(np.where(np.isfinite(other), other, 0.0)), axis=-1, keepdims=True)
                near = np.abs(seen.values - other) <= np.maximum(seen.band, 1e-5 * scale)
            if other.shape == seen.values.shape and (near | (seen.values == other)).all():
                return f"it holds {name}"
        return None
