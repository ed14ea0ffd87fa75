"""What is said about a learner's program in lesson 7 that is wrong in its form, or in what it wrote down."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from gpt2np.lessons import checker, planted_mistakes

MADE = runpy.run_path(str(Path(__file__).parent / "wrong_functions" / "lesson_7.py"))
run, extend = MADE["run"], MADE["extend"]


def changed(change):
    """A right program whose steps are changed at the end."""
    return lambda *given: change(run()(*given))


def other(**arrays):
    """Steps of which some are others: `embed=lambda x: x[-1]`; `__` stands for a dot."""
    made = {name.replace("__", "."): change for name, change in arrays.items()}
    return changed(lambda steps: {n: made.get(n, lambda x: x)(x) for n, x in steps.items()})


def cut_to_the_last(steps):
    return {n: x[:, -1:] if n.endswith(("scores", "pattern")) else x[-1:] for n, x in steps.items()}


def exchanged(steps):
    one, two = "h.0.mlp.pre", "h.0.mlp.post"
    return steps | {one: steps[two], two: steps[one]}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def always_all(weights, config, ids, cache):
    cache["ids"] = [*cache.get("ids", ()), *ids]
    return run()(weights, config, cache["ids"])


@pytest.mark.parametrize(
    ("name", "function", "state", "said", "slug"),
    [
        ("own.run", changed(lambda steps: steps["logits"]), "shape", "it must be a dict", None),
        ("own.run", changed(lambda steps: {}), "shape", "a dict that is empty", None),
        ("own.run", changed(lambda steps: None), "shape", "does the function end in a return?", None),
        ("own.extend", lambda *given: np.zeros((6, 192)), "shape", "it must be a dict", None),
        ("own.run", other(logits=lambda x: x[-1]), "shape", "(12, 2048), yours is (2048,)", None),
        ("own.run", other(embed=lambda x: x[-1]), "shape", "(12, 192), yours is (192,)", None),
        ("own.run", changed(cut_to_the_last), "shape", "(12, 192), yours is (1, 192)", None),
        ("own.extend", always_all, "shape", "embed of call 2: [pos, n_embd] = (1, 192)", None),
        ("own.run", other(ln_f=lambda x: x * np.nan), "wrong", "ln_f holds NaN", None),
        (
            "own.run",
            other(h__0__attn__pattern=lambda x: x * np.nan),
            "wrong",
            "attn.pattern holds NaN",
            "not-a-number",
        ),
        ("own.run", other(logits=softmax), "wrong", "logits", "logits-are-probabilities"),
        ("own.run", changed(exchanged), "wrong", "h.0.mlp.p", None),
        (
            "own.run",
            run("no mask"),
            "wrong",
            "attn.pattern (h.0.attn.scores has numbers in the future",
            "mask-missing",
        ),
        ("own.extend", extend("no mask"), "wrong", "attn.pattern", "mask-missing"),
        ("own.extend", extend("sees the next"), "wrong", "attn.scores", "mask-off-by-one"),
        ("own.extend", extend("not itself"), "wrong", "attn.scores", "mask-off-by-one"),
    ],
)
def test_what_is_said(name, function, state, said, slug):
    verdict = checker.judge(name, function)
    assert verdict.state == state, verdict
    assert said in verdict.where
    if slug is not None:
        assert verdict.mistake == slug


def test_steps_may_be_lists():
    assert checker.judge("own.run", other(logits=lambda x: x.tolist())).right


def test_a_cache_that_still_has_another_text_gets_a_question_about_that():
    kept = {}
    verdict = checker.judge("own.extend", lambda w, config, ids, cache: extend()(w, config, ids, kept))
    assert "(4, 6, 6), yours is (4, 6, 18)" in verdict.where
    assert verdict.hint.startswith("Whose keys")


def makes_numbers_of_infinities(theirs, truth, bands):
    for name in truth:
        if name in theirs:
            theirs[name][np.isneginf(theirs[name])] = -1e9


def test_a_judge_that_changes_its_dumps_is_stopped_in_the_check_as_in_the_lesson():
    verdict = checker.judge("own.first_wrong", makes_numbers_of_infinities)
    assert (verdict.state, "read-only" in verdict.where) == ("raised", True)
    exam = planted_mistakes.examination()
    for arrays in (*exam.dumps, exam.truth, exam.bands):
        assert not any(array.flags.writeable for array in arrays.values())


def needs_all(theirs, truth, bands):
    for name in truth:
        if (MADE["off"](theirs[name], truth[name]) > bands[name]).any():
            return name


def test_a_step_that_is_not_there_gets_a_question_about_that():
    verdict = checker.judge("own.first_wrong", needs_all)
    assert "KeyError" in verdict.where
    assert "written down every step" in verdict.hint


def test_the_name_of_a_step_keeps_its_small_letter():
    assert "  embed of call 2: [pos" in str(checker.judge("own.extend", always_all))


def test_an_unfinished_run_is_so_far_right_and_a_misspelt_step_is_named():
    def begun(*given):
        steps = list(run()(*given).items())[:7]
        return dict(steps) | {"h.0.residual_mid": steps[0][1]}

    verdict = checker.judge("own.run", begun)
    assert verdict.so_far == "7 of 51 steps"
    assert str(verdict).startswith("… own.run: so far right (7 of 51 steps).")
    assert "h.0.residual_mid is no step that is known; did you mean h.0.resid_mid?" in verdict.where
    assert checker.judge("own.run", begun, nearer=True).hint != verdict.hint
