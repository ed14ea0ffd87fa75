"""The tables of `wrong_functions/`: right functions are right, wrong ones get their name, in float32 too."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from gpt2np.lessons import checker
from gpt2np.lessons.exercises import exercise, names

ROWS = [
    (path.stem, *row)
    for path in sorted((Path(__file__).parent / "wrong_functions").glob("lesson_*.py"))
    for row in runpy.run_path(str(path))["TABLE"]
]


def in_float32(value):
    """Arrays of float64 in float32; all else as it is."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(in_float32, value))
    if isinstance(value, list | tuple):
        return type(value)(map(in_float32, value))
    is_array = hasattr(value, "astype") and value.dtype == np.float64
    return value.astype(np.float32) if is_array else value


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("lesson", "name", "function", "slug"),
    ROWS,
    ids=[f"{i} {name} {slug or 'right'}" for i, (_, name, _, slug) in enumerate(ROWS)],
)
def test_each_function_is_told_what_it_is(lesson, name, function, slug, precision):
    single = lambda *arguments: in_float32(function(*map(in_float32, arguments)))  # noqa: E731
    verdict = checker.judge(name, function if precision == "float64" else single)
    assert verdict.mistake == slug, verdict
    assert verdict.state in (("right",) if slug is None else ("wrong", "suspicious")), verdict
    if slug is not None:
        again = checker.judge(name, function if precision == "float64" else single, nearer=True)
        assert (again.mistake, again.where) == (slug, verdict.where)
        assert verdict.hint.endswith("?")
        assert again.hint.endswith("?")
        assert again.hint != verdict.hint


def test_every_exercise_has_right_and_wrong_functions():
    for name in names():
        slugs = [slug for _, of, _, slug in ROWS if of == name]
        assert None in slugs, name
        assert len(set(slugs)) > 2, name
        assert exercise(name).name == name
