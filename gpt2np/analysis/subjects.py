"""What an analysis is of, a trace or a model: something else is refused in one line, here for all of them.

The analysis of a small model computes on one thread, as its passes do.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from gpt2np.errors import InputError, short
from gpt2np.model import Model
from gpt2np.threads import using_those_of
from gpt2np.tracing.trace import Trace

P = ParamSpec("P")
R = TypeVar("R")
_HOW = {Trace: "a trace, as model.trace(text) gives one", Model: "a model, as gpt2np.load() gives one"}


def of_trace(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses everything but a Trace as its first argument, with an `InputError`."""
    return _of(Trace, function)


def of_model(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses everything but a Model as its first argument, with an `InputError`."""
    return _of(Model, function)


def check_subject(name: str, subject: object, kind: type = Trace) -> None:
    """Refuse a subject of the wrong type.

    Raises:
        InputError: `name`, the function, takes a trace or a model.
    """
    if not isinstance(subject, kind):
        raise InputError(f"{name} takes {_HOW[kind]}, not {short(subject)}")


def _of(kind: type, function: Callable[P, R]) -> Callable[P, R]:
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not args and first not in kwargs:
            return function(*args, **kwargs)  # which says what it lacks
        subject: Any = args[0] if args else kwargs[first]
        check_subject(function.__name__, subject, kind)
        with using_those_of(subject):
            return function(*args, **kwargs)

    return called
