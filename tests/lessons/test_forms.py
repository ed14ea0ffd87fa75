"""What is said about results of a wrong form, and about places."""

import numpy as np
import pytest

from gpt2np.lessons import checker


@pytest.mark.parametrize(
    ("returned", "said"), [(None, "yours is None: does the function end in a return?"), ([], "a list of 0")]
)
def test_what_is_no_dict_of_edits_is_told(returned, said):
    verdict = checker.judge("circuits.without", lambda heads: returned)
    assert (verdict.state, verdict.mistake) == ("shape", None)
    assert said in verdict.where


def test_of_a_wrong_form_no_rounding_is_told():
    verdict = checker.judge("circuits.ov", lambda v, o, s: o @ v)
    assert verdict.mistake == "wrong-order"
    assert "rounding" not in str(verdict)


def test_a_place_keeps_the_case_of_its_axes():
    verdict = checker.judge("circuits.qk", lambda q, k, s: q @ k.T)
    assert "n_embd of the query" in str(verdict)
    assert "N_embd" not in str(verdict)


def test_numbers_that_are_none_are_told():
    verdict = checker.judge("circuits.qk", lambda q, k, s: np.full((192, 192), np.nan))
    assert "nan" in verdict.where
