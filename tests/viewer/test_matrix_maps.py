"""Maps of matrices in the panel of weights: they are blocks of the weights, and follow layer and theme."""

import re

import numpy as np
import pytest
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.matrices import block_statistics, matrix
from gpt2np.viewer.detail_levels import LEVELS
from gpt2np.viewer.matrix_maps import matrix_arrays, matrix_layout
from gpt2np.viewer.packing import restore
from gpt2np.viewer.page_data import Data
from gpt2np.viewer.page_extras import LEFT_OUT, fill

TEXT = "Elizabeth was not sorry that Mr. Darcy was"


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.mark.parametrize("cells", [64, 24])
def test_the_page_has_the_blocks_of_every_matrix(tiny, cells):
    arrays = matrix_arrays(tiny, cells)
    layout = matrix_layout(tiny, cells)
    assert {name: array.shape for name, array in arrays.items()} == {
        n: shape for n, (_, shape) in layout.items()
    }
    for name, layer in (("W_E", None), ("W_Q", 2), ("W_out", 3)):
        expected = block_statistics(matrix(tiny, name, layer).weight, cells, cells).array
        row = layer or 0
        scale = arrays[f"matrix:{name}:scale"][row]
        found = restore(arrays[f"matrix:{name}"][row].reshape(2, -1), scale).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=0.013 * float(np.abs(expected).max()))


def test_what_does_not_fit_is_left_out_and_said(trace):
    data = Data(trace, trace, LEVELS[-1])
    before = set(data.arrays)
    fill(data, 0)
    assert set(data.arrays) == before
    assert data.facts["missing"]["matrices"] == LEFT_OUT
    fill(data, 20_000_000)
    assert data.arrays["matrix:W_Q"].shape == (4, 2, 64, 64)


@pytest.mark.needs("playwright", "chromium")
def test_a_matrix_is_drawn_when_its_box_is_clicked(chromium, trace, tiny, tmp_path):
    gpt2np.view(trace, out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        page.show(panel="weights", layer=1)
        names = page.page.locator(".boxed code").all_inner_texts()
        assert names == ["W_E", "W_P", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"]
        assert "192 × 768 = 147,456" in " ".join(page.text(".boxed:has-text('W_in')").split())
        assert not page.page.locator(".matrix-map").is_visible()
        page.page.locator(".boxed:has-text('W_out')").click()
        assert page.text(".matrix-map h4") == "W_out of layer 1"
        assert "root mean square of a block of 12 × 3 weights" in page.text(".matrix-map p")
        page.page.locator(".matrix-map canvas").hover(position={"x": 200, "y": 200})
        tip = page.text(".tip").replace("−", "-")
        row, column = (int(re.search(rf"{side}s (\d+) to", tip)[1]) for side in ("row", "column"))
        expected = block_statistics(matrix(tiny, "W_out", 1).weight).array[:, row // 12, column // 3]
        for name, value in zip(("mean", "root mean square"), expected, strict=True):
            found = float(re.search(rf"^{name} ≈ (\S+)$", tip, re.MULTILINE)[1])
            assert found == pytest.approx(value, rel=0.2, abs=0.002)
        drawn = "() => document.querySelector('.matrix-map canvas').toDataURL()"
        first = page.js(drawn)
        page.show(layer=2)
        assert page.text(".matrix-map h4") == "W_out of layer 2"
        assert page.js(drawn) != first
        page.page.locator(".boxed:has-text('W_E')").click()
        assert page.text(".matrix-map h4") == "W_E"
        page.page.locator(".matrix-map").get_by_role("button", name="mean", exact=True).click()
        assert "Every cell is the mean of a block of 32 × 3 weights" in page.text(".matrix-map p")
        page.page.locator(".boxed:has-text('W_E')").click()
        assert not page.page.locator(".matrix-map").is_visible()


@pytest.mark.needs("playwright", "chromium")
def test_colours_of_the_panel_follow_the_theme(chromium, trace, tmp_path):
    gpt2np.view(trace, out=tmp_path / "page.html")
    painted = (
        "() => [getComputedStyle(document.querySelector('.stack span')).backgroundColor, "
        "document.querySelector('.composed image').getAttribute('href')]"
    )
    with visit(chromium, tmp_path / "page.html") as page:
        page.show(panel="weights")
        light = page.js(painted)
        page.page.keyboard.press("t")
        dark = page.js(painted)
        assert all(a != b for a, b in zip(light, dark, strict=True))
        page.page.keyboard.press("t")
        assert page.js(painted) == light
