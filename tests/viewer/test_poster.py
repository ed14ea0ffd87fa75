"""The poster: one sheet of A1, filled, with every note and its thing, in every script and for every model."""

import contextlib
import html
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.poster_reader import SVG, group, said, texts, tree, words_of
from support.random_model import random_model

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import InputError, TraceError
from gpt2np.viewer import page
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.posters.drawing import (
    DIVERGING,
    SHARE,
    SMALLEST,
)
from gpt2np.viewer.posters.facts import facts_of
from gpt2np.viewer.posters.layout import HEIGHT, MARGIN, WIDTH, layout_of
from gpt2np.viewer.posters.lettering import clean, cut, lines, number, whole_percent, width
from gpt2np.viewer.posters.page import poster, poster_svg

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
LONG = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 7
SCRIPTS = "日本語 🙂 Elizabeth مرحبا e\u0301 👩\u200d👩\u200d👧 was"
HOSTILE = '</text><script>x</script> & <b> "\u202e\x07\n'
STATIC = Path(page.__file__).parent / "static"
IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42]
LATE = ("Unembedding", "Tied weights", "Decoding")  # what a stopped run did not come to
POINT = 25.4 / 72 * 10  # in tenths of a millimetre


def of_layers(layers, heads=4, tokens=9, **sizes):
    model = random_model(n_layer=layers, n_head=heads, n_embd=heads * 8, **sizes)
    return model.trace([3 * i % 50 for i in range(tokens)])


SHEETS = {
    "one token": lambda tiny, _: tiny.trace("E"),
    "three tokens": lambda tiny, _: tiny.trace("Elizabeth was"),
    "eleven tokens": lambda tiny, _: tiny.trace(TEXT),
    "long": lambda tiny, _: tiny.trace(LONG),
    "scripts": lambda tiny, _: tiny.trace(SCRIPTS),
    "shape of GPT-2": lambda *_: of_layers(12, 12),
    "shape of GPT-2 XL": lambda *_: of_layers(48, 25, 12),
    "the smallest": lambda *_: of_layers(1, 1, 1, vocab_size=8),
    "not to the end": lambda tiny, _: tiny.trace(TEXT, stop_at_layer=2),
    "generation": lambda tiny, _: tiny.generate("Elizabeth was", max_new_tokens=6, keep="*").finish(),
    "Gemma-2": lambda *_: gemma2_checkpoint.in_memory("SF" * 13, num_attention_heads=8).trace(IDS),
    "GPT-Neo": lambda _, folder: gpt2np.load(gpt_neo_checkpoint.write(folder, "GL" * 6)).trace(IDS),
}


@pytest.fixture(scope="module", params=SHEETS)
def sheet(request, tiny, tmp_path_factory):
    """A poster, and its run."""
    run = SHEETS[request.param](tiny, tmp_path_factory.mktemp("sheet") / "model")
    return poster_svg(run), getattr(run, "trace", run)


def test_every_note_and_its_source_are_on_it(sheet):
    svg, trace = sheet
    everything = said(svg)
    for note in notes(trace.config):
        if trace.plan.stop_at_layer is not None and note.title in LATE:
            continue
        for words in (note.title, note.text, f"{note.source}: {note.address}"):
            assert re.sub(r"\s", "", words) in everything, note.title
        assert f'<a href="{note.address}">' in svg


def test_lines_join_each_note_with_its_thing(sheet):
    svg, trace = sheet
    facts = facts_of(trace, trace)
    rows = {row.name: row for row in layout_of(facts, 0).rows}
    groups = {part.get("id"): part for part in tree(svg).iter(f"{SVG}g")}
    for note in notes(trace.config):
        if trace.plan.stop_at_layer is not None and note.title in LATE:
            continue
        part = groups["note-" + "".join(c if c.isalnum() else "-" for c in note.title.lower())]
        sites = [site for site in note.sites if f"h.0.{site}" in rows or site in rows]
        line, dot = part.find(f"{SVG}polyline"), part.find(f"{SVG}circle")
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert points[-1] == (float(dot.get("cx")), float(dot.get("cy")))
        title = part.find(f"{SVG}text")
        assert abs(points[0][1] - float(title.get("y"))) < float(title.get("font-size"))
        boxes = [
            box
            for site in sites
            for name in (f"h.0.{site}", site, f"panels-h.0.{site}", f"heads-h.0.{site}")
            for box in (groups.get(name),)
            if box is not None
        ]
        heights = [float(text.get("y")) for box in boxes for text in box.iter(f"{SVG}text")]
        if heights:
            assert min(abs(points[-1][1] - y) for y in heights) < 40, note.title


def test_it_is_filled_to_its_foot(sheet):
    svg, _ = sheet
    ends = [
        float(part.get("y")) + float(part.get("height", 0))
        for part in tree(svg).iter()
        if part.get("y") and part.get("height") != str(HEIGHT)
    ]
    assert HEIGHT - MARGIN - 200 < sorted(ends)[-2] <= HEIGHT - 60


def test_as_many_layers_as_have_room_are_whole(tiny):
    for text in ("E", "Elizabeth was", TEXT, LONG):
        svg = poster_svg(tiny.trace(text))
        for layer in range(4):
            for site in ("ln_1", "attn.out", "resid_mid", "mlp.pre", "mlp.post", "mlp.out", "resid_post"):
                assert group(svg, f"h.{layer}.{site}") is not None
        assert "What is left out" not in words_of(svg)
    svg = poster_svg(of_layers(12, 12))
    found = re.search(r"Layers (\d+) to (\d+) are left out: built as layer 0", words_of(svg))
    first, last = map(int, found.groups())
    for layer in range(12):
        assert (f'id="h.{layer}.resid_mid"' in svg) == (layer < first or layer > last)
    assert len(list(group(svg, "elided").iter(f"{SVG}image"))) == 9 * (last - first + 1)


def test_it_takes_less_than_a_second(tiny):
    trace, taken = tiny.trace(TEXT), []
    for _ in range(2):
        before = time.process_time()
        poster_svg(trace)
        taken.append(time.process_time() - before)
    assert min(taken) < 1


def test_a_trace_without_its_model_has_no_weights(tiny, tmp_path):
    tiny.trace("Elizabeth was").save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    svg = poster_svg(opened)
    assert "W_Q" not in texts(tree(svg))
    assert "attn.heads" not in texts(tree(svg))
    assert "Attention heads" in words_of(svg)
    assert texts(group(poster_svg(opened, tiny), "wte")).count("W_E") == 1


def test_every_script_is_shown_as_written(tiny):
    svg = poster_svg(tiny.trace(SCRIPTS))
    assert SCRIPTS in texts(tree(svg))
    told = texts(group(poster_svg(tiny.trace("日é")), "tokens"))
    assert {"日¹⁄₃", "é²⁄₂"} <= set(told)
    assert any(words.endswith(r"= \xa9") for words in told)


def test_tokens_do_not_turn_the_words_around_them(tiny):
    svg = poster_svg(tiny.trace("مرحبا"))
    told = [words for part in tree(svg).iter(f"{SVG}g") for words in texts(part) if "head 0: " in words]
    assert told
    for words in told:
        assert re.fullmatch(r"head 0: (\u2068[^\u2069]*\u2069\xa0\(\d+\)\xa0\d\.\d\d(, |,?$))+", words), words
    hostile = poster_svg(tiny.trace("a\u2069b\u2068c"))
    assert hostile.count("\u2068") == hostile.count("\u2069")
    assert "a\u2069b" not in hostile


def test_a_long_text_says_how_much_of_it_is_left_out(tiny):
    trace = tiny.trace(LONG)
    told = words_of(poster_svg(trace))
    n = int(re.search(r" … (\d+) more tokens … ", told)[1])
    before, after = told.split(f" … {n} more tokens … ")
    ends = [
        len(trace.tokens) - n - i
        for i in range(1, 200)
        if before.endswith("".join(trace.tokens[:i]).strip())
        and after.startswith("".join(trace.tokens[n + i :]).strip())
    ]
    assert ends
    assert " more tokens … " not in words_of(poster_svg(tiny.trace(TEXT)))


def test_its_numbers_are_written_as_on_the_page():
    assert [number(x, 1) for x in (-0.04, 0.0, -1.25, 3)] == ["0.0", "0.0", "−1.2", "3.0"]
    assert [whole_percent(p) for p in (0, 0.004, 0.5, 0.996, 1)] == [
        "0\xa0%",
        "<\xa01\xa0%",
        "50\xa0%",
        ">\xa099\xa0%",
        "100\xa0%",
    ]


def test_the_list_of_tokens_is_told(tiny):
    told = words_of(group(poster_svg(tiny.trace("E")), "note-tokenizer"))
    parts = tiny.tokenizer.parts()
    assert f"{parts['bytes']} bytes, {parts['merges']:,} merges" in told
    assert "· stands for a space" in told


def test_one_layer_without_room_is_told_of_as_one():
    for layers in range(3, 13):
        told = words_of(poster_svg(of_layers(layers, 12)))
        if " 1 of " in told:
            assert f"1 of {layers} layers has no room on this sheet. It has the parts" in told
            return


def test_a_hostile_text_stays_text(tiny, tmp_path):
    svg = poster_svg(tiny.trace(HOSTILE))
    assert "<script" not in svg
    assert "</text><script>x" in said(svg)
    assert html.escape("<script>") in svg
    assert "\u202e" not in svg
    assert "\x07" not in svg


def test_it_needs_nothing_from_outside(tiny, tmp_path):
    svg = poster_svg(tiny.trace(TEXT))
    kinds = {part.tag.removeprefix(SVG) for part in tree(svg).iter()}
    assert kinds == {"svg", "title", "g", "text", "rect", "polyline", "path", "circle", "image", "a"}
    assert "style=" not in svg
    for part in tree(svg).iter(f"{SVG}image"):
        assert part.get("href").startswith("data:image/png;base64,")
    poster(tiny.trace(TEXT), tmp_path / "p.html")
    written = (tmp_path / "p.html").read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', written)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.digest(re.search(r"<style>(.*?)</style>", written)[1]) in policy


def test_lettering():
    assert width("iiii", 100) < width("mmmm", 100) < width("日日日日", 100)
    assert width("e\u0301", 10) == width("e", 10)
    assert cut("Elizabeth", 1000, 40) == "Elizabeth"
    short = cut("Elizabeth", 100, 40)
    assert short.endswith("…")
    assert width(short, 40) <= 100
    told = lines("as it is https://example.org/a/rather/long/address/that/has/no/spaces at all", 300, 30)
    assert all(width(line, 30) <= 300 for line in told)
    assert "".join(told).replace(" ", "").startswith("asitishttps://example.org/a/rather/long")
    assert clean("a\nb\x00\ud800\u200d\u3000") == "a↵b\ufffd\ufffd\u200d\u3000"


def test_its_colours_are_those_of_the_page():
    source = (STATIC / "drawing.js").read_text("utf-8")
    light = re.sub(r"\s", "", source[source.index("light: {") : source.index("dark: {")])
    for name, stops in (("diverging", DIVERGING), ("share", SHARE)):
        assert f"{name}:[" + ",".join(f"[{r},{g},{b}]" for r, g, b in stops) in light


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
    assert main(["view", "Elizabeth was", "--max-new-tokens", "2", "--poster", "g.svg", "--no-open"]) == 0
    assert "the model chose the other 1 (green); it chose one more" in words_of(
        (tmp_path / "g.svg").read_text("utf-8")
    )
    capsys.readouterr()
    for wrong, told in (
        (["Elizabeth was", "--poster", ""], "--poster is empty: give the name of a file"),
        (["--against", "y"], "as in: gpt2np view 'Elizabeth was'"),
    ):
        with contextlib.suppress(SystemExit):
            assert main(["view", *wrong, "--no-open"]) == 2
        assert told in capsys.readouterr().err


def test_a_run_without_its_vectors_is_refused(tiny, tmp_path):
    for kept in ("attn.*", "mlp.*", "embed"):
        with pytest.raises(TraceError):
            poster(tiny.trace(TEXT, keep=kept), tmp_path / "p.svg")
    assert list(tmp_path.iterdir()) == []


BOXES = """() => {
  const svg = document.querySelector('svg');
  const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
  return [...svg.querySelectorAll('text')].map((text) => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left * scale, box.top * scale, box.right * scale, box.bottom * scale,
            Number(text.getAttribute('font-size'))];
  });
}"""


def overlaps(boxes):
    """Pairs of texts that lie upon each other, their lines' empty space above and below aside."""
    shown = [
        (words, x, y + 0.16 * (v - y), u, v - 0.16 * (v - y))
        for words, x, y, u, v, _ in boxes
        if words.strip()
    ]
    shown.sort(key=lambda box: box[2])
    for i, (one, x, y, u, v) in enumerate(shown):
        for other, left, top, right, bottom in shown[i + 1 :]:
            if top > v:
                break
            if min(u, right) - max(x, left) > 2 and min(v, bottom) - max(y, top) > 2:
                yield one, other


@pytest.mark.needs("playwright", "chromium")
def test_no_text_lies_upon_another_or_outside_or_is_too_small(sheet, chromium, tmp_path):
    svg, _ = sheet
    (tmp_path / "p.svg").write_text(svg, "utf-8")
    shown = chromium.new_page()
    shown.goto((tmp_path / "p.svg").as_uri())
    boxes = shown.evaluate(BOXES)
    shown.close()
    assert list(overlaps(boxes)) == []
    for words, left, top, right, bottom, size in boxes:
        assert left > 50, words
        assert top > 50, words
        assert right < WIDTH - 50, words
        assert bottom < HEIGHT - 50, words
        assert size >= 6.5 * POINT, words
    assert SMALLEST >= 6.5 * POINT
    assert np.mean([size > 6.8 * POINT for *_, size in boxes]) > 0.6


@pytest.mark.needs("playwright", "chromium", "pdftotext")
@pytest.mark.parametrize("text", [TEXT, LONG])
def test_it_prints_on_exactly_one_page_of_a1_with_every_note(tiny, chromium, tmp_path, text):
    poster(tiny.trace(text), tmp_path / "p.html")
    shown, messages = chromium.new_page(), []
    shown.on("console", lambda message: messages.append(message.text))
    shown.goto((tmp_path / "p.html").as_uri())
    shown.pdf(path=tmp_path / "p.pdf", prefer_css_page_size=True, print_background=True)
    shown.close()
    assert messages == []
    told = subprocess.run(["pdfinfo", tmp_path / "p.pdf"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Pages:\s+1\n", told)
    assert "(A1)" in told
    found = subprocess.run(["pdftotext", "-raw", tmp_path / "p.pdf", "-"], capture_output=True, check=True)
    everything = re.sub(r"\s", "", found.stdout.decode("utf-8"))
    for note in notes(tiny.config):
        assert re.sub(r"\s", "", note.title) in everything
        assert re.sub(r"\s", "", note.text) in everything
