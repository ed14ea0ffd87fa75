"""What `keep=` means: which sites a trace stores, which positions of them, and in which precision."""

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site

KeepLike = str | Iterable[str] | Callable[[str], bool] | Mapping[str, Any]


@dataclass(frozen=True)
class Keep:
    """What a trace stores: which sites, which positions of them, in which precision.

    `patterns` are shell-style, on a site's full name or on the part after `h.i.`; derived sites are
    stored only where a pattern ends in their very name (`attn.heads`, `h.*.attn.heads`).
    """

    patterns: tuple[str, ...] = ("*",)
    predicate: Callable[[str], bool] | None = None
    positions: slice = field(default_factory=lambda: slice(None))
    dtype: str | None = None
    names: frozenset[str] | None = None  # exactly these full names, instead of patterns

    @classmethod
    def parse(cls, keep: "KeepLike | Keep") -> "Keep":
        """Whatever a caller may write for `keep`.

        Raises:
            InputError: it is none of a pattern, a list of patterns, a predicate, or a mapping with
                `patterns`, `positions` and `dtype`.
        """
        if isinstance(keep, Keep):
            return keep
        if isinstance(keep, str):
            return cls((keep,))
        if isinstance(keep, Mapping):
            unknown = [key for key in keep if key not in ("patterns", "positions", "dtype")]
            if unknown:
                raise InputError(f"keep takes patterns, positions and dtype, not {short(unknown[0])}")
            base = cls.parse(keep.get("patterns", "*"))
            positions, dtype = keep.get("positions", slice(None)), keep.get("dtype")
            if not isinstance(positions, slice):
                raise InputError(f"keep's positions must be a slice, not {short(positions)}")
            ends = (positions.start, positions.stop, positions.step)
            if not all(end is None or hasattr(end, "__index__") for end in ends):
                raise InputError(f"keep's positions must be a slice of whole numbers, not {short(positions)}")
            positions = slice(*(None if end is None else operator.index(end) for end in ends))
            if positions.step is not None and positions.step < 1:
                raise InputError(f"keep's positions must go forward, not by {positions.step}")
            if dtype is not None and str(dtype) not in ("float16", "float32", "float64"):
                raise InputError(f"keep's dtype must be float16, float32 or float64, not {short(dtype)}")
            return cls(base.patterns, base.predicate, positions, None if dtype is None else str(dtype))
        if callable(keep):
            return cls((), keep)
        patterns = tuple(keep) if isinstance(keep, Iterable) else ()
        if not patterns or not all(isinstance(p, str) for p in patterns):
            raise InputError(f"keep must be a pattern, a list of patterns or a predicate, not {short(keep)}")
        return cls(patterns)

    def wants(self, full_name: str, site: Site) -> bool:
        """Whether this site of this layer is stored."""
        if self.names is not None:
            return full_name in self.names
        if self.predicate is not None:
            return not site.derived and bool(self.predicate(full_name))
        return any(self._matches(p, full_name, site) for p in self.patterns)

    def check(self, config: ModelConfig) -> None:
        """Refuse a pattern that no site of the model matches."""
        for pattern in self.patterns:
            expanded = config.architecture.sites.expand(config.n_layer)
            if not any(self._matches(pattern, full, site) for full, site, _ in expanded):
                raise UnknownSiteError(f"keep={short(pattern)} {self._advice(pattern, config)}")

    @staticmethod
    def _advice(pattern: str, config: ModelConfig) -> str:
        """Why a pattern matches nothing, and what was probably meant."""
        table, n_layer = config.architecture.sites, config.n_layer
        sites = list(table.expand(n_layer))
        derived = [s.name for full, s, _ in sites if s.derived and fnmatch.fnmatchcase(full, pattern)]
        derived += [s.name for _, s, _ in sites if s.derived and fnmatch.fnmatchcase(s.name, pattern)]
        if derived:
            return f"matches derived sites only, which are stored by their own name: keep={short(derived[0])}"
        if "," in pattern:
            return "matches no site; several patterns are a list (on the command line: --keep again)"
        layer = re.match(r"h\.(\d+)\.", pattern)
        if layer and (len(layer[1]) > 9 or int(layer[1]) >= n_layer):
            return f"matches no site: layer {layer[1][:20]} is not one of 0 to {n_layer - 1}"
        try:
            site, number = table.resolve(pattern, None if re.search(r"\d", pattern) else 0, n_layer)
        except UnknownSiteError as error:
            return f"matches no site ({error})" if "*" not in pattern else "matches no site; see gpt2np sites"
        return f"is not one of our names: keep={site.full_name(number) if number else site.name!r}"

    @staticmethod
    def _matches(pattern: str, full_name: str, site: Site) -> bool:
        if site.derived and not pattern.endswith(site.name):
            return False
        return fnmatch.fnmatchcase(full_name, pattern) or fnmatch.fnmatchcase(site.name, pattern)
