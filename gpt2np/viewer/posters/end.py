"""The end of a poster: logits, the rows of the unembedding nearest to the final vector, and decoding."""

import numpy as np

from gpt2np.analysis.lens import nearest_rows
from gpt2np.analysis.named_array import NamedArray
from gpt2np.errors import Gpt2npError
from gpt2np.generation.filters import keep_top_k, keep_top_p, probabilities, scale_temperature
from gpt2np.ops import Array
from gpt2np.tracing.lines import unembedding_table
from gpt2np.viewer.posters.drawing import (
    ACCENT,
    INK,
    LINE,
    SMALLEST,
    SOFT,
    Drawing,
    full_colour,
    strip_colours,
)
from gpt2np.viewer.posters.facts import Facts
from gpt2np.viewer.posters.layout import BOXES, LABELS, LIKELIEST, NAMES, ROOM, TOKENS, WEIGHTS, Row
from gpt2np.viewer.posters.lettering import cut, isolated, number
from gpt2np.viewer.posters.streams import draw_name

BARS = ("#12666f", "#63b1b5")
DECODINGS = (  # how a token may be chosen: the heading of its column, and what it does to the logits
    ("softmax", lambda x: x),
    ("T = 0.5", lambda x: scale_temperature(x, 0.5)),
    ("T = 2", lambda x: scale_temperature(x, 2.0)),
    ("top-k 3", lambda x: keep_top_k(x, 3)),
    ("top-p 0.9", lambda x: keep_top_p(x, 0.9)),
)


def draw_logits(drawing: Drawing, facts: Facts, row: Row) -> float:
    """All logits of the last position as one strip, less their mean."""
    logits = facts.trace["logits"][-1].astype(np.float64)
    values = np.nan_to_num(logits - logits[np.isfinite(logits)].mean())
    rows = max(1, min(int(row.height - 34) // 4, -(-len(values) // int(ROOM / 3))))
    full = full_colour(values)
    draw_name(drawing, facts, row, INK, f"1 × {len(values):,}, ±{full:.2g}")
    drawing.strip(TOKENS, row.y, ROOM, row.height - 34, values, rows, full)
    where = (
        "each cell a token, by id from the upper left, line by line"
        if rows > 1
        else "each cell a token, by id"
    )
    told = f"of the last position, less their mean {number(np.nanmean(logits), 2)}: {where}"
    drawing.text(TOKENS, row.y + row.height - 6, told, 26, SOFT)
    return TOKENS + ROOM


def draw_prediction(drawing: Drawing, facts: Facts, row: Row) -> float:
    """The likeliest tokens with logit and probability, what decoding makes of them, and their rows."""
    top = facts.trace.top(min(LIKELIEST, facts.config.vocab_size))
    logits = facts.trace["logits"][-1]
    ways = [(name, probabilities(change(logits))) for name, change in DECODINGS]
    names = [facts.told(i) for _, i, _ in top]
    wide = ROOM * 0.53
    first, each = 440, (wide - 440) / len(ways)
    columns = [TOKENS + first + each * (k + 1) - 24 for k in range(len(ways))]
    step = (row.height - 56) / len(top)
    drawing.text(LABELS, row.y + 32, "prediction", 40, INK, 700)
    drawing.paragraph(LABELS, row.y + 64, f"the {len(top)} likeliest of {len(logits):,} tokens", NAMES, 29)
    for x, words in zip(
        [TOKENS + first - 20, *columns], ["logit", *(f"{name}, %" for name, _ in ways)], strict=True
    ):
        drawing.text(x, row.y + 26, words, 27, SOFT, 600, anchor="end")
    for k, ((_, i, _), name) in enumerate(zip(top, names, strict=True)):
        y = row.y + 40 + step * k
        middle = y + step / 2 + 10
        for x, (_, chances) in zip(columns, ways, strict=True):
            drawing.box(x + 8 - (each - 16), y + 3, (each - 16) * chances[i], step - 6, "#cfe6e5")
            told = f"{100 * chances[i]:.2f}" if chances[i] else "–"
            drawing.text(x, middle, told, 32, INK, anchor="end")
        drawing.text(TOKENS + first - 20, middle, number(logits[i], 2), 32, INK, anchor="end")
        ink = ACCENT if i == facts.chosen else INK
        drawing.text(TOKENS, middle, cut(name, 290, 38, 600), 38, ink, 600)
    if facts.chosen is not None:
        told = f"chosen here: {isolated(facts.told(facts.chosen))}"
        drawing.text(LABELS, row.y + 160, cut(told, NAMES, 30, 600), 30, ACCENT, 600)
    return _rows(drawing, facts, row, TOKENS + wide + 110)


def _rows(drawing: Drawing, facts: Facts, row: Row, x: float) -> float:
    """The final vector beside the rows of the unembedding that are nearest to it."""
    try:
        found = nearest_rows(facts.trace, k=5)
    except Gpt2npError:  # without a model
        return TOKENS + ROOM
    wide, each = WEIGHTS + BOXES - 20 - x, (row.height - 40) / (1 + len(found.array))
    drawing.text(
        x, row.y + 26, "Unembedding as likeness: the final vector, and the nearest rows of W_U", 27, SOFT, 600
    )
    vectors = [facts.trace["ln_f"][-1], *_unembedding_rows(facts, found)]
    told = ["final vector", *(facts.told(i) for _, i, _ in facts.trace.top(len(found.array)))]
    for k, (vector, name) in enumerate(zip(vectors, told, strict=True)):
        y = row.y + 40 + k * each
        drawing.text(x, y + 26, cut(name, 220, 28, 600), 28, ACCENT if k == 0 else INK, 600)
        colours = strip_colours(np.asarray(vector, np.float64)[None], full_colour(vector))
        drawing.pixels(x + 240, y, wide - 240, each - 38, colours)
        if k:
            numbers = dict(zip(found.labels["measure"], found.array[k - 1].tolist(), strict=True))
            words = ", ".join(f"{measure} {number(value, 2)}" for measure, value in numbers.items())
            drawing.text(x + 240, y + each - 14, words, SMALLEST, SOFT)
    return WEIGHTS + BOXES - 20


def _unembedding_rows(facts: Facts, found: NamedArray) -> list[Array]:
    ids = [i for _, i, _ in facts.trace.top(len(found.array))]
    return list(unembedding_table(facts.config, facts.trace.parameters("the unembedding"), ids))


def draw_decoding(drawing: Drawing, facts: Facts, row: Row) -> float:
    """All probabilities end to end: a draw falls somewhere on them."""
    chances = probabilities(facts.trace["logits"][-1])
    top = facts.trace.top(min(LIKELIEST, len(chances)))
    drawing.text(LABELS, row.y + 34, "decoding", 40, INK, 700)
    drawing.text(LABELS, row.y + 70, "a draw from 0 to 1", 29, SOFT)
    x = float(TOKENS)
    for k, (_, i, p) in enumerate(top):
        drawing.box(x, row.y, ROOM * p, 56, BARS[k % 2])
        if ROOM * p > 90:
            name = cut(facts.told(i), ROOM * p - 16, 32)
            drawing.text(x + 8, row.y + 40, name, 32, "#fff" if k % 2 == 0 else INK)
        x += ROOM * p
    drawing.box(TOKENS, row.y, ROOM, 56, line=LINE)
    told = (
        "All probabilities end to end, the likeliest first: greedy decoding takes the first, a draw falls "
        f"where it falls. White: the other {len(chances) - len(top):,} tokens."
    )
    drawing.text(TOKENS, row.y + 88, told, 27, SOFT)
    return TOKENS + ROOM
