"""Figures: each can be saved, is as wide as the screen lets it be, and its text can be read."""

import itertools
import re
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from support.viewer_browser import visit

import gpt2np

pytestmark = pytest.mark.needs("playwright", "chromium")

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
OPENED = {"map": ".every-position summary", "weights": ".boxed"}  # what is drawn only then
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "weights", "glossary"]

# Contrast of every visible text with what is behind it, as WCAG 2 computes it; marks of spaces are no text.
CONTRASTS = """() => {
  const numbers = (colour) => (colour.match(/[0-9.]+/g) ?? []).map(Number);
  const light = (rgb) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
      if (a > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.getElementById("page"), NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const e = node.parentElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!node.data.trim() || !box.width || e.closest("title, script, .mark, :disabled")) continue;
    const ground = behind(e);
    let opacity = 1;
    for (let up = e; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
    const ink = numbers(e.closest("svg") ? style.fill : style.color)
      .slice(0, 3).map((c, i) => opacity * c + (1 - opacity) * ground[i]);
    const [dark, bright] = [light(ink), light(ground)].sort((a, b) => a - b);
    found.push([(bright + 0.05) / (dark + 0.05), node.data.trim().slice(0, 30)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return path


@pytest.fixture(scope="module")
def generated(tiny, tmp_path_factory):
    done = tiny.generate(
        "Elizabeth 日本 was é", max_new_tokens=6, keep="*", ledger=True, seed=1, top_k=9
    ).finish()
    path = tmp_path_factory.mktemp("view") / "generated.html"
    gpt2np.view(done, out=path)
    return path


def saved(page, name, kind, folder):
    begun = time.monotonic()
    with page.page.expect_download() as started:
        page.page.get_by_role("button", name=f"save as {kind}: {name}", exact=True).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    used = 1000 * (time.monotonic() - begun)
    page.page.wait_for_timeout(max(1, 150 - used))  # Chromium drops more than ten downloads a second
    return path


def test_every_figure_has_a_caption_and_is_saved_as_svg_and_png(chromium, path, tmp_path):
    with visit(chromium, path) as page:
        names = []
        for panel in PANELS[:-1]:
            page.show(panel=panel, layer=2, head=1, part="resid_post")
            if panel in OPENED:
                page.page.locator(OPENED[panel]).first.click()
            buttons = page.page.locator(f"#panel-{panel} .save button:visible")
            labels = [button.get_attribute("aria-label") for button in buttons.all()]
            assert labels
            names += [(panel, label.removeprefix("save as SVG: ")) for label in labels if "SVG" in label]
            captions = page.page.locator(f"#panel-{panel} .caption:visible").all_inner_texts()
            assert all(len(caption) > 20 for caption in captions)
        for panel, name in names:
            page.show(panel=panel)
            drawing = ElementTree.parse(saved(page, name, "SVG", tmp_path)).getroot()
            said = " ".join(text for text in drawing.itertext() if text.strip())
            assert "tiny, 11 tokens; gpt2np." in said, name
            assert float(drawing.get("width")) > 100
        assert {("weights", "matrix"), ("map", "strips"), ("mlp", "neuron-pushes")} <= set(names)
        for name, words in (("map", "LayerNorm(stream)"), ("logit-lens", "embedding")):
            assert words in (tmp_path / f"gpt2np-{name}.svg").read_text("utf-8")
        page.show(panel="contributions")
        png = saved(page, "all-contributions", "PNG", tmp_path).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert len(png) > 5000
        page.page.locator("#tab-attention").click()
        page.page.locator(".all-heads summary").click()
        assert page.page.locator(".every-head canvas").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(chromium, generated, scheme):
    with visit(chromium, generated, color_scheme=scheme) as page:
        for panel in [*PANELS, "generation"]:
            page.show(panel=panel, pos=5, step=2)  # at a part of a character
            found = page.js(CONTRASTS)
            assert len(found) > 40
            low = [each for each in found if each[0] < 4.5]
            assert low == [], panel


def test_what_is_touched_on_a_phone_is_large_enough(chromium, path):
    script = """() => [...document.querySelectorAll("button:not(.said), select")].map((e) => {
      const after = getComputedStyle(e, "::after");
      const box = e.matches(".strip") ? e.parentElement.getBoundingClientRect() : e.getBoundingClientRect();
      const beside = after.content === "none" ? 0 : -parseFloat(after.left) - parseFloat(after.right);
      return [box.height, box.width + beside, e.className, e.innerText];
    }).filter(([height, width]) => height && (height < 39.5 || width < 39.5))"""
    with visit(chromium, path, viewport={"width": 390, "height": 844}) as page:
        for panel in PANELS:
            page.show(panel=panel)
            assert page.js(script) == [], panel


def test_a_window_of_a_long_text_says_so_and_moves(chromium, long_run):
    trace, path = long_run
    with visit(chromium, path) as page:
        page.show(panel="attention", layer=1, head=2)
        assert page.text(".attention .window").startswith(
            "Positions 154 to 249 of 250; the first column is the first token."
        )
        page.page.locator(".attention .window input").fill("40")
        assert page.text(".attention .window").startswith("Positions 40 to 135 of 250")
        assert page.focus["pos"] == 249
        canvas = page.page.locator(".picture canvas")
        canvas.hover(position={"x": 42, "y": canvas.bounding_box()["height"] - 6})  # first column, last row
        page.page.wait_for_function("() => document.querySelector('.tip').innerText.includes('looks at')")
        told = page.text(".tip")
        weight = trace["h.1.attn.pattern"][2, 135, 0]
        assert re.search(r"\(135\) looks at .* \(0\)", told)
        percent = float(re.search(r"attention [≈<]? ?([\d.]+) %", told)[1])
        np.testing.assert_allclose(percent, 100 * weight, atol=1)
        page.show(pos=200)
        assert page.text(".attention .window").startswith("Positions 128 to 223 of 250")


def test_the_left_of_the_map_is_a_window_with_the_first_and_the_chosen_token(chromium, long_run):
    trace, path = long_run
    told = r"Left: positions (\d+) to (\d+) of 250, with the first one"
    with visit(chromium, path) as page:
        page.show(panel="map", layer=2, head=0)
        first, last = map(int, re.match(told, page.text("#panel-map .window")).groups())
        assert first > 200
        assert last == 249
        page.page.locator("#panel-map .window input").fill("40")
        first, last = map(
            int, re.match(told + " and the chosen one", page.text("#panel-map .window")).groups()
        )
        assert first == 40
        assert last > 50
        canvas, row = (
            page.page.locator(at) for at in (".streams canvas", '.open [data-site="attn.pattern"]')
        )
        row.scroll_into_view_if_needed()
        left, middle = canvas.bounding_box(), row.bounding_box()
        for x in range(3, 60, 3):
            page.page.mouse.move(left["x"] + x, middle["y"] + middle["height"] / 2)
            if page.js("() => document.querySelector('.tip')?.innerText.includes('positions 1 to 39')"):
                break
        percent = float(re.search(r"takes [≈<]? ?([\d.]+) % from them", page.text(".tip"))[1])
        weights = trace["h.2.attn.pattern"][0, 249, 1:40]
        np.testing.assert_allclose(percent, 100 * weights.sum(), atol=1)
        drawing = ElementTree.parse(saved(page, "map", "SVG", path.parent))
        assert "with the first one and the chosen one. tiny" in " ".join(drawing.getroot().itertext())
        page.show(pos=60)
        assert "chosen" not in page.text("#panel-map .window")
        page.show(pos=100)  # outside of the window: it follows
        assert re.match(told, page.text("#panel-map .window"))[2] == "102"


def test_a_saved_figure_has_no_empty_side(chromium, path, tmp_path):
    with visit(chromium, path) as page:
        page.show(panel="map")
        drawing = ElementTree.parse(saved(page, "map", "SVG", tmp_path)).getroot()
        rows, card = (page.page.locator(at).bounding_box() for at in (".flow", ".card"))
        assert rows["width"] < float(drawing.get("width")) < card["x"]


def test_big_is_for_a_projector(chromium, trace, tmp_path):
    path = tmp_path / "big.html"
    gpt2np.view(trace, out=path, big=True, show="attention")
    size = "() => parseFloat(getComputedStyle(document.querySelector('h2 ~ *, p')).fontSize)"
    with visit(chromium, path, viewport={"width": 1920, "height": 1080}) as page:
        assert page.js(size) >= 21
        for panel in PANELS:
            page.show(panel=panel)
            assert page.js("() => document.documentElement.scrollWidth") <= 1920
        assert "big=0" not in page.page.url  # the file opens so by itself
        page.page.keyboard.press("b")
        assert page.js(size) < 21
        page.page.keyboard.press("1")  # the address says so from the next choice on
        assert "big=0" in page.page.url


def test_a_wide_screen_is_used(chromium, path):
    with visit(chromium, path, viewport={"width": 1920, "height": 1080}) as page:
        page.show(panel="attention")
        assert page.page.locator(".picture canvas").bounding_box()["width"] > 700
        page.show(panel="lens")
        assert page.page.locator(".lens .chart svg").bounding_box()["width"] > 700


def test_captions_can_be_read_alone(chromium, path):
    with visit(chromium, path) as page:
        page.show(panel="attention", layer=2, head=1)
        caption = "#panel-attention .caption"
        assert "share of the query’s attention in percent" in page.text(caption)
        page.page.get_by_role("button", name="scores", exact=True).click()
        assert "score before softmax" in page.text(caption)
        page.page.locator(".finder select").select_option(index=1)
        chosen = page.page.locator(".finder select option").nth(1).inner_text()
        assert f"The score ‘{chosen}’ of each head" in page.page.locator(caption).last.inner_text()
        page.show(panel="contributions")
        page.page.locator(".contributions .toggle button").nth(1).click()
        token = page.text('.contributions .toggle [aria-pressed="true"] .token')
        assert f"the logit of ‘{token}’" in page.text("#panel-contributions .caption").translate(
            {0x2068: None, 0x2069: None}
        )


def test_lines_of_the_residual_stream_are_named_without_touching(chromium, path, long_run):
    for file, least in ((path, 3), (long_run[1], 3)):
        with visit(chromium, file) as page:
            page.show(panel="residual", pos=2)
            for i in (0, 1):
                chart = page.page.locator(".residual .two svg").nth(i)
                names = chart.locator("text:not(.far)").filter(has_text=re.compile(r"^\S.* \d+$"))
                assert names.count() >= (least if i == 0 else 1)
                assert chart.locator(".name-chosen").text_content().endswith(" 2")
                boxes = sorted((name.bounding_box() for name in names.all()), key=lambda box: box["y"])
                for above, below in itertools.pairwise(boxes):
                    assert above["y"] + 0.7 * above["height"] <= below["y"] + 1


def test_a_card_that_is_cut_says_so(chromium, path):
    with visit(chromium, path, viewport={"width": 1280, "height": 600}) as page:
        page.show(panel="map", part="attn.pattern")
        more = page.page.locator(".card .more")
        assert more.is_visible()
        for _ in range(6):
            if more.is_visible():
                more.click()
                page.page.wait_for_timeout(400)
        assert not more.is_visible()
        page.show(part="attn.q")
        assert page.js("() => document.querySelector('.card').scrollTop") == 0
    with visit(chromium, path, viewport={"width": 1280, "height": 2600}) as page:
        assert not page.page.locator(".card .more").is_visible()


def test_a_table_wider_than_its_place_says_what_is_beside_it(chromium, path, long_run):
    with visit(chromium, long_run[1]) as page:
        page.show(panel="lens")
        said = page.text(".beside-table")
        assert re.match(r"← \d\d more; of 250 positions 202 to 249 are here", said)
        page.page.get_by_role("button", name="scroll to earlier positions").click()
        page.until("() => /more →/.test(document.querySelector('.beside-table').innerText)")
    with visit(chromium, path, viewport={"width": 1920, "height": 1080}) as page:
        page.show(panel="lens")
        assert not page.page.locator(".beside-table").is_visible()
