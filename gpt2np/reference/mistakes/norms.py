"""Mistakes in LayerNorm."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import Array, LayerNorm, layer_norm, linear, unembedding
from gpt2np.reference.mistakes.base import At, Mistake

NORMS = ("ln_1", "ln_2", "ln_f")


def _normalise(x: Array, p: LayerNorm, out: Array, mean: Any, deviation: Any) -> None:
    out[...] = (x - mean) / deviation * p.weight + p.bias


class LayerNormDdof1(Mistake):
    """The variance divided by n - 1."""

    slug = "layernorm-ddof1"
    explanation = "The variance is divided by n - 1 (ddof 1, the default of torch.var and of statistics)."
    cure = "Divide by n: LayerNorm's variance is the mean of squares."
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        deviation = np.sqrt(x.var(-1, ddof=1, keepdims=True) + p.epsilon)
        _normalise(x, p, out, x.mean(-1, keepdims=True), deviation)


class LayerNormEpsilonOutside(Mistake):
    """sqrt(variance) + epsilon."""

    slug = "layernorm-eps-outside"
    explanation = "Epsilon is added to the standard deviation instead of the variance."
    cure = "Divide by sqrt(variance + epsilon)."
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        _normalise(x, p, out, x.mean(-1, keepdims=True), x.std(-1, keepdims=True) + p.epsilon)


class LayerNormNoEpsilon(Mistake):
    """sqrt(variance)."""

    slug = "layernorm-no-eps"
    explanation = "Epsilon is missing, or so small that it does nothing."
    cure = "Divide by sqrt(variance + layer_norm_epsilon); GPT-2's is 1e-5."
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        _normalise(x, p, out, x.mean(-1, keepdims=True), x.std(-1, keepdims=True))


class LayerNormEpsilonValue(Mistake):
    """Another epsilon."""

    slug = "layernorm-eps-value"
    explanation = "Epsilon has another value than the config's layer_norm_epsilon."
    cure = "Read layer_norm_epsilon from the config; GPT-2's is 1e-5."
    steps = NORMS

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (e for e in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7) if e != config.layer_norm_epsilon)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        layer_norm(x, p._replace(epsilon=variant), out=out)

    def detail(self, variant: Any) -> str:
        return f"epsilon is {variant:g}"


class LayerNormNoMean(Mistake):
    """RMSNorm."""

    slug = "layernorm-no-mean"
    explanation = "The mean is not subtracted (RMSNorm)."
    cure = "Subtract the mean over n_embd before dividing by the standard deviation."
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        _normalise(x, p, out, 0.0, np.sqrt(np.square(x).mean(-1, keepdims=True) + p.epsilon))


class LayerNormNoWeight(Mistake):
    """No learned scale, or neither scale nor shift."""

    slug = "layernorm-no-weight"
    explanation = "The learned scale (and perhaps the shift) of LayerNorm is not applied."
    cure = "Multiply the normalised vector by ln.weight, then add ln.bias."
    steps = NORMS

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from ("scale", "scale and shift")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        ones, bias = np.ones_like(p.weight), p.bias if variant == "scale" else np.zeros_like(p.bias)
        layer_norm(x, p._replace(weight=ones, bias=bias), out=out)

    def detail(self, variant: Any) -> str:
        return f"without {variant}"


class NormsSwapped(Mistake):
    """ln_1 with the parameters of ln_2, or the other way round."""

    slug = "norms-swapped"
    explanation = "ln_1 runs with ln_2's parameters, or ln_2 with ln_1's."
    cure = "ln_1 stands before attention, ln_2 before the MLP."
    steps = ("ln_1", "ln_2")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        layer_norm(inputs[0], at.block.ln_2 if at.step == "ln_1" else at.block.ln_1, out=out)


class MissingNorm(Mistake):
    """The block's sublayer reads the residual stream itself."""

    slug = "missing-ln"
    explanation = "LayerNorm is left out: the block reads the residual stream as it is."
    cure = "Attention reads ln_1(x), the MLP ln_2(x)."
    steps = ("ln_1", "attn.qkv", "ln_2", "mlp.pre")  # or it is computed, and not used

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step in ("ln_1", "ln_2"):
            out[...] = inputs[0]
        else:
            linear(at.earlier("resid_pre" if at.step == "attn.qkv" else "resid_mid"), inputs[1], out=out)


class MissingFinalNorm(Mistake):
    """The unembedding reads the residual stream itself."""

    slug = "missing-ln-f"
    explanation = "The final LayerNorm is left out."
    cure = "Apply ln_f to the last block's output before the unembedding."
    steps = ("ln_f", "logits")  # or it is computed, and not used

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "ln_f":
            out[...] = inputs[0]
        else:
            unembedding(at.found[f"h.{at.config.n_layer - 1}.resid_post"], inputs[1], out=out)
