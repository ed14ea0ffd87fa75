"""Lays a dump's arrays out as our sites: finds the site by its name, the layout by its shape and values.

Shape decides where it can. Where several layouts have the shape (as many tokens as heads; queries and keys),
the values do, if the array is right or nearly so; then the future of attention; then what was found for the
same name in other layers. What nothing decides is refused, with the candidates.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gpt2np.errors import InputError, TraceError, short
from gpt2np.ops import Array
from gpt2np.reference.attention_future import normalise_future
from gpt2np.reference.axis_layouts import Layout, declared_layout, expected, layouts
from gpt2np.reference.dump_names import Meaning, Names
from gpt2np.reference.dumps import Dump, is_fact
from gpt2np.reference.layout_choice import choose, likeness
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Placed:
    """An array of a dump, laid out as a site.

    It has the site's axes and their precision (bfloat16 as float32). `rows` is its number of positions, or of
    queries, `first` the position of the first one: 0 if they are as many as the tokens, else where the values
    agree, and None where they agree nowhere. The future of `attn.scores` is -inf, that of `attn.pattern` as
    they have it. `notes` say what was undone.
    """

    site: str
    array: Array
    name: str
    layout: str
    dtype: str
    notes: tuple[str, ...]
    rows: int
    first: int | None = 0


class Refused(NamedTuple):
    """An array whose name is known but which cannot be laid out: why, and the layouts that it may have."""

    name: str
    reason: str
    candidates: tuple[str, ...]
    site: str


@dataclass(frozen=True)
class Placement:
    """What became of a dump's arrays: `placed` in the order of execution, `refused`, and `unknown` names."""

    placed: list[Placed]
    refused: list[Refused] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def place(
    dump: Dump, truth: Mapping[str, Array], config: ModelConfig, *, names: Mapping[str, str] | None = None
) -> Placement:
    """Lay out the arrays of a dump as sites, each under its full name and in its own axes.

    `truth` gives the right values of every site for the tokens that ran: a float64 Trace. `names` is the
    user's map from their names to ours, `*` standing for the layer on both sides; ours may declare a layout:
    `{"myq": "h.0.attn.q[head pos d_head]"}`.

    Raises:
        InputError: the map is malformed, or no name of the dump is known.
        UnknownSiteError: the map names a site that does not exist.

    Example:
        >>> placement = place(read_dump("mine.npz"), model.trace(ids), model.config)
        >>> [(p.site, p.layout, p.notes) for p in placement.placed]
    """
    return _Placing(dump, truth, config, names).result()


@dataclass
class _Request:
    """An array that is to be laid out as one site."""

    name: str
    array: Array
    site: Site
    layer: int | None
    meaning: Meaning
    candidates: list[Layout]
    rivals: list["_Request"]  # the same array as another site, of which one fits
    lead: str = ""  # axes that were taken off in front
    chosen: Layout | None = None
    why: str = ""
    from_other: str = ""

    @property
    def full_name(self) -> str:
        return self.site.full_name(self.layer)

    @property
    def family(self) -> tuple[str, str, tuple[int, ...]]:
        """What the arrays of all layers have in common."""
        return re.sub(r"\d+", "#", self.name), self.site.name, self.array.shape


class _Placing:
    def __init__(
        self, dump: Dump, truth: Mapping[str, Array], config: ModelConfig, given: Mapping[str, str] | None
    ) -> None:
        self.dump, self.truth, self.config = dump, truth, config
        self.length = len(truth["embed"])
        self.names = Names(config, given)
        self.names.check(dump.arrays)
        self.unknown: list[str] = []
        self.refused: list[Refused] = []

    def result(self) -> Placement:
        requests = [request for name in self.dump.arrays for request in self._requests(name)]
        if len(self.unknown) == sum(not is_fact(name) for name in self.dump.arrays):
            some = ", ".join(short(name) for name in self.unknown[:6]) or "only token ids"
            raise InputError(
                f"{self.dump.path}: no name in it is known ({some}); say what they are, as in "
                f"--map '{(self.unknown or ['layer*.att'])[0]}=h.0.attn.pattern'; `gpt2np sites` lists ours"
            )
        for request in [r for first in requests for r in (first, *first.rivals)]:
            self._decide(request)
        self._follow_others(requests)
        placed: dict[str, Placed] = {}
        for request in requests:
            if found := self._placed(self._fittest(request)):
                self._keep(found, placed)
        order = {
            name: i
            for i, (name, _, _) in enumerate(self.config.architecture.sites.expand(self.config.n_layer))
        }
        return Placement(sorted(placed.values(), key=lambda p: order[p.site]), self.refused, self.unknown)

    # -- from names to requests -------------------------------------------------------------------

    def _requests(self, name: str) -> Iterator[_Request]:
        """The sites that an array stands for, each with its part of it."""
        array, meaning = self.dump.arrays[name], self.names.meaning(name)
        if meaning is None:
            if not is_fact(name):
                self.unknown.append(name)
        elif array.dtype.name not in _FLOATS:
            reason = f"holds {array.dtype.name}, and only float16, bfloat16, float32 and float64 are compared"
            self._refuse(name, meaning, reason)
        elif meaning.stacked or meaning.parts:
            yield from self._of_stack(name, array, meaning)
        elif array.size == 1 and meaning.full_name == "loss" and self.length > 1:
            self._refuse(name, meaning, "is one number: the mean of the losses is no site")
        else:
            yield from self._request(name, array, meaning)

    def _of_stack(self, name: str, array: Array, meaning: Meaning) -> Iterator[_Request]:
        n_layer = self.config.n_layer
        axes = meaning.axes
        if axes is not None and "layer" in axes:
            if len(axes) != array.ndim or axes.count("layer") > 1:
                self._refuse(name, meaning, f"has shape {array.shape}, declared as [{' '.join(axes)}]")
                return
            array = np.moveaxis(array, axes.index("layer"), 0)
            axes = tuple(axis for axis in axes if axis != "layer")
        parts = meaning.parts or tuple(
            Meaning(meaning.site, layer, axes=axes, inverse=meaning.inverse) for layer in range(n_layer)
        )
        pieces = self._pieces(array, len(parts))
        if pieces is None:
            lead = f"{len(parts)} ({'n_layer' if meaning.stacked else 'its parts'})"
            self._refuse(name, meaning, f"has shape {array.shape}, expected a first axis of {lead}")
            return
        for part, piece in zip(parts, pieces, strict=True):
            yield from self._request(name, np.asarray(piece), part, "layer" if meaning.stacked else "part")

    def _pieces(self, array: Array, n: int) -> Array | list[Array] | None:
        """The array cut into n along its first axes; a batch of one may stand before them."""
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
        return None

    def _request(self, name: str, array: Array, meaning: Meaning, lead: str = "") -> Iterator[_Request]:
        """The request of one site, with all that the shape allows; refused if that is nothing."""
        found: list[_Request] = []
        for one in meaning.either or (meaning,):
            assert one.site is not None
            if one.axes is None:
                candidates = layouts(one.site, array.shape, self.config, self.length)
            else:
                try:
                    declared = declared_layout(one.site, array.shape, self.config, one.axes, self.length)
                except InputError as error:
                    raise InputError(f"--map {name}: {error}") from None
                candidates = [declared] if declared else []
            found.append(_Request(name, array, one.site, one.layer, one, candidates, [], lead))
        first, *rivals = found
        if first.candidates:
            first.rivals = rivals
            yield first
            return
        wanted = expected(first.site, self.config, self.length)
        if first.meaning.axes is not None:
            wanted = f"[{' '.join(first.meaning.axes)}] of {wanted}, as declared"
        self._refuse(name, meaning, f"has shape {array.shape}, expected {wanted}")

    def _refuse(self, name: str, meaning: Meaning, reason: str, candidates: Iterable[Layout] = ()) -> None:
        self.refused.append(Refused(name, reason, tuple(map(str, candidates)), meaning.full_name))

    # -- choosing ---------------------------------------------------------------------------------

    def _values(self, request: _Request, layout: Layout) -> Array:
        array = layout.undo(request.array, self.config.vocab_size)
        if request.meaning.inverse:
            with np.errstate(divide="ignore"):
                array = array.dtype.type(1) / array
        return array

    def _right(self, request: _Request) -> Array | None:
        try:
            return self.truth[request.full_name]
        except (KeyError, TraceError):
            return None

    def _window(self, request: _Request) -> int | None:
        return None if request.layer is None else self.config.window(request.layer)

    def _decide(self, request: _Request) -> None:
        if len(request.candidates) == 1:
            request.chosen, request.why = request.candidates[0], "shape"
            return
        arrays = [self._values(request, layout) for layout in request.candidates]
        natural = [layout.natural for layout in request.candidates]
        right, window = self._right(request), self._window(request)
        index, request.why = choose(request.site, arrays, natural, right, window)
        request.chosen = None if index is None else request.candidates[index]

    def _follow_others(self, requests: list[_Request]) -> None:
        """One program writes all layers alike: what the values show in some holds for the others.

        Scores that are like nothing follow the pattern, and the pattern them.
        """
        self._follow(requests, lambda r: r.family, ("", "close", "likeness"))
        attention = [request for request in requests if request.site.unseen is not None]
        self._follow(attention, lambda r: r.array.shape, ("",))

    def _follow(
        self, requests: list[_Request], group: Callable[[_Request], object], unsure: tuple[str, ...]
    ) -> None:
        """Give those that are unsure the layout of the sure ones in their group, if these agree."""
        known: dict[object, list[_Request]] = {}
        for request in requests:
            if request.why in ("values", "future", "rows"):
                known.setdefault(group(request), []).append(request)
        for request in requests:
            sure = known.get(group(request), [])
            orders = {r.chosen.flat_order for r in sure if r.chosen}
            if len(orders) != 1 or request.why not in unsure:
                continue
            (order,) = orders
            fitting = [x for x in request.candidates if x.flat_order == order]
            if fitting and request.chosen is not fitting[0]:
                request.chosen, request.from_other = fitting[0], sure[0].full_name
                request.why = "others"

    def _fittest(self, request: _Request) -> _Request | None:
        """The request itself, or that of its rivals which the values show; None if they show neither."""
        if not request.rivals:
            return request
        errors = []
        for one in (request, *request.rivals):
            right = self._right(one)
            if one.chosen is None or right is None:
                errors.append(np.inf)
            else:
                values = self._values(one, one.chosen)
                errors.append(likeness(one.site, values, right, self._window(one)).error)
        best, second = (int(i) for i in np.argsort(errors)[:2])
        if errors[best] < 1 and errors[best] < 0.5 * errors[second]:
            return [request, *request.rivals][best]
        names = [one.full_name for one in (request, *request.rivals)]
        reason = (
            f"may be {' or '.join(names)} (HF's last hidden state is after ln_f, others' before it), and is "
            f"near neither: declare it, as in --map {request.name}={names[0]}"
        )
        self.refused.append(Refused(request.name, reason, tuple(names), " or ".join(names)))
        return None

    # -- laying out -------------------------------------------------------------------------------

    def _placed(self, request: _Request | None) -> Placed | None:
        if request is None:
            return None
        layout = request.chosen
        if layout is None:
            shown = [self._shown(request, x) for x in request.candidates]
            example = request.candidates[0]
            axes = str(example).strip("[]").replace(",", "")
            reason = (
                f"has shape {request.array.shape}, which may be {' or '.join(shown)}, and its values do not "
                f"decide: declare it, as in --map '{request.name}={request.full_name}[{axes}]'"
            )
            self._refuse(request.name, Meaning(request.site, request.layer), reason, request.candidates)
            return None
        array = self._values(request, layout)
        notes = list(layout.notes(self.config.vocab_size)) if not layout.declared else ["layout as declared"]
        if request.meaning.inverse:
            notes.append("1 / it is our site")
        if request.from_other:
            notes.append(f"layout as in {request.from_other}")
        if len(request.candidates) > 1 and not layout.natural and not request.from_other:
            notes.append(f"layout found by its {request.why}")
        first: int | None = 0
        if layout.rows != self.length or (request.site.quadratic and array.shape[2] != self.length):
            right = self._right(request)
            window = self._window(request)
            first = None if right is None else likeness(request.site, array, right, window).first
            keys = f" and {array.shape[2]} keys" if request.site.quadratic else ""
            notes.append(f"{layout.rows} rows{keys} for {self.length} tokens")
        if request.site.unseen is not None:
            array, more = normalise_future(request.site, array, self._window(request))
            notes += more
        return Placed(
            request.full_name,
            array,
            request.name,
            self._shown(request, layout),
            self.dump.dtypes[request.name],
            tuple(notes),
            layout.rows,
            first,
        )

    def _shown(self, request: _Request, layout: Layout) -> str:
        return f"[{request.lead}, {str(layout)[1:]}" if request.lead else str(layout)

    def _keep(self, found: Placed, placed: dict[str, Placed]) -> None:
        """Keep the first array of each site; a second one is noted, or refused if it is another."""
        first = placed.setdefault(found.site, found)
        if first is found:
            return
        if _same(first, found):
            notes = (*first.notes, f"also there as {found.name}")
            placed[found.site] = Placed(**{**vars(first), "notes": notes})
        else:
            reason = f"is {found.site} again, with other numbers than {first.name}, which is taken"
            self.refused.append(Refused(found.name, reason, (), found.site))


def _same(one: Placed, other: Placed) -> bool:
    """Whether two arrays are equal as far as their precision goes."""
    if one.array.shape != other.array.shape:
        return False
    precise = one.dtype == other.dtype
    half = not {one.dtype, other.dtype}.isdisjoint({"float16", "bfloat16"})
    with np.errstate(all="ignore"):
        a, b = one.array.astype(np.float64), other.array.astype(np.float64)
        scale = float(np.max(np.abs(a), where=np.isfinite(a), initial=0))
        noise = 1e-6 if precise else 2e-2 if half else 1e-5
        return bool(np.allclose(a, b, rtol=0, atol=noise * max(scale, 1e-30), equal_nan=True))
