"""Arrays with fewer or more rows than the text has tokens: which positions they are, by what is right."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.error_measure import Measure, measure
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site


@dataclass(frozen=True)
class Held:
    """An array held against the truth: how far it is off, and the truth with its values in it.

    `note` says which of its rows are meant where they are not all. `elsewhere` if its rows are right, but not
    those of the positions that were meant.
    """

    measure: Measure
    whole: Array
    note: str = ""
    elsewhere: bool = False


class Alignment:
    """Holds arrays of a dump against the truth, site by site in the order of execution.

    Arrays of as many rows as the text has tokens stand where they stand. Fewer rows are the first or the last
    positions, one row is the last; arrays of equally many rows are taken for the same, as far as those before
    them were right. Of more rows, as a buffer of fixed length has, the first ones are the text's where they
    are right; where they are not, only if `cut`, or if what follows was never written.
    """

    def __init__(self, n_tokens: int, config: ModelConfig, cut: bool = False) -> None:
        self.n_tokens, self.config, self.cut = n_tokens, config, cut
        self._starts: dict[int, list[int]] = {}  # number of rows: the positions at which they may begin
        self._buffers: set[int] = set()  # numbers of rows of which the first ones were right

    def hold(self, values: Array, truth: Array, band: Array, site: Site, layer: int | None) -> Held:
        """How far the values are off."""
        if values.shape == truth.shape:
            return Held(measure(values, truth, band, site, layer, self.config), values)
        n, n_rows = self.n_tokens, values.shape[1 if site.quadratic else 0]
        if n_rows > n or (site.quadratic and values.shape[2] > n):
            return self._longer(values, truth, band, site, layer)
        starts = self._possible_starts(n_rows, site)
        able = [start for start in starts if not site.quadratic or values.shape[2] in (n, start + n_rows)]
        if not able:
            return Held(_other_length(n_rows, n), values)
        found = {start: self._held(values, truth, band, site, layer, start) for start in able}
        right = [start for start in able if found[start].measure.ratio <= 1]
        positional = site.name in self.config.architecture.positional
        # One of positions alone says where a program took a token to be.
        if right and not positional:
            self._starts[n_rows] = right
        if not right and not positional and not site.quadratic:
            return self._elsewhere(found[able[0]], values, truth, band, site, layer)
        return found[min(right or able, key=lambda start: found[start].measure.ratio)]

    def _possible_starts(self, n_rows: int, site: Site) -> list[int]:
        """Positions that the first of so few rows may be; the last one has no loss."""
        if site.name == "loss" and n_rows == self.n_tokens - 1:
            return [0]
        last = self.n_tokens - n_rows
        return self._starts.setdefault(n_rows, [last] if n_rows == 1 else list(dict.fromkeys((last, 0))))

    def _held(
        self, values: Array, truth: Array, band: Array, site: Site, layer: int | None, start: int
    ) -> Held:
        rows = slice(start, start + values.shape[1 if site.quadratic else 0])
        where = (slice(None), rows, slice(0, values.shape[2])) if site.quadratic else (rows,)
        bands = np.broadcast_to(band, truth.shape)[where]
        found = measure(values, truth[where], bands, site, layer, self.config)
        if found.position is not None:
            found = replace(found, position=found.position + start)
        whole = truth.copy()
        whole[where] = values
        return Held(found, whole)

    def _elsewhere(
        self, held: Held, values: Array, truth: Array, band: Array, site: Site, layer: int | None
    ) -> Held:
        """Rows that are not those that were meant: says which ones they are, if they are any."""
        n_rows = len(values)
        for start in range(self.n_tokens - n_rows + 1):
            other = self._held(values, truth, band, site, layer, start)
            if other.measure.ratio <= 1:
                ours = f"position {start}" if n_rows == 1 else f"positions {start} to {start + n_rows - 1}"
                last = "the last one was meant" if n_rows == 1 else "the last ones or the first were meant"
                pattern = f"it is right for {ours}, and {last}"
                return replace(held, measure=replace(held.measure, pattern=pattern), elsewhere=True)
        return held

    def _longer(self, values: Array, truth: Array, band: Array, site: Site, layer: int | None) -> Held:
        n, n_rows = self.n_tokens, values.shape[1 if site.quadratic else 0]
        first = values[:, :n, :n] if site.quadratic else values[:n]
        if first.shape != truth.shape:
            return Held(_other_length(n_rows, n), values)
        found = measure(first, truth, band, site, layer, self.config)
        rest = values[:, n:] if site.quadratic else values[n:]
        never_written = not np.nan_to_num(rest, nan=0.0, posinf=0.0, neginf=0.0).any()
        if found.ratio <= 1:
            self._buffers.add(n_rows)
        if found.ratio <= 1 or self.cut or n_rows in self._buffers or never_written:
            return Held(found, first, f"the first {n} of its {n_rows} rows are compared")
        return Held(_other_length(n_rows, n), values)


def _other_length(n_rows: int, n_tokens: int) -> Measure:
    pattern = f"it has {n_rows} positions, expected {n_tokens}"
    return Measure(float("inf"), float("inf"), 0.0, 0, (), pattern)


def last_rows(array: Array, n: int, axis: int) -> Array:
    """The last n along an axis, or all where there are fewer."""
    index: Iterable[slice] = (slice(None),) * axis + (slice(max(array.shape[axis] - n, 0), None),)
    return array[tuple(index)]
