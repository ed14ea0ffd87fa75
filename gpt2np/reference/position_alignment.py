"""Arrays with fewer rows than the text has tokens: which positions they are, by what is right in them."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.error_measure import Measure, measure
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site


class Alignment:
    """Holds arrays of a dump against the truth, site by site in the order of execution.

    Arrays of as many rows as the text has tokens stand where they stand. Fewer rows are the first or the last
    positions; arrays of equally many rows are taken for the same, as far as those before them were right.
    """

    def __init__(self, n_tokens: int, config: ModelConfig) -> None:
        self.n_tokens, self.config = n_tokens, config
        self._starts: dict[int, list[int]] = {}  # number of rows: the positions at which they may begin

    def hold(
        self, values: Array, truth: Array, band: Array, site: Site, layer: int | None
    ) -> tuple[Measure, Array]:
        """How far the values are off, and the truth with these values in it: an array with all rows."""
        if values.shape == truth.shape:
            return measure(values, truth, band, site, layer, self.config), values
        n, n_rows = self.n_tokens, values.shape[1 if site.quadratic else 0]
        if n_rows > n or (site.quadratic and values.shape[2] > n):
            return _other_length(n_rows, n), values
        starts = self._starts.setdefault(n_rows, list(dict.fromkeys((n - n_rows, 0))))
        able = [start for start in starts if not site.quadratic or values.shape[2] in (n, start + n_rows)]
        if not able:
            return _other_length(n_rows, n), values
        found = {start: self._held(values, truth, band, site, layer, start) for start in able}
        right = [start for start in able if found[start][0].ratio <= 1]
        # One of positions alone says where a program took a token to be.
        if right and site.name not in self.config.architecture.positional:
            self._starts[n_rows] = right
        if not right and site.name == "logits":  # of which many programs compute the last only
            return found[able[0]]
        return found[min(right or able, key=lambda start: found[start][0].ratio)]

    def _held(
        self, values: Array, truth: Array, band: Array, site: Site, layer: int | None, start: int
    ) -> tuple[Measure, Array]:
        rows = slice(start, start + values.shape[1 if site.quadratic else 0])
        where = (slice(None), rows, slice(0, values.shape[2])) if site.quadratic else (rows,)
        bands = np.broadcast_to(band, truth.shape)[where]
        found = measure(values, truth[where], bands, site, layer, self.config)
        if found.position is not None:
            found = replace(found, position=found.position + start)
        whole = truth.copy()
        whole[where] = values
        return found, whole


def _other_length(n_rows: int, n_tokens: int) -> Measure:
    pattern = f"it has {n_rows} positions, expected {n_tokens}"
    return Measure(float("inf"), float("inf"), 0.0, 0, (), pattern)


def last_rows(array: Array, n: int, axis: int) -> Array:
    """The last n along an axis, or all where there are fewer."""
    index: Iterable[slice] = (slice(None),) * axis + (slice(max(array.shape[axis] - n, 0), None),)
    return array[tuple(index)]
