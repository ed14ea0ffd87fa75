"""Edits: functions that replace what a step computed, before anything reads or records it.

`model.trace(text, edits={"h.9.attn.z": lambda z: z * 0})`. Ready-made ones: `analysis/interventions.py`.
"""

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.ops import Array, Norm
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import bases
from gpt2np.tracing.site_patterns import near_pattern, sites_named
from gpt2np.tracing.sites import Site

EditFunction = Callable[..., Array]
EditsLike = Mapping[str, EditFunction]


@dataclass(frozen=True)
class Where:
    """Where an edit is: the site, its layer, and which positions of the text its rows (or queries) are.

    `steps` has for each row the step of a generation that it belongs to: 0 for the prompt, 1 for the token
    chosen first, and so on; all 0 outside a generation. At a norm, `norm` is what it read and its
    parameters, so that an edit can compute another normalisation.
    """

    name: str
    site: Site
    layer: int | None
    positions: range
    steps: Array
    norm: tuple[Array, Norm] | None = None

    @property
    def step(self) -> int:
        """The step of the first row."""
        return int(self.steps[0])


class Edits:
    """The edits of a run, by full name of the site.

    Keys are names of any dialect, or shell-style patterns on them, as in `keep`; `attn.z`, or `Q`, stands for
    every layer. A function takes the array of the site (and, if it has a second parameter without a default,
    `Where` it is) and returns an array of the same shape; it may change what it was given, and return that.
    The array is the run's own memory: copy what is to be kept. Several edits of one site are applied in
    their order.

    Raises:
        UnknownSiteError: a name or pattern that no site of the model has.
        InputError: a derived site that is no part of a recorded one, or something that is no function.
    """

    def __init__(self, edits: EditsLike, config: ModelConfig) -> None:
        if not isinstance(edits, Mapping):
            raise InputError(f"edits must map site names to functions, not {short(edits)}")
        self._config = config
        self._functions: dict[str, list[Callable[[Array, Where], Array]]] = {}
        self.told: dict[str, str] = {}  # what the ready-made ones do, by full name of the site
        for key, function in edits.items():
            if not callable(function):
                raise InputError(f"edits[{short(key)}] must be a function of an array, not {short(function)}")
            if not _takes_an_array(function):
                name = getattr(function, "__name__", short(function))
                raise InputError(f"edits[{short(key)}]: {name} takes no array; is {name}() meant?")
            for name in _matching(key, config):
                self._functions.setdefault(name, []).append(_with_where(function))
                if told := getattr(function, "told", ""):
                    self.told[name] = f"{self.told[name]}, {told}" if name in self.told else str(told)
        expanded = config.architecture.sites.expand(config.n_layer)
        self._sites = {n: (site, layer) for n, site, layer in expanded if n in self._functions}
        self._parts = self._edited_parts()

    @property
    def names(self) -> list[str]:
        """Full names of the edited sites, in execution order."""
        return list(self._sites)

    def read_files(self) -> list[Path]:
        """Return the files that the functions read, as far as they say so: of traces that they patch from."""
        return [path for each in self._all() for path in getattr(each, "read_files", list)()]

    def check_positions(self, n: int) -> None:
        """Refuse positions that the longest prompt of a run, of n tokens, does not have.

        Raises:
            InputError: a function is restricted to such positions.
        """
        for each in self._all():
            if (check := getattr(each, "check_positions", None)) is not None:
                check(n)

    def _all(self) -> list[Callable[[Array, Where], Array]]:
        return [function for functions in self._functions.values() for function in functions]

    def apply(
        self,
        name: str,
        out: Array,
        positions: range,
        steps: Array,
        norm: tuple[Array, Norm] | None = None,
    ) -> None:
        """Replace what a step computed; `out` is where it lives.

        Raises:
            InputError: a function returned no array, or one of another shape or kind.
        """
        for function in self._functions.get(name, ()):
            where = Where(name, *self._sites[name], positions, steps, norm)
            result = function(out, where)
            if not isinstance(result, np.ndarray) or result.shape != out.shape:
                found = list(result.shape) if isinstance(result, np.ndarray) else short(result)
                axes = f"{where.site.axes}: {list(out.shape)}"
                raise InputError(f"the edit of {name} returned {found}, expected an array [{axes}]")
            if not np.can_cast(result.dtype, out.dtype, "same_kind"):
                raise InputError(f"the edit of {name} returned {result.dtype}, expected {out.dtype}")
            if result is not out:
                np.copyto(out, result, casting="same_kind")
        for part, view in self._parts.get(name, ()):
            self.apply(part, view(out, self._config), positions, steps)

    def _edited_parts(self) -> dict[str, list[tuple[str, Any]]]:
        """For each recorded site, its edited parts and how to see them in it."""
        found: dict[str, list[tuple[str, Any]]] = {}
        for name, (site, layer) in self._sites.items():
            derived = self._config.architecture.derived.get(site.name)
            if derived is not None and derived.view is not None:
                found.setdefault(bases(self._config, site.name, layer)[0], []).append((name, derived.view))
        return found


def compiled(edits: EditsLike | Edits | None, config: ModelConfig) -> Edits | None:
    """Read the `edits=` of a run; None if there is nothing to edit."""
    found = edits if edits is None or isinstance(edits, Edits) else Edits(edits, config)
    return found if found is not None and found.names else None


def facts(edits: Edits | None) -> dict[str, Any]:
    """Return what a trace's metadata says about its edits."""
    return {} if edits is None else {"edits": edits.names, "edits_told": edits.told}


def each_edit(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a trace's metadata say of each edit, for a reader: "h.0.attn.z (zero heads=0)"."""
    told = metadata.get("edits_told") or {}
    return [f"{name} ({told[name]})" if name in told else name for name in metadata.get("edits") or []]


def told_of_edits(metadata: Mapping[str, Any], most: int = 3) -> str:
    """Return the same in one line; empty if there are none."""
    says = each_edit(metadata)
    more = f" and {len(says) - most} more" if len(says) > most else ""
    return ", ".join(says[:most]) + more


def _matching(key: Any, config: ModelConfig) -> list[str]:
    """Full names of the sites that a name or pattern means."""
    table, n_layer, derived = config.architecture.sites, config.n_layer, config.architecture.derived
    if isinstance(key, tuple):  # a name and a layer
        site, layer = table.resolve(key, None, n_layer)
        key = site.full_name(layer)
    if isinstance(key, str) and key in table and table[key].layered:
        key = f"h.*.{key}"
    if isinstance(key, str) and any(c in key for c in "*?["):
        found = [entry for entry in table.expand(n_layer) if _is_called(key, *entry)]
        names = {n for n, site, _ in found if not site.derived}
        # attn.* means qkv, and not its parts another time
        parts = [(n, s, layer) for n, s, layer in found if s.derived and derived[s.name].view is not None]
        names |= {n for n, s, layer in parts if bases(config, s.name, layer)[0] not in names}
        if names:
            return [n for n, _, _ in found if n in names]
        if found:
            raise _derived(config, *found[0])
        if "*" in key or "?" in key:
            near = near_pattern(key, config)
            raise UnknownSiteError(f"edits: {short(key)} matches no site of {n_layer} layers{near}")
    if not isinstance(key, str) or key.startswith("hidden_states"):
        table.resolve(key, None, n_layer)  # says why not
    rows = sites_named(config, key)  # of every layer, if the name says none
    for name, site, layer in rows:
        if site.derived and derived[site.name].view is None:
            raise _derived(config, name, site, layer)
    return [name for name, _, _ in rows]


def _is_called(pattern: str, full_name: str, site: Site, layer: int | None) -> bool:
    """Whether a pattern matches a site's name in any dialect."""
    elsewhere = (name.replace("{i}", str(layer)) for names in site.names.values() for name in names)
    return any(fnmatch.fnmatchcase(name, pattern) for name in (full_name, site.name, *elsewhere))


def _derived(config: ModelConfig, name: str, site: Site, layer: int | None) -> InputError:
    read = bases(config, site.name, layer)[0]
    if site.name == "resid_pre":
        return InputError(
            f"edits: {name} is derived, no step reads it: edit {read}, which it is "
            "(resid_pre of layer i is resid_post of layer i - 1, of layer 0 embed)"
        )
    return InputError(f"edits: {name} is derived, no step reads it: edit {read}, which it is computed from")


def _takes_an_array(function: EditFunction) -> bool:
    """Whether a function can be called with an array: `zero` cannot, and `zero()` can."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return True
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def _with_where(function: EditFunction) -> Callable[[Array, Where], Array]:
    """The function with two parameters, whether or not it wants to know where it is."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have none
        parameters = []
    wanted = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return function if len(wanted) >= 2 else lambda array, _: function(array)
