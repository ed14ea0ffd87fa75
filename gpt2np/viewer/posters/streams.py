"""Vectors on a poster: the residual streams, and each position's vectors as strips beside them."""

import numpy as np

from gpt2np.ops import Array
from gpt2np.viewer.posters.drawing import (
    ACCENT,
    INK,
    SMALLEST,
    SOFT,
    Drawing,
    full_colour,
    strip_colours,
)
from gpt2np.viewer.posters.facts import Facts
from gpt2np.viewer.posters.layout import (
    CAPTION,
    LABELS,
    NEURONS,
    NORMS,
    ROOM,
    STREAMS,
    TOKENS,
    WEIGHTS,
    Layout,
    Row,
    folds,
    formula,
)
from gpt2np.viewer.posters.lettering import cut, isolated, number, whole_percent, width

CHOSEN = "#12666f"  # of tokens that the model chose itself
QK, OV, MLP = "#12666f", "#7a3b96", "#6a5a14"
CIRCUITS = (  # what reads or writes what, over the rows from one site to another
    (
        "QK circuit: where from",
        QK,
        ("attn.q", "attn.k", "attn.q_rot", "attn.k_rot", "attn.scores", "attn.pattern"),
    ),
    ("OV circuit: what", OV, ("attn.v", "attn.z", "attn.proj", "attn.heads")),
    (
        "MLP: each position alone",
        MLP,
        ("ln_2", "mlp.pre", "mlp.act", "mlp.up", "mlp.post", "mlp.proj", "mlp.out"),
    ),
)


def draw_streams(drawing: Drawing, layout: Layout) -> None:
    """A line down for each position, behind everything else, and what the rows beside it belong to."""
    rows = [row for row in layout.rows if row.kind in ("strip", "heads")]
    first, last = rows[0], rows[-1]
    with drawing.group("streams"):
        for i in range(round(ROOM / layout.step)):
            x = layout.left(i) - 14
            drawing.line((x, first.y + strip_height(first) / 2), (x, last.y + strip_height(last) / 2))
    for words, ink, sites in CIRCUITS:
        held = [row for row in layout.rows if row.large and row.layer is not None and row.site in sites]
        if held:
            _bracket(drawing, words, ink, held[0].y, held[-1].y + held[-1].height)


def _bracket(drawing: Drawing, words: str, ink: str, top: float, bottom: float) -> None:
    x = TOKENS - 22
    drawing.line((x + 10, top), (x, top), (x, bottom), (x + 10, bottom), ink=ink, width=6)
    size = min(34.0, (bottom - top) / width(words, 1, 600))
    if size >= SMALLEST:
        drawing.text(
            x - 10, bottom - (bottom - top - width(words, size, 600)) / 2, words, size, ink, 600, turn=-90
        )


def draw_tokens(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """The head of each column: the token, its position and id, and whether the model chose it itself."""
    drawing.text(LABELS, row.y + 44, "Tokens", 40, INK, 700)
    drawing.text(LABELS, row.y + 80, "pieces of the text, as ids", 29, SOFT)
    room = layout.step - 30
    most = max(width(f"position {pos}, id {facts.trace.token_ids[pos]:,}", 26) for pos in facts.positions)
    most += width(r" = \xa0", 26) * any(facts.in_parts[pos] for pos in facts.positions)
    short = most <= room
    for i, pos in enumerate(facts.positions):
        x = layout.left(i) - 14
        chosen = pos >= facts.n_prompt
        ink, paper = (CHOSEN, "#e3f1f0") if chosen else (ACCENT, "#fbf3ea")
        ink = SOFT if facts.in_parts[pos] else ink
        gap = 44 if i + 1 < len(facts.positions) and facts.positions[i + 1] != pos + 1 else 0
        drawing.box(x - 8, row.y, room + 16 - gap, 62, paper, ink, 10)
        fits = 0.99 * (room - 14 - gap) / max(0.1, width(facts.tokens[pos], 1, 600))
        size = min(44.0, max(28.0, fits))
        drawing.text(x + 6, row.y + 46, cut(facts.tokens[pos], room - 14 - gap, size, 600), size, ink, 600)
        if gap:
            drawing.text(x + room - 12, row.y + 46, "…", 40, SOFT, 700, anchor="middle")
        known = f"id {facts.trace.token_ids[pos]:,}"
        if facts.in_parts[pos]:
            known += f" = {facts.trace.tokens[pos]}"
        told = [f"position {pos}, {known}"] if short else [f"pos. {pos}", known]
        if chosen and short:
            told.append("chosen")
        for k, words in enumerate(told):
            drawing.text(
                x, row.y + 94 + 30 * k, cut(words, room, 26), 26, CHOSEN if words == "chosen" else SOFT
            )
    return TOKENS + ROOM


def strip_height(row: Row) -> float:
    """How high a row's strips are: what its captions leave."""
    return row.height - CAPTION * row.captions


def draw_strips(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """The vector of each position, all on one scale, and how it belongs to the stream."""
    vectors = facts.vectors(row.site, row.layer)
    full, height = full_colour(vectors), strip_height(row)
    rows = min(folds(vectors.shape[1], layout.wide), max(1, int(height / 4)))
    _label(drawing, facts, row, full)
    stream, faint = row.site in STREAMS, row.site == "ln_f"
    for i in range(len(facts.positions)):
        x = layout.left(i)
        _tap(drawing, row, facts.config.architecture.positional, x - 14, x, row.y + height / 2)
        drawing.strip(x, row.y, layout.wide, height, vectors[i], rows, full)
        if stream:
            drawing.box(x - 3, row.y - 3, layout.wide + 6, height + 6, line=ACCENT, ink=6)
        if faint and i < len(facts.positions) - 1:
            drawing.parts.append(
                f'<rect x="{x:.1f}" y="{row.y:.1f}" width="{layout.wide:.1f}" height="{height:.1f}" '
                'fill="#fff" opacity="0.6"/>'
            )
        told = _caption(facts, row, i, layout.wide) if row.captions else []
        for k, words in enumerate(told if row.captions > 1 else [", ".join(told)]):
            line = cut(words, layout.wide + 20, SMALLEST)
            drawing.text(x, row.y + height + 26 + 28 * k, line, SMALLEST, SOFT)
    return TOKENS + ROOM


def _tap(
    drawing: Drawing, row: Row, positional: tuple[str, ...], stream: float, strip: float, y: float
) -> None:
    """What reads the stream has a line from it, what writes is added to it."""
    if row.site in (*NORMS, "wte"):
        drawing.line((stream, y), (strip, y), width=6)
    elif row.site in (*positional, "attn.out", "mlp.out"):
        size = 13 if row.large else 10
        drawing.line((stream, y), (strip, y), width=6)
        drawing.dot(stream, y, size, "#fff", ACCENT)
        drawing.line((stream - size + 4, y), (stream + size - 4, y), width=5)
        drawing.line((stream, y - size + 4), (stream, y + size - 4), width=5)


def _label(drawing: Drawing, facts: Facts, row: Row, full: float) -> None:
    ink = next((ink for _, ink, sites in CIRCUITS[:2] if row.site in sites), INK)
    if not row.large:
        size = 27
        drawing.text(LABELS, row.y + min(row.height, 60) / 2 + 9, row.site, size, ink, 600)
        return
    draw_name(drawing, facts, row, ink, _shape(facts, row, full))


def draw_name(drawing: Drawing, facts: Facts, row: Row, ink: str, shape: str) -> float:
    """The name of a large row's site, how it is computed, and its shape; returns where they end."""
    y = row.y + 32
    drawing.text(LABELS, y, row.site, 40, ink, 700)
    for line in formula(facts, row.site):
        y += 33
        drawing.text(LABELS, y, line, 29, "#33373d")
    drawing.text(LABELS, y + 32, shape, 27, SOFT)
    return y + 32


def _shape(facts: Facts, row: Row, full: float) -> str:
    names = facts.config.architecture.sites[row.site].axis_names
    sizes = [len(facts.trace.token_ids), *(facts.config.dims[axis] for axis in names[1:])]
    return f"{' × '.join(f'{n:,}' for n in sizes)}, ±{full:.2g}"


def _caption(facts: Facts, row: Row, column: int, room: float) -> list[str]:
    """Numbers of one vector: its row, its mean and deviation, or its strongest neuron."""
    pos = facts.positions[column]
    if row.site == "wte":
        return [f"W_E[{facts.trace.token_ids[pos]}]"]
    if row.site in facts.config.architecture.positional:
        return [f"W_P[{pos}]"]
    name = row.site if row.layer is None else f"h.{row.layer}.{row.site}"
    if row.site in NEURONS:
        values = facts.vectors(row.site, row.layer)[column]
        best = np.argsort(-np.abs(values), kind="stable")[: max(1, min(3, int(room / 200)))]
        told = [f"n{i}: {number(values[i], 2)}" for i in best]
        return [f"strongest {told[0]}", *told[1:]] if room > 320 else told
    derived, told = facts.config.architecture.derived, list[str]()
    for kind, words in (
        ("mean", "mean"),
        ("rstd", "σ"),
        ("rms", "root mean square" if room > 320 else "rms"),
    ):
        if f"{row.site}.{kind}" in derived:
            value = facts.trace[f"{name}.{kind}"][pos].item()
            value = 1 / value if kind == "rstd" and value else value
            told.append(f"{words} {number(value, 2)}")
    return told


def draw_heads(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """Each head's vector, one below the other."""
    vectors = facts.vectors(row.site, row.layer)
    full = full_colour(vectors)
    _label(drawing, facts, row, full)
    for i in range(len(facts.positions)):
        drawing.pixels(
            layout.left(i), row.y, layout.wide, row.height, head_rows(vectors[i], full, row.height)
        )
    return TOKENS + ROOM


def head_rows(vectors: Array, full: float, height: float) -> Array:
    """Colours of vectors one below the other, thin white lines between them where they are high enough."""
    colours = strip_colours(np.nan_to_num(vectors.astype(np.float64)), full)
    fine = 8
    if height / len(vectors) < 7:
        return colours
    tall = np.repeat(colours, fine, axis=0)
    tall[fine - 1 :: fine] = 255
    return np.asarray(tall[:-1])


def draw_elided(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """What each layer that is not drawn whole leaves in the stream, and what it would say there."""
    each, end = row.height / len(layout.elided), float(TOKENS + ROOM)
    every = max(1, round(26 / each + 0.49))
    for k, layer in enumerate(layout.elided):
        y = row.y + k * each
        vectors = facts.vectors("resid_post", layer)
        full = full_colour(vectors)
        for i in range(len(facts.positions)):
            drawing.pixels(
                layout.left(i),
                y,
                layout.wide,
                each - 4,
                strip_colours(vectors[i][None].astype(np.float64), full),
            )
        if k % every == 0:
            drawing.text(LABELS, y + each / 2 + 8, f"after layer {layer}", SMALLEST, SOFT)
            said = facts.lens.get(f"h.{layer}.resid_post")
            if said:
                told = cut(f"would say “{isolated(said[0][0])}” {whole_percent(said[0][1])}", 360, SMALLEST)
                drawing.text(WEIGHTS - 34, y + each / 2 + 8, told, SMALLEST, SOFT)
                end = max(end, WEIGHTS - 34 + width(told, SMALLEST))
    return end


def draw_heading(drawing: Drawing, row: Row) -> float:
    """What the rows below it are."""
    words = cut(row.words, WEIGHTS + 300 - LABELS, 46, 700)
    drawing.text(LABELS, row.y + 48, words, 46, ACCENT, 700, paper=True)
    return TOKENS + ROOM
