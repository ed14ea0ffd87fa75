"""Calls a learner's function, and finds the line of it that an exception came from."""

import linecache
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2np.errors import printable
from gpt2np.lessons.exercise import Attempt, Case, Exercise, Function, todo
from gpt2np.lessons.time_limit import TooLongError, time_limit
from gpt2np.model import Model


class NotWrittenError(Exception):
    """Raised when a function is still a stub."""


def attempts_of(exercise: Exercise, function: Function, cases: Sequence[Case], model: Model) -> list[Attempt]:
    """What a function gives in each case: a result, or the exception that it raised.

    One that took too long is not tried in the other cases.
    """

    def called(*arguments: Any) -> Any:
        returned = function(*arguments)
        parts = returned if isinstance(returned, tuple | list) else [returned]
        if any(part is todo for part in parts):
            raise NotWrittenError
        return returned

    made = []
    for case in cases:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(), time_limit():
                warnings.simplefilter("ignore")
                made.append(Attempt(case, exercise.result(called, case, model)))
        except (Exception, SystemExit) as error:  # whatever a learner's function raises
            made.append(Attempt(case, error=error))
        except TooLongError as error:
            return [*made, Attempt(case, error=error)]
    return made


def where_raised(error: BaseException, function: Function) -> str:
    """The learner's own line and the message: "line 3, `return q @ k`: ValueError: ..."."""
    try:
        message = printable(" ".join(str(error).split())[:300]).removesuffix(".")
    except Exception:  # its text may be a learner's code, too
        message = ""
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return ": ".join(filter(None, [line_of(error, function), said]))


def where_stopped(error: BaseException, function: Function) -> str:
    """The learner's own line that a function was at: "it was at line 5, `n += 0`"."""
    line = line_of(error, function)
    return f"it was at {line}" if line else ""


def line_of(error: BaseException, function: Function) -> str:
    """The learner's own line that an exception came from, or nothing."""
    code = getattr(function, "__code__", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if code is not None and frame.filename == code.co_filename:
            line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return f"line {frame.lineno}{f', `{line}`' if line else ''}"
    return ""
