"""One prompt of a generation: how it begins, what there is of it so far, and what result is made of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2np.errors import InputError
from gpt2np.generation.beam import Beams
from gpt2np.generation.generated import Generated
from gpt2np.generation.options import Options
from gpt2np.generation.sampling import LedgerEntry, draws
from gpt2np.generation.saved_generation import generation_metadata
from gpt2np.tables import counted
from gpt2np.text.prompts import Prompt
from gpt2np.text.tokenizer import TextStream
from gpt2np.tracing.cache import caches
from gpt2np.tracing.edits import facts
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.recording import Recording, arena, with_bases
from gpt2np.tracing.resume import fill, keep_from, known_positions
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import run_metadata

if TYPE_CHECKING:
    from gpt2np.model import Model


@dataclass
class Row:
    """One prompt on its way: the text so far, what is recorded of it, and why it stopped."""

    index: int
    ids: NDArray[np.int64]  # prompt and response, with room for all of it
    n_prompt: int
    n: int  # how many of ids are there
    plan: Plan | None  # what will be in the trace
    wide: Plan  # what is recorded for it on the way, for as many positions as there may be
    recording: Recording = field(init=False)
    draws: Iterator[float]
    prompt_text: str
    stream: TextStream | None
    past: int = 0  # positions already run
    held: str = ""  # text that may turn out to begin a stop string
    text: str = ""  # the response so far
    stopped_by: str | None = None
    probabilities: list[float] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    beams: Beams | None = None

    @property
    def context(self) -> NDArray[np.int64]:
        """The text so far, as ids."""
        return self.ids[: self.n]

    @property
    def whole_text(self) -> str:
        """Prompt and response so far."""
        return self.prompt_text + self.text + self.held


def started(model: "Model", options: Options, index: int, prompt: Prompt, seed: int | None) -> Row:
    """A prompt that is about to run, as soon as it has memory (`with_memory`).

    Raises:
        InputError: it cannot be run, or is too long.
    """
    o, config = options, model.config
    ids = model.token_ids(prompt, limit=not o.slide, special=o.special)
    n_positions = len(ids) + o.max_new_tokens - 1
    if n_positions > config.n_positions and not o.slide:
        raise InputError(
            f"{counted(len(ids), 'prompt token')} and {counted(o.max_new_tokens, 'new one')} take "
            f"{n_positions} positions (the last token is not run); the "
            f"context of this model holds {config.n_positions} (on_overflow='slide' continues anyway)"
        )
    if n_positions > config.n_positions and o.keep is not None:
        raise InputError(
            f"a trace of {n_positions} positions does not fit into the context of {config.n_positions}"
        )
    capacity = min(n_positions, config.n_positions)
    if isinstance(o.past, Trace):
        o.past.check_model(model, "past")
    past = 0 if o.past is None else known_positions(o.past, ids)
    plan = None if o.keep is None else Plan(config, capacity, keep_from(o.keep, past), model.dtype.name)
    wide = Plan(config, capacity, Keep(names=frozenset()), model.dtype.name)
    if plan is not None:
        wide = with_bases(plan) or plan
    tokenizer = model.tokenizer if isinstance(prompt, str) else model.usable_tokenizer
    stream = None if tokenizer is None else TextStream(tokenizer)
    text = "".join(decoded(stream, i) for i in ids)
    if isinstance(prompt, str):
        text = prompt
        if stream is not None:
            stream.finish()  # ids may end inside a character, which the response completes; a text not
    room = np.zeros(len(ids) + o.max_new_tokens, np.int64)
    room[: len(ids)] = ids
    return Row(index, room, len(ids), len(ids), plan, wide, draws(seed), text, stream, past)


def with_memory(rows: list[Row], model: "Model", options: Options) -> list[Row]:
    """The same prompts with room for all that may come: their caches lie side by side.

    Raises:
        InputError: `past` is not one of this model.
    """
    lengths = [row.wide.length for row in rows]
    for row, cache in zip(rows, caches(model.config, lengths, model.dtype), strict=True):
        row.recording = Recording(row.wide, arena(row.wide), cache)
        if options.past is not None:
            fill(row.recording, options.past, row.past)
    return rows


def decoded(stream: TextStream | None, token_id: int) -> str:
    """What a token adds to the text: `<464>` where the model has no vocabulary."""
    return f"<{token_id}>" if stream is None else stream.push(token_id)


def result_of(row: Row, model: "Model", options: Options) -> Generated:
    """What there is of it, as a result."""
    ids = row.context.tolist()
    tokens = model.tokens(ids)
    return Generated(
        token_ids=ids,
        tokens=tokens,
        text=row.whole_text,
        stopped_by=row.stopped_by or "interrupt",
        trace=_trace(row, model, options, tokens) if row.plan is not None and row.n > row.n_prompt else None,
        n_prompt=row.n_prompt,
        prompt_text=row.prompt_text,
        probabilities=row.probabilities,
        ledger=row.ledger,
        sampling=options.sampling,
        beams=row.beams,
    )


def _trace(row: Row, model: "Model", options: Options, tokens: list[str]) -> Trace:
    """The recorded rows as a trace of the true length: views, unless most of the room was left over."""
    assert row.plan is not None
    *ids, last = row.context.tolist()
    wide = row.wide

    def cut(plan: Plan) -> Plan:
        return Plan(plan.config, len(ids), plan.keep, plan.dtype.name)

    arrays = {}
    for entry in cut(wide).entries:
        array = row.recording.arrays[entry.name]
        arrays[entry.name] = array[tuple(slice(n) for n in entry.shape)]
    if cut(wide).nbytes < wide.nbytes / 2:
        small = arena(cut(wide))
        for name, array in small.items():
            array[...] = arrays[name]
        arrays = small
    metadata = run_metadata(
        cut(row.plan),
        ids,
        tokens[:-1],
        prompt=row.prompt_text,
        n_prompt=row.n_prompt,
        generation=generation_metadata(
            (last, tokens[-1]),
            row.whole_text,
            row.stopped_by or "interrupt",
            row.probabilities,
            options.sampling,
        ),
        **model.origin(),
        **facts(options.edits),
    )
    trace = Trace(cut(wide), arrays, ids, metadata, model)
    if wide is row.plan:
        return trace
    plan = cut(row.plan)
    kept = Recording(plan, arena(plan))  # derived sites are stored in a second step
    kept.copy(trace)
    return Trace(plan, kept.arrays, ids, metadata, model)
