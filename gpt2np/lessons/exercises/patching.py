"""Exercises of lesson 6: a head patched from another run, how much it brings back, and a direction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Wrong
from gpt2np.lessons.exercises.circuits import OF_EDITS, NoEdits
from gpt2np.lessons.exercises.directions import HINTS, right, wrong_directions
from gpt2np.lessons.exercises.patches import LENGTHS_DIFFER, WRONG, of_head
from gpt2np.lessons.models import run_of
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace

REFUSED, ANSWERED = "an error", "an answer"
_PAIRS = (
    ("Her father was so angry that", "Her mother was so angry that", 3, 0),
    ("You are my lord, said the king; my", "You are my lady, said the king; my", 0, 3),
    ("The king was so angry that", "The queen was so angry that", 1, 2),
    ("Her parson was so angry that", "Her mother was so angry that", 3, 0),  # as many words, two tokens more
)


class Patched(ByOutput):
    """Edits that give one head of a run what it had in another."""

    name = "patching.patched"
    asks = "What if only this head had read the other text?"
    result_axes = ("pos", "token")
    abouts = (
        "",
        "for another pair of texts",
        "for a third pair of texts",
        "where the first text has two tokens more",
    )
    unusual = 3
    look = "Run the second text with your edits: in which site, head and positions is it like the first run?"
    wrong = WRONG
    hints = {"lengths-differ": LENGTHS_DIFFER}
    stops = {
        "ValueError": "These two texts have the same number of tokens: what made your function refuse them?",
        "UnknownSiteError": "Which layer is meant, and which site holds what its heads have gathered?",
        "InputError": OF_EDITS,
    }

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [
            {"clean": run_of(model, clean), "corrupt": run_of(model, corrupt), "layer": layer, "head": head}
            for clean, corrupt, layer, head in _PAIRS
        ]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The logits of the second text with the edits; where lengths differ, whether it is refused."""
        ids = case.arguments["corrupt"].token_ids
        try:
            edits = function(*case.copies())
            if not isinstance(edits, Mapping):
                return ANSWERED if case.unusual else NoEdits(edits)
            logits = model.trace(ids, keep="logits", edits=edits)["logits"]
        except Exception:
            if not case.unusual:
                raise
            return REFUSED
        return ANSWERED if case.unusual else logits

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """What is no dict is told as such; different lengths are asked about only where all else is right."""
        if isinstance(attempt.result, NoEdits):
            return Finding("shape", attempt.result.told(), hints=(OF_EDITS,))
        if attempt.case.unusual:
            if attempt.result == REFUSED:
                return Finding("right")
            slug = "lengths-differ"
            return Finding("wrong", "it is not refused", 0.0, slug, self.hints_of(slug))
        found = super().judge(attempt, [each for each in attempts if not each.case.unusual], model)
        where = f"with your edits, the logits of the second text are {found.where}" if found.where else ""
        return replace(found, where=where)

    def right(self, clean: Trace, corrupt: Trace, layer: int, head: int) -> Any:
        if len(clean.token_ids) != len(corrupt.token_ids):
            raise ValueError("the texts have different numbers of tokens")
        return of_head("attn.z")(clean, corrupt, layer, head)


# -- how much comes back ------------------------------------------------------------------------------------


_WHOLE = (
    "Is yours a share? What do you return for a patch that brings back everything?",
    "How large is the whole difference, of which you have a part?",
)
_START = (
    "What do you return for a patch that does nothing?",
    "Where does the way begin: at zero, or at the second run?",
)
_END = (
    "What do you return for a patch that brings back everything?",
    "Where does the way begin, where does it end, and how long is it then?",
)
_SIGN = (
    "Can a patch make it worse? What do you return then?",
    "Which numbers lose their sign on their way through your function?",
)
_CLIPPED = (
    "Can a patch make it worse, or do more than was asked? What do you return then?",
    "Does a share of this kind have to lie between 0 and 1?",
)
_BRACKETS = (
    "In which order does Python compute your line: what is divided first?",
    "Which of your differences need a bracket around them?",
)
_BEST = (
    "Your best patch has a share of 1: has it really brought back everything?",
    "Does the share of one head depend on how well the others do?",
)
_Share = Callable[[Array, float, float], Array]  # of the patched margins, the clean one and the corrupt one


def _rounded(digits: int) -> _Share:
    return lambda p, a, b: np.asarray(((p - b) / (a - b)).round(digits))


_WRONG_SHARES: tuple[tuple[str, tuple[str, str], tuple[_Share, ...]], ...] = (
    ("not-normalised", _WHOLE, (lambda p, a, b: p - b, lambda p, a, b: b - p, lambda p, a, b: a - p)),
    (
        "sign",
        (
            "Are your shares below zero where a patch helps?",
            "From which run to which do you measure, above the line and below it?",
        ),
        (lambda p, a, b: (b - p) / (a - b),),
    ),
    (
        "what-is-missing",
        (
            "For a patch that brings back everything you return 0. Is that what was asked?",
            "Do you measure how far it has come, or how far it still has to go?",
        ),
        (lambda p, a, b: (a - p) / (a - b), lambda p, a, b: (p - a) / (a - b)),
    ),
    ("start-not-subtracted", _START, (lambda p, a, b: p / (a - b), lambda p, a, b: p / (b - a))),
    ("share-of-the-clean", _START, (lambda p, a, b: p / a,)),
    ("share-of-the-clean", _END, (lambda p, a, b: (p - b) / a,)),
    (
        "share-of-the-corrupt",
        _END,
        (lambda p, a, b: p / b, lambda p, a, b: (p - b) / b, lambda p, a, b: (b - p) / b),
    ),
    ("share-of-the-corrupt", _END, (lambda p, a, b: (p - b) / (a + b), lambda p, a, b: p / (a + b))),
    (
        "upside-down",
        (
            "Does your share get larger if a patch brings back more?",
            "Which of the two differences is the part, and which the whole?",
        ),
        (lambda p, a, b: (a - b) / (p - b),),
    ),
    (
        "bracket-missing",
        _BRACKETS,
        (
            lambda p, a, b: p - b / a - b,
            lambda p, a, b: (p - b) / a - b,
            lambda p, a, b: p - b / (a - b),
            lambda p, a, b: p - (b / a) - b,
        ),
    ),
    (
        "percent",
        (
            "What should you return for a patch that brings back everything?",
            "Is a share of a half written as 50 here, or as something smaller?",
        ),
        (lambda p, a, b: 100 * (p - b) / (a - b),),
    ),
    (
        "share-of-the-best",
        _BEST,
        (
            lambda p, a, b: (p - b) / (p.max() - b),
            lambda p, a, b: (p - b) / abs(p - b).max(),
            lambda p, a, b: (p - p.min()) / (p.max() - p.min()),
            lambda p, a, b: (p - b) / (p - b).sum(),
        ),
    ),
    (
        "no-sign",
        _SIGN,
        (
            lambda p, a, b: abs(p - b) / abs(a - b),
            lambda p, a, b: abs(p - b) / (a - b),
            lambda p, a, b: (abs(p) - abs(b)) / (abs(a) - abs(b)),
        ),
    ),
    (
        "no-sign",
        ("Does it matter which of the two runs has the larger number?", _SIGN[1]),
        (lambda p, a, b: (p - b) / abs(a - b),),
    ),
    (
        "clipped",
        _CLIPPED,
        (
            lambda p, a, b: np.clip((p - b) / (a - b), 0, 1),
            lambda p, a, b: np.minimum((p - b) / (a - b), 1),
            lambda p, a, b: np.maximum((p - b) / (a - b), 0),
        ),
    ),
    (
        "rounded",
        (
            "How many digits has your share, and who rounded it?",
            "Could somebody still compute with what you return?",
        ),
        tuple(map(_rounded, range(4))),
    ),
)


class Recovered(ByOutput):
    """The share of a difference that a patch brings back."""

    name = "patching.recovered"
    asks = "How much of the difference does it bring back?"
    axes = {"patched": "layer head"}
    result_axes = ("layer", "head")
    abouts = ("", "where the first run has the smaller number")
    look = "If a patch does nothing, what must you return? And if it brings back everything?"
    form = "How many heads are there, and has each of them a share in your result?"
    wrong = tuple(
        Wrong(slug, function, hints) for slug, hints, functions in _WRONG_SHARES for function in functions
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        patched = np.array([[-2.31, -2.25, -1.59, -0.89], [-2.35, -0.63, -2.36, 0.15]])
        return [
            {"patched": patched, "clean": -0.26, "corrupt": -2.33},
            {"patched": -patched, "clean": 0.26, "corrupt": 2.33},
        ]

    def right(self, patched: Array, clean: float, corrupt: float) -> Array:
        return np.asarray((patched - corrupt) / (clean - corrupt))


# -- a direction --------------------------------------------------------------------------------------------


class Direction(ByOutput):
    """The mean of one kind of texts less that of another."""

    name = "patching.direction"
    asks = "In which direction do these texts differ from those?"
    result_axes = ("n_embd",)
    abouts = ("", "for other texts")
    look = "Take one text of three tokens: which of its rows count, and how much does the whole text count?"
    form = "How many numbers has a vector of the stream, and over which axes have you averaged?"
    fit = "Texts have different numbers of tokens: over what must you average before they fit together?"
    stops = {"TypeError": "What is in each of the two lists, and what can be taken from what?"}
    wrong = wrong_directions()
    hints = HINTS

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        kinds = (
            (
                "She was not at all sorry to go.",
                "He had been very agreeable.",
                "They were all to dine together.",
            ),
            ("Thou art a villain, and I hate thee.", "My lord, the enemy is at the gates."),
        )
        runs = [[run_of(model, text)["h.1.resid_post"] for text in texts] for texts in kinds]
        return [{"runs_a": runs[0], "runs_b": runs[1]}, {"runs_a": runs[1][:1], "runs_b": runs[0][1:]}]

    right = staticmethod(right)
