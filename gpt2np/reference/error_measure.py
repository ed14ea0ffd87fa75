"""How far an array of a dump is from what it should be, where, and in what pattern."""

from dataclasses import dataclass

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import HEAD_AXES, seen
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import views_of
from gpt2np.tracing.sites import Site

SUSPICIOUS = 4.0  # times its band: up to here an error is suspicious, beyond it is wrong


@dataclass(frozen=True)
class Measure:
    """The errors of one site: `ratio` is the largest error as a multiple of its band."""

    ratio: float
    error: float  # absolute, where the ratio is largest
    band: float  # there
    position: int | None = None  # the first outside
    heads: tuple[int, ...] = ()  # those outside, where the site has heads
    pattern: str = ""

    @property
    def verdict(self) -> str:
        """`within-noise`, `suspicious` or `wrong`."""
        return "within-noise" if self.ratio <= 1 else "suspicious" if self.ratio <= SUSPICIOUS else "wrong"


def valid(site: Site, shape: tuple[int, ...], window: int | None = None) -> Array | None:
    """Which elements of a site count: of the scores those of keys that the query sees; None for all."""
    if site.unseen is None or np.isfinite(site.unseen):
        return None
    return seen(shape, window)


def difference(values: Array, truth: Array, site: Site, window: int | None = None) -> Array:
    """Absolute errors in float64; what is not a number where it should be is infinitely wrong.

    `window` is that of the site's layer.
    """
    with np.errstate(all="ignore"):
        error = np.abs(values.astype(np.float64) - truth)
        same = (values == truth) | (np.isnan(values) & np.isnan(truth))
    error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
    if site.name == "loss":  # nothing follows the last token; some programs have a target for it
        error[-1:] = np.where(np.isnan(truth[-1:]), 0.0, error[-1:])
    mask = valid(site, error.shape, window)
    return error if mask is None else np.where(mask, error, 0.0)


def measure(
    values: Array, truth: Array, band: Array, site: Site, layer: int | None, config: ModelConfig
) -> Measure:
    """Hold an array against the truth."""
    error = difference(values, truth, site, None if layer is None else config.window(layer))
    band = np.broadcast_to(band, error.shape)
    with np.errstate(all="ignore"):
        ratio = np.where(error == 0, 0.0, error / band)
    if not error.size:
        return Measure(0.0, 0.0, 0.0)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    largest = float(ratio[worst])
    if largest <= 1:
        return Measure(largest, float(error[worst]), float(band[worst]))
    axes, outside = site.axis_names, ratio > 1
    row_axis = next((i for i, axis in enumerate(axes) if axis in ("pos", "query")), None)
    rows = _along(outside, row_axis)
    heads: tuple[int, ...] = ()
    if views := views_of(config, site.name):  # queries, keys and values of all heads side by side
        by_head = np.any([view(outside, config).any(axis=(0, 2)) for view in views.values()], axis=0)
        heads = tuple(np.flatnonzero(by_head).tolist())
    elif head_axis := next((axis for axis in axes if axis in HEAD_AXES), None):
        heads = tuple(np.flatnonzero(_along(outside, axes.index(head_axis))).tolist())
    position = int(np.flatnonzero(rows)[0]) if row_axis is not None else None
    pattern = describe(values, truth, outside, site, rows, heads, config)
    return Measure(largest, float(error[worst]), float(band[worst]), position, heads, pattern)


def _along(outside: Array, axis: int | None) -> Array:
    """Whether anything is outside at each index of an axis."""
    if axis is None:
        return np.array([outside.any()])
    return np.asarray(outside.any(axis=tuple(i for i in range(outside.ndim) if i != axis)))


def describe(
    values: Array,
    truth: Array,
    outside: Array,
    site: Site,
    rows: Array,
    heads: tuple[int, ...],
    config: ModelConfig,
) -> str:
    """The pattern of an error in words."""
    found = []
    wrong: list[int] = np.flatnonzero(rows).tolist()
    kind = "kv head" if "kv_head" in site.axis_names else "head"
    if heads and len(heads) < (config.n_kv_head if "kv_head" in site.axis_names else config.n_head):
        some = ", ".join(map(str, heads))
        found.append(f"{kind} {some} only" if len(heads) == 1 else f"{kind}s {some}")
    if len(rows) > 1 and len(wrong) == 1:
        found.append(f"position {wrong[0]} only")
    elif len(rows) > 1 and wrong[0] > 0 and len(wrong) == len(rows) - wrong[0]:
        found.append(f"every position from {wrong[0]} on")
    elif len(wrong) < len(rows):
        found.append(f"{len(wrong)} of {len(rows)} positions, the first {wrong[0]}")
    columns = np.asarray(outside.reshape(-1, outside.shape[-1]).any(axis=0))
    if outside.shape[-1] > 2 and site.axis_names[-1] not in ("pos", "key") and columns.sum() == 1:
        column = int(np.flatnonzero(columns)[0])
        last = " (the last)" if column == len(columns) - 1 else ""
        found.append(f"element {column} of each row only{last}")
    finite = np.isfinite(values) & np.isfinite(truth) & outside
    if not finite.any():
        return "; ".join([*found, "the values are not finite"])
    a, t = values[finite].astype(np.float64), truth[finite]
    if not a.any():
        found.append("the values are 0")
    elif len(a) > 2:
        deviation = float(np.linalg.norm(a - t))
        factor = float(a @ t / (t @ t))
        offset = float(np.mean(a - t))
        if np.linalg.norm(a - factor * t) < 1e-3 * min(deviation, float(np.linalg.norm(a))):
            found.append(f"every one {factor:.6g} times what it should be")
        elif np.linalg.norm(a - t - offset) < 1e-3 * deviation:
            found.append(f"every one {offset:+.6g} off")
    return "; ".join(found) or "everywhere"
