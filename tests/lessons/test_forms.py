"""What is said about results of a wrong form, and about places."""

import itertools

import numpy as np
import pytest

from gpt2np.analysis.interventions import zero
from gpt2np.lessons import checker, todo


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


def refuses_another_word(clean, corrupt, layer, head):
    if clean.token_ids != corrupt.token_ids:
        raise ValueError("other texts")
    return {}


@pytest.mark.parametrize(
    ("name", "function", "said", "asked"),
    [
        (
            "tokens.merge",
            lambda s, r: min(itertools.pairwise(s), key=lambda p: r[p]),
            "KeyError",
            "list",
        ),
        ("tokens.merge", lambda s, r: " ".join(s), "yours is a str", "one string"),
        ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[ids], "IndexError", "row for each token"),
        (
            "tokens.embed",
            lambda ids, wte, wpe: np.hstack([wte[ids], wpe[:12]]),
            "(12, 384)",
            "How many numbers",
        ),
        ("tokens.merge", lambda s, r: None, "does the function end in a return?", ""),
        ("tokens.nearest", lambda i, wte, k: wte[:k], "(3, 192)", "numbers of these rows"),
        ("attention.split", lambda qkv, n: np.split(qkv, 3, axis=1), "(12, 192)", "second head"),
        ("tokens.nearest", lambda i, wte, k: np.arange(k - 1), "yours is (2,)", "How many tokens"),
        (
            "tokens.nearest",
            lambda i, wte, k: wte / np.linalg.norm(wte, axis=1),
            "ValueError",
            "its own length",
        ),
        ("stream.layer_norm", lambda x, w, b, e: x - x.mean(axis=1), "ValueError", "a mean for each token"),
        ("stream.after_mlp", lambda x, ln, fc, proj: x @ fc.weight.T, "ValueError", "first matrix"),
        ("stream.after_mlp", lambda x, ln, fc, proj: fc(x), "TypeError", "last three inputs"),
        ("patching.patched", lambda a, b, layer, head: zero(heads=head), "an Intervention", "its keys"),
        (
            "patching.patched",
            lambda a, b, layer, head: None,
            "does the function end in a return?",
            "its keys",
        ),
        ("patching.patched", lambda a, b, layer, head: {"h.3.z": zero()}, "UnknownSiteError", "which site"),
        ("patching.patched", refuses_another_word, "ValueError", "the same number of tokens"),
        ("patching.direction", lambda a, b: np.mean(a, axis=0), "ValueError", "average"),
    ],
)
def test_what_stops_a_function_or_has_a_wrong_form_is_asked_about(name, function, said, asked):
    verdict = checker.judge(name, function)
    assert verdict.state in ("raised", "shape")
    assert said in verdict.where
    assert asked in verdict.hint


def test_a_helper_that_is_not_written_yet_is_told():
    """What a learner calls may still be a stub."""
    verdict = checker.judge("stream.after_mlp", lambda x, ln, fc, proj: x + todo @ proj.weight)
    assert verdict.state == "raised"
    assert "still returns lessons.todo" in verdict.where
    assert "not written yet" in verdict.hint


def test_a_right_first_row_is_not_asked_about():
    def embed(ids, wte, wpe):
        out = wte[ids] + wpe[: len(ids)]
        out[4] *= np.linspace(1, 2, out.shape[1])
        return out

    verdict = checker.judge("tokens.embed", embed)
    assert verdict.mistake is None
    assert verdict.hint.startswith("Take token 4:")


def test_scores_with_a_small_number_in_the_future_say_where_they_fail():
    def scores(q, k):
        s = np.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        return np.where(np.tri(len(q), dtype=bool), s, -20.0)

    verdict = checker.judge("attention.scores", scores)
    assert "-20 or lower" in verdict.where


def test_a_merge_shows_what_it_returned():
    verdict = checker.judge("tokens.merge", lambda symbols, ranks: [*symbols[:2], "".join(symbols[2:])])
    assert "the word 'Ġthereupon': yours is ['Ġ', 't', 'hereupon']: token 0" in verdict.where
