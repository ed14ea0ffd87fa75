"""Exercises of lesson 3: the fused qkv cut into heads, scores, the pattern, and what attention writes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.lessons.attention_mistakes import (
    ALL_VANISH,
    LAYOUTS,
    MAXIMUM_OF_OTHERS,
    SMALL,
    WRONG_MIXES,
    WRONG_PATTERNS,
    WRONG_SCORES,
    WRONG_SPLITS,
)
from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Attempt, Case, Finding
from gpt2np.lessons.same import array_of, errors, is_same
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import future, products, softmax


class Split(AtSite):
    """The fused qkv cut into queries, keys and values, and each of these into heads."""

    name = "attention.split"
    asks = "Which of the 576 numbers of a token are the query of head 1?"
    axes = {"qkv": "pos 3*n_embd"}
    sites = ("h.1.attn.q", "h.1.attn.k", "h.1.attn.v")
    mistakes = (
        *("heads-before-qkv", "qkv-interleaved", "heads-strided", "heads-cut-untransposed"),
        "qkv-columns-shifted",
    )
    wrong = WRONG_SPLITS
    hints = {
        "heads-before-qkv": (
            "What do you cut first: the three kinds, or the heads?",
            "Where among the 576 numbers of a token does the first key begin, and where in your program?",
        ),
        "qkv-interleaved": (
            "What are neighbours in the long row: numbers of one vector, or one number of each kind?",
            "Where among the 576 numbers of a token does the first key begin, and where in your program?",
        ),
        "heads-strided": (
            "Which numbers of a third belong to head 0?",
            "Are the numbers of one head neighbours, or far apart?",
        ),
    }
    forms = 90
    form = "Each of your three has one row for each token: where in such a row does the second head begin?"
    look = "Take one token: at which of its 576 numbers does each of your pieces begin?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"qkv": run["h.1.attn.qkv"], "n_head": run.config.n_head}


class Scores(AtSite):
    """Dot products of queries and keys, scaled and masked."""

    name = "attention.scores"
    asks = "How well does each key answer each query?"
    axes = {"q": "query head d_head", "k": "key head d_head"}
    site = "h.1.attn.scores"
    mistakes = (
        *("scores-unscaled", "scores-scaled-by-d-head", "scores-scaled-by-n-embd", "scores-scaled-by-n-head"),
        *("scores-scaled-by-length", "scores-scaled-by-fourth-root", "scores-multiplied", "qkv-order"),
        *("mask-missing", "mask-off-by-one", "mask-anticausal", "mask-value-small"),
    )
    wrong = WRONG_SCORES
    hints = {
        "scores-unscaled": (
            "How large does a sum of many products get?",
            "What was done to the products of one query before they became shares?",
        ),
        "scores-scaled-by-d-head": (
            "Your scores are all near to each other: are they too small?",
            "Does a sum grow as fast as the number of its terms, or more slowly?",
        ),
        "scores-scaled-by-n-embd": (
            "How long is one of the vectors whose product you take?",
            "Did you count the numbers of one head, or of all heads together?",
        ),
        "scores-scaled-by-n-head": (
            "How long is one of the vectors whose product you take?",
            "Your inputs have three axes: which of them is summed over, and which of them did you count?",
        ),
        "scores-scaled-by-length": (
            "Would a longer text change how well one key answers one query?",
            "Your inputs have three axes: which of them is summed over, and which of them did you count?",
        ),
        "scores-multiplied": (
            "Do your numbers get smaller in this step, or larger?",
            "Does the winner of a row get more in this way, or less?",
        ),
        "mask-value-small": SMALL,
        "qkv-order": (
            "Take one row of your scores: did its token ask all the others, or did all the others ask it?",
            "Which of the two vectors belongs to the rows, and which to the columns?",
        ),
    }
    look = "Take one head, one query and one key: which 48 products go into their score?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"q": run["h.1.attn.q"], "k": run["h.1.attn.k"]}

    def looked(self, array: Array, truth: Array) -> tuple[str, ...]:
        """What is asked by where scores are wrong: in the future, at the token itself, or by being hidden."""
        off, hidden = errors(array, truth) > 1, future(*truth.shape[1:])
        if not off[:, ~hidden].any():
            return (
                "Only scores of keys in the future are wrong: what must they be, so that nobody sees them?",
            )
        if not off[:, ~np.eye(len(hidden), dtype=bool)].any():
            return ("Only scores of tokens with themselves are wrong: may a token look at itself?",)
        if not np.isfinite(array[off]).any():
            return ("You hide keys that are not in the future: which keys may the second token look at?",)
        return ()

    def own(self, site: str, array: Array, run: Run, case: Case) -> Finding:
        """One mistake at a time: what is wrong in the past is told before what is wrong in the future."""
        masked = np.where(future(*array.shape[1:]), -np.inf, array)
        all_seen = np.array_equal(np.isneginf(masked), np.isneginf(run[site]))
        if all_seen and not np.array_equal(masked, array, equal_nan=True):
            found = super().own(site, masked, run, case)
            if found.mistake is not None:
                return found
        found = super().own(site, array, run, case)
        if found.state == "suspicious":  # the future has a number that is small, but not small enough
            slug, hidden = "mask-value-small", future(*array.shape[1:])
            most = float(array[:, hidden].max())
            where = (
                f"in a row whose scores are all about {most:g} or lower, the future would get a share, too"
            )
            return replace(found, where=where, mistake=slug, hints=self.hints_of(slug))
        return found


class Pattern(AtSite):
    """The mask and the softmax: what share of its attention a word gives to each word."""

    name = "attention.pattern"
    asks = "What share of its attention does each token give to each token?"
    axes = {"products": "head query key"}
    site = "h.1.attn.pattern"
    mistakes = (
        *("mask-missing", "mask-off-by-one", "mask-anticausal", "mask-after-softmax", "mask-value-small"),
        *("softmax-wrong-axis", "softmax-missing", "softmax-twice", "scores-scaled-by-d-head"),
    )
    wrong = WRONG_PATTERNS
    hints = {
        "mask-value-small": SMALL,
        "softmax-without-maximum": ALL_VANISH,
        "softmax-maximum-of-others": MAXIMUM_OF_OTHERS,
        "scores-scaled-by-d-head": (
            "Are your shares nearly all the same?",
            "What has been done to these products already, before you got them?",
        ),
    }
    look = "The future has no share, and those of each query add up to 1: what decides how large each is?"

    def inputs(self, run: Run) -> dict[str, Any]:
        q, k = run["h.1.attn.q"], run["h.1.attn.k"]
        return {"products": products(q, k) * run.config.attention_scale(1)}

    def cases(self, model: Model) -> Sequence[Case]:
        """One more, where all exponentials vanish and a finite mask is seen."""
        cases = super().cases(model)
        given = cases[0].arguments["products"].copy()
        given[0, -1, 0] = given.max() + 1.0  # the largest one is seen: with its maximum this row has numbers
        low = {"products": 1000.0 * (given - given.max() - 1.0)}
        return [*cases, Case(low, "where all products are below -1000", cases[0].prompt, unusual=True)]

    def looked(self, array: Array, truth: Array) -> tuple[str, ...]:
        """What is asked by what is wrong with the shares: no numbers, in the future, or a wrong sum."""
        hidden = future(*truth.shape[1:])
        if not np.isfinite(array).all():
            return ("Some of your shares are no numbers: in which rows, and what is divided by what there?",)
        if array[:, hidden].any():
            return (
                "Some keys in the future have a share: when is it taken from them, and who gets it then?",
            )
        if not is_same(array.sum(axis=-1), truth.sum(axis=-1)):
            return ("What do the shares of one query add up to, and what should they add up to?",)
        return ()

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        if not attempt.case.unusual:
            return super().judge(attempt, attempts, model)
        low = attempt.case.arguments["products"]
        hidden = future(*low.shape[1:])
        truth, yours = softmax(np.where(hidden, -np.inf, low)), array_of(attempt.result)
        if yours is not None and is_same(yours, truth):
            return Finding("right")
        if yours is None or yours.shape != truth.shape:
            return Finding("suspicious", "another shape than before")
        if not np.isfinite(yours).all():
            slug = f"softmax-{'maximum-of-others' if np.isfinite(yours).any() else 'without-maximum'}"
            where = "some shares are no numbers (nan)"
        elif yours[:, hidden].any():
            slug, where = "mask-value-small", "keys of the future get a share"
        else:
            where = "the shares are others than they should be"
            return Finding("suspicious", where, hints=self.hints_of("softmax-without-maximum"))
        return Finding("suspicious", where, np.inf, slug, self.hints_of(slug))


class Mix(AtSite):
    """Values averaged by the pattern, the heads side by side, and c_proj."""

    name = "attention.mix"
    asks = "What does attention write to each token from those that it looks at?"
    axes = {"pattern": "head query key", "v": "key head d_head", "weight": "n_embd n_embd", "bias": "n_embd"}
    site = "h.1.attn.out"
    mistakes = (
        *("pattern-transposed", *LAYOUTS, "heads-permuted", "transposed-c-proj", "missing-bias"),
        *("bias-twice", "own-value-left-out"),
    )
    wrong = WRONG_MIXES
    hints = {
        "pattern-transposed": (
            "Who gathers, and who is gathered from?",
            "Along which axis do the shares of one token add up to 1, and along which do you add?",
        ),
    }
    look_at = "Take token {}: which shares has its row in the pattern, and whose values do they belong to?"
    look = "Take the first token, which sees only itself: what must it get?"

    def inputs(self, run: Run) -> dict[str, Any]:
        c_proj = run.parameters.h[1].attn.c_proj
        return {
            "pattern": run["h.1.attn.pattern"],
            "v": run["h.1.attn.v"],
            "weight": c_proj.weight,
            "bias": c_proj.bias,
        }
