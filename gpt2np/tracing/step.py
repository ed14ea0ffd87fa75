"""What runs a step: it decides where the result lives, edits it, records it, and times it.

A forward pass says `x = step("resid_mid", add, x, a)`; everything that is not the maths of that line is here.
"""

import functools
import math
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


class Scratch:
    """Memory for arrays that nobody keeps: one buffer a name and thread, which layers use in turn."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], Array] = {}
        self._rows: dict[tuple[str, int], Array] = {}  # the last of each, which decoding asks for again

    def rows(self, name: str, n: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of n rows of this shape in the buffer of this name."""
        key = name, threading.get_ident()
        found = self._rows.get(key)
        if found is None or len(found) != n or found.shape[1:] != row or found.dtype != dtype:
            found = self._rows[key] = self.array(name, (n, *row), dtype)
        return found

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], room_for: int = 0) -> Array:
        """An array of this shape in the buffer of this name, which is made with room for so many elements."""
        size, key = math.prod(shape), (name, threading.get_ident())
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[key] = np.empty(max(size, room_for), dtype)
        return buffer[:size].reshape(shape)


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
        self.stored |= self.taker.names if self.taker is not None else set()
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

    def place(self, full_name: str, kind: str) -> Array:
        """Where a result with one row a position goes: into the recording itself, where that is possible."""
        if full_name in self.together:
            return self.together[full_name]
        n_rows = self.n_predicted if kind == "logits" else self.n_rows
        sequence = self.sequences[0]
        if len(self.sequences) == 1 and sequence.recording is not None:
            own = sequence.recording.rows(full_name, sequence.past, n_rows)
            if own is not None:
                return own
        return self.scratch.rows(kind, n_rows, self.row_shapes[kind], self.dtype)

    def place_attention(self, full_name: str, kind: str, sequence: Sequence, block: AttentionBlock) -> Array:
        """Where a [head, query, key] array of some heads and queries of a sequence goes."""
        past, n_query = sequence.past + block.queries.start, block.queries.stop - block.queries.start
        longest = 0
        if sequence.recording is not None:
            if full_name in sequence.recording.arrays:
                own = sequence.recording.queries(full_name, past, n_query, block.heads, block.keys)
                if own is not None:
                    return own
            longest = sequence.recording.plan.length
        n_head, n_key = block.heads.stop - block.heads.start, block.keys.stop - block.keys.start
        return self.scratch.array(kind, (n_head, n_query, n_key), self.dtype, n_head * n_query * longest)

    def attention_blocks(self, sequence: Sequence, layer: int) -> list[AttentionBlock]:
        """The heads and queries of a sequence in blocks that stay in cache from scores to results.

        What an experiment looks at, or a clock, is computed all at once; the operations give the same
        numbers for it.
        """
        config, n = self.config, len(sequence.token_ids)
        n_key = sequence.past + n
        watched = self.swap is not None or self.timings is not None
        if sequence.edits is not None:
            sites = config.architecture.sites.quadratic
            watched = watched or any(f"h.{layer}.{site}" in sequence.edits.names for site in sites)
        if watched:
            return [AttentionBlock(slice(0, config.n_head), slice(0, n), slice(0, n_key))]
        shape, group = (config.n_head, n, n_key), config.n_head // config.n_kv_head
        blocks = causal_blocks(shape, self.dtype, config.window(layer), group)
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

    def not_finite(self, result: Array) -> str | None:
        """Where a pass is not finite, in its result or in rows whose logits nobody wants; None: nowhere."""
        for rows in (self.whole, result):
            if rows is None or math.isfinite(
                np.add.reduce(rows, axis=None)
            ):  # the sum is quick, and may overflow by itself
                continue
            finite = np.logical_and.reduce(np.isfinite(rows), axis=-1)
            if not finite.all():
                return self._positions_of(finite)
        return None

    def _positions_of(self, finite: Array) -> str:
        """Which positions of the first such prompt are not finite; `finite` is of all rows, or last ones."""
        for i, sequence in enumerate(self.sequences):
            rows = sequence.rows if len(finite) == self.n_rows else slice(i, i + 1)
            bad = np.flatnonzero(~finite[rows])
            if len(bad):
                number = i if sequence.number is None else sequence.number
                prompt = f" of prompt {number}" if len(self.sequences) > 1 or sequence.number else ""
                if len(bad) == len(sequence.token_ids) > 1:
                    return f" at any position{prompt}"
                first = sequence.past + len(sequence.token_ids) - len(finite[rows]) + int(bad[0])
                return f" at position {first}{prompt}"
        return ""

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


class Step:
    """Runs named steps: `x = step("ln_1", layer_norm, x, p.ln_1)`."""

    def __init__(self, run: Pass, prefix: str = "", layer: int | None = None) -> None:
        self.run, self._prefix, self._layer = run, prefix, layer
        self._layer_prefix = "" if layer is None else f"h.{layer}."
        self._packed: dict[str, Array] = {}
        self._parts: dict[str | int, Step] = {}
        self.runing: dict[str, Array] = {}  # memory of results that nobody stores, edits or times
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
        out = self.runing.get(name)  # it is there from the second pass of a generation on
        if out is not None:
            op(*inputs, out=out)
            return out
        run, kind = self.run, self._prefix + name
        full_name = self._layer_prefix + kind
        out = run.place(full_name, kind)
        run.run(full_name, op, inputs, out)
        if run.edited or full_name in run.stored:
            run.finish(full_name, out, inputs)
        elif run.timings is None and run.swap is None:
            self.runing[name] = out
        return out

    def each_sequence(self, function: Callable[..., None], *inputs: Any) -> None:
        """Call `function(*inputs, sequence)` for the packed prompts, the only part in which positions meet.

        Long prompts come in parts, several at a time.
        """
        run = self.run
        assert self._layer is not None, "prompts meet in layers only"
        self._packed.clear()
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
        kind = self._prefix + name
        with self.run.placing:  # all threads must write into the same one
            if kind not in self._packed:
                self._packed[kind] = self.run.place(self._layer_prefix + kind, kind)
        return self._packed[kind]

    def merged(self, name: str) -> Array:
        """Such an array with its heads side by side: [pos, head, d_head] -> [pos, head*d_head]."""
        out = self.packed(name)
        full_name = self._layer_prefix + self._prefix + name
        if self.run.edited or full_name in self.run.stored:
            self.run.finish(full_name, out)
        return out.reshape(len(out), math.prod(out.shape[1:]))

    def predicting(self, x: Array) -> Array:
        """The rows whose next token is asked for: all, or the last of each sequence, or chosen ones."""
        if self.run.logits_of is not None:
            self.run.whole = x
            return x[self.run.logits_of]
        if not self.run.last_only:
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

    def __init__(self, step: Step, sequence: Sequence, block: AttentionBlock) -> None:
        self._step, self._sequence, self._block = step, sequence, block

    def own(self, name: str, x: Array) -> Array:
        """The rows and heads of a site [pos, head, d_head] that are this part's own, as queries are."""
        return x[self._sequence.rows][self._block.queries, self._block.heads]

    def all(self, name: str, x: Array) -> Array:
        """The rows of a site [pos, kv_head, d_head] that are seen from here, as keys are: the past's, too."""
        step, sequence, (heads, _, keys) = self._step, self._sequence, self._block
        if sequence.past:
            full_name = f"{step._layer_prefix}{step._prefix}{name}"
            if sequence.before is not None:
                x = np.concatenate((sequence.before[full_name], x[sequence.rows]))
            else:
                assert sequence.recording is not None, "a past must be recorded somewhere"
                assert sequence.recording.cache is not None, "and be cached there"
                x = sequence.recording.cache.so_far(full_name, sequence.past + len(sequence.token_ids))
        else:
            x = x[sequence.rows]
        group = step.run.config.n_head // x.shape[1]
        return x[keys, heads.start // group : heads.stop // group]

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of this sequence's attention."""
        run, sequence, (heads, queries, keys) = self._step.run, self._sequence, self._block
        kind = self._step._prefix + name
        full_name = self._step._layer_prefix + kind
        if kind in run.row_shapes:  # one row a position
            out = self._step.packed(name)[sequence.rows][queries, heads]
            run.run(full_name, op, inputs, out)
            return out
        out = run.place_attention(full_name, kind, sequence, self._block)
        run.run(full_name, op, inputs, out)
        if sequence.edits is not None and out.shape[:2] == (run.config.n_head, len(sequence.token_ids)):
            sequence.edit(full_name, out, len(sequence.token_ids))
        if sequence.recording is not None and full_name in sequence.recording.arrays:
            sequence.recording.write_queries(full_name, sequence.past + queries.start, out, heads, keys)
        if run.taker is not None and full_name in run.taker.names:
            run.taker.queries(full_name, sequence.rows.start, self._block, out)
        return out
