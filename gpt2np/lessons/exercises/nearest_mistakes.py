"""Ways to look for the tokens nearest to one: the parts of the right one, and wrong ones."""

import numpy as np

from gpt2np.lessons.exercise import Wrong
from gpt2np.ops import Array


def cosines(i: int, wte: Array) -> Array:
    """The cosine of a row of a table with every row."""
    return np.asarray(wte @ wte[i] / (np.linalg.norm(wte, axis=1) * np.linalg.norm(wte[i])))


def ranked(values: Array, without: int | None = None) -> list[int]:
    """Ids, the largest value first."""
    return [int(j) for j in np.argsort(-values, kind="stable") if j != without]


def _by_dots(i: int, wte: Array, k: int) -> list[int]:
    return ranked(wte @ wte[i], i)[:k]


def _by_columns(i: int, wte: Array) -> list[int]:
    """By dot products of a table whose columns, not rows, have the length 1."""
    table = wte / np.linalg.norm(wte, axis=0)
    return ranked(table @ table[i])


def _by_squares(i: int, wte: Array) -> list[int]:
    return ranked(wte @ wte[i] / (wte**2).sum(axis=1))


def _by_distance(i: int, wte: Array, k: int) -> list[int]:
    return ranked(-np.linalg.norm(wte - wte[i], axis=1), i)[:k]


_SELF = (
    "Which token of your result has a cosine of exactly 1, and which token is it?",
    "Is it news that a token means the same as itself?",
)
_ENDS = (
    "In which order does your program sort, and at which end do you look?",
    "Is your first one the nearest of all, or is it far away?",
)
_DOT = (
    "If some token's vector were twice as long, but pointed the same way, would your result be another?",
    "By which lengths is a dot product divided to make a cosine, and by which do you divide?",
)
_DISTANCE = (
    "Two vectors point the same way, and one is twice as long: are they near to each other in your program?",
    "Do you measure how far the ends of two arrows are apart, or the angle between them?",
)
_RETURNED = (
    "Are these the numbers of tokens, or something that you measured about them?",
    "Could somebody look up a row of the table with your numbers?",
)
_SQUARED = (
    "Work out the cosine of a vector with itself as your program does: is it 1, whatever its length?",
    "How often do you divide by the length of a token's vector?",
)
_COLUMNS = (
    "After you have divided, how long is each row of your table?",
    "Whose lengths did you measure: those of the rows, or those of the columns?",
)
_LEFT_OUT = (
    "Is there a token with a larger cosine than your first one, which is not the token itself?",
    "How many tokens do you leave out at the beginning, and which?",
)
_SIGN = (
    "What is the cosine of two vectors that point in opposite directions?",
    "Some of your tokens have a cosine below zero: what do you do with its sign?",
)
ORDER = (
    "These are the right tokens: which of them is the nearest, and where does it stand?",
    "Does your way of choosing the largest ones also sort them?",
)
SHIFTED = (
    "Once a number has been taken out of a list, where do those behind it stand?",
    "Is each of your numbers still that of its token's row in the table?",
)
ROWS_RETURNED = (
    "Were you asked for rows of the table, or for the numbers of these rows?",
    "What does the sorting give you, and what did you do with that?",
)


def _without_the_token(i: int, wte: Array, k: int) -> list[int]:
    """Ids counted in a list that has one fewer."""
    return ranked(np.delete(cosines(i, wte), i))[:k]


WRONG_NEAREST = (
    Wrong("dot-product", _by_dots, _DOT),
    Wrong("dot-product", lambda i, wte, k: ranked(wte @ wte[i])[:k], _DOT),
    Wrong("dot-product", lambda i, wte, k: ranked(wte @ wte[i])[1 : k + 1], _DOT),
    Wrong("columns-normalised", lambda i, wte, k: _by_columns(i, wte)[1 : k + 1], _COLUMNS),
    Wrong("columns-normalised", lambda i, wte, k: _by_columns(i, wte)[:k], _COLUMNS),
    Wrong("token-itself", lambda i, wte, k: ranked(cosines(i, wte))[:k], _SELF),
    Wrong("farthest-first", lambda i, wte, k: ranked(-cosines(i, wte), i)[:k], _ENDS),
    Wrong("nearest-last", lambda i, wte, k: ranked(cosines(i, wte), i)[:k][::-1], _ENDS),
    Wrong("nearest-last", lambda i, wte, k: ranked(cosines(i, wte))[:k][::-1], _ENDS),
    Wrong("nearest-last", lambda i, wte, k: _by_dots(i, wte, k)[::-1], _ENDS),
    Wrong("distance", _by_distance, _DISTANCE),
    Wrong("distance", lambda i, wte, k: ranked(-np.linalg.norm(wte - wte[i], axis=1))[:k], _DISTANCE),
    Wrong("cosines-returned", lambda i, wte, k: np.sort(cosines(i, wte))[::-1][1 : k + 1], _RETURNED),
    Wrong("cosines-returned", lambda i, wte, k: np.sort(cosines(i, wte))[::-1][:k], _RETURNED),
    Wrong("norm-squared", lambda i, wte, k: _by_squares(i, wte)[:k], _SQUARED),
    Wrong("norm-squared", lambda i, wte, k: _by_squares(i, wte)[1 : k + 1], _SQUARED),
    Wrong("norm-squared", lambda i, wte, k: [j for j in _by_squares(i, wte) if j != i][:k], _SQUARED),
    Wrong("nearest-left-out", lambda i, wte, k: ranked(cosines(i, wte), i)[1 : k + 1], _LEFT_OUT),
    Wrong("sign-lost", lambda i, wte, k: ranked(abs(cosines(i, wte)), i)[:k], _SIGN),
    Wrong("sign-lost", lambda i, wte, k: ranked(cosines(i, wte) ** 2, i)[:k], _SIGN),
    Wrong("places-shifted", _without_the_token, SHIFTED),
)
