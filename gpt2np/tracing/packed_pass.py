"""One run of the model over packed prompts: which rows are whose, where results live, and who wants them.

`tracing/step.py` runs the steps of a forward pass by it.
"""

import functools
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpt2np.ops import Array, Norm, causal_blocks, prompts_at_once
from gpt2np.tracing.cache import Cache
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.edits import Edits
from gpt2np.tracing.recording import Recording, Taker
from gpt2np.tracing.rows_at_once import RowsAtOnce, rows_at_once
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

    @property
    def cache(self) -> Cache:
        """Keys and values of its past, which is recorded."""
        assert self.recording is not None, "a past must be recorded somewhere"
        assert self.recording.cache is not None, "and be cached there"
        return self.recording.cache

    @property
    def is_cached(self) -> bool:
        """Whether the keys and values of its new tokens are kept for later ones."""
        return self.recording is not None and self.recording.cache is not None

    @property
    def has_past(self) -> bool:
        """Whether earlier tokens are seen from here."""
        return bool(self.past) or self.before is not None

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
    together: Mapping[str, Array] = field(default_factory=dict)  # where results of all sequences are recorded
    placing: threading.Lock = field(default_factory=threading.Lock)  # held while an array of all is placed
    # (full name, op) -> op to run
    swap: Callable[[str, Callable[..., None]], Callable[..., None]] | None = None

    def __post_init__(self) -> None:
        self.row_shapes = _row_shapes(self.config)
        self.plain = self.swap is None and self.timings is None  # every step is its operation, and no more
        self._recordings: list[Recording | None] | None = None
        self._take()

    def _take(self) -> None:
        start = 0
        for sequence in self.sequences:
            sequence.rows = slice(start, start + len(sequence.token_ids))
            start = sequence.rows.stop
        self.n_rows = start
        self.alone = len(self.sequences) == 1  # its rows are those of the pass
        self.one_row_each = start == len(self.sequences) and all(s.past for s in self.sequences)
        self.cached_at_once = (  # one new row of each of several texts, which all have a cache
            self.one_row_each and not self.alone and all(s.is_cached for s in self.sequences)
        )
        self._rows_at_once: tuple[list[RowsAtOnce], bool] | None = None
        self.edited = any(s.edits is not None for s in self.sequences)
        recordings = [s.recording for s in self.sequences]
        if recordings != self._recordings:  # who wants what; the taker is that of all passes
            self._recordings, there = recordings, [r for r in recordings if r is not None]
            self.watched = set().union(*(r.cached for r in there))  # handed on, wherever they lie
            self.watched |= set() if self.taker is None else {*self.taker.names}
            self.stored = self.watched.union(*(r.names for r in there))
        self.whole: Array | None = None  # the final rows, where logits are asked for of some of them only
        self.token_ids = _joined([s.token_ids for s in self.sequences])
        self.positions = _joined([s.positions for s in self.sequences])

    def go_on(self, sequences: list[Sequence], last_only: bool) -> bool:
        """Make this the pass that follows it; whether its steps can go on, as every result is as large."""
        before = self._shape
        self.sequences, self.last_only = sequences, last_only
        self._take()
        return before == self._shape

    @property
    def _shape(self) -> tuple[Any, ...]:
        """What steps that go on have in common."""
        n = self.n_rows, len(self.sequences)
        return *n, self.last_only, self.one_row_each, self.stored, self.edited

    def only_mixes(self, layer: int) -> bool:
        """Whether attention of a layer is one new row of each text, of which few calls make the result.

        Of several texts scores and pattern may be looked at, too, as that is to change no bit of the rest.
        """
        return (
            self.one_row_each
            and self.plain
            and self.taker is None
            and self.config.window(layer) is None
            and all(s.before is None for s in self.sequences)
            and (self.cached_at_once or not (self.edited or self._stores_attention(layer)))
        )

    def _stores_attention(self, layer: int) -> bool:
        """Whether scores or pattern of a layer are wanted."""
        return any(f"h.{layer}.{site}" in self.stored for site in self.config.architecture.sites.quadratic)

    def rows_at_once(self) -> tuple[list[RowsAtOnce], bool]:
        """Of a pass that is `cached_at_once`: its sequences in runs, and whether threads share these."""
        if self._rows_at_once is None:
            sequences = self.sequences
            self._rows_at_once = rows_at_once([s.cache for s in sequences], [s.past for s in sequences])
        return self._rows_at_once

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
        if self.alone and sequence.recording is not None:
            own = sequence.recording.rows(full_name, sequence.past, n_rows)
            if own is not None:
                return own, True
        return self.scratch.array(kind, (n_rows, *self.row_shapes[kind]), self.dtype), False

    def place_attention(
        self, full_name: str, kind: str, sequence: Sequence, block: AttentionBlock | None
    ) -> tuple[Array, bool]:
        """The same for a [head, query, key] array of a sequence, or for some of its heads and queries."""
        past, recording, longest, n = sequence.past, sequence.recording, 0, len(sequence.token_ids)
        if recording is not None:
            longest = recording.plan.length
            if full_name in recording.arrays:
                if block is None and recording.whole and n == longest:
                    return recording.arrays[full_name], True
                heads, queries, keys = block or self.whole_attention(sequence)
                n_query = queries.stop - queries.start
                own = recording.queries(full_name, past + queries.start, n_query, heads, keys)
                if own is not None:
                    return own, True
        if block is None:
            shape = self.config.n_head, n, past + n
        else:
            heads, queries, keys = block
            shape = heads.stop - heads.start, queries.stop - queries.start, keys.stop - keys.start
        return self.scratch.array(kind, shape, self.dtype, shape[0] * shape[1] * longest), False

    def whole_attention(self, sequence: Sequence) -> AttentionBlock:
        """All heads and queries of a sequence, and all keys."""
        n = len(sequence.token_ids)
        return AttentionBlock(slice(0, self.config.n_head), slice(0, n), slice(0, sequence.past + n))

    def attended_at_once(self, layer: int) -> list[slice]:
        """All sequences in order, in runs of which attention is computed at once: short ones of one length.

        A sequence with a past is by itself. So is each where somebody looks at one step after another, or
        where scores are not recorded side by side.
        """
        if self.alone:
            return [slice(0, 1)]
        sites = self.config.architecture.sites.quadratic
        wanted = {f"h.{layer}.{site}" for site in sites} & self.stored
        alone = not self.plain or self.edited or not wanted <= self.together.keys()
        runs, start, n_head = list[slice](), 0, self.config.n_head
        for length, run in itertools.groupby(0 if s.has_past else len(s.token_ids) for s in self.sequences):
            n = len(list(run))
            most = 1 if alone or not length else prompts_at_once((n_head, length, length), self.dtype, n)
            runs += [slice(i, min(i + most, start + n)) for i in range(start, start + n, most)]
            start += n
        return runs

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
        for i, sequence in enumerate(self.sequences) if self.edited else ():
            rows = sequence.rows if len(out) == self.n_rows else slice(i, i + 1)
            norm = (inputs[0][rows], inputs[1]) if inputs and isinstance(inputs[-1], Norm) else None
            sequence.edit(full_name, out[rows], len(out[rows]), norm)
        if self.cached_at_once:
            for some in self.rows_at_once()[0]:
                some.store(full_name, out)
        for sequence in self.sequences:
            recording = sequence.recording
            if recording is None or full_name not in recording.names:
                continue
            own = out if self.alone else out[sequence.rows]
            if recording.cache is not None and not self.cached_at_once:
                recording.cache.store(full_name, sequence.past, own)
            if full_name in recording.arrays and full_name not in self.together:
                recording.write_rows(full_name, sequence.past, own)


def _joined(arrays: list[Array]) -> Array:
    """One array behind the other."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@functools.lru_cache(16)
def _row_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """For each site with one row a position, the shape of a row."""
    table, sizes = config.architecture.sites, config.dims
    sites = [site for site in table if site.axis_names[0] == "pos" and not site.derived]
    return {site.name: tuple(sizes[axis] for axis in site.axis_names[1:]) for site in sites}
