"""What somebody's names mean: a site and a layer, in any dialect and spelling, or as a map declares it."""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site

_PREFIX = re.compile(
    r"^(?:model|module|self|net|gpt2?|base_model|_orig_mod|activations?|acts|trace|cache|outputs?"
    r"|transformer|decoder)[./_:]+",
    re.IGNORECASE,
)
_SUFFIXES = re.compile(r"(?:[./_:]+(?:outputs?|out|hook_out|value)|\[0\])$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\W_]+")
_LAYER_WORDS = ("h", "layer", "layers", "block", "blocks", "l")
_LEAD = re.compile(r"^(?:[a-z_.]*\{i\}[._]?|transformer\.|model\.)")  # as far as the layer's number
_CACHE = re.compile(
    r"(?:past_key_values?|past|kv_cache|cache)\W*(\d{1,9})\W*(0|1|k|v|keys?|values?)\W*", re.IGNORECASE
)
_STATES = re.compile(r"(?:all_)?hidden_states\W*_?(\d{1,9})\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Meaning:
    """What one name stands for.

    `layer` is None for a site outside the layers and, with `stacked`, for an array of all of them. `axes` is
    a declared layout. `inverse`: the array holds 1 / the site. `parts` are the meanings of the entries of an
    array that holds several sites, along its first axes; `either` those of which one fits by its values.
    """

    site: Site | None = None
    layer: int | None = None
    stacked: bool = False
    axes: tuple[str, ...] | None = None
    inverse: bool = False
    parts: tuple["Meaning", ...] = ()
    either: tuple["Meaning", ...] = ()

    @property
    def full_name(self) -> str:
        """Our name: `h.3.ln_1`, or `h.*.ln_1` for all layers together."""
        if self.site is None:
            return " or ".join(m.full_name for m in self.either or self.parts)
        return f"h.*.{self.site.name}" if self.stacked else self.site.full_name(self.layer)


class Names:
    """Finds out what names mean, for a model and a user's map.

    Raises:
        InputError: the map is malformed.
        UnknownSiteError: the map's right side is no site.
    """

    def __init__(self, config: ModelConfig, given: Mapping[str, str] | None = None) -> None:
        self.config, self._sites = config, config.architecture.sites
        self._index = _spellings(config)
        self._given = [(theirs, _pattern(theirs), ours) for theirs, ours in (given or {}).items()]
        for theirs, _, ours in self._given:
            self._declared(theirs, ours, 0)

    def check(self, names: Iterable[str]) -> None:
        """Refuse a map that has an entry for nothing in the dump."""
        names = list(names)
        for theirs, pattern, ours in self._given:
            if not any(pattern.fullmatch(name) for name in names):
                has = ", ".join(short(name) for name in names[:8])
                raise InputError(f"--map {theirs}={ours}: the dump has no {short(theirs)}; it has {has}")

    def meaning(self, name: str) -> Meaning | None:
        """What a name stands for, or None."""
        for theirs, pattern, ours in self._given:
            if match := pattern.fullmatch(name):
                return self._declared(theirs, ours, int(match[1]) if match.groups() else None)
        return next((m for spelled in _variants(name) if (m := self._known(spelled)) is not None), None)

    def _known(self, name: str) -> Meaning | None:
        n_layer = self.config.n_layer
        if match := _CACHE.fullmatch(name):
            which = self.config.architecture.cache[match[2].lower()[0] not in "0k"]
            return Meaning(self._sites[which], int(match[1])) if int(match[1]) < n_layer else None
        if match := _STATES.fullmatch(name):
            return self._state(int(match[1]))
        plain = _plain(name)
        if plain in ("hiddenstates", "allhiddenstates"):
            states = [self._state(i) for i in range(n_layer + 1)]
            return Meaning(parts=tuple(state for state in states if state))
        if plain in ("pastkeyvalues", "past", "kvcache"):
            pairs = ((layer, part) for layer in range(n_layer) for part in self.config.architecture.cache)
            return Meaning(parts=tuple(Meaning(self._sites[part], layer) for layer, part in pairs))
        return self._index.get(plain)

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
        starred = "*" in name
        if name.count("*") > 1:
            raise InputError(f"{where}: one * stands for the layer")
        if starred and layer is not None:
            name, starred = name.replace("*", str(layer), 1), False
        elif "*" in theirs and layer is not None and self._is_of_layers(name):
            raise InputError(f"{where}: the layer is a * on both sides, as in layer*.att=h.*.attn.pattern")
        try:
            if starred or self._is_of_layers(name):
                site, _ = self._sites.resolve(
                    name.replace("*", "0"), None if starred else 0, self.config.n_layer
                )
                return Meaning(site, None, site.layered, axes)
            return Meaning(*self._sites.resolve(name, None, self.config.n_layer), axes=axes)
        except UnknownSiteError as error:
            raise UnknownSiteError(f"{where}: {error}") from None

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


def _spellings(config: ModelConfig) -> dict[str, Meaning]:
    """Every name of every dialect, spelled plainly; what could mean two things is left out."""
    found: dict[str, Meaning | None] = {}

    def add(name: str, meaning: Meaning) -> None:
        if found.setdefault(_plain(name), meaning) != meaning:
            found[_plain(name)] = None

    table = config.architecture.sites
    for site in table:
        if not site.layered:
            for name in {site.name, *_short_names(site)}:
                add(name, Meaning(site))
            continue
        if site.name == "resid_post":  # the output of a block
            for word, layer in itertools.product(_LAYER_WORDS[:-1], range(config.n_layer)):
                add(f"{word}.{layer}", Meaning(site, layer))
        for name in {site.name, *_short_names(site)}:
            add(name, Meaning(site, None, stacked=True))
            for layer in range(config.n_layer):
                add(f"{name}.{layer}", Meaning(site, layer))
                for word in _LAYER_WORDS:
                    add(f"{word}.{layer}.{name}", Meaning(site, layer))
    for _, site, layer in table.expand(config.n_layer):  # TransformerLens' scale is 1 / rstd
        norm, _, statistic = site.name.rpartition(".")
        if statistic == "rstd":
            name = table[f"{norm}.normalized"].dialect_name("transformer_lens", layer) or ""
            add(name.replace("hook_normalized", "hook_scale"), Meaning(site, layer, inverse=True))
    return {name: meaning for name, meaning in found.items() if meaning is not None}


def _short_names(site: Site) -> Iterable[str]:
    """Names in other dialects, without the part that says which layer."""
    for dialect, names in site.names.items():
        for name in names:
            stripped = _LEAD.sub("", name)
            if stripped and "{i}" not in stripped:
                yield stripped
            if dialect == "transformer_lens" and site.layered:
                yield stripped.replace("hook_", "")
