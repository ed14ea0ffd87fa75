"""Traces under other programs' names: every name and shape, and live against those programs."""

from pathlib import Path

import numpy as np
import pytest
from support.differences import relative_error
from support.random_model import random_model

import gpt2np
from gpt2np.architectures.gpt2.sites import DERIVED, SITES
from gpt2np.errors import InputError, TraceError, UnknownSiteError
from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.dialect import NotKeptError
from gpt2np.export.dialects.llmc import LLMC_ORDER
from gpt2np.tracing.sites import DIALECTS

IDS = [3, 17, 17, 30, 0, 8, 3]
SIZES = {"seq": 7, "n_embd": 16, "head": 2, "d_head": 8, "d_mlp": 64, "vocab": 60, "k": 10, "1": 1}
GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def model():
    return random_model(5, "float32")


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


def shape(axes):
    return tuple(SIZES[axis] for axis in axes.split())


# -- the extraction guide -----------------------------------------------------------------------------

# Its summary table, row by row, with "final_layer_norm" and "top_k_tokens" of its picture.
GUIDE = {
    "token_ids": "seq",
    "tokens": "seq",
    "attention_mask": "seq",
    "position_ids": "seq",
    "token_embeddings": "seq n_embd",
    "position_embeddings": "seq n_embd",
    "combined_embeddings": "seq n_embd",
    "final_ln": "seq n_embd",
    "final_layer_norm": "seq n_embd",
    "logits": "seq vocab",
    "probabilities": "seq vocab",
    "top_k_tokens": "seq k",
}
GUIDE_LAYER = {
    "ln_1_output": "seq n_embd",
    "Q": "seq head d_head",
    "K": "seq head d_head",
    "V": "seq head d_head",
    "raw_attention_scores": "head seq seq",
    "attention_weights": "head seq seq",
    "attention_output": "seq n_embd",
    "ln_2_output": "seq n_embd",
    "mlp_hidden": "seq d_mlp",
    "mlp_activated": "seq d_mlp",
    "mlp_output": "seq n_embd",
    "hidden_state": "seq n_embd",
}


@pytest.mark.parametrize(("name", "axes"), GUIDE.items())
def test_guide_names_and_shapes(trace, name, axes):
    assert np.shape(trace.to("guide")[name]) == shape(axes)
    assert name in trace.to("guide")


@pytest.mark.parametrize(("name", "axes"), GUIDE_LAYER.items())
def test_guide_names_and_shapes_of_a_layer(trace, name, axes):
    guide = trace.to("guide")
    assert isinstance(guide[name], tuple)
    assert [array.shape for array in guide[name]] == [shape(axes)] * 2
    for layer in range(2):  # the name that the guide's hooks give
        np.testing.assert_array_equal(guide[f"layer_{layer}_{name}"], guide[name][layer])
        np.testing.assert_array_equal(trace[name, layer], guide[name][layer])


def test_guide_tokenization(tiny):
    guide = tiny.trace("The capital of France is").to("guide")
    n = len(guide["token_ids"])
    assert guide["token_ids"].tolist() == tiny.tokenizer.encode("The capital of France is")
    assert guide["token_ids"].dtype == np.int64
    assert "".join(guide["tokens"]) == "The capital of France is"
    assert guide["attention_mask"].tolist() == [1] * n
    assert guide["position_ids"].tolist() == list(range(n))


def test_guide_meanings(trace):
    guide = trace.to("guide")
    total = guide["token_embeddings"] + guide["position_embeddings"]
    np.testing.assert_array_equal(guide["combined_embeddings"], total)
    q, k, v = np.split(guide["c_attn_output"][1], 3, axis=1)
    for part, name in ((q, "Q"), (k, "K"), (v, "V")):
        np.testing.assert_array_equal(guide[name][1].reshape(7, 16), part)
    np.testing.assert_allclose(guide["attention_weights"][0].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(guide["probabilities"].sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(guide["top_k_tokens"][:, 0], guide["logits"].argmax(-1))


def test_guide_hidden_states_end_before_ln_f(trace):
    states = trace.to("guide")["hidden_states"]
    assert len(states) == 2 + 1
    np.testing.assert_array_equal(states[0], trace["embed"])
    np.testing.assert_array_equal(states[2], trace["h.1.resid_post"])


# -- HF -----------------------------------------------------------------------------------------------


def test_hf_shapes(trace):
    hf = trace.to("hf")
    assert list(hf) == ["logits", "past_key_values", "hidden_states", "attentions"]
    assert hf["logits"].shape == (1, 7, 60)
    assert [a.shape for a in hf["attentions"]] == [(1, 2, 7, 7)] * 2
    assert [h.shape for h in hf["hidden_states"]] == [(1, 7, 16)] * 3
    assert [(k.shape, v.shape) for k, v in hf["past_key_values"]] == [((1, 2, 7, 8), (1, 2, 7, 8))] * 2


@pytest.mark.parametrize("case", ["gelu_new", "inverse_layer", "untied"])
def test_hf_goldens(case):
    golden = np.load(GOLDENS / case / "sites.npz")
    model = gpt2np.load(GOLDENS / case, dtype="float64")
    hf, n = model.trace(IDS).to("hf"), model.config.n_layer
    assert relative_error(hf["logits"][0], golden["logits"]) < 1e-10
    assert relative_error(hf["hidden_states"][0][0], golden["embed"]) < 1e-10
    assert relative_error(hf["hidden_states"][n][0], golden["ln_f"]) < 1e-10  # HF: the last one is after ln_f
    for i in range(n):
        if i < n - 1:
            assert relative_error(hf["hidden_states"][i + 1][0], golden[f"h.{i}.resid_post"]) < 1e-10
        assert relative_error(hf["attentions"][i][0], golden[f"h.{i}.attn.pattern"]) < 1e-10
        for part, name in zip(hf["past_key_values"][i], "kv", strict=True):
            assert relative_error(part[0].swapaxes(0, 1), golden[f"h.{i}.attn.{name}"]) < 1e-10


@pytest.mark.needs("torch", "transformers")
@pytest.mark.parametrize("n_layer", [1, 3])
def test_hf_live(tmp_path, n_layer):
    """The three tiers' own lines of code, in HF and here."""
    import torch
    from support import hf

    theirs = hf.random_model(1, n_layer=n_layer, n_head=4, n_embd=32, n_positions=32, vocab_size=60).double()
    hf.save(theirs, tmp_path)
    with torch.no_grad():
        outputs = theirs(
            torch.tensor([IDS]), output_attentions=True, output_hidden_states=True, use_cache=True
        )
    ours = gpt2np.load(tmp_path, dtype="float64").trace(IDS).to("hf")
    assert relative_error(ours["logits"], outputs.logits.numpy()) < 1e-10
    for name in ("attentions", "hidden_states"):
        assert len(ours[name]) == len(outputs[name])
        for a, b in zip(ours[name], outputs[name], strict=True):
            assert relative_error(a, b.numpy()) < 1e-10
    cache = outputs.past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    assert len(layers) == len(ours["past_key_values"])
    for (k, v), (their_k, their_v) in zip(ours["past_key_values"], layers, strict=True):
        assert relative_error(k, their_k.numpy()) < 1e-10
        assert relative_error(v, their_v.numpy()) < 1e-10


# -- TransformerLens ----------------------------------------------------------------------------------

HOOKS = """hook_resid_pre ln1.hook_scale ln1.hook_normalized attn.hook_q attn.hook_k attn.hook_v
attn.hook_attn_scores attn.hook_pattern attn.hook_z attn.hook_result hook_attn_out hook_resid_mid
ln2.hook_scale ln2.hook_normalized mlp.hook_pre mlp.hook_post hook_mlp_out hook_resid_post""".split()
TL_NAMES = [
    *("hook_embed", "hook_pos_embed"),
    *(f"blocks.{i}.{hook}" for i in range(2) for hook in HOOKS),
    *("ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out"),
]
TL_SHAPES = {
    "hook_scale": "seq 1",
    "hook_q": "seq head d_head",
    "hook_k": "seq head d_head",
    "hook_v": "seq head d_head",
    "hook_z": "seq head d_head",
    "hook_attn_scores": "head seq seq",
    "hook_pattern": "head seq seq",
    "hook_result": "seq head n_embd",
    "hook_pre": "seq d_mlp",
    "hook_post": "seq d_mlp",
    "hook_out": "seq vocab",
}


def test_transformer_lens_names_in_order(trace):
    assert list(trace.to("transformer_lens")) == TL_NAMES


@pytest.mark.parametrize("name", TL_NAMES)
def test_transformer_lens_shapes(trace, name):
    expected = TL_SHAPES.get(name.split(".")[-1], "seq n_embd")
    assert trace.to("transformer_lens")[name].shape == shape(expected)


def test_transformer_lens_meanings(trace):
    lens = trace.to("transformer_lens")
    x = trace["h.0.resid_post"]
    scale = np.sqrt(x.var(-1, keepdims=True) + trace.config.layer_norm_epsilon)
    np.testing.assert_allclose(lens["blocks.1.ln1.hook_scale"], scale, rtol=1e-5)
    centred = (x - x.mean(-1, keepdims=True)) / lens["blocks.1.ln1.hook_scale"]
    np.testing.assert_allclose(lens["blocks.1.ln1.hook_normalized"], centred, rtol=1e-4, atol=1e-5)
    for name in TL_NAMES:
        if "hook_scale" not in name:
            np.testing.assert_array_equal(lens[name], trace[name])


@pytest.mark.needs("HookedTransformer", "torch", "transformers")
def test_transformer_lens_live(tmp_path):
    """HookedTransformer, which TransformerLens has up to its version 3."""
    import torch
    import transformer_lens as tl
    from support import hf
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    theirs = hf.random_model(3, n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=60)
    hf.save(theirs, tmp_path)
    config = tl.HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=32, d_head=8, n_heads=2, d_vocab=60, act_fn="gelu_new", d_mlp=64,
        normalization_type="LN", use_attn_result=True, dtype=torch.float32,
    )  # fmt: skip
    hooked = tl.HookedTransformer(config)
    hooked.load_state_dict(convert_gpt2_weights(theirs, config), strict=False)
    cache = hooked.run_with_cache(torch.tensor([IDS]))[1].remove_batch_dim()
    ours = gpt2np.load(tmp_path).trace(IDS).to("transformer_lens")
    assert list(cache) == list(ours)
    for name in ours:
        expected = cache[name].detach().numpy()
        assert ours[name].shape == expected.shape
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(ours[name]), finite)
        assert relative_error(ours[name][finite], expected[finite]) < 1e-5, name


# -- llm.c --------------------------------------------------------------------------------------------

# train_gpt2.c, struct ActivationTensors: (L, B, T, C) and so on, for B = 1.
LLMC = {
    "encoded": "1 seq n_embd",
    "ln1": "2 1 seq n_embd",
    "ln1_mean": "2 1 seq",
    "ln1_rstd": "2 1 seq",
    "qkv": "2 1 seq 3*n_embd",
    "atty": "2 1 seq n_embd",
    "preatt": "2 1 head seq seq",
    "att": "2 1 head seq seq",
    "attproj": "2 1 seq n_embd",
    "residual2": "2 1 seq n_embd",
    "ln2": "2 1 seq n_embd",
    "ln2_mean": "2 1 seq",
    "ln2_rstd": "2 1 seq",
    "fch": "2 1 seq d_mlp",
    "fch_gelu": "2 1 seq d_mlp",
    "fcproj": "2 1 seq n_embd",
    "residual3": "2 1 seq n_embd",
    "lnf": "1 seq n_embd",
    "lnf_mean": "1 seq",
    "lnf_rstd": "1 seq",
    "logits": "1 seq vocab",
    "probs": "1 seq vocab",
    "losses": "1 seq",
}


def test_llmc_names_and_shapes(trace):
    llmc = trace.to("llm.c")
    assert list(llmc) == list(LLMC)
    sizes = SIZES | {"2": 2, "3*n_embd": 48}
    for name, axes in LLMC.items():
        assert llmc[name].shape == tuple(sizes[axis] for axis in axes.split()), name


def test_llmc_order_names_the_table():
    assert sorted(LLMC_ORDER) == sorted(site.names["llm.c"][0] for site in SITES if "llm.c" in site.names)


def test_llmc_meanings(trace):
    llmc = trace.to("llm.c")
    future = np.triu(np.ones((7, 7), bool), 1)
    assert (llmc["preatt"][..., future] == 0).all()
    assert (llmc["att"][..., future] == 0).all()
    for i in range(2):
        scores = trace[f"h.{i}.attn.scores"]
        np.testing.assert_array_equal(llmc["preatt"][i, 0][:, ~future], scores[:, ~future])
        np.testing.assert_array_equal(llmc["atty"][i, 0], trace[f"h.{i}.attn.z"].reshape(7, 16))
        np.testing.assert_array_equal(llmc["ln1_rstd"][i, 0], trace[f"h.{i}.ln_1.rstd"])
    np.testing.assert_array_equal(llmc["losses"][0], trace["loss"])


# -- views, laziness, what is not there ---------------------------------------------------------------

COMPUTED = {
    "guide": {"probabilities", "top_k_tokens", "token_ids", "attention_mask", "position_ids"},
    "hf": set(),
    "transformer_lens": {"hook_scale", "hook_normalized", "hook_result"},
    "llm.c": {"ln1_mean", "ln1_rstd", "ln2_mean", "ln2_rstd", "lnf_mean", "lnf_rstd", "probs", "losses"}
    | {"preatt"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_is_copied_that_is_there(trace, dialect):
    arena = [trace[name] for name in trace.names()]
    block = min(a.__array_interface__["data"][0] for a in arena)
    end = block + trace.nbytes
    for name, array in trace.to(dialect).arrays.items():
        if name.split(".")[-1] not in COMPUTED[dialect]:
            assert block <= array.__array_interface__["data"][0] < end, name
            assert np.shares_memory(
                array, trace[trace.to(dialect)._naming.items[name].sources(trace.config)[0][0]]
            )
        if name not in trace.to(dialect)._naming.facts:
            assert not array.flags.writeable, name


@pytest.mark.parametrize("dialect", NAMES)
def test_nothing_is_computed_before_it_is_asked_for(trace, dialect, monkeypatch):
    def compute(*_):
        raise AssertionError("computed")

    for name, derived in DERIVED.items():
        monkeypatch.setitem(DERIVED, name, derived._replace(compute=compute))
    with pytest.raises(AssertionError, match="computed"):
        trace["probabilities"]
    names = trace.to(dialect)
    assert len(names) == len(list(names)) == len(set(names))
    assert all(name in names for name in names)
    assert len(names.arrays) == len(list(names.arrays))


def test_unknown_dialect_and_names(trace):
    with pytest.raises(InputError, match="no dialect 'keras'; known are gpt2np, guide, hf"):
        trace.to("keras")
    for dialect in NAMES:
        with pytest.raises(UnknownSiteError, match=f"{dialect} has no 'querry'"):
            trace.to(dialect)["querry"]
        assert "querry" not in trace.to(dialect)
        assert 5 not in trace.to(dialect)
        assert trace.to(dialect).get("querry", 1) == 1


def test_what_was_not_kept_is_absent(model):
    trace = model.trace(IDS, keep=["h.1.attn.*", "logits"])
    guide = trace.to("guide")
    with pytest.raises(TraceError, match=r"h\.0\.attn\.qkv, which was not kept"):
        guide["Q"]
    with pytest.raises(NotKeptError, match=r"h\.0\.mlp\.pre was not kept"):
        guide["mlp_hidden"]
    assert guide.get("mlp_hidden") is None
    assert "Q" not in guide
    assert "layer_1_Q" in guide
    assert {"layer_1_Q", "layer_1_attention_weights", "logits", "probabilities"} <= set(guide)
    assert not {"Q", "layer_0_Q", "mlp_hidden", "hidden_states", "final_ln"} & set(guide)
    assert list(trace.to("hf")) == [
        "logits",
        "past_key_values[1][0]",
        "past_key_values[1][1]",
        "attentions[1]",
    ]
    with pytest.raises(TraceError):
        trace.to("hf")["hidden_states"]
    assert list(trace.to("llm.c")) == ["logits", "probs", "losses"]
    for dialect in NAMES:
        names = trace.to(dialect)
        assert all(names[name] is not None for name in names)  # whatever is listed is there


def test_a_run_that_stopped_early(model):
    trace = model.trace(IDS, stop_at_layer=1)
    assert "hidden_states" not in trace.to("hf")
    assert {"hidden_states[0]", "hidden_states[1]", "attentions[0]"} <= set(trace.to("hf"))
    assert list(trace.to("llm.c")) == ["encoded"]
    for dialect in NAMES:
        assert all(trace.to(dialect)[name] is not None for name in trace.to(dialect))


def test_head_outputs_need_the_weights(model, tmp_path):
    model.trace(IDS).save(tmp_path / "t.safetensors")
    lens = gpt2np.Trace.open(tmp_path / "t.safetensors").to("transformer_lens")
    assert [name for name in TL_NAMES if "hook_result" not in name] == list(lens)
    with pytest.raises(TraceError, match="needs the model's weights"):
        lens["blocks.0.attn.hook_result"]
    lens = gpt2np.Trace.open(tmp_path / "t.safetensors", model).to("transformer_lens")
    assert list(lens) == TL_NAMES
