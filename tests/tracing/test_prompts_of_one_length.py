"""Neighbouring prompts of one length: their attention is computed at once, and no bit of it is another."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.differences import relative_error
from support.random_model import random_model

import gpt2np
from gpt2np import ops
from gpt2np.tracing import packed_pass, step

WRITTEN = {"gpt_neo": gpt_neo_checkpoint, "gemma2": gemma2_checkpoint}  # with windows, caps, shared key heads
LENGTHS = {
    "one length": [7] * 9,
    "runs": [5, 5, 5, 3, 9, 9, 1, 1, 1, 12, 5],
    "single tokens": [1] * 4,
}


@pytest.fixture(scope="module", params=["gpt2", *WRITTEN])
def model(request, tmp_path_factory):
    if request.param == "gpt2":
        return random_model()
    return gpt2np.load(WRITTEN[request.param].write(tmp_path_factory.mktemp("m") / "m"))


@pytest.fixture
def calls(monkeypatch):
    """How many sequences each call of attention was of, where it was of several."""
    found, run = [], step.EqualSequencesStep.step

    def counted(self, name, op, *inputs):
        found.append(len(self._step.run.sequences[self._several]))
        return run(self, name, op, *inputs)

    monkeypatch.setattr(step.EqualSequencesStep, "step", counted)
    return found


def one_by_one(monkeypatch):
    monkeypatch.setattr(packed_pass, "prompts_at_once", lambda shape, dtype, n: 1)


@pytest.mark.parametrize("keep", ["*", "resid_post", ["h.0.attn.pattern", "attn.k"], ["h.1.attn.scores"]])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_bits_are_those_of_one_by_one(model, lengths, keep, calls, monkeypatch):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 60, n).tolist() for n in lengths]
    at_once = model.trace(prompts, keep=keep)
    assert calls or (keep == "*" and len(set(lengths)) > 1)  # else their scores do not lie side by side
    timed = model.trace(prompts, keep=keep, timings=True)
    one_by_one(monkeypatch)
    calls.clear()
    for found, other, expected in zip(at_once, timed, model.trace(prompts, keep=keep), strict=True):
        assert found.names() == expected.names()
        for name in expected.names():
            np.testing.assert_array_equal(found[name], expected[name], name)
            np.testing.assert_array_equal(other[name], expected[name], name)
    assert not calls
    for ids, found in zip(prompts, at_once, strict=True):
        alone = model.trace(ids, keep=keep)
        assert max(relative_error(found[name], alone[name]) for name in alone.names()) < 1e-5


def test_threads_share_the_prompts(model, calls, monkeypatch):
    prompts = [[i % 60, 5, 7] for i in range(400)]
    for threads in (1, 2, 3):
        calls.clear()
        monkeypatch.setattr(model, "threads", threads)
        traces = model.trace(prompts, keep="attn.z")
        assert len(calls) == 3 * model.config.n_layer * threads
        assert sum(calls) == 3 * model.config.n_layer * len(prompts)
        np.testing.assert_array_equal(traces[7]["h.1.attn.z"], traces[67]["h.1.attn.z"])


def test_those_with_a_past_or_with_edits_are_by_themselves(model, calls):
    prompts = [[3, 14, 15], [9, 26, 5], [35, 8, 9]]
    edited = model.trace(prompts, edits={"h.0.attn.z": lambda z: 2 * z})
    assert not calls
    assert not np.array_equal(edited[0]["logits"], model.trace(prompts)[0]["logits"])
    calls.clear()
    model.generate(prompts, max_new_tokens=4, eos=None).finish()
    assert calls == [3] * 3 * model.config.n_layer  # the prompts, and no token after them


@pytest.mark.parametrize("n_kv_head", [2, 6])
@pytest.mark.parametrize("window", [None, 1, 4, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operations(n_kv_head, window, dtype):
    rng, n_prompts, n, n_head, width = np.random.default_rng(0), 4, 9, 6, 5
    q, k, v = (
        rng.normal(0, 1, (n_prompts, n, heads, width)).astype(dtype)
        for heads in (n_head, n_kv_head, n_kv_head)
    )

    def attend(q, k, v):
        *prompts, _, _, _ = q.shape
        results = [np.full((*prompts, n_head, n, n), np.nan, dtype) for _ in range(3)]
        scores, capped, pattern = results
        z = np.full(q.shape, np.nan, dtype)
        ops.dot_scores(q, k, window, out=scores)
        ops.capped_scores(q, k, 0.5, 3.0, window, out=capped)
        ops.softmax(scores, out=pattern)
        ops.mix(pattern, v, out=z)
        return *results, z

    at_once = attend(q, k, v)
    for i in range(n_prompts):
        for found, expected in zip(at_once, attend(q[i], k[i], v[i]), strict=True):
            np.testing.assert_array_equal(found[i], expected)
    if n_kv_head == n_head and window is None:
        out = np.full((n_prompts, n_head, n, n), np.nan, dtype)
        ops.scaled_scores(q, k, 1.0, out=out)
        np.testing.assert_array_equal(out, at_once[0])
