"""What nnsight's cache holds of a pass, as it comes. (Extra `peers`, in an environment of its own.)"""

import numpy as np
import pytest
from support import needs

needs.module("nnsight", "torch", "transformers")

import nnsight
import torch
from support import hf

import gpt2np
from gpt2np.reference.comparison import compare

IDS = [5, 9, 2, 44, 17, 3, 59]


@pytest.fixture(scope="module")
def theirs():
    return hf.random_model(3, n_layer=3, n_head=4, n_embd=24, n_positions=32, vocab_size=60)


@pytest.fixture(scope="module")
def model(theirs, tmp_path_factory):
    return gpt2np.load(hf.save(theirs, tmp_path_factory.mktemp("checkpoint")))


def cached(theirs):
    """Output of every module by its path; a tuple or HF's output class where the module gives one."""
    wrapped = nnsight.NNsight(theirs)
    with torch.no_grad(), wrapped.trace(torch.tensor([IDS])) as tracer:
        cache = tracer.cache()
    return {path: cache[path].output for path in cache.keys()}  # noqa: SIM118  # its len() is no dict's


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_its_cache_is_within_noise(theirs, model, attention):
    theirs.set_attn_implementation(attention)
    found = compare(cached(theirs), model, IDS)
    assert (found.verdict, found.mistake) == ("within-noise", None), str(found)
    sites = {report.site for report in found.sites}
    assert {
        "wte",
        "wpe",
        "ln_f",
        "logits",
        "h.2.ln_1",
        "h.2.attn.qkv",
        "h.2.mlp.post",
        "h.1.resid_post",
    } <= sites


def test_as_a_file(theirs, model, tmp_path):
    tensors = {name: value for name, value in cached(theirs).items() if torch.is_tensor(value)}
    np.savez(tmp_path / "cache.npz", **{name: value.numpy() for name, value in tensors.items()})
    assert compare(tmp_path / "cache.npz", model, IDS).verdict == "within-noise"


def test_an_intervention_is_found_where_it_was_made(theirs, model):
    wrapped = nnsight.NNsight(theirs)
    with torch.no_grad(), wrapped.trace(torch.tensor([IDS])) as tracer:
        cache = tracer.cache()
        wrapped.transformer.h[1].mlp.act.output = wrapped.transformer.h[1].mlp.c_fc.output.relu()
    found = compare({path: cache[path].output for path in cache.keys()}, model, IDS)  # noqa: SIM118
    assert (found.verdict, found.site, found.mistake) == ("wrong", "h.1.mlp.post", "activation-relu")
