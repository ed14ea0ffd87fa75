"""The page of a lesson: its cells are run and shown, it needs nothing else, and everybody can read it."""

import html
import json
import os
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from support import needs
from support.command_line import run

from gpt2np.lessons.code_colours import by_line, highlighted
from gpt2np.lessons.handout import SHEETS, handout
from gpt2np.lessons.page import lesson_page
from gpt2np.lessons.percent_file import Cell, cells_of
from gpt2np.lessons.prose import Prose, plain, until_step
from gpt2np.lessons.running import run_cells
from gpt2np.lessons.shelf import lesson_called, lessons

SAMPLE = Path(__file__).parent / "sample_lesson.py"
NAMES = [lesson.path.stem for lesson in lessons()]
rendered = pytest.mark.needs("markdown_it")
in_a_browser = pytest.mark.needs("markdown_it", "playwright", "chromium")


# -- running ------------------------------------------------------------------------------------------------


class Coloured:
    """A result with a picture of its own."""

    def _repr_html_(self):
        return "<b>seen</b>"


def outputs(code, path=Path("lesson.py"), line=1):
    (ran,) = run_cells([Cell("code", code, line)], path)
    return [(output.kind, output.content) for output in ran.outputs]


AT = "lesson.py, line"
RUNS = [
    ("x = 1", []),
    ("", []),
    ("1 + 1", [("text", "2\n")]),
    ("None", []),
    ("'a'\n'b'", [("text", "'b'\n")]),  # as in a notebook, the last one only
    ("print('a')\nprint('b')\n3", [("text", "a\nb\n"), ("text", "3\n")]),
    ("Coloured()", [("html", "<b>seen</b>")]),
    ("print('a'); lessons.show(Coloured(), 4); print('b')", None),
    ("import sys; sys.displayhook(5)", [("text", "5\n")]),
    ("print('a')\n1 / 0", [("text", "a\n"), ("error", f"{AT} 8: ZeroDivisionError: division by zero")]),
    ("raise SystemExit(3)", [("error", f"{AT} 7: SystemExit: 3")]),
    ("x = (", [("error", f"{AT} 7: SyntaxError: '(' was never closed")]),
    ("def f():\n    return no_such\nf()", [("error", f"{AT} 8: NameError: name 'no_such' is not defined")]),
    ("assert 1 == 2, 'not so'", [("error", f"{AT} 7: AssertionError: not so")]),
]


@pytest.mark.parametrize(("code", "expected"), RUNS, ids=[code[:30] for code, _ in RUNS])
def test_a_cell_shows_what_a_notebook_shows(code, expected, monkeypatch):
    monkeypatch.setattr("builtins.Coloured", Coloured, raising=False)
    found = outputs(f"from gpt2np import lessons\n{code}", line=6)
    if expected is None:
        expected = [("text", "a\n"), ("html", "<b>seen</b>"), ("text", "4\n"), ("text", "b\n")]
    assert found == expected


def test_the_next_cell_runs_all_the_same_and_nothing_is_left_behind():
    hook, folders, columns = sys.displayhook, list(sys.path), os.environ.get("COLUMNS")
    cells = cells_of("# %% [markdown]\n# text\n# %%\nx = 1\nx / 0\n# %%\nprint(x)\n")
    ran = run_cells(cells, Path("lesson.py"))
    assert [[output.kind for output in each.outputs] for each in ran] == [[], ["error"], ["text"]]
    assert (sys.displayhook, sys.path, os.environ.get("COLUMNS")) == (hook, folders, columns)


def test_tables_have_one_width_whatever_the_terminal(monkeypatch):
    code = "from gpt2np.tables import screen_width\nscreen_width()"
    monkeypatch.setenv("COLUMNS", "47")
    assert outputs(code) == [("text", "80\n")]
    assert os.environ["COLUMNS"] == "47"


# -- texts and code -----------------------------------------------------------------------------------------


@rendered
def test_texts_are_rendered_with_anchors_and_without_markup_of_their_own():
    prose = Prose()
    made = prose.html(
        "# 3. Who?\nminutes: 20\n\nA <script>x</script> & `a < b`\n\n## Part\n\n## Part\n\n## ?\n"
    )
    assert "&lt;script&gt;" in made
    assert "<em>20 minutes</em>" in made
    assert "<code>a &lt; b</code>" in made
    anchors = re.findall(r'<h\d id="([^"]*)"', made)
    assert anchors == [heading.anchor for heading in prose.headings] == ["3-who", "part", "part-2", "part-3"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# A title\n## Part", "A title\nPart"),
        ("a *b* **c d** `e * f`", "a b c d `e * f`"),
        ("2 * 3 * 4 and x*y*z", "2 * 3 * 4 and x*y*z"),
        ("[the page](viewer.md)", "the page"),
        ("**a `b*` c**\nand\n  more\n\nnew", "a `b*` c and more\n\nnew"),
        ("# T\nminutes: 6\nx\ny", "T\nminutes: 6\nx y"),
        ("- one\n  more\n- two\n\n1. a\n2. b", "- one more\n- two\n\n1. a\n2. b"),
        ("| a | b |\n| - | - |\nx", "| a | b |\n| - | - |\nx"),
    ],
)
def test_a_text_for_a_terminal(text, shown):
    assert plain(text) == shown


STEPS = cells_of("# %% [markdown]\n# # T\n# %%\nx = 1\n# %% [markdown]\n# a\n# ## 1\n# b\n#\n# ## 2\n# c\n")


@pytest.mark.parametrize(
    ("number", "last", "n"), [(1, "a", 3), (2, "a\n## 1\nb", 3), (3, "a\n## 1\nb\n\n## 2\nc", 3)]
)
def test_the_cells_in_front_of_a_step(number, last, n):
    found = until_step(STEPS, number)
    assert (len(found), found[-1].source) == (n, last)
    assert until_step(cells_of("# %% [markdown]\n# # T\n# %% [markdown]\n# ## 1\n"), 1) == STEPS[:1]


@pytest.mark.parametrize(
    "source",
    [
        "x = '<b>' # <i>\nreturn 1",
        "'''a\n\n  b'''\n\n\nfor x in y: pass\n",
        "x = (",
        "\n\n  'é\u2028\x0c' + 1",
        "x = f'{a!r:>{w}}'",
        "a\n  b\n c",
        "",
    ],
)
def test_colours_change_no_character(source):
    for made in (highlighted(source), by_line(source)):
        assert html.unescape(re.sub(r"</?span[^>]*>", "", made)) == source
    for line in by_line(source).split("\n"):
        assert line.count("<span") == line.count("</span>")  # no mark goes on in the next line


def test_a_line_knows_how_far_it_is_indented():
    first, second, third = by_line("def f():\n\n    return 1").split("\n")
    assert [first[:33], second] == ['<span class="line" style="--in:0">'[:33], ""]
    assert third == '<span class="line" style="--in:4">    <span class="keyword">return</span> 1</span>'


@rendered
def test_a_number_keeps_its_percent_and_a_token_its_space():
    made = Prose().html("94 % of ` lord` and `a b`")
    assert made == '<p>94\u00a0% of <code class="token"> lord</code> and <code>a b</code></p>\n'


# -- the page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each lesson's page and handout, and those of the sample, as files."""
    needs.imported("markdown_it")
    folder = tmp_path_factory.mktemp("pages")
    for lesson in lessons():
        cells = cells_of(lesson.path.read_text("utf-8"))
        lesson_page(lesson, run_cells(cells, lesson.path)).save(folder / f"{lesson.path.stem}.html")
        handout(lesson, cells).save(folder / f"{lesson.path.stem}-handout.html")
    cells = cells_of(SAMPLE.read_text("utf-8") + MORE)
    lesson_page(lesson_called("3"), run_cells(cells, SAMPLE)).save(folder / "sample.html")
    handout(lesson_called("3"), cells).save(folder / "sample-handout.html")
    return folder


ALL = [*NAMES, "sample"]
MORE = """

# %%
1 / 0

# %%
lessons.check("attention.scores", lambda q, k: q @ none)

# %%
lessons.check("attention.scores", lambda q, k: np.einsum("qhd,khd->hqk", q, k))
"""
FILES = [f"{name}{kind}.html" for name in ALL for kind in ("", "-handout")]


class Elements(HTMLParser):
    """The tags of a page with their attributes, its frames' contents left out."""

    VOID = ("meta", "br", "hr", "img", "input", "link", "col")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", FILES)
def test_a_page_is_whole_and_asks_for_nothing(pages, name):
    text = (pages / name).read_text("utf-8")
    elements = Elements(text)
    assert elements.open == []
    assert elements.tags[0] == ("html", {"lang": "en"})
    for tag, attributes in elements.tags:
        assert tag not in ("link", "img", "object", "embed", "base", "form")
        assert tag != "script" or not attributes  # the drawing of small pictures stands in the page
        assert "src" not in attributes
        assert not any(key.startswith("on") for key in attributes)
        assert "://" not in attributes.get("href", "")
        assert tag != "iframe" or (attributes["title"] and attributes["sandbox"] == "allow-scripts")
    assert not re.search(r"url\(|@import", re.sub(r'srcdoc="[^"]*"', "", text))
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        attributes["href"][1:] for tag, attributes in elements.tags if tag == "a" and "href" in attributes
    ]
    assert set(links) <= set(ids)


@pytest.mark.parametrize("name", FILES)
def test_headings_are_in_order(pages, name):
    levels = [
        int(tag[1]) for tag, _ in Elements((pages / name).read_text("utf-8")).tags if re.match("h[1-6]$", tag)
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_every_cell_with_its_line_and_no_failure(pages, name):
    lesson, text = lesson_called(name), (pages / f"{name}.html").read_text("utf-8")
    cells = cells_of(lesson.path.read_text("utf-8"))
    assert text.count('<div class="cell') == sum(cell.kind == "code" for cell in cells)
    assert "output error" not in text
    lines = lesson.path.read_text("utf-8").split("\n")
    for line, source in re.findall(
        r"<span>line (\d+)</span></header>\n<pre[^>]*><code>(.*?)</code></pre>", text, re.S
    ):
        first = html.unescape(re.sub(r"</?span[^>]*>", "", source)).split("\n")[0]
        assert lines[int(line) - 1] == first
    assert text.count('role="status" aria-live="polite"') >= len(lesson.exercises)
    for exercise in lesson.exercises:
        assert f"gpt2np learn check {name}.py {exercise.function}</code>" in text
        assert f"your turn: <strong>{exercise.function}</strong>" in text
    assert "about:blank" not in text
    assert len(text.encode("utf-8")) < 1_500_000


@pytest.mark.parametrize("name", NAMES)
def test_who_guesses_sees_the_answer_when_they_ask_for_it(pages, name):
    text = (pages / f"{name}.html").read_text("utf-8")
    before, _, after = text.partition("Break it</h2>")
    assert '<details class="pause">' not in before
    answer = after[: after.index("The real GPT-2</h2>")]
    assert "<summary>Show what happens</summary>" in answer
    open_parts = re.sub(r'<details class="pause">.*?</details>(?!\n</figure>)', "", answer, flags=re.S)
    assert 'class="output' not in open_parts
    assert ">assert<" not in open_parts
    assert open_parts.count('<pre class="code"') == 1  # what was tried next is an answer, too
    assert '<details class="pause">' not in after[len(answer) :]


@pytest.mark.parametrize("name", NAMES)
def test_a_handout_asks_for_a_guess_and_does_not_answer(pages, name):
    page, paper = ((pages / f"{name}{kind}.html").read_text("utf-8") for kind in ("", "-handout"))
    answers = re.findall(r"<summary>Show what it means</summary>\n(<p>.*?</p>)", page, re.S)
    assert answers
    assert not [answer for answer in answers if answer in paper]
    assert paper.count("your guess") == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_says_that_it_is_one(pages, name):
    page = (pages / f"{name}.html").read_text("utf-8")
    assert page.count("<iframe") == page.count('<p class="note">The page of the run, in a frame')


@rendered
def test_a_page_shows_results_and_failures_of_a_learners_file(pages):
    text = (pages / "sample.html").read_text("utf-8")
    assert "two and two: 4.0" in text
    for said in ("not written yet", "NameError: name", "wrong."):
        assert said in text
    assert text.count('role="status" aria-live="polite"') == 3
    assert '<div class="output error"><pre' in text
    assert "ZeroDivisionError: division by zero" in text
    assert "&lt;b&gt;markup&lt;/b&gt; is text" in text


@rendered
def test_learn_opens_the_page_of_the_file_here(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("3_attention.py").write_text(SAMPLE.read_text("utf-8") + "\n# %%\nprint('my own line')\n", "utf-8")
    code, out, err = run(capsys, "learn", "3", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["file"] == "3_attention.py"
    assert opened == [Path(told["page"]).as_uri()]
    assert "<code>my own line</code>" in Path(told["page"]).read_text("utf-8")
    assert "no browser could be started" in err
    assert sorted(path.name for path in Path().iterdir()) == ["3_attention.py", "temporary"]


@rendered
@pytest.mark.parametrize("more", [[], ["--handout"], ["--ipynb"], ["--handout", "--ipynb"]])
def test_a_page_with_a_name_is_written_and_not_opened(tmp_path, monkeypatch, capsys, more):
    monkeypatch.setattr("webbrowser.open", lambda _: pytest.fail("opened"))
    monkeypatch.chdir(tmp_path)
    Path("3_attention.py").write_text(SAMPLE.read_text("utf-8"), "utf-8")
    code, out, _ = run(capsys, "learn", "3", "--html", "new/page.html", *more)
    assert (code, out) == (0, "")
    assert ("Name:" in Path("new/page.html").read_text("utf-8")) == ("--handout" in more)
    assert Path("3_attention.ipynb").exists() == ("--ipynb" in more)
    assert run(capsys, "learn", "3", "--html", "new/page.html")[0] == 2
    assert run(capsys, "learn", "3", "--html", "new/page.html", "--force")[0] == 0


# -- in a browser -------------------------------------------------------------------------------------------


class Opened:
    """A page in a browser: what it said on the console, and what it asked for."""

    def __init__(self, chromium, path, width=1280, scheme="light"):
        self.said, self.asked = [], []
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self.page

    def __exit__(self, *_):
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("about:")] == self.asked[:1]


# The contrast of every text with what is behind it.
CONTRAST = """() => {
  const rgba = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a] = rgba(getComputedStyle(at).backgroundColor);
      if (a === undefined || a > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest("noscript, style")) continue;
    const a = light(rgba(getComputedStyle(element).color).slice(0, 3)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${element.tagName}.${element.className} ${element.textContent.slice(0, 40)}`;
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${name}`);
  }
  return found;
}"""
# What can be scrolled sideways, but not with the keyboard.
UNREACHABLE = """() => [...document.querySelectorAll("main *")].filter((element) =>
  element.scrollWidth > element.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(element).overflowX) &&
  !element.closest("[tabindex='0']")).map((element) => element.outerHTML.slice(0, 200))"""
# Maps that do not fit.
WIDE = """() => [...document.querySelectorAll("figure[data-picture]")].filter((figure) =>
  figure.parentElement.scrollWidth > figure.parentElement.clientWidth + 1).map((each) => each.innerText)"""
CUT = """() => [...document.querySelectorAll("main pre")].filter((pre) =>
  pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.innerText)"""


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", FILES)
def test_everybody_can_read_it_on_a_screen_and_on_paper(chromium, pages, name, scheme):
    with Opened(chromium, pages / name, 1280, scheme) as page:
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CONTRAST) == []
            assert page.evaluate(UNREACHABLE) == []
            assert page.evaluate(WIDE) == []
        page.set_viewport_size({"width": 688, "height": 900})
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 688
        assert page.evaluate(CONTRAST) == []
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert (ink, paper) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")  # light, with nothing cut
        assert page.evaluate(CUT) == []


@in_a_browser
@pytest.mark.parametrize("name", ALL)
def test_the_keyboard_reaches_everything(chromium, pages, name):
    with Opened(chromium, pages / f"{name}.html") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.getAttribute('href')")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == first
        top = page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", first[1:])
        assert 0 <= top < 900


@in_a_browser
@pytest.mark.parametrize("name", NAMES)
def test_frames_draw_what_is_in_them(chromium, pages, name):
    with Opened(chromium, pages / f"{name}.html") as page:
        frames = page.locator("iframe")
        assert frames.count() <= 1  # a whole view page is large
        for i in range(frames.count()):
            frames.nth(i).scroll_into_view_if_needed()
            page.frames[i + 1].wait_for_selector("[role=tab][aria-selected=true]")


@in_a_browser
@pytest.mark.parametrize("name", ALL)
def test_a_handout_prints_on_two_sheets(chromium, pages, name):
    with Opened(chromium, pages / f"{name}-handout.html") as page:
        for paper in ("A4", "Letter"):
            printed = page.pdf(format=paper, print_background=True)
            assert 1 <= len(re.findall(rb"/Type\s*/Page[^s]", printed)) <= SHEETS, paper
        page.emulate_media(media="print")
        size = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize) * 0.75")
        assert size >= 7.5  # points
