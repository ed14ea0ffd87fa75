"""What somebody's names mean: a site and a layer, in any dialect and spelling, or as a map declares it."""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.reference.program_names import (
    LAYER_WORDS,
    OF_WHOLE_PARTS,
    WHOLE_PARTS,
    names_elsewhere,
    program_names,
    reads,
)
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site

_PREFIX = re.compile(
    r"^(?:model|module|self|net|gpt2?|base_model|_orig_mod|_module|activations?|acts|trace|cache|out|outputs?"
    r"|transformer|decoder|params|intermediates|gpt_?2_?lm_?head_?model)[./_:]+",
    re.IGNORECASE,
)
_SUFFIXES = re.compile(
    r"(?:[./_:]+(?:outputs?|out|hook_out|value|__call__)|\[0\]|(?<=__)[./:]0)$", re.IGNORECASE
)
_INPUT = re.compile(r"[./_:]+(?:inputs?|hook_in)(?:[./_:]0|\[0\])*$", re.IGNORECASE)
_QUOTED = re.compile(r"\[(['\"])(.+?)\1\]")  # a key of a tree as JAX spells it: ['h']['0']
_SEPARATORS = re.compile(r"[\W_]+")
_LEAD = re.compile(r"^(?:[a-z_.]*\{i\}[._]?|transformer\.|model\.)")  # as far as the layer's number
_NUMBER, _LAYER = re.compile(r"\d{1,9}"), "#"
_CACHE = re.compile(
    r"(?:past_key_values?|past|kv_cache|cache)\W*(\d{1,9})(?:\W*(0|1|k|v|keys?|values?))?\W*", re.IGNORECASE
)
STATES = re.compile(r"(?:all_)?hidden_states\W*_?(\d{1,9})\W*", re.IGNORECASE)
NORMS = re.compile(r"((?:ln|norm|layer_?norm)_?)(\d)(?!\d)", re.IGNORECASE)


_STACKS = {"hiddenstates": "hidden_states", "pastkeyvalues": "past_key_values", "attentions": "attentions"}
_LIKE, _LONG = 0.8, 5  # how like a known name a misspelled one is, and letters that it has


@dataclass(frozen=True)
class Counting:
    """What the numbers in a dump's names begin with: layers with 0 or 1, the two norms of a layer too.

    `states` is 1 where the first entry of hidden_states is not the embedding but what the first block left.
    """

    layers: int = 0
    norms: int = 1
    states: int = 0


@dataclass(frozen=True)
class Meaning:
    """What one name stands for.

    `layer` is None for a site outside the layers and, with `stacked`, for an array of all of them. `axes` is
    a declared layout. `inverse`: the array holds 1 / the site. `parts` are the meanings of the entries of an
    array that holds several sites, along its first axes; `either` those of which one fits by its values:
    where none does it is `site`, the usual one, if there is one. `mapped` if the user has said so.
    """

    site: Site | None = None
    layer: int | None = None
    stacked: bool = False
    axes: tuple[str, ...] | None = None
    inverse: bool = False
    parts: tuple["Meaning", ...] = ()
    either: tuple["Meaning", ...] = ()
    mapped: bool = False

    @property
    def full_name(self) -> str:
        """Our name: `h.3.ln_1`, or `h.*.ln_1` for all layers together."""
        if self.site is None:
            return " or ".join(m.full_name for m in self.either or self.parts)
        return f"h.*.{self.site.name}" if self.stacked else self.site.full_name(self.layer)


class Names:
    """Finds out what names mean, for a model and a user's map, with numbers that begin as `counting` says.

    Raises:
        InputError: the map is malformed.
        UnknownSiteError: the map's right side is no site.
    """

    def __init__(
        self, config: ModelConfig, given: Mapping[str, str] | None = None, counting: Counting | None = None
    ) -> None:
        self.config, self._sites = config, config.architecture.sites
        self.counting = counting or Counting()
        self.moved: dict[
            str, Meaning | None
        ] = {}  # what names of this dump mean by the values of their arrays
        self.base = base = self.counting.layers
        self._index = _spellings(config)
        self._given = [(theirs, _pattern(theirs), ours) for theirs, ours in (given or {}).items()]
        for theirs, _, ours in self._given:
            self._declared(theirs, ours, base)

    def counted(self, counting: Counting) -> "Names":
        """The same names with numbers that begin otherwise."""
        return Names(self.config, {theirs: ours for theirs, _, ours in self._given}, counting)

    def unused(self, names: Iterable[str]) -> Iterator[str]:
        """A note for each entry of the map that is for nothing in the dump."""
        names = list(names)
        for theirs, pattern, ours in self._given:
            if not any(pattern.fullmatch(name) for name in names):
                has = ", ".join(short(name) for name in names[:8]) + (" ..." if len(names) > 8 else "")
                yield f"--map {theirs}={ours} is not used: the dump has no {short(theirs)}; it has {has}"

    def meaning(self, name: str) -> Meaning | None:
        """What a name stands for, or None."""
        if name in self.moved:
            return self.moved[name]
        for theirs, pattern, ours in self._given:
            if match := pattern.fullmatch(name):
                declared = self._declared(theirs, ours, int(match[1]) if match.groups() else None)
                return replace(declared, mapped=True)
        name = _QUOTED.sub(r".\2", name).lstrip(".")
        if self.counting.norms == 0:
            name = NORMS.sub(lambda match: match[1] + str(int(match[2]) + 1), name)
        found = next((m for spelled in _variants(name) if (m := self._known(spelled)) is not None), None)
        if found is None and _INPUT.search(name):
            return self._read_by(_INPUT.sub("", name))
        return found

    def nearest(self, name: str) -> str:
        """The known name of which one is a misspelling; "" if it is like none."""
        plain = _plain(name)
        if len(plain) < _LONG or _is_elsewhere(name, self.config):
            return ""
        whole = {known: m.full_name for known, m in self._index.items() if _LAYER not in known} | _STACKS
        for digits in _NUMBER.finditer(name):
            layer = int(digits[0]) - self.base
            if not 0 <= layer < self.config.n_layer:
                continue
            spelled = _plain(name[: digits.start()]) + _LAYER + _plain(name[digits.end() :])
            known = {plain + _LAYER: f"{x}.{digits[0]}" for plain, x in _STACKS.items()}
            known |= {x: _in_layer(m, layer).full_name for x, m in self._index.items() if _LAYER in x}
            if found := difflib.get_close_matches(spelled, known, 1, _LIKE):
                return known[found[0]]
        found = difflib.get_close_matches(plain, whole, 1, _LIKE)
        return whole[found[0]] if found else ""

    def _read_by(self, part: str) -> Meaning | None:
        """What a part of the model reads: nnsight's `transformer.h.3.mlp.input`."""
        output = self.meaning(part)
        if output is None or output.site is None or output.stacked:
            return None
        last = re.split(r"[./:]", part)[-1].lower()
        site = output.either[-1].site if output.either else output.site
        assert site is not None
        if site.name == "ln_f":
            return Meaning(self._sites["resid_post"], self.config.n_layer - 1)
        read = OF_WHOLE_PARTS.get(site.name) if last in WHOLE_PARTS else None
        name = read or reads(self.config).get(site.name, "")
        return Meaning(self._sites[name], output.layer) if name in self._sites else None

    def _known(self, name: str) -> Meaning | None:
        n_layer, cache = self.config.n_layer, self.config.architecture.cache
        if match := _CACHE.fullmatch(name):
            layer = int(match[1]) - self.base
            if not 0 <= layer < n_layer:
                return None
            if match[2] is None:  # keys and values of a layer in one
                return Meaning(parts=tuple(Meaning(self._sites[part], layer) for part in cache))
            return Meaning(self._sites[cache[match[2].lower()[0] not in "0k"]], layer)
        if match := STATES.fullmatch(name):
            return self._state(int(match[1]) + self.counting.states)
        plain = _plain(name)
        if plain in ("hiddenstates", "allhiddenstates"):
            states = [self._state(i) for i in range(n_layer + 1)]
            return Meaning(parts=tuple(state for state in states if state))
        if plain in ("pastkeyvalues", "past", "kvcache"):
            pairs = ((layer, part) for layer in range(n_layer) for part in cache)
            return Meaning(parts=tuple(Meaning(self._sites[part], layer) for layer, part in pairs))
        if plain in self._index:
            return self._index[plain]
        for digits in _NUMBER.finditer(name):
            layer = int(digits[0]) - self.base
            spelled = _plain(name[: digits.start()]) + _LAYER + _plain(name[digits.end() :])
            if 0 <= layer < n_layer and spelled in self._index:
                return _in_layer(self._index[spelled], layer)
        return None

    def _state(self, number: int) -> Meaning | None:
        """An entry of hidden_states; the last is after ln_f in HF, and before it elsewhere."""
        n_layer = self.config.n_layer
        if number > n_layer:
            return None
        if number == 0:
            return Meaning(self._sites["embed"])
        post = Meaning(self._sites["resid_post"], number - 1)
        return post if number < n_layer else Meaning(either=(Meaning(self._sites["ln_f"]), post))

    def _declared(self, theirs: str, ours: str, layer: int | None) -> Meaning:
        """The right side of a map: a name of ours or of any dialect, `*` for the layer, axes in brackets."""
        axes = None
        name = ours.strip()
        if bracket := re.fullmatch(r"(.+?)\s*\[([^\]]*[^\]\d\s][^\]]*|\d+(?:[\s,]+\d+)+)\]", name):
            name, axes = bracket[1], tuple(bracket[2].replace(",", " ").split())
        where = f"--map {theirs}={ours}"
        layer = None if layer is None else layer - self.base
        starred = "*" in name
        if name.count("*") > 1:
            raise InputError(f"{where}: one * stands for the layer")
        if starred and layer is not None:
            name, starred = name.replace("*", str(layer), 1), False
        elif "*" in theirs and layer is not None and self._is_of_layers(name):
            raise InputError(f"{where}: the layer is a * on both sides, as in layer*.att=h.*.attn.pattern")
        if states := re.fullmatch(r"(?:all_)?hidden_states(?:\.(\d+|\*))?", name):
            return self._declared_states(where, theirs, states[1], axes)
        try:
            if starred or self._is_of_layers(name):
                site, _ = self._sites.resolve(
                    name.replace("*", "0"), None if starred else 0, self.config.n_layer
                )
                return Meaning(site, None, site.layered, axes)
            return Meaning(*self._sites.resolve(name, None, self.config.n_layer), axes=axes)
        except UnknownSiteError as error:
            raise UnknownSiteError(f"{where}: {error}") from None

    def _declared_states(
        self, where: str, theirs: str, number: str | None, axes: tuple[str, ...] | None
    ) -> Meaning:
        """Hugging Face's hidden states, one of them or all in one array, as the right side of a map."""
        if number is None and "*" in theirs:
            raise InputError(f"{where}: the number is a * on both sides, as in {theirs}=hidden_states.*")
        found = self._known("hidden_states" if number in (None, "*") else f"hidden_states.{number}")
        if found is None:
            raise InputError(f"{where}: there are hidden_states.0 to hidden_states.{self.config.n_layer}")
        either = tuple(replace(one, axes=axes, mapped=True) for one in found.either)
        parts = tuple(replace(one, mapped=True) for one in found.parts)
        return replace(found, axes=axes, either=either, parts=parts)

    def _is_of_layers(self, name: str) -> bool:
        """Whether a name is that of a site in every layer, without the layer."""
        if "*" in name:
            return False
        try:
            self._sites.resolve(name, None, self.config.n_layer)
            return False
        except UnknownSiteError:
            pass
        try:
            return self._sites.resolve(name, 0, self.config.n_layer)[0].layered
        except UnknownSiteError:
            return False


def parse_map(entries: Iterable[str]) -> dict[str, str]:
    """`--map theirs=ours` as often as it is given, as a mapping.

    Raises:
        InputError: an entry has no `=`, or a name has two.

    Example:
        >>> parse_map(["layer*.att=h.*.attn.pattern", "q0=h.0.attn.q[head pos d_head]"])
        {'layer*.att': 'h.*.attn.pattern', 'q0': 'h.0.attn.q[head pos d_head]'}
    """
    found: dict[str, str] = {}
    for entry in entries:
        theirs, equals, ours = (part.strip() for part in entry.rpartition("="))
        if not (theirs and equals and ours):
            raise InputError(f"--map takes theirs=ours, as in q0=h.0.attn.q, not {short(entry)}")
        if found.setdefault(theirs, ours) != ours:
            raise InputError(f"--map says two things of {short(theirs)}: {found[theirs]} and {ours}")
    return found


def _pattern(theirs: str) -> re.Pattern[str]:
    """A name of theirs, `*` for the number of the layer."""
    if theirs.count("*") > 1:
        raise InputError(f"--map {theirs}: one * stands for the layer")
    return re.compile(r"(\d{1,9})".join(re.escape(part) for part in theirs.split("*")))


def _variants(name: str) -> Iterable[str]:
    """A name as it is, then without what programs put around it: `module.`, `.output`."""
    starts = [name]
    while (shorter := _PREFIX.sub("", starts[-1])) not in (starts[-1], ""):
        starts.append(shorter)
    yield from starts
    for start in starts:
        while (shorter := _SUFFIXES.sub("", start)) not in (start, ""):
            start = shorter
            yield start


def _plain(name: str) -> str:
    """A name without separators and capitals: `h_3_attn_pattern`, `h/3/attn/pattern` are `h3attnpattern`."""
    return _SEPARATORS.sub("", name).lower()


def _in_layer(meaning: Meaning, layer: int) -> Meaning:
    """What a name means in a layer."""
    return replace(meaning, layer=layer, either=tuple(replace(m, layer=layer) for m in meaning.either))


@functools.lru_cache(maxsize=8)
def _spellings(config: ModelConfig) -> dict[str, Meaning]:
    """Every name of every dialect and of many programs, spelled plainly, but for those that mean two things.

    The number of a layer is a `#`, and the meaning then lacks it. What a program itself calls an array comes
    before what other spellings of a dialect's name would mean.
    """
    found: dict[str, Meaning | None] = {}
    own = _own_spellings(config)
    for name, sites in program_names(config):
        either = tuple(map(Meaning, sites))
        meaning = replace(either[0], either=either) if len(either) > 1 else either[0]
        for spelled in _in_a_layer(_LEAD.sub("", name)) if "{i}" in name else [_plain(name)]:
            if own.get(spelled, sites[0]) in sites:
                found.setdefault(spelled, meaning)
    exact = set(found)

    def add(spelled: str, meaning: Meaning) -> None:
        if spelled not in exact and found.setdefault(spelled, meaning) != meaning:
            found[spelled] = None

    for site in config.architecture.sites:
        if site.name == "resid_post":  # the output of a block
            for word in LAYER_WORDS:
                if word not in ("l", ""):
                    add(_plain(word) + _LAYER, Meaning(site))
        for name in {site.name, *_short_names(site)}:
            add(_plain(name), Meaning(site, stacked=site.layered))
            for spelled in _in_a_layer(name) if site.layered else ():
                add(spelled, Meaning(site))
        norm, _, statistic = site.name.rpartition(".")
        if statistic == "rstd":  # TransformerLens' scale is 1 / rstd
            for name in config.architecture.sites[f"{norm}.normalized"].names.get("transformer_lens", ()):
                scale = name.replace("hook_normalized", "hook_scale").split("{i}")
                add(_LAYER.join(map(_plain, scale)), Meaning(site, inverse=True))
    return {name: meaning for name, meaning in found.items() if meaning is not None}


def _is_elsewhere(name: str, config: ModelConfig) -> bool:
    """Whether a name is a known one of other models, and so no misspelling of one of this."""
    known = _elsewhere(config)
    shorter = list(_variants(name))
    numbered = ((short, *number.span()) for short in shorter for number in _NUMBER.finditer(short))
    in_layers = (_plain(short[:start]) + _LAYER + _plain(short[end:]) for short, start, end in numbered)
    return not known.isdisjoint([*map(_plain, shorter), *in_layers])


@functools.lru_cache(maxsize=8)
def _elsewhere(config: ModelConfig) -> frozenset[str]:
    """The names of other models, spelled plainly."""
    names = names_elsewhere(config)
    every = (_in_a_layer(_LEAD.sub("", name)) if "{i}" in name else [_plain(name)] for name in names)
    return frozenset(spelled for some in every for spelled in some)


def _own_spellings(config: ModelConfig) -> dict[str, Site]:
    """What this model's own names mean, ours and Hugging Face's, whatever others call so of their models."""
    found: dict[str, Site] = {}
    for site in config.architecture.sites:
        for name in (site.name, *site.names.get("hf", ())):
            stripped = _LEAD.sub("", name)
            if stripped and "{i}" not in stripped:
                for spelled in _in_a_layer(stripped) if site.layered else [_plain(stripped)]:
                    found.setdefault(spelled, site)
    return found


def _in_a_layer(name: str) -> Iterator[str]:
    """A name behind any word for a layer and its number, and before the number, as llama.cpp has it."""
    for word in LAYER_WORDS:
        yield _plain(word) + _LAYER + _plain(name)
    yield _plain(name) + _LAYER


def _short_names(site: Site) -> Iterable[str]:
    """Names in other dialects, without the part that says which layer."""
    for dialect, names in site.names.items():
        for name in names:
            stripped = _LEAD.sub("", name)
            if stripped and "{i}" not in stripped:
                yield stripped
            if dialect == "transformer_lens" and site.layered:
                yield stripped.replace("hook_", "")
