"""compare with a Gemma-2: what HF and export write, and the mistakes that are made with this model."""

import importlib

import numpy as np
import pytest
from support import gemma2_checkpoint, needs

import gpt2np
from gpt2np import ops
from gpt2np.export.dialects import write_dialect
from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import CATALOGUE
from gpt2np.tracing.lines import lines

IDS = np.random.default_rng(3).integers(0, 300, 14).tolist()
SIZES = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 24,
         "intermediate_size": 40, "sliding_window": 5}  # fmt: skip
FORWARD = importlib.import_module("gpt2np.architectures.gemma2.forward")
WEIGHTS = importlib.import_module("gpt2np.architectures.gemma2.weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gemma2_checkpoint.write(tmp_path_factory.mktemp("gemma") / "m", "SF", **SIZES)


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder)


def arrays(trace):
    return {name: np.array(trace[name]) for name in trace.names()}


def named(dump, model, site, mistake, detail=None):
    """Whether compare finds the site first wrong and names the mistake, with the scores and without."""
    without = {name: array for name, array in dump.items() if "scores" not in name}
    for given in (dump,) if detail is not None else (dump, without):
        found = compare(given, model, IDS)
        first = site if site in given else site.replace("scores", "pattern")
        assert (found.verdict, found.site, found.mistake) == ("wrong", first, mistake)
        assert detail is None or found.candidates[0].detail == detail


def of_hf(folder, dtype="float32", **changed):
    """Every site as HF computes it; what it does not compute itself only in float32."""
    needs.imported("torch")
    needs.imported("transformers")
    import torch
    from support import hf_gemma2
    from transformers import Gemma2ForCausalLM

    theirs = Gemma2ForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for key, value in changed.items():
        setattr(theirs.config, key, value)
        for block in theirs.model.layers if key == "attn_logit_softcapping" else ():
            block.self_attn.attn_logit_softcapping = value
    dump = hf_gemma2.capture(theirs.to(getattr(torch, dtype)), IDS)
    names = hf_gemma2.TAPS.keys() | {"attn.pattern", "attn.q_rot", "attn.k_rot"}
    own = {"wte", "embed", "ln_f", "logits_raw", "logits"}
    own |= {f"h.{i}.{name}" for i in range(theirs.config.num_hidden_layers) for name in names}
    return {
        name: x for name, x in dump.items() if name != "top_k_tokens" and (dtype == "float32" or name in own)
    }


@pytest.mark.parametrize(("dtype", "least"), [("float32", 70), ("bfloat16", 45), ("float16", 45)])
def test_what_hf_computes_is_within_noise(folder, model, dtype, least):
    found = compare(of_hf(folder, dtype), model, IDS)
    assert (found.verdict, found.unknown, found.refused) == ("within-noise", (), ()), str(found)
    assert len(found.sites) >= least
    assert {report.dtype for report in found.sites if report.layer is not None} == {dtype}


def test_angles_in_float32_are_no_mistake_far_into_a_text(tmp_path):
    """HF's angles are products in float32; at position 250 that is far more than a dot product's noise."""
    sizes = {"head_dim": 16, "max_position_embeddings": 512, "num_attention_heads": 2, "sliding_window": 9}
    model = gpt2np.load(gemma2_checkpoint.write(tmp_path / "m", "S", **sizes))
    ids = np.random.default_rng(5).integers(0, 300, 250).tolist()
    trace = model.trace(ids, keep=["attn.q", "attn.q_rot"])
    frequencies = 1 / np.float32(100.0) ** (np.arange(0, 16, 2, dtype=np.float32) / np.float32(16))
    angles = np.arange(250, dtype=np.float32)[:, None, None] * frequencies
    theirs = np.empty_like(trace["h.0.attn.q"])
    ops.rotate(trace["h.0.attn.q"], ops.Turn(np.cos(angles), np.sin(angles)), out=theirs)
    found = compare({"h.0.attn.q": trace["h.0.attn.q"], "h.0.attn.q_rot": theirs}, model, ids)
    assert found.verdict == "within-noise", str(found)
    assert np.abs(theirs - trace["h.0.attn.q_rot"]).max() > 5e-6
    shifted = ops.turn_of(np.arange(250) + 0.01, 100.0, 16, np.float32)
    ops.rotate(trace["h.0.attn.q"], shifted, out=theirs)
    found = compare({"h.0.attn.q": trace["h.0.attn.q"], "h.0.attn.q_rot": theirs}, model, ids)
    assert (found.verdict, found.site) == ("wrong", "h.0.attn.q_rot")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_hf_computes_without_a_cap_is_named(folder, model, dtype):
    found = compare(of_hf(folder, dtype, attn_logit_softcapping=None), model, IDS)
    first = "h.0.attn.scores" if dtype == "float32" else "h.0.attn.pattern"
    assert (found.verdict, found.site, found.mistake) == ("wrong", first, "scores-cap"), str(found)
    assert found.first.measure.ratio > 4
    found = compare(of_hf(folder, dtype, final_logit_softcapping=None), model, IDS)
    assert (found.verdict, found.site, found.mistake) == ("wrong", "logits", "logits-cap"), str(found)


def test_what_parts_read(model):
    trace, block = model.trace(IDS), "model.layers.1."
    read = {
        "input_layernorm": "h.1.resid_pre",
        "self_attn": "h.1.ln_1",
        "self_attn.k_proj": "h.1.ln_1",
        "self_attn.o_proj": "h.1.attn.z",
        "post_attention_layernorm": "h.1.attn.proj",
        "pre_feedforward_layernorm": "h.1.resid_mid",
        "mlp": "h.1.ln_2",
        "mlp.up_proj": "h.1.ln_2",
        "mlp.act_fn": "h.1.mlp.pre",
        "mlp.down_proj": "h.1.mlp.post",
        "post_feedforward_layernorm": "h.1.mlp.proj",
    }
    for part, site in read.items():
        found = compare({f"{block}{part}.input": trace[site].reshape(len(IDS), -1)}, model, IDS)
        assert (found.verdict, [report.site for report in found.sites]) == ("within-noise", [site]), part
    found = compare({"model.norm.input": trace["h.1.resid_post"], "lm_head.input": trace["ln_f"]}, model, IDS)
    assert [report.site for report in found.sites] == ["h.1.resid_post", "ln_f"]


def test_a_name_of_another_model_is_no_misspelling(model):
    trace = model.trace(IDS)
    dump = {
        "ln_f": trace["ln_f"],
        "h.1.attn.qkv": np.zeros((len(IDS), 80)),
        "h.1.attn.vv": np.zeros((14, 80)),
    }
    fused, misspelled = compare(dump, model, IDS).offers
    assert "nearly" not in fused
    assert misspelled == "h.1.attn.vv [14, 80], nearly h.1.attn.v"


@pytest.mark.parametrize("dialect", ["gpt2np", "hf", "transformer_lens"])
def test_what_export_writes(tmp_path, model, dialect):
    n = write_dialect(model.trace(IDS), tmp_path / "t.npz", "npz", dialect)
    found = compare(tmp_path / "t.npz", model)
    assert (found.verdict, len(found.sites), found.unknown, found.refused) == ("within-noise", n, (), ())


@pytest.mark.parametrize(
    ("kinds", "changed", "site", "mistake", "detail"),
    [
        ("SF", {"sliding_window": 6}, "h.0.attn.pattern", "attention-window", "the last 6"),
        ("SF", {"sliding_window": 4}, "h.0.attn.scores", "attention-window", "the last 4"),
        ("FS", {}, "h.0.attn.pattern", "layer-kinds-swapped", ""),
        ("FF", {}, "h.0.attn.pattern", "attention-window", "all keys, without a window"),
        ("SS", {}, "h.1.attn.scores", "attention-window", "the last 5"),
        ("SF", {"attn_logit_softcapping": None}, "h.0.attn.scores", "scores-cap", "missing"),
        ("SF", {"attn_logit_softcapping": 3.0}, "h.0.attn.scores", "scores-cap", "it is 3"),
        ("SF", {"final_logit_softcapping": None}, "logits", "logits-cap", "missing"),
        ("SF", {"query_pre_attn_scalar": 8}, "h.0.attn.scores", "scores-scaled-by-head-dim", ""),
        ("SF", {"query_pre_attn_scalar": 1}, "h.0.attn.scores", "scores-unscaled", ""),
        ("SF", {"rope_theta": 10000.0}, "h.0.attn.q_rot", "rotation-angles", "base 10000"),
    ],
)
def test_another_config_is_named(tmp_path, model, kinds, changed, site, mistake, detail):
    theirs = gpt2np.load(gemma2_checkpoint.write(tmp_path / "m", kinds, **(SIZES | changed)))
    named(arrays(theirs.trace(IDS)), model, site, mistake, detail)


def pairs(x, turn, *, out):
    a, b = x[..., ::2], x[..., 1::2]
    out[..., ::2], out[..., 1::2] = a * turn.cos - b * turn.sin, b * turn.cos + a * turn.sin


def tiled_scores(q, k, scale, cap, window, *, out):
    ops.capped_scores(q, np.ascontiguousarray(k[:, np.arange(6) % 2]), scale, cap, window, out=out)


def tiled_values(pattern, v, *, out):
    ops.mix(pattern, np.ascontiguousarray(v[:, np.arange(6) % 2]), out=out)


def unscaled(x, factor, *, out):
    out[...] = x


def without_one(weight, epsilon):
    return ops.RMSNorm(weight - 1, epsilon)


def with_mean(x, p, *, out):
    ops.rms_norm(x - x.mean(-1, keepdims=True), p, out=out)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "site", "mistake"),
    [
        (FORWARD, "rotate", pairs, "h.0.attn.q_rot", "rotation-pairs"),
        (FORWARD, "capped_scores", tiled_scores, "h.0.attn.scores", "groups-interleaved"),
        (FORWARD, "mix", tiled_values, "h.0.attn.z", "groups-interleaved"),
        (FORWARD, "scaled", unscaled, "embed", "embedding-unscaled"),
        (WEIGHTS, "RMSNorm", without_one, "h.0.ln_1", "rmsnorm-without-one"),
        (FORWARD, "rms_norm", with_mean, "h.0.ln_1", "rmsnorm-takes-mean"),
    ],
)
def test_a_planted_mistake_is_named(monkeypatch, model, module, name, wrong, site, mistake):
    monkeypatch.setattr(module, name, wrong)
    theirs = arrays(gpt2np.load(model.checkpoint.folder).trace(IDS))
    monkeypatch.undo()
    named(theirs, model, site, mistake)


def test_gate_and_up_in_each_other_s_place(model):
    swapped = {}
    for i in range(2):
        gate, up = (f"layers.{i}.mlp.{half}_proj.weight" for half in ("gate", "up"))
        swapped |= {gate: model.weights[up], up: model.weights[gate]}
    theirs = arrays(model.with_weights(swapped).trace(IDS))
    named(theirs, model, "h.0.mlp.pre", "gate-and-up-swapped")
    written = {name: array for name, array in theirs.items() if ".mlp." not in name or name.endswith("out")}
    named(written, model, "h.0.mlp.out", "gate-and-up-swapped")


def test_mistakes_of_another_model_are_not_looked_for(model):
    def steps_of(config):
        operations = {name.split(".", 2)[-1]: line.op for name, line in lines(config).items()}
        return {mistake.slug: mistake.steps_in(config, operations) for mistake in CATALOGUE}

    gemma, gpt2 = steps_of(model.config), steps_of(gpt2np.Config(n_layer=2))
    for slug in ("qkv-order", "layernorm-ddof1", "missing-bias", "transposed-c-proj", "position-missing"):
        assert (gemma[slug], bool(gpt2[slug])) == ((), True), slug
    for slug in ("rotation-pairs", "scores-cap", "logits-cap", "gate-and-up-swapped", "rmsnorm-forgets"):
        assert (bool(gemma[slug]), gpt2[slug]) == (True, ()), slug
