"""Exercises of lesson 6: a head patched from another run, how much it brings back, and a direction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np.analysis.interventions import patch
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Wrong
from gpt2np.lessons.models import run_of
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace

REFUSED = "an error"
_PAIRS = (
    ("Her father was so angry that", "Her mother was so angry that", 3, 0),
    ("You are my lord, said the king; my", "You are my lady, said the king; my", 0, 3),
    ("Her father was so very angry that", "Her mother was so angry that", 3, 0),  # one token more
)


def _head_of(site: str, take: Callable[[Trace, Trace], Trace] = lambda clean, corrupt: clean) -> Function:
    """A head's part of a site, from one of the two runs."""
    return lambda clean, corrupt, layer, head: {
        f"h.{layer}.{site}": patch(take(clean, corrupt), heads=head, positions=range(len(corrupt.token_ids)))
    }


def _edited(change: Callable[[Array, Array, int], Array]) -> Function:
    """An edit of z, by a function of it, of the clean one and of the head."""

    def function(clean: Trace, corrupt: Trace, layer: int, head: int) -> dict[str, Any]:
        site = f"h.{layer}.attn.z"
        return {site: lambda z: change(z.copy(), clean[site], head)}

    return function


def _last_only(z: Array, clean: Array, head: int) -> Array:
    z[-1, head] = clean[-1, head]
    return z


def _added(z: Array, clean: Array, head: int) -> Array:
    z[:, head] += clean[: len(z), head]
    return z


def _position(z: Array, clean: Array, head: int) -> Array:
    z[head] = clean[head]
    return z


def _all_but(clean: Trace, corrupt: Trace, layer: int, head: int) -> dict[str, Any]:
    others = [i for i in range(clean.config.n_head) if i != head]
    return {f"h.{layer}.attn.z": patch(clean, heads=others, positions=range(len(corrupt.token_ids)))}


class Patched(ByOutput):
    """Edits that give one head of a run what it had in another."""

    name = "patching.patched"
    asks = "What if only this head had read the other text?"
    result_axes = ("vocab",)
    abouts = ("", "for another pair of texts", "where the first text has one token more")
    unusual = 2
    look = "Run the second text with your edits: in which site, head and positions is it like the first run?"
    wrong = (
        Wrong(
            "nothing-patched",
            _head_of("attn.z", lambda clean, corrupt: corrupt),
            (
                "From which of the two runs do you take values, and into which do you put them?",
                "Your edits are for the tokens of the second run. Does anything change there?",
            ),
        ),
        Wrong(
            "all-heads",
            lambda clean, corrupt, layer, head: {f"h.{layer}.attn.z": patch(clean)},
            (
                "How many heads of this layer have read the other text now?",
                "Which of your four arguments have you not used?",
            ),
        ),
        Wrong(
            "all-heads",
            lambda clean, corrupt, layer, head: {f"h.{layer}.attn.out": patch(clean)},
            (
                "How many heads of this layer have read the other text now?",
                "At which site do the heads still lie side by side?",
            ),
        ),
        Wrong(
            "last-position-only",
            _edited(_last_only),
            (
                "At how many positions does the head speak?",
                "Could it have done its work before the last word?",
            ),
        ),
        Wrong(
            "added-instead-of-replaced",
            _edited(_added),
            (
                "What has become of what the head said before?",
                "Should the head say both things, or the other one only?",
            ),
        ),
        Wrong(
            "position-instead-of-head",
            _edited(_position),
            (
                "Which of the three axes do you replace: who speaks, or where?",
                "In which order are position, head and the head's numbers, at this site?",
            ),
        ),
        Wrong(
            "pattern-only",
            _head_of("attn.pattern"),
            (
                "The head looks where it looked in the other run. Does it see there what it saw?",
                "Which two things make what a head brings home, and have you taken over both?",
            ),
        ),
        Wrong(
            "values-only",
            _head_of("attn.v"),
            (
                "The head sees what it saw in the other run. Does it look where it looked?",
                "Which two things make what a head brings home, and have you taken over both?",
            ),
        ),
        Wrong(
            "the-other-heads",
            _all_but,
            (
                "Which head is the only one that has not changed?",
                "Who should say something else: the head that was asked for, or the others?",
            ),
        ),
        Wrong(
            "lengths-differ",
            lambda clean, corrupt, layer, head: _head_of("attn.z")(clean, corrupt, layer, head),
            (
                "Position 3 of one text and position 3 of the other: is it the same word's turn?",
                "Count the tokens of both runs. When should your function refuse?",
            ),
        ),
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [
            {"clean": run_of(model, clean), "corrupt": run_of(model, corrupt), "layer": layer, "head": head}
            for clean, corrupt, layer, head in _PAIRS
        ]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The logits of the second text with the edits; where lengths differ, whether it is refused."""
        ids = case.arguments["corrupt"].token_ids
        if not case.unusual:
            return model.trace(ids, keep="logits", edits=function(*case.copies()))["logits"][-1]
        try:
            model.trace(ids, keep="logits", edits=function(*case.copies()))
        except Exception:
            return REFUSED
        return "an answer"

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """What happens with different lengths is asked only where all else is right."""
        asked = attempts if attempt.case.unusual else [a for a in attempts if not a.case.unusual]
        return super().judge(attempt, asked, model)

    def right(self, clean: Trace, corrupt: Trace, layer: int, head: int) -> Any:
        if len(clean.token_ids) != len(corrupt.token_ids):
            raise ValueError("the texts have different numbers of tokens")
        return _head_of("attn.z")(clean, corrupt, layer, head)


# -- how much comes back ------------------------------------------------------------------------------------


class Recovered(ByOutput):
    """The share of a difference that a patch brings back."""

    name = "patching.recovered"
    asks = "How much of the difference does it bring back?"
    axes = {"patched": "layer head"}
    result_axes = ("layer", "head")
    abouts = ("", "where the first run has the smaller number")
    look = "If a patch does nothing, what must you return? And if it brings back everything?"
    wrong = (
        Wrong(
            "not-normalised",
            lambda patched, clean, corrupt: patched - corrupt,
            (
                "Is yours a share? What do you return for a patch that brings back everything?",
                "How large is the whole difference, of which you have a part?",
            ),
        ),
        Wrong(
            "sign",
            lambda patched, clean, corrupt: (corrupt - patched) / (clean - corrupt),
            (
                "Are your shares below zero where a patch helps?",
                "In which direction is the way from the second run to the first?",
            ),
        ),
        Wrong(
            "what-is-missing",
            lambda patched, clean, corrupt: (clean - patched) / (clean - corrupt),
            (
                "For a patch that does nothing you return 1. Is that what was asked?",
                "Do you measure how far it has come, or how far it still has to go?",
            ),
        ),
        Wrong(
            "share-of-the-clean",
            lambda patched, clean, corrupt: patched / clean,
            (
                "What do you return for a patch that does nothing?",
                "Where does the way begin: at zero, or at the second run?",
            ),
        ),
        Wrong(
            "share-of-the-clean",
            lambda patched, clean, corrupt: (patched - corrupt) / clean,
            (
                "What do you return for a patch that brings back everything?",
                "Where does the way begin, where does it end, and how long is it then?",
            ),
        ),
        Wrong(
            "no-sign",
            lambda patched, clean, corrupt: np.abs(patched - corrupt) / np.abs(clean - corrupt),
            (
                "Can a patch make it worse? What do you return then?",
                "Which numbers lose their sign on their way through your function?",
            ),
        ),
        Wrong(
            "no-sign",
            lambda patched, clean, corrupt: (patched - corrupt) / abs(clean - corrupt),
            (
                "Does it matter which of the two runs has the larger number?",
                "Which numbers lose their sign on their way through your function?",
            ),
        ),
        Wrong(
            "clipped",
            lambda patched, clean, corrupt: np.clip((patched - corrupt) / (clean - corrupt), 0, 1),
            (
                "Can a patch make it worse, or do more than was asked? What do you return then?",
                "Does a share of this kind have to lie between 0 and 1?",
            ),
        ),
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

Runs = list[Array]


def _of_texts(summary: Callable[[Array], Array], sign: int = 1, total: Any = np.mean) -> Function:
    """The difference of two kinds of texts, each text summarised by a function."""

    def direction(runs_a: Runs, runs_b: Runs) -> Array:
        a, b = (total([summary(x) for x in runs], axis=0) for runs in (runs_a, runs_b))
        return np.asarray(sign * (a - b))

    return direction


def _behind_first(x: Array) -> Array:
    return np.asarray(x[1:].mean(axis=0))


def _pooled(runs_a: Runs, runs_b: Runs) -> Array:
    a, b = (np.concatenate([x[1:] for x in runs]).mean(axis=0) for runs in (runs_a, runs_b))
    return np.asarray(a - b)


def _pooled_with_first(runs_a: Runs, runs_b: Runs) -> Array:
    a, b = (np.concatenate(runs).mean(axis=0) for runs in (runs_a, runs_b))
    return np.asarray(a - b)


def _unit(runs_a: Runs, runs_b: Runs) -> Array:
    v = _of_texts(_behind_first)(runs_a, runs_b)
    return np.asarray(v / np.linalg.norm(v))


class Direction(ByOutput):
    """The mean of one kind of texts less that of another."""

    name = "patching.direction"
    asks = "In which direction do these texts differ from those?"
    result_axes = ("n_embd",)
    abouts = ("", "for other texts")
    look = "Take one text of three tokens: which of its rows count, and how much does the whole text count?"
    _POSITION = (
        "One position of every text is unlike all others. Which, and have you left it out?",
        "How long are the vectors at position 0, and how long are the others?",
    )
    _TOTAL = (
        "How long does your vector get if there are ten times as many texts?",
        "Do you add up, or do you average?",
    )
    _POOLED = (
        "Does a long text count more than a short one?",
        "How many averages do you take: one over all rows, or one for each text first?",
    )
    wrong = (
        Wrong("first-position-too", _of_texts(lambda x: x.mean(axis=0)), _POSITION),
        Wrong("first-position-too", _pooled_with_first, _POSITION),
        Wrong("sum-over-texts", _of_texts(_behind_first, total=np.sum), _TOTAL),
        Wrong("sum-over-positions", _of_texts(lambda x: x[1:].sum(axis=0)), _TOTAL),
        Wrong("sum-over-positions", _of_texts(lambda x: x[1:].sum(axis=0), total=np.sum), _TOTAL),
        Wrong("long-texts-count-more", _pooled, _POOLED),
        Wrong(
            "the-other-way",
            _of_texts(_behind_first, sign=-1),
            (
                "From where to where does your vector point?",
                "Which of the two kinds do you take away from the other?",
            ),
        ),
        Wrong(
            "last-position-only",
            _of_texts(lambda x: x[-1]),
            (
                "How many words of each text do you use?",
                "Is style at the last word only?",
            ),
        ),
        Wrong(
            "length-one",
            _unit,
            (
                "How long is your vector? Has anybody asked for that?",
                "The length says how far apart the two kinds are. Have you kept it?",
            ),
        ),
        Wrong(
            "one-kind-only",
            lambda runs_a, runs_b: np.mean([_behind_first(x) for x in runs_a], axis=0),
            (
                "What do all texts have in common, and is that in your vector, too?",
                "Which of your two arguments have you not used?",
            ),
        ),
    )

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

    right = staticmethod(_of_texts(_behind_first))
