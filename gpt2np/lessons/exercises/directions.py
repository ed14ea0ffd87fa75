"""Ways to make one vector of two kinds of texts: the right one, and wrong ones, by name."""

import itertools
from collections.abc import Callable

import numpy as np

from gpt2np.lessons.exercise import Function, Wrong
from gpt2np.ops import Array

Runs = list[Array]
OfText = Callable[[Array], Array]  # [pos, n_embd] -> [n_embd]
OfKind = Callable[[list[Array]], Array]

_OF_TEXT: tuple[tuple[str, OfText], ...] = (
    ("", lambda x: x[1:].mean(axis=0)),
    ("first-position-too", lambda x: x.mean(axis=0)),
    ("last-left-out", lambda x: x[:-1].mean(axis=0)),
    ("two-left-out", lambda x: x[2:].mean(axis=0)),
    ("sum-over-positions", lambda x: x[1:].sum(axis=0)),
    ("sum-over-positions", lambda x: x.sum(axis=0)),
    ("divided-by-all", lambda x: x[1:].sum(axis=0) / len(x)),
    ("one-position-only", lambda x: x[-1]),
    ("one-position-only", lambda x: x[1]),
    ("one-position-only", lambda x: x[0]),
)
_OF_KIND: tuple[tuple[str, OfKind], ...] = (
    ("", lambda texts: np.mean(texts, axis=0)),
    ("sum-over-texts", lambda texts: np.sum(texts, axis=0)),
    ("one-text-only", lambda texts: texts[0]),
    ("one-text-only", lambda texts: texts[-1]),
    ("first-text-left-out", lambda texts: np.mean(texts[1:], axis=0)),
)
_OF_BOTH: tuple[tuple[str, Callable[[Array, Array], Array]], ...] = (
    ("", lambda a, b: a - b),
    ("the-other-way", lambda a, b: b - a),
    ("added", lambda a, b: a + b),
    ("added", lambda a, b: (a + b) / 2),
    ("halved", lambda a, b: (a - b) / 2),
    ("length-one", lambda a, b: (a - b) / np.linalg.norm(a - b)),
    ("one-kind-only", lambda a, b: a),
    ("one-kind-only", lambda a, b: b),
)
_POOLED: tuple[tuple[str, Callable[[Runs], Array]], ...] = (
    ("long-texts-count-more", lambda runs: np.concatenate([x[1:] for x in runs]).mean(axis=0)),
    ("first-position-too", lambda runs: np.concatenate(runs).mean(axis=0)),
    ("first-position-too", lambda runs: np.concatenate(runs)[1:].mean(axis=0)),
)


def of_texts(of_text: OfText, of_kind: OfKind, of_both: Callable[[Array, Array], Array]) -> Function:
    """Each text summarised, then each kind, and one vector made of the two."""

    def direction(runs_a: Runs, runs_b: Runs) -> Array:
        a, b = (of_kind([of_text(x) for x in runs]) for runs in (runs_a, runs_b))
        return np.asarray(of_both(a, b))

    return direction


def _pooled(of_rows: Callable[[Runs], Array], of_both: Callable[[Array, Array], Array]) -> Function:
    """All rows of a kind together."""
    return lambda runs_a, runs_b: np.asarray(of_both(of_rows(runs_a), of_rows(runs_b)))


def _in_pairs(runs_a: Runs, runs_b: Runs) -> Array:
    """Text by text, as long as both kinds have one."""
    pairs = zip(runs_a, runs_b, strict=False)
    return np.asarray(np.mean([a[1:].mean(axis=0) - b[1:].mean(axis=0) for a, b in pairs], axis=0))


def _numbers_swapped(runs_a: Runs, runs_b: Runs) -> Array:
    """Each kind divided by the number of the other's texts."""
    a, b = (np.sum([x[1:].mean(axis=0) for x in runs], axis=0) for runs in (runs_a, runs_b))
    return np.asarray(a / len(runs_b) - b / len(runs_a))


right = of_texts(_OF_TEXT[0][1], _OF_KIND[0][1], _OF_BOTH[0][1])


def wrong_directions() -> tuple[Wrong, ...]:
    """One mistake, or two at once, of which the first one in the computation is told."""
    made = []
    for ways in itertools.product(_OF_TEXT, _OF_KIND, _OF_BOTH):
        slugs = [slug for slug, _ in ways if slug]
        if 1 <= len(slugs) <= 2:
            made.append((len(slugs), Wrong(slugs[0], of_texts(ways[0][1], ways[1][1], ways[2][1]))))
    for (slug, of_rows), (also, of_both) in itertools.product(_POOLED, _OF_BOTH):
        made.append((2 if also else 1, Wrong(slug, _pooled(of_rows, of_both))))
    made += [(1, Wrong("in-pairs", _in_pairs)), (1, Wrong("numbers-swapped", _numbers_swapped))]
    return tuple(wrong for _, wrong in sorted(made, key=lambda pair: pair[0]))


HINTS = {
    "first-position-too": (
        "One position of every text is unlike all others. Which, and have you left it out?",
        "How long are the vectors at position 0, and how long are the others?",
    ),
    "last-left-out": (
        "Which position of a text is the one to leave out, and which one do you leave out?",
        "Which is the longest vector of a text, and does it count in your mean?",
    ),
    "two-left-out": (
        "How many positions of a text of five tokens go into your mean?",
        "At which position do you begin, and which number has the second position?",
    ),
    "sum-over-positions": (
        "How long does your vector get if the texts are ten times as long?",
        "Do you add up the positions of a text, or do you average them?",
    ),
    "divided-by-all": (
        "In a text of five tokens, how many vectors do you add up, and by what do you divide?",
        "Does the position that you left out still count in what you divide by?",
    ),
    "one-position-only": (
        "How many positions of each text do you use?",
        "Is style at a single token?",
    ),
    "sum-over-texts": (
        "How long does your vector get if there are ten times as many texts?",
        "Do you add up the texts of a kind, or do you average them?",
    ),
    "one-text-only": (
        "Would your vector change if the other texts of a kind were others?",
        "What is left of a text when your program comes to the next one?",
    ),
    "first-text-left-out": (
        "How many texts of each kind do you use?",
        "Is it a text that should be left out, or a position of each text?",
    ),
    "long-texts-count-more": (
        "Does a long text count more than a short one?",
        "How many averages do you take: one over all rows, or one for each text first?",
    ),
    "in-pairs": (
        "One kind has more texts than the other: do all of them count?",
        "Does a text of one kind belong to a certain text of the other?",
    ),
    "numbers-swapped": (
        "How many texts has each kind, and by which number do you divide which sum?",
        "What would come out if all texts of both kinds were the same?",
    ),
    "the-other-way": (
        "From which kind to which does your vector point?",
        "Which of the two kinds do you take away from the other?",
    ),
    "added": (
        "What would your vector be if both kinds of texts were the same?",
        "Is what the two kinds have in common still in your vector?",
    ),
    "halved": (
        "If you go by your vector from the mean of the second kind, do you arrive at the first?",
        "By what have you divided once more than you were asked to?",
    ),
    "length-one": (
        "How long is your vector, and did anybody ask for that length?",
        "The length says how far apart the two kinds are. Have you kept it?",
    ),
    "one-kind-only": (
        "What do all texts have in common, and is that in your vector, too?",
        "Which of your two arguments have you not used?",
    ),
}
