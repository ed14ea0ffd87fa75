"""Dropout is recognised by its values alone: any values, of any width and precision, may be asked about."""

import numpy as np
import pytest
from support.random_model import random_model

from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes.base import Seen
from gpt2np.reference.mistakes.dropout import DropoutActive
from gpt2np.reference.noise_bands import expect

IDS = [5, 9, 2, 44]
VALUES = {
    "noise": lambda truth, rng: rng.normal(size=truth.shape),
    "0": lambda truth, rng: np.zeros_like(truth),
    "NaN": lambda truth, rng: np.full_like(truth, np.nan),
    "the largest": lambda truth, rng: np.full_like(truth, np.finfo(np.float64).max),
    "either sign": lambda truth, rng: truth * (-1.0) ** np.arange(truth.size).reshape(truth.shape),
    "half of them 0": lambda truth, rng: truth * 2 * rng.integers(0, 2, truth.shape),
    "one number": lambda truth, rng: truth + 1e3 * (np.arange(truth.size).reshape(truth.shape) == 0),
    "one row": lambda truth, rng: truth + (np.arange(len(truth)) == 1).reshape(-1, *[1] * (truth.ndim - 1)),
    "fewer rows": lambda truth, rng: truth[1:] + 1,
}


@pytest.mark.every(2)
@pytest.mark.parametrize(("n_head", "d_head"), [(1, 1), (1, 2), (2, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_nothing_it_is_asked_about_raises(n_head, d_head, dtype):
    rng = np.random.default_rng(0)
    model = random_model(1, n_layer=1, n_head=n_head, n_embd=n_head * d_head)
    expected = expect(model, IDS)
    for name, site, layer in model.config.architecture.sites.expand(1):
        for values in VALUES.values() if name != "top_k_tokens" else ():
            truth = expected.truth[name]
            with np.errstate(all="ignore"):
                found = values(truth, rng).astype(dtype)
                seen = Seen(site.name, layer, found, truth, expected.bands[name], expected.truth, True)
                assert DropoutActive().recognise(seen) in (None, "")


@pytest.mark.every(5)
@pytest.mark.parametrize("site", ["wte", "ln_1", "attn.k", "attn.z", "resid_mid", "mlp.pre", "ln_f"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("n_embd", [1, 2])
def test_a_narrow_model_is_compared_to_the_end(site, dtype, n_embd):
    """No site before the wrong one is there, so that all of the catalogue is tried."""
    model = random_model(2, n_layer=1, n_head=1, n_embd=n_embd)
    table = model.config.architecture.sites
    name = table[site].full_name(0 if table[site].layered else None)
    with np.errstate(all="ignore"):
        dump = {name: (np.array(model.trace(IDS)[name]) * 1.37 + 0.11).astype(dtype)}
    found = compare(dump, model, IDS, search=0)
    assert len(found.sites) == 1
    assert found.verdict != "within-noise" or (n_embd, dtype) == (
        1,
        "float16",
    )  # where all of a row is rounding
