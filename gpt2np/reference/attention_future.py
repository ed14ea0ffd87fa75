"""Attention to keys that the query does not see, the future first of all: what somebody has there, undone."""

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import seen
from gpt2np.tracing.sites import Site

_FILLS = {
    -1e10: "-1e10",
    -1e9: "-1e9",
    -1e4: "-1e4",
    float(np.finfo(np.float32).min): "the least float32",
    float(np.finfo(np.float16).min): "the least float16",
    -3.3895313892515355e38: "the least bfloat16",
    0.0: "0",
}
FILL = -9e3  # a score below this is no product of a query and a key, but stands for -inf


def normalise_future(site: Site, array: Array, window: int | None = None) -> tuple[Array, list[str]]:
    """Scores [head, query, key] with -inf in the future, or a pattern with 0 there, and what was found.

    What lies before the window of the layer is as unseen as the future. A pattern whose rows give something
    to it is left as it is, since that may be the mistake; what was never written (the rest of the row sums to
    1 already) becomes 0.
    """
    hidden = ~seen(array.shape, window)
    if not hidden.any():
        return array, []
    unseen = array[:, hidden]
    where = "future" if window is None else "unseen"
    of_scores = site.unseen == -np.inf
    return _scores(array, hidden, unseen, where) if of_scores else _pattern(array, hidden, unseen, where)


def _scores(array: Array, hidden: Array, future: Array, where: str) -> tuple[Array, list[str]]:
    if np.all(np.isneginf(future)):
        return array, []
    filled = future <= FILL
    if np.all(future == future.flat[0]) or np.all(filled):
        finite = np.sort(future[np.isfinite(future)])
        value = float(finite[finite.size // 2]) if finite.size else -np.inf
        name = next(
            (text for fill, text in _FILLS.items() if np.isclose(value, fill, 1e-2, 1e-30)), f"{value:.4g}"
        )
        note = f"{where} scores hold {name}"
    elif np.all(np.isnan(future)):
        note = f"{where} scores hold NaN"
    elif filled.any():
        note = f"{int((~filled).sum()):,} of {filled.size:,} {where} scores are not masked"
    else:
        note = f"{where} scores hold numbers (not masked, or never written)"
    clean = array.copy()
    clean[:, hidden] = -np.inf
    return clean, [note]


def _pattern(array: Array, hidden: Array, future: Array, where: str) -> tuple[Array, list[str]]:
    if not future.any():
        return array, []
    with np.errstate(all="ignore"):
        past = np.where(hidden, 0, array).sum(axis=-1, dtype=np.float64)
        whole = array.sum(axis=-1, dtype=np.float64)
        complete = np.abs(past - 1) < 1e-2  # such a row is whole without its future
        garbage = complete & ~(np.abs(whole - 1) < 2e-2)
        most = float(np.nanmax(np.abs(future.astype(np.float64)))) if not np.isnan(future).all() else np.nan
    place = "the future" if where == "future" else "what is not seen"
    if not garbage.any():
        return array, [f"{place} has attention, up to {most:.3g}"]
    clean = array.copy()
    clean[garbage[:, :, None] & hidden] = 0
    note = f"{place} of the pattern was never written (its rows sum to 1 without it)"
    kept = [] if not clean[:, hidden].any() else [f"in other rows {place} has attention"]
    return clean, [note, *kept]
