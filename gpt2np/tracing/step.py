"""What runs a step: it decides where the result lives, edits it, records it, and times it.

A forward pass says `x = step("resid_mid", add, x, a)`; everything that is not the maths of that line is here.
"""

import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpt2np.ops import Array, Norm, causal_blocks
from gpt2np.threads import each
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.edits import Edits
from gpt2np.tracing.recording import Recording, Taker
from gpt2np.tracing.scratch import Scratch


@dataclass
class Sequence:
    """One prompt's part of a pass: `n` new tokens that stand at `rows`, after `past` earlier ones."""

    token_ids: Array  # the new ones
    past: int = 0
    recording: Recording | None = None
    edits: Edits | None = None
    first_step: int | None = None  # in a generation: its first new token's place behind the prompt, from 1
    # of a past that was run elsewhere: its keys and values by full name, each [pos, kv_head, d_head]
    before: Mapping[str, Array] | None = None
    number: int | None = None  # among more prompts than those of the pass, for messages
    rows: slice = field(default_factory=lambda: slice(0))

    @property
    def positions(self) -> Array:
        """Where in its text each new token stands."""
        return np.arange(self.past, self.past + len(self.token_ids))

    def edit(self, full_name: str, out: Array, n: int, norm: tuple[Array, Norm] | None = None) -> None:
        """Let the edits of this prompt replace a result, of which `out` has the last n positions."""
        if self.edits is None:
            return
        end = len(self.token_ids)
        steps = np.zeros(n, np.int64)
        if self.first_step is not None:
            steps = np.maximum(0, self.first_step + np.arange(end - n, end))
        self.edits.apply(full_name, out, range(self.past + end - n, self.past + end), steps, norm)


class AttentionBlock(NamedTuple):
    """Some heads and queries of a sequence, and the keys, the past's too, that any of these queries sees."""

    heads: slice
    queries: slice
    keys: slice


@dataclass
class Pass:
    """One run of the model over packed sequences: their tokens stand one after another along `pos`."""

    config: ModelConfig
    dtype: np.dtype[Any]
    sequences: list[Sequence]
    scratch: Scratch = field(default_factory=Scratch)
    last_only: bool = False  # logits of the last position of each sequence, instead of all
    logits_of: Array | None = None  # the rows whose logits are computed, which may be none, instead of all
    taker: Taker | None = None
    stop_at_layer: int | None = None
    timings: dict[str, float] | None = None  # seconds of each step, by full name
    start: tuple[int, Array] | None = None  # the first block to run, and the residual stream that enters it
    together: Mapping[str, Array] = field(default_factory=dict)  # where rows of all sequences are recorded
    placing: threading.Lock = field(default_factory=threading.Lock)  # held while an array of all is placed
    # (full name, op) -> op to run
    swap: Callable[[str, Callable[..., None]], Callable[..., None]] | None = None

    def __post_init__(self) -> None:
        self.row_shapes = _row_shapes(self.config)
        self._take()

    def _take(self) -> None:
        start = 0
        for sequence in self.sequences:
            sequence.rows = slice(start, start + len(sequence.token_ids))
            start = sequence.rows.stop
        self.n_rows = start
        self.edited = any(s.edits is not None for s in self.sequences)
        self.stored = set().union(*(s.recording.names for s in self.sequences if s.recording is not None))
        self.watched = set() if self.taker is None else {*self.taker.names}  # handed on, wherever they lie
        self.watched |= set().union(*(s.recording.cached for s in self.sequences if s.recording is not None))
        self.stored |= self.watched
        self.plain = self.swap is None and self.timings is None  # every step is its operation, and no more
        self.whole: Array | None = None  # the final rows, where logits are asked for of some of them only
        self.token_ids = np.concatenate([s.token_ids for s in self.sequences])
        self.positions = np.concatenate([s.positions for s in self.sequences])

    def go_on(self, sequences: list[Sequence], last_only: bool) -> bool:
        """Make this the pass that follows it; whether its steps can go on, as every result is as large."""
        before = self.n_rows, len(self.sequences), self.last_only, self.stored, self.edited
        self.sequences, self.last_only = sequences, last_only
        self._take()
        return before == (self.n_rows, len(sequences), last_only, self.stored, self.edited)

    @property
    def decodes(self) -> bool:
        """Whether this is one token more of a text whose keys and values are known."""
        return self.n_rows == 1 and self.sequences[0].past > 0

    @property
    def n_predicted(self) -> int:
        """How many rows have logits."""
        if self.logits_of is not None:
            return len(self.logits_of)
        return len(self.sequences) if self.last_only else self.n_rows

    def place(self, full_name: str, kind: str) -> tuple[Array, bool]:
        """Where a result with one row a position goes, and whether that is in a recording."""
        if full_name in self.together:
            return self.together[full_name], True
        n_rows = self.n_predicted if kind == "logits" else self.n_rows
        sequence = self.sequences[0]
        if len(self.sequences) == 1 and sequence.recording is not None:
            own = sequence.recording.rows(full_name, sequence.past, n_rows)
            if own is not None:
                return own, True
        return self.scratch.rows(kind, n_rows, self.row_shapes[kind], self.dtype), False

    def place_attention(
        self, full_name: str, kind: str, sequence: Sequence, block: AttentionBlock | None
    ) -> tuple[Array, bool]:
        """The same for a [head, query, key] array of a sequence, or for some of its heads and queries."""
        past, recording, longest = sequence.past, sequence.recording, 0
        if recording is not None:
            longest = recording.plan.length
            if full_name in recording.arrays:
                heads, queries, keys = block or self.whole_attention(sequence)
                n_query = queries.stop - queries.start
                own = recording.queries(full_name, past + queries.start, n_query, heads, keys)
                if own is not None:
                    return own, True
        if block is None:
            n_query = len(sequence.token_ids)
            shape = self.config.n_head, n_query, past + n_query
        else:
            heads, queries, keys = block
            shape = heads.stop - heads.start, queries.stop - queries.start, keys.stop - keys.start
        return self.scratch.array(kind, shape, self.dtype, shape[0] * shape[1] * longest), False

    def whole_attention(self, sequence: Sequence) -> AttentionBlock:
        """All heads and queries of a sequence, and all keys."""
        n = len(sequence.token_ids)
        return AttentionBlock(slice(0, self.config.n_head), slice(0, n), slice(0, sequence.past + n))

    def attention_blocks(self, sequence: Sequence, layer: int) -> list[AttentionBlock | None]:
        """The heads and queries of a sequence in blocks that stay in cache from scores to results.

        `None` is all of them. What an experiment looks at, or a clock, is computed all at once; the
        operations give the same numbers for it.
        """
        config, n = self.config, len(sequence.token_ids)
        window = config.window(layer)
        if (n == 1 and window is None) or not self.plain:
            return [None]
        if sequence.edits is not None:
            sites = config.architecture.sites.quadratic
            if any(f"h.{layer}.{site}" in sequence.edits.names for site in sites):
                return [None]
        n_key = sequence.past + n
        shape, group = (config.n_head, n, n_key), config.n_head // config.n_kv_head
        blocks = causal_blocks(shape, self.dtype, window, group)
        if len(blocks) == 1 and blocks[0][2].start == 0:
            return [None]
        return [AttentionBlock(*block) for block in blocks]

    def run(self, full_name: str, op: Callable[..., None], inputs: tuple[Any, ...], out: Array) -> None:
        """Run one operation, or what an experiment puts in its place; timed if somebody wants to know."""
        if self.swap is not None:
            op = self.swap(full_name, op)
        if self.timings is None:
            op(*inputs, out=out)
            return
        start = time.perf_counter()
        op(*inputs, out=out)
        self.timings[full_name] = self.timings.get(full_name, 0.0) + time.perf_counter() - start

    def finish(self, full_name: str, out: Array, inputs: tuple[Any, ...] = ()) -> None:
        """Edit a result, and copy rows into the recordings that want them and do not hold them yet."""
        if self.taker is not None and full_name in self.taker.names:
            self.taker.rows(full_name, out)
        for i, sequence in enumerate(self.sequences):
            if sequence.edits is not None:
                rows = sequence.rows if len(out) == self.n_rows else slice(i, i + 1)
                norm = (inputs[0][rows], inputs[1]) if inputs and isinstance(inputs[-1], Norm) else None
                sequence.edit(full_name, out[rows], len(out[rows]), norm)
            recording = sequence.recording
            if recording is not None and full_name in recording.names and full_name not in self.together:
                recording.write_rows(full_name, sequence.past, out[sequence.rows])


@functools.lru_cache(16)
def _row_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """For each site with one row a position, the shape of a row."""
    table, sizes = config.architecture.sites, config.dims
    sites = [site for site in table if site.axis_names[0] == "pos" and not site.derived]
    return {site.name: tuple(sizes[axis] for axis in site.axis_names[1:]) for site in sites}


class Names(NamedTuple):
    """What a step is called, and whether its result has one row a position."""

    kind: str  # without the layer: "attn.scores"
    full: str  # "h.3.attn.scores"
    has_rows: bool


class Step:
    """Runs named steps: `x = step("ln_1", layer_norm, x, p.ln_1)`."""

    def __init__(self, run: Pass, prefix: str = "", layer: int | None = None) -> None:
        self.run, self._prefix, self._layer = run, prefix, layer
        self._layer_prefix = "" if layer is None else f"h.{layer}."
        self._packed: dict[str, tuple[Array, bool]] = {}
        self._names: dict[str, Names] = {}
        self._parts: dict[str | int, Step] = {}
        self._unstored: dict[str, Array] = {}  # memory of results that nobody stores, edits or times
        # The pass does not refer to its steps: the memory of a trace is to be free when nobody uses it.

    def go_on(self, sequences: list[Sequence], last_only: bool) -> "Step":
        """The steps of the pass that follows: these, if every result is as large."""
        return self if self.run.go_on(sequences, last_only) else Step(self.run)

    def at(self, part: str) -> "Step":
        """The steps inside a part of the model: `step.at("attn")`."""
        found = self._parts.get(part)
        if found is None:
            found = self._parts[part] = Step(self.run, f"{self._prefix}{part}.", self._layer)
        return found

    def block(self, layer: int) -> "Step":
        """The steps inside a block."""
        found = self._parts.get(layer)
        if found is None:
            found = self._parts[layer] = Step(self.run, "", layer)
        return found

    def __call__(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run `op(*inputs, out=...)` and return the result: one row a position."""
        out = self._unstored.get(name)  # it is there from the second pass of a generation on
        if out is not None:
            op(*inputs, out=out)
            return out
        run, kind = self.run, self._prefix + name
        full_name = self._layer_prefix + kind
        out, placed = run.place(full_name, kind)
        run.run(full_name, op, inputs, out)
        if run.edited or full_name in (run.watched if placed else run.stored):
            run.finish(full_name, out, inputs)
        elif run.plain and not placed:
            self._unstored[name] = out
        return out

    def each_sequence(self, function: Callable[..., None], *inputs: Any) -> None:
        """Call `function(*inputs, sequence)` for the packed prompts, the only part in which positions meet.

        Long prompts come in parts, several at a time.
        """
        run = self.run
        assert self._layer is not None, "prompts meet in layers only"
        parts = [
            SequenceStep(self, sequence, block)
            for sequence in run.sequences
            for block in run.attention_blocks(sequence, self._layer)
        ]
        if len(parts) > len(run.sequences):
            each(lambda part: function(*inputs, part), parts)
        else:
            for part in parts:
                function(*inputs, part)

    def packed(self, name: str) -> Array:
        """The array of all sequences that `SequenceStep` has been filling in."""
        found = self._packed.get(name)
        if found is None:
            with self.run.placing:  # all threads must write into the same one
                found = self._packed.get(name)
                if found is None:
                    of = self.names(name)
                    found = self._packed[name] = self.run.place(of.full, of.kind)
        return found[0]

    def merged(self, name: str) -> Array:
        """Such an array with its heads side by side: [pos, head, d_head] -> [pos, head*d_head]."""
        out, placed = self.packed(name), self._packed[name][1]
        if placed:
            del self._packed[name]  # the next pass has other rows of the recording
        full_name = self.names(name).full
        if self.run.edited or full_name in (self.run.watched if placed else self.run.stored):
            self.run.finish(full_name, out)
        return out.reshape(len(out), -1)

    def names(self, name: str) -> "Names":
        """What a step of attention is called."""
        found = self._names.get(name)
        if found is None:
            kind = self._prefix + name
            found = self._names[name] = Names(kind, self._layer_prefix + kind, kind in self.run.row_shapes)
        return found

    def predicting(self, x: Array) -> Array:
        """The rows whose next token is asked for: all, or the last of each sequence, or chosen ones."""
        if self.run.logits_of is not None:
            self.run.whole = x
            return x[self.run.logits_of]
        if not self.run.last_only or self.run.n_rows == len(self.run.sequences):
            return x
        self.run.whole = x
        return x[[s.rows.stop - 1 for s in self.run.sequences]]

    @property
    def token_ids(self) -> Array:
        """Ids of the packed tokens: [pos]."""
        return self.run.token_ids

    @property
    def positions(self) -> Array:
        """Where in its own text each packed token stands: [pos]."""
        return self.run.positions

    @property
    def start(self) -> tuple[int, Array] | None:
        """The first block to run with what enters it, where a pass does not begin with the tokens."""
        return self.run.start

    @property
    def stop_at_layer(self) -> int | None:
        """The first block that is not run."""
        return self.run.stop_at_layer


class SequenceStep:
    """Runs the steps of attention for one sequence, or for some of its heads and queries."""

    __slots__ = ("_block", "_is_all", "_sequence", "_step")

    def __init__(self, step: Step, sequence: Sequence, block: AttentionBlock | None) -> None:
        self._step, self._sequence, self._block = step, sequence, block
        self._is_all = len(step.run.sequences) == 1  # the rows of the pass are those of the sequence

    def own(self, name: str, x: Array) -> Array:
        """The rows and heads of a site [pos, head, d_head] that are this part's own, as queries are."""
        rows = x if self._is_all else x[self._sequence.rows]
        return rows if self._block is None else rows[self._block.queries, self._block.heads]

    def all(self, name: str, x: Array) -> Array:
        """The rows of a site [pos, kv_head, d_head] that are seen from here, as keys are: the past's, too."""
        step, sequence = self._step, self._sequence
        if sequence.past:
            full_name = step.names(name).full
            if sequence.before is not None:
                x = np.concatenate((sequence.before[full_name], x[sequence.rows]))
            else:
                assert sequence.recording is not None, "a past must be recorded somewhere"
                assert sequence.recording.cache is not None, "and be cached there"
                x = sequence.recording.cache.so_far(full_name, sequence.past + len(sequence.token_ids))
        elif not self._is_all:
            x = x[sequence.rows]
        if self._block is None:
            return x
        heads, _, keys = self._block
        group = step.run.config.n_head // x.shape[1]
        return x[keys, heads.start // group : heads.stop // group]

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of this sequence's attention."""
        run, sequence, block = self._step.run, self._sequence, self._block
        kind, full_name, has_rows = self._step.names(name)
        if has_rows:
            out, placed = self.own(name, self._step.packed(name)), True
        else:
            out, placed = run.place_attention(full_name, kind, sequence, block)
        run.run(full_name, op, inputs, out)
        if has_rows or not (run.edited or full_name in (run.watched if placed else run.stored)):
            return out
        if sequence.edits is not None and block is None:
            sequence.edit(full_name, out, len(sequence.token_ids))
        recording, taker = sequence.recording, run.taker
        if recording is not None and not placed and full_name in recording.arrays:
            heads, queries, keys = block or run.whole_attention(sequence)
            recording.write_queries(full_name, sequence.past + queries.start, out, heads, keys)
        if taker is not None and full_name in taker.names:
            taker.queries(full_name, sequence.rows.start, block or run.whole_attention(sequence), out)
        return out
