"""Which sites a name or a shell-style pattern of any dialect means: `Q`, `layer_3_Q`, `attn.*`.

Our own names come first. Only what none of them matches is looked for in the other dialects, so that a
pattern means the same whatever names are added there.
"""

import fnmatch
import functools
import re
from collections.abc import Iterator

from gpt2np.errors import UnknownSiteError, nearest, short
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import OF_TOKENS, Site, counted_from_the_start, of_tokens

Row = tuple[str, Site, int | None]  # full name, site, layer


def sites_named(config: ModelConfig, pattern: str) -> list[Row]:
    """The sites that a name or pattern means, in execution order: of every layer, unless it names one.

    A derived site is meant only where the pattern ends in its very name (`attn.heads`, `layer_*_Q`).
    `hidden_states` are those of Hugging Face and of the extraction guide together, so that a trace which
    keeps them can give both: the last one before and after `ln_f`.

    Raises:
        UnknownSiteError: it means none; says what was probably meant.

    Example:
        >>> [name for name, _, _ in sites_named(config, "layer_3_Q")]
        ['h.3.attn.q']
    """
    table = config.architecture.sites
    rows = list(table.expand(config.n_layer))
    pattern = counted_from_the_start(pattern, config.n_layer)
    found = [row for row in rows if matches(pattern, row[0], row[1])]
    if not found:
        groups = dict(_groups(config))
        found = [row for row in rows if row[0] in groups.get(pattern, ()) or _called(pattern, *row)]
    if not found:
        found = [row for row in rows if row[1] is table.short_names.get(pattern)]
    if not found:
        raise UnknownSiteError(_advice(pattern, config))
    return found


@functools.lru_cache(32)
def own_patterns(config: ModelConfig, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The same sites by patterns of our own names.

    Raises:
        UnknownSiteError: a pattern means no site.
    """
    rows = list(config.architecture.sites.expand(config.n_layer))
    own: list[str] = []
    for given in patterns:
        pattern = counted_from_the_start(given, config.n_layer)
        if any(matches(pattern, name, site) for name, site, _ in rows):
            own.append(pattern)
        else:
            own += (name for name, _, _ in sites_named(config, pattern))
    return tuple(own)


def matches(pattern: str, full_name: str, site: Site) -> bool:
    """Whether a pattern of our own names means a site of a layer."""
    if site.derived and not pattern.endswith(site.name):
        return False
    return fnmatch.fnmatchcase(full_name, pattern) or fnmatch.fnmatchcase(site.name, pattern)


def _groups(config: ModelConfig) -> Iterator[tuple[str, list[str]]]:
    """What other programs return several arrays by, and the full names of those."""
    layers = range(config.n_layer)
    states = ["embed", *(f"h.{i}.resid_post" for i in layers)]
    yield "hidden_states", [*states, "ln_f"]
    yield from ((f"hidden_states[{i}]", [state]) for i, state in enumerate(states[:-1]))
    yield f"hidden_states[{config.n_layer}]", [states[-1], "ln_f"]
    cached = [[f"h.{i}.{name}" for name in config.architecture.cache] for i in layers]
    yield "past_key_values", [name for names in cached for name in names]
    for i, names in enumerate(cached):
        yield f"past_key_values[{i}]", names
        yield from ((f"past_key_values[{i}][{n}]", [name]) for n, name in enumerate(names))


def _called(pattern: str, full_name: str, site: Site, layer: int | None) -> bool:
    """Whether a site of a layer has such a name in another dialect."""
    is_pattern = "*" in pattern or "?" in pattern
    for name in site.names_elsewhere():
        end = name.rpartition("{i}")[2]
        for here in (name.replace("{i}", str(layer)), f"{name}[{layer}]"):
            if pattern == here:
                return True
            named = not site.derived or pattern.endswith(end)
            if is_pattern and named and fnmatch.fnmatchcase(here, pattern):
                return True
    return False


def layer_out_of_range(name: str, n_layer: int) -> str:
    """What is wrong with a name that has the number of no layer; empty where it has none, or one of them."""
    layer = re.match(r"(?:h\.|layer_|blocks\.|transformer\.h\.|\w+\[)(-?\d+)(?:\.|_|\])", name)
    if layer is None or (len(layer[1]) < 10 and 0 <= int(layer[1]) < n_layer):
        return ""
    return f"layer {layer[1][:20]} is not one of 0 to {n_layer - 1}"


def near_pattern(pattern: str, config: ModelConfig) -> str:
    """Which pattern was probably meant, or where the names are listed: the end of a message."""
    known: list[str] = []
    for site in config.architecture.sites:
        part = site.name.rpartition(".")[0]
        ours = [f"{part}.*" if part else site.name, site.name]
        known += [*ours, *(f"h.*.{name}" for name in ours if site.layered)]
        known += [name.replace("{i}", "*") for names in site.names.values() for name in names]
    near = nearest(pattern, known, cutoff=0.7)
    return f"; the nearest is {short(near)}" if near else "; see gpt2np sites"


def _advice(pattern: str, config: ModelConfig) -> str:
    """Why a pattern matches nothing, and what was probably meant."""
    table, n_layer = config.architecture.sites, config.n_layer
    sites = list(table.expand(n_layer))
    derived = [s.name for full, s, _ in sites if s.derived and fnmatch.fnmatchcase(full, pattern)]
    derived += [s.name for _, s, _ in sites if s.derived and fnmatch.fnmatchcase(s.name, pattern)]
    if derived:
        return f"{short(pattern)} matches derived sites only, which have to be named: {derived[0]}"
    if pattern in OF_TOKENS:
        return of_tokens(pattern)
    if "," in pattern:
        return f"{short(pattern)} matches no site; several are a list (on the command line: the option again)"
    if wrong := layer_out_of_range(pattern, n_layer):
        return f"{short(pattern)} matches no site: {wrong}"
    if "*" in pattern or "?" in pattern:
        return f"{short(pattern)} matches no site{near_pattern(pattern, config)}"
    try:
        table.resolve(pattern, None if re.search(r"\d", pattern) else 0, n_layer)
    except UnknownSiteError as error:
        return str(error)
    return f"{short(pattern)} matches no site; see gpt2np sites"
