"""Attention on a poster: scores and patterns of each head with the tokens' names, and reading as lines."""

import math

import numpy as np

from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.viewer.posters.drawing import INK, LINE, SHARE, SMALLEST, SOFT, Drawing, ramp
from gpt2np.viewer.posters.facts import READ, Facts
from gpt2np.viewer.posters.layout import (
    BOXES,
    LABELS,
    NAMES,
    ROOM,
    TOKENS,
    WEIGHTS,
    Layout,
    Row,
    large_panels,
    name_room,
)
from gpt2np.viewer.posters.lettering import cut, number
from gpt2np.viewer.posters.streams import QK, draw_name

HEADS = ("#b3470b", "#12666f", "#7a3b96", "#6a5a14")
FUTURE = (226, 226, 231)  # the colour of what no position sees; SHARE has no grey
LEAST = 0.02  # of what a position reads, for a line


def draw_panels(drawing: Drawing, facts: Facts, row: Row) -> float:
    """A panel for each head, with names and numbers where they have room, and the scale beside them."""
    heads = facts.config.n_head
    down, across, _ = large_panels(facts, heads)
    wide, high = ROOM / across, row.height / down
    assert row.layer is not None
    shares, values, low, top = _values(facts, row.site, row.layer)
    _plate(drawing, row)
    for head in range(heads):
        x = TOKENS + (head % across) * wide
        _panel(
            drawing,
            facts,
            x,
            row.y + (head // across) * high,
            wide,
            high,
            values[head],
            (low, top),
            f"head {head}",
            32,
        )
    _named(drawing, facts, row)
    _scale(drawing, row, shares, low, top, _other(facts) if shares else "")
    return WEIGHTS + BOXES


def draw_small_panels(drawing: Drawing, facts: Facts, row: Row) -> float:
    """Scores and pattern of each head, side by side, the rows and columns in the order of the tokens."""
    sites = [site.name for site in facts.sites if site.axis_names == READ][-2:]
    heads = facts.config.n_head
    panels = [(site, head) for head in range(heads) for site in sites]
    across = min(len(panels), 24)
    wide, high = ROOM / across, row.height / math.ceil(len(panels) / across)
    _plate(drawing, row)
    for k, site in enumerate(sites):
        drawing.text(LABELS, row.y + 30 + 32 * k, site + "," * (k == 0), 27, QK, 600)
    told = "side by side for each head; rows read, columns are read, in the order of the tokens"
    drawing.paragraph(LABELS, row.y + 94, told, NAMES, SMALLEST, SOFT)
    assert row.layer is not None
    found = {site: _values(facts, site, row.layer) for site in sites}
    for k, (site, head) in enumerate(panels):
        x, y = TOKENS + (k % across) * wide, row.y + (k // across) * high
        _, values, low, top = found[site]
        title = "" if site != sites[0] else f"head {head}" if wide > 110 else str(head)
        _panel(drawing, facts, x, y, wide, high, values[head], (low, top), title, 24)
    for k, (site, (_, _, low, top)) in enumerate(found.items()):
        _bar(drawing, row.y + 36 + 100 * k, low, top)
        drawing.text(WEIGHTS, row.y + 28 + 100 * k, site, SMALLEST, QK)
    return WEIGHTS + BOXES


def _plate(drawing: Drawing, row: Row) -> None:
    """Paper that lies over the streams."""
    drawing.box(TOKENS - 2, row.y - 6, ROOM + 4, row.height + 12, "#fff", LINE, 8)


def _named(drawing: Drawing, facts: Facts, row: Row) -> None:
    n = len(facts.trace.token_ids)
    y = draw_name(drawing, facts, row, QK, f"{facts.config.n_head} × {n} × {n}")
    told = "Each row is a position that reads, each column one that is read."
    drawing.paragraph(LABELS, y + 40, told, NAMES, 27, SOFT)


def _values(facts: Facts, site: str, layer: int) -> tuple[bool, Array, float, float]:
    """Whether they are shares, the numbers [head, query, key] (of unseen keys none), and the scale's ends.

    Of a text with positions that have no column, patterns have a column more: what is read there.
    """
    values = facts.read(site, layer)
    shares = site == [each.name for each in facts.sites if each.axis_names == READ][-1]
    seen = np.isfinite(values) & np.tri(values.shape[1], dtype=bool)
    if shares:
        whole = facts.trace[f"h.{layer}.{site}"][:, list(facts.positions)].astype(np.float64)
        rest = whole.sum(axis=-1) - values.sum(axis=-1)
        values = np.where(seen, values, np.nan)
        if len(facts.positions) < len(facts.trace.token_ids):
            values = np.concatenate([values, np.maximum(rest, 0)[..., None]], axis=-1)
        return True, values, 0.0, 1.0
    values = np.where(seen, values, np.nan)
    low, top = float(np.nanmin(values)), float(np.nanmax(values))
    return False, values, low, max(top, low + 1e-9)


def _colours(values: Array, ends: tuple[float, float]) -> Array:
    seen, (low, top) = np.isfinite(values), ends
    places = np.where(seen, (values - low) / (top - low), 0)
    return np.where(seen[..., None], ramp(SHARE, np.sqrt(np.clip(places, 0, 1))), FUTURE).astype(np.uint8)


def _panel(
    drawing: Drawing,
    facts: Facts,
    x: float,
    y: float,
    wide: float,
    high: float,
    values: Array,
    ends: tuple[float, float],
    title: str,
    size: float,
) -> None:
    """One head: its title in letters of a size, the tokens' names, the grid, and its numbers."""
    queries, keys = values.shape
    names = [facts.tokens[pos] for pos in facts.positions]
    columns = names + ["other"] * (keys - queries)
    drawing.text(x + 10, y + size, title, size, INK, 600)
    above, most = size + 6, 92.0 if size > SMALLEST else 60.0
    names_in = (high - above - most) / queries >= SMALLEST and (wide - 20 - most) / keys >= SMALLEST
    left = top = name_room(facts, 26, most) if names_in else 0.0
    if keys > queries and names_in:
        top = max(top, 74.0)
    grid_x, grid_y = x + 10 + left, y + above + top
    cell_x, cell_y = (x + wide - 10 - grid_x) / keys, (y + high - 8 - grid_y) / queries
    drawing.pixels(grid_x, grid_y, cell_x * keys, cell_y * queries, _colours(values, ends))
    drawing.box(grid_x, grid_y, cell_x * keys, cell_y * queries, line=LINE)
    if names_in:
        size = max(SMALLEST, min(26.0, cell_x, cell_y))
        for i, name in enumerate(names):
            middle = grid_y + cell_y * (i + 0.5) + size * 0.35
            drawing.text(grid_x - 6, middle, cut(name, left, size), size, SOFT, anchor="end")
        for i, name in enumerate(columns):
            middle = grid_x + cell_x * (i + 0.5) + size * 0.35
            drawing.text(middle, grid_y - 6, cut(name, top, size), size, SOFT, turn=-90)
    if cell_x >= 56 and cell_y >= 30:
        _numbers(drawing, grid_x, grid_y, cell_x, cell_y, values, ends)


def _numbers(
    drawing: Drawing,
    x: float,
    y: float,
    cell_x: float,
    cell_y: float,
    values: Array,
    ends: tuple[float, float],
) -> None:
    colours = _colours(values, ends).astype(float) @ [0.299, 0.587, 0.114]
    size = min(30.0, cell_x / 2.3, cell_y * 0.8)
    for (i, k), value in np.ndenumerate(values):
        if np.isfinite(value):
            told = number(value, 2 if ends == (0.0, 1.0) else 1)
            ink = INK if colours[i, k] > 128 else "#fff"
            middle = y + cell_y * (i + 0.5) + size * 0.36
            drawing.text(x + cell_x * (k + 0.5), middle, told, size, ink, anchor="middle")


def _scale(drawing: Drawing, row: Row, shares: bool, low: float, top: float, other: str) -> None:
    """The colours of a row of panels, and what they mean."""
    x, wide = WEIGHTS, BOXES - 10
    _bar(drawing, row.y + 8, low, top)
    told = (
        "the share of what a position reads: each row adds up to 1"
        if shares
        else "scores of all heads on one scale; grey is the future, which no position sees"
    )
    drawing.paragraph(x, row.y + 102, told + other, wide, 26)


def _other(facts: Facts) -> str:
    """What the last column of a pattern is, where not every token has one of its own."""
    n = len(facts.trace.token_ids) - len(facts.positions)
    return f"; other: what is read at the {counted(n, 'position')} without a column" if n else ""


def _bar(drawing: Drawing, y: float, low: float, top: float) -> None:
    """The colours from one end of a scale to the other."""
    x, wide = WEIGHTS, BOXES - 10
    drawing.pixels(x, y, wide, 28, ramp(SHARE, np.sqrt(np.linspace(0, 1, 64)))[None])
    drawing.box(x, y, wide, 28, line=LINE)
    for at, anchor, value in zip(
        (0, 0.5, 1), ("start", "middle", "end"), (low, (low + top) / 2, top), strict=True
    ):
        told = f"{value:.3g}" if abs(value) > (top - low) / 1000 else "0"
        drawing.text(x + at * wide, y + 56, told.replace("-", "−"), 26, SOFT, anchor=anchor)


def draw_flow(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """From where to where one head moves something: lines from values to results, as thick as the share."""
    assert row.layer is not None
    pattern = facts.read("attn.pattern", row.layer)[row.head]
    ink = HEADS[facts.busiest[row.layer].index(row.head) % len(HEADS)]
    first = next(each for each in layout.rows if (each.kind, each.layer) == ("flow", row.layer)) is row
    drawing.text(LABELS, row.y + 34, f"head {row.head} reads", 36 if row.large else 27, ink, 700)
    if first:
        told = "from where (above) to where; numbers: what the last position reads"
        drawing.paragraph(
            LABELS, row.y + 66, told if row.large else "numbers: last position", NAMES, SMALLEST, SOFT
        )
    last, middle = len(pattern) - 1, layout.wide / 2
    top, bottom, thick = row.y - 4, row.y + row.height + 4, 26 if row.large else 18
    for query, key in sorted(np.ndindex(*pattern.shape), key=lambda at: at[0]):
        share = pattern[query, key]
        if key <= query and share >= LEAST:
            start, end = ((layout.left(i) + middle, y) for i, y in ((key, top), (query, bottom)))
            opacity = 0.85 if query == last else 0.3
            drawing.curve(start, end, ink, max(1.5, thick * share), opacity)
    for key, share in enumerate(pattern[last]):
        x = layout.left(key) + middle + max(1.0, thick * share) / 2 + 6
        drawing.text(x, row.y + 26, f"{share:.2f}", 27 if row.large else SMALLEST, ink, 600, paper=True)
    return TOKENS + ROOM
