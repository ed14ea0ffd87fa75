"""From the names in a dump to requests: which array is to be laid out as which site, and how it may lie."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpt2np.errors import InputError
from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import Layout, declared_layout, expected, layouts
from gpt2np.reference.dump_names import Meaning, Names
from gpt2np.reference.dumps import Dump, is_fact
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site

_FLOATS = ("float16", "float32", "float64")


class Refused(NamedTuple):
    """An array whose name is known but which cannot be laid out: why, and the layouts that it may have.

    `harmless` if it is no site although it has the name of one.
    """

    name: str
    reason: str
    candidates: tuple[str, ...]
    site: str
    harmless: bool = False


@dataclass
class Request:
    """An array that is to be laid out as one site."""

    name: str
    array: Array
    site: Site
    layer: int | None
    meaning: Meaning
    candidates: list[Layout]
    rivals: list["Request"]  # the same array as another site, of which one fits
    part: str = ""  # which entry of an array of several it is: [2]
    note: str = ""
    chosen: Layout | None = None
    why: str = ""
    from_other: str = ""

    @property
    def full_name(self) -> str:
        """Our name for it."""
        return self.site.full_name(self.layer)

    @property
    def shown(self) -> str:
        """Their name for it, with the number of the entry."""
        return self.name + self.part

    @property
    def family(self) -> tuple[str, str, tuple[int, ...]]:
        """What the arrays of all layers have in common."""
        return re.sub(r"\d+", "#", self.name), self.site.name, self.array.shape


class Requests:
    """The requests of a dump for a prompt of `length` tokens; `unknown` and `refused` fill as it goes."""

    def __init__(self, dump: Dump, config: ModelConfig, names: Names, length: int) -> None:
        self.dump, self.config, self.names, self.length = dump, config, names, length
        self.unknown: list[str] = []
        self.refused: list[Refused] = []

    def of(self, name: str) -> Iterator[Request]:
        """The sites that an array stands for, each with its part of it."""
        array, meaning = self.dump.arrays[name], self.names.meaning(name)
        if meaning is None:
            if not is_fact(name):
                self.unknown.append(name)
        elif array.dtype.name not in _FLOATS:
            reason = f"holds {array.dtype.name}, and only float16, bfloat16, float32 and float64 are compared"
            self.refuse(name, meaning, reason, harmless=_are_ids(meaning))
        elif meaning.stacked or meaning.parts:
            yield from self._of_stack(name, array, meaning)
        elif array.size == 1 and meaning.full_name == "loss" and self.length > 1:
            self.refuse(name, meaning, "is one number: the mean of the losses is no site", harmless=True)
        else:
            yield from self._of_one(name, array, meaning)

    def refuse(
        self,
        name: str,
        meaning: Meaning,
        reason: str,
        candidates: Iterable[Layout] = (),
        harmless: bool = False,
    ) -> None:
        """Note that an array cannot be used, and why; what the user has mapped is never harmless."""
        shown = tuple(map(str, candidates))
        harmless = harmless and not meaning.mapped
        self.refused.append(Refused(name, reason, shown, meaning.full_name, harmless))

    # -- several sites in one array ---------------------------------------------------------------

    def _of_stack(self, name: str, array: Array, meaning: Meaning) -> Iterator[Request]:
        n_layer = self.config.n_layer
        axes = meaning.axes
        if axes is not None and "layer" in axes:
            if len(axes) != array.ndim or axes.count("layer") > 1:
                self.refuse(name, meaning, f"has shape {array.shape}, declared as [{' '.join(axes)}]")
                return
            array = np.moveaxis(array, axes.index("layer"), 0)
            axes = tuple(axis for axis in axes if axis != "layer")
        parts = meaning.parts or tuple(
            Meaning(meaning.site, layer, axes=axes, inverse=meaning.inverse, mapped=meaning.mapped)
            for layer in range(n_layer)
        )
        if self._are_states(parts):
            parts = self._states_there(array, parts)
        pieces = pieces_of(array, len(parts), side_by_side=len(meaning.parts) == 2)
        if pieces is None:
            lead = f"{len(parts)} ({'n_layer' if meaning.stacked else 'its parts'})"
            self.refuse(name, meaning, f"has shape {array.shape}, expected a first axis of {lead}")
            return
        pairs = len(parts) == 2 * n_layer and not meaning.stacked  # keys and values of each layer
        for i, (part, piece) in enumerate(zip(parts, pieces, strict=True)):
            at = f"[{i // 2}][{i % 2}]" if pairs else f"[{i}]"
            yield from self._of_one(name, np.asarray(piece), part, "" if len(parts) == 1 < n_layer else at)

    def _are_states(self, parts: tuple[Meaning, ...]) -> bool:
        """Whether these are hidden states, the last of which is before or after ln_f."""
        return len(parts) == self.config.n_layer + 1 and bool(parts[-1].either)

    def _states_there(self, array: Array, parts: tuple[Meaning, ...]) -> tuple[Meaning, ...]:
        """The hidden states that an array has: all, those of the blocks alone, or the last one."""
        shape = tuple(n for n in array.shape if n != 1)
        if pieces_of(array, len(parts)) is not None and len(shape) != 2:
            return parts
        n_layer, table = self.config.n_layer, self.config.architecture.sites
        if n_layer > 1 and len(shape) != 2 and pieces_of(array, n_layer) is not None:
            ends = ("resid_post", "resid_pre")
            return tuple(
                Meaning(table[ends[0]], layer, either=tuple(Meaning(table[end], layer) for end in ends))
                for layer in range(n_layer)
            )
        if layouts(table["ln_f"], array.shape, self.config, self.length):
            return parts[-1:]
        return parts

    # -- one site ---------------------------------------------------------------------------------

    def _of_one(self, name: str, array: Array, meaning: Meaning, part: str = "") -> Iterator[Request]:
        """The request of one site, with all that the shape allows; refused if that is nothing."""
        found = [self._request(name, array, one, part) for one in meaning.either or (meaning,)]
        able = [request for request in found if request.candidates]
        of_length = any(layout.rows == self.length for request in able for layout in request.candidates)
        halves = [] if of_length else list(self._keys_and_values(name, array, meaning))
        if halves:
            yield from halves
        elif able:
            able[0].rivals = able[1:]
            yield able[0]
        else:
            first = found[0]
            wanted = expected(first.site, self.config, self.length)
            if first.meaning.axes is not None:
                wanted = f"[{' '.join(first.meaning.axes)}] of {wanted}, as declared"
            self.refuse(name, meaning, f"has shape {array.shape}, expected {wanted}")

    def _request(self, name: str, array: Array, one: Meaning, part: str) -> Request:
        assert one.site is not None
        if one.axes is None:
            candidates = layouts(one.site, array.shape, self.config, self.length)
        else:
            try:
                declared = declared_layout(one.site, array.shape, self.config, one.axes, self.length)
            except InputError as error:
                raise InputError(f"--map {name}: {error}") from None
            candidates = [declared] if declared else []
        return Request(name, array, one.site, one.layer, one, candidates, [], part)

    def _keys_and_values(self, name: str, array: Array, meaning: Meaning) -> Iterator[Request]:
        """Both of them, where a cache that is called the keys, or the values, has the others beside them."""
        cache = self.config.architecture.cache
        if meaning.site is None or meaning.site.name not in cache or meaning.axes is not None:
            return
        pieces = pieces_of(array, len(cache), side_by_side=True)
        for part, piece in zip(cache, () if pieces is None else pieces, strict=pieces is not None):
            site = self.config.architecture.sites[part]
            request = self._request(name, piece, Meaning(site, meaning.layer, mapped=meaning.mapped), "")
            if any(layout.rows == self.length for layout in request.candidates):
                request.note = "keys and values side by side"
                yield request


def _are_ids(meaning: Meaning) -> bool:
    """Whether a name is that of numbers of tokens, which are read off the probabilities."""
    return meaning.site is not None and meaning.site.dtype is not None


def pieces_of(array: Array, n: int, side_by_side: bool = False) -> Array | list[Array] | None:
    """The array cut into n along its first axes; a batch of one may stand before them.

    Keys and values may also lie `side_by_side`, along the last axis.
    """
    if n == 1 and (array.ndim == 0 or array.shape[0] != 1):
        return [array]
    if array.ndim == 1 and n > 1 and array.shape[0] > n and array.shape[0] % n == 0:
        return array.reshape(n, -1)
    shape = array.shape
    while shape and shape[0] == 1 and n != 1:
        shape = shape[1:]
    for axes in (1, 2):  # past_key_values: [layer, 2, ...]
        if len(shape) >= axes and math.prod(shape[:axes]) == n:
            return array.reshape(n, *shape[axes:])
    if side_by_side and shape and shape[-1] % n == 0:
        return list(np.split(array, n, axis=-1))
    return None
