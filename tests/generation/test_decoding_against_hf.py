"""Generation against HF's `generate` on random checkpoints: ids, shapes and values of every step."""

import numpy as np
import pytest
from support import needs
from support.differences import relative_error

needs.module("torch", "transformers")

import torch
from support import hf
from transformers import GenerationConfig

import gpt2np
from gpt2np.generation.filters import probabilities
from gpt2np.generation.sampling import draws, inverse_cdf

torch.set_num_threads(1)

NOISE = {"float32": 1e-5, "float64": 1e-10}
CASES = {
    "two layers": {"n_layer": 2, "n_head": 4, "n_embd": 32},
    "one head": {"n_layer": 1, "n_head": 1, "n_embd": 24, "scale_attn_weights": False},
    "untied": {"n_layer": 3, "n_head": 2, "n_embd": 16, "tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function: (ours, HF's) of one random checkpoint, in one precision; made once."""
    made = {}

    def make(dtype="float64", seed=0, **config):
        key = (dtype, seed, *config.items())
        if key not in made:
            base = {"n_positions": 64, "vocab_size": 97, "tie_word_embeddings": False}
            theirs = hf.random_model(seed, **base | config)
            folder = hf.save(theirs, tmp_path_factory.mktemp("hf"))
            made[key] = gpt2np.load(folder, dtype=dtype), theirs.to(getattr(torch, dtype))
        return made[key]

    return make


def prompt(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 97, n).tolist()


def generate(model, ids: list[int], n: int, eos: list[int] | None = None, **options):
    """HF's `generate` of one prompt, greedy unless told otherwise, ending at one of `eos` only."""
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=n,
        eos_token_id=eos,
        return_dict_in_generate=True,
        **{"do_sample": False, "use_cache": True} | options,
    )


# -- ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", NOISE)
def test_greedy_ids(pair, config, dtype):
    ours, theirs = pair(dtype, **config)
    for n_prompt, n in ((1, 20), (7, 30), (30, 35), (64, 1)):
        ids = prompt(n_prompt, n_prompt)
        expected = generate(theirs, ids, n).sequences[0].tolist()
        assert len(expected) == n_prompt + n
        assert ours.generate(ids, max_new_tokens=n, eos=None).finish().token_ids == expected
        uncached = generate(theirs, ids, n, use_cache=False).sequences[0].tolist()
        assert uncached == expected
        eos = expected[n_prompt + n // 2]
        stopped = generate(theirs, ids, n, eos=[eos]).sequences[0].tolist()
        assert ours.generate(ids, max_new_tokens=n, eos=eos).finish().token_ids == stopped


@pytest.mark.parametrize("options", [
    {"repetition_penalty": 1.5}, {"repetition_penalty": 0.8}, {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 1},
], ids=str)  # fmt: skip
def test_penalties(pair, options):
    ours, theirs = pair(**CASES["two layers"])
    for seed in range(3):
        ids = prompt(seed, 8)
        expected = generate(theirs, ids, 40, **options).sequences[0].tolist()
        done = ours.generate(ids, max_new_tokens=40, eos=None, **options).finish()
        assert done.token_ids == expected
        assert expected != generate(theirs, ids, 40).sequences[0].tolist()


@pytest.mark.every(3)
@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_beam_search(pair, num_beams, length_penalty, early_stopping):
    ours, theirs = pair(**CASES["two layers"])
    options = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    lengths = set()
    for seed, penalties in ((1, {}), (2, {"repetition_penalty": 1.3}), (3, {"no_repeat_ngram_size": 2})):
        ids = prompt(seed, 3 + seed)
        for eos in ([], sorted(set(prompt(seed, 30)))):  # a good part of the vocabulary, so that texts end
            both = options | penalties
            expected = generate(theirs, ids, 12, eos=eos or None, **both).sequences[0].tolist()
            found = ours.generate(
                ids, max_new_tokens=12, eos=None, stop_tokens=eos, keep="*", **both
            ).finish()
            assert found.token_ids == expected
            assert found.stopped_by == ("eos" if expected[-1] in eos else "length")
            assert found.trace.token_ids == expected[:-1]
            lengths.add(len(expected) - len(ids))
    assert len(lengths) > 1 or length_penalty > 0  # with which long texts may win


SAMPLINGS = {
    "plain": {"temperature": 1.0},
    "top": {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "all": {
        **{"temperature": 1.3, "top_k": 50, "top_p": 0.95, "min_p": 0.02},
        **{"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    },
}


@pytest.mark.parametrize("options", SAMPLINGS.values(), ids=SAMPLINGS)
def test_sampling_with_hfs_processors_and_our_draws(pair, options):
    ours, theirs = pair(**CASES["two layers"])
    settings = GenerationConfig(**{"do_sample": True, "top_k": 0, "pad_token_id": 0} | options)
    for seed in range(4):
        ids, uniforms = prompt(seed, 6), draws(seed)
        processors = theirs._get_logits_processor(settings, input_ids_seq_length=6)
        text = list(ids)
        for _ in range(30):
            with torch.no_grad():
                logits = theirs(torch.tensor([text])).logits[:, -1].float()
            chances = probabilities(processors(torch.tensor([text]), logits)[0].numpy())
            text.append(inverse_cdf(chances, next(uniforms))[0])
        found = ours.generate(ids, max_new_tokens=30, eos=None, seed=seed, **options).finish()
        assert found.token_ids == text
        assert len(set(text)) > 10


# -- attentions, hidden states, past ------------------------------------------------------------------


def assert_same_steps(ours, theirs, tolerance: float) -> None:
    """Values and shapes of every array of every step and layer, and the same number of each."""
    for name in ("attentions", "hidden_states"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert len(found) == len(expected)
        for step, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert len(a) == len(b)
            errors = [relative_error(x, y.numpy()) for x, y in zip(a, b, strict=True)]  # inf: other shapes
            assert max(errors) <= tolerance, (name, step)
    cache = theirs.past_key_values
    assert len(ours.past_key_values) == len(cache.layers)
    for (k, v), layer in zip(ours.past_key_values, cache.layers, strict=True):
        assert relative_error(k, layer.keys.numpy()) <= tolerance
        assert relative_error(v, layer.values.numpy()) <= tolerance


WANTED = {"output_attentions": True, "output_hidden_states": True, "output_logits": True}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", NOISE)
@pytest.mark.parametrize("lookup", [0, 4])
def test_steps(pair, config, dtype, lookup):
    ours, theirs = pair(dtype, **config)
    for n_prompt, n in ((1, 12), (9, 12), (20, 1)):
        ids = prompt(n_prompt, n_prompt)
        expected = generate(theirs, ids, n, **WANTED)
        found = ours.generate(ids, max_new_tokens=n, eos=None, keep="*", lookup=lookup).finish()
        assert found.token_ids == expected.sequences[0].tolist()
        assert_same_steps(found, expected, NOISE[dtype])
        for step, logits in zip(found.steps, expected.logits, strict=True):
            assert relative_error(step["logits"][-1], logits[0].numpy()) <= 1e-5  # float32 in any case


@pytest.mark.parametrize("dtype", NOISE)
def test_steps_of_packed_prompts(pair, dtype):
    ours, theirs = pair(dtype, **CASES["two layers"])
    prompts = [prompt(1, 5), prompt(2, 1), prompt(3, 17)]
    free = [generate(theirs, ids, 10).sequences[0].tolist() for ids in prompts]
    eos = free[2][20]
    done = ours.generate(prompts, max_new_tokens=10, eos=eos, keep="*").finish()
    for ids, found in zip(prompts, done, strict=True):
        expected = generate(theirs, ids, 10, eos=[eos], **WANTED)
        assert found.token_ids == expected.sequences[0].tolist()
        assert_same_steps(found, expected, NOISE[dtype])


@pytest.mark.parametrize("dtype", NOISE)
def test_the_baseline_notebooks_shapes(pair, dtype):
    """14 prompt tokens, 40 new ones, 12 layers of 12 heads."""
    ours, theirs = pair(dtype, n_layer=12, n_head=12, n_embd=48)
    ids = prompt(0, 14)
    expected = generate(theirs, ids, 40, **WANTED)
    done = ours.generate(ids, max_new_tokens=40, eos=None, keep="*").finish()
    assert done.token_ids == expected.sequences[0].tolist()
    assert (len(done.attentions), len(done.attentions[0])) == (40, 12)
    assert (len(done.hidden_states), len(done.hidden_states[0])) == (40, 13)
    for step in range(40):
        n_query, n_key = (14, 14) if step == 0 else (1, 14 + step)
        assert {a.shape for a in done.attentions[step]} == {(1, 12, n_query, n_key)}
        assert {h.shape for h in done.hidden_states[step]} == {(1, n_query, 48)}
    assert [(k.shape, v.shape) for k, v in done.past_key_values] == [((1, 12, 53, 4),) * 2] * 12
    assert_same_steps(done, expected, NOISE[dtype])
