"""The notes beside the picture of a poster: placed in two columns, with a line from each to its thing."""

from gpt2np.viewer.posters.drawing import ACCENT, LEADING, SMALLEST, Drawing
from gpt2np.viewer.posters.facts import Facts
from gpt2np.viewer.posters.items import Item, items_of
from gpt2np.viewer.posters.layout import FOOT, GUTTER, HEIGHT, LABELS, MARGIN, NOTES, RIGHT, Layout, Row
from gpt2np.viewer.posters.lettering import lines

SIZES = (50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28)  # of the letters of notes, the first that fits
FULL = 0.9  # of a column may be notes
BARS = 440  # height of a picture among them


def draw_notes(drawing: Drawing, facts: Facts, layout: Layout, ends: dict[str, float], top: float) -> None:
    """Both columns of notes from `top` on; `ends` is where the rows' pictures end at their right."""
    bottom = HEIGHT - MARGIN - FOOT
    items, room = items_of(facts, layout, top, bottom), bottom - top
    for size in SIZES:
        sides = _sides(items, size)
        if max(sum(_height(each, size) for each in side) for side in sides) <= FULL * room:
            break
    for k, side in enumerate(sides):
        x = MARGIN if k == 0 else RIGHT
        wanted = [(each.at, _height(each, size)) for each in side]
        for each, y in zip(side, _places(wanted, top, bottom), strict=True):
            with drawing.group(each.name):
                _draw(drawing, each, x, y, size)
                if each.row is not None:
                    _lead(drawing, k, y + size * 0.75, each.row, ends)


def _sides(items: list[Item], size: float) -> tuple[list[Item], list[Item]]:
    """The items of both columns: each goes where there is less so far, unless it has a side."""
    sides: tuple[list[Item], list[Item]] = ([], [])
    filled = [0.0, 0.0]
    for item in sorted(items, key=lambda each: each.at):
        k = int(filled[1] < filled[0]) if item.side is None else item.side
        sides[k].append(item)
        filled[k] += _height(item, size)
    return sides


def _places(wanted: list[tuple[float, float]], top: float, bottom: float) -> list[float]:
    """Where things of such heights begin, each as near as there is room to where it wants to."""
    blocks: list[
        tuple[float, int, float]
    ] = []  # things that touch: sum of wishes for the first, number, height
    for at, height in wanted:
        blocks.append((at, 1, height))
        while len(blocks) > 1 and _end(blocks[-2], top, bottom) > _start(blocks[-1], top, bottom):
            wish, number, high = blocks.pop()
            before = blocks.pop()
            blocks.append((before[0] + wish - number * before[2], before[1] + number, before[2] + high))
    found, heights = [], iter(wanted)
    for block in blocks:
        y = _start(block, top, bottom)
        for _ in range(block[1]):
            found.append(y)
            y += next(heights)[1]
    return found


def _start(block: tuple[float, int, float], top: float, bottom: float) -> float:
    return max(top, min(block[0] / block[1], bottom - block[2]))


def _end(block: tuple[float, int, float], top: float, bottom: float) -> float:
    return _start(block, top, bottom) + block[2]


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
        drawing.link(
            x, y - size + small * 1.2, f"{item.source}: {item.address}", item.address, NOTES - 20, small
        )


def _height(item: Item, size: float) -> float:
    """What an item takes, its distance to the next one included."""
    heading, small = size * 1.12, max(SMALLEST, size * 0.6)
    found = len(lines(item.title, NOTES - 20, heading, 700)) * heading * LEADING
    found += sum(len(lines(text, NOTES - 20, size)) for text in item.texts) * size * LEADING
    if item.picture is not None:
        found += BARS
    if item.source:
        found += len(lines(f"{item.source}: {item.address}", NOTES - 20, small)) * small * LEADING
    return found + size * 1.3


def _lead(drawing: Drawing, side: int, y: float, row: Row, ends: dict[str, float]) -> None:
    """The line from a note's title to its thing, which has a dot."""
    thing = row.y + (20 if row.kind != "heading" else 30)
    if side == 0:
        points: list[tuple[float, float]] = [
            (MARGIN + NOTES - 10, y),
            (LABELS - GUTTER + 20, y),
            (LABELS - 24, thing),
            (LABELS - 12, thing),
        ]
    else:
        end = ends.get(row.name, RIGHT - GUTTER) + 14
        points = [(RIGHT - 14, y), (RIGHT - 34, y), (RIGHT - GUTTER + 8, thing), (end, thing)]
    drawing.line(*points, width=4)
    drawing.dot(*points[-1], 9)
