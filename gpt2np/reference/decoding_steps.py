"""Joins what was recorded step by step while decoding: `step0.logits`, `step1.logits`, ... are one array."""

import re

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.dump_formats import Stored

_STEP = re.compile(r"steps?[\W_]*(\d{1,6})[\W_]+(.+)", re.IGNORECASE)
_ITEM = re.compile(r"(?:outputs?\.)?(logits)[\W_]*(\d{1,6})\W*", re.IGNORECASE)  # of HF's generate


def joined(found: Stored) -> Stored:
    """The arrays of a dump, those of several steps along the positions; what does not fit stays as it is.

    A cache of keys and values, which grows from step to step, is that of the last step.
    """
    steps: dict[str, dict[int, str]] = {}
    for name in found:
        if match := _STEP.fullmatch(name):
            steps.setdefault(match[2], {})[int(match[1])] = name
        elif match := _ITEM.fullmatch(name):
            steps.setdefault(match[1], {})[int(match[2])] = name
    rest = dict(found)
    for what, numbered in steps.items():
        names = [numbered[step] for step in sorted(numbered)]
        numbers = sorted(numbered)
        if len(names) < 2 or what in found or numbers != list(range(numbers[0], numbers[0] + len(names))):
            continue
        array = _joined([found[name][0] for name in names])
        if array is not None:
            rest[what] = array, found[names[0]][1]
            for name in names:
                del rest[name]
    return rest


def _joined(arrays: list[Array]) -> Array | None:
    """Arrays that differ in one axis, or as attention does in two, the last of which grows."""
    if len({array.ndim for array in arrays}) > 1 or arrays[0].ndim < 2:
        return None
    shapes = np.array([array.shape for array in arrays])
    differ = [int(axis) for axis in np.flatnonzero((shapes != shapes[0]).any(axis=0))]
    single = [axis for axis in range(shapes.shape[1]) if (shapes[1:, axis] == 1).all()]
    last = shapes.shape[1] - 1
    if differ and differ[-1] == last and last - 1 in single and set(differ) <= {last - 1, last}:
        widest = int(shapes[-1, last])  # keys: one more a step
        if (shapes[:, last] > widest).any():
            return None
        no_pad = [(0, 0)] * last
        arrays = [np.pad(array, [*no_pad, (0, widest - array.shape[last])]) for array in arrays]
        return np.concatenate(arrays, axis=last - 1)
    if len(differ) == 1 and differ[0] in single:
        return np.concatenate(arrays, axis=differ[0])
    if len(differ) == 1 and (np.diff(shapes[:, differ[0]]) > 0).all():
        return arrays[-1]
    return np.concatenate(arrays, axis=last - 1) if not differ and shapes[0, last - 1] == 1 else None
