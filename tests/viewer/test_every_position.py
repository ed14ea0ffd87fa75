"""One site at several positions, a strip each, below the map; the logits among them."""

import re

import numpy as np
import pytest
from support.random_model import random_model_with_text
from support.viewer_browser import visit

import gpt2np

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
OPEN = "() => { document.querySelector('.every-position').open = true; }"
HEIGHT = "() => document.querySelector('.strips canvas').clientHeight"


@pytest.mark.needs("playwright", "chromium")
def test_strips_of_every_position(chromium, tiny, tmp_path):
    trace = tiny.trace(TEXT)
    gpt2np.view(trace, out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        page.show(panel="map", layer=2, part="mlp.out", pos=9)
        assert page.text(".every-position summary") == "h.2.mlp.out at every position"
        page.js(OPEN)
        page.until("() => document.querySelector('.strips').clientHeight > 100")
        assert "Positions 0 to 10 of 11" in page.text(".every-position p")
        canvas = page.page.locator(".strips canvas")
        each = page.js(HEIGHT) / 11
        canvas.hover(position={"x": 200, "y": 4.5 * each})
        tip = page.text(".tip").replace("−", "-")
        assert "(4)" in tip.splitlines()[0]
        component, value = re.search(r"component (\d+): (\S+)", tip).groups()
        assert float(value) == pytest.approx(
            float(trace["h.2.mlp.out"][4, int(component)]), rel=6e-3, abs=1e-3
        )
        canvas.click(position={"x": 200, "y": 4.5 * each})
        assert page.focus["pos"] == 4
        page.show(part="attn.q", head=3)
        assert page.text(".every-position summary") == "h.2.attn.q, head 3 at every position"
        page.show(part="attn.pattern")
        assert "has no vector in this page" in page.text(".every-position p")
        page.show(part="logits")
        canvas.hover(position={"x": 300, "y": 4.5 * each})
        tip = page.text(".tip")
        first, last = map(int, re.search(r"tokens (\d+) to (\d+)", tip).groups())
        logits = trace["logits"][4].astype(np.float64)
        found = (logits - logits.mean())[first : last + 1]
        furthest = found[np.abs(found).argmax()]
        assert ("below" if furthest < 0 else "above") in tip
        assert float(re.search(r"≈ (\S+)", tip)[1]) == pytest.approx(abs(furthest), rel=0.06)
        assert page.page.locator("#panel-map [data-site=logits]").is_visible()
        assert "softmax does not see" in page.text(".card .small")


@pytest.mark.needs("playwright", "chromium")
def test_a_long_text_shows_those_around_the_chosen_one(chromium, tmp_path):
    gpt2np.view(random_model_with_text(n_layer=1).trace(list(range(90))), out=tmp_path / "page.html")
    options = {"viewport": {"width": 390, "height": 844}}
    with visit(chromium, tmp_path / "page.html", **options) as page:
        page.show(panel="map", part="resid_post", pos=50)
        page.js(OPEN)
        page.until("() => document.querySelector('.strips').clientHeight > 100")
        assert "Positions 32 to 55 of 90" in page.text(".every-position p")
        assert page.js("() => document.documentElement.scrollWidth") <= 390
        page.show(pos=2)
        assert "Positions 0 to 23 of 90" in page.text(".every-position p")
