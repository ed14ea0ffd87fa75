"""The cache of a generation: keys and values of the past, laid out as decoding reads them fastest."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import views_of

Part = Callable[[Array, Any], Array]  # of an array that a step computes, with the config
# Positions by which a text may differ from the first of those that are attended to at once: what a shorter
# one lacks is read for nothing, in about the time that calls for itself alone would take.
ALIKE = 32


class Cache:
    """Keys and values of every layer that later positions read.

    Each array is [pos, kv_head, d_head], a view of memory in which what one head reads lies together: a new
    position is written into a few whole lines of the processor's cache. All are copies of what the steps
    computed: part of no trace, of no file, and gone when the generation ends. Which sites are cached is the
    architecture's word.

    Caches of several texts may lie side by side (`caches`): `together` are their arrays
    [text, kv_head, pos, d_head], in which this one has its `place`.
    """

    def __init__(
        self,
        config: ModelConfig,
        length: int,
        dtype: DTypeLike,
        together: Mapping[str, Array] | None = None,
        place: int = 0,
    ) -> None:
        self.config, self.length = config, length
        self.together = together or _in_one_block(shapes(config, length), 1, np.dtype(dtype))
        self.place = place
        self.arrays = {name: array[place].swapaxes(0, 1) for name, array in self.together.items()}
        self.sources = sources_of(config)  # by steps
        # What each step computed last, and which of it goes where: a token later it lies in the same place.
        self._last: dict[str, tuple[Array, list[tuple[Array, Array]]]] = {}

    def store(self, name: str, past: int, values: Array) -> None:
        """Copy what a step computed for the positions after `past`, if any of it is cached."""
        last = self._last.get(name)
        if last is None or last[0] is not values:
            parts = [
                (self.arrays[cached], values if part is None else part(values, self.config))
                for cached, part in self.sources.get(name, ())
            ]
            last = self._last[name] = values, parts
        end = past + len(values)
        for cached_array, rows in last[1]:
            cached_array[past:end] = rows

    def write(self, name: str, past: int, rows: Array) -> None:
        """Copy keys or values [pos, kv_head, d_head] of the positions after `past`."""
        self.arrays[name][past : past + len(rows)] = rows

    def so_far(self, name: str, length: int) -> Array:
        """Keys or values of the first positions: a view [pos, kv_head, d_head]."""
        rows: Array = self.arrays[name][:length]
        return rows

    def copy(self, length: int) -> "Cache":
        """Another cache with the same first positions."""
        other = Cache(self.config, self.length, next(iter(self.arrays.values())).dtype)
        for name, array in self.arrays.items():
            other.arrays[name][:length] = array[:length]
        return other


def caches(config: ModelConfig, lengths: Sequence[int], dtype: DTypeLike) -> list[Cache]:
    """A cache for each of several texts; those of neighbours of about one length lie side by side."""
    found, start = list[Cache](), 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or abs(lengths[stop] - lengths[start]) > ALIKE:
            n, longest = stop - start, max(lengths[start:stop])
            together = _in_one_block(shapes(config, longest), n, np.dtype(dtype))
            found += [Cache(config, longest, dtype, together, place) for place in range(n)]
            start = stop
    return found


def shapes(config: ModelConfig, length: int) -> dict[str, tuple[int, int, int]]:
    """Full name and shape of every array of a cache."""
    table = config.architecture.sites
    found: dict[str, tuple[int, int, int]] = {}
    for layer in range(config.n_layer):
        for name in config.architecture.cache:
            heads, width = (config.dims[axis] for axis in table[name].axis_names[1:])
            found[table[name].full_name(layer)] = (length, heads, width)
    return found


def _in_one_block(shapes: dict[str, tuple[int, int, int]], n: int, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Arrays of these shapes, each for n texts, in one block: NumPy asks for huge pages only for large ones.

    They are 0: what a shorter text lacks is read with a longer one, and given no weight.
    """
    sizes = [n * math.prod(shape) for shape in shapes.values()]
    parts = np.split(np.zeros(sum(sizes), dtype), np.cumsum(sizes)[:-1])
    return {
        name: part.reshape(n, heads, length, width)
        for (name, (length, heads, width)), part in zip(shapes.items(), parts, strict=True)
    }


def cache_nbytes(config: ModelConfig, length: int, dtype: DTypeLike) -> int:
    """Bytes of a cache of so many positions."""
    return sum(math.prod(shape) for shape in shapes(config, length).values()) * np.dtype(dtype).itemsize


@functools.lru_cache(16)
def sources_of(config: ModelConfig) -> dict[str, list[tuple[str, Part | None]]]:
    """For the full name of each step that computes something cached: what is cached, and which part it is."""
    table, cache = config.architecture.sites, config.architecture.cache
    found: dict[str, list[tuple[str, Part | None]]] = {}
    for site in table:
        parts: dict[str, Part | None] = {site.name: None} if site.name in cache and not site.derived else {}
        parts |= {name: view for name, view in views_of(config, site.name).items() if name in cache}
        for layer in range(config.n_layer) if parts else ():
            pairs = [(table[name].full_name(layer), part) for name, part in parts.items()]
            found[site.full_name(layer)] = pairs
    return found


def first_kept(config: ModelConfig, layer: int, n: int) -> int:
    """The first position that HF's cache of a layer keeps once n positions have run: ours keeps all.

    HF takes the last `window - 1` rows; of a window of 1 that is "the last -0", which are all.
    """
    window = config.window(layer) if config.architecture.cache_drops else None
    return 0 if window is None or window == 1 else max(0, n - (window - 1))
