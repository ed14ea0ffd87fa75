"""Parameters by component, neurons in words, and what becomes of what was written."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.random_model import random_model

import gpt2np
from gpt2np.analysis import neurons, parameter_counts, residual_stream
from gpt2np.analysis.attribution import attribution, components, frozen_ln_f, logit_direction
from gpt2np.analysis.matrices import matrix
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.errors import InputError, TraceError

EXACT = 1e-10
TEXT = "Elizabeth was not in the room, and Mr. Darcy was silent."


@pytest.fixture(scope="module")
def model():
    return random_model(5, n_layer=3)


@pytest.fixture(scope="module")
def trace(model):
    return model.trace([5, 9, 2, 5, 30])


# the total as llm.c's README and the paper's checkpoints have it; the embedding's share falls with size
@pytest.mark.parametrize(
    ("name", "total", "embedding"),
    [
        ("gpt2", 124_439_808, 0.310),
        ("gpt2-medium", 354_823_168, 0.145),
        ("gpt2-large", 774_030_080, 0.083),
        ("gpt2-xl", 1_557_611_200, 0.052),
    ],
)
def test_parameters_of_the_released_sizes(name, total, embedding):
    found = parameter_counts.parameter_shares(RELEASED[name])
    rows = dict(zip(found.labels["component"], found.array, strict=True))
    assert found.array[:, 0].sum() == total
    assert found.array[:, 1].sum() == pytest.approx(1)
    assert rows["token embedding"][1] == pytest.approx(embedding, abs=5e-4)
    assert rows["mlp"][2] == pytest.approx(2 / 3, abs=2e-3)  # document 002: two thirds of the rest
    assert np.nansum(found.array[:, 2]) == pytest.approx(1)


def test_parameters_of_a_model_are_the_sizes_of_its_arrays(tiny, model):
    for each in (tiny, model):
        found = parameter_counts.parameter_shares(each)
        assert found.array[:, 0].sum() == each.n_parameters
    rows = dict(zip(found.labels["component"], found.array[:, 0], strict=True))
    assert rows["unembedding"] == rows["token embedding"] == 60 * 16
    assert rows["mlp"] == sum(w.size for name, w in model.weights.items() if ".mlp." in name)
    assert rows["attention"] == sum(w.size for name, w in model.weights.items() if ".attn." in name)


def test_a_neuron_reads_what_the_run_reads(model, trace):
    x = trace["h.1.ln_2.rstd"][:, None] * trace["h.1.resid_mid"]
    for i in (0, 17, 63):
        found = neurons.neuron(model, 1, i)
        assert np.abs(x @ found.reads + found.bias - trace["h.1.mlp.pre"][:, i]).max() < EXACT


def test_neurons_write_what_the_run_writes(model, trace):
    written = sum(
        np.outer(neurons.neuron_activations(trace, 2, i).array, neurons.neuron(model, 2, i).writes)
        for i in range(model.config.d_mlp)
    )
    bias = model.parameters.h[2].mlp.c_proj.bias
    assert np.abs(written + bias - trace["h.2.mlp.out"]).max() < EXACT


def test_a_neuron_in_tokens(model):
    found, p = neurons.neuron(model, 0, 3, k=4), model.parameters
    read = np.argsort(p.wte @ found.reads)
    centred = found.writes - found.writes.mean()
    written = np.argsort(p.lm_head @ (centred * p.ln_f.weight))
    assert [t.id for t in found.excited_by] == read[::-1][:4].tolist()
    assert [t.id for t in found.inhibited_by] == read[:4].tolist()
    assert [t.id for t in found.raises] == written[::-1][:4].tolist()
    assert [t.id for t in found.lowers] == written[:4].tolist()


def test_neurons_add_up_to_what_attribution_says_of_their_mlp(model, trace):
    for layer, token, pos in ((0, 7, -1), (2, (3, 9), 1)):
        found = neurons.neuron_attribution(trace, token, layer, pos)
        assert found.axes == ("neuron",)
        whole = attribution(trace, token, pos)
        of_mlp = whole.array[list(whole.labels["component"]).index(f"h.{layer}.mlp")]
        direction, _ = logit_direction(trace, token)
        bias = model.weights[f"h.{layer}.mlp.c_proj.bias"]
        of_bias = frozen_ln_f(trace, bias, range(5)[pos]) @ direction
        assert found.array.sum() + of_bias == pytest.approx(of_mlp, rel=1e-9)


@pytest.mark.parametrize(
    "write", [gemma2_checkpoint.write, gpt_neo_checkpoint.write], ids=["gemma2", "gpt_neo"]
)
def test_neurons_of_other_architectures_add_up_too(write, tmp_path):
    model = gpt2np.load(
        write(tmp_path / "m", "SF" if write is gemma2_checkpoint.write else "GL"), dtype="float64"
    )
    trace = model.trace([3, 17, 5, 8])
    for layer in (0, 1):
        found = neurons.neuron_attribution(trace, 6, layer).array.sum()
        bias = matrix(model, "W_out", layer).bias
        if bias is not None:
            found += frozen_ln_f(trace, bias, 3) @ logit_direction(trace, 6)[0]
        whole = attribution(trace, 6)
        assert found == pytest.approx(whole.array[list(whole.labels["component"]).index(f"h.{layer}.mlp")])


def test_neurons_of_an_edited_mlp_wrote_something_else(model):
    edited = model.trace([5, 9, 2], edits={"h.1.mlp.out": lambda x: x * 2})
    with pytest.raises(TraceError, match=r"h\.1\.mlp\.out was edited"):
        neurons.neuron_attribution(edited, 3, 1)
    assert neurons.neuron_attribution(edited, 3, 0).array.shape == (model.config.d_mlp,)
    with pytest.raises(InputError, match="layer 9 is not one of"):
        neurons.neuron_attribution(edited, 3, 9)


def test_activations_and_the_most_active(tiny):
    trace = tiny.trace(TEXT)
    post = trace.stack("mlp.post")
    found = neurons.most_active(trace, k=7, pos=3)
    assert found.array.tolist() == sorted(post[:, 3].ravel().tolist(), reverse=True)[:7]
    for name, value in zip(found.labels["neuron"], found.array, strict=True):
        layer, i = map(int, name.split("."))
        along = neurons.neuron_activations(trace, layer, i)
        assert along.array[3] == value
        assert along.labels["pos"][1] == "1 |lizabeth|"


def test_activations_of_the_positions_that_were_kept(tiny):
    last = tiny.trace(TEXT, keep={"patterns": "mlp.post", "positions": slice(-2, None), "dtype": "float16"})
    whole = neurons.neuron_activations(tiny.trace(TEXT), 1, 2)
    found = neurons.neuron_activations(last, 1, 2)
    assert found.labels["pos"] == whole.labels["pos"][-2:]
    assert found.array == pytest.approx(whole.array[-2:], abs=1e-3)


def test_sparsity(trace):
    found = neurons.sparsity(trace, threshold=0.05)
    for layer in range(3):
        post = trace[f"h.{layer}.mlp.post"]
        assert found.array[layer].tolist() == [(np.abs(post) <= 0.05).mean(), (post > 0.05).mean()]
    assert "0.05" in found.title
    assert neurons.sparsity(trace, threshold=0).array[:, 1].tolist() == [
        (trace[f"h.{i}.mlp.post"] > 0).mean() for i in range(3)
    ]


def test_kurtosis(trace):
    found = residual_stream.kurtosis(trace)
    for layer, sites in enumerate(found.array):
        for site, value in zip(found.labels["site"], sites, strict=True):
            vectors = trace[f"h.{layer}.{site}"].astype(float)
            moments = [((v - v.mean()) ** 4).mean() / v.var() ** 2 for v in vectors]
            assert value == pytest.approx(np.mean(moments))


def test_neurons_are_privileged_and_a_turned_basis_is_not(tiny):
    """A random rotation takes the kurtosis of neurons away: their basis was special."""
    trace = tiny.trace("Elizabeth was not sorry that Mr. Darcy was")
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(768, 768)))
    post = trace["h.1.mlp.post"].astype(float)
    turned = [((v - v.mean()) ** 4).mean() / v.var() ** 2 for v in post @ turn]
    assert np.mean(turned) == pytest.approx(3, abs=0.5)
    assert residual_stream.kurtosis(trace).array[1, 2] > 10


def test_basis_alignment(trace):
    found = residual_stream.basis_alignment(trace)
    ratios = residual_stream.magnitude_ratios(trace)
    assert found.labels["residual"][:3] == ["embed", "h.0.resid_mid", "h.0.resid_post"]
    for i, name in enumerate(found.labels["residual"]):
        x = trace[name]
        z = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        assert found.array[i, 0] == pytest.approx((z**4).mean())
        size = np.abs(x).mean(0)
        assert ratios.array[i] == pytest.approx(size / np.median(size))
        assert found.array[i, 1] == size.argmax()
        assert found.array[i, 2] == pytest.approx(size.max() / np.median(size))


def test_a_rotated_stream_is_not_aligned_and_an_outlier_is():
    wide = random_model(1, n_layer=1, n_embd=512, n_head=2)
    loud = np.where(np.arange(512) == 77, 40, 1)  # one dimension is
    wide = wide.with_weights({"wte.weight": wide.weights["wte.weight"] * loud})
    trace = wide.trace([1, 2, 3])
    embed = residual_stream.basis_alignment(trace).array[0]
    assert embed[0] > 100
    assert embed[1] == 77
    assert embed[2] > 10
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))
    turned = {f"{name}.weight": wide.weights[f"{name}.weight"] @ rotation for name in ("wte", "wpe")}
    wide = wide.with_weights(turned)
    assert residual_stream.basis_alignment(wide.trace([1, 2, 3])).array[0, 0] == pytest.approx(3, abs=0.5)


def test_erasure_by_the_definition(trace):
    parts = components(trace)
    names = parts.labels["component"]
    share, opposite = residual_stream.erasure(trace), residual_stream.opposition(trace)
    at = {name: i for i, name in enumerate(names)}
    w, e = parts.array[at["h.0.attn.head.1"]], parts.array[at["h.2.mlp"]]
    index = at["h.0.attn.head.1"], at["h.2.mlp"]
    assert share.array[index] == pytest.approx(max(0, -(w * e).sum() / (w * w).sum()))
    cosine = (w * e).sum() / np.linalg.norm(w) / np.linalg.norm(e)
    assert opposite.array[index] == pytest.approx(max(0, -cosine))
    for writer, eraser in (
        ("wpe", "wte"),
        ("h.1.mlp", "h.1.mlp"),
        ("h.0.attn.head.0", "h.0.attn.head.1"),
        ("h.1.mlp", "h.1.attn.bias"),
    ):
        assert np.isnan(share.array[at[writer], at[eraser]])
    for writer, eraser in (
        ("wte", "h.0.attn.head.0"),
        ("h.0.attn.bias", "h.0.mlp"),
        ("h.0.mlp", "h.1.attn.bias"),
    ):
        assert share.array[at[writer], at[eraser]] >= 0


def test_a_head_that_takes_back_all_that_another_wrote():
    """Block 1 is block 0 with the sign of its output turned, and attends alike: it erases exactly."""
    model = random_model(0, n_layer=2)
    trace = model.trace([5, 9, 2, 5, 30])
    z = {f"h.{i}.attn.z": trace["h.0.attn.z"] for i in range(2)}
    model = model.with_weights({"h.1.attn.c_proj.weight": -model.weights["h.0.attn.c_proj.weight"]})
    arrays = {**{name: trace[name] for name in trace.names()}, **z}
    same = type(trace)(trace.plan, arrays, trace.token_ids, trace.metadata, model)
    found = residual_stream.erasure(same)
    at = {name: i for i, name in enumerate(found.labels["writer"])}
    for head in range(2):
        index = at[f"h.0.attn.head.{head}"], at[f"h.1.attn.head.{head}"]
        assert found.array[index] == pytest.approx(1, abs=EXACT)
        assert residual_stream.opposition(same).array[index] == pytest.approx(1, abs=EXACT)


def test_amplification_is_the_other_sign_of_erasure(trace):
    parts = components(trace)
    names = parts.labels["component"]
    x = parts.array.reshape(len(names), -1)
    shares = (x @ x.T) / (x * x).sum(1)[:, None]
    cosines = (x @ x.T) / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
    for taken, added, signed in (
        (residual_stream.erasure(trace), residual_stream.amplification(trace), shares),
        (residual_stream.opposition(trace), residual_stream.agreement(trace), cosines),
    ):
        later = ~np.isnan(taken.array)
        np.testing.assert_array_equal(~np.isnan(added.array), later)
        np.testing.assert_allclose((added.array - taken.array)[later], signed[later], atol=EXACT)
        assert (added.array[later] * taken.array[later] == 0).all()
        assert added.axes == ("writer", "amplifier")
    again = residual_stream.amplification(trace).array[names.index("wte"), names.index("h.0.mlp")]
    w, a = trace["wte"], trace["h.0.mlp.out"]
    assert again == pytest.approx(max(0, (w * a).sum() / (w * w).sum()))


def test_components_that_write_nothing_are_neither_erased_nor_amplified():
    silent = random_model(4).with_weights({f"h.{i}.attn.c_proj.bias": np.zeros(16) for i in range(2)})
    found = residual_stream.memory(silent.trace([5, 9, 2]))
    names = found["erasure"].labels["writer"]
    later = names.index("h.0.attn.bias"), names.index("h.1.attn.bias")
    assert {name: float(part.array[later]) for name, part in found.items()} == dict.fromkeys(found, 0.0)


def test_an_edit_erases_what_was_written_before_it(model):
    edits = {"embed": lambda x: x * 0, "h.0.attn.out": lambda x: x * 0, "h.1.resid_post": lambda x: x * 0}
    edited = model.trace([5, 9, 2, 5, 30], edits=edits | {"h.2.resid_mid": lambda x: x - 1})
    found = residual_stream.erasure(edited)
    at = {name: i for i, name in enumerate(found.labels["writer"])}

    def share(writer, eraser):
        return found.array[at[writer], at[eraser]]

    together = [share(name, "embed.edit") for name in ("wte", "wpe")]
    assert all(x > 0 for x in together)
    assert share("h.1.mlp", "h.1.resid_post.edit") > 0
    order = [
        "wte",
        "embed.edit",
        "h.0.attn.head.1",
        "h.0.attn.out.edit",
        "h.0.mlp",
        "h.1.attn.bias",
        "h.1.mlp",
    ]
    order += ["h.1.resid_post.edit", "h.2.attn.head.0", "h.2.resid_mid.edit", "h.2.mlp"]
    for i, first in enumerate(order):
        for j, second in enumerate(order):
            assert np.isnan(share(first, second)) == (i >= j), (first, second)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, t: neurons.neuron(m, 3, 0), "layer 3 is not one of 0 to 2"),
        (lambda m, t: neurons.neuron(m, 0, 64), "neuron 64 is not one of 0 to 63"),
        (lambda m, t: neurons.neuron(m, 0, 1.5), "neuron must be a whole number"),
        (lambda m, t: neurons.neuron(m, 0, 1, k=0), "k=0: must be"),
        (lambda m, t: neurons.neuron_activations(t, 0, -1), "neuron -1"),
        (lambda m, t: neurons.most_active(t, k=0), "k=0: must be"),
        (lambda m, t: neurons.most_active(t, pos=5), "position 5"),
        (lambda m, t: neurons.sparsity(t, threshold=-1), "threshold must be"),
        (lambda m, t: neurons.sparsity(t, threshold=float("nan")), "threshold must be"),
    ],
)
def test_wrong_calls(model, trace, call, says):
    with pytest.raises(InputError, match=says):
        call(model, trace)


def test_what_was_not_kept_is_named(model):
    part = model.trace([1, 2], keep="attn.*")
    for function in (
        neurons.sparsity,
        neurons.most_active,
        residual_stream.basis_alignment,
        residual_stream.erasure,
    ):
        with pytest.raises(TraceError, match=r"not kept|not in this trace"):
            function(part)
