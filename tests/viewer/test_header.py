"""The head of the page: long texts, every script, what was chosen, names that are paths."""

import re

import pytest
from support.viewer_browser import visit

import gpt2np
from gpt2np.characters import joined, readable
from gpt2np.generation.filters import probabilities

pytestmark = pytest.mark.needs("playwright", "chromium")

SCRIPTS = "日本語 🙂 naïve مرحبا e\u0301x"
BESIDE = """() => {
  const [list, steppers] = ["[role=tablist]", ".steppers"].map((name) => document.querySelector(name));
  const [a, b] = [list, steppers].map((element) => element.getBoundingClientRect());
  const level = Math.abs(a.top + a.bottom - b.top - b.bottom) < 8;
  return level && b.left >= a.right && list.scrollWidth <= list.clientWidth;
}"""


def percent(p):
    return "< 0.01 %" if p < 5e-5 else f"{100 * p:.2f} %"


def page_of(run, folder):
    path = folder / "page.html"
    gpt2np.view(run, out=path)
    return path


@pytest.mark.parametrize("width", [390, 1024, 1280, 1920])
def test_a_long_text_has_whole_rows_and_a_button_for_the_rest(chromium, long_run, width):
    cut = """() => {
      const ribbon = document.querySelector(".ribbon").getBoundingClientRect();
      return [...document.querySelectorAll(".word")].filter((word) => {
        const box = word.getBoundingClientRect();
        const above = box.bottom <= ribbon.top + 1, below = box.top >= ribbon.bottom - 1;
        return !above && !below && (box.top < ribbon.top - 1 || box.bottom > ribbon.bottom + 1);
      }).length;
    }"""
    with visit(chromium, long_run[1], viewport={"width": width, "height": 844}) as page:
        for pos in (249, 0, 120):
            page.show(pos=pos)
            page.page.wait_for_timeout(30)
            page.page.keyboard.press("ArrowUp")  # what is drawn anew leaves the text where it is
            assert page.js(cut) == 0
            chosen = page.page.locator(".word[aria-pressed=true]").bounding_box()
            ribbon = page.page.locator(".ribbon").bounding_box()
            assert ribbon["y"] <= chosen["y"] <= ribbon["y"] + ribbon["height"]
        if width > 390:
            assert page.js(BESIDE)
        head = page.js("() => document.querySelector('nav.panels').getBoundingClientRect().bottom")
        assert head <= 0.4 * 844
        page.page.get_by_role("button", name="250 tokens, show all").click()
        hidden = (
            "() => { const r = document.querySelector('.ribbon'); return r.scrollHeight - r.clientHeight; }"
        )
        assert page.js(hidden) <= 1


def test_tokens_of_every_script_are_shown_as_they_are_written(chromium, tiny, tmp_path):
    trace = tiny.trace(SCRIPTS)
    with visit(chromium, page_of(trace, tmp_path)) as page:
        assert page.text(".written") == joined(trace.tokens) == SCRIPTS
        shown = page.page.locator(".word").all_inner_texts()
        assert not [word for word in shown if "\\x" in word]
        of_three = shown[trace.tokens.index("\\xe6")]
        assert of_three == "日¹⁄₃"
        assert readable(trace.tokens)[trace.tokens.index("\\xe6")] == "日 1/3"
        assert any(word.startswith("◌\u0301") for word in shown)
        assert page.text(".parts").startswith("²⁄₃ behind a character")
        ink = "e => getComputedStyle(e).color"
        part = page.page.locator(".word:not([aria-pressed=true]) .piece").first
        assert part.evaluate(ink) != part.locator("xpath=../..").evaluate(ink)  # dimmed
        assert page.js("() => gpt2np.run.tokens") == trace.tokens
        assert page.js("() => document.title").startswith(SCRIPTS)
        page.show(panel="attention")
        assert "\\x" not in page.text(".says-where")


def test_text_that_looks_like_bytes_stays_text(chromium, tiny, tmp_path):
    with visit(chromium, page_of(tiny.trace("a <b>&amp; 1/3 of it"), tmp_path)) as page:
        assert page.page.locator(".written").count() == 0
        assert page.page.locator(".parts, .word .piece").count() == 0
        assert page.js("() => document.querySelectorAll('.ribbon b').length") == 0


def test_the_token_chosen_last_stands_beside_the_text(chromium, tiny, tmp_path):
    done = tiny.generate(
        "Elizabeth was", max_new_tokens=6, temperature=1.5, seed=4, keep="*", ledger=True
    ).finish()
    with visit(chromium, page_of(done, tmp_path)) as page:
        last = page.page.locator(".word.last")
        assert last.inner_text() == done.steps[-1].token.replace(" ", "·").replace("\n", "⏎")
        likeliest = [step.token_id == done.trace.top(1, step.positions[-1])[0][1] for step in done.steps]
        assert not all(likeliest)
        for step, first in zip(done.steps, likeliest, strict=True):
            page.show(pos=step.positions[-1])
            said = page.text(".next")
            assert said.startswith("next token:" if first else "chosen:")
            if not first:  # like for like
                own = float(probabilities(step["logits"][-1])[step.token_id])
                assert re.search(rf"{percent(own)}\s+likeliest: .*before filters", said, re.DOTALL)
                assert f"{percent(step.probability)}" in said.partition("after them")[2]
                page.show(panel="generation")
                assert f"{percent(own)} before filters, {percent(step.probability)} after" in page.text(
                    ".choice h3"
                )


@pytest.mark.parametrize(("name", "short"), [("/some/where/small", "small"), ("openai/gpt2", "openai/gpt2")])
def test_a_folder_is_called_by_its_last_part(chromium, tiny, tmp_path, name, short):
    trace = tiny.trace("Elizabeth was")
    trace.metadata["model"] = name
    with visit(chromium, page_of(trace, tmp_path)) as page:
        assert page.text("h1") == short
        assert page.page.locator("h1").get_attribute("title") == name


@pytest.fixture(scope="module")
def with_every_tab(tiny, tmp_path_factory):
    """A page with all panels, of a hundred steps."""
    options = {"max_new_tokens": 100, "temperature": 0.9, "seed": 1, "keep": "*", "ledger": True}
    done = tiny.generate("Elizabeth was", **options).finish()
    path = tmp_path_factory.mktemp("tabs") / "page.html"
    gpt2np.view(done, out=path, against="Mr. Darcy was")
    return path


@pytest.mark.parametrize("width", [1024, 1280, 1920])
def test_ten_tabs_and_the_steppers_are_in_one_row(chromium, with_every_tab, width):
    with visit(chromium, with_every_tab, viewport={"width": width, "height": 800}) as page:
        assert page.page.locator("[role=tab]").count() == 10
        for tab in page.page.locator("[role=tab]").all():
            tab.click()
            assert page.js(BESIDE), tab.inner_text()
        page.page.get_by_role("tab", name="Contributions").click()  # by its whole name, however short it is
        assert page.focus["panel"] == "contributions"
        page.page.set_viewport_size({"width": 1920, "height": 800})
        page.page.wait_for_timeout(100)
        assert page.page.get_by_text("Contributions", exact=True).first.is_visible()
