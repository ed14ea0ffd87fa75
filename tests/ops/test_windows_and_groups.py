"""Operations that GPT-2 has not: products without bias, RMSNorm, windows, heads that share keys."""

import copy

import numpy as np
import pytest

from gpt2np import ops, threads
from gpt2np.ops import RMSNorm, causal_mask

DTYPES = {"float32": 2e-6, "float64": 1e-14}
D_HEAD = 4


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def run(op, *inputs, shape, dtype="float64"):
    """The result, with inputs left as they were and nothing beyond `out` written."""
    copies = copy.deepcopy(inputs)
    frame = np.full((shape[0] + 2, *shape[1:]), 7.0, dtype)
    op(*inputs, out=frame[1:-1])
    for before, after in zip(copies, inputs, strict=True):
        parts = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
        for one, other in parts:
            np.testing.assert_array_equal(one, other)
    assert (frame[0] == 7).all()
    assert (frame[-1] == 7).all()
    return frame[1:-1].copy()


def close(found, truth, dtype):
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(truth))
    scale = max(1.0, np.abs(truth[finite]).max(initial=0))
    assert np.abs(found[finite] - truth[finite]).max(initial=0) <= DTYPES[dtype] * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 300])
def test_products_without_bias(n, dtype):
    x, weight = normal(n, 12, dtype=dtype), normal(12, 20, seed=1, dtype=dtype)
    for w in (weight, np.ascontiguousarray(weight.T).T):  # as stored either way
        close(run(ops.product, x, w, shape=(n, 20), dtype=dtype), x @ w, dtype)
        heads = run(ops.project, x, w, shape=(n, 5, 4), dtype=dtype)
        close(heads, (x @ w).reshape(n, 5, 4), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype):
    x, weight = normal(70, 24, dtype=dtype) * 3 + 1, normal(24, seed=1, dtype=dtype)
    wide = x.astype(np.float64)
    truth = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * weight
    close(run(ops.rms_norm, x, RMSNorm(weight, 1e-3), shape=x.shape, dtype=dtype), truth, dtype)
    rms = ops.root_mean_square(x, 1e-3)
    assert rms.dtype == x.dtype
    assert rms.shape == (70, 1)
    zero = run(ops.rms_norm, np.zeros((2, 24)), RMSNorm(weight, 1e-6), shape=(2, 24))
    assert (zero == 0).all()  # epsilon stands inside the root


def seen(n_query, n_key, window):
    at = np.arange(n_key - n_query, n_key)[:, None]
    keys = np.arange(n_key)
    return (keys <= at) & (keys > at - (window or n_key + 1))


SHAPES = [(1, 1), (1, 9), (5, 5), (3, 9), (130, 130), (7, 300), (300, 300)]


@pytest.mark.every(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize(("n_query", "n_key"), SHAPES)
@pytest.mark.parametrize("window", [None, 1, 4, 129, 500])
def test_dot_scores(n_query, n_key, window, group, dtype):
    q, k = normal(n_query, 6, D_HEAD, dtype=dtype), normal(n_key, 6 // group, D_HEAD, seed=1, dtype=dtype)
    found = run(ops.dot_scores, q, k, window, shape=(6, n_query, n_key), dtype=dtype)
    truth = np.einsum("qhd,khd->hqk", q, np.repeat(k, group, axis=1))
    close(found, np.where(seen(n_query, n_key, window), truth, -np.inf), dtype)
    cached = np.ascontiguousarray(k.transpose(1, 2, 0)).transpose(2, 0, 1)  # as a cache has them
    close(run(ops.dot_scores, q, cached, window, shape=found.shape, dtype=dtype), found, dtype)


@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize(("n_query", "n_key"), SHAPES)
def test_mix_of_heads_that_share_values(n_query, n_key, group):
    pattern = np.where(seen(n_query, n_key, None), normal(6, n_query, n_key), 0.0)
    v = normal(n_key, 6 // group, D_HEAD, seed=1)
    found = run(ops.mix, pattern, v, shape=(n_query, 6, D_HEAD))
    close(found, np.einsum("hqk,khd->qhd", pattern, np.repeat(v, group, axis=1)), "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 4, 129])
@pytest.mark.parametrize(("n_query", "n_key"), SHAPES)
def test_what_lies_before_a_window_takes_no_part(n_query, n_key, window, dtype):
    """softmax and mix leave it out where nothing of it is seen, but not what an experiment lets be seen."""
    inside = seen(n_query, n_key, window)
    scores = np.where(inside, normal(4, n_query, n_key, dtype=dtype), np.array(-np.inf, dtype))
    v = normal(n_key, 4, D_HEAD, seed=1, dtype=dtype)
    for opened in (None, (2, n_query - 1, 0)):  # one head's last query looks at the first key
        if opened is not None:
            scores[opened] = 1.0
        e = np.exp(scores.astype(np.float64))
        truth = e / e.sum(-1, keepdims=True)
        pattern = run(ops.softmax, scores, shape=scores.shape, dtype=dtype)
        close(pattern, truth, dtype)
        assert ((pattern == 0) == np.isneginf(scores)).all()
        close(
            run(ops.mix, pattern, v, shape=(n_query, 4, D_HEAD), dtype=dtype),
            np.einsum("hqk,khd->qhd", truth, v.astype(np.float64)),
            dtype,
        )


def test_shared_keys_are_not_copied(monkeypatch):
    """A product of shared keys is one of views: no larger array is made on the way."""
    q, k = normal(64, 8, 16), normal(64, 2, 16, seed=1)
    made = []
    real = np.matmul

    def matmul(a, b, out):
        made.extend((np.shares_memory(a, q), np.shares_memory(b, k)))
        return real(a, b, out=out)

    monkeypatch.setattr("gpt2np.ops.attention.np.matmul", matmul)
    out = np.empty((8, 64, 64))
    ops.dot_scores(q, k, None, out=out)
    monkeypatch.undo()
    assert made
    assert all(made)
    np.testing.assert_allclose(out[5, 63], np.einsum("d,kd->k", q[63, 5], k[:, 1]), rtol=1e-12)


@pytest.mark.parametrize("window", [None, 3, 200])
def test_blocks_cover_what_is_seen_and_nothing_twice(window):
    shape, group = (12, 300, 450), 4
    count = np.zeros(shape, int)
    for heads, queries, keys in causal_mask.causal_blocks(shape, np.dtype("float32"), window, group):
        assert heads.start % group == heads.stop % group == 0
        count[heads, queries, keys] += 1
    assert count.max() == 1
    assert (count[:, seen(300, 450, window)] == 1).all()
    assert count.sum() < shape[0] * (300 * 450 if window is None else 300 * (window + 128))


def test_unseen():
    assert ops.unseen(range(2, 4), 4, None).tolist() == [[False, False, False, True], [False] * 4]
    assert ops.unseen(range(3, 4), 4, 2).tolist() == [[True, True, False, False]]
    assert ops.unseen(range(0, 4, 3), 4, 1).tolist() == [[False, True, True, True], [True, True, True, False]]


def test_threads_change_nothing():
    q, k = normal(600, 4, 32, dtype="float32"), normal(600, 2, 32, seed=1, dtype="float32")
    alone = run(ops.dot_scores, q, k, 50, shape=(4, 600, 600), dtype="float32")
    with threads.using(2, 600):
        together = run(ops.dot_scores, q, k, 50, shape=(4, 600, 600), dtype="float32")
    close(together, alone, "float32")
