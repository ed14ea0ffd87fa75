"""The real Gemma-2-2B-IT against numbers that others have published; run with `--hub`.

`GPT2NP_HUB_GEMMA2` names a folder to take instead of the Hub's model, which is behind a licence. The source
is gemma.cpp (evals/gemma_test.cc, evals/cross_entropy.cc); none is our own.
"""

import math
import os

import pytest

import gpt2np
from gpt2np.errors import HubError

pytestmark = [pytest.mark.hub, pytest.mark.timeout(7200)]  # the first test may download 5 GB


@pytest.fixture(scope="module")
def model():
    try:
        return gpt2np.load(os.environ.get("GPT2NP_HUB_GEMMA2", "google/gemma-2-2b-it"))
    except HubError as error:  # nobody has accepted the licence here
        pytest.skip(str(error))


def test_nothing_in_the_released_files_is_unknown(model):
    assert model.checkpoint.notes == ()
    assert model.n_parameters == 2_614_341_888
    assert model.checkpoint.eos_ids == (1, 107)


def test_the_bits_of_a_short_text(model):
    """1.14 +- 0.02 bits for each of 62 characters, of which BOS is charged log2(256,000)."""
    text = "The capital of Hungary is Budapest which is located in Europe."
    n_predicted = len(model.token_ids(text)) - 1
    bits = model.score(text).loss * n_predicted / math.log(2)
    assert bits == pytest.approx(52.7, abs=1.2)
    assert (bits + math.log2(256_000)) / len(text) == pytest.approx(1.14, abs=0.02)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of Australia?", "Canberra"),
        ("How many states does the US have?", "50"),
        ("When was the battle of Hastings?", "1066"),
        ("what is 13 + 14?", "27"),
        ("what is 7 * 8?", "56"),
    ],
)
def test_greedy_answers_in_turns(model, question, answer):
    done = model.generate(model.chat_prompt(question), max_new_tokens=64).finish()
    assert answer in model.decode(done.token_ids[done.n_prompt :])


def test_the_template_is_the_one_that_we_make(model):
    from gpt2np.text.chat import template_note

    assert model.tokenizer.chat_template is not None
    assert template_note(model.config.architecture, model.tokenizer) is None


def test_it_verifies(model):
    assert not model.trace("The capital of Hungary").verify().skipped
