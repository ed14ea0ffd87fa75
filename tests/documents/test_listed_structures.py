"""Captures of a Gemma-2 in its turns, of ids alone, and of other programs that mean else by `after_attn`."""

import copy
import json
import sys

import numpy as np
import pytest
from documents.listed_structures import RAW, check, listed
from support.command_line import run
from support.document_models import write_gemma2

import gpt2np
from gpt2np.capture.after_attention import after_attention
from gpt2np.capture.capture_files import load_capture, save_capture
from gpt2np.capture.formats import layer_internals, raw_residual
from gpt2np.capture.manifest import read_manifest
from gpt2np.capture.prompt_set import load_prompt_set

OF_GEMMA = {("attention", f"{name}_proj"): f"attn.{name}" for name in "qkv"}
OF_GEMMA |= {("mlp", "up_proj"): "mlp.up", ("mlp", "gelu"): "mlp.act", ("mlp", "down_proj"): "mlp.proj"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_gemma2(tmp_path_factory.mktemp("gemma") / "gemma-2-2b-it")


def captured(capsys, model, tmp_path, *options):
    """What a capture lists, as its --json says it."""
    argv = ("--experiment", "e", "--output", tmp_path, "--json", *options)
    argv += () if model is None else ("--model", model)
    code, out, err = run(capsys, "capture", *map(str, argv))
    assert code == 0, err
    return json.loads(out)["files"]


@pytest.mark.timeout(120)
@pytest.mark.needs("torch", "transformers")
def test_prompts_in_the_turns_of_a_chat(model, tmp_path, capsys):
    """The set `dynamic`: each text is what the chat template makes of it, and the structure is as listed."""
    import torch

    prompts = load_prompt_set("dynamic").prompts
    files = captured(capsys, model, tmp_path, "--prompt-set", "dynamic", "--format", "pt", "--chat")
    assert [file["path"] for file in files] == [f"inference/raw/residual/dynamic/{i}.pt" for i in range(1, 9)]
    turn = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
    for file, prompt in zip(files, prompts, strict=True):
        found = torch.load(tmp_path / "e" / file["path"])
        check(found, listed(RAW), file["prompt_tokens"])
        assert found["prompt"]["tokens"][:2] == ["<bos>", "<start_of_turn>"]
        assert turn.format(prompt.text) in found["prompt"]["text"]
        assert file["text"] == prompt.text
        assert file["sites"]["activations/i/after_attn"] == "resid_mid"
    assert [entry.row() for entry in read_manifest(tmp_path / "e")] == files


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_ids_alone(model, format, tmp_path, capsys, monkeypatch):
    """Without the extra that reads a tokenizer: a generation of ids is saved and captured."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    made = tmp_path / "g.safetensors"
    ids = ("--tokens", "2,50,99,200", "--max-new-tokens", "6", "--keep", "*")
    code, _, err = run(capsys, "generate", *ids, "--out", str(made), "--model", str(model))
    assert code == 0, err
    (file,) = captured(capsys, None, tmp_path, "--trace", made, "--layer-internals", "3", "--format", format)
    found = load_capture(tmp_path / "e" / file["path"])
    trace = gpt2np.Trace.open(made)
    assert found["prompt"]["token_ids"] == [2, 50, 99, 200]
    assert found["prompt"]["tokens"] == ["<2>", "<50>", "<99>", "<200>"]
    for (group, name), site in OF_GEMMA.items():
        rows = trace[f"h.3.{site}"].reshape(9, -1)
        np.testing.assert_array_equal(found["prompt"][group][name], rows[:4])
        np.testing.assert_array_equal(np.concatenate(found["response"][group][name]), rows[3:])
        assert file["sites"][f"{group}/{name}"] == site


# -- what `after_attn` is ------------------------------------------------------------------------------


def with_after(trace, capture, site):
    """The capture as another program leaves it, which calls something else `after_attn`."""
    n, rows = len(capture["prompt"]["token_ids"]), trace[site]
    other = copy.deepcopy(capture)
    other["prompt"]["residual"]["after_attn"] = rows[:n]
    other["response"]["residual"]["after_attn"] = rows[n - 1 :, None]
    return other


@pytest.fixture(scope="module", params=["gemma2", "tiny"])
def generated(request, model, tiny):
    own = tiny if request.param == "tiny" else gpt2np.load(model)
    return own.generate([2, 50, 99, 200], max_new_tokens=6, keep="*", eos=None).finish()


TOLD = {"gemma2": "ln_2", "tiny": None}  # a LayerNorm is not told


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_after_attn_is(generated, rounded, suffix, tmp_path, capsys):
    trace, normed = generated.trace, TOLD["tiny" if generated.trace.config.n_layer == 4 else "gemma2"]
    for layer in (0, 3):
        own = layer_internals(generated, layer)
        for site, expected in (("resid_mid", "resid_mid"), ("ln_2", normed), ("attn.out", None)):
            capture = with_after(trace, own, f"h.{layer}.{site}")
            capture = in_half_precision(capture) if rounded else capture
            assert after_attention(capture) == expected, (layer, site)
            path = tmp_path / f"{layer}_{site}.{suffix}"
            save_capture(capture, path)
            code, out, err = run(capsys, "info", str(path), "--json")
            assert code == 0, err
            assert json.loads(out)["after_attn"].startswith(expected or "not told by the file")


def in_half_precision(node):
    """Its arrays rounded to float16, as float32."""
    if isinstance(node, dict):
        return {key: in_half_precision(child) for key, child in node.items()}
    if isinstance(node, list):
        return [in_half_precision(child) for child in node]
    return node.astype("f2").astype("f4") if isinstance(node, np.ndarray) else node


def test_too_little_to_tell(generated, tmp_path):
    assert after_attention(raw_residual(generated)) is None
    short = gpt2np.load("tiny").generate([5], max_new_tokens=2, keep="*").finish()
    assert after_attention(layer_internals(short, 0)) is None
