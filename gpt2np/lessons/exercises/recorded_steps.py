"""The steps that a learner's program returned, as they are: their sizes, and whether they are numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.errors import Gpt2npError, nearest
from gpt2np.lessons.exercise import Finding
from gpt2np.lessons.same import array_of, kind_of
from gpt2np.ops import Array
from gpt2np.reference.dump_names import Meaning, Names
from gpt2np.reference.noise_bands import Expected
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

_ROWS = ("pos", "query")
_NO_CACHE = (
    "Whom does the newest token know?",
    "What do you find in your cache at the second call, and what did the first one put in?",
)
_OF_BEFORE = (
    "Whose keys does your cache hold at the first call?",
    "Where do you keep your keys and values: in the dict that you were given, or in one of your own?",
)


@dataclass(frozen=True)
class Call:
    """One call of a program: `new` tokens, behind so many `past` ones."""

    new: int
    past: int = 0
    about: str = ""


def arrays_of(steps: Any, about: str = "") -> tuple[dict[str, Array], Finding | None]:
    """The arrays of a call by name, copied, lists too; and what is wrong with the dict."""
    if not isinstance(steps, Mapping) or not steps:
        said = kind_of(steps) if not isinstance(steps, Mapping) else "a dict that is empty"
        said = "None: does the function end in a return?" if steps is None else said
        return {}, Finding("shape", f"it must be a dict of steps by name; yours is {said}")
    found = {}
    for name, value in steps.items():
        array = array_of(value)
        if not isinstance(name, str) or array is None or not array.ndim:
            said = f"{name}{about}: it must be an array of float32 or float64, yours is {kind_of(value)}"
            return {}, Finding("shape", said)
        found[name] = array.astype(np.float64) if array.dtype.kind in "iu" else array.copy()
    return found, None


def of_wrong_size(
    steps: Mapping[str, Array], truth: Trace, call: Call, hints: tuple[str, ...]
) -> Finding | None:
    """The first step that has not a row for each new token, or not a column for each one so far."""
    names = Names(truth.config)
    for name, array in steps.items():
        meaning = _step_of(names, name)
        if meaning is None or meaning.site is None:
            continue
        axes, shape = meaning.site.axis_names, list(truth[meaning.full_name].shape)
        for i, axis in enumerate(axes):
            if axis in (*_ROWS, "key"):
                shape[i] = call.new if axis in _ROWS else call.new + call.past
        ours = meaning.full_name == name  # another dialect may cut its arrays otherwise
        if array.size != np.prod(shape) if ours else array.size < np.prod(shape):
            alone = [call.new if axis == "key" else n for axis, n in zip(axes, shape, strict=True)]
            if ours and alone != shape and array.size == np.prod(alone):
                where = f"{name}{call.about} has no column for the tokens in the cache"
                return Finding("wrong", where, 0.0, "cache-not-used", _NO_CACHE)
            if ours and not call.past and "key" in axes and array.shape[-1] > call.new:
                hints = _OF_BEFORE
            wanted = f"[{', '.join(axes)}] = {tuple(shape)}, yours is {array.shape}"
            return Finding("shape", f"{name}{call.about}: {wanted}", hints=hints)
    return None


def joined(
    every: Sequence[Mapping[str, Array]], calls: Sequence[Call]
) -> tuple[dict[str, Array], Finding | None]:
    """The steps of several calls, joined along the positions; a row of attention has all keys."""
    total, whole = calls[-1].past + calls[-1].new, {}
    for name in every[0]:
        arrays = [steps[name] for steps in every]
        shapes = [array.shape for array in arrays]
        axes = range(arrays[0].ndim) if len({len(shape) for shape in shapes}) == 1 else ()
        rows = [i for i in axes if all(s[i] == call.new for s, call in zip(shapes, calls, strict=True))]
        keys = [
            i
            for i in axes
            if all(s[i] == call.past + call.new for s, call in zip(shapes, calls, strict=True))
        ]
        if not rows and not keys:
            i = next((i for i, shape in enumerate(shapes) if len(shape) != len(shapes[0])), len(shapes) - 1)
            return {}, Finding("shape", f"{name}{calls[i].about} is {shapes[i]}, that of call 1 {shapes[0]}")
        for axis in keys if rows else ():
            arrays = [_wider(array, axis, total) for array in arrays]
        whole[name] = np.concatenate(arrays, axis=rows[0]) if rows else arrays[-1]
    return whole, None


def _wider(array: Array, axis: int, length: int) -> Array:
    """An array with zeros behind its end."""
    return np.pad(array, [(0, length - n if i == axis else 0) for i, n in enumerate(array.shape)])


def _step_of(names: Names, name: str) -> Meaning | None:
    """What a name means, if it is one step and nothing else."""
    try:
        found = names.meaning(name)
    except Gpt2npError:
        return None
    if found is None or found.stacked or found.parts or found.either or found.site is None:
        return None
    return None if found.site.derived else found


def unknown_step(steps: Iterable[str], config: ModelConfig, known: Sequence[str]) -> str:
    """A word on the first name that is none of a step; nothing if all are known."""
    names = Names(config)
    for name in steps:
        if _of_nothing(names, name):
            meant = nearest(name, known)
            return f" ({name} is no step that is known{f'; did you mean {meant}' if meant else ''}?)"
    return ""


def _of_nothing(names: Names, name: str) -> bool:
    try:
        return names.meaning(name) is None
    except Gpt2npError:
        return True


def no_numbers(steps: Mapping[str, Array]) -> tuple[str, str] | None:
    """The first step that holds a NaN, in the order of recording, and where."""
    for name, array in steps.items():
        if np.isnan(array).any():
            first = [int(i) for i in np.argwhere(np.isnan(array))[0]]
            n = int(np.isnan(array).sum())
            where = f"the first at [{', '.join(map(str, first))}]"
            return name, "all of its numbers" if n == array.size else f"{n:,} of {array.size:,}, {where}"
    return None


def held_under(values: Array, wrong: str, expected: Expected) -> str | None:
    """The step whose values stand under the name of another one."""
    config = expected.truth.config
    for name, site, _ in config.architecture.sites.expand(config.n_layer):
        if site.derived or name == wrong or site.name in ("wte", "wpe"):
            continue
        truth = expected.truth[name]
        if truth.shape == values.shape:
            with np.errstate(invalid="ignore"):
                if ((values == truth) | (np.abs(values - truth) <= expected.bands[name])).all():
                    return name
    return None


def layers_of(names: Sequence[str], config: ModelConfig) -> list[int]:
    """The layers of which any step is among these names."""
    return [i for i in range(config.n_layer) if any(name.startswith(f"h.{i}.") for name in names)]
