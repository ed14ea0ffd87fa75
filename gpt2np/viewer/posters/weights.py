"""Weights on a poster: matrices as boxes with sizes, norms' scales, and the activation's curve."""

import numpy as np

from gpt2np.analysis.matrices import Matrix, block_statistics
from gpt2np.ops import ACTIVATIONS, Array
from gpt2np.viewer.circuit_facts import parameter_facts
from gpt2np.viewer.posters.drawing import (
    ACCENT,
    DIVERGING,
    INK,
    LINE,
    SMALLEST,
    SOFT,
    Drawing,
    full_colour,
    ramp,
)
from gpt2np.viewer.posters.facts import Facts
from gpt2np.viewer.posters.layout import BOXES, ROOM, TOKENS, WEIGHTS, Row
from gpt2np.viewer.posters.lettering import number, whole_percent, width

BLOCKS = 40  # of a matrix to a side
SIDE = 170  # of the longer side of a box
SHARES = ("#b3470b", "#e0923f", "#12666f", "#63b1b5", "#8a8f98", "#c9c6bd")


def draw_weights(drawing: Drawing, facts: Facts, row: Row) -> float | None:
    """Draw a row's matrices, its norm's scale and shift, or its curve, right of it; returns their end."""
    if (norm := _norm(drawing, facts, row)) is not None:
        return norm
    found = facts.matrices.get((row.site, row.layer), [])
    if row.site == "logits" and not found:
        found = [each._replace(name="W_U = W_E") for each in facts.matrices.get(("wte", None), [])]
    for k, each in enumerate(found):
        _matrix(
            drawing, facts, each, row.y + k * (row.height / len(found)), row.height / len(found), row.site
        )
    if found:
        return WEIGHTS + BOXES - 8
    if row.site in ("mlp.post", "mlp.act") and (row.site == "mlp.act") == ("mlp.act" in facts.parts):
        return _curve(drawing, facts, row)
    return None


def _matrix(drawing: Drawing, facts: Facts, each: Matrix, y: float, room: float, site: str) -> None:
    """A matrix as its blocks, lying as it is multiplied: from the width it reads to the width it makes."""
    rows, columns = each.weight.shape
    high = min(room - 6, SIDE, 120.0)
    long = max(rows, columns) / min(rows, columns) > 6
    wide = high / 3 if long and rows > columns else min(SIDE, high * min(3.0, max(1 / 3, columns / rows)))
    blocks = block_statistics(each.weight, BLOCKS, BLOCKS).array[0]
    full = full_colour(blocks)
    drawing.line((TOKENS + ROOM + 4, y + high / 2), (WEIGHTS, y + high / 2), ink=LINE, width=6)
    drawing.pixels(WEIGHTS, y, wide, high, ramp(DIVERGING, 0.5 + 0.5 * np.clip(blocks / full, -1, 1)))
    drawing.box(WEIGHTS, y, wide, high, line=INK)
    x = WEIGHTS + wide + 12
    drawing.text(x, y + 28, each.name, 30, INK, 700)
    told = [f"{rows:,} × {columns:,}"]
    if site in ("attn.q", "attn.k", "attn.v"):
        heads = columns // facts.config.d_head
        told.append(f"{heads} × {facts.config.d_head} wide")
    elif each.site == "wte":
        told.append("a row a token")
    elif each.site in facts.config.architecture.positional:
        told.append("a row a position")
    elif site in ("attn.out", "attn.proj"):
        told.append(f"{facts.config.n_head} slices")
    if each.bias is not None:
        told.append(f"bias: {each.bias.size:,}")
    for k, words in enumerate(told):
        if 56 + 27 * k <= max(room, high) + 4:
            size = max(SMALLEST, min(26.0, 26 * (WEIGHTS + BOXES - 10 - x) / width(words, 26)))
            drawing.text(x, y + 56 + 27 * k, words, size, SOFT)


def _norm(drawing: Drawing, facts: Facts, row: Row) -> float | None:
    """The learned scale and shift of the norm that makes a row."""
    found = facts.norms.get(row.site if row.layer is None else f"h.{row.layer}.{row.site}")
    if found is None:
        return None
    for k, (name, values) in enumerate(zip("γβ", found, strict=False)):
        y = row.y + k * 62
        drawing.text(WEIGHTS, y + 26, name, 32, INK, 700)
        drawing.strip(WEIGHTS + 36, y, BOXES - 50, 30, values)
        ends = f"{number(values.min(), 2)} to {number(values.max(), 2)}"
        told = f"{'scale' if k == 0 else 'shift'}, {ends}"
        drawing.text(WEIGHTS + 36, y + 54, told, SMALLEST, SOFT)
    return WEIGHTS + BOXES - 8


def _curve(drawing: Drawing, facts: Facts, row: Row) -> float:
    """The activation function, with the last position's neurons on it."""
    function = ACTIVATIONS[facts.config.activation_function]
    pre = facts.vectors("mlp.pre", row.layer)[-1].astype(np.float64)
    pre = pre[np.isfinite(pre)]
    reach = max(3.0, float(np.abs(np.percentile(pre, [0.5, 99.5])).max()))
    wide, high = BOXES - 20.0, min(row.height, 180.0) - 32

    def place(x: Array) -> tuple[Array, Array]:
        made = np.empty_like(x)
        function(x, out=made)
        return WEIGHTS + wide * (0.5 + 0.5 * x / reach), row.y + high * (1 - (made + 0.3) / (reach + 0.3))

    zero = row.y + high * (1 - 0.3 / (reach + 0.3))
    drawing.line((WEIGHTS, zero), (WEIGHTS + wide, zero), ink=LINE, width=4)
    drawing.line((WEIGHTS + wide / 2, row.y), (WEIGHTS + wide / 2, row.y + high), ink=LINE, width=4)
    for x, y in zip(*place(pre[np.abs(pre) < reach][:300]), strict=True):
        drawing.dot(x, y, 5, "#63b1b5")
    drawing.line(*zip(*place(np.linspace(-reach, reach, 80)), strict=True), ink=ACCENT, width=4)
    name = facts.config.activation_function
    drawing.text(WEIGHTS, row.y + high + 28, f"{name} from −{reach:.1f} to {reach:.1f}", SMALLEST, SOFT)
    return WEIGHTS + wide


def parameter_bars(drawing: Drawing, facts: Facts, x: float, y: float, wide: float) -> float:
    """Where the parameters are, of this model and the released sizes, as bars; returns where they end."""
    found = parameter_facts(facts.config)
    names = list(dict.fromkeys(name for each in found for name in each["shares"]))
    left, room = x + 250, wide - 250 - 140
    for each in found:
        drawing.text(x, y + 28, each["name"], 28, INK, 600 if each is found[0] else 400)
        at = left
        for name, share in each["shares"].items():
            drawing.box(at, y, room * share, 34, SHARES[names.index(name) % len(SHARES)])
            at += room * share
        drawing.text(at + 10, y + 27, f"{each['total'] / 1e6:,.1f} M", 26, SOFT)
        y += 44
    at, y = x, y + 14
    for name in names:
        own = found[0]["shares"].get(name)
        words = name if own is None else f"{name} {whole_percent(own)}"
        taken = 66 + width(words, 27)
        if at + taken > x + wide:
            at, y = x, y + 40
        drawing.box(at, y, 26, 26, SHARES[names.index(name) % len(SHARES)])
        drawing.text(at + 36, y + 23, words, 27, SOFT)
        at += taken
    return y + 50
