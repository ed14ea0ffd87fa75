"""Exercises of lesson 1: merging pairs into tokens, rows of two tables, and the tokens nearest to one."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2np.errors import InputError
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Wrong
from gpt2np.model import Model
from gpt2np.ops import Array

Pair = tuple[str, str]
Ranks = dict[Pair, int]
WORDS = ("thereupon", "disagreement", "remembered", "somewhere", "nevertheless", "nonsense")
OVERLAPS: Ranks = {("a", "a"): 0, ("aa", "a"): 1, ("aa", "aa"): 2}


@functools.lru_cache(maxsize=2)
def ranks_of(model: Model) -> Ranks:
    """The lines of merges.txt: each pair, and its number from 0."""
    ranks, tokenizer = Ranks(), model.tokenizer
    if tokenizer is None:
        raise InputError("tokens.merge needs a model with a tokenizer")
    for id in range(tokenizer.n_vocab):
        if joins := tokenizer.merges(id):
            halves = joins[-2].pieces if len(joins) > 1 else list(joins[-1].pieces[0])
            ranks[halves[0], halves[1]] = joins[-1].number - 1
    return ranks


def joined(symbols: list[str], pair: Pair) -> list[str]:
    """Every copy of a pair as one symbol, from the left."""
    made: list[str] = []
    rest = list(symbols)
    while rest:
        n = 2 if tuple(rest[:2]) == pair else 1
        made.append("".join(rest[:n]))
        del rest[:n]
    return made


Choice = Callable[[list[Pair], Ranks], Pair]


def _by(choice: Choice, once: bool = False) -> Callable[[list[str], Ranks], list[str]]:
    """Merging the pair that is chosen among those that have a rank."""

    def merge(symbols: list[str], ranks: Ranks) -> list[str]:
        symbols = list(symbols)
        while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
            symbols = joined(symbols, choice(possible, ranks))
            if once:
                break
        return symbols

    return merge


def _lowest(pairs: list[Pair], ranks: Ranks) -> Pair:
    return min(pairs, key=ranks.__getitem__)


def _highest(pairs: list[Pair], ranks: Ranks) -> Pair:
    return max(pairs, key=ranks.__getitem__)


def _most_frequent(pairs: list[Pair], ranks: Ranks) -> Pair:
    return Counter(pairs).most_common(1)[0][0]


def _first(pairs: list[Pair], ranks: Ranks) -> Pair:
    return pairs[0]


def _leftmost(symbols: list[str], ranks: Ranks) -> list[str]:
    """The leftmost pair with a rank, again and again: one copy at a time."""
    symbols = list(symbols)
    while places := [i for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]:
        symbols[places[0] : places[0] + 2] = ["".join(symbols[places[0] : places[0] + 2])]
    return symbols


def _one_pass(symbols: list[str], ranks: Ranks) -> list[str]:
    """Pairs with a rank, from the left, each symbol used once."""
    made, rest = list[str](), list(symbols)
    while rest:
        n = 2 if tuple(rest[:2]) in ranks else 1
        made.append("".join(rest[:n]))
        del rest[:n]
    return made


def _passes(symbols: list[str], ranks: Ranks) -> list[str]:
    while (made := _one_pass(symbols, ranks)) != symbols:
        symbols = made
    return made


def _growing(symbols: list[str], ranks: Ranks) -> list[str]:
    """The last token takes the next symbol in, if it can."""
    made: list[str] = []
    for symbol in symbols:
        if made and (made[-1], symbol) in ranks:
            made[-1] += symbol
        else:
            made.append(symbol)
    return made


def _longest_match(symbols: list[str], ranks: Ranks) -> list[str]:
    """The longest token of the vocabulary that the rest begins with."""
    known, rest, made = {"".join(pair) for pair in ranks}, "".join(symbols), list[str]()
    while rest:
        n = next((n for n in range(len(rest), 1, -1) if rest[:n] in known), 1)
        made.append(rest[:n])
        rest = rest[n:]
    return made


def _from_the_right(symbols: list[str], ranks: Ranks) -> list[str]:
    """The lowest rank first, but the copies of a pair from the right."""
    symbols = list(symbols)
    while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        first, second = _lowest(possible, ranks)
        turned = joined([symbol[::-1] for symbol in reversed(symbols)], (second[::-1], first[::-1]))
        symbols = [symbol[::-1] for symbol in reversed(turned)]
    return symbols


def _as_text(symbols: list[str], ranks: Ranks) -> list[str]:
    """The lowest rank first, by replacing in a text: a pair is found inside of longer tokens, too."""
    symbols = list(symbols)
    while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        first, second = _lowest(possible, ranks)
        symbols = " ".join(symbols).replace(f"{first} {second}", first + second).split(" ")
    return symbols


def _unknown_too(symbols: list[str], ranks: Ranks) -> list[str]:
    return ["".join(symbols)]


_LEFT = (
    "Which pair comes first in your program: the one that stands first, or the one that was learned first?",
    "Line up all pairs of the word with their ranks: did the first pair win, or the oldest?",
)


class Merge(ByOutput):
    """A word's letters joined to tokens, as merges.txt says."""

    name = "tokens.merge"
    asks = "Which of the pairs in a word is joined first?"
    result_axes = ("token",)
    abouts = (*(f"for the word {word!r}" for word in WORDS), "for the letters 'aaaaa'", "for a single letter")
    unusual = len(WORDS)
    wrong = (
        *(
            Wrong("left-to-right", way, _LEFT)
            for way in (_leftmost, _by(_first), _one_pass, _passes, _growing)
        ),
        Wrong(
            "longest-match",
            _longest_match,
            (
                "Which rule would give this token? Did the tokeniser ever look for a long one?",
                "A long token needs its two halves: has anything made both of them yet?",
            ),
        ),
        Wrong(
            "highest-rank-first",
            _by(_highest),
            (
                "Which lines of the list were learned first, those at its top or those at its end?",
                "Take the two pairs of the list that this word has: which of them has the smaller number?",
            ),
        ),
        Wrong(
            "most-frequent-first",
            _by(_most_frequent),
            (
                "Are you learning the list of merges, or using it?",
                "Who counted the pairs, and when? What is left of those counts in the ranks?",
            ),
        ),
        Wrong(
            "one-merge-only",
            _by(_lowest, once=True),
            (
                "Are there still pairs in your result that could be joined?",
                "How do you know that you are done?",
            ),
        ),
        Wrong(
            "nothing-merged",
            lambda symbols, ranks: list(symbols),
            (
                "What has changed between your list and the one that you were given?",
                "Does your loop ever run? What does it look for, and is that in the dictionary?",
            ),
        ),
        Wrong(
            "unknown-pairs-merged",
            _unknown_too,
            (
                "Is every pair of your word in the list of merges?",
                "What does your program take for the rank of a pair that has none?",
            ),
        ),
        Wrong(
            "joined-inside-tokens",
            _as_text,
            (
                "Is the last letter of a long token still a symbol of its own?",
                "If you look for a pair in a text, how do you know that both of its halves are whole tokens?",
            ),
        ),
        Wrong(
            "copies-from-the-right",
            _from_the_right,
            (
                "Three equal letters in a row hold two pairs: which of them do you join?",
                "From which end do you go through the word?",
            ),
        ),
    )
    look = "Write all pairs of the word with their ranks on paper: which one goes first, and which then?"

    def inputs(self, model: Model) -> Sequence[dict[str, Any]]:
        ranks = ranks_of(model)
        words = [{"symbols": ["Ġ", *word], "ranks": ranks} for word in WORDS]
        return [
            *words,
            {"symbols": list("aaaaa"), "ranks": OVERLAPS},
            {"symbols": ["a"], "ranks": OVERLAPS},
        ]

    right = staticmethod(_by(_lowest))


class Embed(AtSite):
    """The first vectors of a text: rows of the table of tokens, and of the table of positions."""

    name = "tokens.embed"
    asks = "Which vector does a token at a place begin with?"
    axes = {"wte": "vocab n_embd", "wpe": "max_pos n_embd"}
    site = "embed"
    mistakes = (
        *("position-off-by-one", "position-missing", "embedding-scaled", "position-reversed"),
        "position-constant",
    )
    wrong = (
        Wrong(
            "token-missing",
            lambda ids, wte, wpe: wpe[: len(ids)],
            (
                "Would another text of as many tokens get other vectors from you?",
                "Where do you use the numbers of the tokens?",
            ),
        ),
        Wrong(
            "token-by-place",
            lambda ids, wte, wpe: wte[: len(ids)] + wpe[: len(ids)],
            (
                "Would another text of as many tokens get other vectors from you?",
                "Which rows of the first table are read: those of your tokens, or the first ones?",
            ),
        ),
        Wrong(
            "embeddings-averaged",
            lambda ids, wte, wpe: (wte[ids] + wpe[: len(ids)]) / 2,
            (
                "How long are your vectors, beside the ones that were learned?",
                "Is what you make of the two vectors their sum?",
            ),
        ),
        Wrong(
            "embeddings-multiplied",
            lambda ids, wte, wpe: wte[ids] * wpe[: len(ids)],
            (
                "What becomes of a number of the token where the position has nearly nothing?",
                "How are the two vectors put together?",
            ),
        ),
        Wrong(
            "positions-of-tokens",
            lambda ids, wte, wpe: wte[ids] + wpe[[ids.index(i) for i in ids]],
            (
                "The same token stands at two places: do both of your vectors know where?",
                "How do you find out at which place a token stands, if it is there twice?",
            ),
        ),
    )
    look = "Take the first token: which row of which table belongs to it, and what is done with the two?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"ids": run.token_ids, "wte": run.parameters.wte, "wpe": run.parameters.wpe}


def _cosines(i: int, wte: Array) -> Array:
    return np.asarray(wte @ wte[i] / (np.linalg.norm(wte, axis=1) * np.linalg.norm(wte[i])))


def _ranked(values: Array, without: int | None = None) -> list[int]:
    """Ids, the largest value first."""
    return [int(j) for j in np.argsort(-values, kind="stable") if j != without]


def _by_dots(i: int, wte: Array, k: int) -> list[int]:
    return _ranked(wte @ wte[i], i)[:k]


def _by_distance(i: int, wte: Array, k: int) -> list[int]:
    return _ranked(-np.linalg.norm(wte - wte[i], axis=1), i)[:k]


_SELF = (
    "Who is nearest to everybody?",
    "Is it news that a token means the same as itself?",
)
_ENDS = (
    "In which order does your program sort, and at which end do you look?",
    "Is your first one the nearest of all, or is it far away?",
)
_DOT = (
    "Who has the longest vector?",
    "If a token's vector were twice as long, would it mean the same? Would it still be as near to yours?",
)


_DISTANCE = (
    "Two arrows of different lengths point the same way: are they near to each other for you?",
    "Do you measure how far the ends of two arrows are apart, or the angle between them?",
)
_RETURNED = (
    "Are these the numbers of tokens, or something that you measured about them?",
    "Could somebody look up a row of the table with your numbers?",
)


class Nearest(ByOutput):
    """The tokens whose vectors point nearly the same way."""

    name = "tokens.nearest"
    asks = "Which tokens does the model take for nearly the same?"
    axes = {"wte": "vocab n_embd"}
    result_axes = ("place",)
    words = (" three", " king", " Darcy", " sister")
    abouts = tuple(f"for {word!r}" for word in words)
    wrong = (
        Wrong("dot-product", _by_dots, _DOT),
        Wrong("dot-product", lambda i, wte, k: _ranked(wte @ wte[i])[:k], _DOT),
        Wrong("dot-product", lambda i, wte, k: _ranked(wte @ wte[i])[1 : k + 1], _DOT),
        Wrong("token-itself", lambda i, wte, k: _ranked(_cosines(i, wte))[:k], _SELF),
        Wrong("farthest-first", lambda i, wte, k: _ranked(-_cosines(i, wte), i)[:k], _ENDS),
        Wrong("nearest-last", lambda i, wte, k: _ranked(_cosines(i, wte), i)[:k][::-1], _ENDS),
        Wrong("nearest-last", lambda i, wte, k: _ranked(_cosines(i, wte))[:k][::-1], _ENDS),
        Wrong("nearest-last", lambda i, wte, k: _by_dots(i, wte, k)[::-1], _ENDS),
        Wrong("distance", _by_distance, _DISTANCE),
        Wrong("distance", lambda i, wte, k: _ranked(-np.linalg.norm(wte - wte[i], axis=1))[:k], _DISTANCE),
        Wrong("cosines-returned", lambda i, wte, k: np.sort(_cosines(i, wte))[::-1][1 : k + 1], _RETURNED),
        Wrong("cosines-returned", lambda i, wte, k: np.sort(_cosines(i, wte))[::-1][:k], _RETURNED),
    )
    look = "For a token and the first that you return: what is their cosine, and who has a larger one?"

    def inputs(self, model: Model) -> Sequence[dict[str, Any]]:
        ids = [model.token_ids(word)[0] for word in self.words]
        return [{"i": i, "wte": model.parameters.wte, "k": 3} for i in ids]

    def right(self, i: int, wte: Array, k: int) -> Array:
        return np.array(_ranked(_cosines(i, wte), i)[:k])
