"""`check` runs a learner's function and says what is wrong with it; `inputs` gives what it is called with."""

from collections.abc import Iterator
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.lessons.exercise import Attempt, Exercise, Finding, Function
from gpt2np.lessons.exercises import exercise
from gpt2np.lessons.learner_code import NotWrittenError, attempts_of, where_raised
from gpt2np.lessons.models import model_of_lessons
from gpt2np.lessons.showing import shows_itself
from gpt2np.lessons.verdict import Verdict
from gpt2np.model import Model
from gpt2np.tables import table

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
          Head 2, query 3, key 0 (78 of 576 are outside).
          How large does a sum of many products get?
    """
    verdict = judge(name, function)
    if not shows_itself():
        print(verdict)
    return verdict


def judge(name: str, function: Function, model: Model | None = None, *, nearer: bool = False) -> Verdict:
    """The same, without printing: for a model of one's own, and with the `nearer` hint at once."""
    wanted = exercise(name)
    if not callable(function):
        raise InputError(
            f"{wanted.name}: {short(function)} is no function: give {wanted.function_name} itself, "
            "without brackets"
        )
    model = model or model_of_lessons()
    attempts = attempts_of(wanted, function, wanted.cases(model), model)
    for attempt in attempts:
        found = _found(wanted, function, attempt, attempts, model)
        if found.state != "right":
            return _verdict(wanted, attempt, found, nearer)
    _forget(wanted.name)
    return Verdict(wanted.name, "right", ratio=found.ratio)


def _found(
    wanted: Exercise, function: Function, attempt: Attempt, attempts: list[Attempt], model: Model
) -> Finding:
    """What is found about one attempt."""
    if isinstance(attempt.error, NotWrittenError):
        return Finding("todo")
    if attempt.error is not None:
        return Finding("raised", where_raised(attempt.error, function))
    return wanted.judge(attempt, attempts, model)


def _verdict(wanted: Exercise, attempt: Attempt, found: Finding, nearer: bool) -> Verdict:
    """A finding in words: with the hint whose turn it is, and with the case that it is about."""
    hint = _hint(wanted.name, found, nearer)
    if found.state == "wrong" and found.mistake is None:
        hint = wanted.look
    about, state = attempt.case.about, found.state
    if state == "wrong" and attempt.case.unusual:
        state = "suspicious"
    where = ": ".join(filter(None, [about if state != "todo" else "", found.where]))
    return Verdict(wanted.name, state, where, found.ratio, found.mistake, hint)


def _hint(name: str, found: Finding, nearer: bool) -> str:
    """The first hint, from the second time on the nearer one."""
    if found.mistake is None or not found.hints:
        return ""
    key = name, found.mistake
    _told[key] = _told.get(key, 0) + 1
    return found.hints[min(_told[key] - 1 + nearer, len(found.hints) - 1)]


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
