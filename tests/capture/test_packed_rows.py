"""Rows of a capture are those of a trace of that prompt alone, whatever it was packed with."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import gemma2_checkpoint, gpt_neo_checkpoint

import gpt2np
from gpt2np.errors import InputError, TraceError, UnknownSiteError

NOISE = 1e-5  # relative to the largest magnitude of a site, but at least 1


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "gpt2": tiny,
        "gpt_neo": gpt2np.load(gpt_neo_checkpoint.write(folder / "neo", "GLL")),
        "gemma2": gpt2np.load(gemma2_checkpoint.write(folder / "gemma2", "SFS")),
    }


def prompts_for(model, n=24, seed=0, longest=40):
    """Random ones, of which some share beginnings, some are equal, and some begin with another one."""
    rng, vocab = np.random.default_rng(seed), model.config.vocab_size
    shared = [rng.integers(0, vocab, length).tolist() for length in (12, 20)]
    prompts = []
    for i in range(n):
        own = rng.integers(0, vocab, rng.integers(1, longest - 20)).tolist()
        prompts.append((shared[i % 2] if i % 3 else []) + own)
    return [*prompts, prompts[1], prompts[4][:-1] or prompts[4], shared[0], [0]]


def captured(folder):
    """Every prompt's rows by site, [query, head, key] of the flat ones, and its positions."""
    manifest, found = json.loads((folder / "manifest.json").read_text("utf-8")), []
    for shard in manifest["shards"]:
        arrays = load_file(folder / shard["file"])
        at = dict.fromkeys(manifest["sites"], 0)
        for i in range(shard["prompts"]):
            a, b = arrays["row_offsets"][i : i + 2]
            c, d = arrays["token_offsets"][i : i + 2]
            rows = {}
            for name, site in manifest["sites"].items():
                if "key" in site["axes"].split():
                    size = (b - a) * site["row"][0] * (d - c)
                    rows[name] = arrays[name][at[name] : at[name] + size].reshape(
                        b - a, site["row"][0], d - c
                    )
                    at[name] += size
                else:
                    rows[name] = arrays[name][a:b]
            found.append((arrays["token_ids"][c:d].tolist(), arrays["positions"][a:b].tolist(), rows))
    return found


def check_rows(model, prompts, folder, kept=slice(None), keep="*"):
    """Hold every row against a trace of its prompt alone."""
    rows_of = captured(folder)
    assert [ids for ids, _, _ in rows_of] == prompts
    for ids, positions, rows in rows_of:
        assert positions == list(range(len(ids))[kept])
        trace = model.trace(ids, keep=keep)
        assert set(rows) == set(trace.names())
        for name, found in rows.items():
            wanted = trace[name]
            if "key" in trace.dims[name].split():
                wanted = wanted.swapaxes(0, 1)
            wanted = wanted[kept]
            assert found.shape == wanted.shape, name
            seen = np.isfinite(wanted)
            np.testing.assert_array_equal(np.isfinite(found), seen, name)
            np.testing.assert_array_equal(found[~seen], wanted[~seen], name)
            largest = max(1, np.abs(trace[name][np.isfinite(trace[name])], dtype="f8").max(initial=0))
            worst = np.abs(found[seen] - wanted[seen], dtype="f8").max(initial=0)
            assert worst <= NOISE * largest, (name, ids)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gemma2"])
@pytest.mark.parametrize("share", [True, False])
def test_every_stored_site_of_every_position(models, tmp_path, name, share):
    model = models[name]
    prompts = prompts_for(model)
    model.capture(prompts, tmp_path, keep="*", store="float32", workers=1, share=share, pack_tokens=60)
    check_rows(model, prompts, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gemma2"])
@pytest.mark.parametrize(
    "kept", [slice(0, 1), slice(-1, None), slice(2, 30, 3), slice(-5, -1), slice(14, None)]
)
def test_some_positions(models, tmp_path, name, kept):
    model = models[name]
    prompts = prompts_for(model, 12, seed=1)
    keep = ["resid_mid", "attn.scores", "attn.z", "attn.k", "ln_f"]
    model.capture(prompts, tmp_path, keep=keep, positions=kept, store="float32", workers=1, pack_tokens=80)
    check_rows(model, prompts, tmp_path, kept, keep)


@pytest.mark.parametrize("kept", [slice(None), slice(130, 190, 7), slice(-1, None)])
def test_long_prompts_whose_attention_comes_in_blocks(tiny, tmp_path, kept):
    rng = np.random.default_rng(3)
    shared = rng.integers(0, 2048, 140).tolist()
    prompts = [shared + rng.integers(0, 2048, n).tolist() for n in (100, 3, 60)]
    prompts.append(rng.integers(0, 2048, 250).tolist())
    keep = ["h.2.attn.scores", "h.3.attn.pattern", "h.3.resid_post"]
    tiny.capture(prompts, tmp_path, keep=keep, positions=kept, store="float32", workers=1)
    check_rows(tiny, prompts, tmp_path, kept, keep)


def test_derived_sites(models, tmp_path):
    keep = {
        "gpt2": ["attn.q", "resid_pre", "ln_1.mean", "ln_f.normalized", "attn.heads", "top_k_tokens"],
        "gpt_neo": ["resid_pre", "ln_2.rstd", "attn.heads", "probabilities"],
        "gemma2": ["resid_pre", "ln_1_post.rms", "attn.heads", "logits_raw"],
    }
    for name, model in models.items():
        prompts = prompts_for(model, 10, seed=2)
        model.capture(prompts, tmp_path / name, keep=keep[name], store="float32", workers=1)
        check_rows(model, prompts, tmp_path / name, keep=keep[name])


def test_loss_knows_the_token_that_follows_a_shared_beginning(models, tmp_path):
    model, shared = models["gpt2"], list(range(10, 22))
    prompts = [[*shared, 5, 6], [*shared, 7], shared, [1]]
    for kept in (slice(None), slice(10, 13)):
        folder = tmp_path / str(kept.start)
        model.capture(prompts, folder, keep="loss", positions=kept, store="float32", workers=1)
        check_rows(model, prompts, folder, kept, "loss")


def test_only_what_is_needed_is_run(models, tmp_path, monkeypatch):
    model, ran = models["gpt2"], []
    run_pass = type(model).run_pass

    def watched(self, run, step=None):
        result = run_pass(self, run, step)
        ran.append((run.n_rows, run.stop_at_layer, run.n_predicted))
        return result

    monkeypatch.setattr(type(model), "run_pass", watched)
    model.capture([[1, 2, 3, 4], [5, 6]], tmp_path / "a", keep="h.1.resid_mid", positions="first", workers=1)
    model.capture([[1, 2, 3, 4], [5, 6]], tmp_path / "b", keep="embed", positions="0:3", workers=1)
    model.capture([[1, 2, 3, 4], [5, 6]], tmp_path / "c", keep="ln_f", workers=1)
    model.capture([[1, 2, 3, 4], [5, 6]], tmp_path / "d", keep="logits", positions="last", workers=1)
    assert ran[0][:2] == (2, 2)
    assert ran[1][:2] == (5, 0)
    assert ran[2] == (6, None, 0)
    assert ran[3] == (6, None, 2)


def test_half_precision_is_rounded_once_and_refuses_what_it_cannot_hold(models, tmp_path):
    model = models["gpt2"]
    prompts = prompts_for(model, 6)
    model.capture(prompts, tmp_path / "half", keep="resid_post", workers=1)
    model.capture(prompts, tmp_path / "whole", keep="resid_post", store="float32", workers=1)
    for (_, _, half), (_, _, whole) in zip(
        captured(tmp_path / "half"), captured(tmp_path / "whole"), strict=True
    ):
        for name, rows in half.items():
            assert rows.dtype == np.float16
            np.testing.assert_array_equal(rows, whole[name].astype(np.float16))
    large = model.with_weights({"wpe.weight": np.full_like(model.weights["wpe.weight"], 1e5)})
    named = "of prompt 0 has values that float16 cannot hold: keep it in float32"
    with pytest.raises(TraceError, match=f"embed {named}"):
        large.capture([[1, 2]], tmp_path / "large", keep="embed")
    assert not list((tmp_path / "large").glob("shard_*"))
    scaled = {"h.0.attn.c_attn.weight": model.weights["h.0.attn.c_attn.weight"] * 1000}
    with pytest.raises(TraceError, match=f"h.0.attn.scores {named}"):
        model.with_weights(scaled).capture([[1, 2]], tmp_path / "scores", keep="attn.scores")


@pytest.mark.parametrize("keep", ["embed", "resid_pre", "resid_mid"])
@pytest.mark.parametrize("beginning", [0, 12])
def test_the_prompt_of_what_is_too_large_is_named(models, tmp_path, keep, beginning):
    model = models["gpt2"]
    table = model.weights["wte.weight"].copy()
    table[7] = 1e5
    large = model.with_weights({"wte.weight": table})
    ids = [[*range(20, 20 + beginning), i, i + 1] for i in range(100, 140)]
    ids[25] = [*ids[25][:-1], 7]
    with pytest.raises(TraceError) as told:
        large.capture(ids, tmp_path / "caps", keep=keep, shard_bytes=40_000, workers=1)
    assert "of prompt 25 has values that float16 cannot hold" in str(told.value)


def test_a_model_in_double_precision(models, tmp_path):
    model = gpt2np.load("tiny", dtype="float64")
    prompts = prompts_for(model, 6)
    model.capture(prompts, tmp_path, keep=["attn.z"], store="float64", workers=1)
    check_rows(model, prompts, tmp_path, keep=["attn.z"])
    assert captured(tmp_path)[0][2]["h.0.attn.z"].dtype == np.float64


def test_wrong_choices(models, tmp_path):
    model = models["gpt2"]
    for error, options in (
        (UnknownSiteError, {"keep": "resid_pots"}),
        (InputError, {"keep": {"patterns": "*", "dtype": "float16"}}),
        (InputError, {"store": "int8"}),
        (InputError, {"positions": "5:"}),
        (InputError, {"workers": 0}),
        (InputError, {"workers": 2, "executor": object()}),
        (InputError, {"shard_bytes": 0}),
        (InputError, {"pack_tokens": -1}),
        (InputError, {"window": 0}),
    ):
        with pytest.raises(error):
            model.capture([[1, 2, 3]], tmp_path / "new", **options)
    with pytest.raises(UnknownSiteError, match="cannot be captured"):
        models["gemma2"].capture([[1, 2, 3]], tmp_path / "new", keep="attn.scores_raw")
    for wrong in ("a text", b"bytes", [], [[]], [[1], [9999]]):
        with pytest.raises(InputError):
            model.capture(wrong, tmp_path / "new")
    assert not (tmp_path / "new").exists()
