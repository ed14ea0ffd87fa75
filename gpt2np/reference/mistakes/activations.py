"""Mistakes in the activation function of the MLP."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import ACTIVATIONS, Array, gelu_erf, gelu_tanh, linear, relu
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig

_ROOT = math.sqrt(2 / math.pi)


class Activation(Mistake):
    """Another activation function."""

    steps = ("mlp.post",)


class GeluErf(Activation):
    """GELU by the error function."""

    slug = "gelu-erf"
    explanation = "GELU is computed by the error function; GPT-2 was trained with the tanh approximation."
    cure = "Use gelu_new, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): approximate='tanh' in torch."
    hints = (
        "There are two kinds of this curve: which one is yours?",
        "What does your library take, if you do not say anything?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        gelu_erf(inputs[0], out=out)


class GeluTanh(Activation):
    """The tanh approximation where the config says gelu."""

    slug = "gelu-tanh"
    explanation = (
        "GELU is computed by its tanh approximation, but the config's activation_function is another."
    )
    cure = "Read activation_function from the config: `gelu` is the exact one."
    hints = (
        "There are two kinds of this curve: which one does this model want?",
        "Who said which curve it is to be?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        gelu_tanh(inputs[0], out=out)


class GeluQuick(Activation):
    """x sigmoid(1.702 x)."""

    slug = "gelu-quick"
    explanation = "GELU is computed as x * sigmoid(1.702 x) (quick GELU, as in CLIP)."
    cure = "Use the tanh approximation, gelu_new."
    hints = (
        "There are several kinds of this curve: which one is yours?",
        "Which well-known model do you have your curve from?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0] * (0.5 + 0.5 * np.tanh(0.851 * inputs[0]))


class ActivationRelu(Activation):
    """max(x, 0)."""

    slug = "activation-relu"
    explanation = "The MLP uses ReLU."
    cure = "Use the tanh approximation of GELU, gelu_new."
    hints = (
        "What happens to numbers a little below zero?",
        "Does your curve have a corner?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        relu(inputs[0], out=out)


class ActivationMissing(Activation):
    """x."""

    slug = "activation-missing"
    explanation = "The MLP has no activation function."
    cure = "Apply gelu_new between c_fc and c_proj."
    hints = (
        "Two matrices in a row: could you write them as one?",
        "What happens to a number below zero?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0]


class GeluConstant(Activation):
    """Another coefficient, or another power, in the cubic term."""

    slug = "gelu-constant"
    explanation = "The cubic term of GELU is wrong: another coefficient than 0.044715, or another power."
    cure = "0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."
    hints = (
        "Does your curve fit near zero, and no longer further away?",
        "Have you looked up every digit of your formula?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (
            (0.44715, 3),
            (1.0, 3),
            (0.0, 3),
            (0.044715, 2),
            (0.0044715, 3),
            (0.04715, 3),
            (0.044715**3, 3),
        )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x = inputs[0]
        coefficient, power = variant
        out[...] = 0.5 * x * (1 + np.tanh(_ROOT * (x + coefficient * x**power)))

    def detail(self, variant: Any) -> str:
        return f"it is {variant[0]:g} x^{variant[1]}"


class GeluFactor(Activation):
    """Another factor than sqrt(2/pi), or than 0.5."""

    slug = "gelu-factor"
    explanation = "A factor of GELU is wrong: sqrt(2/pi) inside of tanh, or the 0.5 in front."
    cure = "0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."
    hints = (
        "How high is your curve far out, and how soon does it get there?",
        "Two numbers stand in this formula, one in front and one inside: is each of them as it should be?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        inner = (
            2 / math.pi,
            math.sqrt(2 * math.pi),
            math.sqrt(math.pi / 2),
            1.0,
            math.sqrt(2) / math.pi,
            1 / math.sqrt(2),
        )
        yield from ((0.5, factor) for factor in inner)
        yield (1.0, _ROOT)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x = inputs[0]
        half, factor = variant
        out[...] = half * x * (1 + np.tanh(factor * (x + 0.044715 * x * x * x)))

    def detail(self, variant: Any) -> str:
        half, factor = variant
        return "without the 0.5" if half == 1.0 else f"{factor:.4f} in tanh"


class ActivationOther(Activation):
    """SiLU, tanh or sigmoid."""

    slug = "activation-other"
    explanation = "The MLP uses another function altogether: SiLU (x sigmoid(x)), sigmoid or tanh."
    cure = "Use the tanh approximation of GELU, gelu_new."
    hints = (
        "What does your curve look like: for large numbers, and for small ones?",
        "From which kind of model do you have your curve?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("silu", "sigmoid", "tanh")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x = inputs[0]
        sigmoid = 0.5 + 0.5 * np.tanh(0.5 * x)
        out[...] = {"silu": x * sigmoid, "sigmoid": sigmoid, "tanh": np.tanh(x)}[variant]

    def detail(self, variant: Any) -> str:
        return str(variant)


class ActivationTwice(Activation):
    """GELU of GELU."""

    slug = "activation-twice"
    explanation = "The activation function is applied twice."
    cure = "Apply gelu_new once, between c_fc and c_proj."
    hints = (
        "How often does a number come through here?",
        "Is what you read here still as the matrix left it?",
    )
    rare = True

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        ACTIVATIONS[at.config.activation_function](inputs[0], out=out)
        ACTIVATIONS[at.config.activation_function](out.copy(), out=out)


class ActivationMisplaced(Mistake):
    """After c_proj instead of before it."""

    slug = "activation-misplaced"
    explanation = "The activation function is applied to what comes out of the MLP's second matrix."
    cure = "mlp(x) = c_proj(gelu_new(c_fc(x)))."
    hints = (
        "In which order do things happen here?",
        "Can the last thing that happens give any number, or only some?",
    )
    steps = ("mlp.post", "mlp.out")
    together = True
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("as well as before it", "instead of before it")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "mlp.post":
            out[...] = inputs[0]
            if variant == "as well as before it":
                ACTIVATIONS[at.config.activation_function](inputs[0], out=out)
        else:
            linear(*inputs, out=out)
            ACTIVATIONS[at.config.activation_function](out.copy(), out=out)

    def detail(self, variant: Any) -> str:
        return str(variant)
