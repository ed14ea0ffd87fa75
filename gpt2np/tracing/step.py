"""What runs a step: it decides where the result lives, edits it, records it, and times it.

A forward pass says `x = step("resid_mid", add, x, a)`; everything that is not the maths of that line is here,
and in the pass it belongs to (`tracing/packed_pass.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt2np.ops import Array
from gpt2np.threads import each
from gpt2np.tracing.packed_pass import AttentionBlock, Pass, Sequence
from gpt2np.tracing.rows_at_once import RowsAtOnce


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
        # Of plain passes: results that lie where the last one's lay, and the full name to finish them by.
        self._known: dict[str, tuple[Array, str | None]] = {}
        self._only_mixes: bool | None = None  # what the pass says of this layer
        # Nothing here refers to its steps: the memory of a pass is to be free when nobody uses it.

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
        if (known := self._known.get(name)) is not None:  # from the second pass of a generation on
            out, finished = known
            op(*inputs, out=out)
            if finished is not None:
                self.run.finish(finished, out, inputs)
            return out
        run, kind = self.run, self._prefix + name
        full_name = self._layer_prefix + kind
        out, placed = run.place(full_name, kind)
        run.run(full_name, op, inputs, out)
        finishes = run.edited or full_name in (run.watched if placed else run.stored)
        if finishes:
            run.finish(full_name, out, inputs)
        if run.plain and not placed:
            self._known[name] = out, full_name if finishes else None
        return out

    def each_sequence(self, function: Callable[..., None], *inputs: Any) -> None:
        """Call `function(*inputs, sequence)` for the packed prompts, the only part in which positions meet.

        Long prompts come in parts, several at a time; short ones of one length come together.
        """
        run = self.run
        assert self._layer is not None, "prompts meet in layers only"
        if self._only_mixes is None:
            self._only_mixes = run.only_mixes(self._layer)
        if self._only_mixes:
            self._mix(function, inputs)
            return
        parts, whole = list[SequenceStep](), True
        for several in run.attended_at_once(self._layer):
            sequence = run.sequences[several.start]
            if several.stop - several.start > 1:
                parts.append(EqualSequencesStep(self, several))
                whole = False
            else:
                blocks = run.attention_blocks(sequence, self._layer)
                parts += [SequenceStep(self, sequence, block) for block in blocks]
                whole = whole and len(blocks) == 1
        if whole:
            for part in parts:
                function(*inputs, part)
        else:
            each(lambda part: function(*inputs, part), parts)

    def _mix(self, function: Callable[..., None], inputs: tuple[Any, ...]) -> None:
        """The same where each prompt has one new row."""
        if self.run.alone:
            function(*inputs, OneRowStep(self, self.run.sequences[0], None))
            return
        runs, shared = self.run.rows_at_once()
        parts = [OneRowEachStep(self, rows) for rows in runs]
        if shared and not self.run.edited:  # functions of the caller are called in its own thread
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

    __slots__ = ("_block", "_sequence", "_step")

    def __init__(self, step: Step, sequence: Sequence, block: AttentionBlock | None) -> None:
        self._step, self._sequence, self._block = step, sequence, block

    def own(self, name: str, x: Array) -> Array:
        """The rows and heads of a site [pos, head, d_head] that are this part's own, as queries are."""
        rows = x if self._step.run.alone else x[self._sequence.rows]
        return rows if self._block is None else rows[self._block.queries, self._block.heads]

    def all(self, name: str, x: Array) -> Array:
        """The rows of a site [pos, kv_head, d_head] that are seen from here, as keys are: the past's, too."""
        step, sequence = self._step, self._sequence
        if sequence.past:
            full_name = step.names(name).full
            if sequence.before is not None:
                x = np.concatenate((sequence.before[full_name], x[sequence.rows]))
            else:
                x = sequence.cache.so_far(full_name, sequence.past + len(sequence.token_ids))
        elif not step.run.alone:
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


class EqualSequencesStep(SequenceStep):
    """The same for several sequences of one length at once: every array has an axis of them in front."""

    __slots__ = ("_several",)

    def __init__(self, step: Step, several: slice) -> None:
        super().__init__(step, step.run.sequences[several.start], None)
        self._several = several

    def own(self, name: str, x: Array) -> Array:
        """Their rows of a site [pos, head, d_head], as [sequence, pos, head, d_head]."""
        sequences = self._step.run.sequences[self._several]
        rows = slice(sequences[0].rows.start, sequences[-1].rows.stop)
        return x[rows].reshape(len(sequences), -1, *x.shape[1:])

    all = own  # without a past

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of their attention."""
        run = self._step.run
        kind, full_name, has_rows = self._step.names(name)
        if has_rows:
            out = self.own(name, self._step.packed(name))
        elif full_name in run.together:
            out = run.together[full_name][self._several]
        else:
            n, n_new = self._several.stop - self._several.start, len(self._sequence.token_ids)
            out = run.scratch.array(kind, (n, run.config.n_head, n_new, n_new), run.dtype)
        op(*inputs, out=out)
        return out


class OneRowStep(SequenceStep):
    """The same for one new row of a text with a cache, where nobody wants its scores and pattern."""

    __slots__ = ()

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of this row's attention."""
        step, sequence = self._step, self._sequence
        kind, _, has_rows = step.names(name)
        if has_rows:
            out = self.own(name, step.packed(name))
        else:
            run, n_head = step.run, step.run.config.n_head
            shape = n_head, 1, sequence.past + 1
            out = run.scratch.array(kind, shape, run.dtype, n_head * sequence.cache.length)
        op(*inputs, out=out)
        return out


class OneRowEachStep(EqualSequencesStep):
    """The same for one new row of each of several texts: keys behind the shorter ones are not seen."""

    __slots__ = ("_rows",)

    def __init__(self, step: Step, rows: RowsAtOnce) -> None:
        super().__init__(step, rows.texts)
        self._rows = rows

    def all(self, name: str, x: Array) -> Array:
        """What is seen of a site from the longest text, as [sequence, pos, kv_head, d_head]."""
        return self._rows.so_far(self._step.names(name).full)

    def step(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run one step of their attention."""
        run = self._step.run
        kind, full_name, has_rows = self._step.names(name)
        if has_rows:
            out = self.own(name, self._step.packed(name))
            op(*inputs, out=out)
            return out
        rows, n_head = self._rows, run.config.n_head
        shape = rows.n, n_head, 1, rows.n_key
        out = run.scratch.array(kind, shape, run.dtype, rows.n * n_head * rows.cache.length)
        op(*inputs, out=out)
        if rows.unseen is not None and run.config.architecture.sites[kind].unseen == -np.inf:
            np.copyto(out, -np.inf, where=rows.unseen)
        if run.edited or full_name in run.stored:
            for sequence, scores in zip(run.sequences[rows.texts], out, strict=True):
                seen = scores[..., : sequence.past + 1]
                sequence.edit(full_name, seen, 1)
                if sequence.recording is not None and full_name in sequence.recording.arrays:
                    sequence.recording.write_queries(full_name, sequence.past, seen)
        return out
