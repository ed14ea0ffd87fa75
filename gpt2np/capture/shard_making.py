"""Makes a shard: a function of its specification, whoever calls it, in whatever order, on however many cores.

The specification says which passes run, and they compute on one thread; so the file has the same bytes
whichever worker makes it, on one kind of processor.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2np import tensorfile
from gpt2np.capture.packed_rows import Destinations, Kept, PackTaker
from gpt2np.capture.shard_layout import (
    POSITIONS,
    ROW_OFFSETS,
    TOKEN_IDS,
    TOKEN_OFFSETS,
    flat_offsets,
    layout,
    row_offsets,
)
from gpt2np.capture.shard_plan import Choice, Pack, Schedule, kept_of_each, schedule
from gpt2np.capture.worker_model import ModelSource, as_given
from gpt2np.errors import TraceError
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import stored_for
from gpt2np.tracing.packed_pass import Pass, Sequence
from gpt2np.tracing.plan import Entry
from gpt2np.tracing.scratch import Scratch


@dataclass(frozen=True)
class ShardSpec:
    """All that decides the bytes of a shard; `fingerprint` is the model's, as the manifest has it."""

    model: Model | ModelSource
    fingerprint: str  # of the model, as the manifest has it
    choice: Choice
    folder: str
    file: str
    number: int
    first_prompt: int
    ids: Array  # of all its prompts
    offsets: Array  # [prompts + 1], from 0


@dataclass(frozen=True)
class MadeShard:
    """A shard that is finished; `tokens_run` counts those that were computed."""

    file: str
    bytes: int
    sha256: str
    tokens_run: int


def make_shard(spec: ShardSpec) -> MadeShard:
    """Run the prompts of a shard and write its file; nothing is left of one that cannot be written.

    Raises:
        TraceError: the disk is full, or a value is too large for the precision of the store.
        CheckpointError: the model has changed.
    """
    model, choice = as_given(spec.model), spec.choice
    entries = choice.entries(model.config)
    lengths = np.diff(spec.offsets)
    prompts = [spec.ids[a:b] for a, b in zip(spec.offsets, spec.offsets[1:], strict=False)]
    kept = kept_of_each(lengths, choice.kept)
    laid_out = layout(entries, lengths, kept, spec.number, spec.fingerprint)
    path = Path(spec.folder) / spec.file
    # Whoever goes on looks at the hash of what is there, so nobody waits for the disk here.
    with tensorfile.create_tensors(path, laid_out.arrays, laid_out.metadata, sync=False) as file:
        arrays = file.arrays
        rows = row_offsets(kept)
        arrays[ROW_OFFSETS][...], arrays[TOKEN_OFFSETS][...] = rows, spec.offsets
        arrays[TOKEN_IDS][...] = spec.ids
        arrays[POSITIONS][...] = np.concatenate([np.array(k, np.int32) for k in kept])
        flat = {e.name: by_prompt(arrays[e.name], e, lengths, kept) for e in entries if e.site.quadratic}
        plan = schedule(prompts, kept, choice.pack_tokens, choice.share)
        to = Destinations(entries, arrays, flat, rows, spec.first_prompt)
        run = ShardRun(model, prompts, kept, plan, to, spec.first_prompt)
        for pack in plan.packs:
            run.run(pack)
        del arrays, flat, to, run
    try:
        with path.open("rb") as made:
            digest = hashlib.file_digest(made, "sha256").hexdigest()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    return MadeShard(spec.file, laid_out.nbytes, digest, plan.tokens_run)


def by_prompt(array: Array, entry: Entry, lengths: Array, kept: list[range]) -> list[Array]:
    """Return the part of each prompt in a flat array: [query, head, key]."""
    n_head = entry.shape[0]
    at = flat_offsets(lengths, kept, n_head)
    shapes = [(len(k), n_head, int(n)) for k, n in zip(kept, lengths, strict=True)]
    return [array[at[i] : at[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]


class ShardRun:
    """Runs the passes of a shard one after another, into the same memory."""

    def __init__(
        self,
        model: Model,
        prompts: list[Array],
        kept: list[range],
        plan: Schedule,
        destinations: Destinations,
        first_prompt: int = 0,
    ) -> None:
        self._model, self._prompts, self._kept, self._plan = model, prompts, kept, plan
        self._to, self._scratch, self._first = destinations, Scratch(), first_prompt
        self._pasts: dict[int, Mapping[str, Array]] = {}  # of groups whose beginnings have been run
        self._group_of = {i: n for n, g in enumerate(plan.groups) if g.length for i in g.prompts}
        self._stop, self._logits = needed(model.config, destinations.entries)

    def run(self, pack: Pack) -> int:
        """Run one pass; returns how many tokens it had."""
        if pack.groups:
            self._pasts.clear()  # before the next ones take their place
            sequences, kept = self._of_beginnings(pack.groups)
        else:
            sequences, kept = self._of_prompts(pack.prompts)
        ends = np.cumsum([len(sequence.token_ids) for sequence in sequences]).tolist()
        rows = [slice(end - len(s.token_ids), end) for end, s in zip(ends, sequences, strict=True)]
        taker = PackTaker(
            self._model.config,
            self._to,
            kept,
            self._prompts,
            self._model.parameters,
            rows if pack.groups else (),
        )
        run = Pass(
            self._model.config,
            self._model.dtype,
            sequences,
            self._scratch,
            stop_at_layer=self._stop,
            logits_of=taker.source if self._logits else _NO_ROWS,
            taker=taker,
        )
        self._model.run_pass(run)
        taker.finish()
        self._pasts.update(zip(pack.groups, taker.pasts, strict=False))
        return run.n_rows

    def _of_beginnings(self, groups: tuple[int, ...]) -> tuple[list[Sequence], list[Kept]]:
        """The beginnings of groups, whose rows go to every prompt of theirs."""
        sequences, kept, row = [], [], 0
        for length, members in (self._plan.groups[number] for number in groups):
            ids = self._prompts[members[0]][:length]
            sequences.append(Sequence(ids, number=self._first + members[0]))
            for i in members:
                first = _before(self._kept[i], length)
                if first:
                    kept.append(Kept(i, row, 0, self._kept[i][:first], int(self._to.first_rows[i])))
            row += length
        return sequences, kept

    def _of_prompts(self, prompts: tuple[int, ...]) -> tuple[list[Sequence], list[Kept]]:
        """Prompts, or what of them comes behind the beginning of their group."""
        sequences, kept, row = [], [], 0
        for i in prompts:
            number = self._group_of.get(i)
            start = 0 if number is None else self._plan.groups[number].length
            before = None if number is None else self._pasts[number]
            ids = self._prompts[i][start : self._kept[i][-1] + 1]
            sequences.append(Sequence(ids, start, before=before, number=self._first + i))
            first = _before(self._kept[i], start)
            kept.append(Kept(i, row, start, self._kept[i][first:], int(self._to.first_rows[i]) + first))
            row += len(ids)
        return sequences, kept


_NO_ROWS = np.zeros(0, np.int64)


def _before(positions: range, end: int) -> int:
    """How many of the positions come before `end`."""
    return len(range(positions.start, min(end, positions.stop), positions.step))


def needed(config: ModelConfig, entries: Iterable[Entry]) -> tuple[int | None, bool]:
    """Return at which layer a pass may stop that computes these sites, and whether it needs logits."""
    table = config.architecture.sites
    first = {site.name for site in table.before_layers}
    stop, logits = 0, False
    for entry in entries:
        for name in stored_for(config, entry.site.name, entry.layer):
            if name.startswith("h."):
                stop = max(stop, int(name.split(".")[1]) + 1)
            elif name not in first:
                stop, logits = config.n_layer + 1, logits or name == "logits"
    return (None if stop > config.n_layer else stop), logits
