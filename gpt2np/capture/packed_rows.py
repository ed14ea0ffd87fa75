"""The rows of one packed pass on their way into a shard: taken as they are computed, and only those kept."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2np.errors import TraceError
from gpt2np.ops import Array, fill_beside
from gpt2np.tracing.cache import sources_of
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import next_token_loss, stored_for
from gpt2np.tracing.plan import Entry

Rows = slice | Array  # which rows of an array


class Kept(NamedTuple):
    """What of one sequence of a pass goes to one prompt.

    `rows` of the pass begin at `first_row`, which stands at position `start` of the prompt; `positions` are
    kept, the first of them being row `target` of the shard.
    """

    prompt: int
    first_row: int
    start: int
    positions: range
    target: int


class Destinations(NamedTuple):
    """Where rows go: the arrays of a shard by site.

    Of the flat ones, `flat` has the kept [query, head, key] of each prompt. `first_rows` says where the rows
    of each prompt begin. The prompts are those from `first_prompt` on, for messages.
    """

    entries: Sequence[Entry]
    arrays: Mapping[str, Array]
    flat: Mapping[str, Sequence[Array]]
    first_rows: Array
    first_prompt: int = 0


class PackTaker:
    """Takes the kept rows of a packed pass: `tracing.recording.Taker`.

    `ids` are those of all prompts of the shard. With `beginnings`, the rows of each sequence, it also takes
    keys and values: `pasts` has those of each afterwards, by full name.
    """

    def __init__(
        self,
        config: ModelConfig,
        destinations: Destinations,
        kept: Sequence[Kept],
        ids: Sequence[Array],
        parameters: Any,
        beginnings: Sequence[slice] = (),
    ) -> None:
        self._config, self._to, self._kept, self._parameters = config, destinations, kept, parameters
        self._ids = ids
        self._by_row: dict[int, list[Kept]] = {}
        for part in kept:
            self._by_row.setdefault(part.first_row, []).append(part)
        source = _joined([_shifted(part.positions, part.first_row - part.start) for part in kept])
        target = _joined([np.arange(part.target, part.target + len(part.positions)) for part in kept])
        if beginnings:  # a row may go to several prompts
            self.source, inverse = np.unique(source, return_inverse=True)
            self._again: Rows = inverse
        else:
            self.source, self._again = source, slice(None)
        self._rows, self._target = _as_slice(self.source), _as_slice(target)
        self._direct: dict[str, list[tuple[Entry, Any]]] = {}
        self._held: dict[str, Array] = {}
        self._wanted: set[str] = set()
        self._derived: list[Entry] = []
        for entry in destinations.entries if len(source) else ():
            self._want(entry)
        self._beginnings, self.pasts = beginnings, [dict[str, Array]() for _ in beginnings]
        self._sources = sources_of(config) if beginnings else {}
        self.names = frozenset(self._direct) | self._wanted | frozenset(self._sources)

    def _want(self, entry: Entry) -> None:
        """Note from which step a site comes."""
        if not entry.site.derived:
            self._direct.setdefault(entry.name, []).append((entry, None))
            return
        derived = self._config.architecture.derived[entry.site.name]
        bases = stored_for(self._config, entry.site.name, entry.layer)
        if derived.view is not None:
            self._direct.setdefault(bases[0], []).append((entry, derived.view))
        else:
            self._wanted.update(bases)
            self._derived.append(entry)

    def rows(self, name: str, out: Array) -> None:
        """Take a result with one row a position."""
        kept = out if name == "logits" else out[self._rows]  # of the logits only these are computed
        for entry, view in self._direct.get(name, ()):
            self._store(entry, kept if view is None else view(kept, self._config))
        if name in self._wanted:
            self._held[name] = kept if kept.base is None else kept.copy()
        for cached, part in self._sources.get(name, ()):
            for rows, past in zip(self._beginnings, self.pasts, strict=True):
                found = out[rows]
                past[cached] = np.array(found if part is None else part(found, self._config))

    def queries(self, name: str, first_row: int, block: tuple[slice, slice, slice], out: Array) -> None:
        """Take some of [head, query, key]: into [query, head, key] of each prompt that has these queries."""
        heads, queries, keys = block
        for entry, _ in self._direct[name]:
            unseen = entry.site.unseen
            assert unseen is not None, "sites of queries and keys have it"
            for part in self._by_row.get(first_row, ()):
                here = range(part.start + queries.start, part.start + queries.stop)
                chosen = [i for i, position in enumerate(part.positions) if position in here]
                if not chosen:
                    continue
                number = part.target - int(self._to.first_rows[part.prompt])
                places = slice(number + chosen[0], number + chosen[-1] + 1)
                local = [part.positions[i] - here.start for i in chosen]
                rows = self._to.flat[name][part.prompt][places, heads]
                self._copy(entry, rows[..., keys], out[:, local].swapaxes(0, 1), part)
                fill_beside(rows, keys, unseen)

    def finish(self) -> None:
        """Compute what is derived from the rows that were taken."""
        for entry in self._derived:
            if entry.site.name == "loss":
                self._store(entry, self._losses())
            else:
                compute = self._config.architecture.derived[entry.site.name].compute
                self._store(entry, compute(_Taken(self._config, self._held, self._parameters), entry.layer))
        self._held.clear()

    def _losses(self) -> Array:
        """Of every kept position, from the logits there and the token that follows in its own prompt."""
        logits, row, losses = self._held["logits"], 0, []
        for part in self._kept:
            n = len(part.positions)
            losses.append(
                next_token_loss(logits[row : row + n], self._ids[part.prompt].tolist(), part.positions)
            )
            row += n
        return np.concatenate(losses)

    def _store(self, entry: Entry, values: Array) -> None:
        """Put kept rows into the array of their site, converted once."""
        array = self._to.arrays[entry.name]
        if isinstance(self._target, slice) and isinstance(self._again, slice):
            self._copy(entry, array[self._target], values)
            return
        converted = np.empty(values.shape, array.dtype)
        self._copy(entry, converted, values)
        array[self._target] = converted[self._again]

    def _prompt_of(self, row: int) -> int:
        """The prompt of a kept row; of one that several prompts have, the first."""
        if not isinstance(self._again, slice):
            row = int(np.flatnonzero(self._again == row)[0])
        ends = np.cumsum([len(part.positions) for part in self._kept])
        return self._kept[int(np.searchsorted(ends, row, side="right"))].prompt

    def _copy(self, entry: Entry, target: Array, values: Array, part: Kept | None = None) -> None:
        """Copy values, of one prompt or of all kept rows; infinities stay infinities.

        Raises:
            TraceError: one is too large for a smaller precision; names the prompt.
        """
        try:
            with np.errstate(all="ignore", over="raise"):
                target[...] = values
        except FloatingPointError:
            with np.errstate(all="ignore"):
                row = int(np.argwhere(np.isinf(values.astype(target.dtype)) & np.isfinite(values))[0][0])
            which = self._to.first_prompt + (self._prompt_of(row) if part is None else part.prompt)
            raise TraceError(
                f"{entry.name} of prompt {which} has values that {target.dtype.name} cannot hold: keep it in "
                f"{values.dtype.name} (store={values.dtype.name!r})"
            ) from None


class _Taken:
    """Rows of stored sites, for derived ones to be computed from: `tracing.derived.Recorded`."""

    token_ids: Sequence[int] = ()
    positions = range(0)

    def __init__(self, config: ModelConfig, held: Mapping[str, Array], parameters: Any) -> None:
        self.config, self._held, self._parameters = config, held, parameters

    def __getitem__(self, name: str) -> Array:
        return self._held[name]

    def parameters(self, needed_for: str = "", /) -> Any:
        """The model's."""
        return self._parameters


def _shifted(positions: range, by: int) -> Array:
    return np.arange(positions.start + by, positions.stop + by, positions.step)


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _as_slice(rows: Array) -> Rows:
    """The same rows as a slice, where they follow one another."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
