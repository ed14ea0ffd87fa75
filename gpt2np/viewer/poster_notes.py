"""The notes beside the picture of a poster: every commentary with its source, a line from each to its thing."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpt2np.viewer.commentary import notes
from gpt2np.viewer.poster_drawing import ACCENT, LEADING, SMALLEST, SOFT, Drawing
from gpt2np.viewer.poster_facts import Facts
from gpt2np.viewer.poster_layout import GUTTER, HEIGHT, FOOT, LABELS, MARGIN, NOTES, RIGHT, Layout, Row
from gpt2np.viewer.poster_lettering import lines
from gpt2np.viewer.poster_weights import parameter_bars

SIZES = (46, 44, 42, 40, 38, 36, 34, 32, 30, 28)  # of the letters of notes, the first that fits
FULL = 0.9  # of a column may be notes
PLACE = {"Tokenizer": "tokens", "Decoding": "decoding"}  # where notes without sites lead to, by kind of row

Picture = Callable[[Drawing, float, float, float], float]  # draws at x, y, so wide; returns where it ends


@dataclass(frozen=True)
class Item:
    """One text beside the picture: what it is about, and how far down it wants to be."""

    title: str
    texts: tuple[str, ...]
    row: Row | None
    at: float
    source: str = ""
    address: str = ""
    side: int | None = None
    picture: Picture | None = None

    @property
    def name(self) -> str:
        """Its name in the drawing."""
        return "note-" + "".join(c if c.isalnum() else "-" for c in self.title.lower())


def draw_notes(drawing: Drawing, facts: Facts, layout: Layout, ends: dict[str, float], top: float) -> None:
    """Both columns of notes from `top` on; `ends` is where the rows' pictures end at their right."""
    bottom = HEIGHT - MARGIN - FOOT
    items = [*_commentary(facts, layout), *_of_layers(facts, layout), *_others(facts, layout, top, bottom)]
    room = bottom - top
    for size in SIZES:
        sides = _sides(items, size)
        if max(sum(_height(each, size) for each in side) for side in sides) <= FULL * room:
            break
    for k, side in enumerate(sides):
        x = MARGIN if k == 0 else RIGHT
        for each, y in zip(side, _places([(each.at, _height(each, size)) for each in side], top, bottom), strict=True):
            with drawing.group(each.name):
                _draw(drawing, each, x, y, size)
                if each.row is not None:
                    _lead(drawing, k, y + size * 0.75, each.row, ends)


def _commentary(facts: Facts, layout: Layout) -> list[Item]:
    """The notes on the model's parts, each at the first row that it is about."""
    found = []
    for note in notes(facts.config):
        kind = PLACE.get(note.title)
        rows = [row for row in layout.rows if row.kind == kind] if kind else []
        rows += [row for site in note.sites if (row := layout.find(site))]
        row = rows[0] if rows else None
        at = HEIGHT if row is None else row.y
        found.append(Item(note.title, (note.text,), row, at, note.source, note.address))
    return found


def _of_layers(facts: Facts, layout: Layout) -> list[Item]:
    """Beside each further whole layer what it does: what the last position reads, and what it would say."""
    found = []
    for row in layout.rows:
        if row.kind == "heading" and row.layer:
            name = facts.tokens[-1]
            found += [
                Item(f"Layer {row.layer}: what it adds", _added(facts, row.layer), row, row.y, side=0),
                Item(f"Layer {row.layer}: what the last position, {name}, reads", _read(facts, row.layer), row, row.y, side=1),
            ]
    return found


def _read(facts: Facts, layer: int) -> tuple[str, ...]:
    """Of each head the two positions that it reads most."""
    pattern, told = facts.trace[f"h.{layer}.attn.pattern"][:, -1], []
    shown = range(len(pattern)) if len(pattern) <= 16 else sorted(facts.busiest[layer][:16])
    for head in shown:
        best = np.argsort(-pattern[head], kind="stable")[:3]
        read = [f"{facts.tokens[key]} ({key}) {pattern[head, key]:.2f}" for key in best if pattern[head, key] >= 0.01]
        told.append(f"head {head}: {', '.join(read)}")
    return tuple(told)


def _added(facts: Facts, layer: int) -> tuple[str, ...]:
    """How long what attention and MLP add is beside the stream, and what the stream would say then."""
    stream = facts.vectors("resid_mid", layer)[-1]
    told = []
    for part, site, after in (("Attention", "attn.out", "resid_mid"), ("The MLP", "mlp.out", "resid_post")):
        added, stream = (facts.vectors(name, layer)[-1].astype(np.float64) for name in (site, after))
        length, of = np.linalg.norm(added), np.linalg.norm(stream)
        words = f"{part} adds a vector of length {length:.2f} to the last position, whose stream then has {of:.2f}."
        said = facts.lens.get(f"h.{layer}.{after}")
        if said:
            words += " Read out there, it would say " + ", ".join(f"{t} {100 * p:.0f} %" for t, p in said) + "."
        told.append(words)
    return tuple(told)


def _others(facts: Facts, layout: Layout, top: float, bottom: float) -> list[Item]:
    """How to read the sheet, why only one position goes on, and the words that are used."""
    c = facts.config
    found = [
        Item(
            "How to read this sheet",
            (
                "Every strip is one vector, every cell of it one number: blue below 0, orange above. All strips of a "
                "row have one scale, given as ± beside it: what has full colour. Nothing is left out of a vector; a "
                "long one is folded into lines.",
                "Each token has a column. Its residual stream runs straight down; blocks read it, and add (+) to it. "
                "Everything happens to each position by itself, but for attention. Heads are not put side by side "
                "and multiplied at once, as programs do: each has its own output.",
            ),
            None,
            top,
            "Dolan 2024",
            "https://jeremydolan.net/transformer-view",
            side=0,
        ),
        Item(
            "Words",
            (
                "token: one of the pieces that a text is cut into; inside the model there are vectors only.",
                "position: the place of a token in the text, from 0, and its vector in the stream.",
                f"n_embd (d_model): {c.n_embd:,}, the width of the stream. d_head: {c.d_head:,}, of a head’s query, "
                f"key and value. d_mlp: {c.d_mlp:,}, the neurons of an MLP.",
                "layer: one attention and one MLP, each added to the stream once; counted from 0.",
            ),
            None,
            bottom,
            "Dolan 2024",
            "https://jeremydolan.net/transformer-view",
            side=0,
        ),
        Item(
            "Where the parameters are",
            (),
            None,
            bottom,
            side=1,
            picture=lambda drawing, x, y, wide: parameter_bars(drawing, facts, x, y, wide),
        ),
    ]
    if (final := layout.find("ln_f")) is not None:
        text = (
            "Of all positions only the last is unembedded here: the others’ predictions are not needed to continue "
            "the text, and what has been computed for them never changes."
        )
        found.append(Item("Only the last position", (text,), final, final.y, "Dolan 2024", "https://jeremydolan.net/transformer-view"))
    for row in layout.rows:
        if row.kind == "elided":
            text = (
                f"{len(layout.elided)} of {facts.layers} layers have no room on this sheet. Each has the parts that "
                "layer 0 has, in the same order, and weights of its own."
            )
            found.append(Item("What is left out", (text,), row, row.y, "Dolan 2024", "https://jeremydolan.net/transformer-view"))
    return found


def _sides(items: list[Item], size: float) -> tuple[list[Item], list[Item]]:
    """The items of the left and the right column: each goes where there is less so far, unless it has a side."""
    sides: tuple[list[Item], list[Item]] = ([], [])
    filled = [0.0, 0.0]
    for item in sorted(items, key=lambda each: each.at):
        k = int(filled[1] < filled[0]) if item.side is None else item.side
        sides[k].append(item)
        filled[k] += _height(item, size)
    return sides


def _places(wanted: list[tuple[float, float]], top: float, bottom: float) -> list[float]:
    """Where things of such heights begin, each as near as there is room to where it wants to."""
    blocks: list[list[float]] = []  # [sum of wishes, how many, height, first], things that touch
    for at, height in wanted:
        blocks.append([at, 1, height])
        while True:
            places = [_place(block, top, bottom) for block in blocks]
            crowded = next((k for k, (a, b) in enumerate(pairwise(zip(places, blocks, strict=True))) if a[0] + a[1][2] > b[0]), None)
            if crowded is None:
                break
            first, second = blocks[crowded : crowded + 2]
            blocks[crowded : crowded + 2] = [
                [first[0] + second[0] - second[1] * first[2], first[1] + second[1], first[2] + second[2]]
            ]
    found, rest = [], iter(wanted)
    for block in blocks:
        y = _place(block, top, bottom)
        for _ in range(int(block[1])):
            found.append(y)
            y += next(rest)[1]
    return found


def _place(block: list[float], top: float, bottom: float) -> float:
    return max(top, min(block[0] / block[1], bottom - block[2]))


def _draw(drawing: Drawing, item: Item, x: float, y: float, size: float) -> None:
    """An item: its title, its text, and its source as a link."""
    heading = size * 1.12
    for line in lines(item.title, NOTES - 20, heading, 700):
        y += heading
        drawing.text(x, y, line, heading, ACCENT, 700)
        y += heading * (LEADING - 1)
    y += size
    for text in item.texts:
        y = drawing.paragraph(x, y, text, NOTES - 20, size)
    if item.picture is not None:
        y = item.picture(drawing, x, y - size * 0.7, NOTES - 20)
    if item.source:
        small = max(SMALLEST, size * 0.6)
        drawing.link(x, y - size + small * 1.2, f"{item.source}: {item.address}", item.address, NOTES - 20, small)


def _height(item: Item, size: float) -> float:
    """What an item takes, its distance to the next one included."""
    heading, small = size * 1.12, max(SMALLEST, size * 0.6)
    found = len(lines(item.title, NOTES - 20, heading, 700)) * heading * LEADING
    found += sum(len(lines(text, NOTES - 20, size)) for text in item.texts) * size * LEADING
    if item.picture is not None:
        found += 440
    if item.source:
        found += len(lines(f"{item.source}: {item.address}", NOTES - 20, small)) * small * LEADING
    return found + size * 1.3


def _lead(drawing: Drawing, side: int, y: float, row: Row, ends: dict[str, float]) -> None:
    """The line from a note's title to its thing, which has a dot."""
    thing = row.y + (20 if row.kind != "heading" else 30)
    if side == 0:
        points = [(MARGIN + NOTES - 10, y), (LABELS - GUTTER + 20, y), (LABELS - 24, thing), (LABELS - 12, thing)]
    else:
        end = ends.get(row.name, RIGHT - GUTTER) + 14
        points = [(RIGHT - 14, y), (RIGHT - 34, y), (RIGHT - GUTTER + 8, thing), (end, thing)]
    drawing.line(*points, width=4)
    drawing.dot(*points[-1], 9)
