"""What `keep=` means: which sites a trace stores, which positions of them, and in which precision."""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.site_patterns import matches, own_patterns
from gpt2np.tracing.sites import Site

KeepLike = str | Iterable[str] | Callable[[str], bool] | Mapping[str, Any]


@dataclass(frozen=True)
class Keep:
    """What a trace stores: which sites, which positions of them, in which precision.

    `patterns` are shell-style, on a site's full name, on the part after `h.i.`, or on its name in another
    dialect (`Q`, `layer_3_Q`, `blocks.*.attn.hook_pattern`, `hidden_states`); derived sites are stored only
    where a pattern ends in their very name (`attn.heads`, `h.*.attn.heads`).
    """

    patterns: tuple[str, ...] = ("*",)
    predicate: Callable[[str], bool] | None = None
    positions: slice = field(default_factory=lambda: slice(None))
    dtype: str | None = None
    names: frozenset[str] | None = None  # exactly these full names, instead of patterns

    @classmethod
    def parse(cls, keep: "KeepLike | Keep") -> "Keep":
        """Read whatever a caller may write for `keep`.

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
        """Return whether this site of this layer is stored."""
        if self.names is not None:
            return full_name in self.names
        if self.predicate is not None:
            return not site.derived and bool(self.predicate(full_name))
        return any(matches(p, full_name, site) for p in self.patterns)

    def resolved(self, config: ModelConfig) -> "Keep":
        """Return the same with our own names, which `wants` knows.

        Raises:
            UnknownSiteError: a pattern means no site of the model, or a predicate is true of none.
        """
        if self.predicate is not None and self.names is None:
            rows = list(config.architecture.sites.expand(config.n_layer))
            if not any(self.wants(name, site) for name, site, _ in rows):
                like = f"our own names, such as {rows[len(rows) // 2][0]!r}"
                raise UnknownSiteError(f"keep: the predicate is true of no site; it is given {like}")
        try:
            return replace(self, patterns=own_patterns(config, self.patterns))
        except UnknownSiteError as error:
            raise UnknownSiteError(f"keep: {error}") from None
