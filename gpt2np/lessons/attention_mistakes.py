"""Mistakes of lesson 3, as functions that make them and the questions that are asked about them."""

import itertools
from collections.abc import Callable

import numpy as np

from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.lessons.exercise import Function, Hints, Wrong
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
    "Does your first query hold numbers of more than one token?",
    "In which order do all the numbers lie, one behind the other: what comes after the last one of a token?",
)


def _times_infinity(q: Array, k: Array) -> Array:
    """A mask of zeros and ones times minus infinity, added: zero times infinity is no number."""
    scores = products(q, k) / np.sqrt(q.shape[-1])
    return np.asarray(scores + future(*scores.shape[1:]) * -np.inf)


NO_NUMBERS: Hints = (
    "Some of what you return are no numbers: which, and were they numbers before the mask?",
    "What is nothing times infinity?",
)


# Where keys are hidden from a query, by number of tokens; the right one first.
_MASKS: tuple[tuple[str, Callable[[int], Array]], ...] = (
    ("", lambda n: future(n, n)),
    ("mask-missing", lambda n: np.zeros((n, n), bool)),
    ("mask-off-by-one", lambda n: future(n, n, 2)),
    ("mask-off-by-one", lambda n: future(n, n, 0)),
    ("mask-anticausal", lambda n: ~future(n, n, 0)),
    ("mask-anticausal", lambda n: ~future(n, n)),
)


# What scores are divided by, from their queries [query, head, d_head]; the right one first.
_DIVISORS: tuple[tuple[str, Callable[[Array], float]], ...] = (
    ("", lambda q: q.shape[2] ** 0.5),
    ("scores-unscaled", lambda q: 1.0),
    ("scores-scaled-by-d-head", lambda q: q.shape[2]),
    ("scores-scaled-by-n-head", lambda q: q.shape[1] ** 0.5),
    ("scores-scaled-by-n-embd", lambda q: (q.shape[1] * q.shape[2]) ** 0.5),
    ("scores-scaled-by-length", lambda q: len(q) ** 0.5),
    ("scores-multiplied", lambda q: q.shape[2] ** -0.5),
)


def _scored(divisor: Callable[[Array], float], hidden: Callable[[int], Array], fill: float) -> Function:
    """Scores with this divisor, and with a number where these keys are hidden."""
    return lambda q, k: np.where(hidden(len(q)), fill, products(q, k) / divisor(q))


def _scaled_and_masked() -> tuple[Wrong, ...]:
    """A wrong divisor, a wrong mask, or both, of which the divisor is told first."""
    made = []
    for (scaled, divisor), (masked, hidden) in itertools.product(_DIVISORS, _MASKS):
        if scaled or masked:
            made.append(Wrong(scaled or masked, _scored(divisor, hidden, -np.inf)))
        if not masked:
            made.append(Wrong(scaled or "mask-value-small", _scored(divisor, hidden, 0.0)))
    return tuple(made)


def _shares_of(masked: bool) -> Function:
    """Scores that are shares already."""

    def function(q: Array, k: Array) -> Array:
        scores = products(q, k) / np.sqrt(q.shape[-1])
        return softmax(np.where(future(*scores.shape[1:]) & masked, -np.inf, scores))

    return function


SMALL: Hints = (
    "Does a token that has not come yet really count for nothing?",
    "What is the exponential of the number that you put into the future?",
)


TOO_SOON: Hints = (
    "Were you asked how well a key answers, or what share it gets?",
    "Can any of your numbers be negative, and could those that were asked for?",
)


def _pattern(axis: int | tuple[int, ...] | None, masked: bool) -> Function:
    """A softmax over wrong axes, with the mask or without it."""

    def function(products: Array) -> Array:
        hidden = future(*products.shape[1:]) & masked
        e = np.where(hidden, 0.0, np.exp(products - products.max()))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))

    return function


def _masked(hidden: Callable[[int], Array], divisor: float = 1.0, axis: int = -1) -> Function:
    """A softmax with these keys hidden, along an axis, of products that are divided once more."""
    return lambda products: softmax(np.where(hidden(len(products[0])), -np.inf, products / divisor), axis)


def _no_exponential(masked: bool) -> Function:
    """Products that are divided by the sum of their row, as they are."""

    def function(products: Array) -> Array:
        seen = np.where(future(*products.shape[1:]) & masked, 0.0, products)
        return np.asarray(seen / seen.sum(axis=-1, keepdims=True))

    return function


def _hidden_afterwards(products: Array) -> Array:
    return np.where(future(*products.shape[1:]), 0.0, softmax(products))


def _by_the_largest(products: Array) -> Array:
    """Exponentials that are divided by the largest of a row in place of their sum."""
    hidden = future(*products.shape[1:])
    return np.where(
        hidden, 0.0, np.exp(products - np.where(hidden, -np.inf, products).max(-1, keepdims=True))
    )


NO_EXPONENTIAL: Hints = (
    "Can a share be negative, and are some of yours?",
    "Which function makes a positive number of any number, and where did you use it?",
)


ALL_VANISH: Hints = (
    "What becomes of a very small number, or of a very large one, in an exponential?",
    "If all scores of a row grow by the same amount, do the shares change? What would you choose?",
)


MAXIMUM_OF_OTHERS: Hints = (
    "You subtract a maximum: of which numbers do you take it?",
    "Can the largest of them be a number that its row does not see? What is then left of the row?",
)


LAYOUTS = ("heads-merged-untransposed", "heads-merged-interleaved")


def _mix(transposed: bool, layout: str | None, wrong_side: bool, biased: bool) -> Function:
    """What attention writes, with several mistakes at once."""

    def function(pattern: Array, v: Array, weight: Array, bias: Array) -> Array:
        z = np.einsum("hkq,khd->qhd" if transposed else "hqk,khd->qhd", pattern, v)
        if layout:
            z = np.ascontiguousarray(z.transpose(1, 0, 2) if layout == LAYOUTS[0] else z.transpose(0, 2, 1))
        out = z.reshape(len(v), -1) @ (weight.T if wrong_side else weight)
        return np.asarray(out + bias if biased else out)

    return function


def _several() -> tuple[Wrong, ...]:
    """Two or more mistakes of `mix`: the one that comes first in the computation is told first."""
    made = []
    for choice in itertools.product((False, True), (None, *LAYOUTS), (False, True), (True, False)):
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


def _heads_added(repeated: bool, averaged: bool) -> Function:
    """The heads' results added up before c_proj, and put there once for each head."""

    def function(pattern: Array, v: Array, weight: Array, bias: Array) -> Array:
        z = np.einsum("hqk,khd->qd", pattern, v) / (v.shape[1] if averaged else 1)
        copies = np.repeat(z, v.shape[1], axis=1) if repeated else np.tile(z, v.shape[1])
        return np.asarray(copies @ weight + bias)

    return function


def _divided_again(by: Callable[[int], Array | float], with_bias: bool) -> Function:
    """An average whose shares add up to 1, divided by how many there are."""

    def function(pattern: Array, v: Array, weight: Array, bias: Array) -> Array:
        out = np.einsum("hqk,khd->qhd", pattern, v).reshape(len(v), -1) @ weight
        n = by(len(v))
        return np.asarray((out + bias) / n if with_bias else out / n + bias)

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


ADDED_UP: Hints = (
    "How many different numbers of each token go into the matrix: those of one head, or of four?",
    "Can the matrix still tell which head has found what?",
)


DIVIDED_AGAIN: Hints = (
    "What do the shares of one query add up to?",
    "An average is a sum, divided by how many there are: are your shares divided already?",
)


# -- all of each exercise ---

WRONG_SPLITS: tuple[Wrong, ...] = (*_orders(), Wrong("qkv-cut-untransposed", _positions_mixed, THIRDS_FIRST))
WRONG_SCORES: tuple[Wrong, ...] = (
    *_scaled_and_masked(),
    Wrong("mask-times-infinity", _times_infinity, NO_NUMBERS),
    *(Wrong("softmax-too-soon", _shares_of(masked), TOO_SOON) for masked in (True, False)),
)
WRONG_PATTERNS: tuple[Wrong, ...] = (
    *(Wrong("softmax-wrong-axis", _pattern(axis, False)) for axis in (0, 1, (1, 2), None)),
    Wrong("softmax-wrong-axis", _pattern(None, True)),
    Wrong("softmax-missing", _by_the_largest),
    Wrong("softmax-missing", lambda products: np.where(future(*products.shape[1:]), -np.inf, products)),
    Wrong("mask-times-infinity", lambda products: np.full_like(products, np.nan), NO_NUMBERS),
    *(Wrong(slug, _masked(hidden)) for slug, hidden in _MASKS if slug),
    *(Wrong("softmax-wrong-axis", _masked(_MASKS[0][1], axis=axis)) for axis in (0, 1)),
    *(Wrong("softmax-exp-missing", _no_exponential(masked), NO_EXPONENTIAL) for masked in (True, False)),
    Wrong("mask-after-softmax", _hidden_afterwards),
)
WRONG_MIXES: tuple[Wrong, ...] = (
    *_several(),
    *(Wrong("projection-missing", _written(False, False, b), UNREAD) for b in (NO_BIAS, ONE_BIAS)),
    Wrong("bias-for-each-head", _written(True, False, EACH_BIAS), FOUR_BIASES),
    *(Wrong("heads-averaged", _written(True, True, b), AVERAGED) for b in (NO_BIAS, ONE_BIAS, SHARE_OF_BIAS)),
    *(
        Wrong("heads-added-up", _heads_added(*how), ADDED_UP)
        for how in itertools.product((False, True), repeat=2)
    ),
    *(
        Wrong("average-divided-again", _divided_again(by, with_bias), DIVIDED_AGAIN)
        for by in (float, lambda n: np.arange(1.0, n + 1)[:, None])
        for with_bias in (False, True)
    ),
)
