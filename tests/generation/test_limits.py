"""Generation at the edge of the context, beyond it, and with options that do not go."""

import math

import numpy as np
import pytest
from support.random_model import random_model, random_model_with_text

from gpt2np.errors import InputError, UnknownSiteError

PROMPT = [3, 14, 15, 9, 26]
FULL = [int(i) for i in np.random.default_rng(1).integers(0, 60, 32)]  # n_positions tokens


@pytest.fixture(scope="module")
def model():
    return random_model(n_positions=32)


# -- the context --------------------------------------------------------------------------------------


def test_a_prompt_of_exactly_n_positions(model):
    done = model.generate(FULL, max_new_tokens=1, keep="*").finish()
    assert done.token_ids == [*FULL, int(model(FULL)[-1].argmax())]
    assert done.trace.token_ids == FULL


@pytest.mark.parametrize("n_prompt", [1, 31, 32])
def test_prompt_and_response_may_take_n_positions_and_not_one_more(model, n_prompt):
    fits = 33 - n_prompt  # the last token is chosen, not fed
    done = model.generate(FULL[:n_prompt], max_new_tokens=fits, keep="logits").finish()
    assert len(done.token_ids) == 33
    assert done.trace["logits"].shape == (32, 60)
    with pytest.raises(
        InputError,
        match=r"take 33 positions \(the last token is not run\); the context of this model holds 32",
    ):
        model.generate(FULL[:n_prompt], max_new_tokens=fits + 1)


def test_a_prompt_longer_than_the_context_is_refused(model):
    with pytest.raises(InputError, match=r"prompt has 33 tokens; the context of this model holds 32"):
        model.generate([*FULL, 1], max_new_tokens=1)


@pytest.mark.parametrize("lookup", [0, 3])
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3}], ids=len)
@pytest.mark.parametrize("n_prompt", [5, 31, 32, 50])
def test_slide_is_the_last_n_positions_run_anew(model, n_prompt, options, lookup):
    text = (FULL + FULL[::-1])[:n_prompt]
    done = model.generate(text, max_new_tokens=40, on_overflow="slide", lookup=lookup, **options).finish()
    for n in range(n_prompt, n_prompt + 40):
        expected = done.token_ids[:n]
        logits = model(expected[-32:])[-1].astype(np.float32)
        if options:
            from gpt2np.generation.filters import ban_repeated_ngrams, penalize_repetition

            logits = ban_repeated_ngrams(penalize_repetition(logits, expected, 1.5), expected, 3)
        assert done.token_ids[n] == int(logits.argmax())
    assert done.token_ids[:n_prompt] == text
    assert done.stopped_by == "length"


def test_slide_of_several_prompts_is_slide_of_each(model):
    prompts = [FULL[:3], FULL[:31], FULL + FULL]
    options = {"max_new_tokens": 20, "on_overflow": "slide", "temperature": 1.0, "seed": 3}
    together = model.generate(prompts, **options).finish()
    assert [d.token_ids for d in together] == [
        model.generate(p, **options).finish().token_ids for p in prompts
    ]


def test_slide_changes_nothing_where_nothing_overflows(model):
    done = model.generate(PROMPT, max_new_tokens=8, keep="*", on_overflow="slide").finish()
    assert done.token_ids == model.generate(PROMPT, max_new_tokens=8).finish().token_ids
    assert len(done.trace.token_ids) == 12


def test_a_trace_does_not_slide(model):
    with pytest.raises(InputError, match="34 positions does not fit into the context of 32"):
        model.generate(PROMPT, max_new_tokens=30, keep="logits", on_overflow="slide")


# -- beam search --------------------------------------------------------------------------------------


def test_a_beam_search_is_recorded_like_everything_else(model):
    done = model.generate(PROMPT, max_new_tokens=8, num_beams=3, keep=["attn.*", "logits"]).finish()
    single = model.trace(done.token_ids[:-1], keep=["attn.*", "logits"])
    assert done.trace.names() == single.names()
    for name in single.names():
        np.testing.assert_array_equal(done.trace[name], single[name])
    assert len(done.steps) == 8
    assert all(math.isnan(p) for p in done.probabilities)
    best = np.log(single_probability(model, done))
    plain = model.generate(PROMPT, max_new_tokens=8).finish()
    assert best >= np.log(single_probability(model, plain))


def single_probability(model, done) -> float:
    """The probability of a whole response."""
    chances = model.trace(done.token_ids[:-1], keep="logits")["probabilities"]
    return float(np.prod([chances[n - 1, done.token_ids[n]] for n in range(5, len(done.token_ids))]))


def test_beam_search_of_several_prompts_ends_each_by_itself(model):
    prompts = [PROMPT, [7], FULL[:20]]
    ends = model.generate(PROMPT, max_new_tokens=8, num_beams=2).finish().token_ids[7]
    options = {"max_new_tokens": 8, "num_beams": 2, "eos": ends, "keep": "logits"}
    together = model.generate(prompts, **options).finish()
    for prompt, found in zip(prompts, together, strict=True):
        alone = model.generate(prompt, **options).finish()
        assert (found.token_ids, found.stopped_by) == (alone.token_ids, alone.stopped_by)
        assert found.trace.token_ids == found.token_ids[:-1]
        assert found.stopped_by == ("eos" if found.token_ids[-1] == ends else "length")


# -- options that do not go ---------------------------------------------------------------------------

WRONG = {
    "max_new_tokens": [0, -1, 1.5, True, "5", None, math.nan],
    "lookup": [-1, 1.5, True, "3", None, math.nan],
    "ledger": ["yes", "all", 2, None, math.nan],
    "on_overflow": ["truncate", None, True],
    "stop": [["a", ""], "", [1], ["a", None]],
    "temperature": [-1, math.nan, math.inf, True, "1"],
    "top_k": [-1, 1.5, math.nan],
    "top_p": [-0.1, 0, 1.1, math.nan],
    "min_p": [-0.1, 1.1, math.nan],
    "repetition_penalty": [0, -1, math.nan],
    "presence_penalty": [-3, math.nan],
    "frequency_penalty": [3, math.nan],
    "no_repeat_ngram_size": [-1, 0.5],
    "num_beams": [0, -1, 2.0, True],
    "length_penalty": [math.nan, 11],
    "early_stopping": [None, "always"],
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in WRONG.items() for v in values])
def test_a_wrong_value_is_refused_by_name_before_anything_runs(model, option, value):
    with pytest.raises(InputError) as caught:
        model.generate(PROMPT, **{option: value})
    assert str(caught.value).startswith(f"{option}={value!r}: must be ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temprature": 0.5}, "no option 'temprature'; the nearest is 'temperature'"),
        ({"topk": 3}, "no option 'topk'; the nearest is 'top_k'"),
        ({"zzz": 3}, "no option 'zzz'; known are temperature, top_k"),
        ({"lookup": 3, "temperature": 0.7}, "lookup is for greedy decoding"),
        ({"num_beams": 2, "lookup": 3}, "num_beams above 1 goes with neither lookup"),
        ({"num_beams": 2, "stop": "a"}, "num_beams above 1 goes with neither"),
        ({"num_beams": 2, "ledger": True}, "num_beams above 1 goes with neither"),
        ({"num_beams": 2, "on_overflow": "slide"}, "num_beams above 1 goes with neither"),
        ({"num_beams": 2, "temperature": 0.7}, "num_beams=2 with temperature=0.7"),
        ({"eos": 1.5}, "token ids are whole numbers, not 1.5"),
        ({"eos": "end"}, "token ids are whole numbers, not 'end'"),
        ({"stop_tokens": [True]}, "token ids are whole numbers, not True"),
        ({"keep": 5}, "keep must be"),
        ({"keep": {"positions": slice(-3, None)}}, "keep's positions count from the start"),
        ({"keep": {"positions": slice(None, -1)}}, "keep's positions count from the start"),
    ],
)
def test_what_does_not_go_is_refused(model, options, says):
    with pytest.raises(InputError) as caught:
        model.generate(PROMPT, **options)
    assert says in str(caught.value)


def test_an_unknown_site_to_keep_suggests_the_nearest(model):
    with pytest.raises(UnknownSiteError, match=r"'attn\.pattern'"):
        model.generate(PROMPT, max_new_tokens=1, keep="attn.patern")


@pytest.mark.parametrize("prompt", ["", [], [60], [-1], [1.5], 5])
def test_a_wrong_prompt_is_refused(prompt):
    with pytest.raises(InputError):
        random_model_with_text(vocab_size=60).generate(prompt)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1000, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "lookup": 0},
        {"temperature": 0, "top_k": 1, "top_p": 0.1},
        {"temperature": 1e-6, "seed": 0},
        {"temperature": 5.0, "top_k": 1, "seed": 0},
        {"num_beams": 1, "length_penalty": -1.0, "early_stopping": True},
    ],
    ids=str,
)
def test_edge_values_are_greedy(model, options):
    plain = model.generate(PROMPT, max_new_tokens=10).finish()
    assert model.generate(PROMPT, max_new_tokens=10, **options).finish().token_ids == plain.token_ids
