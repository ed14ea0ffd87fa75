"""`view(show=, layer=, head=, pos=)`: the page opens there, and what there is not is refused."""

import json
import re
from pathlib import Path

import pytest
from support.command_line import run
from support.viewer_browser import visit

import gpt2np
from gpt2np.errors import InputError
from gpt2np.viewer import page as page_module
from gpt2np.viewer.opening_place import COMPACT, PANELS

TEXT = "Elizabeth was not very"  # 5 tokens; tiny has 4 layers of 4 heads
TABS = (Path(page_module.__file__).parent / "static" / "tabs.js").read_text("utf-8")


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


def test_the_panels_are_those_of_the_page():
    assert tuple(re.findall(r"^  (\w+): \w+Panel,$", TABS, re.MULTILINE)) == PANELS
    assert list(COMPACT) == json.loads(re.search(r"COMPACT = (\[.*?\])", TABS)[1])


PLACES = [
    ({}, ""),
    ({"show": "lens"}, "panel=lens"),
    ({"show": "attention", "layer": 1, "head": 0, "pos": -1}, "panel=attention&layer=1&head=0&pos=4"),
    ({"layer": -1, "head": -4, "pos": -5}, "layer=3&head=0&pos=0"),
]
WRONG = [
    ({"show": "lense"}, "show='lense': this page has no such panel; did you mean 'lens'?"),
    ({"show": "qqq"}, "there are map, attention, lens"),
    ({"show": 3}, "show=3: this page has no such panel"),
    ({"layer": 4}, "layer=4: must be a whole number from -4 to 3"),
    ({"head": -5}, "head=-5: must be a whole number from -4 to 3"),
    ({"pos": 5}, "pos=5: must be a whole number from -5 to 4"),
    ({"pos": "last"}, "pos='last': must be a whole number"),
    ({"show": "lens", "compact": True}, "there are map, attention, glossary"),
    (
        {"show": "generation"},
        "nothing was generated, which generate(..., max_new_tokens=30) does; there are map",
    ),
    ({"show": "against"}, "there is no second run, which against=OTHER adds"),
    ({"show": "changes"}, "the live page has it, `gpt2np view --live`"),
]


@pytest.mark.parametrize(("given", "state"), PLACES)
def test_a_place_is_written_into_the_page(trace, given, state):
    made = gpt2np.view(trace, **given).html
    assert re.search(r'data-opens-at="([^"]*)"', made)[1].replace("&amp;", "&") == state


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_a_place_that_is_none_is_refused(trace, tmp_path, given, said):
    with pytest.raises(InputError) as error:
        gpt2np.view(trace, out=tmp_path / "x.html", **given)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_only_panels_that_this_page_has_are_listed(tiny, trace):
    with pytest.raises(InputError) as error:
        gpt2np.view(trace, show="qqq")
    assert str(error.value).endswith("residual, weights, glossary")
    done = tiny.generate(TEXT, max_new_tokens=2, keep="*").finish()
    with pytest.raises(InputError) as error:
        gpt2np.view(done, show="qqq", against=TEXT)
    assert str(error.value).endswith("weights, against, generation, glossary")
    for each in (done, done.trace):
        assert "panel=generation" in gpt2np.view(each, show="generation").html
    for panel in ("generation", "weights", "against"):
        with pytest.raises(InputError, match=f"show='{panel}': this page has no such panel: "):
            gpt2np.view(tiny, show=panel)


@pytest.mark.needs("playwright", "chromium")
def test_the_page_opens_there_and_an_address_goes_elsewhere(chromium, trace, tmp_path):
    path = tmp_path / "page.html"
    gpt2np.view(trace, out=path, show="attention", layer=1, head=2, pos=3)
    asked = {"panel": "attention", "layer": 1, "head": 2, "pos": 3}
    with visit(chromium, path) as page:
        assert page.focus.items() >= asked.items()
        assert page.page.locator("#panel-attention").is_visible()
        page.page.keyboard.press("ArrowDown")
        assert page.focus["layer"] == 2
        page.page.reload()  # the address has what was chosen since
        page.until("() => Boolean(window.gpt2np)")
        assert page.focus.items() >= (asked | {"layer": 2}).items()
        page.asked.pop()
    gpt2np.view(trace, out=path, show="attention", layer=1, head=2, pos=3, big=True)
    with visit(chromium, path) as page:
        is_big = "() => document.documentElement.classList.contains('big')"
        for address, big in (("panel=lens", True), ("tour", True), ("panel=lens&big=0", False)):
            page.page.goto("about:blank")
            page.page.goto(f"{path.as_uri()}#{address}")
            page.until("() => Boolean(window.gpt2np)")
            assert page.js(is_big) == big
            page.asked.pop()
        assert page.focus.items() >= (asked | {"panel": "lens"}).items()
        page.page.keyboard.press("ArrowLeft")
        assert "big=0" in page.page.url
    frame = tmp_path / "frame.html"
    shown = gpt2np.view(trace, show="attention", layer=1, pos=2, compact=True)
    frame.write_text(f"<body>{shown._repr_html_()}", "utf-8")
    opened = chromium.new_page()
    opened.goto(frame.as_uri())
    inner = opened.frames[1]
    inner.wait_for_selector("#panel-attention")
    assert inner.evaluate("() => gpt2np.focus.pos") == 2
    assert inner.evaluate("() => gpt2np.focus.panel") == "attention"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--show", "attention", "--layer", "1", "--pos", "-1"], ""),
        (["--show", "atention"], "--show atention: this page has no such panel; did you mean 'attention'?"),
        (
            ["--show", "generation"],
            "--show generation: this page has no such panel: nothing was generated, which --max-new-tokens ",
        ),
        (["--show", "against"], "there is no second run, which --against OTHER adds; there are map, "),
        (["--live", "--show", "generation"], "by its button Generate; there are map, attention"),
        (["--layer", "4"], "--layer 4: must be a whole number from -4 to 3"),
        (["--head", "x"], "--head"),
        (["--panel", "lens"], "did you mean --show?"),
    ],
)
def test_the_command_line_has_the_same(capsys, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "view", TEXT, "--no-open", *options)
    assert (code, out) == (2 if said else 0, "")
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ([] if said else ["gpt2np-view.html"])
