"""The poster: one sheet of A1, filled, with every note and its thing, and with the numbers of the run."""

import base64
import html
import re
import struct
import subprocess
import time
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.random_model import random_model

import gpt2np
from gpt2np.analysis.layer_norms import norm_parameters
from gpt2np.analysis.lens import logit_lens, nearest_rows
from gpt2np.cli import main
from gpt2np.errors import InputError, TraceError
from gpt2np.generation.filters import keep_top_p, probabilities, scale_temperature
from gpt2np.viewer import page
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.poster_drawing import (
    DIVERGING,
    SHARE,
    SMALLEST,
    Drawing,
    full_colour,
    png,
    ramp,
    strip_colours,
)
from gpt2np.viewer.poster_facts import facts_of
from gpt2np.viewer.poster_layout import HEIGHT, MARGIN, WIDTH, layout_of
from gpt2np.viewer.poster_lettering import clean, cut, lines, width
from gpt2np.viewer.poster_page import poster, poster_svg

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
LONG = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 7
SCRIPTS = "日本語 🙂 Elizabeth مرحبا e\u0301 👩\u200d👩\u200d👧 was"
HOSTILE = '</text><script>x</script> & <b> "\u202e\x07\n'
STATIC = Path(page.__file__).parent / "static"
IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42]
SVG = "{http://www.w3.org/2000/svg}"
LATE = ("Unembedding", "Tied weights", "Decoding")  # what a stopped run did not come to
POINT = 25.4 / 72 * 10  # in tenths of a millimetre


def tree(svg):
    return ElementTree.fromstring(svg)


def group(svg, name):
    """What is drawn under a name."""
    found = [part for part in tree(svg).iter(f"{SVG}g") if part.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def words_of(part):
    """What stands on a poster, or on a part of it, every run of spaces as one."""
    part = tree(part) if isinstance(part, str) else part
    return " ".join(" ".join(part.itertext()).split())


def said(part):
    """The same without spaces: where lines are broken does not matter."""
    return re.sub(r"\s", "", words_of(part))


def texts(part):
    return [text.text for text in part.iter(f"{SVG}text")]


def pixels(image):
    """The colours of a picture in a drawing."""
    data = base64.b64decode(image.get("href").partition(",")[2])
    wide, high = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(data[start:]), np.uint8).reshape(high, 1 + 3 * wide)
    return rows[:, 1:].reshape(high, wide, 3)


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


def test_strips_have_the_colours_of_their_vectors(tiny):
    trace = tiny.trace("Elizabeth was")
    svg = poster_svg(trace)
    for name in ("wte", "embed", "h.0.ln_1", "h.0.attn.out", "h.3.resid_post", "ln_f"):
        images = list(group(svg, name).iter(f"{SVG}image"))
        full = full_colour(trace[name])
        for i in range(3):
            colours = pixels(images[i])
            shown = strip_colours(trace[name][i].astype(np.float64), full)
            np.testing.assert_array_equal(colours[0, :: colours.shape[1] // 192], shown)


def test_scores_and_patterns_have_names_numbers_and_a_scale(tiny):
    trace = tiny.trace("Elizabeth was not")
    svg = poster_svg(trace)
    n = len(trace.token_ids)
    for site, digits in (("attn.scores", 1), ("attn.pattern", 2)):
        values = trace[f"h.0.{site}"]
        told = texts(group(svg, f"panels-h.0.{site}"))
        for head in range(4):
            assert f"head {head}" in told
        numbers = [
            f"{values[head, i, k]:.{digits}f}" for head in range(4) for i in range(n) for k in range(i + 1)
        ]
        kept = [word for word in told if re.fullmatch(rf"-?\d+\.\d{{{digits}}}", word)]
        assert kept == numbers
        for token in ("E", "lizabeth", "·was", "·not"):
            assert len([t for t in told if t == token or (t.endswith("…") and token.startswith(t[:-1]))]) == 8
    seen = trace["h.0.attn.scores"][:, np.tri(n, dtype=bool)]
    scale = words_of(group(svg, "panels-h.0.attn.scores"))
    assert f"{seen.min():.3g}".replace("-", "−") in scale
    assert f"{seen.max():.3g}" in scale
    assert "0.5" in texts(group(svg, "panels-h.0.attn.pattern"))


def test_from_where_to_where_heads_read(tiny):
    trace = tiny.trace("Elizabeth was not")
    svg = poster_svg(trace)
    flows = re.findall(r'id="(flow-(\d+)-h\.(\d+)\.attn\.flow)"', svg)
    assert [int(layer) for _, _, layer in flows] == [0, 0, 0, 1, 2, 3]
    for name, head, layer in flows:
        shares = trace[f"h.{layer}.attn.pattern"][int(head)]
        part = group(svg, name)
        assert [t for t in texts(part) if re.fullmatch(r"\d\.\d\d", t)] == [f"{p:.2f}" for p in shares[-1]]
        assert len(list(part.iter(f"{SVG}path"))) == np.count_nonzero(shares >= 0.02)
    beside = words_of(group(svg, "note-layer-2--what-the-last-position---not--reads"))
    pattern = trace["h.2.attn.pattern"][:, -1]
    for head in range(4):
        key = int(pattern[head].argmax())
        token = trace.tokens[key].replace(" ", "·")
        assert f"head {head}: {token} ({key}) {pattern[head, key]:.2f}" in beside


def test_what_a_long_text_reads_elsewhere_is_told(tiny):
    trace = tiny.trace(LONG)
    n = len(trace.token_ids)
    svg = poster_svg(trace)
    assert f"Of {n} tokens 12 have a column: position 0, and {n - 11} to {n - 1}." in words_of(svg)
    assert "…" in texts(group(svg, "tokens"))
    told = texts(group(svg, "panels-h.0.attn.pattern"))
    assert told.count("other") == 4
    image = next(group(svg, "panels-h.0.attn.pattern").iter(f"{SVG}image"))
    shown = [0, *range(n - 11, n)]
    rest = 1 - trace["h.0.attn.pattern"][0][shown][:, shown].astype(np.float64).sum(axis=1)
    colours = pixels(image)
    step = colours.shape[0] // 12, colours.shape[1] // 13
    np.testing.assert_allclose(
        colours[:: step[0], 12 * step[1]].astype(int), ramp(SHARE, np.sqrt(np.maximum(rest, 0))), atol=2
    )


def test_numbers_beside_the_vectors(tiny):
    trace = tiny.trace("Elizabeth was")
    svg = poster_svg(trace)
    assert [f"W_E[{i}]" for i in trace.token_ids] == [
        t for t in texts(group(svg, "wte")) if t.startswith("W_E[")
    ][-3:]
    norm = texts(group(svg, "h.0.ln_1"))
    for pos in range(3):
        mean, rstd = (trace[f"h.0.ln_1.{kind}"][pos].item() for kind in ("mean", "rstd"))
        assert f"mean {mean:.2f}, σ {1 / rstd:.2f}".replace("-", "−") in norm
    scale, shift = norm_parameters(tiny).array[0]
    for name, values in (("scale", scale), ("shift", shift)):
        assert f"{name}, {values.min():.2f} to {values.max():.2f}".replace("-", "−") in norm
    post = trace["h.0.mlp.post"]
    told = words_of(group(svg, "h.0.mlp.post"))
    for pos in range(3):
        best = int(np.abs(post[pos]).argmax())
        assert f"n{best}: {post[pos, best]:.2f}" in told
    sizes = {"attn.q": "192 × 192", "mlp.pre": "192 × 768", "mlp.out": "768 × 192"}
    for site, size in sizes.items():
        found = [name for name in (f"h.0.{site}", f"heads-h.0.{site}") if f'id="{name}"' in svg]
        assert size in texts(group(svg, found[0]))
    assert "2,048 × 192" in texts(group(svg, "wte"))


def test_the_prediction(tiny):
    trace = tiny.trace(TEXT)
    svg = poster_svg(trace)
    part, logits = texts(group(svg, "prediction")), trace["logits"][-1]
    half, nucleus = probabilities(scale_temperature(logits, 0.5)), probabilities(keep_top_p(logits, 0.9))
    for _, i, p in trace.top(10):
        for number in (f"{logits[i]:.2f}", f"{100 * p:.2f}", f"{100 * half[i]:.2f}"):
            assert number in part
        assert f"{100 * nucleus[i]:.2f}" in part or not nucleus[i]
    for row in nearest_rows(trace).array:
        assert f"dot product {row[0]:.2f}, length of the row {row[1]:.2f}, cosine {row[2]:.2f}" in part
    lens = logit_lens(trace, k=3, pos=-1)
    site = lens.top_ids.labels["site"].index("h.2.resid_mid")
    i, p = lens.top_ids.array[site, 0, 0], lens.top_probabilities.array[site, 0, 0]
    told = words_of(group(svg, "note-layer-2--what-it-adds"))
    assert f"it would say “{trace.token(i).replace(' ', '·')}” {100 * p:.0f} %" in told
    length = np.linalg.norm(trace["h.2.attn.out"][-1].astype(np.float64))
    assert f"a vector of length {length:.2f}" in told
    parts = list(group(svg, "decoding").iter(f"{SVG}rect"))[:-1]
    shares = [float(rect.get("width")) for rect in parts]
    np.testing.assert_allclose(
        np.array(shares) / shares[0], [p / trace.top(1)[0][2] for *_, p in trace.top(10)], atol=1e-3
    )


def test_norms_before_a_write_have_their_scale():
    model = gemma2_checkpoint.in_memory("SF")
    svg = poster_svg(model.trace(IDS))
    found = norm_parameters(model)
    for site in ("attn.out", "mlp.out"):
        scale = found.array[list(found.labels["norm"]).index(f"h.0.{site}"), 0]
        told = f"scale, {scale.min():.2f} to {scale.max():.2f}".replace("-", "−")
        assert told in texts(group(svg, f"h.0.{site}"))


def test_it_takes_less_than_a_second(tiny):
    trace = tiny.trace(TEXT)
    before = time.process_time()
    poster_svg(trace)
    assert time.process_time() - before < 1


def test_a_generation_says_what_was_chosen(tiny):
    run = tiny.generate("Elizabeth was", max_new_tokens=5, temperature=0.8, seed=1, keep="*").finish()
    svg = poster_svg(run)
    everything = words_of(svg)
    assert "The first 3 are the prompt; the model chose 5 tokens (green), temperature 0.8." in everything
    assert f"chosen here: {run.tokens[-1].replace(' ', '·')}" in everything
    assert texts(group(svg, "tokens")).count("chosen") == 4  # the fifth has no position yet


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
    assert "日 1/3" in texts(group(poster_svg(tiny.trace("日本")), "tokens"))


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


def test_a_strip_has_the_colours_of_its_vector():
    drawing = Drawing(100, 100)
    drawing.strip(0, 0, 40, 10, np.array([-3.0, 0.0, 3.0]), full=3.0)
    image = tree(f'<svg xmlns="{SVG[1:-1]}">{drawing.parts[0]}</svg>')[0]
    colours = pixels(image)
    step = colours.shape[1] // 3
    np.testing.assert_array_equal(colours[0, ::step][:3], [DIVERGING[0], DIVERGING[3], DIVERGING[6]])
    assert int.from_bytes(png(colours)[16:20], "big") == colours.shape[1]


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
    assert "the model chose 2 tokens" in words_of((tmp_path / "g.svg").read_text("utf-8"))


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
