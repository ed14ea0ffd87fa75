"""The byte plan: which arrays a trace will hold, their shapes and bytes, before anything runs."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.errors import InputError, TraceError
from gpt2np.html_tables import text_block
from gpt2np.tables import counted
from gpt2np.tracing.cache import cache_nbytes
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.keep import Keep, KeepLike
from gpt2np.tracing.metadata_fields import check_metadata
from gpt2np.tracing.sites import TOP_K, Site


@dataclass(frozen=True)
class Entry:
    """One array of a plan."""

    name: str
    site: Site
    layer: int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


Row = tuple[str, Site, int | None]  # full name of a site, the site, its layer


def _wanted(config: ModelConfig, keep: Keep, stop_at_layer: int | None) -> Sequence[Row]:
    """What a run computes and `keep` selects, in execution order."""
    if keep.predicate is None or keep.names is not None:
        return _named(config, keep.patterns, keep.names, stop_at_layer)
    return tuple(row for row in _run(config, stop_at_layer) if keep.wants(row[0], row[1]))


@functools.lru_cache(32)
def _named(
    config: ModelConfig, patterns: tuple[str, ...], names: frozenset[str] | None, stop_at_layer: int | None
) -> Sequence[Row]:
    """The same without a predicate: programs ask for the same sites again and again."""
    keep = Keep(patterns, names=names)
    return tuple(row for row in _run(config, stop_at_layer) if keep.wants(row[0], row[1]))


def _run(config: ModelConfig, stop_at_layer: int | None) -> Iterator[Row]:
    """Every site as far as a run goes that may stop early."""
    before = config.architecture.sites.before_layers
    for name, site, layer in config.architecture.sites.expand(config.n_layer):
        if stop_at_layer is None or (site in before if layer is None else layer < stop_at_layer):
            yield name, site, layer


class Plan:
    """Which arrays a trace of `length` positions holds, and how many bytes each takes.

    `str(plan)` is a table; `plan.nbytes` the sum; `plan.entries` the arrays in execution order. A plan of a
    generation (`generating`) also has the bytes of its cache, which is no part of the trace.
    """

    def __init__(
        self,
        config: ModelConfig,
        length: int,
        keep: KeepLike | Keep = "*",
        dtype: str = "float32",
        stop_at_layer: int | None = None,
        generating: bool = False,
    ) -> None:
        self.config, self.length, self.dtype = config, length, np.dtype(dtype)
        self.keep = Keep.parse(keep).resolved(config)
        self.stop_at_layer, self.generating = stop_at_layer, generating
        self.positions = range(*self.keep.positions.indices(length))
        shapes: dict[str, tuple[int, ...]] = {}
        self.entries = []
        for name, site, layer in _wanted(config, self.keep, stop_at_layer):
            if site.name not in shapes:
                shapes[site.name] = self.shape_of(site)
            self.entries.append(Entry(name, site, layer, shapes[site.name], self._dtype(site)))
        if not self.entries and stop_at_layer is not None and self.keep.names is None:
            raise InputError(f"keep asks only for sites after stop_at_layer={stop_at_layer}")
        self.by_name = {entry.name: entry for entry in self.entries}

    @classmethod
    def from_metadata(cls, where: str, metadata: Mapping[str, Any], names: Iterable[str]) -> "Plan":
        """Return the plan of a trace in a file, from the file's metadata and the sites that are in it.

        Raises:
            TraceError: that is malformed.
        """
        config = check_metadata(metadata, where)
        try:
            keep = Keep.parse(
                {"positions": slice(*metadata["positions"]), "dtype": metadata.get("stored_dtype")}
            )
            keep = Keep((), None, keep.positions, keep.dtype, frozenset(names))
            return cls(
                config, len(metadata["token_ids"]), keep, metadata["dtype"], metadata.get("stop_at_layer")
            )
        except InputError as error:
            raise TraceError(f"{where}: positions or stored_dtype is malformed ({error})") from None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def cache_nbytes(self) -> int:
        """Bytes of the cache that a generation holds beside its trace; 0 for a single pass."""
        return cache_nbytes(self.config, self.length, self.dtype) if self.generating else 0

    @property
    def quadratic_nbytes(self) -> int:
        """Bytes of the arrays that grow with the square of the length: attention scores and patterns."""
        return sum(entry.nbytes for entry in self.entries if entry.site.quadratic)

    def groups(self) -> dict[str, int]:
        """Return the bytes of each site, all layers together, in execution order."""
        groups: dict[str, int] = {}
        for entry in self.entries:
            groups[entry.site.name] = groups.get(entry.site.name, 0) + entry.nbytes
        order = [site.name for site in self.config.architecture.sites if site.name in groups]
        return {name: groups[name] for name in order}

    def sizes(self) -> dict[str, int]:
        """Return the length of every axis."""
        kept = len(self.positions)
        return {**self.config.dims, "pos": kept, "query": kept, "key": self.length, "k": self._k()}

    def _k(self) -> int:
        return min(TOP_K, self.config.vocab_size)

    def shape_of(self, site: Site) -> tuple[int, ...]:
        """Shape of a site in this plan, kept or not."""
        sizes = self.sizes()
        return tuple(sizes[axis] for axis in site.axis_names)

    def _dtype(self, site: Site) -> np.dtype[Any]:
        return np.dtype(site.dtype or self.keep.dtype or self.dtype)

    def __str__(self) -> str:
        return plan_table([self])

    def _repr_html_(self) -> str:
        """The table that `str` gives."""
        return text_block(str(self))

    def __repr__(self) -> str:
        arrays, positions = counted(len(self.entries), "array"), counted(self.length, "position")
        return f"<Plan: {arrays}, {positions}, {self.nbytes:,} bytes>"


def plan_table(plans: list[Plan]) -> str:
    """Return the bytes of each site in several plans side by side, attention apart from the rest."""
    groups = [plan.groups() for plan in plans]
    names = list(groups[0])
    table = plans[0].config.architecture.sites
    all_rows = [(name, table[name].axes, [g[name] for g in groups]) for name in names]
    rows = [row for row in all_rows if not table[row[0]].quadratic]
    squares = [row for row in all_rows if table[row[0]].quadratic]
    linear = [plan.nbytes - plan.quadratic_nbytes for plan in plans]
    lines = [_row("tokens", "", [f"{plan.length:,}" for plan in plans])]
    lines += [_row(name, axes, [human_bytes(n) for n in values]) for name, axes, values in rows]
    lines.append(_row("linear in tokens", "", [human_bytes(n) for n in linear]))
    lines += [_row(name, axes, [human_bytes(n) for n in values]) for name, axes, values in squares]
    lines.append(_row("quadratic", "", [human_bytes(p.quadratic_nbytes) for p in plans]))
    lines.append(_row("total", "", [human_bytes(p.nbytes) for p in plans]))
    if plans[0].generating:
        lines.append(_row("cache", "", [human_bytes(p.cache_nbytes) for p in plans]))
    lines += [f"{plan.nbytes:,} bytes for {plan.length:,} tokens" for plan in plans]
    if plans[0].generating:
        lines += [f"and {p.cache_nbytes:,} bytes of cache while it is generated" for p in plans]
    return "\n".join(lines)


def _row(name: str, axes: str, cells: list[str]) -> str:
    width = min(16, 31 - len(axes))  # long axes begin further left, and the numbers stay below one another
    return f"{name:<{width}} {axes:<15}" + "".join(f" {cell:>10}" for cell in cells)


def human_bytes(n: int) -> str:
    """Return bytes as text in decimal units: 1 MB is 1,000,000 bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"
