"""Captures of an architecture that is not GPT-2's: queries, keys and values of their own, fewer key heads."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import made_up, tiny_checkpoint
from support.command_line import run

import gpt2np
from gpt2np.capture.capture_files import check_capture, load_capture, save_capture
from gpt2np.capture.formats import internals_sites, layer_internals, raw_residual, residual_sites
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import InputError
from gpt2np.tracing.sites import SiteTable

TEXT, NEW, LAYER = "the on in er", 6, 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = made_up.write(tmp_path_factory.mktemp("capture") / "m")
    vocabulary, merges = tiny_checkpoint.vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("\n".join(merges), "utf-8")
    return gpt2np.load(folder)


@pytest.fixture(scope="module")
def generated(model):
    return model.generate(TEXT, max_new_tokens=NEW, keep="*", eos=None).finish()


def test_layer_internals(generated, tmp_path):
    trace, n = generated.trace, generated.n_prompt
    capture = layer_internals(generated, LAYER)
    attention, answer = capture["prompt"]["attention"], capture["response"]["attention"]
    for name, site, width in (("q_proj", "q", 24), ("k_proj", "k", 12), ("v_proj", "v", 12)):
        whole = trace[f"h.{LAYER}.attn.{site}"].reshape(-1, width)
        np.testing.assert_array_equal(attention[name], whole[:n])
        np.testing.assert_array_equal(np.concatenate(answer[name]), whole[n - 1 :])
        assert np.shares_memory(attention[name], trace[f"h.{LAYER}.attn.{site}"])
    assert attention["attn_weights"].shape == (4, n, n)
    assert [a.shape for a in answer["attn_weights"]] == [(4, n + i, n + i) for i in range(NEW)]
    assert capture["prompt"]["mlp"]["gelu"].shape == (n, 36)
    residual = capture["prompt"]["residual"]
    np.testing.assert_array_equal(residual["input"], trace["h.0.resid_post"][:n])
    save_capture(capture, tmp_path / "1.safetensors")
    back = load_capture(tmp_path / "1.safetensors")
    assert list(check_capture(back, "b")) == list(check_capture(capture, "a"))
    np.testing.assert_array_equal(back["response"]["attention"]["k_proj"][2], answer["k_proj"][2])


def test_raw_residual(generated, tmp_path):
    trace, n = generated.trace, generated.n_prompt
    capture = raw_residual(generated)
    for layer in range(4):
        found = capture["prompt"]["activations"][str(layer)]["residual_out"]
        np.testing.assert_array_equal(found, trace[f"h.{layer}.resid_post"][:n])
        mean = trace[f"h.{layer}.attn.pattern"].mean(axis=0)
        np.testing.assert_array_equal(capture["prompt"]["attention"][f"layer_{layer}"], mean[:n, :n])
    save_capture(capture, tmp_path / "raw.safetensors")
    assert load_capture(tmp_path / "raw.safetensors").keys() == {"prompt", "response"}


def test_only_what_a_capture_needs_has_to_be_kept(model):
    for layer in range(2):
        sites = internals_sites(layer, model.config)
        assert {f"h.{layer}.attn.q", f"h.{layer}.attn.k", f"h.{layer}.attn.v"} <= set(sites)
        done = model.generate(TEXT, max_new_tokens=NEW, keep=sites).finish()
        assert set(done.trace.names()) == set(sites)
        layer_internals(done, layer)
    done = model.generate(TEXT, max_new_tokens=NEW, keep=residual_sites(4)).finish()
    raw_residual(done)


def test_an_architecture_without_a_site_of_the_format(generated, model, tmp_path, monkeypatch):
    architecture = model.config.architecture
    sites = SiteTable(site for site in made_up.SITES if site.name != "mlp.post")
    monkeypatch.setattr(made_up.MODULE, "ARCHITECTURE", replace(architecture, sites=sites))
    line = r"^made_up has no site for mlp/gelu, so there are no layer internals of it$"
    with pytest.raises(InputError, match=line):
        layer_internals(generated, LAYER)
    prompts = PromptSet("p", (Prompt(1, TEXT),))
    with pytest.raises(InputError, match=line):
        capture_prompts(model, prompts, tmp_path / "e", layers=[LAYER])
    assert list(tmp_path.iterdir()) == []


def test_runs_and_the_verb(model, tmp_path, capsys):
    prompts = PromptSet("p", (Prompt(1, TEXT), Prompt(2, "in on")))
    options = Options(max_new_tokens=NEW)
    files, new = capture_prompts(model, prompts, tmp_path / "e", layers=[0, 1], options=options)
    assert new == len(files) == 4
    assert capture_prompts(model, prompts, tmp_path / "e", layers=[0, 1], options=options)[1] == 0
    files, new = capture_prompts(model, prompts, tmp_path / "e", options=options)
    assert new == 2
    argv = ("--model", str(model.checkpoint.folder), "--output", str(tmp_path), "--max-new-tokens", "4")
    for experiment, more in (("a", ()), ("b", ("--layer-internals", "all")), ("c", ("--layer-internals",))):
        code, out, _ = run(
            capsys, "capture", "--prompt", TEXT, "--experiment", experiment, "--json", *argv, *more
        )
        assert code == 0
        for entry in json.loads(out)["files"]:
            load_capture(tmp_path / experiment / entry["path"])
