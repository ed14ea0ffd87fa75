"""Captures as `Model.capture` writes them, read back: by prompt, by row, checked, and trained on."""

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.command_line import run
from support.random_model import random_model

import gpt2np
from gpt2np.capture import open_capture, verification
from gpt2np.errors import InputError, VerificationError

BEGINNING = "It is a truth universally acknowledged, that a single man in possession of"
TEXTS = [
    f"{BEGINNING} {end}" for end in ("a good fortune", "a house", "nothing at all, must be poor", "a dog")
]
TEXTS += ["Elizabeth was", "Mr. Darcy walked to the", "She", "Where is he now, my dear? He is", "No.", "No."]
TEXTS += [
    f"{name} was not at home, and {name} did not answer." for name in ("Jane", "Mary", "Kitty", "Lydia")
]
KEEP = ["resid_post", "attn.pattern", "attn.scores", "attn.q", "attn.heads", "top_k_tokens", "logits"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read_back") / "caps"
    tiny.capture(TEXTS, folder, keep=KEEP, store="float32", shard_bytes=800_000, pack_tokens=40, workers=1)
    return folder


@pytest.mark.every(2)
@pytest.mark.parametrize("positions", ["all", "last", "first", "1:9:3", "-3:"])
@pytest.mark.parametrize("share", [True, False])
def test_rows_are_those_of_a_trace_of_the_prompt_alone(tiny, tmp_path, positions, share):
    options = {"shard_bytes": 800_000, "pack_tokens": 40, "share": share, "workers": 1}
    tiny.capture(TEXTS, tmp_path / "caps", keep=KEEP, positions=positions, store="float32", **options)
    captured = open_capture(tmp_path / "caps")
    for prompt, text in enumerate(TEXTS):
        trace = tiny.trace(text, keep=KEEP)
        kept = captured.positions(prompt)
        assert captured.token_ids(prompt).tolist() == trace.token_ids
        for name, found in captured.rows(prompt).items():
            expected = (
                trace[name][kept] if "key" not in trace.dims[name] else trace[name][:, kept].swapaxes(0, 1)
            )
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype
            if name != "top_k_tokens":
                scale = max(1, np.abs(expected[np.isfinite(expected)]).max(initial=0))
                same_infinity = np.isneginf(found) & np.isneginf(expected)
                found, expected = (np.where(same_infinity, 0, x) for x in (found, expected))
                assert np.abs(found - expected).max(initial=0) < 1e-5 * scale
    found = captured.verify(tiny, sample=100)
    assert found.identical
    assert found.difference < 1e-5


def test_several_shards_and_packs_are_the_same_bytes_again(folder, tiny):
    captured = open_capture(folder)
    assert len(captured.shards) > 2
    found = captured.verify(sample=100)
    assert len(found.prompts) == len(TEXTS)
    assert found.identical
    assert "14 prompts run again: the same bytes" in str(found)


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_noise_in_the_passes_is_told_from_the_same_bytes(tiny, tmp_path, store):
    tiny.capture(TEXTS, tmp_path / "caps", keep="resid_post", store=store, workers=1)
    manifest = json.loads((tmp_path / "caps" / "manifest.json").read_text())
    assert open_capture(tmp_path / "caps").verify(tiny).identical
    manifest["options"] |= {"pack_tokens": 1, "shared_beginnings": False}  # as another machine would round
    (tmp_path / "caps" / "manifest.json").write_text(json.dumps(manifest))
    found = open_capture(tmp_path / "caps").verify(tiny, sample=100)
    assert found.difference < 1e-5
    if store == "float32":
        assert not found.identical
        assert "within noise" in str(found)


def test_other_weights_are_found_in_half_precision(tiny, tmp_path, monkeypatch):
    tiny.capture(TEXTS, tmp_path / "caps", keep="h.2.resid_post", workers=1)
    weights = {"h.1.mlp.c_proj.bias": tiny.weights["h.1.mlp.c_proj.bias"] + np.float32(0.05)}
    captured, other = open_capture(tmp_path / "caps"), tiny.with_weights(weights)
    with pytest.raises(InputError, match="with other weights than"):
        captured.verify(other)
    monkeypatch.setattr(verification, "is_same_model", lambda then, now: True)
    with pytest.raises(VerificationError, match=r"h\.2\.resid_post of prompt 0"):
        captured.verify(other)


def test_when_weights_were_written_is_not_in_a_capture(tiny, tmp_path):
    found = []
    for number, when in enumerate((10**9, 2 * 10**9)):
        copy = shutil.copytree(tiny.checkpoint.folder, tmp_path / str(number) / "model")
        os.utime(copy / "model.safetensors", (when, when))
        folder = tmp_path / str(number) / "caps"
        gpt2np.load(copy).capture(TEXTS, folder, keep="resid_post", workers=1)
        found.append({p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("shard")})
        os.utime(copy / "model.safetensors", (when + 9, when + 9))
        assert gpt2np.load(copy).capture(TEXTS, folder, keep="resid_post", workers=1).new == 0
        assert open_capture(folder).verify(gpt2np.load(copy)).identical
    assert found[0] == found[1]


def test_double_precision(tmp_path):
    model = random_model()
    prompts = [[1, 2, 3], [1, 2, 3, 4, 5], [7], [9, 8, 7, 6]]
    model.capture(prompts, tmp_path / "caps", keep=["resid_post", "scores"], store="float64", workers=1)
    found = open_capture(tmp_path / "caps").verify(model)
    assert found.identical
    assert found.difference < 1e-12
    assert open_capture(tmp_path / "caps").token_ids(-1).tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize("architecture", [gemma2_checkpoint, gpt_neo_checkpoint])
def test_other_architectures(tmp_path, architecture):
    model = gpt2np.load(architecture.write(tmp_path / "model"))
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.config.vocab_size, n).tolist() for n in (3, 9, 1, 12, 5)]
    prompts += [prompts[3][:8] + prompts[1][:3], prompts[3][:8]]
    keep = ["resid_post", "attn.scores", "attn.pattern", "attn.k", "mlp.out"]
    model.capture(prompts, tmp_path / "caps", keep=keep, store="float32", workers=1, pack_tokens=16)
    captured = open_capture(tmp_path / "caps")
    for prompt, ids in enumerate(prompts):
        trace = model.trace(ids, keep=keep)
        for name, found in captured.rows(prompt).items():
            expected = trace[name].swapaxes(0, 1) if "key" in trace.dims[name] else trace[name]
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = captured.verify(sample=100)
    assert found.identical
    assert found.difference < 1e-5


def test_batches_of_a_capture(folder, tiny):
    captured = open_capture(folder)
    wanted = ["h.3.resid_post", "prompt", "position", "token_id", "next_token_id"]
    seen = Counter()
    for batch in captured.batches(wanted, 16, seed=1, buffer=200_000):
        for at in range(len(batch["prompt"])):
            prompt, position = int(batch["prompt"][at]), int(batch["position"][at])
            ids = captured.token_ids(prompt).tolist()
            assert batch["token_id"][at] == ids[position]
            assert batch["next_token_id"][at] == [*ids[1:], -1][position]
            assert np.array_equal(
                batch["h.3.resid_post"][at], captured.rows(prompt)["h.3.resid_post"][position]
            )
            seen[prompt, position] += 1
    assert set(seen.values()) == {1}
    assert len(seen) == captured.n_rows


def test_info_and_the_check(capsys, folder):
    code, out, _ = run(capsys, "info", str(folder), "--verify", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["check"]["same_bytes"] is True
    assert facts["finished"] == facts["shards"]
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
