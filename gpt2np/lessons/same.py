"""Whether a result is that of another function: shapes, arrays within float32's noise, lists item by item."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array

NOISE = 1e-5  # of the largest number in an array: what a function in float32 may be off


def array_of(value: Any) -> Array | None:
    """Numbers as an array; None if there are none, or they have no shape, or are too coarse (float16)."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "iuf" and array.dtype != np.float16 else None


def with_shape(value: Any, shape: Sequence[int], axes: Sequence[str]) -> tuple[Array, str]:
    """A result as an array, and what is wrong with its shape: nothing, or a message with both shapes."""
    wanted = f"[{', '.join(axes)}] = {tuple(map(int, shape))}"
    array = array_of(value)
    if value is None:
        return np.zeros(0), f"{wanted}, yours is None: does the function end in a return?"
    if array is None:
        return np.zeros(0), f"{wanted} of float32 or float64, yours is {kind_of(value)}"
    array = array.astype(np.float64) if array.dtype not in (np.float32, np.float64) else array
    return array, "" if array.shape == tuple(shape) else f"{wanted}, yours is {array.shape}"


def kind_of(value: Any) -> str:
    """What a value is, for a message: "a list of 3", "an array of bool"."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    name = type(value).__name__
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    return (
        f"{article} {name} of {len(value)}" if isinstance(value, list | tuple | dict) else f"{article} {name}"
    )


def errors(yours: Array, truth: Array) -> Array:
    """How far each number is off, as a multiple of float32's noise; infinity where one of the two is."""
    finite = np.abs(truth[np.isfinite(truth)])
    noise = NOISE * max(float(finite.max()) if finite.size else 1.0, 1e-30)
    with np.errstate(all="ignore"):
        ratio = np.abs(yours - truth) / noise
    same = (yours == truth) | (np.isnan(yours) & np.isnan(truth))
    return np.asarray(np.where(same, 0.0, np.nan_to_num(ratio, nan=np.inf)))


def is_same(a: Any, b: Any) -> bool:
    """Whether two results are the same: numbers within noise, everything else equal; 3 arrays one by one."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    one, other = array_of(a), array_of(b)
    if one is not None and other is not None:
        if one.shape != other.shape:
            return False
        if one.dtype.kind in "iu" and other.dtype.kind in "iu":
            return bool(np.array_equal(one, other))
        return bool((errors(one, other) <= 1).all())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    try:
        return bool(
            np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b
        )
    except Exception:  # what a learner's object says to a comparison
        return False
