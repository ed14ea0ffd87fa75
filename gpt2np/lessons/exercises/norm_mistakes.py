"""LayerNorm with slips that the catalogue of `compare` has not: brackets, sums, and roots of roots."""

from collections.abc import Callable

import numpy as np

from gpt2np.lessons.exercise import Function, Hints, Wrong
from gpt2np.ops import Array

BRACKETS: Hints = (
    "In your line, what exactly is divided, and what is it divided by?",
    "Write the brackets that Python sees: does each operation reach as far as in the formula?",
)
SUMMED: Hints = (
    "Before the learned part, what is the spread of a token's numbers in your program?",
    "Do you divide by a sum over all numbers, or by what a typical number is?",
)
SPREAD: Hints = (
    "Is what stands under your root a variance, or something that has had its root taken?",
    "If every number of a row were four times as large, how much larger would your divisor be?",
)


_SUMS: tuple[Callable[[Array, float], Array], ...] = (
    lambda centred, e: np.sqrt((centred**2).sum(-1, keepdims=True) + e),
    lambda centred, e: np.linalg.norm(centred, axis=-1, keepdims=True) + e,
    lambda centred, e: np.linalg.norm(centred, axis=-1, keepdims=True),
    lambda centred, e: np.abs(centred).sum(-1, keepdims=True) + e,
)


def _by_length(length: Callable[[Array, float], Array], centre: bool) -> Function:
    """LayerNorm that divides by a length, in which the squares are summed and not averaged."""

    def function(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        measured = length(centred if centre else x, epsilon)
        return np.asarray(centred / measured * weight + bias)

    return function


def _centred(x: Array) -> Array:
    return np.asarray(x - x.mean(-1, keepdims=True))


def _root(x: Array, e: float) -> Array:
    return np.asarray(np.sqrt(x.var(-1, keepdims=True) + e))


_BRACKETS: tuple[Function, ...] = (
    lambda x, w, b, e: _centred(x) / np.sqrt(x.var(-1, keepdims=True)) + e * w + b,
    lambda x, w, b, e: x - x.mean(-1, keepdims=True) / _root(x, e) * w + b,
    lambda x, w, b, e: _centred(x) / (_root(x, e) * w) + b,
    lambda x, w, b, e: _centred(x) / (_root(x, e) * w + b),
    lambda x, w, b, e: _centred(x) / _root(x, e) * (w + b),
)
WRONG_NORMS: tuple[Wrong, ...] = (
    *(Wrong("layernorm-bracket", function, BRACKETS) for function in _BRACKETS),
    Wrong(
        "layernorm-root-of-spread",
        lambda x, w, b, e: _centred(x) / np.sqrt(x.std(-1, keepdims=True) + e) * w + b,
        SPREAD,
    ),
    *(
        Wrong("sum-instead-of-mean", _by_length(length, centre), SUMMED)
        for length in _SUMS
        for centre in (True, False)
    ),
)
