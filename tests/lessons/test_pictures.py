"""Small pictures: a table in a terminal, a coloured one in a notebook, and drawn by the viewer on a page."""

import html
import json
import re

import numpy as np
import pytest

from gpt2np import lessons
from gpt2np.errors import InputError
from gpt2np.lessons.pictures import visible
from gpt2np.viewer.page import bundle, static


def data_of(picture):
    return json.loads(html.unescape(re.search(r'data-picture="([^"]*)"', picture._repr_html_())[1]))


def test_bars_in_a_terminal():
    shares = lessons.bars([0.75, 0.0, 0.25], ["yes", " no", "a\nb"], "votes", percent=True)
    assert str(shares).splitlines() == [
        "votes",
        f"  yes  {'#' * 18}{' ' * 6}  75 %",
        f"  ·no  {' ' * 24}   0 %",
        f"  a⏎b  {'#' * 6}{' ' * 18}  25 %",
    ]
    signed = lessons.bars([-2.0, 1.0], ["a", "b"], numbered=True)
    assert str(signed).splitlines() == [
        f"  0  a  {'-' * 16}{' ' * 8}  -2",
        f"  1  b  {' ' * 16}{'#' * 8}   1",
    ]


def test_the_whole_width_of_shares_is_all_of_them():
    picture = lessons.bars([0.86, 0.0], ["a", "b"], percent=True)
    assert str(picture).splitlines()[0].count("#") == 21
    assert "width:86.0%" in picture._repr_html_()
    assert data_of(picture)["right"] == 1.0


def test_negative_bars_go_to_the_other_side():
    html = lessons.bars([-1.0, 3.0], ["a", "b"])._repr_html_()
    assert "margin-left:0.0%;width:25.0%" in html
    assert "margin-left:25.0%;width:75.0%" in html


def test_what_is_no_number_does_not_look_like_nothing():
    html = lessons.heatmap([[0.0, np.nan]], ["a"], ["x", "y"], percent=True)._repr_html_()
    nothing, none = re.findall('<td style="([^"]*)"', html)
    assert "gradient" in none
    assert "gradient" not in nothing


def test_rows_and_columns_may_have_numbers():
    text = str(lessons.heatmap(np.eye(2), ["a", " b"], ["a", " b"], percent=True, numbered=True))
    assert [line.split() for line in text.splitlines()] == [
        ["0", "a", "1", "·b"],
        ["0", "a", "100", "0"],
        ["1", "·b", "0", "100"],
    ]


def test_a_map_in_a_terminal():
    picture = lessons.heatmap([[1.0, np.nan], [0.126, 0.5]], ["a", " b"], ["x", "y"], "shares", percent=True)
    assert str(picture).splitlines() == ["shares (in percent)", "       x   y", " a   100", " ·b   13  50"]
    scores = lessons.heatmap([[3.14159, -np.inf]], ["a"], ["x", "y"], axes=("query", "key"))
    assert str(scores).splitlines() == ["(rows: query, columns: key)", "      x  y", " a  3.1"]
    both = lessons.heatmap([[1.0]], ["a"], ["x"], "T", axes=("query", "key"), percent=True)
    assert str(both).splitlines()[0] == "T (in percent; rows: query, columns: key)"
    assert "rows: query, columns: key" in both._repr_html_()


def test_whole_numbers_have_no_point():
    assert str(lessons.heatmap([[1.0, np.nan, 20.0]], ["a"], ["x", "y", "z"])).splitlines()[1].split() == [
        "a",
        "1",
        "20",
    ]
    assert "1.0" in str(lessons.heatmap([[1.0, 2.5]], ["a"], ["x", "y"]))


def test_a_map_that_is_too_wide_has_numbers_for_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"a long word {i}" for i in range(9)]
    text = str(lessons.heatmap(np.eye(9), names, names, percent=True))
    assert text.splitlines()[0].split() == [str(i) for i in range(9)]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.5, 0.25], ["0.50", "0.25"]),
        ([31.4, -2.26], ["31.4", "-2.3"]),
        ([1234.5, 2.0], ["1234", "2"]),
        ([1e-5, 2e-5], ["1e-05", "2e-05"]),
        ([1e9, 0.0], ["1e+09", "0"]),
        ([np.nan, np.inf], ["", ""]),
        ([0.0, 0.0], ["0", "0"]),
    ],
)
def test_numbers_have_as_many_places(values, shown):
    assert data_of(lessons.bars(values, ["a", "b"]))["texts"] == shown


def test_a_figure_has_its_table_and_its_numbers():
    picture = lessons.heatmap([[0.5, np.nan]], ["<b>"], ["&", '"'], "a <title>", percent=True)
    text = picture._repr_html_()
    assert text.startswith('<figure class="picture" data-picture="')
    assert "<b>" not in text.replace("<b>a &lt;title&gt;</b>", "")
    assert "<figcaption>" in text
    assert "scope='row'" in text
    data = data_of(picture)
    assert data["values"] == [[0.5, None]]
    assert (data["rows"], data["columns"], data["title"]) == (["<b>"], ["&", '"'], "a <title>")


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="2 numbers, but 1 labels"):
        lessons.bars([1, 2], ["a"])
    with pytest.raises(InputError, match="needs 1"):
        lessons.bars([[1.0]], ["a"])
    with pytest.raises(InputError, match="needs 2"):
        lessons.heatmap([1.0], ["a"], ["b"])
    with pytest.raises(InputError, match=r"\(1, 1\) numbers, but 2 labels of rows, 1 of columns"):
        lessons.heatmap([[1.0]], ["a", "b"], ["c"])
    with pytest.raises(InputError, match="no numbers"):
        lessons.bars(["a"], ["b"])


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" T", "·T"), ("am", "am"), ("\n\n", "⏎⏎"), ("token before", "token before"), ("  ", "··"), ("", "∅")],
)
def test_tokens_are_shown_as_in_the_viewer(token, shown):
    assert visible(token) == shown
    assert visible("\x1b") == "\\u001b"


@pytest.mark.needs("playwright", "chromium")
def test_the_viewer_draws_them(chromium, tmp_path):
    pictures = [
        lessons.bars([0.75, 0.25], ["yes", " no"], "votes", percent=True, numbered=True),
        lessons.bars([-2.0, 1.0], ["a", "b"]),
        lessons.heatmap([[1.0, np.nan], [0.25, 0.5]], ["a", "b"], ["x", "y"], percent=True),
        lessons.heatmap([[1.0, -1.0]], ["a"], ["x", "y"]),
    ]
    body = "".join(picture._repr_html_() for picture in pictures)
    script = bundle(("drawing", "small_pictures"))
    page = tmp_path / "page.html"
    style = f"<style>{static('base.css')}</style>"
    page.write_text(f"<!doctype html><meta charset=utf-8>{style}{body}<script>{script}</script>", "utf-8")
    visit = chromium.new_page(color_scheme="light")
    said = []
    visit.on("console", lambda message: said.append(message.text))
    visit.on("pageerror", lambda error: said.append(str(error)))
    visit.goto(page.as_uri())
    assert visit.evaluate("document.querySelectorAll('figure .bar .fill').length") == 4
    assert visit.evaluate("[...document.querySelectorAll('.fill')].map(bar => bar.style.width)") == [
        *("75%", "25%"),
        *("66.6667%", "33.3333%"),
    ]
    starts = "[...document.querySelectorAll('.fill')].map(bar => bar.style.marginLeft)"
    assert visit.evaluate(starts)[2:] == ["0%", "66.6667%"]
    assert visit.evaluate("document.querySelectorAll('details table').length") == 2
    cells = "[...document.querySelectorAll('figure > table td')].map(td => td.style.background)"
    light = visit.evaluate(cells)
    assert light[0] != light[2] != light[3]
    assert "gradient" in light[1]  # no number
    visit.emulate_media(color_scheme="dark")
    visit.wait_for_function(f"light => {cells}.join() !== light.join()", arg=light)
    visit.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.evaluate(cells) == light
    visit.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.evaluate(cells) != light
    assert said == []
    visit.close()
