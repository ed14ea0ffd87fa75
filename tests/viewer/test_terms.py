"""Words that the glossary has: the first of each in a panel opens its entry where it is read."""

import pytest
from support import gemma2_checkpoint
from support.viewer_browser import visit

import gpt2np

pytestmark = pytest.mark.needs("playwright", "chromium")

LINKED = "() => [...document.querySelectorAll('section:not([hidden]) .term')].map((e) => e.dataset.of)"
READ = """() => [...document.querySelectorAll("section:not([hidden]) :is(.intro, .card .text)")]
  .map((e) => e.innerText).join(" ")"""


@pytest.fixture(scope="module")
def path(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(tiny.trace("Elizabeth was a neuron, a head, a logit"), out=path)
    return path


def test_the_first_of_each_word_in_a_panel_is_linked_and_no_token_is(chromium, path):
    with visit(chromium, path) as page:
        for panel, word in {"map": "residual stream", "lens": "unembedding", "mlp": "neuron"}.items():
            page.show(panel=panel, layer=1)
            page.show(layer=2)  # panels draw their texts anew
            terms = page.js(LINKED)
            assert word in terms
            assert len(terms) == len(set(terms))
            assert page.page.locator(".token .term, .word .term").count() == 0
        page.show(panel="map", part="attn.v")
        assert "What this position hands over to whoever attends to it." in page.js(READ)
        assert page.js("() => getComputedStyle(document.querySelector('.card .text')).display") == "block"
        page.show(panel="glossary")
        assert page.js(LINKED) == []


def test_a_word_opens_its_entry_by_keyboard_and_leads_to_the_glossary(chromium, path):
    with visit(chromium, path) as page:
        page.show(panel="lens")
        word = page.page.locator('[data-of="unembedding"]:visible')
        word.focus()
        page.page.keyboard.press("Enter")
        assert "The table that scores a vector against every token." in page.text(".definition")
        box, screen = page.page.locator(".definition").bounding_box(), page.page.viewport_size
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= screen["width"]
        page.page.keyboard.press("Escape")
        assert page.page.locator(".definition").is_hidden()
        assert page.js("() => document.activeElement.dataset.of") == "unembedding"
        page.page.keyboard.press("Enter")
        page.page.keyboard.press("Tab")
        page.page.keyboard.press("Enter")
        assert page.focus["panel"] == "glossary"
        assert page.js("() => document.activeElement.dataset.term") == "unembedding"
        assert page.page.locator(".definition").is_hidden()


def test_another_architecture_has_its_own_words(chromium, tmp_path):
    path = tmp_path / "page.html"
    gemma = gpt2np.load(gemma2_checkpoint.write(tmp_path / "gemma", "SF"))
    gpt2np.view(gemma.trace([1, 2, 3]), out=path)
    with visit(chromium, path, viewport={"width": 390, "height": 844}) as page:
        page.show(panel="lens")
        assert "RMSNorm" in page.js(LINKED)
        page.page.locator('[data-of="RMSNorm"]:visible').click()
        assert page.text(".definition").startswith("RMSNorm")
