"""The poster: one sheet of A1, with every note, real numbers, and what is left out told as left out."""

import html
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from support.random_model import random_model
from support.viewer_browser import browser

from gpt2np.cli import main
from gpt2np.errors import InputError, TraceError
from gpt2np.viewer import page
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.poster_drawing import DIVERGING, SHARE, Drawing, png, ramp
from gpt2np.viewer.poster_page import poster, poster_svg

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
STATIC = Path(page.__file__).parent / "static"


def words_of(svg):
    """What stands on a poster, every run of spaces as one."""
    return " ".join(" ".join(ElementTree.fromstring(svg).itertext()).split())


def test_every_note_and_its_source_are_on_it(tiny):
    trace = tiny.trace(TEXT)
    said = words_of(poster_svg(trace))
    for note in notes(tiny.config):
        assert note.title in said
        assert note.text in said
        assert f"{note.source}: {note.address}"[:60] in said
    assert "Layers 1 to 3 are left out here" in said
    assert "positions 0 to 5 are left out here" in said
    for (_, i, p), token in zip(trace.top(10), range(10), strict=True):
        assert f"{100 * p:.2f} % logit {trace['logits'][-1, i]:.2f}" in said, token
    for pos in range(6, 11):
        assert f"position {pos}, id {trace.token_ids[pos]:,}" in said


def test_nothing_lies_outside_of_the_sheet_or_upon_another_note(tiny):
    for trace in (
        tiny.trace("Elizabeth was"),
        random_model(n_layer=12, n_head=12, n_embd=48).trace([1, 2, 3]),
    ):
        drawing = ElementTree.fromstring(poster_svg(trace))
        width, height = (float(n) for n in drawing.get("viewBox").split()[2:])
        texts = [part for part in drawing if part.tag.endswith("text")]
        for part in drawing:
            if part.get("y") is not None:
                assert 0 <= float(part.get("x")) <= width
                assert 0 <= float(part.get("y")) <= height
        column = sorted(float(t.get("y")) for t in texts if t.get("x") == "120")
        assert np.diff(column).min() > 20
        assert min(float(t.get("font-size")) for t in texts) >= 28  # 2.8 mm: 8 pt


def test_a_strip_has_the_colours_of_its_vector():
    vector = np.array([-3.0, 0.0, 3.0, 0.5])
    drawing = Drawing(100, 100)
    drawing.strip(0, 0, 40, 10, vector)
    assert "data:image/png;base64," in drawing.parts[0]
    colours = ramp(DIVERGING, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(colours, [DIVERGING[0], DIVERGING[3], DIVERGING[6]])
    image = png(colours[None])
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20], "big") == 3


def test_its_colours_are_those_of_the_page():
    source = (STATIC / "drawing.js").read_text("utf-8")
    light = re.sub(r"\s", "", source[source.index("light: {") : source.index("dark: {")])
    for name, stops in (("diverging", DIVERGING), ("share", SHARE)):
        assert f"{name}:[" + ",".join(f"[{r},{g},{b}]" for r, g, b in stops) in light


def test_a_hostile_text_stays_text(tiny):
    svg = poster_svg(tiny.trace("</text><script>x</script> & <b>"))
    assert "<script" not in svg
    assert "</text><script>x" in words_of(svg).replace(" ", "")
    assert html.escape("<script>") in svg


def test_another_suffix_is_refused_in_one_line(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"p\.pdf"):
        poster(tiny.trace("Elizabeth was"), "p.pdf")
    for wrong in ("p.pdf", "p"):
        assert main(["view", "Elizabeth was", "--poster", wrong, "--no-open"]) == 2
        assert "must end in .html or .svg" in capsys.readouterr().err
    assert main(["view", "Elizabeth was", "--poster", "p.svg", "--out", "x.html"]) == 2
    assert main(["view", "Elizabeth was", "--poster", "p.svg", "--show", "map"]) == 2
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    assert main(["view", "Elizabeth was", "--poster", "p.svg", "--no-open"]) == 0
    assert main(["view", "Elizabeth was", "--poster", "p.svg", "--no-open"]) == 2  # it is there
    assert [path.name for path in tmp_path.iterdir()] == ["p.svg"]


def test_a_run_without_its_vectors_is_refused(tiny, tmp_path):
    with pytest.raises(TraceError):
        poster(tiny.trace(TEXT, keep="attn.*"), tmp_path / "p.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("playwright", "chromium", "pdftotext")
def test_it_prints_on_exactly_one_page_of_a1_with_every_note(tiny, tmp_path):
    poster(tiny.trace(TEXT), tmp_path / "p.html")
    with browser() as chromium:
        shown = chromium.new_page()
        shown.goto((tmp_path / "p.html").as_uri())
        shown.pdf(path=tmp_path / "p.pdf", prefer_css_page_size=True, print_background=True)
    told = subprocess.run(["pdfinfo", tmp_path / "p.pdf"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Pages:\s+1\n", told)
    assert "(A1)" in told
    text = subprocess.run(["pdftotext", "-raw", tmp_path / "p.pdf", "-"], capture_output=True, check=True)
    said = re.sub(r"\s", "", text.stdout.decode("utf-8"))
    for note in notes(tiny.config):
        assert re.sub(r"\s", "", note.title) in said
        assert re.sub(r"\s", "", note.text) in said
