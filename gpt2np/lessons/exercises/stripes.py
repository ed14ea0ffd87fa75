"""Ways to a score for induction: the right one, and those of mistakes."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2np.lessons.exercise import Function, Wrong
from gpt2np.ops import Array


def stripe(offset: Any, first: Any = lambda n: n) -> Function:
    """The mean share of the keys that are `offset` before the query, for queries from `first` on."""

    def score(pattern: Array, n: int) -> Array:
        queries = np.arange(max(first(n), offset(n)), 2 * n)
        return np.asarray(pattern[:, :, queries, queries - offset(n)].mean(axis=-1))

    return score


def _shares(pattern: Array, n: int) -> Array:
    """[layer, head, n]: what each query of the second half gives to the token after its twin."""
    queries = np.arange(n, 2 * n)
    return np.asarray(pattern[:, :, queries, queries - n + 1])


def _divided(which: slice, by: Callable[[int], float]) -> Function:
    """The sum over some of the queries, divided by a number."""
    return lambda pattern, n: _shares(pattern, n)[..., which].sum(axis=-1) / by(n)


def _transposed(pattern: Array, n: int) -> Array:
    queries = np.arange(n, 2 * n)
    return np.asarray(pattern[:, :, queries - n + 1, queries].mean(axis=-1))


def _counted(pattern: Array, n: int) -> Array:
    """How often the token after the twin gets the largest share."""
    return np.asarray((pattern[:, :, n:].argmax(axis=-1) == np.arange(n) + 1).mean(axis=-1))


_BY: tuple[Callable[[int], float], ...] = (
    *(lambda n: 1, lambda n: n, lambda n: n - 1, lambda n: n + 1),
    *(lambda n: 2 * n, lambda n: 2 * n - 1, lambda n: n / 100, lambda n: 2),
)
_ANYWHERE: tuple[Function, ...] = (
    lambda pattern, n: pattern.max(axis=(2, 3)),
    lambda pattern, n: pattern[:, :, n:].max(axis=(2, 3)),
    lambda pattern, n: pattern[:, :, n:, :n].max(axis=(2, 3)),
    lambda pattern, n: pattern[:, :, n:].max(axis=3).mean(axis=2),
    lambda pattern, n: pattern[:, :, n:, :n].max(axis=3).mean(axis=2),
    lambda pattern, n: pattern[:, :, n:, :n].mean(axis=(2, 3)),
    lambda pattern, n: pattern[:, :, n:, :n].sum(axis=3).mean(axis=2),
)

MISTAKES = (
    Wrong(
        "looks-at-the-twin",
        stripe(lambda n: n),
        (
            "At which token do you look: at the same one again, or at the one that is wanted?",
            "If the twin stands at position 3, what does a head that copies need to see?",
        ),
    ),
    Wrong(
        "looks-before-the-twin",
        stripe(lambda n: n + 1, lambda n: n + 1),
        (
            "You are next to the twin. On which of its two sides?",
            "Does what came before help, if you want to know what comes next?",
        ),
    ),
    *(
        Wrong(
            "looks-at-the-token-before",
            function,
            (
                "Would your score be as high for a text in which nothing is said twice?",
                "How far back does the copy lie: one position, or many?",
            ),
        )
        for function in (stripe(lambda n: 1, lambda n: 1), stripe(lambda n: 1))
    ),
    Wrong(
        "first-half-too",
        stripe(lambda n: n - 1, lambda n: n - 1),
        (
            "Which is the first position whose token has been said before?",
            "How many queries do you average over, and how many should it be?",
        ),
    ),
    Wrong(
        "average-over-all",
        _divided(slice(None), lambda n: 2 * n),
        (
            "Can your score reach 1, for a head that does nothing else?",
            "By how many queries do you divide, and how many of them have a twin to look for?",
        ),
    ),
    *(
        Wrong(
            "query-missing",
            _divided(which, by),
            (
                "Where does your loop begin, where does it end: does every token of the second half count?",
                "How many queries has the second half, and how many numbers do you add up?",
            ),
        )
        for which, by in itertools.product((slice(None, -1), slice(1, None), slice(1, -1)), _BY)
    ),
    *(
        Wrong(
            "not-a-mean",
            _divided(slice(None), by),
            (
                "What would you give a head whose whole attention goes to the right token?",
                "How many shares do you add up, and by how many do you divide?",
            ),
        )
        for by in _BY
        if by(7) != 7
    ),
    Wrong(
        "best-instead-of-mean",
        lambda pattern, n: _shares(pattern, n).max(axis=-1),
        (
            "Does one lucky query make a head?",
            "What should count: the best of the queries, or all of them?",
        ),
    ),
    *(
        Wrong(
            "looks-anywhere",
            function,
            (
                "Does it count in your score which token gets the attention?",
                "Which one key belongs to each query?",
            ),
        )
        for function in _ANYWHERE
    ),
    Wrong(
        "counts-instead-of-shares",
        _counted,
        (
            "What does a head get that gives 40 % to the right token, and one that gives it 90 %?",
            "What should be averaged: whether a head looks there most, or how much it looks there?",
        ),
    ),
    Wrong(
        "layer-and-head-swapped",
        lambda pattern, n: _shares(pattern, n).mean(axis=-1).T,
        (
            "Whose score stands in row 1 and column 0 of your result?",
            "Which of the first two axes of the pattern are the rows of your result?",
        ),
    ),
    Wrong(
        "looks-into-the-future",
        _transposed,
        (
            "Are all of your numbers 0? What lies on the other side of the diagonal?",
            "Has the token at your key already been said when the query looks?",
        ),
    ),
)
