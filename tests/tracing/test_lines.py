"""The lines of a forward pass as they stand, and what is read off them."""

import numpy as np
import pytest
from support import made_up
from support.random_model import random_model

import gpt2np
from gpt2np import ops
from gpt2np.architectures.gpt2.config import Config
from gpt2np.errors import InputError
from gpt2np.ops.norms import factor, folded, held, normed, shift
from gpt2np.tracing import lines as of


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return gpt2np.load(made_up.write(tmp_path_factory.mktemp("lines") / "m"), dtype="float64")


def test_every_recorded_site_has_its_line(tiny, other):
    for model in (tiny, other):
        found = of.lines(model.config, model.parameters)
        recorded = [n for n, site, _ in model.config.architecture.sites.expand(4) if not site.derived]
        assert [name for name in found if found[name].op is not of.part_of] == recorded


def test_what_a_line_is_given(tiny):
    found, p = of.lines(tiny.config, tiny.parameters), tiny.parameters
    assert found["h.1.ln_2"].op is ops.layer_norm
    assert found["h.1.ln_2"].inputs[1] is p.h[1].ln_2
    assert found["h.1.ln_2"].reads == ("h.1.resid_mid", None)
    assert found["h.1.attn.out"].reads == ("h.1.attn.z", None)
    assert found["embed"].reads == ("wte", "wpe")
    assert found["wpe"].reads[0] == "positions"
    assert of.token_table(tiny.config, p) is p.wte
    assert of.unembedding_table(tiny.config, p) is p.lm_head
    assert of.final_norm(tiny.config, p) is p.ln_f
    assert of.matrix_of(tiny.config, "h.0.mlp.out", found) is p.h[0].mlp.c_proj
    with pytest.raises(InputError, match=r"gpt2's h\.0\.mlp\.post is not one product"):
        of.matrix_of(tiny.config, "h.0.mlp.post", found)


def test_the_same_of_an_architecture_without_positions(other):
    p, found = other.parameters, of.lines(other.config, other.parameters)
    assert of.embedding_parts(other.config) == ["embed"]
    assert not of.ends_with_a_shift(other.config)
    assert of.token_table(other.config, p) is of.unembedding_table(other.config, p) is p.table
    matrix = of.matrix_of(other.config, "h.2.mlp.pre", found)
    assert matrix.weight is p.h[2].up
    np.testing.assert_array_equal(matrix.bias, np.zeros(36))


def test_without_parameters(tiny):
    assert of.embedding_parts(Config()) == ["wte", "wpe"]
    assert of.ends_with_a_shift(Config())
    assert of.lines(tiny.config).keys() == of.lines(tiny.config, tiny.parameters).keys()


def test_an_untied_unembedding():
    model = random_model(4, tie_word_embeddings=False)
    p = model.parameters
    assert of.unembedding_table(model.config, p) is p.lm_head
    assert of.token_table(model.config, p) is p.wte


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_norms_taken_apart(kind):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(3, 2, (5, 8)), rng.normal(size=8), rng.normal(size=8)
    norm = ops.LayerNorm(weight, bias, 1e-5) if kind == "LayerNorm" else ops.RMSNorm(weight, 1e-5)
    whole = held(x, norm, factor(x, norm))
    if kind == "LayerNorm":
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight
        np.testing.assert_array_equal(shift(norm), bias)
        np.testing.assert_allclose(normed(x, norm), expected + bias, rtol=1e-12, atol=1e-12)
    else:
        expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight
        assert shift(norm) is None
        np.testing.assert_allclose(normed(x, norm), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-12)
    reader = rng.normal(size=(8, 3))
    np.testing.assert_allclose(x @ folded(norm, reader), held(x, norm) @ reader, rtol=1e-12, atol=1e-12)
