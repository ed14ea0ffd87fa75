"""Traces of equally many tokens as one batch, and dialects by attribute."""

import copy
import pickle

import numpy as np
import pytest

import gpt2np
from gpt2np.errors import InputError, TraceError, UnknownSiteError
from gpt2np.export.dialects import NAMES, Batch
from gpt2np.generation.hf_arguments import OF_A_CALL, OF_GENERATE

PROMPTS = [[36, 1116, 340], [70, 5, 9]]


@pytest.fixture(scope="module")
def traces(tiny):
    return tiny.trace(PROMPTS)


def flat(value):
    return [x for each in value for x in flat(each)] if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("dialect", NAMES)
def test_every_array_has_each_trace_in_it(traces, dialect):
    batch = Batch(traces, dialect)
    assert list(batch) == list(traces[0].to(dialect))
    for name in batch:
        alone = [flat(trace.to(dialect)[name]) for trace in traces]
        for n, together in enumerate(flat(batch[name])):
            if isinstance(together, list):
                assert together == [each[n] for each in alone]
                continue
            axis = together.shape.index(2) if dialect == "llm.c" else 0
            for row, each in enumerate(alone):
                expected = each[n]
                found = np.take(together, [row] if dialect in ("hf", "llm.c") else row, axis)
                assert np.array_equal(found, expected, equal_nan=True), name


def test_shapes_and_attributes_and_what_is_not_there(tiny, traces):
    batch = Batch(traces)
    assert batch["Q"][3].shape == batch.Q[3].shape == (2, 3, 4, 48)
    assert batch.attention_weights[0].shape == (2, 4, 3, 3)
    assert np.array_equal(batch.token_ids, PROMPTS)
    assert batch.attention_mask.shape == (2, 3)
    assert batch.weighted_values[0].shape == (2, 3, 192)
    assert batch.tokens == [trace.tokens for trace in traces]
    with pytest.raises(UnknownSiteError, match="the nearest is 'Q'"):
        batch["q"]
    with pytest.raises(AttributeError, match="the nearest is 'Q'"):
        batch.q  # noqa: B018
    some = Batch(tiny.trace(PROMPTS, keep="logits"))
    with pytest.raises(TraceError, match="not kept"):
        some["Q"]
    assert repr(batch) == "<Batch of 2 traces of 3 tokens>"
    assert copy.deepcopy(batch).Q[0].shape == (2, 3, 4, 48)


def test_what_is_no_batch(tiny, traces):
    with pytest.raises(InputError, match=r"different lengths.*no padding: 3, 4"):
        Batch([*traces[:1], tiny.trace([1, 2, 3, 4])])
    with pytest.raises(InputError, match="at least one"):
        Batch([])
    with pytest.raises(InputError, match="different kept positions"):
        Batch([traces[0], tiny.trace(PROMPTS[1], keep={"positions": slice(1, None)})])
    with pytest.raises(InputError, match="no dialect"):
        Batch(traces, "gide")


def test_a_dialect_by_attribute(tiny, traces):
    hf = traces[0].to("hf")
    assert hf.logits is not None
    assert np.array_equal(hf.attentions[2], hf["attentions"][2])
    guide = pickle.loads(pickle.dumps(copy.copy(traces[0].to("guide"))))
    assert np.array_equal(guide.layer_3_Q, traces[0]["h.3.attn.q"])
    assert not hasattr(tiny.trace([1], keep="logits").to("hf"), "attentions")


def test_values_merged_over_heads(traces):
    guide, trace = traces[0].to("guide"), traces[0]
    assert np.array_equal(guide["weighted_values"][1], trace["h.1.attn.z"].reshape(3, 192))
    assert np.array_equal(guide["layer_1_weighted_values"].reshape(3, 4, 48), guide["layer_1_result"])
    weight, bias = (trace.model.weights[f"h.1.attn.c_proj.{x}"] for x in ("weight", "bias"))
    out = guide["weighted_values"][1] @ weight + bias
    np.testing.assert_allclose(guide["attention_output"][1], out, rtol=1e-4, atol=1e-5)


@pytest.mark.needs("torch", "transformers")
def test_a_batch_is_what_hugging_face_returns(tmp_path):
    import torch
    from support import hf

    theirs = hf.random_model(0, n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=60)
    model = gpt2np.load(hf.save(theirs, tmp_path / "model"))
    ids = np.random.default_rng(0).integers(0, 60, (3, 5))
    with torch.no_grad():
        found = theirs(torch.tensor(ids), output_attentions=True, output_hidden_states=True, use_cache=True)
    batch = Batch(model.trace(ids.tolist()), "hf")
    for name in ("attentions", "hidden_states"):
        for ours, other in zip(batch[name], found[name], strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(batch.logits, found.logits, rtol=1e-3, atol=1e-3)
    for layer, (key, value) in enumerate(batch.past_key_values):
        cached = found.past_key_values.layers[layer]
        np.testing.assert_allclose(key, cached.keys, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(value, cached.values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OF_GENERATE)
def test_arguments_of_hugging_face_are_answered(tiny, name):
    with pytest.raises(InputError, match=f"{name} is an argument of Hugging Face's: .{{10,}}"):
        tiny.generate("Elizabeth was", **{name: True})
    if name in OF_A_CALL:
        for run in (tiny, tiny.trace):
            with pytest.raises(InputError, match=name):
                run("Elizabeth was", **{name: True})
    with pytest.raises(TypeError, match="unexpected"):
        tiny("Elizabeth was", something=1)


def test_the_answer_to_output_attentions(tiny):
    with pytest.raises(InputError, match=r"use model\.trace\(prompt\)\.to\('hf'\)"):
        tiny([1, 2], output_attentions=True)
