"""compare with a GPT-Neo: what HF and export write, and the mistakes that are made with this model."""

import dataclasses
import importlib

import numpy as np
import pytest
from support import gpt_neo_checkpoint, needs

import gpt2np
from gpt2np import ops
from gpt2np.export.dialects import write_dialect
from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import CATALOGUE
from gpt2np.tracing.lines import lines

IDS = np.random.default_rng(3).integers(0, 300, 12).tolist()
SIZES = {"hidden_size": 24, "num_heads": 4, "window_size": 4}
FORWARD = importlib.import_module("gpt2np.architectures.gpt_neo.forward")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gpt_neo_checkpoint.write(tmp_path_factory.mktemp("neo") / "m", "GLGL", **SIZES)


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder)


def arrays(trace):
    return {name: np.array(trace[name]) for name in trace.names()}


def test_what_hf_computes_is_within_noise(folder, model):
    needs.imported("torch")
    needs.imported("transformers")
    from support import hf_gpt_neo
    from transformers import GPTNeoForCausalLM

    theirs = GPTNeoForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    dump = hf_gpt_neo.capture(theirs, IDS)
    del dump["top_k_tokens"]  # numbers of tokens
    found = compare(dump, model, IDS)
    assert (found.verdict, found.unknown, found.refused) == ("within-noise", (), ())
    assert len(found.sites) > 60


@pytest.mark.parametrize("dialect", ["gpt2np", "hf", "transformer_lens"])
def test_what_export_writes(tmp_path, model, dialect):
    n = write_dialect(model.trace(IDS), tmp_path / "t.npz", "npz", dialect)
    found = compare(tmp_path / "t.npz", model)
    assert (found.verdict, len(found.sites), found.unknown, found.refused) == ("within-noise", n, (), ())


def test_hf_s_names_with_a_batch_axis(model):
    trace, block = model.trace(IDS), "transformer.h.1"
    theirs = {
        f"{block}.attn.attention.q_proj": trace["h.1.attn.q"].reshape(1, 12, 24),
        f"{block}.attn.attention.out_proj": trace["h.1.attn.out"][None],
        f"{block}.mlp.c_fc": trace["h.1.mlp.pre"][None],
        "attentions": tuple(trace[f"h.{i}.attn.pattern"][None] for i in range(4)),
    }
    found = compare(theirs, model, IDS)
    assert (found.verdict, found.unknown, len(found.sites)) == ("within-noise", (), 7)


# -- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "window", "site", "mistake", "detail"),
    [
        ("GLGL", 5, "h.1.attn.pattern", "attention-window", "the last 5"),
        ("GLGL", 3, "h.1.attn.scores", "attention-window", "the last 3"),
        ("GGGG", 4, "h.1.attn.pattern", "attention-window", "all keys, without a window"),
        ("LLLL", 4, "h.0.attn.scores", "attention-window", "the last 4"),
        ("LGLG", 4, "h.0.attn.scores", "layer-kinds-swapped", ""),
    ],
)
def test_a_wrong_window_is_named(tmp_path, model, kinds, window, site, mistake, detail):
    sizes = SIZES | {"window_size": window}
    theirs = gpt2np.load(gpt_neo_checkpoint.write(tmp_path / "m", kinds, **sizes))
    found = compare(arrays(theirs.trace(IDS)), model, IDS)
    assert (found.verdict, found.site, found.mistake) == ("wrong", site, mistake)
    assert found.candidates[0].detail == detail


def scaled(q, k, window, *, out):
    ops.dot_scores(q * np.float32(q.shape[-1] ** -0.5), k, window, out=out)


def unmasked(q, k, window, *, out):
    out[...] = np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("op", "site", "mistake"),
    [
        (scaled, "h.0.attn.scores", "scores-scaled-anyway"),
        (unmasked, "h.0.attn.pattern", "mask-missing"),
    ],
)
def test_mistakes_in_the_scores_are_named(monkeypatch, model, op, site, mistake):
    monkeypatch.setattr(FORWARD, "dot_scores", op)
    theirs = arrays(gpt2np.load(model.checkpoint.folder).trace(IDS))
    monkeypatch.undo()
    for dump in (theirs, {name: a for name, a in theirs.items() if "scores" not in name}):
        found = compare(dump, model, IDS)
        first = site if site in dump else "h.0.attn.pattern"
        assert (found.verdict, found.site, found.mistake) == ("wrong", first, mistake)


@pytest.mark.parametrize(
    ("matrices", "site", "mistake"),
    [
        (["out_proj"], "h.1.attn.out", "transposed-c-proj"),
        (["q_proj", "k_proj", "v_proj"], "h.1.attn.q", "transposed-c-attn"),
        (["v_proj"], "h.1.attn.v", "transposed-c-attn"),
    ],
)
def test_a_matrix_that_is_not_turned_round(model, matrices, site, mistake):
    names = [f"h.1.attn.attention.{matrix}.weight" for matrix in matrices]
    wrong = model.with_weights({name: np.ascontiguousarray(model.weights[name].T) for name in names})
    found = compare(arrays(wrong.trace(IDS)), model, IDS)
    assert (found.site, found.mistake) == (site, mistake)
    assert found.candidates[0].detail == "the file has [n_out, n_in]"


def test_mistakes_of_gpt2_alone_are_not_looked_for(model):
    operations = {name.split(".", 2)[-1]: line.op for name, line in lines(model.config).items()}
    steps = {mistake.slug: mistake.steps_in(model.config, operations) for mistake in CATALOGUE}
    for slug in ("qkv-order", "qkv-bias-part", "heads-strided", "layer-order", "cache-slot"):
        assert steps[slug] == (), slug
    for slug in ("scores-scaled-anyway", "attention-window", "layernorm-ddof1", "missing-bias", "gelu-erf"):
        assert steps[slug], slug
    unscaled = dataclasses.replace(gpt2np.Config(n_layer=2), scale_attn_weights=False)
    anyway = next(mistake for mistake in CATALOGUE if mistake.slug == "scores-scaled-anyway")
    assert list(anyway.variants(gpt2np.Config(), 5, ())) == []
    assert len(list(anyway.variants(unscaled, 5, ()))) == 1


def test_what_is_done_to_queries_before_they_meet_keys(model):
    root = np.float32(6**-0.5)
    names = {which: [f"h.{i}.attn.attention.{which}_proj.weight" for i in range(4)] for which in "qkv"}
    scaled_first = model.with_weights({name: model.weights[name] * root for name in names["q"]})
    found = compare(arrays(scaled_first.trace(IDS)), model, IDS)
    assert (found.site, found.mistake) == ("h.0.attn.q", "query-scaled")
    exchanged = {}
    for q, k in zip(names["q"], names["k"], strict=True):
        exchanged |= {q: model.weights[k], k: model.weights[q]}
    theirs = arrays(model.with_weights(exchanged).trace(IDS))
    for dump in (theirs, {name: a for name, a in theirs.items() if name[-2:] not in (".q", ".k")}):
        found = compare(dump, model, IDS)
        first = "h.0.attn.q" if dump is theirs else "h.0.attn.scores"
        assert (found.site, found.mistake) == (first, "projections-exchanged")
        assert found.candidates[0].detail == "q is k, k is q"


@pytest.mark.parametrize("which", "qkv")
def test_a_bias_that_the_model_has_not(monkeypatch, model, which):
    bias = np.random.default_rng(0).normal(0, 0.1, (4, 6)).astype(np.float32)
    own = [block.attn._asdict()[f"{which}_proj"] for block in model.parameters.h]

    def biased(x, weight, *, out):
        ops.project(x, weight, out=out)
        if any(np.array_equal(weight, matrix) for matrix in own):
            out += bias

    monkeypatch.setattr(FORWARD, "project", biased)
    theirs = arrays(gpt2np.load(model.checkpoint.folder).trace(IDS))
    monkeypatch.undo()
    found = compare(theirs, model, IDS)
    assert (found.site, found.mistake) == (f"h.0.attn.{which}", "bias-added")
