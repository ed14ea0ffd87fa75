"""Pages of unusual runs in a real browser: hostile texts, missing parts, broken numbers, saved files."""

import re

import numpy as np
import pytest
from support.random_model import random_model
from support.viewer_browser import visit

import gpt2np

pytestmark = pytest.mark.needs("playwright", "chromium")
TEXT = "Elizabeth was not sorry that Mr. Darcy was"
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "generation", "glossary"]
HARD = {
    "script": "Elizabeth </script><script>document.title='hacked'</script> was"
    "<!-- <script> --> ]]> &amp; &lt;b&gt; \"quoted\" 'too' `${1}` \\u0041",
    "emoji": "Elizabeth 👩‍👩‍👧 was 🎉 happy",
    "rtl": "שלום עולם مرحبا \u202eabc\u202c",
    "lines": "one\ntwo\r\n\tthree  \u00a0four\u2028five",
}


@pytest.mark.parametrize("name", sorted(HARD))
def test_hostile_and_foreign_texts_are_only_text(chromium, tiny, tmp_path, name):
    trace = tiny.trace(HARD[name])
    gpt2np.view(trace, out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        assert page.js("() => gpt2np.run.tokens") == trace.tokens
        assert page.js("() => document.querySelectorAll('script').length") == 2
        assert page.page.locator(".word").count() == len(trace.tokens)
        assert page.page.locator(".word bdi").count() == len(trace.tokens)
        for panel in PANELS:
            page.show(panel=panel)
        assert page.page.title().endswith("gpt2np view")
        if name == "lines":
            page.show(panel="attention")
            text = page.text(".shaded-text")
            assert "⏎" in text
            assert "␍" in text
            assert "⇥" in text


def test_names_and_metadata_of_saved_files_are_only_text(chromium, tiny, tmp_path):
    evil = "</script><img src=x onerror=alert(1)><!--"
    trace = tiny.trace("Elizabeth was")
    trace.metadata |= {
        "model": evil,
        "tokens": [evil, "\u202e" + evil, "was"],
        "prompt": evil,
        "gpt2np": evil,
    }
    gpt2np.view(trace, out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        assert page.text("h1") == evil
        assert page.js("() => document.querySelectorAll('img').length") == 0
        assert "\\u202e" in page.text("[data-pos='1']")
        for panel in PANELS:
            page.show(panel=panel)


def test_traces_without_parts_and_with_broken_numbers_are_shown(chromium, tiny, tiny64, tmp_path):
    runs = {
        "attention": tiny.trace(TEXT, keep="attn.*"),
        "early": tiny.trace(TEXT, stop_at_layer=2),
        "nan": tiny.trace(TEXT, edits={"h.1.mlp.out": lambda x: x * np.nan}),
        "one": tiny.trace([5]),
        "last": tiny.trace(TEXT, keep="logits"),
        "float64": tiny64.trace(TEXT),
        "no vocabulary": random_model(dtype="float32", n_layer=25, n_head=16, n_embd=32).trace([1, 2, 3]),
        "smallest": random_model(dtype="float32", n_layer=1, n_head=1, n_embd=2, vocab_size=3).trace([1, 2]),
    }
    for name, run in runs.items():
        gpt2np.view(run, out=tmp_path / f"{name}.html")
        with visit(chromium, tmp_path / f"{name}.html") as page:
            for panel in PANELS:
                page.show(panel=panel)
                shown = page.page.locator("main").inner_text()
                assert not re.search(r"\b(null|undefined)\b|\[object", shown), (name, panel)
            page.show(panel="map")
            not_kept = "What is grey was not kept" in page.text(".how")
            assert not_kept == (name in ("attention", "last"))
            if name == "attention":
                page.show(panel="lens")
                assert "was not kept" in page.text("#panel-lens .absent")


def test_a_beam_search_says_who_lost_and_a_saved_generation_what_it_cannot_show(chromium, tiny, tmp_path):
    beams = tiny.generate("Elizabeth was", max_new_tokens=4, num_beams=3, keep="*").finish()
    gpt2np.view(beams, out=tmp_path / "beams.html")
    with visit(chromium, tmp_path / "beams.html") as page:
        page.show(panel="generation", step=1)
        assert page.text(".generation .small") == "4 tokens chosen; num beams 3; stopped by length."
        assert "The 3 best texts at the end" in page.text(".generation .lists")
        assert page.text(".generation h4") == "What the model found likeliest"
    beams.trace.save(tmp_path / "g.safetensors")
    gpt2np.view(gpt2np.Trace.open(tmp_path / "g.safetensors"), out=tmp_path / "saved.html")
    with visit(chromium, tmp_path / "saved.html") as page:
        page.show(panel="generation", step=2)
        assert "A saved trace does not say how" in page.text(".generation .small")
        assert page.page.locator(".said").count() == 3  # the last one that was chosen was never read
        p = float(np.exp(-beams.trace["loss"][4]))
        assert f"{100 * p:.2f} %" in page.text(".choice h3")


def test_cells_of_many_heads_lie_side_by_side_on_a_phone(chromium, tmp_path):
    trace = random_model(n_head=12, n_embd=48).trace(list(range(20)))
    gpt2np.view(trace, out=tmp_path / "page.html")
    overlaps = """() => [...document.querySelectorAll(".panel:not([hidden]) .grid")].map((grid) => {
      const boxes = [...grid.querySelectorAll("button")].map((cell) => cell.getBoundingClientRect());
      return boxes.filter(({ top, left }, i) => i && top === boxes[i - 1].top && left < boxes[i - 1].right);
    }).flat().length"""
    with visit(chromium, tmp_path / "page.html", viewport={"width": 390, "height": 844}) as page:
        for panel in ("attention", "contributions"):
            page.show(panel=panel)
            assert page.js(overlaps) == 0
            assert page.js("() => document.documentElement.scrollWidth") == 390


def test_a_text_from_right_to_left_is_read_so(chromium, tiny, tmp_path):
    for text, way in ((HARD["rtl"], "rtl"), ("Elizabeth مرحبا", "ltr")):
        done = tiny.generate(text, max_new_tokens=3, keep="*").finish()
        gpt2np.view(done, out=tmp_path / "page.html")
        with visit(chromium, tmp_path / "page.html") as page:
            for panel, selector in (("attention", ".shaded-text"), ("generation", ".story")):
                page.show(panel=panel)
                assert (
                    page.js(f"() => getComputedStyle(document.querySelector('{selector}')).direction") == way
                )
            page.show(panel="attention")  # letters join across tokens: none is isolated
            if way == "ltr":
                read = page.js("() => document.querySelector('.shaded-text').textContent")
                assert read.startswith(text)
            assert page.js(
                "() => [...document.querySelectorAll('.shaded-text > span')]"
                ".every((e) => getComputedStyle(e).unicodeBidi === 'normal' && !e.querySelector('bdi'))"
            )
