"""The page on paper: nothing is cut off, all tokens are there, labels can be read, what is one stays so."""

import functools
import itertools
import re
import shutil

import pytest
from support.paper import PAPERS, lines, print_page, sheets
from support.viewer_browser import visit

import gpt2np

pytestmark = pytest.mark.needs("playwright", "chromium", "pdftotext")

SENTENCE = (
    " She was not at all sorry to be so soon parted from the young man, whose manners had been so agreeable."
)
POINT = 0.75 * 0.86  # of a pixel, at the zoom of the print
SMALLEST = 6.5  # points
# Pixels of a browser's window that is as wide as what a sheet has between its margins.
WIDTHS = {"A4": 703, "Letter": 725, "across": 1032, "Letter across": 965}
MOST_SHEETS = {"3": 15, "30": 16, "250": 20, "generation": 18}

PRINTING = "() => { dispatchEvent(new Event('beforeprint')); }"
PRINTED = "() => { dispatchEvent(new Event('afterprint')); }"
# Every text that is drawn as text: its size in pixels, with what scales an SVG.
SIZES = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.getElementById("page"), NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const parent = node.parentElement;
    const box = parent.getBoundingClientRect();
    if (!node.data.trim() || !box.width || parent.closest("title, script, style")) continue;
    const svg = parent.closest("svg");
    const wide = svg && svg.getBoundingClientRect().width / (svg.currentCSSZoom ?? 1);
    const scale = svg ? wide / svg.viewBox.baseVal.width : 1;
    found.push([parseFloat(getComputedStyle(parent).fontSize) * scale, node.data.trim().slice(0, 40)]);
  }
  return found;
}"""
WIDEST = """() => Math.max(...[...document.querySelectorAll("#page *")].map(
  (e) => e.getBoundingClientRect().right - document.getElementById("page").getBoundingClientRect().left))"""
HEADINGS = "() => [...document.querySelectorAll('h2, h3, h4, summary')].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def pages(tiny, long_run, tmp_path_factory):
    """A page of each kind: few tokens, a line, many, and a generation."""
    ids = tiny.tokenizer.encode(SENTENCE)
    options = {"temperature": 0.8, "top_k": 50, "seed": 1, "keep": "*", "ledger": True}
    runs = {
        "3": lambda: tiny.trace("Elizabeth was"),
        "30": lambda: tiny.trace((ids * 2)[:30]),
        "cjk": lambda: tiny.trace("日本語 👩\u200d👩\u200d👧 مرحبا e\u0301"),
        "generation": lambda: tiny.generate("Elizabeth was", max_new_tokens=30, **options).finish(),
    }
    folder = tmp_path_factory.mktemp("print")
    made = {}
    for name, run in runs.items():
        made[name] = run()
        gpt2np.view(made[name], out=folder / f"{name}.html")
    made["250"] = long_run[0]
    shutil.copy(long_run[1], folder / "250.html")
    return folder, made


@pytest.fixture(scope="module")
def pdf_of(chromium, pages):
    """The print of a run on a paper, made once; of the handout with "#tour"."""
    return functools.cache(
        lambda name, paper, hash="": print_page(chromium, pages[0] / f"{name}.html", paper, hash)
    )


@pytest.fixture(scope="module")
def sheets_of(pdf_of):
    """The text of each sheet of such a print."""
    return functools.cache(lambda *printed: sheets(pdf_of(*printed)))


@pytest.fixture(scope="module")
def lines_of(pdf_of):
    """The lines of each sheet of such a print."""
    return functools.cache(lambda *printed: lines(pdf_of(*printed)))


@pytest.fixture(scope="module")
def headings_of(chromium, pages):
    """What is printed of a run as headings."""

    @functools.cache
    def headings(name):
        with visit(chromium, pages[0] / f"{name}.html") as page:
            page.js(PRINTING)
            found = {squeezed(heading) for heading in page.js(HEADINGS)}
            page.js(PRINTED)
        return found

    return headings


def shown(token):
    return token.replace(" ", "·").replace("\n", "⏎")


def squeezed(text):
    """Without spaces, and what isolates directions of writing."""
    return re.sub("[\\s\u2068\u2069]", "", text)


ON = [  # of which every second one is always printed
    ("3", "A4"),
    ("3", "across"),
    ("30", "Letter across"),
    ("30", "Letter"),
    ("250", "across"),
    ("250", "A4"),
    ("generation", "A4"),
    ("generation", "across"),
]


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "paper"), ON)
def test_every_token_and_the_prediction_are_on_paper(sheets_of, pages, name, paper):
    found = sheets_of(name, paper)
    words = squeezed("".join(found))
    run = pages[1][name]
    trace = getattr(run, "trace", run)
    assert "".join(map(shown, trace.tokens)) in words  # the text, in one piece
    word, _, p = trace.top(1)[0]
    assert f"{shown(word)}{100 * p:.2f}%" in words
    heads = words[words.index("Logitlens") :]
    for token in trace.tokens:
        assert shown(token)[:6] in heads  # and above the columns of the lens
    for sheet in found:
        assert len(sheet.split()) > 25, sheet  # no page has a heading alone
    assert len(found) <= MOST_SHEETS[name]
    assert "The way of position" in found[0]  # the map's caption is not alone on a sheet


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "paper"), ON)
def test_what_is_printed_as_text_can_be_read(lines_of, name, paper):
    for sheet in lines_of(name, paper):
        for text, box in sheet:
            high = max(box["yMax"] - box["yMin"], box["xMax"] - box["xMin"])  # some text stands upright
            assert high >= 1.1 * SMALLEST, text  # a line is higher than its letters


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "paper"), ON)
def test_the_open_layer_of_the_map_is_whole_on_a_sheet(sheets_of, name, paper):
    rows = [
        *(
            "LayerNorm(stream)",
            "ln_1·W_Q+b_Q",
            "ln_1·W_K+b_K",
            "softmax(q·kᵀ/√d)",
            "ln_1·W_V+b_V",
            "Σpattern·v",
        ),
        *("z·W_O,byhead", "Σoutputs+b_O", "ln_2·W_in+b_in", "GELU(pre)", "post·W_out+b_out"),
    ]
    found = [squeezed(sheet) for sheet in sheets_of(name, paper)]
    first = next(i for i, sheet in enumerate(found) if rows[1] in sheet)
    assert [row for row in rows if row not in found[first]] == []


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "paper"), ON)
def test_no_heading_is_at_the_foot_of_a_column(headings_of, lines_of, name, paper):
    headings = headings_of(name)
    assert len(headings) > 30
    for sheet in lines_of(name, paper):
        for text, box in sheet:
            if squeezed(text) not in headings:
                continue
            below = [
                other
                for _, other in sheet
                if other["yMin"] > box["yMax"] - 1
                and other["xMin"] < box["xMax"]
                and other["xMax"] > box["xMin"]
            ]
            assert below, text


def test_a_printed_generation_has_every_step(sheets_of, pages):
    text = "\n".join(sheets_of("generation", "A4"))
    table = text[text.index("Every step") :]
    for i, step in enumerate(pages[1]["generation"].steps):
        line = next(line for line in table.splitlines() if line.split()[:1] == [str(i)])
        assert shown(step.token).strip("·") in line
        assert f"{100 * step.probability:.2f} %" in line


def test_what_can_only_be_clicked_is_not_printed_but_said(sheets_of):
    words = " ".join("".join(sheets_of("generation", "A4")).split())
    assert not re.search(r"\b(Click|Point at|follows the step|show all)\b", words)
    said = "This print shows what was chosen: position 31 (“ and”), layer 2, head 0 and step 29."
    assert re.sub(r"\(.*?\)", "", said) in re.sub(r"\(.*?\)", "", words)
    assert "Paper has no room for the other positions, layers, heads and steps" in words
    assert "All 16 heads of all layers" in words
    assert "attention patterns of all 16 heads, layers down and heads across" in words


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["250", "3", "generation"])
def test_labels_can_be_read_and_nothing_is_wider_than_the_paper(chromium, pages, name):
    with visit(chromium, pages[0] / f"{name}.html", viewport={"width": 800, "height": 1100}) as page:
        page.js(PRINTING)
        assert len(page.js(SIZES)) > 200
        assert page.js(WIDEST) <= 801
        page.page.emulate_media(media="print")
        for paper, width in WIDTHS.items():
            page.page.set_viewport_size({"width": width, "height": 700 if "across" in paper else 1000})
            assert page.js(WIDEST) <= width + 1, paper
            size, text = min(page.js(SIZES))
            assert size * POINT >= SMALLEST, (paper, text)
        page.page.emulate_media(media="screen")
        page.js(PRINTED)


@pytest.mark.parametrize(
    ("name", "paper"), [("generation", "Letter"), ("cjk", "Letter"), ("cjk", "across"), ("250", "across")]
)
def test_the_handout_has_two_sheets_and_the_text_from_its_beginning(sheets_of, pages, name, paper):
    first, second = sheets_of(name, paper, "#tour")
    assert re.search(r"\b1\. .*\b2\. .*\b3\. .*\b4\. ", first, re.DOTALL)
    assert re.search(r"\b5\. .*\b6\. .*\b7\. .*\b8\. ", second, re.DOTALL)
    words = squeezed(first)
    run = pages[1][name]
    tokens = [shown(token) for token in getattr(run, "trace", run).tokens]
    if name == "cjk":
        return  # its tokens are parts of characters
    left_out = re.search(r"…(\d+)tokens…", words)
    begin, end = words.split(left_out[0])[:2] if left_out else (words, "")
    assert "".join(tokens[:8]) in begin
    assert (left_out is not None) == (name == "250")
    if left_out:
        shown_first = next(n for n in range(len(tokens), 0, -1) if "".join(tokens[:n]) in begin)
        last = len(tokens) - shown_first - int(left_out[1])
        assert end.startswith("".join(tokens[-last:]))
    if name == "generation":
        assert "Chosen was" in second
        assert f"{100 * run.steps[-1].probability:.2f}" in second


def test_labels_of_the_handout_can_be_read(chromium, pages):
    with visit(chromium, pages[0] / "30.html") as page:
        page.js("() => { location.hash = '#tour' }")
        page.page.locator(".tour").wait_for()
        page.js(PRINTING)
        size, text = min(page.js(SIZES))
        assert size * POINT >= SMALLEST, text
        cut = """() => [...document.querySelectorAll(".stop")]
          .filter((e) => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)
          .map((e) => e.querySelector("h3").textContent)"""
        assert page.js(cut) == []
        page.js(PRINTED)


def test_each_row_of_the_map_takes_its_piece_of_the_columns_along(chromium, pages):
    pieces = """() => [...document.querySelectorAll(".beside")].map((piece) => piece.getBoundingClientRect())
      .map(({ top, bottom }) => [top, bottom])"""
    with visit(chromium, pages[0] / "250.html") as page:
        whole = page.js("() => document.querySelector('.streams canvas').getBoundingClientRect().height")
        page.js(PRINTING)
        found = page.js(pieces)
        assert len(found) > 20
        assert all(abs(above[1] - below[0]) < 0.1 for above, below in itertools.pairwise(found))
        assert found[-1][1] - found[0][0] > 0.7 * whole
        assert page.page.locator(".streams canvas").is_hidden()
        page.js(PRINTED)
        assert page.js(pieces) == []
        assert page.page.locator(".streams canvas").is_visible()


def test_a_narrow_window_prints_as_a_wide_one_and_is_then_as_it_was(chromium, pages):
    canvases = "() => [...document.querySelectorAll('.panel canvas')].map((each) => each.style.width)"
    state = """() => {
      const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
      const open = document.querySelectorAll("details[open]").length;
      return [open, document.documentElement.className, rules.map((rule) => rule.media?.mediaText)];
    }"""
    widths = []
    for width in (390, 1280, 1920):
        with visit(chromium, pages[0] / "3.html", viewport={"width": width, "height": 800}) as page:
            before = page.js(state)
            page.js(PRINTING)
            widths.append(page.js(canvases))
            assert page.js(state)[0] == page.page.locator("details").count()
            page.js(PRINTED)
            assert page.js(state) == before
    assert widths[0] == widths[1] == widths[2]
    assert PAPERS.keys() == WIDTHS.keys()
