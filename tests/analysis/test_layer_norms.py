"""Scale and shift of every LayerNorm: what the run multiplies by and adds."""

import numpy as np
import pytest
from support.random_model import random_model

from gpt2np.analysis.layer_norms import MEASURES, norm_parameters, norm_statistics


@pytest.fixture(scope="module")
def model():
    return random_model(3, n_layer=2)


def test_they_are_what_the_run_applies(model):
    found, trace = norm_parameters(model), model.trace([5, 9, 2, 5])
    assert found.axes == ("norm", "parameter", "n_embd")
    assert found.labels["norm"] == ["h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"]
    for name, (scale, shift) in zip(found.labels["norm"], found.array, strict=True):
        np.testing.assert_allclose(trace[f"{name}.normalized"] * scale + shift, trace[name], atol=1e-12)


def test_they_are_the_checkpoints(tiny):
    found = norm_parameters(tiny)
    for name, (scale, shift) in zip(found.labels["norm"], found.array, strict=True):
        np.testing.assert_array_equal(scale, tiny.weights[f"{name}.weight"])
        np.testing.assert_array_equal(shift, tiny.weights[f"{name}.bias"])
    assert len(found.labels["norm"]) == 2 * tiny.config.n_layer + 1
    assert found.array.dtype == np.float32


def test_statistics(model):
    found, values = norm_statistics(model), norm_parameters(model)
    assert found.axes == ("parameter", "norm", "measure")
    assert list(found.labels["measure"]) == list(MEASURES)
    for i, kind in enumerate(("scale", "shift")):
        assert found.labels["parameter"][i] == kind
        for j in range(5):
            x = values.array[j, i]
            expected = [x.mean(), np.sqrt(((x - x.mean()) ** 2).mean()), x.min(), x.max()]
            assert found.array[i, j, :4] == pytest.approx(expected)
            assert abs(x[int(found.array[i, j, 4])]) == np.abs(x).max()


def test_they_print_themselves(tiny):
    for each in (norm_parameters(tiny), norm_statistics(tiny)):
        assert max(map(len, str(each).splitlines())) <= 80
