"""Whatever a function is, does or returns: a check says something about it, and never fails itself."""

import functools
import math
import sys
import types
import warnings

import numpy as np
import pytest

from gpt2np.lessons import by_site, checker
from gpt2np.lessons.exercises import exercise, names

STATES = {"todo", "raised", "shape", "wrong", "suspicious", "right"}


class Hostile:
    """An object that breaks whatever is asked of it."""

    def __array__(self, *_, **__):
        raise RuntimeError("no array")

    def __len__(self):
        raise ValueError("no length")

    def __iter__(self):
        raise KeyError("no items")

    def __eq__(self, other):
        raise TypeError("no comparison")

    __hash__ = None

    def __repr__(self):
        raise ValueError("no text")


class Callable:
    def __call__(self, *arguments):
        return arguments[0]


def nested(depth=2000):
    made = []
    for _ in range(depth):
        made = [made]
    return made


def endless():
    while True:
        yield 1.0


async def later(*arguments):
    return arguments[0]


RESULTS = {
    "None": None,
    "nan": math.nan,
    "infinity": math.inf,
    "text": "text",
    "bytes": b"bytes",
    "nothing": (),
    "no rows": np.zeros((0, 4)),
    "zeros": np.zeros((4, 12, 12)),
    "all nan": np.full((4, 12, 12), np.nan),
    "all infinite": np.full((4, 12, 12), np.inf),
    "huge": np.full((4, 12, 12), 1e308),
    "rows": np.zeros((12, 192)),
    "three": (np.zeros((12, 4, 48)),) * 3,
    "three of nan": [np.full((12, 4, 48), np.nan)] * 3,
    "four": np.zeros((4, 12)),
    "objects": np.array([None, "a"], object),
    "dates": np.zeros(3, "datetime64[s]"),
    "records": np.zeros(3, [("a", "f8")]),
    "texts": np.array(["a", "b"]),
    "complex": np.zeros((4, 12, 12), complex),
    "half": np.zeros((4, 12, 12), "f2"),
    "bool": np.zeros((4, 12, 12), bool),
    "unsigned": np.zeros((4, 12, 12), "u1"),
    "big endian": np.zeros((4, 12, 12), ">f8"),
    "masked": np.ma.masked_all((4, 12, 12)),
    "matrix": np.zeros((12, 12)),
    "set": {1, 2},
    "dict": {"a": np.zeros(3)},
    "hostile": Hostile(),
    "three hostile": (Hostile(),) * 3,
    "deep": nested(),
    "large number": 10**400,
    "ragged": [[1.0], [1.0, 2.0]],
    "module": types,
    "not implemented": NotImplemented,
    "ellipsis": ...,
}
MESSAGE = "a\x1b[31m message\nof \u2028 lines " * 40


def raising(error):
    def function(*arguments):
        raise error

    return function


def recursive(*arguments):
    return recursive(*arguments)


def warns(*arguments):
    warnings.warn("a warning", stacklevel=1)
    return np.log(np.zeros(3)) / 0


FUNCTIONS = {
    "a message": raising(ValueError(MESSAGE)),
    "an error without text": raising(Exception()),
    "a hostile error": raising(Exception(Hostile())),
    "an error of the package": raising(checker.InputError("wrong")),
    "stop": raising(StopIteration(3)),
    "exit": lambda *arguments: sys.exit(3),
    "memory": raising(MemoryError()),
    "group": raising(ExceptionGroup("several", [ValueError("a"), KeyError("b")])),
    "recursion": recursive,
    "warns": warns,
    "a class": dict,
    "a built-in": len,
    "a ufunc": np.exp,
    "an object": Callable(),
    "a part": functools.partial(lambda first, *others: first, 1.0),
    "a generator": lambda *arguments: endless(),
    "a coroutine function": lambda *arguments: later.__name__,
    "a first argument": lambda *arguments: arguments[0],
    "all arguments": lambda *arguments: arguments,
    "no arguments": lambda: 1,
}


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    monkeypatch.setattr(by_site, "FORMS", 1)  # the name of a mistake is not asked for here


@pytest.mark.every(5)
@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("what", RESULTS)
def test_any_result_is_judged(name, what):
    verdict = checker.judge(name, lambda *arguments: RESULTS[what])
    assert verdict.state in {"shape", "wrong", "raised"}
    assert verdict.state != "raised" or "gpt2np" not in verdict.where
    said(verdict)


@pytest.mark.every(5)
@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("what", FUNCTIONS)
def test_any_function_is_judged(name, what):
    verdict = checker.judge(name, FUNCTIONS[what])
    assert verdict.state in STATES - {"right", "todo"}, verdict
    said(verdict)


def said(verdict):
    text = str(verdict)
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 120
    assert len(text) < 1500
    assert verdict._repr_html_().startswith("<div role")


@pytest.mark.parametrize("name", names())
def test_a_case_can_be_run_again(name):
    wanted = exercise(name)
    first, again = (wanted.cases(checker.model_of_lessons()) for _ in range(2))
    assert [case.arguments.keys() for case in first] == [case.arguments.keys() for case in again]
    assert all(set(wanted.axes) <= set(case.arguments) for case in first)
