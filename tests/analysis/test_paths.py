"""Paths through heads: they add up to what attribution says of each head."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.random_model import random_model

import gpt2np
from gpt2np.analysis.attribution import attribution, components, frozen_ln_f, logit_direction
from gpt2np.analysis.circuits import head_weights
from gpt2np.analysis.paths import paths_through_heads
from gpt2np.errors import InputError, TraceError
from gpt2np.ops.norms import shift
from gpt2np.tracing.lines import norms

IDS = [5, 9, 2, 5, 30]


@pytest.fixture(
    scope="module",
    params=["gpt2", "gpt_neo"],
)
def model(request, tmp_path_factory):
    if request.param == "gpt2":
        return random_model(5, n_layer=3)
    return gpt2np.load(
        gpt_neo_checkpoint.write(tmp_path_factory.mktemp("m") / "m", "GLG", window_size=3), dtype="float64"
    )


@pytest.mark.parametrize(("token", "pos"), [(7, -1), ((3, 9), 2), (11, 0)])
def test_they_add_up_to_the_heads(model, token, pos):
    trace, c = model.trace(IDS), model.config
    found = paths_through_heads(trace, token, pos)
    assert found.axes == ("writer", "pos", "head")
    assert found.array.shape == (len(components(trace).labels["component"]), 5, c.n_layer * c.n_head)
    whole, row = attribution(trace, token, pos), range(5)[pos]
    direction, _ = logit_direction(trace, token)
    for layer in range(c.n_layer):
        offset = shift(norms(c, model.parameters)[f"h.{layer}.ln_1"])
        for head in range(c.n_head):
            w = head_weights(model, layer, head)
            bias = frozen_ln_f(trace, (offset @ w.W_V + w.b_V) @ w.W_O, row) @ direction
            of_head = whole.array[list(whole.labels["component"]).index(f"h.{layer}.attn.head.{head}")]
            carried = np.nansum(found.array[:, :, layer * c.n_head + head])
            assert carried + bias == pytest.approx(of_head, rel=1e-8, abs=1e-10)


def test_only_what_came_before_is_carried(model):
    found = paths_through_heads(model.trace(IDS), 7, 2)
    writers, heads = found.labels["writer"], found.labels["head"]
    for i, writer in enumerate(writers):
        layer = int(writer.split(".")[1]) if writer.startswith("h.") else -1
        for j, head in enumerate(heads):
            earlier = layer < int(head.split(".")[0])
            assert np.isnan(found.array[i, :, j]).all() != earlier
            assert not earlier or (found.array[i, 3:, j] == 0).all()


def test_one_path_by_hand():
    model = random_model(5, n_layer=3)
    trace = model.trace(IDS)
    wrote = components(trace).array[list(components(trace).labels["component"]).index("h.0.mlp")]
    scale, gamma = np.ravel(trace["h.2.ln_1.rstd"])[1], model.weights["h.2.ln_1.weight"]
    w = head_weights(model, 2, 1)
    read = (wrote[1] - wrote[1].mean()) * scale * gamma
    out = trace["h.2.attn.pattern"][1, 4, 1] * (read @ w.W_V @ w.W_O)
    expected = frozen_ln_f(trace, out, 4) @ logit_direction(trace, 7)[0]
    found = paths_through_heads(trace, 7)
    at = found.labels["writer"].index("h.0.mlp"), 1, found.labels["head"].index("2.1")
    assert found.array[at] == pytest.approx(expected, rel=1e-9)


def test_what_has_no_such_paths_is_refused(tmp_path):
    model = random_model(5, n_layer=2)
    with pytest.raises(TraceError, match="was edited"):
        paths_through_heads(model.trace(IDS, edits={"h.0.mlp.out": lambda x: x * 2}), 7)
    with pytest.raises(TraceError, match="every position"):
        paths_through_heads(model.trace(IDS, keep={"positions": slice(1, None)}), 7)
    with pytest.raises(TraceError, match=r"attn\.pattern"):
        paths_through_heads(model.trace(IDS, keep=["wte", "wpe", "embed", "attn.z", "mlp.out", "resid_*"]), 7)
    gemma = gpt2np.load(gemma2_checkpoint.write(tmp_path / "m", "SF"))
    with pytest.raises(InputError, match="no circuits"):
        paths_through_heads(gemma.trace([3, 17]), 7)
