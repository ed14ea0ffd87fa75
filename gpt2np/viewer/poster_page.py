"""A poster of a run on one sheet of A1: some tokens' vectors whole, from their rows to the prediction, and "
"notes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt2np.characters import readable
from gpt2np.errors import InputError
from gpt2np.generation.generated import Generated
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.outputs import check_not_read, whole_file
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.commentary import Note, notes
from gpt2np.viewer.model_parts import parts_of
from gpt2np.viewer.page import with_model
from gpt2np.viewer.page_data import checked, sizes_of
from gpt2np.viewer.page_facts import model_facts
from gpt2np.viewer.poster_drawing import SHARE, Drawing, ramp

WIDTH, HEIGHT = 5940, 8410  # A1 upright, in tenths of a millimetre
MARGIN = 120
NOTES = 1300  # width of a column of notes
LABELS = 330  # and of the names beside the vectors
TOKENS = 5  # whose vectors are drawn
LOOKED = 40  # positions of an attention pattern
FOLDS = 4  # rows of a strip of neurons
ACCENT, SOFT, LINE = "#b3470b", "#5b606a", "#d9d7d0"
ROW = 62  # from one strip to the next
WRITES = ("attn.out", "mlp.out")
STREAMS = ("embed", "resid_mid", "resid_post")


def poster(run: Trace | Generated, out: str | Path, model: Model | None = None) -> Path:
    """Write the poster of a run into FILE.svg, or into FILE.html, which prints on exactly one page of A1.

    The first layer is drawn whole, the others by what they leave; the last tokens have their vectors with
    every component. An opened trace takes a `model` for its notes on weights.

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
    trace, _ = with_model(run, model)
    drawn = poster_svg(trace)
    with whole_file(path) as file:
        file.write(drawn if path.suffix.lower() == ".svg" else _html(drawn))
    return path


def poster_svg(trace: Trace) -> str:
    """The poster of a trace as SVG."""
    drawing = Drawing(WIDTH, HEIGHT)
    rows: dict[str, float] = {}
    top = _title(drawing, trace)
    natural = _Picture(Drawing(WIDTH, HEIGHT), trace, {}, 1.0).draw(top) - top
    stretch = min(2.4, (HEIGHT - MARGIN - top) / natural)  # rows as high as the sheet lets them be
    _Picture(drawing, trace, rows, stretch).draw(top)
    _notes(drawing, notes(trace.config), rows, top)
    return drawing.svg()


def _html(svg: str) -> str:
    """A page that holds the poster, and prints on one sheet."""
    style = "@page{size:594mm 841mm;margin:0}html,body{margin:0}svg{display:block;max-width:100%;height:auto}"
    style += "@media print{svg{width:594mm;height:840.5mm}}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>gpt2np poster</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n{svg}</body>\n</html>\n"
    )


def _title(drawing: Drawing, trace: Trace) -> float:
    c, facts = trace.config, model_facts(trace, sizes_of(trace))
    drawing.text(MARGIN, 230, "A text on its way through a transformer, vector by vector", 130, weight=600)
    name = Path(facts["name"]).name
    told = (
        f"{name}: {c.n_layer} layers, {c.n_head} heads, vectors of {c.n_embd} numbers, {c.n_parameters:,} "
        "parameters. Real numbers of one run; each strip is a vector, each cell one component: blue below "
        f"0, orange above, full colour for the largest {100 - 97} of 100."
    )
    y = drawing.paragraph(MARGIN, 320, told, WIDTH - 2 * MARGIN, 50, SOFT)
    text = "".join(readable(trace.tokens))
    y = drawing.paragraph(
        MARGIN, y + 50, f"Text: {text[:400]}{'…' if len(text) > 400 else ''}", WIDTH - 2 * MARGIN, 60
    )
    return y + 40


class _Picture:
    """The middle of the poster: rows of vectors from the tokens down to the prediction."""

    def __init__(self, drawing: Drawing, trace: Trace, rows: dict[str, float], stretch: float) -> None:
        self.drawing, self.trace, self.rows, self.stretch = drawing, trace, rows, stretch
        self.positions = list(range(len(trace.token_ids)))[-TOKENS:]
        self.left = MARGIN + NOTES + 100 + LABELS
        room = WIDTH - MARGIN - NOTES - 100 - self.left
        self.step = room / len(self.positions)
        self.wide = self.step - 60
        self.brief = {part.site: part for part in parts_of(trace.config)}
        self.y = 0.0

    def draw(self, top: float) -> float:
        """Draw all rows from `top` on; returns where they end."""
        self.y = top + 60
        self._tokens()
        behind = len(self.drawing.parts)
        table = self.trace.config.architecture.sites
        first = self.y
        for site in table.before_layers:
            self._row(site.name, site.name)
        self._heading(f"Layer 0, drawn whole{self._head_told()}")
        for site in table:
            if site.layered and site.name in self.brief:
                self._site(site.name)
        self._elided()
        last = self.y
        if sizes_of(self.trace).layers == self.trace.config.n_layer:
            self._row("ln_f", "ln_f")
            self._prediction()
        for i in range(len(self.positions)):
            x = self.left + i * self.step - 28
            self.drawing.line((x, first - 20), (x, last))
        lines = self.drawing.parts[-len(self.positions) :]
        self.drawing.parts[behind:] = [*lines, *self.drawing.parts[behind : -len(lines)]]
        return self.y

    def _tokens(self) -> None:
        shown = readable(self.trace.tokens)
        for i, pos in enumerate(self.positions):
            x = self.left + i * self.step
            self.drawing.text(x, self.y, shown[pos][:14].replace(" ", "·") or "∅", 64, ACCENT, 600)
            self.drawing.text(x, self.y + 52, f"position {pos}, id {self.trace.token_ids[pos]:,}", 34, SOFT)
        if self.positions[0]:
            last = self.positions[0] - 1
            told = f"positions 0 to {last} are left out here" if last else "position 0 is left out here"
            self.drawing.text(self.left - 60, self.y - 70, told, 34, SOFT)
        self.y += 110

    def _heading(self, words: str) -> None:
        self.y += 40
        self.drawing.text(self.left - LABELS, self.y, words, 52, ACCENT, 600)
        self.y += 44

    def _name(self, site: str, height: float) -> None:
        part = self.brief.get(site)
        self.rows[site] = self.y + height / 2
        self.drawing.text(self.left - 60, self.y + height / 2 + 12, site, 36, "#1c1e22", 600, "end")
        if part is not None and part.brief:
            self.drawing.text(self.left, self.y + height + 34, part.brief, 32, SOFT)

    def _row(self, name: str, site: str, of: Callable[[Array], Array] | None = None, rows: int = 1) -> None:
        """One row: the vector of each position."""
        values = self.trace[name]
        height = self.stretch * (44.0 * rows if rows > 1 else 56.0 if site in STREAMS else 44.0)
        self._name(site, height)
        for i, pos in enumerate(self.positions):
            x = self.left + i * self.step
            vector = values[pos] if of is None else of(values[pos])
            if site in WRITES:
                self.drawing.text(x - 28, self.y + height / 2 + 16, "+", 56, ACCENT, 700, "middle")
            self.drawing.strip(x, self.y, self.wide, height, vector.reshape(-1), rows)
        self.y += height + ROW * self.stretch

    def _site(self, site: str) -> None:
        name, axes = f"h.0.{site}", self.trace.config.architecture.sites[site].axis_names
        if axes == ("head", "query", "key"):
            self._triangle(name, site)
        elif axes[1] in ("head", "kv_head") and axes[-1] == "n_embd":
            self._heads(name, site)
        elif axes[-1] == "d_mlp":
            self._row(name, site, rows=FOLDS)
        else:
            self._row(name, site)

    def _heads(self, name: str, site: str) -> None:
        """The output vector of each head, one below the other."""
        values = self.trace[name]
        heads = values.shape[1]
        height = self.stretch * max(20.0, min(40.0, 320 / heads))
        self._name(site, height * heads)
        for i, pos in enumerate(self.positions):
            for head in range(heads):
                y = self.y + head * height
                self.drawing.strip(self.left + i * self.step, y, self.wide, height - 5, values[pos, head])
        self.y += heads * height + ROW * self.stretch

    def _triangle(self, name: str, site: str) -> None:
        """Every head's scores or pattern for the last positions: rows are queries, columns keys."""
        values = self.trace[name][:, -LOOKED:, -LOOKED:].astype(np.float64)
        heads, n = values.shape[:2]
        seen = np.isfinite(values) & np.tri(n, dtype=bool)
        gap = 30
        side = min(420.0 * self.stretch, (WIDTH - MARGIN - NOTES - 160 - self.left) / heads - gap)
        self._name(site, side)
        for head in range(heads):
            at = np.where(seen[head], values[head], 0)
            low, high = (0.0, 1.0) if site == "attn.pattern" else (at.min(), max(at.max(), at.min() + 1e-9))
            places = np.sqrt(np.clip((at - low) / (high - low), 0, 1))
            colours = np.where(seen[head][..., None], ramp(SHARE, places), 255).astype(np.uint8)
            x = self.left + head * (side + gap)
            self.drawing.pixels(x, self.y, side, side, colours)
            self.drawing.box(x, self.y, side, side, line=LINE)
            self.drawing.text(x + side - 10, self.y + 36, f"head {head}", 28, SOFT, anchor="end")
        self.y += side + ROW * self.stretch

    def _head_told(self) -> str:
        c = self.trace.config
        return f": {c.n_head} heads side by side, then the MLP"

    def _elided(self) -> None:
        """The layers that are not drawn whole: told, with what each leaves in the stream."""
        layers = sizes_of(self.trace).layers
        if layers < 2:
            return
        which = "Layer 1 is" if layers == 2 else f"Layers 1 to {layers - 1} are"
        self._heading(f"{which} left out here: built as layer 0, with weights of their own. What they leave:")
        height = self.stretch * max(14.0, min(40.0, 560 / (layers - 1)))
        for layer in range(1, layers):
            values = self.trace[f"h.{layer}.resid_post"]
            if height >= 24 or layer in (1, layers - 1):
                self.drawing.text(
                    self.left - 60, self.y + height * 0.8, f"layer {layer}", 28, SOFT, anchor="end"
                )
            for i, pos in enumerate(self.positions):
                self.drawing.strip(self.left + i * self.step, self.y, self.wide, height - 3, values[pos])
            self.y += height
        self.y += 40

    def _prediction(self) -> None:
        """The likeliest next tokens as bars, and where a draw would fall."""
        top = self.trace.top(min(10, self.trace.config.vocab_size))
        self._heading(f"What comes next: the {len(top)} likeliest of {self.trace.config.vocab_size:,} tokens")
        self.rows["logits"] = self.y
        logits = self.trace["logits"][-1]
        names, most = readable([word for word, _, _ in top]), max(top[0][2], 1e-9)
        for (_, i, p), name in zip(top, names, strict=True):
            self.drawing.text(self.left + 300, self.y + 34, name.replace(" ", "·")[:16], 40, anchor="end")
            self.drawing.box(self.left + 330, self.y, 1300 * p / most, 40, "#1b7482")
            told = f"{100 * p:.2f} %   logit {logits[i]:.2f}"
            self.drawing.text(self.left + 350 + 1300 * p / most, self.y + 34, told, 36, SOFT)
            self.y += 52
        self.y += 20
        x, wide = float(self.left), WIDTH - MARGIN - NOTES - 160 - self.left
        self.rows["decoding"] = self.y + 20
        for k, (_, _, p) in enumerate(top):
            self.drawing.box(x, self.y, wide * p, 44, "#1b7482" if k % 2 == 0 else "#63b1b5")
            x += wide * p
        self.drawing.box(self.left, self.y, wide, 44, line=SOFT)
        told = (
            "All probabilities end to end from 0 to 1: greedy takes the longest, a draw falls where it falls."
        )
        self.drawing.text(self.left, self.y + 86, told, 32, SOFT)
        self.y += 110


def _notes(drawing: Drawing, found: tuple[Note, ...], rows: dict[str, float], top: float) -> None:
    """The notes in two columns, each as near to its row as there is room, with a line to it."""

    def row_of(note: Note) -> float:
        first = top if note.title == "Tokenizer" else rows.get("decoding", HEIGHT)
        return next((rows[site] for site in note.sites if site in rows), first)

    ordered = sorted(found, key=row_of)
    for side, some in enumerate((ordered[0::2], ordered[1::2])):
        x = MARGIN if side == 0 else WIDTH - MARGIN - NOTES
        heights, y = [_height(note) for note in some], top
        for i, note in enumerate(some):
            y = max(y, min(row_of(note) - 60, HEIGHT - MARGIN - sum(heights[i:])))
            _note(drawing, note, x, y)
            edge, inner = (x + NOTES + 10, x + NOTES + 90) if side == 0 else (x - 10, x - 50)
            drawing.line((edge, y + 40), (inner, row_of(note)), ink=LINE, width=5)
            y += heights[i]


def _note(drawing: Drawing, note: Note, x: float, y: float) -> None:
    drawing.text(x, y + 50, note.title, 50, ACCENT, 600)
    end = drawing.paragraph(x, y + 108, note.text, NOTES, 44)
    drawing.text(x, end, f"{note.source}: {note.address}"[:80], 29, SOFT)


def _height(note: Note) -> float:
    """What a note takes, its distance to the next one included."""
    measured = Drawing(0, 0)
    return measured.paragraph(0, 108, note.text, NOTES, 44) + 70
