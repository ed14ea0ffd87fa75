"""Exercises of lesson 2: LayerNorm, GELU, and the stream after an MLP."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Function, Wrong
from gpt2np.ops import Array, LayerNorm, Linear, gelu_erf, gelu_tanh, layer_norm, relu

_SPREADS: dict[str, Callable[[Array, Array, float], Array]] = {
    "": lambda variance, best, e: np.sqrt(variance + e),
    "layernorm-ddof1": lambda variance, best, e: np.sqrt(best + e),
    "layernorm-eps-outside": lambda variance, best, e: np.sqrt(variance) + e,
    "layernorm-no-eps": lambda variance, best, e: np.sqrt(variance),
    "layernorm-no-root": lambda variance, best, e: variance + e,
}


def _norm(axis: int | None, spread: str, parameters: str) -> Function:
    """LayerNorm with several mistakes at once."""

    def function(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
        variances = [x.var(axis=axis, keepdims=True, ddof=ddof) for ddof in (0, 1)]
        out = (x - x.mean(axis=axis, keepdims=True)) / _SPREADS[spread](variances[0], variances[1], epsilon)
        if parameters in ("", "missing-bias"):
            out = out * weight
        return np.asarray(out if parameters in ("missing-bias", "layernorm-no-weight") else out + bias)

    return function


def _two_of_norm() -> tuple[Wrong, ...]:
    """Two mistakes: which numbers are normalised is told first, then the parameters."""
    made = []
    kinds = ("", "missing-bias", "layernorm-no-weight", "layernorm-weight-missing")
    for axis, spread, parameters in itertools.product((-1, 0, None), _SPREADS, kinds):
        slugs = ["layernorm-wrong-axis" if axis != -1 else "", parameters, spread]
        found = [slug.replace("weight-missing", "no-weight") for slug in slugs if slug]
        if len(found) == 2:
            made.append(Wrong(found[0], _norm(axis, spread, parameters)))
    return tuple(made)


class Norm(AtSite):
    """Each position's vector with mean 0 and spread 1, then scaled and shifted."""

    name = "stream.layer_norm"
    asks = "What does a block see of a vector, if neither its length nor its mean counts?"
    axes = {"x": "pos n_embd", "weight": "n_embd", "bias": "n_embd"}
    site = "h.0.ln_1"  # in later layers the vectors are so long that epsilon does not show
    mistakes = (
        *("layernorm-ddof1", "layernorm-eps-outside", "layernorm-no-eps", "layernorm-eps-value"),
        *("layernorm-no-mean", "layernorm-no-weight", "missing-bias", "layernorm-wrong-axis"),
        *("layernorm-no-root", "layernorm-weight-bias-swapped", "bias-twice"),
    )
    wrong = _two_of_norm()
    look = "Take the first word: what are the mean and the spread of its numbers, before the learned part?"

    def inputs(self, run: Run) -> dict[str, Any]:
        p = run.parameters.h[0].ln_1
        return {"x": run["embed"], "weight": p.weight, "bias": p.bias, "epsilon": p.epsilon}


def _tanh_only(x: Array) -> Array:
    return np.asarray(np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


class Gelu(AtSite):
    """GPT-2's GELU, number by number."""

    name = "stream.gelu"
    asks = "Which neurons may speak, and how loudly?"
    axes = {"x": "pos d_mlp"}
    site = "h.1.mlp.post"
    mistakes = (
        *("gelu-erf", "gelu-quick", "gelu-constant", "gelu-factor", "activation-relu"),
        *("activation-missing", "activation-other", "activation-twice"),
    )
    wrong = (
        *(
            Wrong(
                "gelu-without-x",
                function,
                (
                    "What does your curve do for large numbers: does it go on, or does it come to an end?",
                    "You have computed which share of a number gets through: a share of what?",
                ),
            )
            for function in (_tanh_only, lambda x: 0.5 * (1 + _tanh_only(x)), lambda x: 1 + _tanh_only(x))
        ),
        *(
            Wrong(
                "gelu-without-one",
                function,
                (
                    "What comes out of your function for a large number below zero?",
                    "The curve in the bracket runs from minus one to one: what range should a share have?",
                ),
            )
            for function in (lambda x: 0.5 * x * _tanh_only(x), lambda x: x * _tanh_only(x))
        ),
    )
    look = "What does your function give for 0, for 1 and for minus 1? Can you work these out by hand?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"x": run["h.1.mlp.pre"]}


def _curve(kind: Callable[..., None]) -> Function:
    """An activation function that returns its result."""

    def function(x: Array) -> Array:
        kind(x, out=(out := np.empty_like(x)))
        return out

    return function


GELU = _curve(gelu_tanh)


def _after_mlp(
    norm: str = "whole",
    activation: Function = GELU,
    added_to: str = "resid_mid",
    biases: tuple[int, int] = (1, 1),
    twice: int = 1,
) -> Function:
    """The stream after the MLP, with some of its parts left out, repeated or misplaced."""

    def function(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
        plain = ln_2._replace(weight=np.ones_like(ln_2.weight))
        x = resid_mid.copy()
        if norm != "missing":
            kinds = {"whole": ln_2, "unscaled": plain, "plain": plain._replace(bias=0 * ln_2.bias)}
            layer_norm(resid_mid, kinds[norm], out=x)
        hidden = activation(x @ c_fc.weight + biases[0] * c_fc.bias)
        out = twice * (hidden @ c_proj.weight + biases[1] * c_proj.bias)
        centred = resid_mid - resid_mid.mean(-1, keepdims=True)
        sums = {"resid_mid": resid_mid, "ln_2": x, "nothing": 0.0, "twice": 2 * resid_mid, "centred": centred}
        return np.asarray(out + sums[added_to])

    return function


def _misplaced(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
    """The curve after the second matrix."""
    out = _after_mlp(activation=np.asarray, added_to="nothing")(resid_mid, ln_2, c_fc, c_proj)
    return np.asarray(resid_mid + GELU(out))


_BIASES = (
    "What comes out if you put in zeros?",
    "Each of the two matrices came with something else: have you used both of them?",
)
_NO_NORM = (
    "What does the MLP get to read: the stream as it is?",
    "Which of the four inputs of your function have you not used?",
)


_CENTRED = (
    "Is the stream still as the last step left it, or has it been tidied up?",
    "Does one of your lines change what it was given, in place?",
)
_NOT_BOTH = ((0, 1), (1, 0), (0, 0))


class AfterMlp(AtSite):
    """The MLP of a block, and its sum with the stream."""

    name = "stream.after_mlp"
    asks = "What is the stream after a word has thought about itself?"
    axes = {"resid_mid": "pos n_embd"}
    site = "h.1.resid_post"
    mistakes = ("residual-missing", "residual-scaled", "gelu-quick", "layernorm-no-mean")
    wrong = (
        Wrong("residual-missing", _after_mlp(added_to="nothing")),
        Wrong("residual-after-ln", _after_mlp(added_to="ln_2")),
        Wrong("residual-twice", _after_mlp(added_to="twice")),
        Wrong("residual-twice", _after_mlp(twice=2)),
        Wrong("sublayer-missing", lambda resid_mid, ln_2, c_fc, c_proj: resid_mid),
        Wrong("stream-centred", _after_mlp(added_to="centred"), _CENTRED),
        Wrong("missing-ln", _after_mlp("missing"), _NO_NORM),
        Wrong("missing-ln", _after_mlp("missing", added_to="nothing"), _NO_NORM),
        *(Wrong("layernorm-no-weight", _after_mlp(norm)) for norm in ("unscaled", "plain")),
        Wrong("activation-missing", _after_mlp(activation=np.asarray)),
        Wrong("activation-relu", _after_mlp(activation=_curve(relu))),
        Wrong("gelu-erf", _after_mlp(activation=_curve(gelu_erf))),
        Wrong("activation-misplaced", _misplaced),
        *(Wrong("missing-bias", _after_mlp(biases=biases), _BIASES) for biases in _NOT_BOTH),
        *(Wrong("bias-twice", _after_mlp(biases=biases)) for biases in ((2, 1), (1, 2), (2, 2))),
        *(Wrong("residual-missing", _after_mlp(added_to="nothing", biases=biases)) for biases in _NOT_BOTH),
    )
    look = "Which steps lie between the stream before and the stream after: does each have its place?"

    def inputs(self, run: Run) -> dict[str, Any]:
        block = run.parameters.h[1]
        return {
            "resid_mid": run["h.1.resid_mid"],
            "ln_2": block.ln_2,
            "c_fc": block.mlp.c_fc,
            "c_proj": block.mlp.c_proj,
        }
