"""Interference of directions, and the overlap of heads' subspaces, against whole matrices."""

import itertools
import json

import numpy as np
import pytest
from support.command_line import run
from support.random_model import random_model

from gpt2np.analysis.circuits import folded_weights
from gpt2np.analysis.directions import interference, subspace_overlap
from gpt2np.errors import InputError


@pytest.fixture(scope="module")
def model():
    return random_model(3, n_layer=2, n_head=2, n_embd=8, vocab_size=30)


def cosines(x):
    """Of every pair, as one would write it down."""
    unit = [row / np.linalg.norm(row) for row in x]
    return np.array([a @ b for a, b in itertools.combinations(unit, 2)])


def sets(model):
    w = model.weights
    yield "token embeddings", w["wte.weight"]
    for i in range(2):
        scaled = w[f"h.{i}.ln_2.weight"][:, None] * w[f"h.{i}.mlp.c_fc.weight"]
        yield f"h.{i} probes", (scaled - scaled.mean(axis=0)).T
        yield f"h.{i} writes", w[f"h.{i}.mlp.c_proj.weight"]


def test_interference_by_pairs(model):
    found = interference(model, sample=1000)
    names = found.labels["set"]
    for row, (name, x) in enumerate(sets(model)):
        assert names[row] == name
        n, rms, chance, nearest, _ = found.array[row]
        pairs = cosines(x)
        assert n == len(x)
        assert rms == pytest.approx(np.sqrt((pairs**2).mean()))
        assert chance == pytest.approx(8**-0.5)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        square = np.abs(unit @ unit.T) - np.eye(len(x))
        assert nearest == pytest.approx(square.max(axis=1).mean())


def test_random_directions_are_at_chance_and_repeated_ones_are_not(model):
    found = interference(model).array
    assert found[0, 1] == pytest.approx(found[0, 2], rel=0.15)  # its embeddings are random
    assert found[0, 3] == pytest.approx(found[0, 4], rel=0.15)
    wte = np.array(model.weights["wte.weight"])
    wte[15:] = -wte[:15]
    doubled = model.with_weights({"wte.weight": wte})
    assert interference(doubled).array[0, 3] == pytest.approx(1)
    one = wte * 0 + wte[:1]
    assert interference(model.with_weights({"wte.weight": one})).array[0, 1] == pytest.approx(1)


def test_a_sample_and_many_directions(tiny):
    whole, some = (interference(tiny, sample=n).array for n in (5000, 256))
    assert np.array_equal(whole[:, :3], some[:, :3])
    assert some[:, 3:] == pytest.approx(whole[:, 3:], rel=0.1)
    assert np.array_equal(interference(tiny).array, some)  # the same again
    for wrong in (0, "many"):
        with pytest.raises(InputError, match="sample="):
            interference(tiny, sample=wrong)


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_overlap_by_projections(model, kind):
    found = subspace_overlap(model, kind)
    assert found.labels["writer"] == ["0.0", "0.1", "1.0", "1.1"]
    for i, j in itertools.product(range(4), range(4)):
        if j // 2 <= i // 2:
            assert np.isnan(found.array[i, j])
            continue
        written = folded_weights(model, i // 2, i % 2).W_O.T  # [n_embd, d_head]
        read = getattr(folded_weights(model, j // 2, j % 2), f"W_{kind.upper()}")
        onto = [x @ np.linalg.pinv(x) for x in (written, read)]  # the two projections
        assert found.array[i, j] == pytest.approx(np.trace(onto[0] @ onto[1]) / 4)


def test_overlap_is_of_subspaces_and_not_of_sizes(model):
    """Whatever mixes the dimensions within a head changes nothing; the same subspace gives 1."""
    w = {n: np.array(model.weights[n]) for n in ("h.0.attn.c_proj.weight", "h.1.attn.c_attn.weight")}
    before = subspace_overlap(model, "v").array
    mixed = w["h.0.attn.c_proj.weight"].copy()
    mixed[:4] = np.random.default_rng(0).normal(size=(4, 4)) @ mixed[:4]
    after = subspace_overlap(model.with_weights({"h.0.attn.c_proj.weight": mixed}), "v").array
    np.testing.assert_allclose(after, before)
    same = w["h.0.attn.c_proj.weight"].copy()
    same[:4] = folded_weights(model, 1, 1).W_V.T
    found = subspace_overlap(model.with_weights({"h.0.attn.c_proj.weight": same}), "v").array
    assert found[0, 3] == pytest.approx(1)
    with pytest.raises(InputError, match="q, k or v, not 'o'"):
        subspace_overlap(model, "o")


def test_on_the_command_line(capsys, tiny):
    code, out, _ = run(capsys, "circuits", "--interference", "--json")
    assert code == 0
    values = json.loads(out)["interference"]["values"]
    np.testing.assert_allclose(values, interference(tiny).array, rtol=1e-5)
    code, out, _ = run(capsys, "circuits", "--overlap", "q", "--top", "3")
    assert code == 0
    assert len(out.splitlines()) == 6  # the title takes two
    for argv, said in (
        (["Elizabeth", "--interference"], "--interference is of the weights"),
        (["Elizabeth", "--overlap", "q"], "--overlap is of the weights"),
        (["--interference", "--top", "3"], "nothing to cut in --interference"),
        (["--overlap", "o"], "invalid choice"),
    ):
        code, out, err = run(capsys, "circuits", *argv)
        assert (code, out) == (2, "")
        assert said in err.splitlines()[-1]
