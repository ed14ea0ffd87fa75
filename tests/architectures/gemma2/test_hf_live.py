"""Every site of Gemma-2 against HF's own lines in real float64, on random checkpoints made on the spot."""

import json

import numpy as np
import pytest
from support import needs
from support.differences import relative_error

needs.module("torch", "transformers")

import torch
from support import hf_gemma2
from support.command_line import run
from support.true_double import true_double
from transformers import GenerationConfig
from transformers.models.gemma2 import modeling_gemma2

import gpt2np
from gpt2np.architectures.gemma2.sites import SITES
from gpt2np.export.dialects import read_dialect, write_dialect

torch.set_num_threads(1)


def sizes(width, heads, groups, d_head, window, **others):
    numbers = {
        "hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": d_head,
        "sliding_window": window, "intermediate_size": 2 * width + 1,
    }  # fmt: skip
    return numbers | others


def caps(scores, logits):
    return {"attn_logit_softcapping": scores, "final_logit_softcapping": logits}


CASES = {
    # three as in the notes on this architecture
    "caps that bend": (
        "SFS", 23, sizes(30, 6, 2, 8, 5, query_pre_attn_scalar=13, rope_theta=100.0, **caps(2.0, 3.0)),
    ),
    "no caps": ("FSSF", 23, sizes(21, 3, 1, 10, 1, **caps(None, None), tie_word_embeddings=False)),
    "a key head each": ("SF", 23, sizes(40, 4, 4, 6, 9, hidden_activation="silu", **caps(50.0, 30.0))),
    # and six
    "8 to 4": ("SFSF", 40, sizes(48, 8, 4, 10, 7, query_pre_attn_scalar=144, **caps(1.0, 2.0))),
    "6 to 3, blocks of queries": (
        "SF", 290, sizes(24, 6, 3, 6, 130, max_position_embeddings=300, rope_theta=30.0, **caps(5.0, 4.0)),
    ),
    "4 to 1, window in a block": (
        "FSS", 270, sizes(24, 4, 1, 8, 5, max_position_embeddings=300, **caps(None, 1.5)),
    ),
    "all sliding": ("SSS", 33, sizes(20, 4, 4, 4, 3, rope_theta=7.0, rms_norm_eps=1e-2, **caps(2.5, None))),
    "all full": ("FF", 25, sizes(18, 2, 1, 2, 4, query_pre_attn_scalar=3, hidden_activation="relu")),
    "longer window": (
        "FSF", 31, sizes(35, 5, 5, 14, 400, hidden_activation="gelu", tie_word_embeddings=False),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, tmp_path_factory):
    """(folder, ids, HF in float32, HF in float64)"""
    kinds, n, config = CASES[request.param]
    seed = list(CASES).index(request.param)
    folder = tmp_path_factory.mktemp("hf")
    theirs = hf_gemma2.random_model(seed, kinds, **config)
    theirs.save_pretrained(folder)
    ids = np.random.default_rng(seed).integers(0, 61, n).tolist()
    return folder, ids, hf_gemma2.capture(theirs, ids), hf_gemma2.double(theirs, ids)


def test_every_site_in_float64(case):
    folder, ids, _, truth = case
    model = gpt2np.load(folder, dtype="float64")
    assert model.checkpoint.notes == ()
    trace = model.trace(ids)
    names = {name for name, _, _ in SITES.expand(model.config.n_layer)}
    errors = {name: relative_error(trace[name], truth[name]) for name in names}
    assert {name: e for name, e in errors.items() if not e <= 1e-12} == {}
    assert names == set(truth)
    for name in names:
        assert np.array_equal(np.isneginf(trace[name]), np.isneginf(truth[name])), name
    assert relative_error(model(ids), truth["logits"]) < 1e-12
    assert relative_error(model(ids, last=True), truth["logits"][-1]) < 1e-12


def test_every_site_in_float32(case):
    """Our error at most four times HF's own, or 5e-7, the largest of all layers of a site."""
    folder, ids, theirs, truth = case
    trace = gpt2np.load(folder).trace(ids)
    errors = {site.name: [0.0, 0.0] for site in SITES}
    for name, site, _ in SITES.expand(trace.config.n_layer):
        found = [relative_error(run[name], truth[name]) for run in (trace, theirs)]
        errors[site.name] = np.maximum(errors[site.name], found).tolist()
    del errors["top_k_tokens"]  # likeliest tokens may be as likely as one another
    assert {n: both for n, both in errors.items() if not both[0] <= max(4 * both[1], 5e-7)} == {}


def test_attention_is_visibly_uneven(case):
    _, ids, _, truth = case
    rows = [truth[name][:, -1] for name in truth if name.endswith("attn.pattern")]
    assert max(row.max() for row in rows) > 2 / len(ids)


def test_hf_s_own_double_is_not_float64():
    """Why the truth is made by a patch: as shipped, HF's norms, angles and softmax are float32."""
    theirs = hf_gemma2.random_model(0, "SF", **sizes(24, 4, 2, 6, 3))
    ids = list(range(20))
    shipped = hf_gemma2.capture(theirs.double(), ids)["logits"]
    assert relative_error(shipped, hf_gemma2.double(theirs, ids)["logits"]) > 1e-9


@pytest.mark.slow
def test_a_long_text_in_float32_is_nearer_than_hf_s(tmp_path):
    """Angles of thousands of turns: HF's tables are float32 from the start, ours are rounded once."""
    config = sizes(32, 4, 2, 16, 300, vocab_size=61, max_position_embeddings=2600, **caps(50.0, 30.0))
    theirs = hf_gemma2.random_model(0, "SF", **config)
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(0, 61, 2500).tolist()
    ours = gpt2np.load(tmp_path)(ids)[-100:]
    with torch.no_grad():
        single = theirs(torch.tensor([ids])).logits[0, -100:].numpy()
        theirs = hf_gemma2.doubled(theirs)
        with true_double(modeling_gemma2):
            truth = theirs(torch.tensor([ids])).logits[0, -100:].numpy()
    errors = [relative_error(found, truth) for found in (ours, single)]
    assert errors[0] < 2e-6 < errors[1], errors


GENERATIONS = {"greedy": {}, "penalty": {"repetition_penalty": 10.0}, "beams": {"num_beams": 3}}


@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
@pytest.mark.parametrize("window", [2, 5, 9, 40])
def test_generation_is_hf_s_cached_one(tmp_path, window, options):
    """HF runs the prompt and then a token at a time on its cache, which drops keys before a window."""
    config = sizes(24, 4, 2, 6, window, tie_word_embeddings=False, rope_theta=50.0, **caps(2.0, 3.0))
    theirs = hf_gemma2.random_model(window, "SFSS", **config)
    theirs.save_pretrained(tmp_path)
    theirs = hf_gemma2.doubled(theirs)
    theirs.generation_config = GenerationConfig(pad_token_id=0, **options)
    ids = np.random.default_rng(window).integers(1, 61, 6).tolist()
    with true_double(modeling_gemma2):
        expected = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, 6, dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            return_dict_in_generate=True,
            output_attentions=True,
            output_hidden_states=True,
        )
    done = gpt2np.load(tmp_path, dtype="float64").generate(
        ids, max_new_tokens=20, keep="*", eos=None, **options
    )
    done = done.finish()
    assert done.token_ids == expected.sequences[0].tolist()
    if "num_beams" in options:
        return  # theirs are of every beam
    for ours, of_hf in ((done.attentions, expected.attentions), (done.hidden_states, expected.hidden_states)):
        assert len(ours) == len(of_hf) == 20
        for step, their_step in zip(ours, of_hf, strict=True):
            for array, tensor in zip(step, their_step, strict=True):
                assert array.shape == tuple(tensor.shape)
                assert relative_error(array, tensor.numpy()) < 1e-10
    for pairs in (done.past_key_values, done.trace.to("hf")["past_key_values"]):
        check_cache(pairs, expected.past_key_values)


def check_cache(pairs, cache):
    """Keys and values of every layer, [1, kv_head, rows, d_head], as many rows as HF's cache has."""
    for pair, layer in zip(pairs, cache.layers, strict=True):
        for array, tensor in zip(pair, (layer.keys, layer.values), strict=True):
            assert array.shape == tuple(tensor.shape)
            assert relative_error(array, tensor.numpy()) < 1e-12


@pytest.mark.parametrize(("window", "n"), [(1, 7), (2, 7), (5, 3), (5, 4), (5, 5), (5, 23), (24, 23)])
def test_the_cache_as_hf_has_it(tmp_path, window, n):
    """Rows that a window has left behind are not exported, and a file of one is read back without them."""
    theirs = hf_gemma2.random_model(window, "SF", **sizes(24, 4, 2, 6, window))
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(n).integers(0, 61, n).tolist()
    model = gpt2np.load(tmp_path, dtype="float64")
    trace = model.trace(ids)
    theirs = hf_gemma2.doubled(theirs)
    with torch.no_grad(), true_double(modeling_gemma2):
        cache = theirs(torch.tensor([ids]), use_cache=True).past_key_values
    check_cache(trace.to("hf")["past_key_values"], cache)
    write_dialect(trace, tmp_path / "t.npz", "npz", "hf")
    back = read_dialect(tmp_path / "t.npz", model)
    for name in ("attn.k_rot", "attn.v"):
        np.testing.assert_array_equal(back[f"h.1.{name}"], trace[f"h.1.{name}"])
        assert (f"h.0.{name}" in back) == (window == 1 or n < window)
    some = model.trace(ids, keep={"patterns": "attn.v", "positions": slice(0, None, 2)})
    rows = [i for i in range(0, n, 2) if window == 1 or i >= n - window + 1]
    np.testing.assert_array_equal(
        some.to("hf")["past_key_values[0][1]"][0].swapaxes(0, 1), trace["h.0.attn.v"][rows]
    )


def test_what_the_command_line_prints_is_hf_s(tmp_path, capsys):
    """Each verb's numbers from HF's own arrays in float64, by the window, the caps and shared key heads."""
    config = sizes(24, 4, 2, 6, 4, rope_theta=50.0, **caps(2.0, 3.0))
    theirs = hf_gemma2.random_model(3, "SFS", **config)
    theirs.save_pretrained(tmp_path / "m")
    ids = np.random.default_rng(3).integers(0, 61, 11).tolist()
    truth = hf_gemma2.double(theirs, ids)

    def said(verb, *options, dtype=("--dtype", "float64")):
        options = (*options, "--tokens", ",".join(map(str, ids)), "--model", tmp_path / "m", *dtype)
        code, out, err = run(capsys, *verb.split(), *options, "--json")
        assert code == 0, err
        return json.loads(out) if out.strip().startswith("{") else out

    def chances(logits):
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    sites = [name for name in truth if name.startswith("h.2.") or "." not in name]
    shown = said("trace", *(word for name in sites for word in ("--show", name)))["sites"]
    for name in sites:
        finite = np.isfinite(truth[name])
        found = np.array(shown[name]["values"], float)
        assert relative_error(found[finite], truth[name][finite]) < 1e-12, name
        assert np.array_equal(np.isfinite(found), finite), name

    last, raw = truth["logits"][-1], truth["logits_raw"][-1]
    heads = said("heads", "--token", 7)
    assert heads["sum"] == pytest.approx(raw[7], abs=1e-12)
    assert heads["after_cap"] == pytest.approx(last[7], abs=1e-12)
    labels = heads["attribution"]["labels"]["component"]
    scale = (1 + theirs.model.norm.weight.detach().numpy()) / truth["ln_f.rms"][-1]
    share = truth["h.1.attn.heads"][-1, 2] * scale @ truth_table(theirs)[7]
    assert heads["attribution"]["values"][labels.index("h.1.attn.head.2")] == pytest.approx(share, abs=1e-12)
    pair = said("heads", "--token", 7, "--against", 9)
    assert pair["sum"] == pytest.approx(raw[7] - raw[9], abs=1e-12)
    assert pair["after_cap"] == pytest.approx(last[7] - last[9], abs=1e-12)

    for options, logits in (((), last), (("--before-cap",), raw)):
        lens = said("lens", "--token", 7, *options)
        assert lens["probability"]["values"][-1][0] == pytest.approx(chances(logits)[7], abs=1e-12)
        assert lens["rank"]["values"][-1][0] == 1 + (logits > logits[7]).sum()
    middle = truth["h.0.resid_mid"][-1]
    normed = middle / np.sqrt((middle**2).mean() + 1e-6) * (1 + theirs.model.norm.weight.detach().numpy())
    early = 3 * np.tanh(truth_table(theirs) @ normed / 3)
    found = said("lens", "--token", 7)["probability"]
    at = found["labels"]["site"].index("h.0.resid_mid")
    assert found["values"][at][0] == pytest.approx(chances(early)[7], abs=1e-12)

    said("kv extract", "--out", tmp_path / "kv.json", dtype=())
    kv = json.loads((tmp_path / "kv.json").read_text())
    assert kv["predicted_next_token"]["token_id"] == last.argmax()
    assert kv["metadata"]["keys"] == "rotated"
    for kind, site in (("key", "k_rot"), ("value", "v")):
        vector = kv["kv_cache"]["layer_2"]["head_1"]["tokens"][10][kind]
        assert vector == pytest.approx(truth[f"h.2.attn.{site}"][10, 1], abs=1e-5)

    stats = said("stats")
    measured = stats["attention"]["values"]
    columns = stats["attention"]["labels"]
    assert columns
    assert np.array(measured)[0, 0, 2] == pytest.approx(truth["h.0.attn.pattern"].mean(), abs=1e-12)

    saved = tmp_path / "t.safetensors"
    said("trace", "--out", saved)
    code, _, err = run(capsys, "export", saved, "--to", "npz", "--dialect", "hf", "-o", tmp_path / "hf.npz")
    assert code == 0, err
    with np.load(tmp_path / "hf.npz") as file:
        assert relative_error(file["hidden_states[2]"][0], truth["h.1.resid_post"]) < 1e-12
        assert relative_error(file["attentions[0]"][0], truth["h.0.attn.pattern"]) < 1e-12
        assert file["past_key_values[0][0]"].shape == (1, 2, 3, 6)
        assert (
            relative_error(file["past_key_values[0][0]"][0].swapaxes(0, 1), truth["h.0.attn.k_rot"][-3:])
            < 1e-12
        )
        assert relative_error(file["logits"][0], truth["logits"]) < 1e-12

    model = gpt2np.load(tmp_path / "m", dtype="float64")
    assert model.score(ids).loss == pytest.approx(np.nanmean(truth["loss"]), abs=1e-12)


def truth_table(theirs):
    """The unembedding in float64."""
    return theirs.lm_head.weight.detach().double().numpy()
