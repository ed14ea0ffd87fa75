"""Names that all stand for other sites than they say: layers that are one off, or inputs for outputs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gpt2np.errors import Gpt2npError
from gpt2np.ops import Array
from gpt2np.reference.array_requests import pieces_of
from gpt2np.reference.dump_names import STATES, Counting, Meaning, Names
from gpt2np.reference.dumps import Dump
from gpt2np.reference.layer_numbers import site_error
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

HALF = ("float16", "bfloat16")
_STREAM = "resid_post"
_SAME, _SAME_IN_HALF = 1e-3, 2e-2  # relative errors below which an array has the values of a site
_SURE = 1e-4  # below which it is right, whatever else it may be like
_CLEARLY = 4.0  # times nearer
_FIRST = 2  # members of a family by which a move is looked for


@dataclass
class Moved:
    """What names mean by the values of their arrays; None: no site. `notes` say so in words.

    `others` are arrays of another kind of site than their names say, with what is to be said of them: that
    of which they have the name was not compared at all.
    """

    meanings: dict[str, Meaning | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)


class _Member(NamedTuple):
    """An array of a family: the number in its name, and its place in the chain of its sites."""

    name: str
    array: Array
    number: int
    place: int
    half: bool


def moved_names(dump: Dump, truth: Trace, config: ModelConfig, names: Names) -> Moved:
    """Find families of names whose arrays have the values of other layers, each as many layers on.

    So it is where a program counts otherwise, or records what a block reads where it says what it gave. One
    array may be wrong for many reasons; it takes two, no array that is right under its name, and half of
    them.
    """
    chains, found = _Chains(truth, config), Moved()
    for kind, members in _families(dump, config, names):
        move = _move(members, kind, chains)
        if move is None:
            continue
        other, places = move
        note = _told(members, other, places, chains, names.base)
        for member in members:
            meaning = found.meanings[member.name] = chains.at(other, member.place + places)
            if other != kind and meaning is not None:
                more = f": {note}" if member is members[0] else ""
                found.others[member.name] = f"has the values of {meaning.full_name}{more}"
        if other == kind:
            found.notes.append(note)
    for name, array in dump.arrays.items():
        moved = _stack(name, array, names, chains, dump.dtypes[name])
        if moved is None:
            continue
        other_kind, parts = moved
        found.meanings[name] = Meaning(parts=parts)
        note = f"{name} is our {parts[0].full_name} to {parts[-1].full_name}, by its values"
        if other_kind:
            found.others[name] = f"has other values than its name says: {note}"
        else:
            found.notes.append(note)
    return found


# -- sites in a row ----------------------------------------------------------------------------------


class _Chains:
    """The sites of a kind, layer by layer; those of the residual stream from the embedding to ln_f."""

    def __init__(self, truth: Trace, config: ModelConfig) -> None:
        self.truth, self.config, self.sites = truth, config, config.architecture.sites
        self._order = {name: i for i, (name, _, _) in enumerate(self.sites.expand(config.n_layer))}

    def at(self, kind: str, place: int) -> Meaning | None:
        """The site at a place; behind the last block it may be before ln_f or, as in HF, after it."""
        n = self.config.n_layer
        if kind != _STREAM:
            return Meaning(self.sites[kind], place) if 0 <= place < n else None
        if place == 0:
            return Meaning(self.sites["embed"])
        norm = Meaning(self.sites["ln_f"])
        if place == n + 1:
            return norm
        post = Meaning(self.sites[_STREAM], place - 1)
        if not 0 < place <= n:
            return None
        return Meaning(post.site, post.layer, either=(post, norm)) if place == n else post

    def near(self, kind: str, place: int) -> Iterator[tuple[str, int]]:
        """What may be recorded under the name of a site: it in any layer, and what is computed before it.

        What is computed later in the same layer may have been written over it.
        """
        n, own = self.config.n_layer, self.at(kind, place)
        yield from ((kind, other) for other in range(n + 2) if other != place)
        if own is None:
            return
        axes = self.sites[kind].axis_names
        for site in self.sites:
            if site.name in (kind, "resid_pre") or not site.layered or site.axis_names != axes:
                continue
            for other in (place, place - 1):
                there = self.at(site.name, other)
                if there is not None and self._order[there.full_name] < self._order[own.full_name]:
                    yield site.name, other

    def error(self, array: Array, kind: str, place: int) -> float:
        """How far an array is from the site at a place."""
        meaning = self.at(kind, place)
        able = () if meaning is None else meaning.either or (meaning,)
        try:
            return min((site_error(array, m, self.truth, self.config) for m in able), default=np.inf)
        except Gpt2npError:  # the truth has no such site
            return np.inf

    def has(self, member: _Member, kind: str, place: int, own: float) -> bool:
        """Whether an array that is so far from its own site has the values of the one at this place."""
        error = self.error(member.array, kind, place)
        return error < (_SAME_IN_HALF if member.half else _SAME) and error < own / _CLEARLY


# -- one array a layer -------------------------------------------------------------------------------


def _families(dump: Dump, config: ModelConfig, names: Names) -> Iterator[tuple[str, list[_Member]]]:
    """Names that differ in their number alone, by the kind of their sites; each in order."""
    base = names.counting.layers
    further = names.counted(Counting(base + 1, names.counting.norms, names.counting.states))
    found: dict[tuple[str, str], list[_Member]] = {}
    for name, array in dump.arrays.items():
        if array.dtype.kind != "f":
            continue
        beyond = names.meaning(name) is None  # one layer more than there are
        meaning = (further if beyond else names).meaning(name)
        if states := STATES.fullmatch(name):
            kind, number = _STREAM, int(states[1])
            place = number + names.counting.states
        elif meaning is not None and meaning.site is not None and meaning.layer is not None:
            layer = meaning.layer + beyond
            number = layer + base
            on_stream = meaning.site.name in ("resid_pre", _STREAM)
            kind = _STREAM if on_stream else meaning.site.name
            place = layer + (meaning.site.name == _STREAM)
        else:
            continue
        spelled = re.sub(r"\d+", "#", name)
        half = dump.dtypes[name] in HALF
        found.setdefault((spelled, kind), []).append(_Member(name, array, number, place, half))
    for (_, kind), members in found.items():
        if len(members) > 1:
            yield kind, sorted(members, key=lambda member: member.place)


def _move(members: list[_Member], kind: str, chains: _Chains) -> tuple[str, int] | None:
    """The kind of sites that a family is, and by how many places on; None: as it is called, or just wrong."""
    own: dict[str, float] = {}
    moves: list[tuple[str, int]] = []
    for member in members[:_FIRST]:
        own[member.name] = chains.error(member.array, kind, member.place)
        if own[member.name] < _SURE:
            return None
        able = chains.near(kind, member.place)
        moves += (
            (k, place - member.place) for k, place in able if chains.has(member, k, place, own[member.name])
        )
    for other, move in dict.fromkeys(moves):
        agree = [
            chains.has(member, other, member.place + move, own.get(member.name, np.inf)) for member in members
        ]
        if sum(agree) < max(2, len(members) / 2):
            continue
        rest = (member for member, agrees in zip(members, agree, strict=True) if not agrees)
        if all(chains.error(m.array, kind, m.place) > _SAME_IN_HALF for m in rest):
            return other, move
    return None


def _told(members: list[_Member], kind: str, move: int, chains: _Chains, base: int) -> str:
    """A note on a family, with the map that says the same, where there is one."""
    star, beyond = _starred([m.name for m in members]), members[-1].number >= chains.config.n_layer
    for form, place in (
        (f"h.*.{kind}", int(kind == _STREAM)),
        *((("h.*.resid_pre", 0), ("hidden_states.*", 0)) if kind == _STREAM else ()),
    ):
        fits = all(m.place + move == m.number + place for m in members)
        if fits and star and not base and (form == "hidden_states.*" or not beyond):
            return f"every {star} is our {form}, by its values: --map '{star}={form}' says so"
    there = ((m.name, chains.at(kind, m.place + move)) for m in members)
    some = [f"{name} is our {site.full_name}" for name, site in there if site is not None][:2]
    return f"layers are numbered otherwise, by their values: your {', your '.join(some)}, and so on"


def _starred(names: list[str]) -> str:
    """Names that differ in one number with a star in its place; "" if they differ in several."""
    numbers = [re.findall(r"\d+", name) for name in names]
    vary = [i for i, column in enumerate(zip(*numbers, strict=True)) if len(set(column)) > 1]
    if len(vary) != 1:
        return ""
    parts = re.split(r"\d+", names[0])
    shown = [*numbers[0][: vary[0]], "*", *numbers[0][vary[0] + 1 :], ""]
    return "".join(part + digits for part, digits in zip(parts, shown, strict=True))


# -- all layers in one array -------------------------------------------------------------------------


def _stack(
    name: str, array: Array, names: Names, chains: _Chains, dtype: str
) -> tuple[bool, tuple[Meaning, ...]] | None:
    """The sites of a stack that begins at another layer than its name says, or has one more.

    And whether they are of another kind.
    """
    meaning, n = names.meaning(name), chains.config.n_layer
    if array.dtype.kind != "f" or meaning is None or meaning.site is None:
        return None
    if not meaning.stacked or meaning.axes is not None:
        return None
    on_stream = meaning.site.name in ("resid_pre", _STREAM)
    kind, place = _STREAM if on_stream else meaning.site.name, int(meaning.site.name == _STREAM)
    for length in (n, n + 1):
        pieces = pieces_of(array, length)
        if pieces is None:
            continue
        half = dtype in HALF
        members = [_Member(name, np.asarray(x), i, place + i, half) for i, x in enumerate(pieces)]
        if length == n:
            moved = _move(members, kind, chains)
        else:  # of one more than there are layers, only the residual stream has so many
            begins = (p for p in (0, 1) if chains.has(members[0], kind, p, np.inf))
            moved = kind, next(begins, 0) - place
        parts = [] if moved is None else [chains.at(moved[0], m.place + moved[1]) for m in members]
        found = tuple(part for part in parts if part is not None)
        if moved is not None and len(found) == length:
            return moved[0] != kind, found
    return None
