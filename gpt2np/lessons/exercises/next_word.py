"""Exercises of lesson 4: logits, the distribution that a token is drawn from, and decoding with a cache."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np.generation import filters
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Wrong, outcome
from gpt2np.lessons.exercises.decoding import MISTAKES, OneStep, normed
from gpt2np.lessons.exercises.distributions import (
    Way,
    filtered_logits,
    from_the_other_end,
    in_order_of_size,
    one_or_two_mistakes,
    removed_as_zero,
    shared_out_before_top_p,
    unsorted,
)
from gpt2np.lessons.models import PROMPT, SECOND, run_of
from gpt2np.lessons.same import array_of, is_same
from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm
from gpt2np.tracing.lines import unembedding_table

# -- logits -------------------------------------------------------------------------------------------------


def _shares(x: Array, ln_f: LayerNorm, wte: Array) -> Array:
    return np.asarray([filters.probabilities(row) for row in normed(x, ln_f) @ wte.T])


_RIGHT = ("own axis", "centred", "inside", "all")
_NORMS = (  # parts of LayerNorm: how each may be wrong, and the mistake's name
    {"all positions": "layernorm-wrong-axis", "everything": "layernorm-wrong-axis"},
    {"not centred": "layernorm-no-mean", "not centred, mean square": "layernorm-no-mean"},
    {
        "ddof 1": "layernorm-ddof1",
        "outside": "layernorm-eps-outside",
        "none": "layernorm-no-eps",
        "no root": "layernorm-no-root",
    },
    {
        "no bias": "missing-bias",
        "no weight": "layernorm-no-weight",
        "neither": "layernorm-no-weight",
        "swapped": "layernorm-weight-bias-swapped",
    },
)


def _logits(axis: str, mean: str, spread: str, parameters: str) -> Function:
    """The logits, with what may be wrong in the last LayerNorm."""
    over = {"own axis": -1, "all positions": 0, "everything": None}[axis]

    def function(x: Array, ln_f: LayerNorm, wte: Array) -> Array:
        centred = x - x.mean(axis=over, keepdims=True)
        variance = x.var(axis=over, keepdims=True, ddof=int(spread == "ddof 1"))
        if mean == "not centred, mean square":
            variance = (x**2).mean(axis=over, keepdims=True)
        root = {
            "outside": np.sqrt(variance) + ln_f.epsilon,
            "none": np.sqrt(variance),
            "no root": variance + ln_f.epsilon,
        }
        out = (centred if mean == "centred" else x) / root.get(spread, np.sqrt(variance + ln_f.epsilon))
        weight, bias = (ln_f.bias, ln_f.weight) if parameters == "swapped" else (ln_f.weight, ln_f.bias)
        out = out * (1 if parameters in ("no weight", "neither") else weight)
        return np.asarray((out + bias * (parameters not in ("no bias", "neither"))) @ wte.T)

    return function


def _wrong_norms() -> tuple[Wrong, ...]:
    """One mistake in the last LayerNorm, or two of them, of which the first in the computation is told."""
    made = []
    for ways in itertools.product(*([r, *others] for r, others in zip(_RIGHT, _NORMS, strict=True))):
        slugs = [names[way] for way, names in zip(ways, _NORMS, strict=True) if way in names]
        if 1 <= len(slugs) <= 2:
            made.append((len(slugs), Wrong(slugs[0], _logits(*ways))))
    return tuple(wrong for _, wrong in sorted(made, key=lambda pair: pair[0]))


_SHORT = 1e-3  # of the vectors' length: then epsilon shows


class Logits(AtSite):
    """The last LayerNorm, and a dot product with each token's vector."""

    forms = 40
    name = "next_word.logits"
    asks = "How well does each token fit the vector at the end?"
    axes = {"x": "pos n_embd", "wte": "vocab n_embd"}
    site = "logits"
    mistakes = ("missing-ln-f", "layernorm-no-weight", "missing-bias", "layernorm-no-mean", "layernorm-ddof1")
    wrong = (
        Wrong("missing-ln-f", lambda x, ln_f, wte: x @ wte.T),
        *_wrong_norms(),
        Wrong(
            "probabilities-returned",
            _shares,
            (
                "May a logit be below zero?",
                "Have you gone one step further than you were asked to?",
            ),
        ),
        Wrong(
            "log-probabilities-returned",
            lambda x, ln_f, wte: np.log(_shares(x, ln_f, wte)),
            (
                "Must all logits be below zero?",
                "Have you gone one step further than you were asked to?",
            ),
        ),
        Wrong(
            "cosines-returned",
            lambda x, ln_f, wte: normed(x, ln_f) @ (wte / np.linalg.norm(wte, axis=1, keepdims=True)).T,
            (
                "Does it count here how long a token's vector is?",
                "What have you divided by, and who asked for it?",
            ),
        ),
    )
    look = "Take one position and one token: which 192 products go into their logit?"

    def inputs(self, run: Run) -> dict[str, Any]:
        last = run[f"h.{run.config.n_layer - 1}.resid_post"]
        table = unembedding_table(run.config, run.parameters)  # wte, unless a checkpoint has another one
        return {"x": last, "ln_f": run.parameters.ln_f, "wte": table}

    def cases(self, model: Model) -> Sequence[Case]:
        """Those of the texts, and short vectors: only there can one see what is done with epsilon."""
        of_texts = super().cases(model)
        first = of_texts[0].arguments
        short = {**first, "x": first["x"] * _SHORT}
        return [
            *of_texts,
            Case(short, "for vectors a thousand times shorter", of_texts[0].prompt, unusual=True),
        ]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """Short vectors are no site of a run: their truth is computed here."""
        if not attempt.case.unusual:
            return super().judge(attempt, attempts, model)
        truth = _logits(*_RIGHT)(*attempt.case.copies())
        if is_same(attempt.result, truth):
            return Finding("right")
        alike = (
            w for w in self.wrong if is_same(attempt.result, outcome(self, w.function, attempt.case, model))
        )
        slug = next((wrong.slug for wrong in alike), "layernorm-eps-value")
        return Finding("wrong", "what is added to the variance there counts", 0.0, slug, self.hints_of(slug))


# -- the distribution ---------------------------------------------------------------------------------------


class Filtered(ByOutput):
    """The distribution that the next token is drawn from."""

    name = "next_word.filtered"
    asks = "Which tokens may come next, and how likely is each?"
    axes = {"logits": "vocab"}
    result_axes = ("token",)
    text = "Elizabeth was"
    options = ((0.8, 2048, 1.0), (1.0, 5, 1.0), (1.0, 2048, 0.9), (0.5, 2048, 0.9), (1.2, 40, 0.8))
    abouts = (
        *(f"with temperature {t}, top_k {k}, top_p {p}" for t, k, p in options),
        "with temperature 0.005",
    )
    unusual = len(options)
    wrong = (
        *one_or_two_mistakes(),
        Wrong(
            "order-lost",
            in_order_of_size,
            (
                "Which token does your first number belong to?",
                "You have sorted: who puts everything back in its place?",
            ),
        ),
        Wrong(
            "not-sorted",
            unsorted,
            (
                "In which order do you add up the shares?",
                "Who comes first in your sum: the likeliest token, or the one with the number 0?",
            ),
        ),
        *(
            Wrong(
                "removed-logit-zero",
                function,
                (
                    "How likely is a token that has been removed?",
                    "What does the exponential make of a logit of nothing?",
                ),
            )
            for function in removed_as_zero()
        ),
        Wrong(
            "logits-returned",
            filtered_logits,
            (
                "What do your numbers add up to?",
                "Could one draw a token with these numbers as they are?",
            ),
        ),
        *(
            Wrong(
                "least-likely-kept",
                function,
                (
                    "Which end of your sorted list is which?",
                    "Is the likeliest token of all still there?",
                ),
            )
            for function in from_the_other_end()
        ),
        Wrong(
            "not-shared-out",
            shared_out_before_top_p,
            (
                "What do your numbers add up to?",
                "Some tokens are gone: who gets what they had?",
            ),
        ),
    )
    hints = {
        "softmax-without-maximum": (
            "What becomes of a large number in an exponential?",
            "If all logits are smaller by the same amount, do the shares change? What would you choose?",
        ),
        "nothing-left": (
            "In which line do your numbers stop being numbers, and which tokens are left over there?",
            "What comes out if everything has been removed, or if nothing is multiplied by infinity?",
        ),
    }
    look = "How many tokens are left over, and is the likeliest one as likely as it should be?"

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        logits = run_of(model, self.text)["logits"][-1]
        options = [*self.options, (0.005, model.config.vocab_size, 1.0)]
        return [
            {"logits": logits, "temperature": t, "top_k": min(k, model.config.vocab_size), "top_p": p}
            for t, k, p in options
        ]

    right = staticmethod(Way())

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """Exponentials that are too large make shares that are no numbers."""
        yours = array_of(attempt.result)
        if attempt.case.unusual and yours is not None and not np.isfinite(yours).all():
            slug = "softmax-without-maximum"
            return Finding(
                "suspicious", "some shares are no numbers (nan)", np.inf, slug, self.hints_of(slug)
            )
        found = super().judge(attempt, attempts, model)
        if found.state == "wrong" and found.mistake is None and yours is not None and np.isnan(yours).any():
            nan, slug = int(np.isnan(yours).sum()), "nothing-left"
            return Finding(
                "wrong", f"{nan:,} of your shares are no numbers (nan)", 0, slug, self.hints_of(slug)
            )
        return found


# -- decoding with a cache ----------------------------------------------------------------------------------


class Step(ByOutput):
    """One token at a time, with the keys and values of the tokens before it."""

    name = "next_word.step"
    asks = "What need not be computed again?"
    result_axes = ("step", "vocab")
    texts = (PROMPT, SECOND)
    starts = (6, 5)  # tokens of each text that are in the cache to begin with
    abouts = tuple(f"for the text {text!r}, after {n} tokens" for text, n in zip(texts, starts, strict=True))
    wrong = MISTAKES
    look = (
        "Is your very first step right? If it is, what is different at the second? If it is not, after which "
        "layer is your vector not the stream of a run of the whole text?"
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        made = []
        for text, start in zip(self.texts, self.starts, strict=True):
            run, layers = run_of(model, text), range(model.config.n_layer)
            cache = [{x: run[f"h.{layer}.attn.{x}"][:start].copy() for x in "kv"} for layer in layers]
            made.append(
                {"token": int(run.token_ids[start]), "position": start, "cache": cache, "model": model}
            )
        return made

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The logits of all steps, one below the other."""
        _, start, cache, _ = case.copies()
        ids = run_of(model, self.texts[self.abouts.index(case.about)]).token_ids
        steps = [function(int(ids[at]), at, cache, model) for at in range(start, len(ids))]
        shapes = [np.shape(logits) for logits in steps]
        return np.array(steps) if len(set(shapes)) == 1 else steps

    right = staticmethod(OneStep())
