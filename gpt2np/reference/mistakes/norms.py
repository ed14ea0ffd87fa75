"""Mistakes in LayerNorm."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, LayerNorm, layer_norm, linear, unembedding
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig

NORMS = ("ln_1", "ln_2", "ln_f")


def _normalise(x: Array, p: LayerNorm, out: Array, mean: Any, deviation: Any) -> None:
    out[...] = (x - mean) / deviation * p.weight + p.bias


class LayerNormDdof1(Mistake):
    """The variance divided by n - 1."""

    slug = "layernorm-ddof1"
    explanation = "The variance is divided by n - 1 (ddof 1, the default of torch.var and of statistics)."
    cure = "Divide by n: LayerNorm's variance is the mean of squares."
    hints = (
        "What do you average over when you measure the spread?",
        "What does your library take, if you do not say which of the two you want?",
    )
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        n = x.shape[-1]
        deviation = np.sqrt(x.var(-1, keepdims=True) * (n / max(n - 1, 1)) + p.epsilon)
        _normalise(x, p, out, x.mean(-1, keepdims=True), deviation)


class LayerNormEpsilonOutside(Mistake):
    """sqrt(variance) + epsilon."""

    slug = "layernorm-eps-outside"
    explanation = "Epsilon is added to the standard deviation instead of the variance."
    cure = "Divide by sqrt(variance + epsilon)."
    hints = (
        "Where do you guard against a row of equal numbers?",
        "Is the small number added before the square is undone, or after?",
    )
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        _normalise(x, p, out, x.mean(-1, keepdims=True), x.std(-1, keepdims=True) + p.epsilon)


class LayerNormNoEpsilon(Mistake):
    """sqrt(variance)."""

    slug = "layernorm-no-eps"
    explanation = "Epsilon is missing, or so small that it does nothing."
    cure = "Divide by sqrt(variance + layer_norm_epsilon); GPT-2's is 1e-5."
    hints = (
        "What happens to a row whose numbers are nearly equal?",
        "If all numbers of a row are equal, what is left to share it out by?",
    )
    steps = NORMS

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        _normalise(x, p, out, x.mean(-1, keepdims=True), x.std(-1, keepdims=True))


class LayerNormEpsilonValue(Mistake):
    """Another epsilon."""

    slug = "layernorm-eps-value"
    explanation = "Epsilon has another value than the config's layer_norm_epsilon."
    cure = "Read layer_norm_epsilon from the config; GPT-2's is 1e-5."
    hints = (
        "Which number keeps you from dividing by nothing?",
        "Where does your smallest number come from: a default, or the checkpoint?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (e for e in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7) if e != config.norm_epsilon)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        layer_norm(x, p._replace(epsilon=variant), out=out)

    def detail(self, variant: Any) -> str:
        return f"epsilon is {variant:g}"


class LayerNormNoMean(Mistake):
    """RMSNorm, or the mean forgotten in one of the two places."""

    slug = "layernorm-no-mean"
    explanation = "The mean is not subtracted (RMSNorm), or only in one of the two places that need it."
    cure = "Subtract the mean over n_embd, in the variance and before dividing by the standard deviation."
    hints = (
        "Around which value do your numbers lie afterwards?",
        "What is the average of a row, before the learned part?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("anywhere", "above", "in the variance")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        mean = 0.0 if variant != "in the variance" else x.mean(-1, keepdims=True)
        squares = np.square(x).mean(-1, keepdims=True) if variant != "above" else x.var(-1, keepdims=True)
        _normalise(x, p, out, mean, np.sqrt(squares + p.epsilon))

    def detail(self, variant: Any) -> str:
        return {"above": "only in the variance", "in the variance": "not in the variance"}.get(variant, "")


class LayerNormNoWeight(Mistake):
    """No learned scale, or neither scale nor shift."""

    slug = "layernorm-no-weight"
    explanation = "The learned scale (and perhaps the shift) of LayerNorm is not applied."
    cure = "Multiply the normalised vector by ln.weight, then add ln.bias."
    hints = (
        "Are all parameters of this step in use?",
        "What was learned here, and what do you do with it?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("scale", "scale and shift")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        ones, bias = np.ones_like(p.weight), p.bias if variant == "scale" else np.zeros_like(p.bias)
        layer_norm(x, p._replace(weight=ones, bias=bias), out=out)

    def detail(self, variant: Any) -> str:
        return f"without {variant}"


class LayerNormWrongAxis(Mistake):
    """Statistics over positions, or over everything."""

    slug = "layernorm-wrong-axis"
    explanation = "Mean and variance are taken over the positions, or over all numbers at once."
    cure = "Each position is normalised alone, over n_embd: the last axis."
    hints = (
        "Which numbers know of each other in this step?",
        "If you leave out the last token, do the vectors of the tokens before it change?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (0, None)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        deviation = np.sqrt(x.var(axis=variant, keepdims=True) + p.epsilon)
        _normalise(x, p, out, x.mean(axis=variant, keepdims=True), deviation)

    def detail(self, variant: Any) -> str:
        return "over the positions" if variant == 0 else "over all numbers"


class LayerNormNoRoot(Mistake):
    """Divided by the variance, or not at all."""

    slug = "layernorm-no-root"
    explanation = "The root is forgotten: the centred vector is divided by its variance, or is not divided."
    cure = "Divide by sqrt(variance + epsilon)."
    hints = (
        "How large is a row afterwards, before the learned part?",
        "If every number were twice as large, what would come out?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("variance", "nothing")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        deviation = x.var(-1, keepdims=True) + p.epsilon if variant == "variance" else 1.0
        _normalise(x, p, out, x.mean(-1, keepdims=True), deviation)

    def detail(self, variant: Any) -> str:
        return f"divided by {'the variance' if variant == 'variance' else variant}"


class LayerNormParametersSwapped(Mistake):
    """Scale and shift take each other's place, or come in the wrong order."""

    slug = "layernorm-weight-bias-swapped"
    explanation = (
        "Scale and shift are swapped: the bias multiplies, or is added before the weight multiplies."
    )
    cure = "normalised * weight + bias."
    hints = (
        "Two things were learned here: which is which?",
        "What comes out of a row of zeros?",
    )
    steps = NORMS

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("swapped", "shift first")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        if variant == "swapped":
            layer_norm(x, p._replace(weight=p.bias, bias=p.weight), out=out)
        else:
            layer_norm(x, p._replace(bias=p.weight * p.bias), out=out)

    def detail(self, variant: Any) -> str:
        return "" if variant == "swapped" else "the shift is added before the scale multiplies"


class NormTwice(Mistake):
    """LayerNorm of LayerNorm."""

    slug = "layernorm-twice"
    explanation = "LayerNorm is applied twice, once in its place and once more by the step that reads it."
    cure = "Normalise once, into an array of its own."
    hints = (
        "How often does a vector come through here?",
        "Is what you read here still as it was, or has somebody already been at it?",
    )
    of_gpt2 = True
    steps = (*NORMS, "attn.qkv", "mlp.pre", "logits")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        if at.step in NORMS:
            layer_norm(x, p, out=out)
            layer_norm(out.copy(), p, out=out)
            return
        norm = at.parameters.ln_f if at.layer is None else at.block.ln_1
        again = np.empty_like(x)
        layer_norm(x, at.block.ln_2 if at.step == "mlp.pre" else norm, out=again)
        (unembedding if at.step == "logits" else linear)(again, p, out=out)


class NormsSwapped(Mistake):
    """ln_1 with the parameters of ln_2, or the other way round."""

    slug = "norms-swapped"
    explanation = "ln_1 runs with ln_2's parameters, or ln_2 with ln_1's."
    cure = "ln_1 comes before attention, ln_2 before the MLP."
    hints = (
        "There are two such steps in a layer: which one is this?",
        "Whose parameters do you use here?",
    )
    of_gpt2 = True
    steps = ("ln_1", "ln_2")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        layer_norm(inputs[0], at.block.ln_2 if at.step == "ln_1" else at.block.ln_1, out=out)


class MissingNorm(Mistake):
    """The block's sublayer reads the residual stream itself."""

    slug = "missing-ln"
    explanation = "LayerNorm is left out: the block reads the residual stream as it is."
    cure = "Attention reads ln_1(x), the MLP ln_2(x)."
    hints = (
        "How large are the numbers that enter here?",
        "What happens between the stream and the matrix?",
    )
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
    hints = (
        "How large are the numbers from which tokens are made?",
        "Is there one step left that you did not take, at the very end?",
    )
    steps = ("ln_f", "logits")  # or it is computed, and not used

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "ln_f":
            out[...] = inputs[0]
        else:
            unembedding(at.found[f"h.{at.config.n_layer - 1}.resid_post"], inputs[1], out=out)
