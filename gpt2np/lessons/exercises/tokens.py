"""Exercises of lesson 1: merging pairs into tokens, rows of two tables, and the tokens nearest to one."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.errors import short
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.by_site import Run
from gpt2np.lessons.exercise import Attempt, Finding, Wrong
from gpt2np.lessons.exercises.merging import (
    Ranks,
    as_text,
    by,
    first_pair,
    from_the_right,
    growing,
    highest,
    leftmost,
    longest_match,
    lowest,
    most_frequent,
    one_pass,
    passes,
    ranks_of,
    unknown_too,
)
from gpt2np.lessons.exercises.nearest_mistakes import ORDER, ROWS_RETURNED, WRONG_NEAREST, cosines, ranked
from gpt2np.lessons.exercises.token_by_token import RETURNED_TOO_EARLY, SLUG, TokenByToken
from gpt2np.lessons.same import array_of
from gpt2np.model import Model
from gpt2np.ops import Array

WORDS = ("thereupon", "disagreement", "remembered", "somewhere", "nevertheless", "nonsense")
OVERLAPS: Ranks = {("a", "a"): 0, ("aa", "a"): 1, ("aa", "aa"): 2}


_LEFT = (
    "Which pair comes first in your program: the one that stands first, or the one that was learned first?",
    "Line up all pairs of the word with their ranks: did the first pair win, or the oldest?",
)


class Merge(ByOutput):
    """A word's letters joined to tokens, as merges.txt says."""

    name = "tokens.merge"
    asks = "Which of the pairs in a word is joined first?"
    result_axes = ("token",)
    abouts = (
        *(f"for the word 'Ġ{word}'" for word in WORDS),
        "for the letters 'aaaaa'",
        "for a single letter",
    )
    unusual = len(WORDS)
    wrong = (
        *(
            Wrong("left-to-right", way, _LEFT)
            for way in (leftmost, by(first_pair), one_pass, passes, growing)
        ),
        Wrong(
            "longest-match",
            longest_match,
            (
                "Which rule would give this token? Did the tokeniser ever look for a long one?",
                "A long token needs its two halves: has anything made both of them yet?",
            ),
        ),
        Wrong(
            "highest-rank-first",
            by(highest),
            (
                "Which lines of the list were learned first, those at its top or those at its end?",
                "Of two pairs, which was learned first: the one with the smaller rank, or the other one?",
            ),
        ),
        Wrong(
            "most-frequent-first",
            by(most_frequent),
            (
                "Are you learning the list of merges, or using it?",
                "Who counted the pairs, and when? What is left of those counts in the ranks?",
            ),
        ),
        Wrong(
            "one-merge-only",
            by(lowest, once=True),
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
        Wrong("unknown-pairs-merged", unknown_too),
        Wrong(
            "joined-inside-tokens",
            as_text,
            (
                "Is the last letter of a long token still a symbol of its own?",
                "If you look for a pair in a text, how do you know that both of its halves are whole tokens?",
            ),
        ),
        Wrong(
            "copies-from-the-right",
            from_the_right,
            (
                "Three equal letters in a row hold two pairs: which of them do you join?",
                "From which end do you go through the word?",
            ),
        ),
    )
    hints = {
        "unknown-pairs-merged": (
            "Is every pair of your word in the list of merges?",
            "What does your program take for the rank of a pair that has none?",
        ),
        "letters-changed": (
            "Read your tokens one after another: is it still the same word?",
            "When two symbols have been joined, at which one does your loop go on, and does it see the last?",
        ),
        "ended-early": (
            "Two neighbours in your result are still in the list: what made your loop end?",
            "What becomes of the pairs that have no rank: can one of them end the loop, or come first?",
        ),
    }
    look = "Write all pairs of the word with their ranks on paper: which one goes first, and which then?"
    stops = {
        "KeyError": "Is every pair of neighbours in the list, and what should happen to one that is not?",
        "IndexError": "Which symbol has no neighbour on its right, and what does your loop do there?",
        "ValueError": "Which pairs are left when a word is done, and what does your program do then?",
    }

    def inputs(self, model: Model) -> Sequence[dict[str, Any]]:
        ranks = ranks_of(model)
        words = [{"symbols": ["Ġ", *word], "ranks": ranks} for word in WORDS]
        return [
            *words,
            {"symbols": list("aaaaa"), "ranks": OVERLAPS},
            {"symbols": ["a"], "ranks": OVERLAPS},
        ]

    right = staticmethod(by(lowest))

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """As any, with the learner's tokens; what is wrong with them can be seen where no mistake fits."""
        found = super().judge(attempt, attempts, model)
        if found.state == "shape" and not found.where.endswith("?"):
            return replace(found, hints=("Is your result a list, and is each token one string in it?",))
        result = attempt.result
        if found.state != "wrong" or not all(isinstance(token, str) for token in result):
            return found
        slug = found.mistake or _seen_in(list(result), *attempt.case.arguments.values())
        where = f"yours is {short(list(result))}: {found.where}"
        return replace(found, where=where, mistake=slug, hints=found.hints or self.hints_of(slug))


def _seen_in(tokens: list[str], symbols: list[str], ranks: Ranks) -> str | None:
    """The mistake that can be seen in a result, whatever program gave it."""
    if "".join(tokens) != "".join(symbols):
        return "letters-changed"
    known = {"".join(pair) for pair in ranks} | set(symbols)
    if not known.issuperset(tokens):
        return "unknown-pairs-merged"
    return "ended-early" if any(pair in ranks for pair in itertools.pairwise(tokens)) else None


def _last_place(ids: list[int], token: int) -> int:
    return len(ids) - 1 - ids[::-1].index(token)


def _into_first_places(ids: list[int], wte: Array, wpe: Array) -> Array:
    """Written at the first place of each token, so that some places stay empty."""
    out = np.zeros((len(ids), wte.shape[1]))
    for token in ids:
        place = ids.index(token)
        out[place] = wte[token] + wpe[place]
    return out


class Embed(TokenByToken):
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
                "Would your function give other vectors for another text of as many tokens?",
                "Where do you use the numbers of the tokens?",
            ),
        ),
        Wrong(
            "token-by-place",
            lambda ids, wte, wpe: wte[: len(ids)] + wpe[: len(ids)],
            (
                "Would your function give other vectors for another text of as many tokens?",
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
        *(
            Wrong(
                "positions-of-tokens",
                function,
                (
                    "The same token stands at two places: do both of your vectors know where?",
                    "How do you find out at which place a token stands, if it is there twice?",
                ),
            )
            for function in (
                lambda ids, wte, wpe: wte[ids] + wpe[[ids.index(i) for i in ids]],
                lambda ids, wte, wpe: wte[ids] + wpe[[_last_place(ids, i) for i in ids]],
                _into_first_places,
            )
        ),
        Wrong(
            "last-positions",
            lambda ids, wte, wpe: wte[ids] + wpe[-len(ids) :],
            (
                "Which place does the first token of a text have?",
                "From which end of the table of places do you take your rows?",
            ),
        ),
    )
    hints = {
        "position-constant": (
            "Do two equal tokens at different places get different vectors in your program?",
            "How many different rows of the table of places do you use?",
        ),
        SLUG: RETURNED_TOO_EARLY,
    }
    form = "How many numbers has each of the two vectors, and how many should the result have for each token?"
    fit = "How many tokens are there, and how many rows of each table do you take?"
    stops = {"IndexError": "Which of the two tables has a row for each token, and which for each place?"}
    look_at = "Take token {}: which row of which table belongs to it, and what is done with the two?"
    look = "Take the first token: which row of which table belongs to it, and what is done with the two?"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"ids": run.token_ids, "wte": run.parameters.wte, "wpe": run.parameters.wpe}


class Nearest(ByOutput):
    """The tokens whose vectors point nearly the same way."""

    name = "tokens.nearest"
    asks = "Which tokens does the model take for nearly the same?"
    axes = {"wte": "vocab n_embd"}
    result_axes = ("place",)
    asked = (
        (" three", 3),
        (" king", 3),
        (" Darcy", 3),
        (" sister", 3),
        (" appear", 3),
        (" Darcy", 1),
        (" three", 12),
    )
    abouts = tuple(f"for {word!r}" + (f" and k = {k}" if k != 3 else "") for word, k in asked)
    wrong = WRONG_NEAREST
    hints = {"order-mixed": ORDER}
    look = "What is the cosine of token i and the first one of your result, and which token has a larger one?"
    form = "How many tokens were asked for, and how many are in your result?"
    fit = "Each row of the table is to be divided by its own length: on which axis do these lengths stand?"

    def inputs(self, model: Model) -> Sequence[dict[str, Any]]:
        wte = model.parameters.wte
        return [{"i": model.token_ids(word)[0], "wte": wte, "k": k} for word, k in self.asked]

    def right(self, i: int, wte: Array, k: int) -> Array:
        return np.array(ranked(cosines(i, wte), i)[:k])

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """As any; right tokens in another order are told as that."""
        found = super().judge(attempt, attempts, model)
        if found.state == "shape" and getattr(attempt.result, "ndim", 0) == 2:
            return replace(found, hints=ROWS_RETURNED)
        if found.state != "wrong" or found.mistake or not all(map(self._has_the_right_ones, attempts)):
            return found
        return replace(found, mistake="order-mixed", hints=self.hints_of("order-mixed"))

    def _has_the_right_ones(self, attempt: Attempt) -> bool:
        yours = array_of(attempt.result)
        truth = self.right(*attempt.case.copies())
        return yours is not None and yours.shape == truth.shape and sorted(yours) == sorted(truth)
