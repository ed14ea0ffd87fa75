"""What runs a step: it decides where the result lives, edits it, records it, and times it.

`gpt2.py` says `x = step("resid_mid", add, x, a)`; everything that is not the maths of that line is here.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.config import Config
from gpt2np.derived import split_qkv
from gpt2np.edits import Edits
from gpt2np.ops import Array, LayerNorm
from gpt2np.recording import Recording
from gpt2np.sites import BY_NAME


@dataclass
class Sequence:
    """One prompt's part of a pass: `n` new tokens that stand at `rows`, after `past` earlier ones."""

    token_ids: Array  # the new ones
    past: int = 0
    recording: Recording | None = None
    edits: Edits | None = None
    first_step: int | None = None  # in a generation: its first new token's place behind the prompt, from 1
    rows: slice = field(default_factory=lambda: slice(0))

    @property
    def positions(self) -> Array:
        """Where in its text each new token stands."""
        return np.arange(self.past, self.past + len(self.token_ids))

    def edit(self, full_name: str, out: Array, n: int, norm: tuple[Array, LayerNorm] | None = None) -> None:
        """Let the edits of this prompt replace a result, of which `out` has the last n positions."""
        if self.edits is None:
            return
        end = len(self.token_ids)
        steps = np.zeros(n, np.int64)
        if self.first_step is not None:
            steps = np.maximum(0, self.first_step + np.arange(end - n, end))
        self.edits.apply(full_name, out, range(self.past + end - n, self.past + end), steps, norm)


class Scratch:
    """Memory for arrays that nobody keeps: one buffer for each site's name, used by every layer in turn."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], room_for: int = 0) -> Array:
        """An array of this shape in the buffer of this name, which is made with room for so many elements."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[name] = np.empty(max(size, room_for), dtype)
        return buffer[:size].reshape(shape)


@dataclass
class Pass:
    """One run of the model over packed sequences: their tokens stand one after another along `pos`."""

    config: Config
    dtype: np.dtype[Any]
    sequences: list[Sequence]
    scratch: Scratch = field(default_factory=Scratch)
    last_only: bool = False  # logits of the last position of each sequence, instead of all
    stop_at_layer: int | None = None
    timings: dict[str, float] | None = None  # seconds of each step, by full name
    start: tuple[int, Array] | None = None  # the first block to run, and the residual stream that enters it
    # (full name, op) -> op to run
    swap: Callable[[str, Callable[..., None]], Callable[..., None]] | None = None

    def __post_init__(self) -> None:
        start = 0
        for sequence in self.sequences:
            sequence.rows = slice(start, start + len(sequence.token_ids))
            start = sequence.rows.stop
        self.n_rows = start
        self.token_ids = np.concatenate([s.token_ids for s in self.sequences])
        self.positions = np.concatenate([s.positions for s in self.sequences])

    def place(self, full_name: str, kind: str) -> Array:
        """Where a result with one row a position goes: into the recording itself, where that is possible."""
        n_rows = len(self.sequences) if kind == "logits" and self.last_only else self.n_rows
        if len(self.sequences) == 1 and self.sequences[0].recording is not None:
            sequence = self.sequences[0]
            own = self.sequences[0].recording.rows(full_name, sequence.past, n_rows)
            if own is not None:
                return own
        sizes = self.config.dims
        shape = tuple(n_rows if axis == "pos" else sizes[axis] for axis in BY_NAME[kind].axis_names)
        return self.scratch.array(kind, shape, self.dtype)

    def place_attention(self, full_name: str, kind: str, sequence: Sequence) -> Array:
        """Where a sequence's [head, query, key] array goes."""
        n_query = len(sequence.token_ids)
        n_key = sequence.past + n_query
        room_for = 0
        if sequence.recording is not None:
            own = sequence.recording.queries(full_name, sequence.past, n_query)
            if own is not None:
                return own
            room_for = self.config.n_head * n_query * sequence.recording.plan.length
        return self.scratch.array(kind, (self.config.n_head, n_query, n_key), self.dtype, room_for)

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
        for i, sequence in enumerate(self.sequences):
            if sequence.edits is not None:
                rows = sequence.rows if len(out) == self.n_rows else slice(i, i + 1)
                norm = (inputs[0][rows], inputs[1]) if inputs and isinstance(inputs[-1], LayerNorm) else None
                sequence.edit(full_name, out[rows], len(out[rows]), norm)
            recording = sequence.recording
            if recording is not None and full_name in recording.names:
                recording.write_rows(full_name, sequence.past, out[sequence.rows])


class Step:
    """Runs named steps: `x = step("ln_1", layer_norm, x, p.ln_1)`."""

    def __init__(self, run: Pass, prefix: str = "", layer_prefix: str = "") -> None:
        self._pass, self._prefix, self._layer_prefix = run, prefix, layer_prefix
        self._packed: dict[str, Array] = {}

    def at(self, part: str) -> "Step":
        """The steps inside a part of the model: `step.at("attn")`."""
        return Step(self._pass, f"{self._prefix}{part}.", self._layer_prefix)

    def block(self, layer: int) -> "Step":
        """The steps inside a block."""
        return Step(self._pass, "", f"h.{layer}.")

    def __call__(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run `op(*inputs, out=...)` and return the result: one row a position."""
        kind = self._prefix + name
        full_name = self._layer_prefix + kind
        out = self._pass.place(full_name, kind)
        self._pass.run(full_name, op, inputs, out)
        self._pass.finish(full_name, out, inputs)
        return out

    @property
    def sequences(self) -> "Iterable[SequenceStep]":
        """The packed prompts one by one, for the only part in which positions meet."""
        for sequence in self._pass.sequences:
            yield SequenceStep(self, sequence)

    def packed(self, name: str) -> Array:
        """The array of all sequences that `SequenceStep` has been filling in."""
        kind = self._prefix + name
        if kind not in self._packed:
            self._packed[kind] = self._pass.place(self._layer_prefix + kind, kind)
        return self._packed[kind]

    def merged(self, name: str) -> Array:
        """Such an array with its heads side by side: [pos, head, d_head] -> [pos, n_embd]."""
        out = self.packed(name)
        self._pass.finish(self._layer_prefix + self._prefix + name, out)
        return out.reshape(out.shape[0], -1)

    def predicting(self, x: Array) -> Array:
        """The rows whose next token is asked for: all, or the last of each sequence."""
        if not self._pass.last_only:
            return x
        return x[[s.rows.stop - 1 for s in self._pass.sequences]]

    @property
    def token_ids(self) -> Array:
        """Ids of the packed tokens: [pos]."""
        return self._pass.token_ids

    @property
    def positions(self) -> Array:
        """Where in its own text each packed token stands: [pos]."""
        return self._pass.positions

    @property
    def start(self) -> tuple[int, Array] | None:
        """The first block to run with what enters it, where a pass does not begin with the tokens."""
        return self._pass.start

    @property
    def stop_at_layer(self) -> int | None:
        """The first block that is not run."""
        return self._pass.stop_at_layer


class SequenceStep:
    """Runs the steps of attention for one sequence."""

    def __init__(self, step: Step, sequence: Sequence) -> None:
        self._step, self._sequence = step, sequence

    def heads(self, qkv: Array) -> tuple[Array, Array, Array]:
        """Queries of the new tokens, keys and values of all so far: views [pos, head, d_head]."""
        step, sequence = self._step, self._sequence
        n_head = step._pass.config.n_head
        q, k, v = split_qkv(qkv[sequence.rows], n_head)
        if sequence.past:
            assert sequence.recording is not None, "a past must be recorded somewhere"
            name = step._layer_prefix + step._prefix + "qkv"
            _, k, v = split_qkv(sequence.recording.so_far(name, sequence.past + len(q)), n_head)
        return q, k, v

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of this sequence's attention."""
        run = self._step._pass
        kind = self._step._prefix + name
        full_name = self._step._layer_prefix + kind
        if "query" not in BY_NAME[kind].axis_names:
            out = self._step.packed(name)[self._sequence.rows]
            run.run(full_name, op, inputs, out)
            return out
        out = run.place_attention(full_name, kind, self._sequence)
        run.run(full_name, op, inputs, out)
        self._sequence.edit(full_name, out, len(self._sequence.token_ids))
        if self._sequence.recording is not None:
            self._sequence.recording.write_queries(full_name, self._sequence.past, out)
        return out
