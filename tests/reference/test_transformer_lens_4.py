"""TransformerLens 4's own caches, as its bridge gives them. (Extra `peers`, an environment of its own.)"""

import numpy as np
import pytest
from support import needs

needs.module("TransformerBridge", "torch", "transformers")

import torch
from support import equivalents, hf
from transformer_lens.model_bridge import TransformerBridge

import gpt2np
from gpt2np.reference.comparison import compare

IDS = [5, 9, 2, 44, 17, 3, 59]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    theirs = hf.random_model(3, n_layer=3, n_head=4, n_embd=24, n_positions=32, vocab_size=60)
    return hf.save(theirs, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return gpt2np.load(checkpoint)


@pytest.fixture
def bridged(checkpoint):
    return TransformerBridge.boot_transformers(str(checkpoint))


def as_arrays(cache):
    return {name: tensor.detach().numpy() for name, tensor in cache.items()}


def torch_file(cache, tmp_path):
    torch.save(dict(cache.items()), tmp_path / "cache.pt")
    return tmp_path / "cache.pt"


def npz_file(cache, tmp_path):
    np.savez(tmp_path / "cache.npz", **as_arrays(cache))
    return tmp_path / "cache.npz"


FORMS = {
    "the cache itself": lambda cache, _: cache,
    "a dict": lambda cache, _: dict(cache.items()),
    "without batch axis": lambda cache, _: cache.remove_batch_dim(),
    "in half precision": lambda cache, _: {
        name: a.astype(np.float16) for name, a in as_arrays(cache).items()
    },
    ".pt": torch_file,
    ".npz": npz_file,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compatible", [False, True])
def test_its_cache_is_within_noise(bridged, model, form, compatible, tmp_path):
    if compatible:
        bridged.enable_compatibility_mode(no_processing=True)
    cache = bridged.run_with_cache(torch.tensor([IDS]))[1]
    found = compare(FORMS[form](cache, tmp_path), model, IDS)
    assert (found.verdict, found.mistake, found.refused) == ("within-noise", None, ()), str(found)
    unknown = [name for name in found.unknown if not name.endswith("hook_in")]
    assert unknown == []  # every output has a name; what a part reads is the output of another


def test_its_compatibility_mode_is_recognised(bridged, model):
    """Folded norms and centred weights, as TransformerLens 2 had them by default."""
    bridged.enable_compatibility_mode()
    found = compare(bridged.run_with_cache(torch.tensor([IDS]))[1], model, IDS)
    assert found.mistake is None
    assert "TransformerLens" in str(found)


MISTAKES = {
    "blocks.1.mlp.hook_pre": (lambda x: torch.zeros_like(x), "h.1.mlp.pre", None),
    "blocks.2.attn.hook_pattern": (lambda x: x / 2, "h.2.attn.pattern", None),
    "hook_pos_embed": (lambda x: x.roll(-1, 1), "wpe", None),
    "blocks.0.attn.hook_z": (lambda x: x.flip(2), "h.0.attn.z", "heads-permuted"),
}


@pytest.mark.parametrize("hook", MISTAKES)
def test_an_edit_is_found_where_it_was_made(bridged, model, hook):
    edit, site, mistake = MISTAKES[hook]
    bridged.add_hook(hook, lambda value, hook: edit(value))
    found = compare(bridged.run_with_cache(torch.tensor([IDS]))[1], model, IDS)
    assert (found.verdict, found.site) == ("wrong", site)
    assert found.mistake in (None, mistake)


@pytest.fixture(scope="module")
def their_names(tiny):
    """What stands for something in the first column of the page on TransformerLens."""
    theirs = TransformerBridge.boot_transformers(str(tiny.checkpoint.folder))
    theirs.enable_compatibility_mode(no_processing=True)
    cache = theirs.run_with_cache(equivalents.TEXT, prepend_bos=False)[1]
    return {"model": theirs, "cache": cache, "text": equivalents.TEXT}


@pytest.mark.parametrize("row", equivalents.rows(), ids=lambda row: row.theirs[:60])
def test_the_page_on_transformer_lens_is_true(tiny, their_names, row):
    theirs, ours = eval(row.theirs, their_names), eval(row.ours, equivalents.our_names(tiny))
    theirs, ours = equivalents.plain(theirs), equivalents.plain(ours)
    if isinstance(theirs, str | list):
        assert theirs == ours
    else:
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
