"""The page in a real browser: its numbers are the trace's, and whatever is chosen, everything follows."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.lens import logit_lens
from gpt2np.analysis.neurons import most_active
from gpt2np.viewer.comparison_page import comparison_page

pytestmark = pytest.mark.needs("playwright", "chromium")
TEXT = "Elizabeth was not sorry that Mr. Darcy was"
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "weights", "glossary"]  # of a text


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return path


@pytest.fixture(scope="module")
def done(tiny):
    options = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 1, "keep": "*", "ledger": True}
    return tiny.generate("Elizabeth was", max_new_tokens=12, **options).finish()


@pytest.fixture(scope="module")
def generated_path(done, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "generated.html"
    gpt2np.view(done, out=path)
    return path


def test_every_panel_opens_offline_without_a_word_on_the_console(chromium, path, trace):
    with visit(chromium, path) as page:
        assert page.js("() => window.gpt2np.run.tokens") == trace.tokens
        for number, panel in enumerate(PANELS, 1):
            page.page.keyboard.press(str(number))
            assert page.focus["panel"] == panel
            assert page.page.locator("[role=tabpanel]:visible").count() == 1
            assert page.page.locator(f"#panel-{panel}").is_visible()
            assert page.page.locator("[role=tab][aria-selected=true]").count() == 1
        page.until("() => performance.getEntriesByName('first-picture').length === 1")


def test_numbers_in_the_page_equal_the_traces(chromium, path, trace):
    with visit(chromium, path) as page:
        for layer, head, query in ((0, 0, 3), (2, 1, 9), (3, 3, 0)):
            found = page.js("a => Array.from(gpt2np.run.weights(...a))", [layer, head, query])
            pattern = trace[f"h.{layer}.attn.pattern"][head, query, : query + 1]
            np.testing.assert_array_equal(np.float32(found), pattern)
        for site in ("attn.out", "resid_mid", "mlp.post", "ln_2"):
            found = page.js("s => Array.from(gpt2np.run.strip(s, 2, 5))", site)
            expected = trace[f"h.2.{site}"][5]
            np.testing.assert_allclose(found, expected.astype(np.float16).astype(np.float64), rtol=1e-6)
            stats = page.js("s => gpt2np.run.stats(s, 2, 5)", site)
            np.testing.assert_allclose(stats["norm"], np.linalg.norm(expected.astype(np.float64)), rtol=1e-6)
        heads = page.js("() => Array.from(gpt2np.run.strip('attn.heads', 3, 4, 2))")
        np.testing.assert_allclose(heads, trace["h.3.attn.heads"][4, 2], rtol=1e-3, atol=1e-4)


def test_a_card_shows_the_file_and_line_that_computes_its_part(chromium, path):
    root = Path(gpt2np.__file__).parents[1]
    with visit(chromium, path) as page:
        for part in ("wte", "attn.scores", "mlp.post", "logits"):
            page.show(panel="map", layer=1, part=part)
            file, line = re.search(r"(\S+\.py), line (\d+)", page.text(".card .facts")).groups()
            shown = page.text(".card .facts code.line")
            assert (root / file).read_text("utf-8").splitlines()[int(line) - 1].strip() == shown
            assert f'"{part.rpartition(".")[2]}"' in shown


def test_words_and_numbers_that_are_read_are_those_of_the_trace(chromium, path, trace):
    """The five questions that a reader asks: the sentences of the page against the trace."""
    with visit(chromium, path) as page:
        last = len(trace.tokens) - 1
        page.show(panel="attention", layer=2, head=1, pos=last)
        row = trace["h.2.attn.pattern"][1, last]
        said = page.text(".says-where")
        assert f"({row.argmax()}): {100 * row.max():.1f} %" in said
        assert trace.tokens[row.argmax()].strip() in said

        page.show(panel="lens", layer=3)
        lens = logit_lens(trace, k=1)
        tops = lens.top_ids.array[2::2, last, 0].tolist()
        assert f"First predicted after layer {tops.index(tops[-1])}" in page.text(".lens .answer")
        top = [f"{100 * p:.2f} %" for _, _, p in trace.top(10)]
        assert page.page.locator(".lens .lists .bar .value").all_inner_texts()[:10] == top
        for key, layer in (("ArrowUp", 2), ("ArrowUp", 1), ("ArrowDown", 2)):  # list and frame follow
            page.page.keyboard.press(key)
            assert page.text(".lens .lists h4") == f"Likeliest after layer {layer}"
            framed = page.page.locator(".lens td [aria-pressed=true]").get_attribute("aria-label")
            assert framed.startswith(f"layer {layer}, position {last}: ")

        page.show(panel="contributions")
        pushed = attribution(trace, trace.top(1)[0][1])
        best = int(pushed.array.argmax())
        said = page.text(".contributions .answer")
        numbers = re.findall(r"[+−]\d+\.\d+", said)
        heads = [".head." in name for name in pushed.labels["component"]]
        of_heads = [] if heads[best] else [f"+{pushed.array[heads].max():.2f}"]
        ends = f"+{pushed.array[best]:.2f}", f"+{pushed.array.sum():.2f}".replace("+-", "−")
        assert numbers == [ends[0], *of_heads, ends[1]]
        name = pushed.labels["component"][best].split(".")
        assert f"layer {name[1]} {'MLP' if name[2] == 'mlp' else 'head ' + name[-1]}" in said

        page.show(panel="mlp")
        active = most_active(trace, 1)
        layer, neuron = active.labels["neuron"][0].split(".")
        assert f"layer {layer}, neuron {neuron}: {float(f'{active.array[0]:.4g}')}" in page.text(
            ".mlp .answer"
        )
        strongest = page.page.locator(".neuron-pushes .lists > div").nth(1).locator(".bar").first.inner_text()
        layer, neuron, push = re.findall(r"[+−]?[\d.]+", strongest)
        said = re.search(
            r"up most is layer (\d+), neuron (\d+): its logit by ([+−][\d.]+)\.", page.text(".mlp .answer")
        )
        assert said.groups()[:2] == (layer, neuron)
        assert float(said[3]) == pytest.approx(float(push), abs=6e-3)

        page.show(panel="map", part="attn.z", layer=1)
        n_head, d_head = trace["h.1.attn.z"].shape[1:]
        assert page.text(".card .shape") == f"[pos, head, d_head] = [{last + 1}, {n_head}, {d_head}]"
        assert "mix, pattern, v" in page.text(".card .line")

        page.show(panel="residual")
        norms = np.linalg.norm(trace["embed"][last]), np.linalg.norm(trace["h.3.resid_post"][last])
        assert all(f"{norm:.4g}" in page.text(".residual .answer") for norm in norms)


def test_the_map_says_beside_each_vector_what_it_is_and_how_wide(chromium, path, trace):
    with visit(chromium, path) as page:
        page.show(layer=1)
        notes = dict(
            page.js(
                "() => [...document.querySelectorAll('.layer.open .row[data-site]')]"
                ".map(row => [row.dataset.site, row.querySelector('.note').innerText])"
            )
        )
        norm = np.linalg.norm(trace["h.1.ln_2"][-1])
        assert notes["ln_2"] == f"LayerNorm(stream)\n192 · norm {norm:.3g}"
        assert notes["attn.q"] == "ln_1 · W_Q + b_Q\n4 × 48"
        assert notes["attn.pattern"].endswith("\n4 × 11")
        assert notes["attn.heads"].endswith("\n4 × 192")
        assert notes["mlp.post"].startswith("GELU(pre)\n768")
        word, p = logit_lens(trace, k=1).top_ids.array[4, -1, 0], logit_lens(trace, k=1).top_probabilities
        said = f"{trace.token(int(word)).replace(' ', '·')} {100 * p.array[4, -1, 0]:.0f} %"
        assert notes["resid_post"].startswith(said)
        widths = page.js(
            "() => [...document.querySelectorAll('.row.attention canvas')].map(c => c.clientWidth)"
        )
        assert len(set(widths)) == 1  # four heads of 48 are as wide as the stream of 192


def test_choosing_a_head_layer_or_token_changes_every_panel(chromium, path):
    with visit(chromium, path) as page:
        page.page.locator("[data-head='3']").click()
        assert (page.focus["head"], page.focus["part"]) == (3, "attn.pattern")
        page.page.get_by_role("button", name="Layer 0", exact=True).click()
        assert page.focus["layer"] == 0
        page.page.locator("[data-pos='4']").click()
        assert page.focus["pos"] == 4
        assert page.page.url.endswith("#panel=map&layer=0&head=3&pos=4&part=resid_post")
        page.page.locator("#tab-attention").click()
        assert page.text("#panel-attention h3") == "Layer 0, head 3"
        page.page.locator("[data-head-square='1']").click()
        assert page.text("#panel-attention h3") == "Layer 0, head 1"
        page.page.locator(".finder .grid button").nth(9).click()
        assert (page.focus["layer"], page.focus["head"]) == (2, 1)
        page.page.locator("#tab-lens").click()
        page.page.locator(".lens tbody tr").nth(2).locator("button").nth(6).click()
        assert (page.focus["pos"], page.focus["layer"]) == (6, 1)


def test_the_address_brings_the_choice_back(chromium, path):
    with visit(chromium, path) as page:
        page.page.evaluate("() => { location.hash = '#panel=attention&layer=3&head=2&pos=1' }")
        page.page.wait_for_function("gpt2np.focus.panel === 'attention'")
        assert [page.focus[key] for key in ("layer", "head", "pos")] == [3, 2, 1]
        page.page.evaluate("() => { location.hash = '#panel=%3Cb%3E&layer=99&head=-4&pos=x&part=nonsense' }")
        page.page.wait_for_function("gpt2np.focus.panel === 'map'")
        assert [page.focus[key] for key in ("layer", "head", "pos", "part")] == [3, 0, 0, "resid_post"]


def test_the_keyboard_reaches_everything(chromium, path, trace):
    last = len(trace.tokens) - 1
    with visit(chromium, path) as page:
        press = page.page.keyboard.press
        for key, name, value in (
            ("ArrowLeft", "pos", last - 1),
            ("ArrowRight", "pos", last),
            ("ArrowRight", "pos", last),
            ("ArrowUp", "layer", 1),
            ("ArrowDown", "layer", 2),
            ("]", "head", 1),
            ("[", "head", 0),
            ("?", "panel", "glossary"),
            ("1", "panel", "map"),
        ):
            press(key)
            assert page.focus[name] == value, key
        page.page.locator("#tab-map").focus()
        press("ArrowRight")
        assert page.focus["panel"] == "attention"
        assert page.js("() => document.activeElement.id") == "tab-attention"
        page.show(panel="map")
        seen = set()
        for _ in range(120):
            press("Tab")
            seen.add(page.js("() => document.activeElement.dataset.key ?? document.activeElement.className"))
        assert seen >= {"null wte", "2 mlp.post", "head 0", "layer 3", "word", "2 attn.pattern"}
        press("t")
        assert page.js("() => document.documentElement.dataset.theme") == "dark"
        unnamed = page.js(
            "() => [...document.querySelectorAll('button, input, select')].filter(e => "
            "!(e.innerText.trim() || e.getAttribute('aria-label') || e.closest('label'))).length"
        )
        assert unnamed == 0


def test_hovering_says_what_is_under_the_pointer(chromium, path, trace):
    with visit(chromium, path) as page:
        page.page.locator("[data-key='2 resid_post'] canvas").hover(position={"x": 2, "y": 5})
        value = float(trace["h.2.resid_post"][-1, 0])
        shown = page.text(".tip")
        assert "h.2.resid_post" in shown
        number = float(re.search(r"component \d+: (−?[\d.]+)", shown)[1].replace("−", "-"))
        index = int(re.search(r"component (\d+)", shown)[1])
        np.testing.assert_allclose(number, trace["h.2.resid_post"][-1, index], rtol=6e-3)
        assert index < 3
        assert np.isfinite(value)
        page.show(panel="attention", layer=2, head=1)
        box = page.page.locator(".picture canvas").bounding_box()
        page.page.mouse.move(box["x"] + 95, box["y"] + 100)  # first column, an early row
        page.page.wait_for_function("() => document.querySelector('.tip').innerText.includes('looks at')")
        assert re.search(r"looks at .*\nattention [\d.]+ %, score", page.text(".tip"))


def test_a_pattern_says_which_token_a_bar_is_and_nothing_between_two_heads(chromium, path, trace):
    with visit(chromium, path) as page:
        canvas = page.page.locator("[data-key='2 attn.pattern'] canvas")
        each = canvas.bounding_box()["width"] / 4
        weight = trace["h.2.attn.pattern"][1, -1, 0]
        canvas.hover(position={"x": each + 6, "y": 30})  # the first bar of head 1
        assert re.search(rf"head 1\n.*\nlooks at .*\(0\): {100 * weight:.2g} %", page.text(".tip"))
        canvas.hover(position={"x": each + 2, "y": 30})  # left of it
        assert "looks at" not in page.text(".tip")


def test_scores_have_a_row_of_their_own(chromium, path, trace):
    with visit(chromium, path) as page:
        canvas = page.page.locator("[data-key='2 attn.scores'] canvas")
        each = canvas.bounding_box()["width"] / 4
        canvas.hover(position={"x": each + 6, "y": 12})  # the first bar of head 1
        score = float(trace["h.2.attn.scores"][1, -1, 0])
        told = re.search(r"head 1\n.*\nscore of .* \(0\): (−?[\d.]+)", page.text(".tip"))[1]
        np.testing.assert_allclose(float(told.replace("−", "-")), score, rtol=6e-3)
        canvas.click(position={"x": each + 6, "y": 12})
        assert (page.focus["part"], page.focus["head"]) == ("attn.scores", 1)


def test_counters_and_charts_say_what_they_count(chromium, path, trace):
    last = len(trace.tokens) - 1
    with visit(chromium, path) as page:
        page.show(pos=last - 1)
        assert page.text(".stepper span") == f"position {last - 1} of 0–{last}"
        page.show(panel="lens")
        below = page.page.locator(".lens .chart svg text").all_text_contents()
        assert [name for name in below if "attn" in name] == [f"attn {layer}" for layer in range(4)]
        page.show(panel="mlp", layer=1)
        assert page.text(".mlp figcaption").startswith("Layer 1 at ")
        scale = [int(n) for n in page.page.locator(".mlp .count").all_text_contents()[1:]]
        pre = np.clip(trace["h.1.mlp.pre"][last - 1], -6, 6)
        most = np.histogram(pre, 48, (-6, 6))[0].max()
        assert scale == sorted(scale, reverse=True)
        assert 0.4 * most <= scale[0] <= most
        page.show(panel="contributions")
        cut = "e => [...e.querySelectorAll('.name')].filter(n => n.scrollWidth > n.clientWidth).length"
        for pos in range(last + 1):
            page.show(pos=pos)
            assert page.js(f"() => ({cut})(document.querySelector('.contributions .lists'))") == 0


def test_the_scrubber_moves_through_a_generation(chromium, generated_path, done):
    with visit(chromium, generated_path) as page:
        page.show(panel="generation")
        assert page.focus["step"] == len(done.steps) - 1  # where the last position stands
        page.page.locator(".scrubber input").fill("3")
        step, entry = done.steps[3], done.ledger[3]
        assert (page.focus["step"], page.focus["pos"]) == (3, step.positions[-1])
        assert f"Step 3: {step.token.replace(' ', '·')}" in page.text(".choice h3")
        values = page.page.locator(".generation .lists .bar .value").all_inner_texts()
        assert values == [f"{100 * p:.2f} %" for _, p in entry.top]
        told = page.text(".funnel")
        for removal in entry.removals:
            if removal.count:
                assert f"removed {removal.count:,} tokens with {100 * removal.mass:.2f} %" in told
        assert f"the number drawn was {entry.uniform:.4f}" in page.text(".draw")
        page.page.keyboard.press("Escape")
        page.page.locator("#tab-generation").focus()
        page.page.keyboard.press(".")
        assert page.focus["step"] == 4
        page.page.locator(".said").nth(7).click()
        assert page.focus["step"] == 7
        page.show(pos=done.steps[5].positions[-1])  # the other way round
        assert page.focus["step"] == 5


def test_it_fits_a_phone_and_a_projector_in_light_and_dark(chromium, path):
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "dark"), (1920, "light")):
        options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
        with visit(chromium, path, **options) as page:
            for panel in PANELS:
                page.show(panel=panel)
                assert page.js("() => document.documentElement.scrollWidth") <= width, (width, panel)
            background = page.js("() => getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background))) < 120) == (scheme == "dark")


def test_the_compact_view_works_inside_a_sandboxed_frame(chromium, trace, tmp_path):
    shown = gpt2np.view(trace, compact=True)._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{shown}")
    page = chromium.new_context(offline=True).new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("[data-key='2 resid_post']").click()
    frame.locator("#tab-attention").click()
    assert frame.locator(".small-head").count() == 4
    page.context.close()


def test_it_prints_every_panel_on_paper_whatever_the_screen_shows(chromium, path):
    shown = "() => [...document.querySelectorAll('.panel')].filter(e => !e.hidden).map(e => e.id)"
    with visit(chromium, path, color_scheme="dark", viewport={"width": 390, "height": 844}) as page:
        pdf = page.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert page.js(shown) == ["panel-map"]  # and the screen is as it was
        page.js("() => dispatchEvent(new Event('beforeprint'))")
        assert page.js(shown) == [f"panel-{panel}" for panel in PANELS]
        heights = "() => [...document.querySelectorAll('.lists .bar')].map(e => e.offsetHeight)"
        assert min(page.js(heights)) > 0
        inside = "() => Math.max(...[...document.querySelectorAll('canvas')].map(e => e.clientWidth))"
        assert 200 < page.js(inside) <= 1100
        paper = page.js("() => getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        page.js("() => dispatchEvent(new Event('afterprint'))")
        assert page.js("() => document.documentElement.dataset.theme ?? null") is None


REPORT = {
    "verdict": "wrong",
    "site": "h.1.attn.pattern",
    "layer": 1,
    "head": 0,
    "position": 2,
    "mistake": "mask-off-by-one",
    "explanation": "</script><b>looks one too far",
    "cure": "key <= query",
    "candidates": [{"mistake": "mask-off-by-one"}, {"mistake": "softmax-axis", "explanation": "rows"}],
    "sites": [
        {
            "site": "embed",
            "layer": None,
            "verdict": "within-noise",
            "ratio": 0.2,
            "error": 1e-8,
            "band": 5e-8,
        },
        {"site": "h.0.attn.pattern", "verdict": "within-noise", "ratio": 0.9, "error": 9e-8, "band": 1e-7},
        {"site": "h.1.attn.pattern", "verdict": "wrong", "ratio": 250.0, "error": 0.3, "band": 1e-7},
        {"site": "logits", "verdict": "wrong", "ratio": float("inf"), "error": float("nan"), "band": 1e-7},
    ],
    "notes": ["<img src=x>"],
}


def test_the_page_of_a_comparison(chromium, tmp_path):
    (tmp_path / "report.html").write_text(comparison_page(REPORT), "utf-8")
    with visit(chromium, tmp_path / "report.html") as page:
        assert "wrong" in page.text(".verdict .big")
        assert "h.1.attn.pattern" in page.text(".verdict")
        assert "head 0" in page.text(".verdict")
        assert "mask-off-by-one" in page.text(".card")
        assert "</script><b>looks one too far" in page.text(".card")
        assert "Cure: key <= query" in page.text(".card")
        assert "softmax, scores" in page.page.locator(".card .line").inner_text()
        assert page.page.locator(".sites button").all_inner_texts() == ["0.20", "0.90", "250", "∞"]
        assert page.page.locator(".sites button.first").inner_text() == "250"
        assert page.js("() => document.querySelectorAll('img, b').length") == 0
    clean = {"verdict": "within-noise", "sites": REPORT["sites"][:2], "mistake": None, "site": None}
    (tmp_path / "clean.html").write_text(comparison_page(clean), "utf-8")
    with visit(chromium, tmp_path / "clean.html") as page:
        assert "within noise" in page.text(".verdict .big")
        assert page.page.locator(".card").count() == 0


def test_an_old_browser_is_told_what_it_lacks(chromium, path):
    context = chromium.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("[role=alert]").wait_for()
    assert "cannot unzip" in page.locator("[role=alert]").inner_text()
    context.close()
