"""Products of a few rows are cut into small ones: the numbers are those of one product, within noise."""

import numpy as np
import pytest

from gpt2np import threads
from gpt2np.ops import Linear, linear, product, unembedding

ROWS = [1, 2, 3, 5, 8, threads.FEW_ROWS, threads.FEW_ROWS + 1]


def noise_of(x, weight):
    return 4 * np.finfo(np.float32).eps * (np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)))


@pytest.mark.every(3)
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize(
    ("n_in", "n_out"), [(768, 2304), (3072, 768), (100, 7), (1100, 500), (65, 300), (1, 1), (129, 1)]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_products(n_rows, n_in, n_out, order, n_threads):
    rng = np.random.default_rng(n_rows * n_in + n_out)
    x, weight = (rng.normal(size=s).astype(np.float32) for s in ((n_rows, n_in), (n_in, n_out)))
    bias, weight = rng.normal(size=n_out).astype(np.float32), np.asarray(weight, order=order)
    truth = x.astype(np.float64) @ weight
    out, wide = np.full((n_rows, n_out), np.nan, np.float32), np.full((n_rows, 3 * n_out), np.nan, np.float32)
    with threads.using(n_threads, n_rows):
        product(x, weight, out=out)
        linear(x, Linear(weight, bias), out=wide[:, n_out : 2 * n_out])  # a part of rows
    assert (np.abs(out - truth) <= noise_of(x, weight)).all()
    assert (np.abs(wide[:, n_out : 2 * n_out] - truth - bias) <= noise_of(x, weight) + 1e-6).all()
    assert np.isnan(wide[:, :n_out]).all()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("vocab", [1, 128, 300, 5461, 5500])
def test_unembedding(n_rows, vocab, n_threads):
    rng = np.random.default_rng(vocab)
    x, table = (rng.normal(size=(n, 96)).astype(np.float32) for n in (n_rows, vocab))
    out = np.full((n_rows, vocab), np.nan, np.float32)
    with threads.using(n_threads, n_rows):
        unembedding(x, table, out=out)
    assert (np.abs(out - x.astype(np.float64) @ table.T) <= noise_of(x, table.T)).all()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_inner_axis_shorter_than_a_block(n_threads):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(3, 40)).astype(np.float32), rng.normal(size=(40, 14_000)).astype(np.float32)
    out = np.full((3, 14_000), np.nan, np.float32)
    with threads.using(n_threads, len(x)):
        product(x, weight, out=out)
    assert (np.abs(out - x.astype(np.float64) @ weight) <= noise_of(x, weight)).all()
