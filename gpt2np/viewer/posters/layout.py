"""Where everything on a poster goes: rows from the text to the prediction, as high as the sheet lets them be.

As many layers are drawn whole as have room; the first one is large, and has the notes beside it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpt2np.viewer.posters.facts import READ, Facts
from gpt2np.viewer.posters.lettering import lines, width

WIDTH, HEIGHT = 5940, 8410  # A1 upright, in tenths of a millimetre
MARGIN = 110
NOTES = 1060  # width of a column of notes
GUTTER = 120  # between it and the picture, for the lines from notes to their things
LABELS = MARGIN + NOTES + GUTTER  # where the names beside the vectors begin
NAMES = 370  # and how wide they are
TOKENS = LABELS + NAMES + 70  # where the columns of tokens begin,
ROOM = 2480  # and how wide they are together
WEIGHTS = TOKENS + ROOM + 40  # where the matrices begin,
BOXES = WIDTH - MARGIN - NOTES - GUTTER - WEIGHTS  # and how wide their column is
RIGHT = WIDTH - MARGIN - NOTES  # where the right column of notes begins
FOOT = 60  # for the line at the foot
STREAMS = ("embed", "resid_pre", "resid_mid", "resid_post")
NORMS = ("ln_1", "ln_2", "ln_f")
NEURONS = ("mlp.post", "mlp.act")
CAPTION = 30  # height of a line of numbers below a strip
CELL = 1.6  # width of a component, if it can be had
LIKELIEST = 10
FLOWS = 3  # heads whose reading is drawn as lines in the large layer
PER_LINE = 6  # heads side by side; more stand in two lines


@dataclass
class Row:
    """One row: its kind of picture, of which site and layer, how high at least, how much it may grow."""

    kind: str
    low: float
    gap: float
    grow: float = 0
    site: str = ""
    layer: int | None = None
    large: bool = True
    words: str = ""
    head: int = 0
    captions: int = 0  # lines of numbers below each strip
    y: float = 0
    height: float = 0

    @property
    def name(self) -> str:
        """Its name in the drawing: its site's full name and, unless that is all, its kind."""
        full = self.site if self.layer is None else f"h.{self.layer}.{self.site}".rstrip(".")
        kind = f"{self.kind}-{self.head}" if self.kind == "flow" else self.kind
        return full if self.kind == "strip" else "-".join(filter(None, (kind, full)))


@dataclass(frozen=True)
class Layout:
    """The rows of a sheet from top to bottom, and which layers it does not draw whole."""

    rows: list[Row]
    elided: range
    step: float  # from one token's column to the next

    @property
    def wide(self) -> float:
        """The width of a strip."""
        return self.step - 24 - min(40, self.step * 0.12)

    def left(self, column: int) -> float:
        """Where a column's strips begin; its stream runs just left of it."""
        return TOKENS + column * self.step + 24

    def find(self, site: str) -> Row | None:
        """The first row of a site: outside of layers, or in the large layer."""
        return next((row for row in self.rows if row.site == site and row.large), None)


def layout_of(facts: Facts, top: float) -> Layout:
    """The layout with the most whole layers that has room below `top`."""
    step = ROOM / len(facts.positions)
    room = HEIGHT - MARGIN - FOOT - top
    for whole in range(facts.layers, 0, -1):
        elided = range(whole - 1, facts.layers - 1) if whole > 1 else range(1, facts.layers)
        rows = list(_rows(facts, step, elided if whole < facts.layers else range(0)))
        if sum(row.low + row.gap for row in rows) <= room:
            break
    spare = max(0.0, room - sum(row.low + row.gap for row in rows)) / sum(row.grow for row in rows)
    y = top
    for row in rows:
        row.y, row.height = y, row.low + spare * row.grow
        y += row.height + row.gap
    return Layout(rows, elided if whole < facts.layers else range(0), step)


def _rows(facts: Facts, step: float, elided: range) -> Iterator[Row]:
    yield Row("tokens", 130, 20)
    for site in facts.config.architecture.sites.before_layers:
        yield _strip(facts, step, site.name, None, True, facts.config.n_embd)
    for layer in range(facts.layers):
        if layer not in elided:
            yield Row("heading", 58, 16, layer=layer, words=_heading(facts, layer), large=layer == 0)
            yield from _layer(facts, step, layer, layer == 0)
        elif layer == elided[0]:
            yield Row("heading", 58, 16, words=_told(facts, elided), large=False)
            each = 29 if len(elided) <= 20 else 15
            yield Row("elided", each * len(elided), 30, grow=0.03 * len(elided), large=False)
    if facts.to_the_end:
        yield Row("heading", 58, 16, words="What comes next")
        yield _strip(facts, step, "ln_f", None, True, facts.config.n_embd)
        yield Row("logits", 130, 30, grow=0.6, site="logits")
        yield Row("prediction", 70 + 44 * min(LIKELIEST, facts.config.vocab_size), 30, grow=0.6)
        yield Row("decoding", 110, 0)


def _heading(facts: Facts, layer: int) -> str:
    window = facts.config.window(layer)
    told = "" if window is None else f", looks at the last {window:,} positions"
    if layer:
        return f"Layer {layer}{told}"
    return f"Layer 0{told}: what every part of it makes of these tokens"


def _told(facts: Facts, elided: range) -> str:
    which = f"Layer {elided[0]} is" if len(elided) == 1 else f"Layers {elided[0]} to {elided[-1]} are"
    return f"{which} left out: built as layer 0, with weights of their own. What each leaves in the stream:"


def _layer(facts: Facts, step: float, layer: int, large: bool) -> Iterator[Row]:
    heads, quadratic = facts.config.n_head, [s.name for s in facts.sites if s.axis_names == READ]
    for site in facts.sites:
        axes = site.axis_names
        if axes == READ:
            if large:
                yield _panels(facts, site.name, layer, heads)
            elif site.name == quadratic[-1]:
                yield _small_panels(facts, site.name, layer, 2 * heads)
        elif axes[1] in ("head", "kv_head"):
            size = facts.config.dims[axes[1]]
            low = max(66 if large else 30, size * (9.0 if large else 4.0))
            yield _row(facts, "heads", low, site.name, layer, large)
        else:
            yield _strip(facts, step, site.name, layer, large, facts.config.dims[axes[1]])
        if site.name == "attn.v":
            drawn = sorted(facts.busiest[layer][: FLOWS if large else 1])
            for head in drawn:
                low = 76 if not large else 110 if head == drawn[0] else 90
                yield Row("flow", low, 12, 0.8, "attn.flow", layer, large=large, head=head)


def folds(wide: int, room: float) -> int:
    """Into how many rows a vector is folded, so that its components can be told apart."""
    return max(1, math.ceil(wide * CELL / room))


def _strip(facts: Facts, step: float, site: str, layer: int | None, large: bool, wide: int) -> Row:
    low = max(30.0 if not large else 56.0, 5.0 * folds(wide, step - 48))
    return _row(
        facts, "strip", min(low, 110 if large else 60), site, layer, large, captions(facts, site, step)
    )


def _row(
    facts: Facts, kind: str, low: float, site: str, layer: int | None, large: bool, below: int = 0
) -> Row:
    if not large:
        return Row(kind, low, 6, 0.35, site, layer, large=False)
    low = max(low + CAPTION * below, 38 + 33 * len(formula(facts, site)) + 32, 126 if site in NORMS else 0)
    return Row(kind, low, 18, 1, site, layer, captions=below)


def captions(facts: Facts, site: str, step: float) -> int:
    """How many lines of numbers there are below each strip of a site."""
    if site in NORMS:
        return 1 if step > 260 else 2
    return int(site in ("wte", *facts.config.architecture.positional, *NEURONS))


def formula(facts: Facts, site: str) -> list[str]:
    """How a site is computed, in lines beside it."""
    part = facts.parts.get(site)
    return lines(part.brief, NAMES, 29) if part is not None and part.brief else []


def _panels(facts: Facts, site: str, layer: int, heads: int) -> Row:
    down, _, cell = large_panels(facts, heads)
    n = len(facts.positions)
    least = min(cell, max(28.0, min(70.0, 420 / down / n)) if n > 1 else 110)
    return Row("panels", down * (n * least + 130), 26, 1.6, site, layer)


def large_panels(facts: Facts, heads: int) -> tuple[int, int, float]:
    """Lines of panels, panels in a line, and the width of a cell."""
    across = heads if heads <= PER_LINE else math.ceil(heads / 2)
    columns = len(facts.positions) + (len(facts.positions) < len(facts.trace.token_ids))
    return math.ceil(heads / across), across, (ROOM / across - 112) / columns


def _small_panels(facts: Facts, site: str, layer: int, panels: int) -> Row:
    across = ROOM / min(panels, 24)
    low = math.ceil(panels / 24) * (min(across - 60, 170) + 88 if panels <= 12 else across + 28)
    return Row("small_panels", low, 10, 0.5, site, layer, large=False)


def name_room(facts: Facts, size: float, most: float) -> float:
    """The room that the longest name of a shown token takes."""
    return min(most, max(width(facts.tokens[pos], size) for pos in facts.positions) + 8)
