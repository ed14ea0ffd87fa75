"""Lays a dump's arrays out as our sites: finds the site by its name, the layout by its shape and values.

Shape decides where it can. Where several layouts have the shape (as many tokens as heads; queries and keys),
the values do, if the array is right or nearly so; then the future of attention; then what was found for the
same name in other layers. What nothing decides is refused, with the candidates.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gpt2np.errors import InputError, TraceError, short
from gpt2np.ops import Array
from gpt2np.reference.array_requests import Refused, Request, Requests
from gpt2np.reference.attention_future import normalise_future
from gpt2np.reference.axis_layouts import Layout
from gpt2np.reference.dump_names import Meaning, Names
from gpt2np.reference.dumps import Dump, is_fact
from gpt2np.reference.layer_numbers import counting
from gpt2np.reference.layout_choice import AGREES, choose, likeness
from gpt2np.reference.moved_names import moved_names
from gpt2np.reference.precision import half_of
from gpt2np.reference.unknown_names import Unknown, unknown
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

ALSO = "also there as"
_OFFERED = 24  # unknown names for which sites are looked for


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


@dataclass(frozen=True)
class Placement:
    """What became of a dump's arrays: `placed` in the order of execution, `refused`, and `unknown` names.

    `offers` say what the first of the unknown ones may be. `notes` are about names and numbers of layers.
    """

    placed: list[Placed]
    refused: list[Refused] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    offers: list[Unknown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def place(
    dump: Dump, truth: Trace, config: ModelConfig, *, names: Mapping[str, str] | None = None
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


class _Placing:
    def __init__(
        self, dump: Dump, truth: Trace, config: ModelConfig, given: Mapping[str, str] | None
    ) -> None:
        self.dump, self.truth, self.config = dump, truth, config
        self.length = len(truth["embed"])
        self.names = Names(config, given, counting(dump, truth, config, given))
        moved = moved_names(dump, truth, config, self.names)
        self.asked = Requests(dump, config, self.names, self.length)
        self.refused = self.asked.refused
        for name, reason in moved.others.items():
            self.asked.refuse(name, self.names.meaning(name) or Meaning(), reason)
        self.names.moved, self.others = moved.meanings, moved.others
        self.notes = [*self.names.unused(dump.arrays), *moved.notes]

    def result(self) -> Placement:
        requests = [
            request for name in self.dump.arrays if name not in self.others for request in self.asked.of(name)
        ]
        offers = [
            unknown(name, self.dump.arrays[name], self.truth, self.config, self.names)
            for name in self.asked.unknown[:_OFFERED]
        ]
        if len(self.asked.unknown) == sum(not is_fact(name) for name in self.dump.arrays):
            self._refuse_all(offers)
        for request in [r for first in requests for r in (first, *first.rivals)]:
            self._decide(request)
        self._follow_others(requests)
        placed: dict[str, Placed] = {}
        for request in requests:
            if found := self._placed(self._fittest(request)):
                self._keep(found, placed)
        self._tell_first_layer(placed)
        order = {
            name: i
            for i, (name, _, _) in enumerate(self.config.architecture.sites.expand(self.config.n_layer))
        }
        in_order = sorted(placed.values(), key=lambda p: order[p.site])
        return Placement(in_order, self.refused, self.asked.unknown, offers, self.notes)

    def _refuse_all(self, offers: list[Unknown]) -> None:
        """Refuse a dump of which no name is known, with an example of a map that suits it."""
        some = ", ".join(short(name) for name in self.asked.unknown[:6]) or "only token ids"
        first = next((o for o in offers if o.by_values), None)
        near = next((o for o in offers if o.nearest), None)
        say = "say what they are with --map THEIRS=OURS"
        if near is not None and first is None:
            say = f"{short(near.name)} is nearly {near.nearest}: is it --map '{near.name}={near.nearest}'?"
        elif first is not None:
            say = f"say what they are, as in --map '{first.name}={first.sites[0]}' (it has these values)"
        elif able := next((o for o in offers if o.sites), None):
            say += f" ({short(able.name)} has the shape of {', '.join(able.sites[:3])})"
        raise InputError(
            f"{self.dump.path}: no name in it is known ({some}); {say}; `gpt2np sites` lists ours"
            + "".join(f"; {x}" for x in self.notes)
        )

    def _tell_first_layer(self, placed: Mapping[str, Placed]) -> None:
        """Say so where layers are numbered from 1."""
        example = next((p for p in placed.values() if p.site.startswith("h.")), None)
        if self.names.base and example is not None:
            self.notes.append(f"layers are numbered from 1: your {example.name} is our {example.site}")

    # -- choosing ---------------------------------------------------------------------------------

    def _values(self, request: Request, layout: Layout) -> Array:
        array = layout.undo(request.array, self.config.vocab_size)
        if request.meaning.inverse:
            with np.errstate(divide="ignore"):
                array = array.dtype.type(1) / array
        return array

    def _right(self, request: Request) -> Array | None:
        try:
            return self.truth[request.full_name]
        except (KeyError, TraceError):
            return None

    def _window(self, request: Request) -> int | None:
        return None if request.layer is None else self.config.window(request.layer)

    def _decide(self, request: Request) -> None:
        if len(request.candidates) == 1:
            request.chosen, request.why = request.candidates[0], "shape"
            return
        arrays = [self._values(request, layout) for layout in request.candidates]
        natural = [layout.natural for layout in request.candidates]
        right, window = self._right(request), self._window(request)
        index, request.why = choose(request.site, arrays, natural, right, window)
        request.chosen = None if index is None else request.candidates[index]

    def _follow_others(self, requests: list[Request]) -> None:
        """One program writes all layers alike: what the values show in some holds for the others.

        Scores that are like nothing follow the pattern, and the pattern them.
        """
        self._follow(requests, lambda r: r.family, ("", "close", "likeness"))
        attention = [request for request in requests if request.site.unseen is not None]
        self._follow(attention, lambda r: r.array.shape, ("",))

    def _follow(
        self, requests: list[Request], group: Callable[[Request], object], unsure: tuple[str, ...]
    ) -> None:
        """Give those that are unsure the layout of the sure ones in their group, if these agree."""
        known: dict[object, list[Request]] = {}
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

    def _fittest(self, request: Request) -> Request | None:
        """The request itself, or that of its rivals which the values show; None if they show neither."""
        if not request.rivals:
            return request
        errors = []
        able = [request, *request.rivals]
        for one in able:
            right = self._right(one)
            if one.chosen is None or right is None:
                errors.append(np.inf)
            else:
                values = self._values(one, one.chosen)
                errors.append(likeness(one.site, values, right, self._window(one)).error)
        best, second = (int(i) for i in np.argsort(errors, kind="stable")[:2])
        named = self.names.meaning(request.name)
        if named is not None and (named.site is not None or request.part):  # a usual one
            if best == 0 or request.chosen is None or not errors[best] < min(AGREES, 0.5 * errors[0]):
                return request
            able[best].note = f"by its values it is {able[best].full_name}, not {request.full_name}"
            return able[best]
        if errors[best] < 1 and errors[best] < 0.5 * errors[second]:
            return able[best]
        names = [one.full_name for one in able]
        reason = (
            f"may be {' or '.join(names)} (HF's last hidden state is after ln_f, in others before), and is "
            f"near neither: declare it, as in --map {request.name}={names[0]}"
        )
        self.refused.append(Refused(request.name, reason, tuple(names), " or ".join(names)))
        return None

    # -- laying out -------------------------------------------------------------------------------

    def _placed(self, request: Request | None) -> Placed | None:
        if request is None:
            return None
        layout = request.chosen
        if layout is None:
            shown = list(map(str, request.candidates))
            example = request.candidates[0]
            axes = str(example).strip("[]").replace(",", "")
            reason = (
                f"has shape {request.array.shape}, which may be {' or '.join(shown)}, and its values do not "
                f"decide: declare it, as in --map '{request.name}={request.full_name}[{axes}]'"
            )
            meaning = Meaning(request.site, request.layer)
            self.asked.refuse(request.name, meaning, reason, request.candidates)
            return None
        array = self._values(request, layout)
        notes = list(layout.notes(self.config.vocab_size)) if not layout.declared else ["layout as declared"]
        if request.meaning.inverse:
            notes.append("1 / it is our site")
        if request.note:
            notes.append(request.note)
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
            rows = f"{layout.rows} row" if layout.rows == 1 else f"{layout.rows} rows"
            notes.append(f"{rows}{keys} for {self.length} tokens")
        if request.site.unseen is not None:
            array, more = self._without_future(request, array)
            notes += more
        dtype = self.dump.dtypes[request.name]
        if dtype == "float32" and (half := self._half_of(request, array)):
            dtype = half
            notes.append(f"its values are {half}'s, stored as float32")
        return Placed(
            request.full_name,
            array,
            request.shown,
            str(layout),
            dtype,
            tuple(notes),
            layout.rows,
            first,
        )

    def _half_of(self, request: Request, array: Array) -> str:
        """The half precision in which a float32 array was computed; rows of half weights are right so."""
        half, right = half_of(array), self._right(request)
        return half if half and (right is None or not half_of(right.astype(np.float32))) else ""

    def _without_future(self, request: Request, array: Array) -> tuple[Array, list[str]]:
        """Attention with what is not seen as it should be, and what was found there.

        In a buffer that is larger than the text needs, what belongs to the text is looked at alone; keys
        behind those of the text are left out where there are no queries behind them.
        """
        n, window = self.length, self._window(request)
        _, n_query, n_key = array.shape
        if n_query <= n < n_key:
            return normalise_future(request.site, array[:, :, :n], window)
        found, notes = normalise_future(request.site, array, window)
        if n_query == n_key > n:
            inside, notes = normalise_future(request.site, array[:, :n, :n], window)
            found = found.copy()
            found[:, :n, :n] = inside
        return found, notes

    def _keep(self, found: Placed, placed: dict[str, Placed]) -> None:
        """Keep the first array of each site, or the one that is right; another one is noted or refused."""
        first = placed.setdefault(found.site, found)
        if first is found:
            return
        if _same(first, found):
            placed[found.site] = replace(first, notes=(*first.notes, f"{ALSO} {found.name}"))
            return
        kept, other = first, found
        if self._is_right(found) and not self._is_right(first):
            kept, other = found, first
        placed[found.site] = kept
        reason = f"is {found.site} again, with other numbers than {kept.name}, which is taken"
        whole = other.name if other.name in self.dump.arrays else re.sub(r"(\[\d+\])+$", "", other.name)
        self.refused.append(Refused(whole, reason, (), found.site, _lacks_bias(other.name, kept.name)))

    def _is_right(self, placed: Placed) -> bool:
        """Whether an array is near the truth."""
        site, layer = self.config.architecture.sites.resolve(placed.site, None, self.config.n_layer)
        try:
            right = self.truth[placed.site]
        except (KeyError, TraceError):
            return False
        window = None if layer is None else self.config.window(layer)
        return likeness(site, placed.array, right, window).error < AGREES


def _lacks_bias(name: str, kept: str) -> bool:
    """Whether the one is the product of which the other is the sum with a bias: ffn_up-0, ffn_up_b-0."""
    return name != kept and name == re.sub(r"_b(?=\W|$)", "", kept)


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
