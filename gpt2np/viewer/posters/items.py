"""The texts beside a poster's picture: all commentary, and what this run's layers and numbers say."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2np.errors import Gpt2npError
from gpt2np.tables import counted
from gpt2np.viewer.commentary import DOLAN, notes
from gpt2np.viewer.posters.drawing import Drawing
from gpt2np.viewer.posters.facts import Facts
from gpt2np.viewer.posters.layout import HEIGHT, Layout, Row
from gpt2np.viewer.posters.lettering import isolated, whole_percent
from gpt2np.viewer.posters.weights import parameter_bars

LISTED = 16  # heads of whose reading there is a line
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


def items_of(facts: Facts, layout: Layout, top: float, bottom: float) -> list[Item]:
    """Every text beside a picture between `top` and `bottom`."""
    return [
        *_commentary(facts, layout),
        *_of_layers(facts, layout),
        *_of_run(facts, layout),
        *_always(facts, top, bottom),
    ]


def _commentary(facts: Facts, layout: Layout) -> list[Item]:
    """The notes on the model's parts, each at the first row that it is about.

    What has no row, because it needs weights and there are none, stands beside the one before it; what a run
    did not come to is left out.
    """
    found: list[Item] = []
    for note in notes(facts.config):
        kind = PLACE.get(note.title)
        rows = [row for row in layout.rows if row.kind == kind] if kind else []
        rows += [row for site in note.sites if (row := layout.find(site))]
        if not rows and not facts.to_the_end and (kind or "logits" in note.sites):
            continue
        row = rows[0] if rows else next((each.row for each in reversed(found)), None)
        at = HEIGHT if row is None else row.y
        more = _vocabulary(facts) if note.title == "Tokenizer" else ()
        found.append(Item(note.title, (note.text, *more), row, at, note.source, note.address))
    return found


def _vocabulary(facts: Facts) -> tuple[str, ...]:
    """What the list of tokens is made of, if it is of GPT-2's kind, and how tokens are written here."""
    tokenizer = None if facts.trace.model is None else facts.trace.model.usable_tokenizer
    if tokenizer is None:
        return ()
    written = (
        "In a token · stands for a space, ↵ for the end of a line, 日¹⁄₃ for the first of three parts of a "
        "character."
    )
    try:
        parts = tokenizer.parts()
    except Gpt2npError:  # another kind
        return (written,)
    merges, added = counted(parts["merges"], "merge"), counted(parts["added"], "special token")
    made = f"The list: {parts['bytes']} bytes, {merges} of two tokens into one, {added}."
    return (made, written)


def _of_layers(facts: Facts, layout: Layout) -> list[Item]:
    """Beside each further whole layer what it does: what the last position reads, and what it would say."""
    found = []
    for row in layout.rows:
        if row.kind == "heading" and row.layer:
            what = f"Layer {row.layer}: what it adds"
            found.append(Item(what, _added(facts, row.layer), row, row.y, side=0))
            what = f"Layer {row.layer}: what the last position, {isolated(facts.tokens[-1])}, reads"
            found.append(Item(what, _read(facts, row.layer), row, row.y, side=1))
    return found


def _read(facts: Facts, layer: int) -> tuple[str, ...]:
    """Of each head the three positions that it reads most; of many heads those that look about."""
    pattern, told = facts.trace[f"h.{layer}.attn.pattern"][:, -1], []
    for head in sorted(facts.busiest[layer][:LISTED]):
        shares = pattern[head]
        best = [key for key in np.argsort(-shares, kind="stable")[:3].tolist() if shares[key] >= 0.01]
        told.append(
            f"head {head}: "
            + ", ".join(f"{isolated(facts.tokens[k][:12])}\u00a0({k})\u00a0{shares[k]:.2f}" for k in best)
        )
    return tuple(told)


def _added(facts: Facts, layer: int) -> tuple[str, ...]:
    """How long what attention and MLP add is beside the stream, and what the stream would say then."""
    told = []
    for part, site, after in (("Attention", "attn.out", "resid_mid"), ("The MLP", "mlp.out", "resid_post")):
        vectors = (facts.vectors(name, layer)[-1].astype(np.float64) for name in (site, after))
        length, of = map(np.linalg.norm, vectors)
        told.append(
            f"{part} adds a vector of length {length:.2f} to the last position; its stream then has {of:.2f}."
        )
        if said := facts.lens.get(f"h.{layer}.{after}"):
            likeliest = ", ".join(f"“{isolated(token)}”\u00a0{whole_percent(p)}" for token, p in said)
            told[-1] += f" Read out there, it would say {likeliest}."
    return tuple(told)


def _of_run(facts: Facts, layout: Layout) -> list[Item]:
    """What goes into the stream, why only one position goes on, and what has no room."""
    found = []
    if (begins := layout.find("embed")) is not None and "embed" in facts.parts:
        found.append(Item("Input embeddings", (facts.parts["embed"].text,), begins, begins.y, *DOLAN))
    if (final := layout.find("ln_f")) is not None:
        text = (
            "Of all positions only the last is unembedded here: the others’ predictions are not needed to "
            "continue the text, and what has been computed for them never changes."
        )
        found.append(Item("Only the last position", (text,), final, final.y, *DOLAN))
    for row in layout.rows:
        if row.kind == "elided":
            text = (
                f"{len(layout.elided)} of {facts.layers} layers "
                + (
                    "has no room on this sheet. It has"
                    if len(layout.elided) == 1
                    else "have no room on this sheet. Each has"
                )
                + " the parts that layer 0 has, in the same order, and weights of its own."
            )
            found.append(Item("What is left out", (text,), row, row.y, *DOLAN))
    return found


def _always(facts: Facts, top: float, bottom: float) -> list[Item]:
    """How to read the sheet, the words that are used, and where the parameters are."""
    c = facts.config
    reading = (
        "Every strip is one vector, every cell of it one number: blue below 0, orange above. All strips of "
        "a row have one scale, given as ± beside it: what has full colour. Nothing is left out of a vector; "
        "a long one is folded into lines.",
        "Each token has a column. Its residual stream runs straight down; blocks read it, and add (+) to "
        "it. Everything happens to each position by itself, but for attention. Heads are not put side by "
        "side and multiplied at once, as programs do: each has its own output.",
    )
    words = (
        "token: one of the pieces that a text is cut into; inside the model there are vectors only.",
        "position: the place of a token in the text, from 0, and its vector in the stream.",
        f"n_embd (d_model): {c.n_embd:,}, the width of the stream. d_head: {c.d_head:,}, of a head’s query, "
        f"key and value. d_mlp: {c.d_mlp:,}, the neurons of an MLP.",
        "layer: one attention and one MLP, each added to the stream once; counted from 0.",
    )

    def bars(drawing: Drawing, x: float, y: float, wide: float) -> float:
        return parameter_bars(drawing, facts, x, y, wide)

    return [
        Item("How to read this sheet", reading, None, top, *DOLAN, side=0),
        Item("Words", words, None, bottom, *DOLAN, side=0),
        Item("Where the parameters are", (), None, bottom, side=1, picture=bars),
    ]
