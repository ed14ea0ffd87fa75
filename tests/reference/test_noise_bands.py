"""Bands of derived numbers follow from those of what they are computed from, in rows of every kind."""

import numpy as np
import pytest
from support.independent import numpy_gpt2
from support.random_model import random_model

from gpt2np.reference.comparison import compare
from gpt2np.reference.noise_bands import expect

IDS = [5, 9, 2, 44, 17]


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n_embd", [2, 16])
def test_logits_within_noise_give_probabilities_and_losses_within_noise(precision, n_embd):
    """However large their noise is: in half precision that of a narrow model is many times e."""
    expected = expect(random_model(3, n_head=2, n_embd=n_embd), IDS, precision)
    logits, band = expected.truth["logits"], expected.bands["logits"]
    for token in range(logits.shape[1]):  # one too large and all others too small, and the other way round
        for sign in (1, -1):
            off = logits - sign * band
            off[:, token] = logits[:, token] + sign * band[:, 0]
            exponentials = np.exp(off - off.max(axis=-1, keepdims=True))
            p = exponentials / exponentials.sum(axis=-1, keepdims=True)
            assert (np.abs(p - expected.truth["probabilities"]) <= expected.bands["probabilities"]).all()
            with np.errstate(divide="ignore"):
                loss = -np.log(p[np.arange(4), IDS[1:]])
            assert (np.abs(loss - expected.truth["loss"][:-1]) <= expected.bands["loss"][:-1]).all()


@pytest.mark.every(3)
@pytest.mark.parametrize("n_embd", [2, 4, 32])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_a_mean_far_larger_than_the_deviation_is_within_noise(n_embd, dtype, offset):
    """It is rounded when a norm takes it off, and all of the row is off by that."""
    model = random_model(5, "float32", n_layer=2, n_head=1, n_embd=n_embd)
    model = model.with_weights({"wte.weight": model.weights["wte.weight"] + np.float32(offset)})
    dump = numpy_gpt2.NumpyGPT2(model.weights, 1, dtype=np.dtype(dtype).type).run(IDS)
    found = compare(dump, model, IDS, names=numpy_gpt2.TAPS)
    assert (found.verdict, found.refused) == ("within-noise", ()), str(found)
