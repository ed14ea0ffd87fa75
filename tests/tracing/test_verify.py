"""`trace.verify()` in every kind of trace: an error in any stored site is found."""

import numpy as np
import pytest
from support import gpt_neo_checkpoint, made_up
from support.random_model import random_model

import gpt2np
from gpt2np.errors import VerificationError

IDS = [5, 9, 2, 17, 9, 2, 30, 11, 4, 22]
EDITS = {"h.0.attn.q": lambda q: q * 1.5, "h.1.mlp.out": lambda x: x * 0}
PARTS = ["attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z"]
NEEDS_WEIGHTS = {"ln_1", "ln_2", "ln_f", "logits"}  # nothing but weights says what these must be


def gpt2(tmp_path):
    return random_model(n_positions=32, vocab_size=60)


def other(tmp_path):
    return gpt2np.load(made_up.write(tmp_path / "made_up", n_layer=2), dtype="float64")


def neo(tmp_path):
    return gpt2np.load(gpt_neo_checkpoint.write(tmp_path / "neo", "GL"), dtype="float64")


def opened(model, folder):
    model.trace(IDS).save(folder / "t.safetensors")
    return gpt2np.Trace.open(folder / "t.safetensors")


KINDS = {
    "whole": lambda m, _: m.trace(IDS),
    "packed": lambda m, _: m.trace([IDS[:3], IDS])[1],
    "every second position": lambda m, _: m.trace(IDS, keep={"positions": slice(0, None, 2)}),
    "float16": lambda m, _: m.trace(IDS, keep={"dtype": "float16"}),
    "edited": lambda m, _: m.trace(IDS, edits=EDITS),
    "stopped": lambda m, _: m.trace(IDS, stop_at_layer=1),
    "generated": lambda m, _: m.generate(IDS[:4], max_new_tokens=7, keep="*").finish().trace,
    "resumed": lambda m, _: m.generate(IDS, max_new_tokens=4, keep="*", past=m.trace(IDS[:5])).finish().trace,
    "without its model": opened,
    "derived sites": lambda m, _: m.trace(IDS, keep=["*", "resid_pre", "attn.heads", "probabilities"]),
    "parts beside their whole": lambda m, _: m.trace(IDS, keep=["*", "attn.q", "attn.k", "attn.v"]),
    "parts alone": lambda m, _: m.trace(IDS, keep=PARTS),
    "inputs of blocks": lambda m, _: m.trace(IDS, keep=["resid_pre", "ln_1"]),
    "inputs of blocks and a sum": lambda m, _: m.trace(IDS, keep=["resid_pre", "attn.out", "resid_mid"]),
}


@pytest.fixture(params=[gpt2, neo, other], ids=["gpt2", "gpt_neo", "made_up"])
def model(request, tmp_path):
    return request.param(tmp_path)


def with_error(trace, name):
    """The same trace with one number of a site changed, one that is seen."""
    arrays = {n: trace[n] for n in trace.names()}
    wrong = arrays[name].copy()
    at = np.unravel_index(np.argmax(np.nan_to_num(wrong, posinf=0)), wrong.shape)  # what no ReLU hides
    wrong[at] += 4.0 if wrong.dtype == np.float16 else 0.5
    return gpt2np.Trace(trace.plan, arrays | {name: wrong}, trace.token_ids, trace.metadata, trace.model)


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_any_stored_site_is_found(model, tmp_path, kind):
    trace = KINDS[kind](model, tmp_path)
    assert trace.verify().checked
    for name in trace.names():
        if trace[name].dtype.kind != "f":
            continue
        if trace.model is None and name.split(".", 2)[-1] in NEEDS_WEIGHTS:
            continue
        with pytest.raises(VerificationError, match="does not hold"):
            with_error(trace, name).verify()


def test_how_many_identities_hold(tiny, tmp_path):
    """At least those of version 0.1.0."""
    text = "It is a truth universally acknowledged, that"
    whole = tiny.trace(text, out=tmp_path / "t.safetensors")
    assert len(whole.verify().checked) >= 65
    assert len(gpt2np.Trace.open(tmp_path / "t.safetensors").verify().checked) >= 37
    assert len(tiny.trace(text, keep={"positions": slice(0, None, 2)}).verify().checked) >= 41


def test_the_report_names_step_and_operation(model):
    trace = model.trace(IDS)
    for name in trace.names():
        assert any(statement.startswith(f"{name} = ") for statement in trace.verify().checked), name
    with pytest.raises(VerificationError, match=r"h\.1\.attn\.z = mix\(h\.1\.attn\.pattern, h\.1\.attn\.v\)"):
        with_error(trace, "h.1.attn.z").verify()


@pytest.mark.parametrize("make", [neo, other])
def test_keys_outside_a_window_are_not_seen(tmp_path, make):
    model = make(tmp_path)
    trace = model.trace(IDS)
    for layer, window in ((0, None), (1, 5)):
        assert model.config.window(layer) == window
        pattern = trace[f"h.{layer}.attn.pattern"]
        seen = np.array([[q - (window or 99) < k <= q for k in range(len(IDS))] for q in range(len(IDS))])
        assert np.all((pattern > 0) == seen)
        arrays = {n: trace[n] for n in trace.names()}
        wrong = pattern.copy()
        wrong[0, 9, 1] += 0.5
        arrays[f"h.{layer}.attn.pattern"] = wrong
        broken = gpt2np.Trace(trace.plan, arrays, IDS, trace.metadata, model)
        message = "rows sum to 1" if window is None else "0 where a key is not seen"
        with pytest.raises(VerificationError, match=message):
            broken.verify()
