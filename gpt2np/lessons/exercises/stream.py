"""Exercises of lesson 2: LayerNorm, GELU, and the stream after an MLP."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Hints, Wrong
from gpt2np.lessons.exercises.after_mlp import (
    GELU,
    after_mlp,
    bias_after_curve,
    curve,
    curve_at_the_end,
    norm_of,
    normed,
    normed_after,
    not_normed,
)
from gpt2np.lessons.exercises.norm_mistakes import WRONG_NORMS
from gpt2np.lessons.exercises.token_by_token import RETURNED_TOO_EARLY, SLUG, TokenByToken
from gpt2np.lessons.same import array_of, is_same
from gpt2np.model import Model
from gpt2np.ops import Array, gelu_erf, relu

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


class Norm(TokenByToken):
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
    wrong = (
        *WRONG_NORMS,
        *_two_of_norm(),
    )
    hints = {
        "missing-bias": (
            "If all numbers of a token are equal, normalising makes zeros of them: what comes out then?",
            "Are all the parameters of this step in use?",
        ),
        "layernorm-ddof1": (
            "What do you average over when you measure the spread?",
            "A token has 192 numbers: by how many do you divide the sum of their squares?",
        ),
        "layernorm-eps-value": (
            "Which number keeps you from dividing by nothing?",
            "Your function is given an epsilon: do you use that one, or one that you wrote yourself?",
        ),
        "layernorm-wrong-axis": (
            "Which numbers go into one mean: those of one token, or of several?",
            "If you leave out the last token, do the vectors of the tokens before it change?",
        ),
        SLUG: RETURNED_TOO_EARLY,
    }
    look_at = "Take token {}: what are the mean and the spread of its numbers, before the learned part?"
    look = "Take the first token: what are the mean and the spread of its numbers, before the learned part?"
    fit = "Which shape has each array there: the vectors, a mean for each token, a weight for each number?"

    def inputs(self, run: Run) -> dict[str, Any]:
        p = run.parameters.h[0].ln_1
        return {"x": run["embed"], "weight": p.weight, "bias": p.bias, "epsilon": p.epsilon}

    def cases(self, model: Model) -> Sequence[Case]:
        """One more, with a larger epsilon."""
        cases = super().cases(model)
        other = dict(cases[0].arguments) | {"epsilon": 1e-2}
        return [*cases, Case(other, "with an epsilon of 0.01", cases[0].prompt, unusual=True)]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        if not attempt.case.unusual or is_same(attempt.result, _norm(-1, "", "")(*attempt.case.copies())):
            return Finding("right") if attempt.case.unusual else super().judge(attempt, attempts, model)
        slug = "layernorm-eps-value"
        return Finding("suspicious", "it must change with epsilon", np.inf, slug, self.hints_of(slug))


_ROOT, _CUBE = float(np.sqrt(2 / np.pi)), 0.044715


def _tanh_only(x: Array) -> Array:
    return np.asarray(np.tanh(_ROOT * (x + _CUBE * x**3)))


_BRACKETS: tuple[Function, ...] = (  # what happens in the formula if a bracket is forgotten, or set elsewhere
    lambda x: 0.5 * x * (1 + np.tanh(_ROOT * x + _CUBE * x**3)),
    lambda x: 0.5 * x * (1 + np.tanh(_ROOT * (x + (_CUBE * x) ** 3))),
    lambda x: 0.5 * x * (1 + np.tanh(_ROOT * (x + _CUBE) * x**3)),
    lambda x: 0.5 * x * (1 + np.tanh((_ROOT * (x + _CUBE * x)) ** 3)),
    lambda x: 0.5 * x * (1 + np.tanh(_ROOT * (x + _CUBE * x) ** 3)),
    lambda x: 0.5 * x * (1 + np.tanh(_ROOT) * (x + _CUBE * x**3)),
    lambda x: 0.5 * x + np.tanh(_ROOT * (x + _CUBE * x**3)),
    lambda x: 0.5 * x * 1 + np.tanh(_ROOT * x + _CUBE * x**3),
)


def _slope(factor: float) -> Function:
    return lambda x: 0.5 * x * (1 + np.tanh(factor * (x + _CUBE * x**3)))


_SLOPES = (
    *(2 / np.pi, np.sqrt(2) / np.pi, 2 / np.sqrt(np.pi), np.sqrt(2), np.sqrt(np.pi / 2), np.sqrt(2 * np.pi)),
    *(np.sqrt(2 / np.pi) / 2, 1.0),
)


_ANY_SHAPE = "How many axes may your input have, and how many does your function expect?"
_OVERFLOW = (
    "Far out your curve should be nearly flat, or nearly straight: what happens to an exponential there?",
    "Which of your operations has no result for a large number, and is there one that needs no exponentials?",
)
_EVERY_DIGIT = 2e-6  # what float32 may be off, where the numbers are small


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
                "gelu-bracket",
                function,
                (
                    "Which brackets does the formula have, and do yours open and close in the same places?",
                    "In the formula, what exactly is multiplied by the root, and what exactly is cubed?",
                ),
            )
            for function in _BRACKETS
        ),
        *(
            Wrong(
                "gelu-root",
                _slope(factor),
                (
                    "Which number stands before the inner bracket: have you worked it out by hand?",
                    "What does the root in the formula cover: the 2 alone, or the whole fraction?",
                ),
            )
            for factor in _SLOPES
        ),
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
    hints = {
        "gelu-erf": (
            "There are two formulas for this curve, an exact one and one that comes close: which is yours?",
            "With which of the two was this model trained?",
        ),
        "gelu-constant": (
            "Does your curve fit near zero, and no longer further away?",
            "Have you copied the small number digit by digit, and the right power?",
        ),
    }
    look = "What does your function give for 0, for 1 and for minus 1? Can you work these out by hand?"
    form = "One number goes in, one comes out: what else happens to your array?"
    stops = {
        "TypeError": "Are all the functions that you call made for whole arrays?",
        "IndexError": _ANY_SHAPE,
        "ValueError": _ANY_SHAPE,
    }

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"x": run["h.1.mlp.pre"]}

    def cases(self, model: Model) -> Sequence[Case]:
        """Two more: numbers near zero in one row, where every digit shows; and large ones, on three axes."""
        large = np.array([-100.0, -30.0, -1.0, 0.0, 1.0, 30.0, 100.0, 800.0]).reshape(2, 2, 2)
        return [
            *super().cases(model),
            Case({"x": np.linspace(-3, 3, 25)}, "for 25 numbers on one axis", unusual=True),
            Case({"x": large}, "for numbers of up to 800, on three axes", unusual=True),
        ]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        if not attempt.case.unusual:
            return super().judge(attempt, attempts, model)
        x, yours = attempt.case.arguments["x"], array_of(attempt.result)
        if yours is None or yours.shape != x.shape:
            return Finding("suspicious", "another shape than the input's", hints=(self.form,))
        if not np.isfinite(yours).all():
            return Finding("suspicious", "some of it is no number (nan)", np.inf, "gelu-overflow", _OVERFLOW)
        if np.abs(yours - GELU(x)).max() < _EVERY_DIGIT * max(1.0, np.abs(x).max() / 4):
            return Finding("right")
        slug = "gelu-constant"
        return Finding("suspicious", "it is a little off", np.inf, slug, self.hints_of(slug))


_BIASES = (
    "If LayerNorm handed over nothing but zeros, would your MLP add nothing at all?",
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


_AFTERWARDS = (
    "Who gets to read the normalised vector: the MLP alone, or all that comes after it?",
    "What goes into your LayerNorm: the stream before the MLP, or something that the MLP has given?",
)
_LATE_BIAS = (
    "In which order do a matrix, its bias and the curve follow each other?",
    "What does the curve get to see: the products alone, or the products with their bias?",
)
_WRONG_NORMS = (  # each mistake in LayerNorm alone
    *((slug, _norm(-1, slug, "")) for slug in _SPREADS if slug),
    *(("layernorm-wrong-axis", _norm(axis, spread, "")) for axis in (0, None) for spread in _SPREADS),
    *(("layernorm-no-weight", _norm(-1, "", kind)) for kind in ("layernorm-no-weight", "neither")),
    ("layernorm-bias-missing", _norm(-1, "", "missing-bias")),
    *((wrong.slug, wrong.function) for wrong in WRONG_NORMS),
)
_WRONG_CURVES = tuple((wrong.slug, wrong.function) for wrong in Gelu.wrong)


def _of_parts() -> dict[str, Hints]:
    """What is asked first where a part is wrong that has an exercise of its own."""
    of_norm = {*(slug for slug, _ in _WRONG_NORMS), "layernorm-no-mean"}
    of_curve = {
        *(slug for slug, _ in _WRONG_CURVES),
        "gelu-constant",
        "gelu-factor",
        "gelu-quick",
        "gelu-erf",
    }
    asked = dict.fromkeys(of_norm, "Is your LayerNorm right, by its own check?")
    asked |= dict.fromkeys(of_curve, "Is your curve right, by its own check?")
    nearer = {wrong.slug: wrong.hints for part in (Norm, Gelu) for wrong in part.wrong if wrong.hints}
    nearer["layernorm-bias-missing"] = Norm.hints["missing-bias"]
    parts = Norm(), Gelu()
    return {
        slug: (first, (nearer.get(slug) or parts[slug in of_curve].hints_of(slug))[-1])
        for slug, first in asked.items()
    }


_SHORT = 1e-3  # of the vectors' length


class AfterMlp(AtSite):
    """The MLP of a block, and its sum with the stream."""

    name = "stream.after_mlp"
    asks = "What is the stream after a word has thought about itself?"
    axes = {"resid_mid": "pos n_embd"}
    site = "h.1.resid_post"
    mistakes = (
        *("residual-missing", "residual-scaled", "gelu-quick", "layernorm-no-mean", "gelu-constant"),
        *("layernorm-weight-bias-swapped", "activation-misplaced"),
    )
    wrong = (
        Wrong("residual-missing", after_mlp(added_to="nothing")),
        Wrong("residual-after-ln", after_mlp(added_to="ln_2")),
        Wrong("residual-twice", after_mlp(added_to="twice")),
        Wrong("residual-twice", after_mlp(twice=2)),
        Wrong("sublayer-missing", lambda resid_mid, ln_2, c_fc, c_proj: resid_mid),
        Wrong("stream-centred", after_mlp(added_to="centred"), _CENTRED),
        Wrong("missing-ln", after_mlp(not_normed), _NO_NORM),
        Wrong("missing-ln", after_mlp(not_normed, added_to="nothing"), _NO_NORM),
        *(
            Wrong("post-norm", normed_after(inside, whole), _AFTERWARDS)
            for inside in (normed, not_normed)
            for whole in (True, False)
        ),
        Wrong("bias-after-curve", bias_after_curve, _LATE_BIAS),
        *(Wrong(slug, after_mlp(norm_of(function))) for slug, function in _WRONG_NORMS),
        *(Wrong(slug, after_mlp(activation=function)) for slug, function in _WRONG_CURVES),
        Wrong("activation-missing", after_mlp(activation=np.asarray)),
        Wrong("activation-relu", after_mlp(activation=curve(relu))),
        Wrong("gelu-erf", after_mlp(activation=curve(gelu_erf))),
        Wrong("activation-misplaced", curve_at_the_end),
        *(Wrong("missing-bias", after_mlp(biases=biases), _BIASES) for biases in _NOT_BOTH),
        *(Wrong("bias-twice", after_mlp(biases=biases)) for biases in ((2, 1), (1, 2), (2, 2))),
        *(Wrong("residual-missing", after_mlp(added_to="nothing", biases=biases)) for biases in _NOT_BOTH),
    )
    hints = _of_parts()
    forms = 40
    look = "Which steps lie between the stream before and the stream after: does each have its place?"
    fit = "How many numbers has a token before the first matrix, between the two, and after the second one?"
    stops = {"TypeError": "Which parts do the last three inputs have, and which of them do you need there?"}

    def inputs(self, run: Run) -> dict[str, Any]:
        block = run.parameters.h[1]
        return {
            "resid_mid": run["h.1.resid_mid"],
            "ln_2": block.ln_2,
            "c_fc": block.mlp.c_fc,
            "c_proj": block.mlp.c_proj,
        }

    def cases(self, model: Model) -> Sequence[Case]:
        """Those of the texts, and short vectors: only there can one see what is done with epsilon."""
        of_texts = super().cases(model)
        first = of_texts[0].arguments
        short = {**first, "resid_mid": first["resid_mid"] * _SHORT}
        return [
            *of_texts,
            Case(short, "for vectors a thousand times shorter", of_texts[0].prompt, unusual=True),
        ]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """Short vectors are no site of a run: their truth is computed here."""
        if not attempt.case.unusual:
            return super().judge(attempt, attempts, model)
        if is_same(attempt.result, after_mlp()(*attempt.case.copies())):
            return Finding("right")
        alike = (w.slug for w in self.wrong if is_same(attempt.result, w.function(*attempt.case.copies())))
        slug = next(alike, "layernorm-no-eps")
        return Finding("wrong", "what is added to the variance there counts", 0.0, slug, self.hints_of(slug))
