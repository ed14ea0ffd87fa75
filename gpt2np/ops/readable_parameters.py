"""Parameters as one reads them: those that are held as bfloat16 or float16 are float32 when looked at.

`forward` is handed the parameters as they are held. Everyone else reads NamedTuples of the same kinds, whose
arrays are widened one by one, when they are asked for: no more of them is in memory than somebody uses.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.ops.narrow_weights import is_narrow, widened


def holds_narrow(p: Any) -> bool:
    """Whether there is a narrow array among these parameters."""
    return any(map(holds_narrow, as_held(p))) if isinstance(p, tuple) else is_narrow(p)


def readable(p: Any) -> Any:
    """The parameters with float arrays, read-only where widened; themselves if nothing is narrow."""
    if not holds_narrow(p):
        return p
    if not isinstance(p, tuple):
        return widened(p)
    held = as_held(p)
    kind: Any = type(held)
    return tuple.__new__(_reading(kind), held)


def as_held(p: Any) -> Any:
    """What `readable` was given: the parameters that `forward` runs with."""
    held = getattr(type(p), "held_type", None)
    return p if held is None else tuple.__new__(held, tuple.__iter__(p))


@functools.cache
def _reading(kind: type) -> Any:
    """The same kind of tuple, with items that are made readable when they are asked for."""

    def item(self: Any, index: Any) -> Any:
        found = tuple.__getitem__(self, index)
        return tuple(map(readable, found)) if isinstance(index, slice) else readable(found)

    def items(self: Any) -> Iterator[Any]:
        return map(readable, tuple.__iter__(self))

    body: dict[str, Any] = {
        "__slots__": (),
        "held_type": kind,
        "__getitem__": item,
        "__iter__": items,
        "__repr__": lambda self: repr(as_held(self)),
        "__reduce__": lambda self: (readable, (as_held(self),)),
    }
    for i, name in enumerate(getattr(kind, "_fields", ())):
        body[name] = property(functools.partial(_field, i), doc=getattr(kind, name).__doc__)
    if hasattr(kind, "_fields"):  # what is replaced in it is not narrow any more
        body["_make"] = classmethod(lambda cls, items: kind._make(items))  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), body)


def _field(index: int, p: Any) -> Any:
    return p[index]


def precision(p: Any) -> np.dtype[Any]:
    """The dtype that a run with these parameters computes in: that of the first array in them."""
    if isinstance(p, np.ndarray):
        return np.dtype(np.float32) if is_narrow(p) else np.dtype(p.dtype)
    return precision(as_held(p)[0])
