"""The side of a trace that a run writes to: memory laid out by a plan, filled in row by row."""

from collections.abc import Set as AbstractSet
from typing import Protocol

import numpy as np

from gpt2np.errors import TraceError
from gpt2np.ops import Array, fill_beside
from gpt2np.tracing import spare_memory
from gpt2np.tracing.cache import Cache
from gpt2np.tracing.derived import Recorded, bases
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.plan import Plan

_WORTH_SPARING = 1 << 20  # bytes; below this the system's own allocator is as quick


class Taker(Protocol):
    """What is handed the results of some steps of a packed pass when they are there, instead of recording.

    The memory of a result is used again by later steps: what is wanted must be copied.
    """

    @property
    def names(self) -> AbstractSet[str]:
        """Full names of the steps whose results are wanted."""

    def rows(self, name: str, out: Array) -> None:
        """Take a result with one row a position of the pass; of the logits, a row for each that is asked for.

        What is not asked for by a pass is not computed.
        """

    def queries(self, name: str, first_row: int, block: tuple[slice, slice, slice], out: Array) -> None:
        """Take some of [head, query, key] of the sequence whose new tokens begin at a row of the pass.

        `block` says which heads, which of its new tokens, and which keys, the past's, too.
        """


def arena(plan: Plan) -> dict[str, Array]:
    """The arrays of a plan, one behind the other in one block of memory."""
    block, offset, arrays = _block(plan.nbytes), 0, {}
    for entry in plan.entries:
        arrays[entry.name] = np.ndarray(entry.shape, entry.dtype, block, offset)
        offset += entry.nbytes
    return arrays


def arenas(plans: list[Plan]) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """The arrays of each of several plans, and of each site the rows of all of them together.

    A packed pass writes those rows as one array, also of a single plan. Scores and patterns of several plans
    of one length are one array, too: [prompt, head, query, key]. Where that cannot be, because only some
    positions are kept or in another precision, there are none. With them, plans share one block of memory.
    """
    if not all(_whole(plan) for plan in plans):
        return [arena(plan) for plan in plans], {}
    if len(plans) == 1:
        store = arena(plans[0])
        return [store], {e.name: store[e.name] for e in plans[0].entries if not e.site.quadratic}
    stores: list[dict[str, Array]] = [{} for _ in plans]
    together, one_length = {}, len({plan.length for plan in plans}) == 1
    block, offset = _block(sum(plan.nbytes for plan in plans)), 0
    for entries in zip(*(plan.entries for plan in plans), strict=True):
        start = offset
        for store, entry in zip(stores, entries, strict=True):
            store[entry.name] = np.ndarray(entry.shape, entry.dtype, block, offset)
            offset += entry.nbytes
        name, shape, dtype = entries[0].name, entries[0].shape, entries[0].dtype
        if not entries[0].site.quadratic:
            together[name] = block[start:offset].view(dtype).reshape(-1, *shape[1:])
        elif one_length:
            together[name] = block[start:offset].view(dtype).reshape(-1, *shape)
    return stores, together


def _whole(plan: Plan) -> bool:
    """Whether every position is stored, as it is computed."""
    return plan.positions == range(plan.length) and plan.keep.dtype in (None, plan.dtype.name)


def _block(n_bytes: int) -> Array:
    return np.empty(n_bytes, np.uint8) if n_bytes < _WORTH_SPARING else spare_memory.block(n_bytes)


def with_bases(plan: Plan) -> Plan | None:
    """For a plan with derived sites, one that holds what they are computed from; else None."""
    derived = [entry for entry in plan.entries if entry.site.derived]
    if not derived:
        return None
    names = {entry.name for entry in plan.entries if not entry.site.derived}
    for entry in derived:
        names.update(bases(plan.config, entry.site.name, entry.layer))
    keep = Keep((), names=frozenset(names))
    return Plan(plan.config, plan.length, keep, plan.dtype.name, plan.stop_at_layer)


class Recording:
    """Arrays that a run fills in row by row, laid out by a plan.

    With a `cache`, the run is a generation: later positions will read what earlier ones left in it.
    """

    def __init__(self, plan: Plan, arrays: dict[str, Array], cache: Cache | None = None) -> None:
        self.plan, self.arrays, self.cache = plan, arrays, cache
        self.cached: AbstractSet[str] = set() if cache is None else cache.sources.keys()
        self.names = {*arrays, *self.cached}  # steps with something to store
        self.whole = _whole(plan)
        if cache is not None and self.whole:
            for name, array in arrays.items():
                if plan.by_name[name].site.unseen is not None:
                    array.fill(plan.by_name[name].site.unseen)

    def rows(self, name: str, past: int, n: int) -> Array | None:
        """The rows of these positions, to be written directly; None where only a copy will do."""
        return self.arrays[name][past : past + n] if self.whole and name in self.arrays else None

    def queries(self, name: str, past: int, n: int, heads: slice, keys: slice) -> Array | None:
        """The same for some keys of a [head, query, key] array; the others are filled in.

        In a cache they are from the start.
        """
        if not self.whole or name not in self.arrays:
            return None
        rows = self.arrays[name][heads, past : past + n]
        if self.cache is None:
            fill_beside(rows, keys, self._unseen(name))
        return rows[..., keys]

    def write_rows(self, name: str, past: int, values: Array) -> None:
        """Store the rows of these positions, unless they were written in place."""
        target = self.arrays.get(name)
        if target is not None and not np.may_share_memory(target, values):
            of_values, of_target = self._kept(past, len(values))
            self._store(name, target[of_target], values[of_values])

    def write_queries(
        self, name: str, past: int, values: Array, heads: slice = slice(None), keys: slice | None = None
    ) -> None:
        """The same for a [head, query, key] array, or for some heads of it and some keys, else the first."""
        target = self.arrays.get(name)
        if target is not None and not np.may_share_memory(target, values):
            of_values, of_target = self._kept(past, values.shape[1])
            rows, keys = target[heads, of_target], keys or slice(0, values.shape[2])
            self._store(name, rows[..., keys], values[:, of_values])
            fill_beside(rows, keys, self._unseen(name))

    def _unseen(self, name: str) -> float:
        """What stands where a query does not see a key."""
        value = self.plan.by_name[name].site.unseen
        assert value is not None, "sites of queries and keys have it"
        return value

    def copy(self, computed: Recorded) -> None:
        """Store every array of the plan from what has it by name, such as a trace of the sites it reads."""
        for entry in self.plan.entries:
            write = self.write_queries if entry.site.quadratic else self.write_rows
            write(entry.name, 0, computed[entry.name])

    def _store(self, name: str, target: Array, values: Array) -> None:
        """Copy values, unless they are too large for a smaller precision; infinities stay infinities."""
        try:
            with np.errstate(all="ignore", over="raise"):
                target[...] = values
        except FloatingPointError:
            largest = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max()
            most = np.finfo(target.dtype).max
            raise TraceError(
                f"{name} has values up to {largest:.4g}, which {target.dtype.name} cannot hold (at most "
                f"{most:g}): keep it in {values.dtype.name}"
            ) from None

    def _kept(self, past: int, n: int) -> tuple[slice, slice]:
        """Which of the n rows after `past` are stored, and where among the stored rows they go."""
        kept = range(self.plan.length) if self.whole else self.plan.positions
        first, last = (len(range(kept.start, end, kept.step)) for end in (past, past + n))
        first, last = min(first, len(kept)), min(last, len(kept))
        if first == last:
            return slice(0), slice(0)
        return slice(kept[first] - past, kept[last - 1] - past + 1, kept.step), slice(first, last)
