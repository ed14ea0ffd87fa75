"""`check` runs a learner's function and says what is wrong with it; `inputs` gives what it is called with."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.errors import InputError, short
from gpt2np.lessons.exercise import Attempt, Exercise, Finding, Function
from gpt2np.lessons.exercises import exercise
from gpt2np.lessons.learner_code import NotWrittenError, attempts_of, where_raised, where_stopped
from gpt2np.lessons.models import model_of_lessons
from gpt2np.lessons.same import kind_of
from gpt2np.lessons.showing import shows_itself
from gpt2np.lessons.time_limit import TooLongError
from gpt2np.lessons.verdict import Verdict
from gpt2np.model import Model
from gpt2np.tables import table

DO_NOT_FIT = re.compile(r"dimension|shape|broadcast|axes|subscript|equal division", re.I)  # as NumPy says it

ENDLESS = "What has to change in each round of your loop for it to come to its end, and does it?"
UNWRITTEN = (
    "Which of the functions that you call here is right by its own check, and which is not written yet?"
)
POWER = "In Python `^` compares bits: how does it write a power?"
STOPPED_AT = "What did you expect this line to work with, and what does it work with?"
RETURNED = "What does your function return, and what should it return?"
NEARER = {  # by state, where no mistake is known
    "raised": "Print what that line works with, just before it: which shape, kind or value surprises you?",
    "stopped": "Print in each round what decides whether there is another one: does it move, and which way?",
    "shape": "Print the shape after each of your lines: which is the first that you did not expect?",
    "suspicious": "Call your function with such numbers, and print each line's result: what surprises you?",
}

_told: dict[tuple[str, str], int] = {}  # how often a hint was given, by exercise and mistake


def check(name: str, function: Function) -> Verdict:
    """Check a function that you wrote, and return what is wrong with it; a script prints it, too.

    `name` is the exercise's ("attention.scores"), or its function's alone. The function is called with the
    inputs of the run, copied, in float64; results in float32 do as well.

    Raises:
        InputError: there is no such exercise, or this is no function.

    Example:
        >>> check("attention.scores", scores)
        ✗ attention.scores: wrong.
          Worst at head 2, query 3, key 0 (312 of 576 are wrong).
          How large does a sum of many products get?
    """
    wanted = _exercise_of(name, function)
    attempt, found = _first_not_right(wanted, function, model_of_lessons())
    if found.state == "right":
        _forget(wanted.name)
    verdict = _verdict(wanted, attempt, found, _times_told(wanted.name, found.mistake or found.state))
    if not shows_itself():
        print(verdict)
    return verdict


def judge(name: str, function: Function, model: Model | None = None, *, nearer: bool = False) -> Verdict:
    """The same, without printing, and without counting hints: the first one, or at once the `nearer` one.

    `model` is another than the one of the lessons.
    """
    wanted = _exercise_of(name, function)
    attempt, found = _first_not_right(wanted, function, model or model_of_lessons())
    return _verdict(wanted, attempt, found, int(nearer))


def or_ours(name: str, function: Function) -> Function:
    """Return a function that you wrote if it is right, and until then one that is: so a lesson can go on.

    Raises:
        InputError: there is no such exercise, or it has no function of its own.

    Example:
        >>> without = or_ours("circuits.without", without)
    """
    wanted = _exercise_of(name, function)
    ours: Function | None = getattr(wanted, "right", None)
    if ours is None:
        raise InputError(f"{wanted.name} has no function of its own: write yours")
    return function if judge(name, function).right else ours


def _exercise_of(name: str, function: Function) -> Exercise:
    wanted = exercise(name)
    if not callable(function):
        raise InputError(
            f"{wanted.name}: {short(function)} is no function: give {wanted.function_name} itself, "
            "without brackets"
        )
    return wanted


def _first_not_right(wanted: Exercise, function: Function, model: Model) -> tuple[Attempt, Finding]:
    """The first attempt that is not right, or the last one, and what is found about it.

    Where that is only suspicious, as hardly a number is off, and no mistake is known, a later one may know.
    """
    attempts = attempts_of(wanted, function, wanted.cases(model), model)
    doubtful: tuple[Attempt, Finding] | None = None
    for attempt in attempts:
        found = _found(wanted, function, attempt, attempts, model)
        if found.state == "right":
            continue
        if found.mistake is not None or (doubtful is None and found.state != "suspicious"):
            return attempt, found
        doubtful = doubtful or (attempt, found)
    return doubtful or (attempt, found)


def _found(
    wanted: Exercise, function: Function, attempt: Attempt, attempts: list[Attempt], model: Model
) -> Finding:
    """What is found about one attempt."""
    if isinstance(attempt.error, NotWrittenError):
        return Finding("todo")
    if isinstance(attempt.error, TooLongError):
        return Finding("stopped", where_stopped(attempt.error, function))
    if attempt.error is not None:
        return Finding("raised", where_raised(attempt.error, function))
    try:
        with np.errstate(all="ignore"):  # a learner's numbers may be of any size
            return wanted.judge(attempt, attempts, model)
    except Exception:  # and their results of any kind, which no exercise foresees
        return Finding("shape", f"your result cannot be read: it is {kind_of(attempt.result)}")


def _verdict(wanted: Exercise, attempt: Attempt, found: Finding, n_told: int) -> Verdict:
    """A finding in words: with the case that it is about, and with the hint whose turn it is."""
    if found.state in ("right", "todo"):
        return Verdict(wanted.name, found.state, ratio=found.ratio)
    state, about = found.state, attempt.case.about
    hints = found.hints or (_asked(wanted, attempt, found),)
    hints = tuple(dict.fromkeys(hints))  # no question twice
    hints = hints if len(hints) > 1 else (*hints, NEARER.get(state, wanted.nearer))
    hint = hints[min(n_told, len(hints) - 1)]
    if state == "wrong" and attempt.case.unusual:
        state = "suspicious"
    where = ": ".join(filter(None, [about, found.where]))
    return Verdict(wanted.name, state, where, found.ratio, found.mistake, hint, found.ended, found.so_far)


def _asked(wanted: Exercise, attempt: Attempt, found: Finding) -> str:
    """The question where no mistake is known: about content or form, or about what did not fit."""
    if found.state in ("wrong", "suspicious"):
        return wanted.look
    if found.state == "shape":
        return wanted.form if _has_axes(attempt.result) else "" if found.where.endswith("?") else RETURNED
    if found.state == "stopped":
        return ENDLESS
    if "still returns lessons.todo" in found.where:
        return UNWRITTEN
    if "bitwise_xor" in found.where or "for ^:" in found.where:
        return POWER
    if found.state == "raised" and isinstance(attempt.error, ValueError) and DO_NOT_FIT.search(found.where):
        return wanted.fit
    return wanted.stops.get(type(attempt.error).__name__, STOPPED_AT)


def _has_axes(result: Any) -> bool:
    """Whether a result is an array, or several."""
    parts = result if isinstance(result, tuple | list) else [result]
    return bool(parts) and all(isinstance(part, np.ndarray) for part in parts)


def _times_told(name: str, mistake: str) -> int:
    """How often a mistake was told before, or a state without one; counts this time, too."""
    key = name, mistake
    _told[key] = _told.get(key, 0) + 1
    return _told[key] - 1


def _forget(name: str) -> None:
    for key in [key for key in _told if key[0] == name]:
        del _told[key]


# -- inputs -------------------------------------------------------------------------------------------------


class Inputs:
    """The arguments that a check gives first: `inputs.q`, or `q, k = inputs`."""

    def __init__(self, wanted: Exercise, arguments: dict[str, Any]) -> None:
        self._name, self._axes = wanted.name, wanted.axes
        vars(self).update(arguments)
        self._arguments = arguments

    def __iter__(self) -> Iterator[Any]:
        return iter(self._arguments.values())

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def __repr__(self) -> str:
        rows = [[name, self._shown(name, value)] for name, value in self._arguments.items()]
        return f"inputs of {self._name}\n{table(rows, '<<')}"

    def _shown(self, name: str, value: Any) -> str:
        shape = getattr(value, "shape", None)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            parts = (f"{key!r}: {self._shown(key, part)}" for key, part in value[0].items())
            return f"a list of {len(value)}, each {{{', '.join(parts)}}}"
        if isinstance(value, dict) and value:
            return f"a dict of {len(value)}: {', '.join(map(str, list(value)[:2]))}, ..."
        if shape is None or shape == ():
            return short(value)
        axes = ", ".join(self._axes.get(name, "").split())
        return f"[{axes}] = {tuple(shape)}" if axes else f"{tuple(shape)}"


def inputs(name: str) -> Inputs:
    """Return the arguments of an exercise's function: those of the first call that `check` makes, copied.

    Raises:
        InputError: there is no such exercise.

    Example:
        >>> q, k = inputs("attention.scores")
    """
    wanted = exercise(name)
    case = wanted.cases(model_of_lessons())[0]
    return Inputs(wanted, dict(zip(case.arguments, case.copies(), strict=True)))
