"""Mistakes in RMSNorm."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, rms_norm
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig


class OfRMSNorm(Mistake):
    """Something else than x / sqrt(mean(x * x) + eps) * weight."""

    steps = ("ln_1", "attn.out", "ln_2", "mlp.out", "ln_f")
    operations = (rms_norm,)


class NormWithoutOne(OfRMSNorm):
    """The weight as the file has it, without the 1 that belongs to it."""

    slug = "rmsnorm-without-one"
    explanation = "The norm multiplies by the stored weight alone: Gemma's files hold what is added to 1."
    cure = "x / sqrt(mean(x * x) + eps) * (1 + weight)."
    hints = (
        "What would this step do to a vector if it had learned nothing yet?",
        "Is what you read already what is meant to be used?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        out[...] = x / _root(x, p.epsilon) * (p.weight - 1)


class NormTakesMean(OfRMSNorm):
    """LayerNorm's mean is taken off."""

    slug = "rmsnorm-takes-mean"
    explanation = "The mean is subtracted first, as in LayerNorm."
    cure = "RMSNorm subtracts nothing: it divides by the root of the mean of squares."
    hints = (
        "What happens to a vector whose numbers are all alike?",
        "Do you do here what another model did that you knew before?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        centred = x - x.mean(axis=-1, keepdims=True)
        out[...] = centred / _root(centred, p.epsilon) * p.weight


class NormForgets(OfRMSNorm):
    """A part of the norm is left out, or all of it."""

    slug = "rmsnorm-forgets"
    explanation = "The norm is left out, or its weight, or epsilon is not inside the root."
    cure = "Every block has four norms: before and behind attention, before and behind the MLP."
    hints = (
        "Is every number in use that was learned for this step?",
        "How long is a vector when it comes out, and how long should it be?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("all of it", "its weight", "epsilon", "the root over epsilon")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        if variant == "all of it":
            out[...] = x
        elif variant == "its weight":
            out[...] = x / _root(x, p.epsilon)
        elif variant == "epsilon":
            out[...] = x / _root(x, 0.0) * p.weight
        else:
            out[...] = x / (_root(x, 0.0) + p.epsilon) * p.weight

    def detail(self, variant: Any) -> str:
        return str(variant)


def _root(x: Array, epsilon: float) -> Array:
    return np.asarray(np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon))
