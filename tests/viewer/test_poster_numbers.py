"""The numbers of a poster are those of its run."""

import re

import numpy as np
from support import gemma2_checkpoint
from support.poster_reader import SVG, group, pixels, texts, tree, words_of

from gpt2np.analysis.layer_norms import norm_parameters
from gpt2np.analysis.lens import logit_lens, nearest_rows
from gpt2np.generation.filters import keep_top_p, probabilities, scale_temperature
from gpt2np.viewer.posters.drawing import (
    DIVERGING,
    SHARE,
    Drawing,
    full_colour,
    png,
    ramp,
    strip_colours,
)
from gpt2np.viewer.posters.lettering import number, whole_percent
from gpt2np.viewer.posters.page import poster_svg

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
LONG = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 7
IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42]


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
            number(values[head, i, k], digits) for head in range(4) for i in range(n) for k in range(i + 1)
        ]
        kept = [word for word in told if re.fullmatch(rf"−?\d+\.\d{{{digits}}}", word)]
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
    beside = words_of(group(svg, "note-layer-2--what-the-last-position----not---reads"))
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
    assert f"other: what is read at the {n - 12} positions without" in words_of(
        group(svg, "panels-h.0.attn.pattern")
    )
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
        assert f"n{best}: {number(post[pos, best], 2)}" in told
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
        for told in (number(logits[i], 2), f"{100 * p:.2f}", f"{100 * half[i]:.2f}"):
            assert told in part
        assert f"{100 * nucleus[i]:.2f}" in part or not nucleus[i]
    for row in nearest_rows(trace).array:
        dot, length, cosine = (number(value, 2) for value in row)
        assert f"dot product {dot}, length of the row {length}, cosine {cosine}" in part
    lens = logit_lens(trace, k=3, pos=-1)
    site = lens.top_ids.labels["site"].index("h.2.resid_mid")
    i, p = lens.top_ids.array[site, 0, 0], lens.top_probabilities.array[site, 0, 0]
    told = words_of(group(svg, "note-layer-2--what-it-adds"))
    assert (
        f"it would say “{trace.token(i).replace(' ', '·')}” {whole_percent(p)}".replace("\xa0", " ") in told
    )
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


def test_a_generation_says_what_was_chosen(tiny):
    run = tiny.generate("Elizabeth was", max_new_tokens=5, temperature=0.8, seed=1, keep="*").finish()
    svg = poster_svg(run)
    everything = words_of(svg)
    assert "The first 3 are the prompt; the model chose the other 4 (green); it chose one more" in everything
    assert "which was not run; temperature 0.8." in everything
    assert run.text in everything  # whole, as it is read above the picture
    assert f"chosen here: {run.tokens[-1].replace(' ', '·')}" in everything
    assert texts(group(svg, "tokens")).count("chosen") == 4  # the fifth has no position yet


def test_a_strip_has_the_colours_of_its_vector():
    drawing = Drawing(100, 100)
    drawing.strip(0, 0, 40, 10, np.array([-3.0, 0.0, 3.0]), full=3.0)
    image = tree(f'<svg xmlns="{SVG[1:-1]}">{drawing.parts[0]}</svg>')[0]
    colours = pixels(image)
    step = colours.shape[1] // 3
    np.testing.assert_array_equal(colours[0, ::step][:3], [DIVERGING[0], DIVERGING[3], DIVERGING[6]])
    assert int.from_bytes(png(colours)[16:20], "big") == colours.shape[1]
