"""Losses of a model from which positions or the norms' scale are taken, against passes written out here."""

import json

import numpy as np
import pytest
from support.command_line import run
from support.random_model import random_model

from gpt2np.analysis.losses import loss_with_held_norms, loss_without_positions
from gpt2np.errors import InputError

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def model():
    return random_model(5)


def loss_of(logits, ids):
    rows = np.array(logits)[:-1]
    chances = np.exp(rows - rows.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return -np.log(chances[np.arange(len(ids) - 1), ids[1:]]).mean()


def pass_of(model, ids, norm):
    """GPT-2 as the paper has it; `norm(name, x, weight, bias)` normalises."""
    w, c = model.weights, model.config
    n, x = len(ids), w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    future = np.triu(np.ones((n, n), bool), 1)
    for i in range(c.n_layer):
        h = f"h.{i}."
        a = norm(h + "ln_1", x, w[h + "ln_1.weight"], w[h + "ln_1.bias"])
        qkv = a @ w[h + "attn.c_attn.weight"] + w[h + "attn.c_attn.bias"]
        z = []
        for head in range(c.n_head):
            q, k, v = (part[:, head * c.d_head : (head + 1) * c.d_head] for part in np.split(qkv, 3, axis=1))
            scores = np.where(future, -np.inf, q @ k.T / np.sqrt(c.d_head))
            chances = np.exp(scores - scores.max(1, keepdims=True))
            z.append(chances / chances.sum(1, keepdims=True) @ v)
        x = x + np.concatenate(z, axis=1) @ w[h + "attn.c_proj.weight"] + w[h + "attn.c_proj.bias"]
        m = norm(h + "ln_2", x, w[h + "ln_2.weight"], w[h + "ln_2.bias"])
        m = m @ w[h + "mlp.c_fc.weight"] + w[h + "mlp.c_fc.bias"]
        m = 0.5 * m * (1 + np.tanh(np.sqrt(2 / np.pi) * (m + 0.044715 * m**3)))
        x = x + m @ w[h + "mlp.c_proj.weight"] + w[h + "mlp.c_proj.bias"]
    return norm("ln_f", x, w["ln_f.weight"], w["ln_f.bias"]) @ w["lm_head.weight"].T


def deviations(x):
    return np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def usual(name, x, weight, bias):
    return (x - x.mean(axis=1, keepdims=True)) / deviations(x) * weight + bias


def test_the_pass_that_is_written_out_is_the_models(model):
    np.testing.assert_allclose(pass_of(model, IDS, usual), model(IDS), rtol=1e-9, atol=1e-9)


def test_without_positions(model):
    bare = model.with_weights({"wpe.weight": np.zeros_like(model.weights["wpe.weight"])})
    found = loss_without_positions(model, IDS)
    assert found.loss == pytest.approx(loss_of(pass_of(bare, IDS, usual), IDS))
    assert found.loss != pytest.approx(model.score(IDS).loss)
    assert loss_without_positions(bare, IDS).loss == pytest.approx(bare.score(IDS).loss)


def test_with_held_norms(model):
    factors = {}

    def note(name, x, weight, bias):
        factors[name] = (1 / deviations(x)).mean()
        return usual(name, x, weight, bias)

    def hold(name, x, weight, bias):
        return (x - x.mean(axis=1, keepdims=True)) * factors[name] * weight + bias

    pass_of(model, IDS, note)
    found = loss_with_held_norms(model, IDS)
    assert found.loss == pytest.approx(loss_of(pass_of(model, IDS, hold), IDS))
    assert found.loss != pytest.approx(model.score(IDS).loss)
    one = [
        7,
        7,
    ]  # without positions both vectors of ln_1 are the same, so holding their scale changes nothing
    bare = model.with_weights({"wpe.weight": np.zeros_like(model.weights["wpe.weight"])})
    assert loss_with_held_norms(bare, one).loss == pytest.approx(bare.score(one).loss)


def test_texts_longer_than_the_context(model):
    ids = (IDS * 20)[:100]  # the context holds 64
    for function in (loss_without_positions, loss_with_held_norms):
        assert function(model, ids, stride=16).n_predicted == 99


def test_on_the_command_line(capsys, tiny, tmp_path):
    path = tmp_path / "text"
    path.write_text("Elizabeth was not sorry that Mr. Darcy was gone.")
    code, out, _ = run(capsys, "score", str(path), "--without-positions", "--hold-norms", "--json")
    assert code == 0
    facts, text = json.loads(out), path.read_text()
    assert facts["loss_without_positions"] == pytest.approx(loss_without_positions(tiny, text).loss)
    assert facts["loss_with_held_norms"] == pytest.approx(loss_with_held_norms(tiny, text).loss)
    assert facts["loss"] < facts["loss_without_positions"]  # order matters to a trained model
    code, out, _ = run(capsys, "score", str(path))
    assert "held" not in out


def test_a_model_without_positions(tmp_path):
    from support import made_up

    import gpt2np

    made_up.write(tmp_path / "model", n_layer=2, n_positions=16)
    model = gpt2np.load(tmp_path / "model")
    with pytest.raises(InputError, match="has no position embedding to leave out"):
        loss_without_positions(model, [1, 2, 3])
    assert np.isfinite(loss_with_held_norms(model, [1, 2, 3]).loss)
