"""The tour: eight stops with this run's own numbers, by buttons, keys and address; printed, two pages."""

import re

import numpy as np
import pytest
from support import gemma2_checkpoint
from support.paper import PAPERS, sheets
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.lens import logit_lens
from gpt2np.analysis.neurons import most_active

pytestmark = pytest.mark.needs("playwright", "chromium")

# What a stop is about: not above the window, nor below the bar.
IN_SIGHT = """() => {
  const panel = document.querySelector(".panel:not([hidden])");
  const shown = panel.querySelector(".strip[aria-pressed=true]") ??
    panel.querySelector("canvas, svg, .scroll table, .lists");
  const { top, bottom } = shown.getBoundingClientRect();
  const bar = document.querySelector(".tour").getBoundingClientRect();
  return top >= 0 && Math.min(bottom, top + 40) <= bar.top ? [] : [top, bottom, bar.top];
}"""
TEXT = "Elizabeth was not sorry that Mr. Darcy was"


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return path


def test_eight_stops_say_the_numbers_of_this_run(chromium, path, trace):
    with visit(chromium, path) as page:
        page.page.get_by_role("button", name="Tour").click()
        said = []
        for stop in range(1, 9):
            assert page.text(".tour .aside") == f"Stop {stop} of 8"
            assert f"tour={stop}" in page.page.url
            said.append(page.text(".tour p"))
            if stop == 7:
                listed = page.text(".lens .lists h4")
            assert page.page.locator("[role=tabpanel]:visible").count() == 1
            if stop < 8:
                page.page.get_by_role("button", name="next").click()
        assert page.page.get_by_role("button", name="next").is_disabled()
    last = len(trace.tokens) - 1
    norm = np.linalg.norm(trace["wte"][last])
    assert f"number {trace.token_ids[last]:,} of 2,048" in said[0]
    assert f"of length {norm:.3g}." in said[0]
    assert f"{np.linalg.norm(trace['embed'][last]):.3g}" in said[1]
    pattern = trace.stack("attn.pattern")[:, :, last, 1:last]
    layer, head, key = np.unravel_index(pattern.argmax(), pattern.shape)
    assert f"Layer {layer}, head {head} takes {100 * pattern.max():.1f} % from" in said[2]
    assert f"at position {key + 1};" in said[2]
    assert f"{np.linalg.norm(trace[f'h.{layer}.attn.out'][last]):.3g}" in said[3]
    best = most_active(trace, 1).labels["neuron"][0].split(".")
    assert f"Neuron {best[1]} of layer {best[0]}" in said[4]
    assert f"{np.linalg.norm(trace['h.3.resid_post'][last]):.3g}" in said[5]
    tops = logit_lens(trace, k=1).top_ids.array[2::2, last, 0].tolist()
    assert f"After layer {tops.index(tops[-1])} it says" in said[6]
    assert listed == f"Likeliest after layer {tops.index(tops[-1])}"
    word, token, p = trace.top(1)[0]
    assert f"with {100 * p:.2f} %, before" in said[7]
    pushed = attribution(trace, token).array
    assert re.search(rf"adds most, \+{pushed.max():.2f} of \+{pushed.sum():.2f}", said[7])
    assert word.strip() in said[7]


def test_it_starts_by_its_address_and_goes_by_keys(chromium, path):
    with visit(chromium, path) as page:
        page.js("() => { location.hash = '#tour' }")
        page.page.locator(".tour").wait_for()
        assert page.text(".tour .aside") == "Stop 1 of 8"
        for key, stop in (("n", 2), ("Enter", 3), ("p", 2), ("n", 3)):
            page.page.keyboard.press(key)
            assert page.text(".tour .aside") == f"Stop {stop} of 8"
        assert page.focus["panel"] == "attention"
        page.page.keyboard.press("ArrowLeft")  # everything else works as ever
        assert page.focus["pos"] == len(page.js("() => gpt2np.run.tokens")) - 2
        page.page.keyboard.press("Escape")
        assert page.page.locator(".tour").is_hidden()


@pytest.mark.parametrize("width", [390, 1280])
def test_its_keys_work_where_its_buttons_were_pressed(chromium, path, width):
    with visit(chromium, path, viewport={"width": width, "height": 844}) as page:
        page.page.get_by_role("button", name="Tour").click()
        for stop in range(2, 9):
            assert page.js(IN_SIGHT) == [], stop
            page.page.keyboard.press("n")
            assert page.text(".tour .aside") == f"Stop {stop} of 8"
        page.page.get_by_role("button", name="back").click()
        page.page.keyboard.press("Enter")  # a button is pressed once, by itself
        assert page.text(".tour .aside") == "Stop 6 of 8"
        page.page.keyboard.press("p")
        assert page.text(".tour .aside") == "Stop 5 of 8"
        page.page.keyboard.press("Escape")
        assert page.page.locator(".tour").is_hidden()
        focused = "() => document.activeElement.className || document.activeElement.tagName"
        assert page.js(focused) == "tour-start"
        assert "tour" not in page.page.url
        page.page.keyboard.press("Enter")
        assert page.js(focused) == "H2"
        assert "tour=1" in page.page.url


def test_it_says_of_another_architecture_what_is_so_there(chromium, tmp_path):
    model = gpt2np.load(gemma2_checkpoint.write(tmp_path / "m"))
    trace = model.trace([3, 17, 17, 30, 0, 8])
    gpt2np.view(trace, out=tmp_path / "page.html")
    said = []
    with visit(chromium, tmp_path / "page.html") as page:
        page.js("() => { location.hash = '#tour' }")
        page.page.locator(".tour").wait_for()
        for _ in range(8):
            said.append(page.text(".tour p"))
            page.page.keyboard.press("n")
        assert page.text(".tour .aside") == "Stop 8 of 8"
    assert "No position is added here" in said[1]
    assert f"{np.linalg.norm(trace['embed'][-1]):.3g}, is the residual stream" in said[1]
    assert "before the cap on it" in said[7]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_bar_hides_nothing_at_the_foot_of_the_page(chromium, path, width):
    with visit(chromium, path, viewport={"width": width, "height": 844}) as page:
        page.js("() => { location.hash = '#tour=7' }")
        page.page.locator(".tour").wait_for()
        page.js("() => scrollTo(0, document.documentElement.scrollHeight)")
        page.page.wait_for_timeout(100)
        bottom = "() => document.querySelector('main').getBoundingClientRect().bottom"
        assert page.js(bottom) <= page.page.locator(".tour").bounding_box()["y"] + 1
        assert page.js("() => document.documentElement.scrollWidth") <= width


@pytest.mark.needs("pdftotext")
@pytest.mark.every(2)
@pytest.mark.parametrize("paper", PAPERS)
def test_it_prints_as_a_handout_of_two_pages(chromium, path, paper):
    with visit(chromium, path) as page:
        page.js("() => { location.hash = '#tour' }")
        page.page.locator(".tour").wait_for()
        titles = page.js("() => gpt2np.stops")
        page.page.pdf(path=path.with_suffix(".pdf"), **PAPERS[paper])
        assert page.page.locator(".panel:visible").count() == 1  # and the screen is as it was
    found = sheets(path.with_suffix(".pdf"))
    assert len(found) == 2
    for number, title in enumerate(titles, 1):
        assert f"{number}. {title.split()[0]}" in found[number > 4]


def test_a_run_without_most_of_its_parts_has_fewer_stops(chromium, tiny, tmp_path):
    gpt2np.view(tiny.trace(TEXT, keep="attn.*"), out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        page.js("() => { location.hash = '#tour' }")
        page.page.locator(".tour").wait_for()
        assert re.fullmatch(r"Stop 1 of [1-4]", page.text(".tour .aside"))
