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


FORMS = [("float64", False), ("float32", False), ("float64", True), ("float32", True)]
CASES = [
    (i, row, FORMS[(i + j) % 4]) for i, row in enumerate(ROWS) for j in range(4)
]  # every(9): of each nine rows four, in all forms


@pytest.mark.every(9)
@pytest.mark.parametrize(
    ("row", "form"),
    [(row, form) for _, row, form in CASES],
    ids=[f"{i} {row[1]} {row[3] or 'right'} {dtype}{' nearer' * near}" for i, row, (dtype, near) in CASES],
)
def test_each_function_is_told_what_it_is(row, form):
    (_, name, function, slug), (precision, nearer) = row, form
    single = lambda *arguments: in_float32(function(*map(in_float32, arguments)))  # noqa: E731
    verdict = checker.judge(name, function if precision == "float64" else single, nearer=nearer)
    assert verdict.mistake == slug, verdict
    assert verdict.state in (("right",) if slug is None else ("wrong", "suspicious")), verdict
    if slug is not None:
        assert verdict.hint.endswith("?")


def test_every_exercise_has_right_and_wrong_functions():
    for name in names():
        slugs = [slug for _, of, _, slug in ROWS if of == name]
        assert None in slugs, name
        assert len(set(slugs)) > 2, name
        assert exercise(name).name == name


@pytest.mark.parametrize("name", names())
def test_every_mistake_has_a_question_and_a_nearer_one(name):
    for slug in {slug for _, of, _, slug in ROWS if of == name and slug}:
        own = [wrong.hints for wrong in exercise(name).wrong if wrong.slug == slug and wrong.hints]
        for hints in [*own, exercise(name).hints_of(slug)]:
            assert all(hint.endswith("?") for hint in hints), slug
            assert len(set(hints)) == len(hints), slug
