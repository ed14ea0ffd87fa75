"""Decomposition, logit attribution, patching and head detection, held against TransformerLens itself.

It brings far more than these tests need, so that it is no part of `.[ref]`: pip install transformer-lens.
The same quantities are compared with hooks in torch in test_residual, test_sweep and test_circuits.
"""

import numpy as np
import pytest
from support import needs
from support.differences import relative_error

needs.module("transformer_lens", "torch", "transformers")

import torch
from support import hf
from transformer_lens.head_detector import detect_head
from transformer_lens.model_bridge import TransformerBridge

import gpt2np
from gpt2np.analysis.attribution import attribution, components
from gpt2np.analysis.heads import head_scores
from gpt2np.analysis.patching import logit_difference, sweep

EXACT = 1e-10
N_LAYER, N_HEAD = 3, 4
CLEAN = [3, 17, 17, 30, 0, 8, 3]
CORRUPT = [3, 17, 17, 44, 0, 8, 3]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Our model and theirs, with the same random weights as they are in the checkpoint, in float64."""
    shape = {"n_layer": N_LAYER, "n_head": N_HEAD, "n_embd": 24, "n_positions": 40, "vocab_size": 997}
    folder = hf.save(hf.random_model(7, **shape), tmp_path_factory.mktemp("lens") / "model")
    theirs = TransformerBridge.boot_transformers(str(folder), dtype=torch.float64)
    return gpt2np.load(folder, dtype="float64"), theirs


@pytest.fixture(scope="module")
def runs(both):
    ours, theirs = both
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(torch.tensor([CLEAN]))
    trace = ours.trace(CLEAN)
    assert relative_error(trace["logits"], logits[0].numpy()) < EXACT
    return trace, cache


def decomposed(trace, cache):
    """Components of the final residual in both, under our names; they have all attention biases in one."""
    ours = components(trace)
    ours = dict(zip(ours.labels["component"], ours.array, strict=True))
    biases = [ours.pop(f"h.{i}.attn.bias") for i in range(N_LAYER)]
    stack, labels = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
    stack = {label: part[0].detach() for label, part in zip(labels, stack, strict=True)}
    names = {"embed": "wte", "pos_embed": "wpe"}
    for i in range(N_LAYER):
        names[f"{i}_mlp_out"] = f"h.{i}.mlp"
        names |= {f"L{i}H{head}": f"h.{i}.attn.head.{head}" for head in range(N_HEAD)}
    remainder = stack.pop("bias")
    return ours, {names[label]: part for label, part in stack.items()}, sum(biases), remainder


def test_decomposition(runs):
    ours, theirs, bias, remainder = decomposed(*runs)
    assert set(ours) == set(theirs)
    for name, part in theirs.items():
        assert relative_error(ours[name], part.numpy()) < EXACT, name
    assert relative_error(bias, remainder.numpy()) < EXACT


@pytest.mark.parametrize("pos", [0, 4, -1])
def test_logit_attribution(both, runs, pos):
    trace, cache = runs
    found = attribution(trace, (11, 2), pos)
    found = dict(zip(found.labels["component"], found.array, strict=True))
    _, theirs, _, _ = decomposed(trace, cache)
    weights = both[0].weights
    direction = (weights["wte.weight"][11] - weights["wte.weight"][2]) * weights["ln_f.weight"]
    stack = torch.stack(list(theirs.values()))[:, None]  # [component, batch, pos, n_embd]
    scaled = cache.apply_ln_to_stack(stack, layer=-1, has_batch_dim=True)[:, 0, pos].detach().numpy()
    for name, value in zip(theirs, scaled @ direction, strict=True):
        assert found[name] == pytest.approx(value, abs=EXACT), name


def test_patching_of_heads(both, runs):
    (ours, theirs), (trace, cache), metric = both, runs, logit_difference(11, 2)
    found = sweep(trace, ours.trace(CORRUPT), metric).array
    for layer, head in np.ndindex(N_LAYER, N_HEAD):
        name = f"blocks.{layer}.attn.hook_z"
        clean = cache[name]  # [batch, pos, head, d_head]

        def put(z, hook, clean=clean, head=head):
            patched = z.clone()
            patched[:, :, head] = clean[:, :, head]
            return patched

        with torch.no_grad():
            logits = theirs.run_with_hooks(torch.tensor([CORRUPT]), fwd_hooks=[(name, put)])
        assert found[layer, head] == pytest.approx(metric(logits[0, -1].numpy()), abs=EXACT)
    assert np.ptp(found) > 0.1


def test_heads_that_are_detected(both, monkeypatch):
    """Their score is the share of all attention that falls on a pattern, ours the mean over its rows."""
    (ours, theirs), n, seed = both, 12, 3
    half = np.random.default_rng(seed).integers(0, 997, n).tolist()
    assert len(set(half)) == n  # each is said twice and no more
    monkeypatch.setattr(theirs, "to_tokens", lambda _: torch.tensor([half + half]))
    found = head_scores(ours, n, 1, seed).array
    for i, (name, rows) in enumerate(
        (("previous_token", 2 * n - 1), ("duplicate_token", n), ("induction", n))
    ):
        detected = detect_head(theirs, "", f"{name}_head").numpy()
        assert detected.max() > 0
        np.testing.assert_allclose(found[i] * rows / (2 * n), detected, atol=EXACT)
