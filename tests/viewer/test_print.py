"""The page on paper: nothing is cut off, every token is there, labels can be read, no heading is alone."""

import itertools
import re
import subprocess

import pytest
from support.viewer_browser import visit

import gpt2np

pytestmark = pytest.mark.needs("playwright", "chromium", "pdftotext")

SENTENCE = (
    " She was not at all sorry to be so soon parted from the young man, whose manners had been so agreeable."
)
POINT = 0.75 * 0.86  # of a pixel, at the zoom of the print
SMALLEST = 6.5  # points
PAPERS = {
    "A4": {"format": "A4"},
    "Letter": {"format": "Letter"},
    "across": {"format": "A4", "landscape": True},
}

# Every text that is drawn as text: its size in pixels, with what scales an SVG.
SIZES = """() => {
  dispatchEvent(new Event("beforeprint"));
  const found = [];
  const walk = document.createTreeWalker(document.getElementById("page"), NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const parent = node.parentElement;
    const box = parent.getBoundingClientRect();
    if (!node.data.trim() || !box.width || parent.closest("title, script, style")) continue;
    const svg = parent.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    found.push([parseFloat(getComputedStyle(parent).fontSize) * scale, node.data.trim().slice(0, 40)]);
  }
  return found;
}"""
WIDEST = """() => Math.max(...[...document.querySelectorAll("#page *")].map(
  (e) => e.getBoundingClientRect().right - document.getElementById("page").getBoundingClientRect().left))"""


@pytest.fixture(scope="module")
def pages(tiny, tmp_path_factory):
    """A page of each kind: few tokens, a line, many, and a generation."""
    ids = tiny.tokenizer.encode(SENTENCE)
    options = {"temperature": 0.8, "top_k": 50, "seed": 1, "keep": "*", "ledger": True}
    runs = {
        "3": lambda: tiny.trace("Elizabeth was"),
        "30": lambda: tiny.trace((ids * 2)[:30]),
        "250": lambda: tiny.trace((ids * 11)[:250]),
        "generation": lambda: tiny.generate("Elizabeth was", max_new_tokens=30, **options).finish(),
    }
    folder = tmp_path_factory.mktemp("print")
    made = {}
    for name, run in runs.items():
        made[name] = run()
        gpt2np.view(made[name], out=folder / f"{name}.html")
    return folder, made


def printed(chromium, path, **paper):
    """The text of each page of the print."""
    with visit(chromium, path) as page:
        page.page.pdf(path=path.with_suffix(".pdf"), **paper)
    text = subprocess.run(
        ["pdftotext", "-layout", path.with_suffix(".pdf"), "-"], capture_output=True, check=True
    )
    return text.stdout.decode("utf-8").split("\f")[:-1]


def shown(token):
    return token.replace(" ", "·").replace("\n", "⏎")


ON = [
    ("3", "A4"),
    ("3", "across"),
    ("30", "Letter"),
    ("250", "A4"),
    ("generation", "A4"),
    ("generation", "across"),
]


@pytest.mark.parametrize(("name", "paper"), ON)
def test_every_token_and_the_prediction_are_on_paper(chromium, pages, name, paper):
    folder, made = pages
    sheets = printed(chromium, folder / f"{name}.html", **PAPERS[paper])
    words = re.sub(r"\s", "", "".join(sheets)).replace("\u2068", "").replace("\u2069", "")
    run = made[name]
    trace = getattr(run, "trace", run)
    assert "".join(map(shown, trace.tokens)) in words  # the text, in one piece
    word, _, p = trace.top(1)[0]
    assert f"{shown(word)}{100 * p:.2f}%" in words
    heads = words[words.index("Logitlens") :]
    for token in trace.tokens:
        assert shown(token)[:6] in heads  # and above the columns of the lens
    for sheet in sheets:
        assert len(sheet.split()) > 25, sheet  # no page has a heading alone


def test_a_printed_generation_has_every_step(chromium, pages):
    folder, made = pages
    text = "\n".join(printed(chromium, folder / "generation.html", format="A4"))
    table = text[text.index("Every step") :]
    for i, step in enumerate(made["generation"].steps):
        line = next(line for line in table.splitlines() if line.split()[:1] == [str(i)])
        assert shown(step.token).strip("·") in line
        assert f"{100 * step.probability:.2f} %" in line


@pytest.mark.parametrize("name", ["3", "250", "generation"])
def test_labels_can_be_read_and_nothing_is_wider_than_the_paper(chromium, pages, name):
    with visit(chromium, pages[0] / f"{name}.html", viewport={"width": 800, "height": 1100}) as page:
        sizes = page.js(SIZES)
        assert len(sizes) > 200
        size, text = min(sizes)
        assert size * POINT >= SMALLEST, text
        assert page.js(WIDEST) <= 801
        page.js("() => dispatchEvent(new Event('afterprint'))")


def test_each_row_of_the_map_takes_its_piece_of_the_columns_along(chromium, pages):
    pieces = """() => [...document.querySelectorAll(".beside")].map((piece) => piece.getBoundingClientRect())
      .map(({ top, bottom }) => [top, bottom])"""
    with visit(chromium, pages[0] / "250.html") as page:
        whole = page.js("() => document.querySelector('.streams canvas').getBoundingClientRect().height")
        page.js("() => dispatchEvent(new Event('beforeprint'))")
        found = page.js(pieces)
        assert len(found) > 20
        assert all(abs(above[1] - below[0]) < 0.1 for above, below in itertools.pairwise(found))
        assert found[-1][1] - found[0][0] > 0.8 * whole
        assert page.page.locator(".streams canvas").is_hidden()
        page.js("() => dispatchEvent(new Event('afterprint'))")
        assert page.js(pieces) == []
        assert page.page.locator(".streams canvas").is_visible()
