"""The matrices of a model by their names, and the blocks of one."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint, made_up
from support.random_model import random_model

import gpt2np
from gpt2np.analysis.circuits import head_weights
from gpt2np.analysis.matrices import block_statistics, every_matrix, matrix
from gpt2np.errors import InputError

OF_LAYER = ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"]


def test_they_are_the_checkpoints(tiny):
    w = tiny.weights
    n = tiny.config.n_embd
    np.testing.assert_array_equal(matrix(tiny, "W_E").weight, w["wte.weight"])
    np.testing.assert_array_equal(matrix(tiny, "W_P").weight, w["wpe.weight"])
    for i, name in enumerate(("W_Q", "W_K", "W_V")):
        found = matrix(tiny, name, 2)
        np.testing.assert_array_equal(found.weight, w["h.2.attn.c_attn.weight"][:, i * n : (i + 1) * n])
        np.testing.assert_array_equal(found.bias, w["h.2.attn.c_attn.bias"][i * n : (i + 1) * n])
    for name, stored in (("W_O", "attn.c_proj"), ("W_in", "mlp.c_fc"), ("W_out", "mlp.c_proj")):
        np.testing.assert_array_equal(matrix(tiny, name, 1).weight, w[f"h.1.{stored}.weight"])
        np.testing.assert_array_equal(matrix(tiny, name, 1).bias, w[f"h.1.{stored}.bias"])
    names = [(found.name, found.layer) for found in every_matrix(tiny)]
    assert names == [("W_E", None), ("W_P", None), *[(name, i) for i in range(4) for name in OF_LAYER]]


def test_an_unembedding_of_its_own_is_a_matrix():
    model = random_model(1)
    np.testing.assert_array_equal(matrix(model, "W_U").weight, model.weights["lm_head.weight"])


@pytest.fixture(
    scope="module",
    params=[("gemma2", gemma2_checkpoint.write, "SF"), ("gpt_neo", gpt_neo_checkpoint.write, "GL")],
    ids=lambda given: given[0],
)
def other(request, tmp_path_factory):
    _, write, layers = request.param
    return gpt2np.load(write(tmp_path_factory.mktemp("m") / "m", layers))


def test_other_architectures_have_theirs(other):
    c = other.config
    names = {found.name for found in every_matrix(other)}
    gated = {"W_gate", "W_up"} if "mlp.up" in c.architecture.sites else {"W_in"}
    assert names - {"W_P", "W_U"} == {"W_E", "W_Q", "W_K", "W_V", "W_O", "W_out"} | gated
    for head in range(c.n_head if c.architecture.head_matrices else 0):
        w, own = head_weights(other, 1, head), slice(head * c.d_head, (head + 1) * c.d_head)
        np.testing.assert_array_equal(matrix(other, "W_Q", 1).weight[:, own], w.W_Q)
        np.testing.assert_array_equal(matrix(other, "W_O", 1).weight[own], w.W_O)
    assert matrix(other, "W_K", 0).weight.shape == (c.n_embd, c.n_kv_head * c.d_head)
    trace = other.trace([3, 17, 5])
    made = trace["h.1.ln_1"] @ matrix(other, "W_V", 1).weight
    np.testing.assert_allclose(made, trace["h.1.attn.v"].reshape(3, -1), atol=1e-5)


def test_what_no_paper_names_has_the_name_of_its_site(tmp_path):
    model = gpt2np.load(made_up.write(tmp_path / "m"))
    assert [found.name for found in every_matrix(model)][:2] == ["embed", "W_Q"]


def test_what_is_not_there_is_refused(tiny):
    with pytest.raises(InputError, match="no matrix 'W_X' of layer 1; there are W_Q, W_K"):
        matrix(tiny, "W_X", 1)
    with pytest.raises(InputError, match="outside of layers; there are W_E, W_P"):
        matrix(tiny, "W_Q")
    with pytest.raises(InputError, match="layer"):
        matrix(tiny, "W_Q", 9)
    with pytest.raises(InputError, match="blocks are of a matrix"):
        block_statistics(np.ones(3))


@pytest.mark.parametrize("shape", [(7, 10), (64, 64), (65, 3), (1, 1), (130, 129)])
def test_blocks_are_means_of_their_weights(shape):
    weight = np.random.default_rng(0).normal(1, 2, shape).astype(np.float32)
    found = block_statistics(weight, 6, 4).array
    high, wide = -(-shape[0] // 6), -(-shape[1] // 4)
    assert found.shape == (2, -(-shape[0] // high), -(-shape[1] // wide))
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            block = weight[i * high : (i + 1) * high, j * wide : (j + 1) * wide].astype(np.float64)
            assert found[0, i, j] == pytest.approx(block.mean(), rel=1e-6, abs=1e-9)
            assert found[1, i, j] == pytest.approx(np.sqrt((block**2).mean()), rel=1e-6)


def test_blocks_of_single_weights_are_the_weights():
    weight = np.random.default_rng(1).normal(size=(5, 9))
    found = block_statistics(weight)
    np.testing.assert_allclose(found.array[0], weight)
    np.testing.assert_allclose(found.array[1], np.abs(weight))
    assert "1 x 1" in found.title
