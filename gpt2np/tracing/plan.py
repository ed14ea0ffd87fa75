"""The byte plan: which arrays a trace will hold, their shapes and bytes, before anything runs."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


Row = tuple[str, Site, int | None]  # full name of a site, the site, its layer


class _Sizes(NamedTuple):
    """What shapes and precision of a plan's arrays come from, besides the model."""

    length: int
    n_kept: int  # of the positions
    dtype: np.dtype[Any]  # of the run
    stored: str | None  # another precision, that `keep` asks for

    def of(self, config: ModelConfig) -> dict[str, int]:
        """The length of every axis."""
        k = min(TOP_K, config.vocab_size)
        return {**config.dims, "pos": self.n_kept, "query": self.n_kept, "key": self.length, "k": k}


def _entries(config: ModelConfig, keep: Keep, stop_at_layer: int | None, sizes: _Sizes) -> tuple[Entry, ...]:
    """The arrays that a run computes and `keep` selects, in execution order."""
    lengths = sizes.of(config)
    shapes = {site.name: tuple(lengths[a] for a in site.axis_names) for site in config.architecture.sites}
    return tuple(
        Entry(name, site, layer, shapes[site.name], np.dtype(site.dtype or sizes.stored or sizes.dtype))
        for name, site, layer in _run(config, stop_at_layer)
        if keep.wants(name, site)
    )


@functools.lru_cache(32)
def _entries_named(
    config: ModelConfig,
    patterns: tuple[str, ...],
    names: frozenset[str] | None,
    stop_at_layer: int | None,
    sizes: _Sizes,
) -> tuple[Entry, ...]:
    """The same without a predicate: programs ask for the same sites again and again."""
    return _entries(config, Keep(patterns, names=names), stop_at_layer, sizes)


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
        self._sizes = _Sizes(length, len(self.positions), self.dtype, self.keep.dtype)
        if self.keep.predicate is None or self.keep.names is not None:
            patterns, names = self.keep.patterns, self.keep.names
            self.entries = _entries_named(config, patterns, names, stop_at_layer, self._sizes)
        else:
            self.entries = _entries(config, self.keep, stop_at_layer, self._sizes)
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
        return self._sizes.of(self.config)

    def shape_of(self, site: Site) -> tuple[int, ...]:
        """Shape of a site in this plan, kept or not."""
        sizes = self.sizes()
        return tuple(sizes[axis] for axis in site.axis_names)

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
