"""The residual stream as a sum: identities in float64, and the same by hooks in torch."""

import dataclasses

import numpy as np
import pytest
from support.differences import relative_error
from support.random_model import random_model, random_model_with_text

import gpt2np
from gpt2np.analysis.attribution import attribution, components, head_grid, keep, similarity, writers
from gpt2np.errors import InputError, TraceError

IDS = [3, 17, 17, 30, 0, 8, 3]
EXACT = 1e-10

SHAPES = {
    "untied": {},
    "inverse layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "unscaled, relu, narrow MLP": {"scale_attn_weights": False, "activation_function": "relu", "n_inner": 5},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "many heads": {"n_head": 8, "layer_norm_epsilon": 0.1},
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request):
    return random_model(4, **SHAPES[request.param])


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


# -- identities ---------------------------------------------------------------------------------------


def test_components_add_up_to_the_final_residual(trace):
    parts, cfg = components(trace), trace.config
    assert parts.axes == ("component", "pos", "n_embd")
    assert parts.array.shape == (2 + cfg.n_layer * (cfg.n_head + 2), len(IDS), cfg.n_embd)
    final = trace[f"h.{cfg.n_layer - 1}.resid_post"]
    assert relative_error(parts.array.sum(0), final) < EXACT


def test_components_before_a_layer_add_up_to_what_it_reads(trace):
    for layer in range(trace.config.n_layer):
        parts = components(trace, layer=layer)
        assert relative_error(parts.array.sum(0), trace[f"h.{layer}.resid_pre"]) < EXACT
    assert components(trace, layer=0).labels["component"] == ["wte", "wpe"]


def test_each_component_is_what_its_label_says(trace, model):
    parts = components(trace)
    by_label = dict(zip(parts.labels["component"], parts.array, strict=True))
    assert len(by_label) == len(parts.array)
    np.testing.assert_array_equal(by_label["wte"], trace["wte"])
    np.testing.assert_array_equal(by_label["wpe"], trace["wpe"])
    for i in range(trace.config.n_layer):
        np.testing.assert_array_equal(by_label[f"h.{i}.mlp"], trace[f"h.{i}.mlp.out"])
        bias = model.weights[f"h.{i}.attn.c_proj.bias"]
        np.testing.assert_array_equal(by_label[f"h.{i}.attn.bias"], np.tile(bias, (len(IDS), 1)))
        for head in range(trace.config.n_head):
            expected = trace[f"h.{i}.attn.heads"][:, head]
            assert relative_error(by_label[f"h.{i}.attn.head.{head}"], expected) < EXACT


@pytest.mark.parametrize("pos", [0, 3, -1])
@pytest.mark.parametrize("token", [0, 8, 59])
def test_attribution_adds_up_to_the_logit(trace, pos, token):
    found = attribution(trace, token, pos)
    assert found.axes == ("component",)
    assert found.labels["component"][-1] == "ln_f.bias"
    assert found.array.sum() == pytest.approx(trace["logits"][pos, token], abs=EXACT)


@pytest.mark.parametrize("pos", [0, 3, -1])
def test_attribution_to_a_pair_adds_up_to_the_difference(trace, pos):
    found = attribution(trace, (5, 9), pos)
    assert found.array.sum() == pytest.approx(trace["logits"][pos, 5] - trace["logits"][pos, 9], abs=EXACT)
    apart = attribution(trace, 5, pos).array - attribution(trace, 9, pos).array
    np.testing.assert_allclose(found.array, apart, atol=EXACT)


def test_a_constant_written_by_a_component_counts_for_nothing(model):
    """ln_f subtracts the mean, so that adding 1 everywhere cannot be seen in any logit."""
    changed = random_model(4, **dataclasses.asdict(model.config))
    last = f"h.{model.config.n_layer - 1}.mlp.c_proj.bias"
    before = attribution(changed.trace(IDS), 7).array
    changed = changed.with_weights({last: changed.weights[last] + 1.0})
    after = attribution(changed.trace(IDS), 7).array
    np.testing.assert_allclose(after, before, atol=EXACT)


def test_head_grid(trace):
    found = attribution(trace, 7)
    grid = head_grid(found)
    assert grid.axes == ("layer", "head")
    assert grid.array.shape == (trace.config.n_layer, trace.config.n_head)
    for (layer, head), value in np.ndenumerate(grid.array):
        at = found.labels["component"].index(f"h.{layer}.attn.head.{head}")
        assert value == found.array[at]


def test_writers(trace):
    found, parts = writers(trace, 2), components(trace, pos=2).array[:, 0]
    norm, cosine, share = found.array.T
    assert found.labels["measure"] == ["norm", "cosine", "share"]
    np.testing.assert_allclose(norm, np.sqrt((parts**2).sum(1)), rtol=EXACT)
    assert share.sum() == pytest.approx(1, abs=EXACT)
    np.testing.assert_allclose(share, norm * cosine / np.linalg.norm(parts.sum(0)), atol=EXACT)


def test_similarity(trace):
    found = similarity(trace, 2).array
    np.testing.assert_allclose(found, found.T, atol=EXACT)
    np.testing.assert_allclose(np.diag(found), 1, atol=EXACT)
    a, b = components(trace, pos=2).array[[0, 3], 0]
    assert found[0, 3] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=EXACT)


def test_a_component_that_writes_nothing_has_no_direction():
    silent = random_model(4).with_weights({"h.1.attn.c_proj.bias": np.zeros(16)})
    trace = silent.trace(IDS)
    found = writers(trace)
    row = found.array[found.labels["component"].index("h.1.attn.bias")]
    np.testing.assert_array_equal(row, 0)
    assert np.isfinite(similarity(trace).array).all()
    assert "nan" not in str(found)


# -- against torch ------------------------------------------------------------------------------------


@pytest.mark.needs("torch", "transformers")
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tie_word_embeddings": False},
        {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 0.01},
    ],
    ids=["tied", "untied", "inverse layer"],
)
def test_against_hooks_in_torch(tmp_path, config):
    import torch
    from support import hf

    shape = {"n_layer": 3, "n_head": 4, "n_embd": 24, "n_positions": 16, "vocab_size": 50}
    theirs = hf.random_model(7, **shape, **config)
    ours = gpt2np.load(hf.save(theirs, tmp_path), dtype="float64").trace(IDS)
    theirs, seen = theirs.double(), {}
    for i, block in enumerate(theirs.transformer.h):
        block.attn.c_proj.register_forward_pre_hook(lambda _, x, i=i: seen.update({("z", i): x[0][0]}))
        block.mlp.register_forward_hook(lambda _, x, y, i=i: seen.update({("mlp", i): y[0]}))
    theirs.transformer.ln_f.register_forward_pre_hook(lambda _, x: seen.update(final=x[0][0]))
    with torch.no_grad():
        logits = theirs(torch.tensor([IDS])).logits[0]
        t = theirs.transformer
        parts = [t.wte.weight[IDS], t.wpe.weight[: len(IDS)]]
        for i, block in enumerate(t.h):
            z, weight = seen["z", i], block.attn.c_proj.weight
            for head in range(4):
                columns = slice(6 * head, 6 * head + 6)
                parts.append(z[:, columns] @ weight[columns])
            parts += [block.attn.c_proj.bias.expand(len(IDS), -1), seen["mlp", i]]
        parts = torch.stack(parts)
        assert relative_error(components(ours).array, parts.numpy()) < EXACT
        # the scale held fixed: the standard deviation of the final residual, not of the part
        scale = (seen["final"].var(-1, correction=0, keepdim=True) + t.ln_f.eps).sqrt()
        direct = (parts - parts.mean(-1, keepdim=True)) / scale * t.ln_f.weight
        u = theirs.lm_head.weight
        for pos in (0, 4, -1):
            of_token = torch.cat([direct[:, pos] @ u[11], (t.ln_f.bias @ u[11])[None]])
            assert relative_error(attribution(ours, 11, pos).array, of_token.numpy()) < EXACT
            assert of_token.sum().item() == pytest.approx(logits[pos, 11].item(), abs=EXACT)
            pair = torch.cat([direct[:, pos] @ (u[11] - u[2]), (t.ln_f.bias @ (u[11] - u[2]))[None]])
            assert relative_error(attribution(ours, (11, 2), pos).array, pair.numpy()) < EXACT


# -- the shipped model --------------------------------------------------------------------------------


def test_tiny_in_both_precisions(tiny, tiny64):
    text = "Elizabeth was not"
    for model, tolerance in ((tiny, 1e-4), (tiny64, EXACT)):
        trace = model.trace(text)
        parts = components(trace).array
        assert relative_error(parts.sum(0), trace["h.3.resid_post"]) < tolerance
        for pos in range(len(trace.token_ids)):
            assert attribution(trace, " a", pos).array.sum() == pytest.approx(
                trace["logits"][pos, tiny.tokenizer.find_id(" a")], abs=tolerance
            )
    assert components(tiny.trace(text)).array.dtype == np.float32
    a, b = (attribution(model.trace(text), (" a", " the")).array for model in (tiny, tiny64))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_tokens_as_text_and_as_id_are_the_same(tiny):
    trace = tiny.trace("Elizabeth was")
    by_text, by_id = attribution(trace, (" not", " a")), attribution(trace, (315, np.int64(258)))
    np.testing.assert_array_equal(by_text.array, by_id.array)
    assert by_text.title == by_id.title
    assert by_id.title == "logit difference | not| (315) - | a| (258), by component"
    assert components(trace).labels["pos"] == ["0 |E|", "1 |lizabeth|", "2 | was|"]


def test_a_saved_trace_needs_its_model(tiny, tmp_path):
    trace = tiny.trace("Elizabeth was", out=tmp_path / "t.safetensors")
    expected = attribution(trace, " not")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", tiny)
    np.testing.assert_array_equal(attribution(opened, " not").array, expected.array)
    alone = gpt2np.Trace.open(tmp_path / "t.safetensors")
    for call in (components, writers, lambda trace: attribution(trace, " not")):
        with pytest.raises(TraceError, match="needs the model's weights"):
            call(alone)


def test_what_must_have_been_kept(tiny):
    whole, sites = attribution(tiny.trace("Elizabeth was"), " not").array, keep(tiny.config)
    assert sites == ["wte", "wpe", "attn.z", "mlp.out", "resid_post"]
    np.testing.assert_array_equal(attribution(tiny.trace("Elizabeth was", keep=sites), " not").array, whole)
    for site in sites:
        trace = tiny.trace("Elizabeth was", keep=[other for other in sites if other != site])
        with pytest.raises(TraceError, match=rf"{site.replace('.', '[.]')} is not in this trace"):
            attribution(trace, " not")


def test_some_positions_and_half_precision(tiny):
    whole = attribution(tiny.trace("Elizabeth was not at all"), " a", 3).array
    kept = {"patterns": keep(tiny.config), "positions": slice(2, 4)}
    part = tiny.trace("Elizabeth was not at all", keep=kept)
    np.testing.assert_allclose(attribution(part, " a", 3).array, whole, atol=1e-5)
    assert components(part).labels["pos"] == ["2 | was|", "3 | not|"]
    with pytest.raises(TraceError, match="position 1 was not kept"):
        attribution(part, " a", 1)
    half = tiny.trace("Elizabeth was not at all", keep={"dtype": "float16"})
    assert components(half).array.dtype == np.float32
    np.testing.assert_allclose(attribution(half, " a", 3).array, whole, atol=0.02)
    none = tiny.trace("Elizabeth was", keep={"positions": slice(0, 0)})
    with pytest.raises(TraceError, match="kept no position"):
        components(none)


def test_a_run_that_stopped_early(tiny):
    trace = tiny.trace("Elizabeth was", stop_at_layer=2)
    assert relative_error(components(trace).array.sum(0), trace["h.1.resid_post"]) < 1e-5
    with pytest.raises(TraceError, match=r"h\.3\.resid_post is not in this trace.*the run stopped before"):
        attribution(trace, " not")
    with pytest.raises(InputError, match="layer=3: must be a whole number from 0 to 2"):
        components(trace, layer=3)


EDITS = {
    "a sum": {"h.0.resid_post": lambda x: x + 1.5 * np.arange(x.shape[1])},
    "every sum": dict.fromkeys(["embed", "attn.out", "resid_mid", "resid_post"], lambda x: x * 0.5 - 1),
    "parts": dict.fromkeys(["wte", "attn.pattern", "attn.z", "mlp.out", "ln_1", "ln_2"], lambda x: x * 0.5),
}


@pytest.mark.parametrize("edits", EDITS)
def test_edited_runs(model, edits):
    trace = model.trace(IDS, edits=EDITS[edits])
    parts, cfg = components(trace), trace.config
    assert relative_error(parts.array.sum(0), trace[f"h.{cfg.n_layer - 1}.resid_post"]) < EXACT
    for layer in range(cfg.n_layer):
        assert relative_error(components(trace, layer).array.sum(0), trace[f"h.{layer}.resid_pre"]) < EXACT
    assert attribution(trace, 7).array.sum() == pytest.approx(trace["logits"][-1, 7], abs=EXACT)
    assert head_grid(attribution(trace, 7)).array.shape == (cfg.n_layer, cfg.n_head)
    extra = [label for label in parts.labels["component"] if label.endswith(".edit")]
    assert len(extra) == {"a sum": 1, "every sum": 1 + 3 * cfg.n_layer, "parts": 0}[edits]
    if edits == "a sum":
        added = parts.array[parts.labels["component"].index("h.0.resid_post.edit")]
        assert relative_error(added, np.tile(1.5 * np.arange(cfg.n_embd), (len(IDS), 1))) < EXACT


@pytest.mark.parametrize("site", ["ln_f", "logits"])
def test_edited_logits_are_no_sum(model, site):
    trace = model.trace(IDS, edits={site: lambda x: x * 2})
    with pytest.raises(TraceError, match=f"{site} was edited"):
        attribution(trace, 7)


def test_the_trace_of_a_generation(tiny):
    done = tiny.generate("Elizabeth was", max_new_tokens=4, keep="*").finish()
    for pos, token in enumerate(done.response.token_ids[:3], start=2):
        logit = done.trace["logits"][pos, token]
        assert attribution(done.trace, token, pos).array.sum() == pytest.approx(logit, abs=1e-4)


WRONG = [
    (("not sure",), "is not one token, it is several: |not| sure|"),
    (("Darcy",), "with a space before it, ' Darcy', it is one"),
    (("",), "is empty"),
    ((2048,), "token id 2048 is not one of 0 to 2047"),
    ((-1,), "token id -1 is not one of"),
    ((1.5,), "whole numbers, not 1.5"),
    ((None,), "whole numbers, not None"),
    ((True,), "whole numbers, not True"),
    (((),), "one token or to a pair, not to 0"),
    (((1, 2, 3),), "one token or to a pair, not to 3"),
    ((5, 3), "position 3 is not one of the 3 positions"),
    ((5, -4), "position -4 is not one of"),
    ((5, 1.0), "position 1.0 is not one of"),
    ((5, True), "position True is not one of"),
]


@pytest.mark.parametrize(("given", "says"), WRONG, ids=str)
def test_wrong_calls(tiny, given, says):
    with pytest.raises(InputError) as error:
        attribution(tiny.trace("Elizabeth was"), *given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", [-1, 5, 1.0, True, "1"])
def test_wrong_layers(tiny, layer):
    with pytest.raises(InputError, match=r"layer=.*: must be a whole number from 0 to 4"):
        components(tiny.trace("Elizabeth was"), layer=layer)


def test_a_model_without_a_vocabulary_takes_ids(trace):
    with pytest.raises(InputError, match="no vocabulary, give the token's id"):
        attribution(trace, " a")


def test_a_vocabulary_larger_than_the_model_has_rows():
    small = random_model_with_text(vocab_size=300, eos_token_id=None)
    trace = small.trace([1, 2])
    with pytest.raises(InputError, match="' not' is not one token"):
        attribution(trace, " not")  # id 315
