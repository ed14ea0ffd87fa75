"""A poster of a run on one sheet of A1: tokens' vectors, from their rows to the prediction, and notes."""

import re
from bisect import bisect_left
from pathlib import Path

import numpy as np

from gpt2np.characters import joined
from gpt2np.errors import InputError
from gpt2np.generation.generated import Generated
from gpt2np.model import Model
from gpt2np.outputs import check_not_read, whole_file
from gpt2np.tables import counted
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.page import digest, with_model
from gpt2np.viewer.page_data import checked
from gpt2np.viewer.posters.attention import draw_flow, draw_panels, draw_small_panels
from gpt2np.viewer.posters.drawing import DIVERGING, INK, LEADING, LINE, SHARE, SOFT, Drawing, ramp
from gpt2np.viewer.posters.end import draw_decoding, draw_logits, draw_prediction
from gpt2np.viewer.posters.facts import Facts, facts_of
from gpt2np.viewer.posters.layout import HEIGHT, MARGIN, WIDTH, Layout, Row, layout_of
from gpt2np.viewer.posters.lettering import clean, isolated, lines
from gpt2np.viewer.posters.notes import draw_notes
from gpt2np.viewer.posters.streams import (
    draw_elided,
    draw_heading,
    draw_heads,
    draw_streams,
    draw_strips,
    draw_tokens,
)
from gpt2np.viewer.posters.weights import draw_weights

STYLE = (
    "@page{size:594mm 841mm;margin:0}html,body{margin:0;background:#fff}"
    "svg{display:block;max-width:100%;height:auto}"
    "@media print{svg{width:594mm;max-width:none;height:840.5mm}}"
)
TEXT_LINES = 3  # of the run's text


def poster(run: Trace | Generated, out: str | Path, model: Model | None = None) -> Path:
    """Write the poster of a run into FILE.svg, or into FILE.html, which prints on exactly one page of A1.

    Up to twelve tokens have a column each; of a longer text the first and the last eleven. As many layers are
    drawn whole as have room, the first one large, the others by what they leave. Of a generation it shows the
    whole text, and which token was chosen at its end. An opened trace takes a `model` for what needs weights.

    Raises:
        InputError: `out` ends in neither, cannot be written, or is what the run was read from.
        TraceError: a vector was not kept, or the trace is of another model.

    Example:
        >>> poster(model.trace("Elizabeth was"), "elizabeth.svg")
    """
    path = Path(out)
    if path.suffix.lower() not in (".html", ".svg"):
        raise InputError(f"{out}: a poster is written as .html or .svg")
    inputs = [*checked(run).source_files()]
    check_not_read(path, inputs)
    drawn = poster_svg(run, model)
    with whole_file(path) as file:
        file.write(drawn if path.suffix.lower() == ".svg" else _html(drawn))
    return path


@np.errstate(under="ignore")
def poster_svg(run: Trace | Generated, model: Model | None = None) -> str:
    """The poster of a run as SVG."""
    trace, _ = with_model(run, model)
    facts = facts_of(run, trace)
    drawing = Drawing(WIDTH, HEIGHT)
    top = _head(drawing, facts)
    layout = layout_of(facts, top)
    draw_streams(drawing, layout)
    ends = {}
    for row in layout.rows:
        with drawing.group(row.name):
            ends[row.name] = _row(drawing, facts, layout, row)
    draw_notes(drawing, facts, layout, ends, top)
    _foot(drawing, facts)
    return drawing.svg(f"{facts.title()} · gpt2np poster")


def _row(drawing: Drawing, facts: Facts, layout: Layout, row: Row) -> float:
    """Draw a row; returns where it ends at the right."""
    if row.kind == "heading":
        return draw_heading(drawing, row)
    if row.kind == "panels":
        return draw_panels(drawing, facts, row)
    if row.kind == "small_panels":
        return draw_small_panels(drawing, facts, row)
    if row.kind == "prediction":
        return draw_prediction(drawing, facts, row)
    if row.kind == "decoding":
        return draw_decoding(drawing, facts, row)
    if row.kind == "logits":
        return _with_weights(drawing, facts, row, draw_logits(drawing, facts, row))
    columns = {
        "tokens": draw_tokens,
        "strip": draw_strips,
        "heads": draw_heads,
        "flow": draw_flow,
        "elided": draw_elided,
    }
    return _with_weights(drawing, facts, row, columns[row.kind](drawing, facts, layout, row))


def _with_weights(drawing: Drawing, facts: Facts, row: Row, end: float) -> float:
    beside = draw_weights(drawing, facts, row) if row.large else None
    return end if beside is None else beside


def _head(drawing: Drawing, facts: Facts) -> float:
    """Title, the text as it was written, what is shown of it, and the scales of colours."""
    c, room = facts.config, WIDTH - 2 * MARGIN
    drawing.text(
        MARGIN, MARGIN + 105, "A text on its way through a transformer, vector by vector", 128, INK, 700
    )
    told = (
        f"{facts.name}: {counted(c.n_layer, 'layer')}, {counted(c.n_head, 'head')} in each, vectors of "
        f"{c.n_embd:,} numbers, {c.n_parameters:,} parameters. Every number here is of this run. "
        f"{_shown(facts)}"
    )
    y = drawing.paragraph(MARGIN, MARGIN + 185, told, room - 1500, 44, SOFT)
    found = _text(facts, room - 1580)
    for k, line in enumerate(found):
        drawing.text(MARGIN, y + 34 + 58 * LEADING * k, line, 58, INK, 600)
    _scales(drawing, WIDTH - MARGIN - 1400, MARGIN + 150)
    return max(y + 34 + 58 * LEADING * len(found), MARGIN + 330) + 40


def _text(facts: Facts, room: float) -> list[str]:
    """The text as it was written, with what was chosen at its end, in lines; of a long one begin and end."""
    tokens = list(facts.trace.tokens)
    if facts.chosen is not None:
        tokens.append(facts.trace.token(facts.chosen))

    def without(n: int) -> list[str]:
        """The lines if so many tokens are left out, a third of those that stay behind them."""
        if n == 0:
            return lines(clean(joined(tokens)), room, 58, 600)
        first = max(1, (len(tokens) - n) * 2 // 3)
        before, after = (isolated(joined(part)) for part in (tokens[:first], tokens[first + n :]))
        return lines(f"{before} … {counted(n, 'more token')} … {after}", room, 58, 600)

    numbers = range(max(1, len(tokens) - 1))
    return without(bisect_left(numbers, True, key=lambda n: len(without(n)) <= TEXT_LINES))


def _shown(facts: Facts) -> str:
    n, at = len(facts.trace.token_ids), facts.positions
    shown = f"All {n} tokens have a column." if n > 1 else "Its one token has a column."
    if len(at) < n:
        shown = f"Of {n} tokens {len(at)} have a column: position 0, and {at[1]} to {at[-1]}."
    if facts.n_prompt < n or facts.chosen is not None:
        options = ", ".join(f"{name} {value}" for name, value in facts.options.items())
        first = "The first is" if facts.n_prompt == 1 else f"The first {facts.n_prompt} are"
        shown += f" {first} the prompt"
        if n > facts.n_prompt:
            shown += f"; the model chose the other {n - facts.n_prompt} (green)"
        if facts.chosen is not None:
            shown += (
                f"; it chose one more at the end, {isolated(facts.told(facts.chosen))}, which was not run"
            )
            shown += f"; {options or 'greedy'}"
        shown += "."
    return shown


def _scales(drawing: Drawing, x: float, y: float) -> None:
    """What the colours mean."""
    for k, (stops, words) in enumerate(
        (
            (DIVERGING, ("below 0", "0", "above 0: vectors, weights")),
            (SHARE, ("least", "", "most: scores, shares of attention; grey: the future")),
        )
    ):
        top = y + 86 * k
        drawing.pixels(x, top, 1400, 34, ramp(stops, np.linspace(0, 1, 140))[None])
        drawing.box(x, top, 1400, 34, line=LINE)
        for at, anchor, word in zip((0, 700, 1400), ("start", "middle", "end"), words, strict=True):
            drawing.text(x + at, top + 68, word, 30, SOFT, anchor=anchor)


def _foot(drawing: Drawing, facts: Facts) -> None:
    version = facts.trace.metadata.get("gpt2np")
    told = (
        "After Jeremy Dolan, A Vector-Level View of GPT-2 (2024), in words of our own, with the numbers of "
        f"this run. Made by gpt2np{'' if version is None else f' {version}'}, {facts.trace.plan.dtype.name}."
    )
    drawing.text(MARGIN, HEIGHT - MARGIN + 10, told, 30, SOFT)


def _html(svg: str) -> str:
    """A page that holds the poster, prints on one sheet, and may load nothing."""
    policy = (
        f"default-src 'none'; style-src '{digest(STYLE)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = re.search(r"<title>[^<]*</title>", svg)
    assert title is not None
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{title[0]}\n<style>{STYLE}</style>\n</head>\n<body>\n{svg}</body>\n</html>\n"
    )
