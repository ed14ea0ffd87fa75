"""Analyses of an architecture that is not GPT-2's: RMSNorm, no biases, no positions, shared keys, windows."""

import numpy as np
import pytest
from support import command_line, made_up
from support.differences import relative_error

import gpt2np
from gpt2np.analysis import (
    baseline_notebook,
    circuits,
    heads,
    interventions,
    layer_norms,
    neurons,
    parameter_counts,
    patching,
    residual_stream,
    statistics,
)
from gpt2np.analysis.attribution import attribution, components, head_grid, keep, similarity, writers
from gpt2np.analysis.lens import attention_lens, logit_lens, predictions
from gpt2np.analysis.site_values import has_sign, site_values
from gpt2np.errors import InputError, TraceError

IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42]
OTHER = [3, 17, 99, 30, 0, 8, 3, 40, 41, 42]
NOISE = 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("other") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder, dtype="float64")


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


def rms(x, norm):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.epsilon) * norm.weight


# -- the stream as a sum ---------------------------------------------------------------------------


def test_components_add_up_to_the_stream(model, trace):
    c = model.config
    found = components(trace)
    labels = list(found.labels["component"])
    assert labels[:6] == ["embed", *(f"h.0.attn.head.{i}" for i in range(4)), "h.0.mlp"]
    assert len(labels) == 1 + c.n_layer * (c.n_head + 1)
    assert relative_error(found.array.sum(axis=0), trace["h.3.resid_post"]) < NOISE
    assert relative_error(components(trace, layer=2).array.sum(axis=0), trace["h.2.resid_pre"]) < NOISE
    head = trace["h.2.attn.z"][:, 1] @ model.parameters.h[2].o[6:12]
    assert relative_error(found.array[labels.index("h.2.attn.head.1")], head) < NOISE
    assert keep(c) == ["embed", "attn.z", "mlp.out", "resid_post"]
    assert relative_error(components(model.trace(IDS, keep=keep(c))).array, found.array) == 0


@pytest.mark.parametrize("site", ["embed", "h.1.attn.out", "h.1.resid_mid", "h.2.resid_post"])
def test_components_of_an_edited_run(model, site):
    run = model.trace(IDS, edits={site: interventions.steer(np.arange(20.0) / 10)})
    found = components(run)
    assert relative_error(found.array.sum(axis=0), run["h.3.resid_post"]) < NOISE
    if site != "embed":  # which is a component itself
        edit = found.array[list(found.labels["component"]).index(f"{site}.edit")]
        assert relative_error(edit, np.tile(np.arange(20.0) / 10, (10, 1))) < NOISE


@pytest.mark.parametrize("pos", [0, 4, -1])
def test_contributions_add_up_to_the_logit(model, trace, pos):
    found = attribution(trace, 5, pos)
    assert relative_error(found.array.sum(), trace["logits"][pos, 5]) < NOISE
    assert "ln_f.bias" not in found.labels["component"]
    pair = attribution(trace, (5, 7), pos)
    assert relative_error(pair.array.sum(), trace["logits"][pos, 5] - trace["logits"][pos, 7]) < NOISE
    final, norm = trace["h.3.resid_post"][pos], model.parameters.ln_f
    direction = norm.weight * model.parameters.table[5] / np.sqrt((final @ final) / 20 + norm.epsilon)
    assert relative_error(found.array[-1], trace["h.3.mlp.out"][pos] @ direction) < NOISE
    assert head_grid(found).array.shape == (4, 4)
    assert relative_error(writers(trace, pos).array[:, 2].sum(), 1.0) < NOISE
    assert relative_error(np.diag(similarity(trace, pos).array), np.ones(21)) < NOISE


def test_what_the_stream_takes_back(trace):
    found = residual_stream.memory(trace)["erasure"]
    parts = components(trace)
    names = list(parts.labels["component"])
    a, b = (parts.array[names.index(name)].ravel() for name in ("embed", "h.3.mlp"))
    expected = max(0.0, -(a @ b) / (a @ a))
    assert relative_error(found.array[0, names.index("h.3.mlp")], expected) < NOISE
    assert residual_stream.magnitude_ratios(trace).array.shape == (9, 20)


# -- the lens --------------------------------------------------------------------------------------


def test_the_lens_reads_out_as_the_model_does(model, trace):
    p = model.parameters
    found = logit_lens(trace, 5)
    points = ["embed", *(f"h.{i}.{at}" for i in range(4) for at in ("resid_mid", "resid_post"))]
    assert found.probability.labels["site"] == points
    for row, point in enumerate(points):
        logits = rms(trace[point], p.ln_f) @ p.table.T
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        assert relative_error(found.probability.array[row], chances[:, 5]) < NOISE
    assert predictions(trace)[-1][1][0][1] == trace["logits"][-1].argmax()


def test_the_lens_of_heads_is_attribution(trace):
    found = attention_lens(trace, k=2)
    for layer, head in ((0, 0), (1, 3), (3, 2)):
        token = int(found.raised_ids.array[layer, head, 0])
        expected = head_grid(attribution(trace, token)).array[layer, head]
        assert relative_error(found.raised.array[layer, head, 0], expected) < NOISE


# -- weights ---------------------------------------------------------------------------------------


def test_a_neuron_reads_and_writes(model):
    block = model.parameters.h[1]
    found = neurons.neuron(model, 1, 5)
    assert relative_error(found.reads, block.ln_2.weight * block.up[:, 5]) < NOISE
    assert relative_error(found.writes, block.down[5]) < NOISE
    assert found.bias == 0
    dots = model.parameters.table @ found.reads
    assert found.excited_by[0].id == dots.argmax()
    assert (
        found.raises[0].id
        == (model.parameters.table @ (found.writes * model.parameters.ln_f.weight)).argmax()
    )


def test_a_neuron_is_what_its_direction_says(model, trace):
    x, found = trace["h.1.resid_mid"], neurons.neuron(model, 1, 5)
    scale = trace["h.1.ln_2.rms"]
    assert relative_error(x @ found.reads / scale, trace["h.1.mlp.pre"][:, 5]) < NOISE


def test_norms_have_a_scale_only(model):
    found = layer_norms.norm_parameters(model)
    assert found.labels["parameter"] == ("scale",)
    assert list(found.labels["norm"]) == [*(f"h.{i}.ln_{n}" for i in range(4) for n in (1, 2)), "ln_f"]
    assert relative_error(found.array[2, 0], model.parameters.h[1].ln_1.weight) == 0
    assert found.title == "scale of each RMSNorm"
    statistic = layer_norms.norm_statistics(model)
    assert relative_error(statistic.array[0, -1, 1], model.parameters.ln_f.weight.std()) < NOISE


def test_the_first_mlp_alone(model):
    p = model.parameters
    expected = p.table + np.maximum(rms(p.table, p.h[0].ln_2) @ p.h[0].up, 0) @ p.h[0].down
    assert relative_error(circuits.effective_embedding(model), expected) < NOISE


@pytest.mark.parametrize(
    "call",
    [
        lambda m: circuits.head_weights(m, 0, 0),
        lambda m: circuits.folded_weights(m, 0, 0),
        circuits.circuit_norms,
        circuits.copying_scores,
        lambda m: circuits.composition_scores(m, "q"),
        lambda m: circuits.token_scores(m, 0, 0, IDS),
        lambda m: circuits.token_effects(m, 0, 0, IDS),
        lambda m: heads.reads_and_writes(m, 0, 0),
    ],
)
def test_circuits_are_refused_by_name(model, call):
    with pytest.raises(InputError, match=r"^made_up has no circuits yet$"):
        call(model)


def test_parameters_are_counted(model):
    found = parameter_counts.parameter_shares(model)
    assert found.array[:, 0].sum() == model.n_parameters
    assert np.nansum(found.array[:, 2]) == pytest.approx(1)


# -- attention and hidden states -------------------------------------------------------------------


def test_heads_are_scored_within_their_windows(model, trace):
    found = heads.head_scores(model, n=8, repeats=2)
    assert (found.array >= 0).all()
    assert (found.array <= 1).all()
    np.testing.assert_array_equal(found.array[1:3, [1, 3]], 0)  # 8 tokens back is outside a window of 5
    assert (found.array[1:3, [0, 2]] > 0).all()
    first = statistics.first_token(trace).array[0]
    pattern = trace.stack("attn.pattern")
    assert relative_error(first, pattern[..., 0].mean(-1)) < NOISE
    assert statistics.distance(trace).array[0, [1, 3]].max() <= 4


def test_the_notebook_names_the_model(trace):
    assert "Model type: made_up" in baseline_notebook.architecture(trace)
    assert "Attention shape: [1, 4, 10, 10]" in baseline_notebook.summary(trace)


def test_values_of_shared_keys(trace):
    found = site_values(trace, "h.1.attn.k", head=1, pos=-1)
    np.testing.assert_array_equal(found.array, trace["h.1.attn.k"][-1, 1])
    assert "kv_head 1" in found.title
    with pytest.raises(InputError, match="kv_head 2 is not one of 0 to 1"):
        site_values(trace, "h.1.attn.k", head=2)
    with pytest.raises(InputError, match=r"h\.1\.ln_1 has no heads"):
        site_values(trace, "h.1.ln_1", head=0)
    assert not has_sign(trace.config.architecture.sites["ln_1.rms"])


# -- patching --------------------------------------------------------------------------------------


def test_sweeps_of_heads_and_of_groups(model):
    clean, corrupt = model.trace(IDS), model.trace(OTHER)
    metric = patching.logit_difference(5, 7)
    found = patching.sweep(clean, corrupt, metric)
    assert found.axes == ("layer", "head")

    def with_patch(name, **where):
        return metric(model(OTHER, last=True, edits={name: interventions.patch(clean, **where)}))

    assert relative_error(found.array[2, 3], with_patch("h.2.attn.z", heads=3)) < NOISE
    keys = patching.sweep(clean, corrupt, metric, over="attn.k")
    assert keys.axes == ("layer", "kv_head")
    assert keys.array.shape == (4, 2)
    edited = clean["h.0.attn.k"].copy()
    edited[:, 0] = corrupt["h.0.attn.k"][:, 0]
    expected = metric(model(OTHER, last=True, edits={"h.0.attn.k": lambda _: edited}))
    assert relative_error(keys.array[0, 1], expected) < NOISE
    by_pos = patching.sweep(clean, corrupt, metric, over="attn.k", by="pos")
    assert relative_error(by_pos.array[0, 2], with_patch("h.0.attn.k", positions=2)) < NOISE
    with pytest.raises(InputError, match="there is no 2"):
        model(OTHER, edits={"h.0.attn.k": interventions.zero(heads=2)})


def test_direct_and_path_sweeps(model):
    clean, corrupt = model.trace(IDS), model.trace(OTHER)
    metric, p = patching.logit_difference(5, 7), model.parameters
    for site, writes in (("attn.z", lambda i: p.h[i].o), ("mlp.post", lambda i: p.h[i].down)):
        found = patching.sweep(clean, corrupt, metric, over=site, by="pos", direct=True)
        for layer in (0, 3):
            name = f"h.{layer}.{site}"
            change = (clean[name][-1] - corrupt[name][-1]).ravel() @ writes(layer)
            logits = rms(corrupt["h.3.resid_post"][-1] + change, p.ln_f) @ p.table.T
            assert relative_error(found.array[layer, -1], metric(logits)) < NOISE
    found = patching.path_sweep(clean, corrupt, metric, "h.2.attn.k", receiver_heads=[1])
    assert found.array.shape == (2, 4)
    assert np.isfinite(found.array).all()


def test_a_norm_with_its_scale_frozen(model, trace):
    found = model.trace(OTHER, edits={"h.1.ln_2": interventions.freeze(trace)})
    scale = trace["h.1.ln_2.rms"][:, None]
    expected = found["h.1.resid_mid"] / scale * model.parameters.h[1].ln_2.weight
    assert relative_error(found["h.1.ln_2"], expected) < NOISE


# -- the command line ------------------------------------------------------------------------------

TOKENS = ("--tokens", ",".join(map(str, IDS)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("heads", *TOKENS), "h.0.mlp"),
        (("lens", *TOKENS), "h.3.resid_post"),
        (("lens", *TOKENS, "--heads"), "h.3.attn.head.3"),
        (("circuits", "--parameters"), "token embedding"),
        (("circuits", "--norms"), "scale of each RMSNorm"),
        (("circuits", "--norms", "h.1.ln_2"), "scale of h.1.ln_2"),
        (("circuits", "--neuron", "1.5"), "neuron 1.5"),
        (("circuits", *TOKENS), "which component erases what"),
        (("stats", *TOKENS), "Model type: made_up"),
        (("trace", *TOKENS), "pos kv_head d_head"),
        (("trace", *TOKENS, "--show", "h.1.attn.k"), "kv_head 0"),
        (("info",), "made_up"),
    ],
)
def test_verbs(folder, capsys, words, says):
    code, out, _ = command_line.run(capsys, *words, "--model", folder)
    assert code == 0
    assert says in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("circuits",), "made_up has no circuits yet"),
        (("circuits", "--head", "0.1"), "made_up has no circuits yet"),
        (("circuits", "--head", "0.1", "--weights"), "made_up has no circuits yet"),
        (("circuits", "--composition", "k"), "made_up has no circuits yet"),
        (("circuits", "--norms", "ln_9"), "no RMSNorm is called 'ln_9'"),
        (("trace", *TOKENS, "--show", "wpe"), "no site is called 'wpe'"),
    ],
)
def test_verbs_that_refuse(folder, capsys, words, says):
    code, _, err = command_line.run(capsys, *words, "--model", folder)
    assert code != 0
    assert says in err.splitlines()[-1]


def test_an_edited_end_is_refused(model):
    run = model.trace(IDS, edits={"ln_f": interventions.scale(2.0)})
    with pytest.raises(TraceError, match="ln_f was edited"):
        attribution(run, 5)
