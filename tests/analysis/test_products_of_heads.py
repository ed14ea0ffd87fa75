"""Matrices of low rank by the hundred: the fast ways give what the plain definitions give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_model import random_model

from gpt2np.analysis import circuits, heads, neurons
from gpt2np.analysis.low_rank import LowRank
from gpt2np.analysis.products_of_heads import composed, inner_products, squares, strongest
from gpt2np.errors import InputError

EXACT = 1e-10


def close(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max(initial=0) <= EXACT * max(1, np.abs(b).max(initial=0))


def factors(rng, n_heads, n, rank):
    return rng.normal(size=(n_heads, n, rank)), rng.normal(size=(n_heads, rank, n))


# -- composition ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    n=st.sampled_from([1, 3, 63, 64, 65, 130]),
    rank=st.integers(1, 5),
    many=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_inner_products_are_sums_over_all_entries(n, rank, many, seed):
    rng = np.random.default_rng(seed)
    one, other = (squares(*factors(rng, count, n, rank)) for count in many)
    full = [x.near @ x.small @ x.near.swapaxes(1, 2) for x in (one, other)]
    found = inner_products(one, [other, other], [(slice(None), slice(None))])
    assert close(found, np.stack([np.einsum("inm,jnm->ij", *full)] * 2))
    assert close(one.traces(), np.trace(full[0], axis1=1, axis2=2))


@settings(max_examples=30, deadline=None)
@given(
    layers=st.integers(1, 11),
    n_head=st.integers(1, 3),
    n=st.sampled_from([4, 9, 70]),
    kinds=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_composed_is_the_norm_of_the_full_products(layers, n_head, n, kinds, seed):
    rng, count = np.random.default_rng(seed), layers * n_head
    write, *reads = (factors(rng, count, n, 3) for _ in range(1 + kinds))
    found = composed(write, reads, n_head)
    written = write[0] @ write[1]
    for kind, read in enumerate(near @ far for near, far in reads):
        for i, j in np.ndindex(count, count):
            if i // n_head >= j // n_head:
                assert np.isnan(found[kind, i, j])
                continue
            apart = np.linalg.norm(written[i]) * np.linalg.norm(read[j])
            assert close(found[kind, i, j], np.linalg.norm(written[i] @ read[j]) / apart)


def test_directions_at_right_angles_do_not_compose():
    first, second = np.eye(6)[None, :, :3], np.eye(6)[None, :, 3:]
    write = np.concatenate([first, first]), np.concatenate([first, first]).swapaxes(1, 2)
    read = np.concatenate([second, second]), np.concatenate([second, second]).swapaxes(1, 2)
    assert composed(write, [write, read], 1)[:, 0, 1].tolist() == [pytest.approx(3**-0.5), 0]


def test_compositions_are_those_of_each_kind():
    model = random_model(3, n_layer=6, n_head=3, n_embd=24)
    together = circuits.compositions(model)
    assert list(together) == ["q", "k", "v"]
    for kind, found in together.items():
        alone = circuits.composition_scores(model, kind)
        np.testing.assert_allclose(found.array, alone.array, atol=EXACT)
        assert (found.title, found.labels) == (alone.title, alone.labels)


# -- the strongest directions ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    rank=st.integers(1, 9),
    m=st.integers(1, 9),
    k=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_strongest_are_the_first_of_the_singular_vectors(n, rank, m, k, seed):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, n, rank)), rng.normal(size=(2, rank, m))
    u, s, v = strongest(left, right, k)
    for i in range(2):
        full = np.linalg.svd(left[i] @ right[i], compute_uv=False)
        n_found = len(s[i])
        assert n_found == min(k, n, rank, m)
        assert np.abs(s[i] - full[:n_found]).max() <= 1e-7 * full[0]
        # M v = s u and u M = s v, whatever the signs
        scaled = s[i][None], s[i][:, None]
        assert np.abs(left[i] @ (right[i] @ v[i].T) - u[i] * scaled[0]).max() <= 1e-6 * full[0]
        assert np.abs((u[i].T @ left[i]) @ right[i] - v[i] * scaled[1]).max() <= 1e-6 * full[0]


def test_strongest_are_those_of_low_rank():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(3, 2, 20, 4)), rng.normal(size=(3, 2, 4, 30))
    u, s, v = strongest(left, right, 2)
    for at in np.ndindex(3, 2):
        expected = LowRank(left[at], right[at]).svd()
        assert close(s[at], expected[1][:2])
        assert close(np.abs(np.sum(u[at] * expected[0][:, :2], axis=0)), np.ones(2))
        assert close(np.abs(np.sum(v[at] * expected[2][:2], axis=1)), np.ones(2))


def test_a_matrix_of_zeros_has_directions_of_nothing():
    full = np.ones((1, 5, 2))
    for left, right in ((0 * full, full), (full, 0 * full), (0 * full, 0 * full)):
        u, s, v = strongest(left, right.swapaxes(1, 2), 2)
        assert np.abs(s).max() < 1e-100
        assert np.isfinite(u).all()
        assert np.isfinite(v).all()


def test_directions_of_every_head_are_those_of_each(monkeypatch):
    model = random_model(2, n_layer=3, n_head=2, vocab_size=300)
    each = [heads.strongest_directions(model, layer, [0, 1], 2, 3) for layer in range(3)]
    monkeypatch.setattr(heads, "BYTES_AT_ONCE", 20_000)  # some tokens at a time
    whole = heads.every_direction(model, 2, 3)
    for layer, alone in enumerate(each):
        for found, expected in zip(whole, alone, strict=True):
            np.testing.assert_allclose(found[layer], expected, atol=EXACT)


# -- circuits between tokens, and neurons ------------------------------------------------------------


def test_token_circuits_are_the_scores_and_effects_of_each_head():
    model, ids = random_model(3, n_layer=3), [5, 9, 2, 5]
    found = circuits.token_circuits(model, ids)
    assert found.axes == ("circuit", "layer", "head", "from", "to")
    for layer, head in np.ndindex(3, 2):
        assert close(found.array[0, layer, head], circuits.token_scores(model, layer, head, ids).array)
        assert close(found.array[1, layer, head], circuits.token_effects(model, layer, head, ids).array)
        w, x = circuits.folded_weights(model, layer, head), circuits.normalised_embedding(model, ids)
        scores = (x @ w.W_Q + w.b_Q) @ (x @ w.W_K + w.b_K).T * model.config.attention_scale(layer)
        assert close(found.array[0, layer, head], scores)
        effects = circuits.through_ln_f(model, x @ w.ov) @ model.parameters.lm_head[ids].T
        assert close(found.array[1, layer, head], effects)


def test_several_neurons_are_each_of_them():
    model = random_model(4, vocab_size=500, n_embd=24)
    which = [(0, 3), (1, 7), (1, 0)]
    for (layer, i), found in zip(which, neurons.several_neurons(model, which, 4), strict=True):
        alone = neurons.neuron(model, layer, i, 4)
        for a, b in zip(found, alone, strict=True):
            if isinstance(a, list):
                assert [near.id for near in a] == [near.id for near in b]
                assert close([(near.dot, near.cosine) for near in a], [(near.dot, near.cosine) for near in b])
            else:
                np.testing.assert_allclose(a, b)
    assert neurons.several_neurons(model, []) == []
    with pytest.raises(InputError, match="neuron 96"):
        neurons.several_neurons(model, [(0, 1), (0, 96)])
