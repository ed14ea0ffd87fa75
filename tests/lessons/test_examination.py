"""The examination of lesson 7: each dump has the mistake that it should have, and no other answer fits."""

import numpy as np
import pytest

import gpt2np
from gpt2np import lessons
from gpt2np.errors import InputError
from gpt2np.lessons import planted_mistakes
from gpt2np.lessons.exercises.own import FirstWrong
from gpt2np.lessons.models import PROMPT, model_of_lessons

# Where a judge finds each mistake first.
FIRST = (
    *("h.0.attn.scores", "h.0.mlp.post", "h.2.attn.out", "embed", "h.0.attn.scores", "h.0.resid_post"),
    *("h.0.ln_1", "h.0.attn.scores", "h.0.attn.out", "h.0.attn.scores"),
)


@pytest.fixture(scope="module")
def exam():
    return lessons.examination()


@pytest.mark.every(2)
@pytest.mark.parametrize("i", range(10))
def test_compare_names_what_is_planted(exam, i):
    slug = planted_mistakes.answers()[i]
    prefill = planted_mistakes.PREFILL if "cache" in slug else None
    about = exam.dumps[i], model_of_lessons(), PROMPT
    assert gpt2np.compare(*about, prefill=prefill, search=60.0, noise=exam.noise).mistake == slug
    first = FirstWrong().right(exam.dumps[i], exam.truth, exam.bands)
    assert first == FIRST[i]
    assert exam.clues(exam.dumps[i], first).startswith(f"{first}: ")


def test_the_choices_hold_every_answer_and_as_many_others(exam):
    answers = planted_mistakes.answers()
    assert set(answers) <= set(exam.choices)
    assert len(exam.choices) == 2 * len(answers) == 20
    assert all(slug in str(exam) for slug in exam.choices)
    assert all(array.dtype == np.float32 for dump in exam.dumps for array in dump.values())


def test_noise_of_another_text_is_refused(exam):
    with pytest.raises(InputError, match="noise is that of other tokens"):
        gpt2np.compare(exam.dumps[0], model_of_lessons(), "Elizabeth was", noise=exam.noise)


def test_a_lesson_goes_on_with_our_function_until_yours_is_right():
    def yours(patched, clean, corrupt):
        return (patched - corrupt) / (clean - corrupt)

    def wrong(patched, clean, corrupt):
        return patched - corrupt

    assert lessons.or_ours("patching.recovered", yours) is yours
    ours = lessons.or_ours("patching.recovered", wrong)
    assert ours is not wrong
    assert ours(np.array([[-1.0]]), 0.0, -2.0) == 0.5
    assert lessons.or_ours("recovered", lambda *given: lessons.todo)(1.0, 1.0, 0.0) == 1
    with pytest.raises(InputError, match="has no function of its own"):
        lessons.or_ours("own.run", wrong)
