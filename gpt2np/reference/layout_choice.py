"""Which of several readings of an array is right, judged by its values and by the future of attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.attention_future import FILL
from gpt2np.reference.axis_layouts import seen
from gpt2np.tracing.sites import Site

AGREES = 0.05  # relative error below which a reading has the right values, whatever the precision
_CLEARLY = 4.0  # times smaller than that of any other reading
_LIKE, _VERY_LIKE, _UNLIKE = 0.5, 0.9, 0.3  # correlations
_SURE = 6.0  # standard errors between two correlations, beyond which it is no chance
_SAMPLE = 1 << 14  # elements that are looked at


@dataclass(frozen=True)
class Likeness:
    """How near an array is to the truth: relative error (root mean square), correlation, and its first row.

    `count` elements were looked at. `first` is the position of its first row, for which it is nearest; None
    where it is near for none.
    """

    error: float
    correlation: float
    count: int
    first: int | None


def likeness(site: Site, array: Array, truth: Array, window: int | None = None) -> Likeness:
    """Hold an array in a site's own axes against the truth; with more or fewer rows, at both ends.

    `window` is that of the site's layer.
    """
    found = [
        (*_compare(site, a, t, window), first)
        for a, t, first in _alignments(site.name, site.quadratic, array, truth)
    ]
    error, correlation, count, first = min(found, key=lambda x: (x[0], -x[1]))
    same_length = array.shape == truth.shape
    return Likeness(error, correlation, count, first if same_length or error < AGREES else None)


def choose(
    site: Site,
    arrays: Sequence[Array],
    natural: Sequence[bool],
    truth: Array | None,
    window: int | None = None,
) -> tuple[int | None, str]:
    """Which reading is right and why: `values`, `future`, `rows` or `likeness`; None if nothing decides.

    The reason of None is `close` where several have the right values as far as they can be told.

    Readings that are the same numbers are one. Of two that have nearly the right values those elements tell
    which is right in which they differ, however small they are. The site's own order of axes wins where it
    is like the truth and no other is more so.
    """
    kept = _distinct(arrays)
    if len(kept) == 1:
        return kept[0], "same"
    like = [
        Likeness(np.inf, -1.0, 0, None) if truth is None else likeness(site, arrays[i], truth, window)
        for i in kept
    ]
    errors = np.array([x.error for x in like])
    best = int(np.argmin(errors))
    if errors[best] < AGREES and truth is not None:
        right = arrays[kept[best]]
        others = [arrays[i] for i in kept if i != kept[best]]
        if all(_clearly_better(site, right, other, truth, window) for other in others):
            return kept[best], "values"
    own = next((n for n, i in enumerate(kept) if natural[i]), None)
    if site.unseen is not None:
        for why, test in _STRUCTURE:
            fits = [n for n, i in enumerate(kept) if test(arrays[i], site, window)]
            if len(fits) == 1 and own is not None and _upside_down(arrays[kept[own]], arrays[kept[fits[0]]]):
                return kept[own], "same"
            if len(fits) == 1:
                return kept[fits[0]], why
    if np.sum(errors < AGREES) > 1:
        return None, "close"
    correlations = np.array([x.correlation for x in like])
    if own is not None and correlations[own] > _LIKE and correlations[own] >= correlations.max():
        return kept[own], "likeness"
    best, second = np.argsort(-correlations, kind="stable")[:2]
    apart = correlations[best] > _VERY_LIKE and correlations[second] < correlations[best] - _UNLIKE
    if apart and _no_chance(correlations[best], correlations[second], like[best].count):
        return kept[best], "likeness"
    return None, ""


def _upside_down(own: Array, other: Array) -> bool:
    """Whether queries and keys are swapped in the other: wrong values are rather those of a wrong mask."""
    return own.shape[::2] == other.shape[::2] and np.array_equal(own.swapaxes(1, 2), other, equal_nan=True)


def _no_chance(one: float, other: float, count: int) -> bool:
    """Whether two correlations of so many elements differ by more than chance explains (Fisher's z)."""
    if count < 4:
        return False
    z = np.arctanh(np.clip([one, other], -1 + 1e-9, 1 - 1e-9))
    return bool((z[0] - z[1]) * np.sqrt((count - 3) / 2) > _SURE)


def _clearly_better(site: Site, right: Array, other: Array, truth: Array, window: int | None) -> bool:
    """Whether one reading is nearer to the truth than another where the two differ."""
    if right.shape != other.shape or right.shape != truth.shape:
        errors = (likeness(site, x, truth, window).error for x in (other, right))
        return next(errors) > _CLEARLY * next(errors)
    count = np.isfinite(truth)
    if site.quadratic:
        count &= seen(truth.shape, window)
    with np.errstate(all="ignore"):
        a, b, t = (x[count].astype(np.float64) for x in (right, other, truth))
        apart = a != b
        near, far = (np.sum(np.square(x[apart] - t[apart])) for x in (a, b))
    return bool(np.isfinite(near) and not far <= _CLEARLY**2 * near)


def _distinct(arrays: Sequence[Array]) -> list[int]:
    kept: list[int] = []
    for i, array in enumerate(arrays):
        if not any(
            array.shape == arrays[j].shape and np.array_equal(array, arrays[j], equal_nan=True) for j in kept
        ):
            kept.append(i)
    return kept


def _alignments(site: str, quadratic: bool, array: Array, truth: Array) -> list[tuple[Array, Array, int]]:
    """Parts of both that may be the same positions, and which position is the array's first."""
    if array.shape == truth.shape:
        return [(array, truth, 0)]
    if quadratic:
        (_, q, k), n = array.shape, truth.shape[1]
        if k == n:
            return [(array, truth[:, n - q :], n - q)]
        if q != k:
            return [(array[:, :0], truth[:, :0], 0)]
        most = min(q, n)
        return [(array[:, :most, :most], truth[:, :most, :most], 0)]
    n, most = len(truth), min(len(array), len(truth))
    both = [(array[:most], truth[:most], 0), (array[len(array) - most :], truth[n - most :], n - len(array))]
    return both[::-1] if site == "logits" else both


def _compare(site: Site, array: Array, truth: Array, window: int | None) -> tuple[float, float, int]:
    """Relative error, correlation, and of how many elements: no future, and where the truth is a number."""
    if array.shape != truth.shape or not array.size:
        return np.inf, -1.0, 0
    some = np.random.default_rng(0).integers(0, array.size, _SAMPLE)
    at = np.unravel_index(some if array.size > _SAMPLE else np.arange(array.size), array.shape)
    use = np.isfinite(truth[at])
    if site.quadratic:
        use &= seen(array.shape, window)[at[1:]]
    with np.errstate(all="ignore"):
        x, t = array[at][use].astype(np.float64), truth[at][use].astype(np.float64)
        if not x.size:
            return np.inf, -1.0, 0
        error = np.sqrt(np.mean((x - t) ** 2) / max(float(np.mean(t**2)), 1e-60))
        there = np.isfinite(x) & ((x > FILL) | (t < FILL) if site.unseen == -np.inf else True)
        if not np.all(there):
            error = np.inf
        if 2 * there.sum() < x.size:
            return np.inf, -1.0, 0
        x, t = x[there] - x[there].mean(), t[there] - t[there].mean()
        scale = np.sqrt(np.mean(x**2) * np.mean(t**2))
        correlation = float(np.mean(x * t) / scale) if np.isfinite(scale) and scale > 0 else 0.0
    return float(error) if np.isfinite(error) else np.inf, correlation, x.size


def _uniform_future(array: Array, site: Site, window: int | None) -> bool:
    """Whether every unseen entry is the same, or all stand for -inf, and the others do not."""
    allowed = seen(array.shape, window)
    if allowed.all():
        return False
    past, future = array[:, allowed], array[:, ~allowed]
    first = future.flat[0]
    if np.isnan(first):
        return bool(np.isnan(future).all() and not np.isnan(past).all())
    same = bool(np.all(future == first)) and not np.all(past == first)
    return same or bool(np.all(future <= FILL) and not np.all(past <= FILL))


def _rows_sum_to_one(array: Array, site: Site, window: int | None) -> bool:
    """Whether it looks like a pattern, where it is to be one."""
    if site.unseen != 0:
        return False
    with np.errstate(all="ignore"):
        sums = array.sum(axis=-1, dtype=np.float64)
    return bool(np.mean(np.abs(sums - 1) < 1e-2) > 0.95)


_Test = Callable[[Array, Site, int | None], bool]
_STRUCTURE: list[tuple[str, _Test]] = [("future", _uniform_future), ("rows", _rows_sum_to_one)]
