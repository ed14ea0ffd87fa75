"""Exercises of lesson 3: the fused qkv cut into heads, scores, the pattern, and what attention writes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Hints, Wrong
from gpt2np.lessons.same import array_of, is_same
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import future, products, softmax


def _thirds(order: tuple[int, ...]) -> Function:
    """q, k and v taken from these thirds."""

    def function(qkv: Array, n_head: int) -> list[Array]:
        parts = split_qkv(qkv, n_head)
        return [parts[i] for i in order]

    return function


def _orders() -> tuple[Wrong, ...]:
    """Every choice of three thirds but the right one."""
    made = []
    for order in itertools.product(range(3), repeat=3):
        if order == (0, 2, 1):
            made.append(Wrong("qkv-kv-swapped", _thirds(order)))
        elif len(set(order)) == 3 and order != (0, 1, 2):
            made.append(Wrong("qkv-order", _thirds(order)))
        elif len(set(order)) < 3:
            made.append(Wrong("qkv-part-repeated", _thirds(order)))
    return tuple(made)


def _positions_mixed(qkv: Array, n_head: int) -> Array:
    """The thirds cut off before the words: [3, pos, head, d_head] as it lies in memory."""
    return qkv.reshape(3, len(qkv), n_head, -1)


THIRDS_FIRST: Hints = (
    "Does your first query hold numbers of more than one word?",
    "In which order do all the numbers lie, one behind the other: what comes after the last one of a word?",
)


class Split(AtSite):
    """The fused qkv cut into queries, keys and values, and each of these into heads."""

    name = "attention.split"
    asks = "Which of the 576 numbers of a word are the query of head 1?"
    axes = {"qkv": "pos 3*n_embd"}
    sites = ("h.1.attn.q", "h.1.attn.k", "h.1.attn.v")
    mistakes = (
        *("heads-before-qkv", "qkv-interleaved", "heads-strided", "heads-cut-untransposed"),
        "qkv-columns-shifted",
    )
    wrong = (*_orders(), Wrong("qkv-cut-untransposed", _positions_mixed, THIRDS_FIRST))
    hints = {
        "heads-before-qkv": (
            "What do you cut first: the three kinds, or the heads?",
            "Where among the 576 numbers of a word does the first key begin, and where in your program?",
        ),
        "qkv-interleaved": (
            "What are neighbours in the long row: numbers of one vector, or one number of each kind?",
            "Where among the 576 numbers of a word does the first key begin, and where in your program?",
        ),
        "heads-strided": (
            "Which numbers of a third belong to head 0?",
            "Are the numbers of one head neighbours, or far apart?",
        ),
    }
    look = "Take one word: at which of its 576 numbers does each of your pieces begin?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"qkv": run["h.1.attn.qkv"], "n_head": run.config.n_head}


def _times_infinity(q: Array, k: Array) -> Array:
    """A mask of zeros and ones times minus infinity, added: zero times infinity is no number."""
    scores = products(q, k) / np.sqrt(q.shape[-1])
    return np.asarray(scores + future(*scores.shape[1:]) * -np.inf)


NO_NUMBERS: Hints = (
    "Some of what you return are no numbers: which, and were they numbers before the mask?",
    "What is nothing times infinity?",
)


def _shares_of(masked: bool) -> Function:
    """Scores that are shares already."""

    def function(q: Array, k: Array) -> Array:
        scores = products(q, k) / np.sqrt(q.shape[-1])
        return softmax(np.where(future(*scores.shape[1:]) & masked, -np.inf, scores))

    return function


SMALL: Hints = (
    "Does a word that has not been said yet really count for nothing?",
    "What is the exponential of the number that you put into the future?",
)
TOO_SOON: Hints = (
    "Were you asked how well a key answers, or what share it gets?",
    "Can any of your numbers be negative, and could those that were asked for?",
)


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
    wrong = (
        Wrong("mask-times-infinity", _times_infinity, NO_NUMBERS),
        *(Wrong("softmax-too-soon", _shares_of(masked), TOO_SOON) for masked in (True, False)),
    )
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
            "You asked for the row of a word: does it hold what the word asks, or what it is asked?",
            "Which of the two vectors belongs to the rows, and which to the columns?",
        ),
    }
    look = "Take one head, one query and one key: which 48 products go into their score?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"q": run["h.1.attn.q"], "k": run["h.1.attn.k"]}

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
            slug = "mask-value-small"
            return replace(found, mistake=slug, hints=self.hints_of(slug))
        return found


def _pattern(axis: int | tuple[int, ...] | None, masked: bool) -> Function:
    """A softmax over wrong axes, with the mask or without it."""

    def function(products: Array) -> Array:
        hidden = future(*products.shape[1:]) & masked
        e = np.where(hidden, 0.0, np.exp(products - products.max()))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))

    return function


def _by_the_largest(products: Array) -> Array:
    """Exponentials that are divided by the largest of a row in place of their sum."""
    hidden = future(*products.shape[1:])
    return np.where(
        hidden, 0.0, np.exp(products - np.where(hidden, -np.inf, products).max(-1, keepdims=True))
    )


class Pattern(AtSite):
    """The mask and the softmax: what share of its attention a word gives to each word."""

    name = "attention.pattern"
    asks = "What share of its attention does each word give to each word?"
    axes = {"products": "head query key"}
    site = "h.1.attn.pattern"
    mistakes = (
        *("mask-missing", "mask-off-by-one", "mask-anticausal", "mask-after-softmax", "mask-value-small"),
        *("softmax-wrong-axis", "softmax-missing", "softmax-twice", "scores-scaled-by-d-head"),
    )
    wrong = (
        *(Wrong("softmax-wrong-axis", _pattern(axis, False)) for axis in (0, 1, (1, 2), None)),
        Wrong("softmax-wrong-axis", _pattern(None, True)),
        Wrong("softmax-missing", _by_the_largest),
        Wrong("softmax-missing", lambda products: np.where(future(*products.shape[1:]), -np.inf, products)),
        Wrong("mask-times-infinity", lambda products: np.full_like(products, np.nan), NO_NUMBERS),
    )
    hints = {
        "mask-value-small": SMALL,
        "softmax-without-maximum": (
            "What becomes of a very small number, or of a very large one, in an exponential?",
            "If all scores of a row grow by the same amount, do the shares change? What would you choose?",
        ),
        "scores-scaled-by-d-head": (
            "Are your shares nearly all the same?",
            "What has been done to these products already, before you got them?",
        ),
    }
    look = "What do the shares of one query add up to, and which keys may have one?"

    def inputs(self, run: Run) -> dict[str, Any]:
        q, k = run["h.1.attn.q"], run["h.1.attn.k"]
        return {"products": products(q, k) * run.config.attention_scale(1)}

    def cases(self, model: Model) -> Sequence[Case]:
        """One more, where all exponentials vanish and a finite mask is seen."""
        cases = super().cases(model)
        given = cases[0].arguments["products"]
        low = {"products": 1000.0 * (given - given.max() - 1.0)}
        return [*cases, Case(low, "where all products are below -1000", cases[0].prompt, unusual=True)]

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
            slug, where = "softmax-without-maximum", "some shares are no numbers (nan)"
        elif yours[:, hidden].any():
            slug, where = "mask-value-small", "keys of the future get a share"
        else:
            return Finding("suspicious", "the shares are others than they should be")
        return Finding("suspicious", where, np.inf, slug, self.hints_of(slug))


_LAYOUTS = ("heads-merged-untransposed", "heads-merged-interleaved")


def _mix(transposed: bool, layout: str | None, wrong_side: bool, biased: bool) -> Function:
    """What attention writes, with several mistakes at once."""

    def function(pattern: Array, v: Array, weight: Array, bias: Array) -> Array:
        z = np.einsum("hkq,khd->qhd" if transposed else "hqk,khd->qhd", pattern, v)
        if layout:
            z = np.ascontiguousarray(z.transpose(1, 0, 2) if layout == _LAYOUTS[0] else z.transpose(0, 2, 1))
        out = z.reshape(len(v), -1) @ (weight.T if wrong_side else weight)
        return np.asarray(out + bias if biased else out)

    return function


def _several() -> tuple[Wrong, ...]:
    """Two or more mistakes of `mix`: the one that comes first in the computation is told first."""
    made = []
    for choice in itertools.product((False, True), (None, *_LAYOUTS), (False, True), (True, False)):
        transposed, layout, wrong_side, _ = choice
        slug = ("pattern-transposed" if transposed else layout) or ("transposed-c-proj" if wrong_side else "")
        if slug:
            made.append(Wrong(slug, _mix(*choice)))
    return tuple(made)


def _written(projected: bool, averaged: bool, biases: Callable[[int], float]) -> Function:
    """What attention writes: without c_proj, as an average of n heads, or with so many biases for these."""

    def function(pattern: Array, v: Array, weight: Array, bias: Array) -> Array:
        n = v.shape[1]
        z = np.einsum("hqk,khd->qhd", pattern, v).reshape(len(v), -1)
        out = (z @ weight if projected else z) / (n if averaged else 1)
        return np.asarray(out + biases(n) * bias)

    return function


NO_BIAS, ONE_BIAS, EACH_BIAS, SHARE_OF_BIAS = (lambda n: 0.0, lambda n: 1.0, float, lambda n: 1 / n)
UNREAD: Hints = (
    "Your heads lie side by side: has anybody read them and written for the stream?",
    "Which of the four inputs of your function have you not used?",
)
FOUR_BIASES: Hints = (
    "What would attention write if all values were nothing?",
    "Who adds the bias: each of the heads, or all of them together?",
)
AVERAGED: Hints = (
    "Is what you write too small everywhere, and by how much?",
    "Do the heads share one place in the stream, or does each of them add to it?",
)


class Mix(AtSite):
    """Values averaged by the pattern, the heads side by side, and c_proj."""

    name = "attention.mix"
    asks = "What does a word take home from those that it looked at?"
    axes = {"pattern": "head query key", "v": "key head d_head", "weight": "n_embd n_embd", "bias": "n_embd"}
    site = "h.1.attn.out"
    mistakes = (
        *("pattern-transposed", *_LAYOUTS, "heads-permuted", "transposed-c-proj", "missing-bias"),
        *("bias-twice", "own-value-left-out"),
    )
    wrong = (
        *_several(),
        *(Wrong("projection-missing", _written(False, False, b), UNREAD) for b in (NO_BIAS, ONE_BIAS)),
        Wrong("bias-for-each-head", _written(True, False, EACH_BIAS), FOUR_BIASES),
        *(
            Wrong("heads-averaged", _written(True, True, b), AVERAGED)
            for b in (NO_BIAS, ONE_BIAS, SHARE_OF_BIAS)
        ),
    )
    hints = {
        "pattern-transposed": (
            "Who gathers, and who is gathered from?",
            "Along which axis do the shares of one word add up to 1, and along which do you add?",
        ),
    }
    look = "Take the first word, which sees only itself: what must it get?"

    def inputs(self, run: Run) -> dict[str, Any]:
        c_proj = run.parameters.h[1].attn.c_proj
        return {
            "pattern": run["h.1.attn.pattern"],
            "v": run["h.1.attn.v"],
            "weight": c_proj.weight,
            "bias": c_proj.bias,
        }
