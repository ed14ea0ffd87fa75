"""Pages of GPT-2 small's shape: within the budget, and they open and work at every length."""

import re

import numpy as np
import pytest
from support.random_model import random_model
from support.viewer_browser import visit

import gpt2np
from gpt2np.viewer.detail_levels import budget, levels_within, page_bytes
from gpt2np.viewer.page_data import sizes_of

SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
LONG = pytest.mark.slow
TOKENS = [5, 30, pytest.param(300, marks=LONG), pytest.param(1024, marks=LONG)]
MOST = {5: 3_000_000, 30: 3_000_000, 300: 10_000_000, 1024: 20_000_000}
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "weights", "glossary"]


@pytest.fixture(scope="module")
def small():
    """Its vocabulary is smaller: no array's size depends on that, only how long the lens takes."""
    return random_model(dtype="float32", vocab_size=3000, **SHAPE)


@pytest.fixture(scope="module", params=TOKENS)
def shown(request, small, tmp_path_factory):
    """A trace of so many tokens, and its page."""
    ids = np.random.default_rng(0).integers(0, 3000, request.param).tolist()
    trace = small.trace(ids)
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return trace, path


@pytest.mark.timeout(500)
def test_a_page_is_within_the_budget(shown):
    trace, path = shown
    assert 100_000 < path.stat().st_size <= MOST[len(trace.token_ids)] == budget(len(trace.token_ids))


@pytest.mark.timeout(500)
def test_two_texts_in_a_page_are_within_the_budget(small):
    ids = np.random.default_rng(0).integers(0, 300, 30).tolist()
    trace, other = small.trace(ids), small.trace(ids[:10] + ids[12:])
    page = gpt2np.view(trace, against=other)
    assert len(page.html.encode("utf-8")) <= budget(30) == MOST[30]
    for n in (300, 1024):
        sizes = sizes_of(trace, other)
        longer = type(sizes)(sizes.config, n, 12, other=n - 1, columns=n)
        assert page_bytes(longer, next(iter(levels_within(longer, budget(n))))) <= budget(n)


@pytest.mark.needs("playwright", "chromium")
@pytest.mark.timeout(500)
def test_a_page_opens_and_everything_follows_what_is_chosen(chromium, shown):
    trace, path = shown
    n = len(trace.token_ids)
    with visit(chromium, path) as page:
        assert page.js("() => gpt2np.run.T") == n
        page.show(layer=3, head=5, pos=n - 2)
        for panel in PANELS:
            page.show(panel=panel)
            absent = page.page.locator(f"#panel-{panel} .absent").all_inner_texts()
            assert all(": left out" in text for text in absent), absent
            assert len(absent) <= (panel in ("contributions", "weights")), absent  # paths, directions
        page.show(panel="attention", layer=7, head=11, pos=n - 1)
        weights = trace["h.7.attn.pattern"][11, -1]
        best = int(weights.argmax())
        said = re.search(r"looks most at .* \((\d+)\): [≈<>]? ?([\d.]+) %", page.text(".says-where"))
        assert int(said[1]) == best
        assert float(said[2]) == pytest.approx(100 * weights[best], abs=1)
        page.show(panel="map", part="resid_post", pos=n - 1)
        norm = np.linalg.norm(trace["h.7.resid_post"][-1].astype(np.float64))
        assert f"norm {norm:.4g}" in page.text(".card .numbers")
        page.show(panel="glossary")
        assert f"a page of {n} tokens has at most {MOST[n] / 1e6:.1f} MB" in page.text("#panel-glossary")
