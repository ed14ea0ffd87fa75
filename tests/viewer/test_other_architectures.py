"""The page of an architecture that is not GPT-2's: its own parts, groups of heads, windows, no positions."""

import inspect

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint, made_up
from support.viewer_browser import data_of, visit

import gpt2np
from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.lens import logit_lens
from gpt2np.analysis.neurons import neuron_attribution
from gpt2np.viewer import parts_of_gpt2
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.comparison_page import comparison_page
from gpt2np.viewer.posters.page import poster_svg

IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42]
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "weights", "glossary"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(made_up.write(tmp_path_factory.mktemp("page") / "m"))


@pytest.fixture(scope="module")
def generated(model):
    return model.generate(IDS, max_new_tokens=4, keep="*", ledger=True, temperature=1.0, seed=1).finish()


def test_parts_come_from_the_table(model):
    facts, _ = data_of(gpt2np.view(model.trace(IDS)).html)
    parts = {part["site"]: part for part in facts["parts"]}
    table = model.config.architecture.sites
    assert list(parts) == [s.name for s in table if not s.derived or s.name == "attn.heads"]
    source = inspect.getsource(made_up).splitlines()
    for site, part in parts.items():
        assert part["title"] == site
        assert part["text"] == table[site].doc
        assert part["file"] == "support/made_up.py"
        assert source[part["line"] - 1].strip() == part["code"]
    assert parts["ln_1"]["formula"] == "rms_norm(resid_pre)"
    assert parts["attn.out"]["formula"] == "product(attn.z)"
    assert parts["attn.heads"]["formula"] == ""
    assert parts["attn.k"]["shape"] == [10, 2, 6]
    assert facts["missing"] == {}
    assert facts["model"]["embeddings"] == ["embed"]
    assert facts["model"]["windows"] == [None, 5, None, 5]
    assert facts["model"]["norm"] == "RMSNorm"


def test_numbers_are_those_of_the_analyses(model):
    trace = model.trace(IDS)
    facts, arrays = data_of(gpt2np.view(trace).html)
    assert facts["components"] == list(attribution(trace, 5).labels["component"])
    for pos in (0, 9):
        token = int(arrays["push:id"][pos, 0])
        np.testing.assert_allclose(
            arrays["push"][pos, 0], attribution(trace, token, pos).array, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(arrays["lens:entropy"], logit_lens(trace).entropy.array, rtol=1e-5, atol=1e-6)
    assert arrays["attn.k"].shape[:3] == (4, 10, 2)
    norms = np.sqrt((trace["h.1.attn.k"].astype(np.float64) ** 2).sum(-1))
    np.testing.assert_allclose(arrays["attn.k:stats"][1, ..., 0], norms, rtol=1e-6)
    assert "wte" not in arrays


def test_what_was_not_kept_is_said(model):
    facts, arrays = data_of(gpt2np.view(model.trace(IDS, keep="attn.*")).html)
    assert "pattern" in arrays
    assert "embed" in facts["missing"]["push"]
    assert facts["missing"].keys() >= {"lens", "push", "mlp", "residual", "vector embed"}


def test_a_page_of_a_comparison():
    report = {"model_type": "made_up", "site": "h.1.attn.z", "verdict": "wrong", "sites": []}
    facts, _ = data_of(comparison_page(report))
    assert facts["line"]["title"] == "attn.z"
    assert facts["line"]["formula"] == "mix(attn.pattern, attn.v)"
    assert '"z"' in facts["line"]["code"]


@pytest.mark.needs("playwright", "chromium")
def test_every_panel_in_a_browser(chromium, generated, tmp_path):
    gpt2np.view(generated, out=tmp_path / "page.html")
    trace = generated.trace
    with visit(chromium, tmp_path / "page.html") as page:
        for panel in PANELS:
            page.show(panel=panel)
            assert len(page.text(f"#panel-{panel}")) > 300
            assert page.page.locator(f"#panel-{panel} .absent").count() == 0
            for layer, head in ((0, 0), (1, 3)):
                page.show(layer=layer, head=head)
        page.show(panel="map", layer=1, head=3, pos=12)
        for part in page.js("() => gpt2np.run.parts.map((part) => part.site)"):
            page.show(part=part)
            assert page.text(".card h3") == part
        page.show(part="attn.k")
        assert "group 1 of heads" in page.text(".card")
        shown = page.js("() => gpt2np.run.stats('attn.k', 1, 12, 2).norm")
        assert shown == pytest.approx(np.linalg.norm(trace["h.1.attn.k"][12, 1]), rel=1e-6)
        for layer in range(4):
            for query in (0, 4, 5, 12):
                seen = np.flatnonzero(trace[f"h.{layer}.attn.pattern"][:, query].max(axis=0))
                first = page.js("([layer, query]) => gpt2np.run.firstSeen(layer, query)", [layer, query])
                assert first == seen[0]
        page.show(panel="attention", layer=1, pos=12)
        assert page.page.locator("#panel-attention .lists > div").first.locator(".bar").count() == 5
        page.page.get_by_role("button", name="scores").click()
        page.show(panel="glossary")
        words = page.text("#panel-glossary dl.terms")
        assert "RMSNorm" in words
        assert "LayerNorm" not in words
        assert "GELU" not in words


@pytest.mark.needs("playwright", "chromium")
def test_a_page_with_little_kept_in_a_browser(chromium, model, tmp_path):
    gpt2np.view(model.trace(IDS, keep=["attn.k", "mlp.post"]), out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        for panel in PANELS:
            page.show(panel=panel)
        assert "not kept" in page.text("#panel-glossary")


# -- GPT-Neo: its own words, and layers that are local ---------------------------------------------------


@pytest.fixture(scope="module")
def neo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "neo"
    return gpt2np.load(gpt_neo_checkpoint.write(folder, "GLG", window_size=4))


def test_the_parts_of_gpt_neo(neo):
    facts, _ = data_of(gpt2np.view(neo.trace(IDS)).html)
    parts = {part["site"]: part for part in facts["parts"]}
    assert list(parts) == [part.site for part in parts_of_gpt2.PARTS]
    assert parts["attn.scores"]["formula"].startswith("scores = q · kᵀ,")  # not scaled
    assert parts["attn.q"]["formula"] == "q = ln_1 · W_Q"
    assert "mlp.pre" in parts
    assert "b_in" in parts["mlp.pre"]["formula"]  # the MLP's have biases
    assert parts["attn.scores"]["file"] == "gpt2np/architectures/gpt_neo/forward.py"
    assert "dot_scores, q, k, window" in parts["attn.scores"]["code"]
    assert facts["model"]["windows"] == [None, 4, None]
    assert facts["model"]["name"]
    assert facts["missing"] == {}
    report = {"model_type": "gpt_neo", "site": "h.1.attn.q", "verdict": "wrong", "sites": []}
    assert data_of(comparison_page(report))[0]["line"]["title"] == "Query"


@pytest.mark.needs("playwright", "chromium")
def test_the_window_in_a_browser(chromium, neo, tmp_path):
    trace = neo.trace(IDS)
    gpt2np.view(trace, out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        for panel in PANELS:
            page.show(panel=panel)
            assert page.page.locator(f"#panel-{panel} .absent").count() == 0
        page.show(panel="attention", layer=1, head=0, pos=8)
        assert page.text("#panel-attention h3").startswith("Layer 1, head 0 (local, 4)")
        assert "All heads of layer 1 (local, 4)" in page.text("#panel-attention .many-title")
        assert page.page.locator("#panel-attention .lists > div").first.locator(".bar").count() == 4
        shaded = page.js(
            "() => [...document.querySelectorAll('#panel-attention .shaded-text span')]"
            ".filter((span) => span.style.backgroundImage).length"
        )
        assert shaded == 4
        for layer in range(3):
            seen = (trace[f"h.{layer}.attn.pattern"] > 0).any(axis=0)
            found = page.js(
                "(layer) => gpt2np.run.tokens.map((_, q) => gpt2np.run.tokens.map((_, k) => "
                "gpt2np.run.sees(layer, q, k)))",
                layer,
            )
            np.testing.assert_array_equal(found, seen)
        page.show(layer=0, pos=8)
        assert page.text("#panel-attention h3").startswith("Layer 0, head 0 (global)")
        page.show(panel="map", layer=1, part="attn.pattern", head=0, pos=8)
        assert "Layer 1, head 0 (local, 4) looks from here at" in page.text(".card")
        assert "local, 4" in page.text("#panel-map .layer.open .layer-title")
        page.show(panel="glossary")
        words = page.text("#panel-glossary dl.terms")
        assert "in some layers only so far back" in words
        assert "Heads of a group" not in words


@pytest.mark.needs("playwright", "chromium")
def test_a_model_without_windows_says_nothing_of_them(chromium, tiny, tmp_path):
    gpt2np.view(tiny.trace("Elizabeth was"), out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        page.show(panel="attention", layer=1, head=0)
        assert page.text("#panel-attention h3").startswith("Layer 1, head 0")
        assert "global" not in page.text("#panel-attention")


# -- Gemma-2: heads in groups, turned queries and keys, norms behind, gates, caps -------------------------


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4}
    return gpt2np.load(gemma2_checkpoint.write(tmp_path_factory.mktemp("page") / "gemma", "SF", **sizes))


def test_the_parts_of_gemma(gemma):
    facts, arrays = data_of(gpt2np.view(gemma.trace(IDS)).html)
    parts = {part["site"]: part for part in facts["parts"]}
    formulas = {site: part["formula"] for site, part in parts.items()}
    assert formulas["attn.scores"].startswith("scores = 2 · tanh(q_rot · k_rotᵀ / √9 / 2)")
    assert formulas["embed"] == "x = √16 · wte"
    assert not any(" b_" in formula or "bias" in formula for formula in formulas.values())
    assert {"attn.q_rot", "attn.proj", "mlp.act", "mlp.up", "mlp.proj"} <= parts.keys()
    assert all(
        part["text"] and part["file"].endswith("gemma2/forward.py") for part in parts.values() if part["file"]
    )
    assert (facts["model"]["windows"], facts["model"]["kinds"]) == ([4, None], ["sliding", "full"])
    assert facts["missing"] == {}
    of_neurons = neuron_attribution(gemma.trace(IDS), int(arrays["push:id"][6, 1]), 1, 6).array
    np.testing.assert_allclose(
        arrays["neuron:push"][1, 6, 1], of_neurons[arrays["neuron:id"][1, 6]], rtol=2e-3, atol=1e-4
    )
    pushes = attribution(gemma.trace(IDS), int(arrays["push:id"][9, 0]), 9)
    np.testing.assert_allclose(arrays["push"][9, 0].sum(), pushes.array.sum(), rtol=1e-4)


def test_notes_and_posters_tell_what_a_gemma_has_and_gpt2_has_not(gemma, tiny):
    told = {note.title for note in notes(gemma.config)}
    assert told >= {"Rotation", "Gates", "Groups", "RMS normalization"}
    assert not told & {"Position matrix", "Layer normalization"}
    assert not {note.title for note in notes(tiny.config)} & {
        "Rotation",
        "Gates",
        "Window",
        "Groups",
        "Soft cap",
    }
    drawn = poster_svg(gemma.trace(IDS))
    for site in ("attn.q_rot", "mlp.up", "attn.proj"):
        assert f">{site}</text>" in drawn
    assert "RMS normalization" in drawn


@pytest.mark.needs("playwright", "chromium")
def test_a_gemma_in_a_browser(chromium, gemma, tmp_path):
    gpt2np.view(gemma.trace(IDS), out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html", viewport={"width": 390, "height": 844}) as page:
        for panel in PANELS:
            page.show(panel=panel, layer=0, head=4, pos=8)
            assert page.page.locator(f"#panel-{panel} .absent").count() == 0
            assert page.js("() => document.documentElement.scrollWidth") <= 390, panel
        page.show(panel="attention")
        assert page.text("#panel-attention h3").startswith("Layer 0, head 4 (sliding, 4)")
        edge = "() => document.querySelector('#panel-attention .toggle').getBoundingClientRect().right"
        assert page.js(edge) <= 390  # the heading is long, and its buttons are whole
        page.show(panel="map", part="attn.k")
        assert "group 1" in page.text(".card")
        page.show(panel="contributions")
        assert "before the cap" in page.text("#panel-contributions")
        page.show(panel="mlp")
        assert "gate" in page.text("#panel-mlp")
        page.show(panel="glossary")
        words = page.text("#panel-glossary dl.terms")
        for term in ("rotation (RoPE)", "group", "window", "gate, up", "soft cap", "RMSNorm"):
            assert term in words
        assert "values of its own" not in words
        assert "LayerNorm" not in words
        assert page.said == []
