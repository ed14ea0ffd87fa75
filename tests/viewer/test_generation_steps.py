"""All steps of a generation at a glance: numbers are those of the ledger, a line opens its step, it fits."""

import numpy as np
import pytest
from support.viewer_browser import visit

import gpt2np
from gpt2np.generation.filters import probabilities
from gpt2np.generation.saved_generation import saved_generation

pytestmark = pytest.mark.needs("playwright", "chromium")

LINES = "table.steps tbody tr"
CELLS = """selector => [...document.querySelectorAll(selector)].map(
  (row) => [...row.cells].map((cell) => cell.textContent))"""


def page_of(run, folder, **place):
    path = folder / "page.html"
    gpt2np.view(run, out=path, show="generation", **place)
    return path


def generated(tiny, n=24, **options):
    return tiny.generate("Elizabeth was", max_new_tokens=n, keep="*", ledger=True, **options).finish()


def cells(page):
    """The text of every line, column by column."""
    return page.js(CELLS, LINES)


def heads(page):
    """The two rows of names above them."""
    return page.js(CELLS, "table.steps thead tr")


def percent(p):
    return f"{100 * p:.2f} %" if p < 0.99995 or p == 1 else "> 99.99 %"


def test_every_line_has_the_numbers_of_its_choice(chromium, tiny, tmp_path):
    done = generated(tiny, temperature=0.9, top_k=50, top_p=0.9, seed=3)
    with visit(chromium, page_of(done, tmp_path), viewport={"width": 1920, "height": 1080}) as page:
        above, below = heads(page)
        assert above == [
            "step",
            "token",
            "probability",
            "rank",
            "left of 2,048 after",
            "entropy",
            "number drawn",
            "likeliest others",
        ]
        assert below == ["before filters", "after", "top-k 50", "top-p 0.9"]
        for i, (line, step) in enumerate(zip(cells(page), done.steps, strict=True)):
            entry, logits = step.ledger, done.trace["logits"][step.positions[-1]]
            own = probabilities(logits.astype(np.float32))[step.token_id]
            after_k = 2048 - sum(removal.count for removal in entry.removals[:2])
            assert line[0] == str(i)
            assert line[1] == step.token.replace(" ", "·").replace("\n", "⏎")
            assert line[2:8] == [
                percent(own) if own >= 0.00005 else line[2],
                percent(entry.probability),
                str(entry.raw_rank + 1),
                str(after_k),
                str(entry.survivors),
                f"{entry.entropy:.2f}",
            ]
            assert line[8] == f"{entry.uniform:.4f}"
            others = [i for i, _ in entry.top if i != entry.token_id][:2]
            assert all(tiny.tokens([i])[0].strip()[:8] in line[9] for i in others)


def test_what_no_option_changes_has_no_column(chromium, tiny, tmp_path):
    with visit(chromium, page_of(generated(tiny, 5, temperature=0), tmp_path)) as page:
        above, below = heads(page)
        assert (above, below) == (
            ["step", "token", "probability", "rank", "entropy", "likeliest others"],
            ["of the model"],
        )
    with visit(chromium, page_of(generated(tiny, 5, temperature=0.7, seed=1), tmp_path)) as page:
        above, below = heads(page)
        assert "candidates" in above
        assert {line[5] for line in cells(page)} == {"2,048"}
        assert below == ["before filters", "after"]


def test_of_a_saved_trace_it_has_what_the_model_thought(chromium, tiny, tmp_path):
    done = generated(tiny, 5, temperature=0.7, seed=1)
    done.trace.save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model=tiny)
    with visit(chromium, page_of(opened, tmp_path)) as page:
        assert heads(page) == [["step", "token", "probability", "likeliest others"], ["of the model"]]
        expected = [percent(np.exp(-loss)) for loss in opened["loss"][done.n_prompt - 1 : -1]]
        assert [line[2] for line in cells(page)] == expected
    with visit(chromium, page_of(saved_generation(opened), tmp_path)) as page:
        assert [line[2] for line in cells(page)][:4] == expected


def test_a_click_or_the_keyboard_opens_a_step(chromium, tiny, tmp_path):
    done = generated(tiny, 12, temperature=0.9, seed=3)
    with visit(chromium, page_of(done, tmp_path)) as page:
        box = page.page.locator(LINES).nth(3).locator("td").nth(2).bounding_box()
        page.page.mouse.click(box["x"] + 4, box["y"] + 4)
        assert page.focus["step"] == 3
        assert page.focus["pos"] == done.n_prompt + 2
        assert page.text(".choice h3").startswith("Step 3:")
        assert page.page.locator("tr.is-open").count() == 1
        layer = page.focus["layer"]
        page.page.locator("tr.is-open button").focus()
        for key, step in (
            ("ArrowDown", 4),
            ("ArrowUp", 3),
            ("End", 11),
            ("ArrowDown", 11),
            ("Home", 0),
            (".", 1),
        ):
            page.page.keyboard.press(key)
            assert page.focus["step"] == step, key
        assert page.focus["layer"] == layer
        page.page.keyboard.press("Tab")  # of a hundred lines one is a stop
        assert not page.js("() => Boolean(document.activeElement.closest('tbody'))")


@pytest.fixture(scope="module")
def hundred(tiny, tmp_path_factory):
    """A page of a hundred steps."""
    done = generated(tiny, 100, temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, seed=3)
    return page_of(done, tmp_path_factory.mktemp("hundred"))


@pytest.mark.parametrize("width", [390, 1024, 1280, 1920])
def test_a_hundred_steps_scroll_within_their_box_which_says_so(chromium, hundred, width):
    inside = """() => {
      const box = document.querySelector(".steps-box").getBoundingClientRect();
      const line = document.querySelector("tr.is-open").getBoundingClientRect();
      const head = document.querySelector(".steps thead").getBoundingClientRect();
      return line.top >= head.bottom - 1 && line.bottom <= box.bottom + 1;
    }"""
    with visit(chromium, hundred, viewport={"width": width, "height": 844}) as page:
        assert "100 steps: the list scrolls." in page.text(".every-step")
        for step in (0, 99, 50, 57, 3):
            page.js("step => gpt2np.show({ step, pos: gpt2np.run.generation.steps[step].pos })", step)
            assert page.js(inside), step
        assert page.page.locator(".steps-box").bounding_box()["height"] <= 620
        assert page.js("() => document.documentElement.scrollWidth") <= width
        box = (
            "() => { const b = document.querySelector('.steps-box'); return b.scrollWidth - b.clientWidth; }"
        )
        assert page.js(box) <= 0 or width == 390
        if width == 390:
            assert page.page.locator("tr.is-open").bounding_box()["height"] >= 40
