"""What must hold inside any trace: each step, computed again from the recorded arrays before it.

The forward pass itself is run over the recorded arrays: every line is handed what was recorded, and its
result is held against what was recorded of it. So an architecture brings its own identities with it. The
table has the rest, which does not follow from the lines: unseen keys, rows of attention that sum to 1, heads
that sum to their layer's output, and the two sums of the residual stream.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.errors import VerificationError
from gpt2np.html_tables import plain_table
from gpt2np.ops import Array, add, unseen
from gpt2np.tracing.contract import Identity
from gpt2np.tracing.derived import bases, block_input
from gpt2np.tracing.replay import MISSING, Missing, ReplayStep
from gpt2np.tracing.trace import Trace

# Largest difference that is noise, relative to the largest magnitude (at least 1) of the site.
NOISE = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3}


@dataclass(frozen=True)
class Verification:
    """The identities that were checked, with the largest difference of each, and those that could not be."""

    checked: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        worst = max(self.checked.values(), default=0.0)
        return (
            f"<Verification: {len(self.checked)} identities hold, largest difference {worst:.1e}; "
            f"{len(self.skipped)} not checked>"
        )

    def _repr_html_(self) -> str:
        """The identities, those with the largest differences first, and why others were not checked."""
        found = sorted(self.checked.items(), key=lambda pair: -pair[1])
        rows = [[name, f"{difference:.1e}"] for name, difference in found]
        rows += [[name, reason] for name, reason in self.skipped.items()]
        return plain_table([["identity", "difference"], *rows], repr(self).strip("<>"))


def verify(trace: Trace) -> Verification:
    """Check every identity whose sites were kept.

    Differences are relative to the largest magnitude in the site, at least 1. Identities that need a
    site that was not kept, the model's weights (on an opened trace without `model=`), or all positions
    (where only some were kept), and those of sites that the run edited, are in `skipped` with the reason.

    Raises:
        VerificationError: names the first identity, in execution order, that does not hold.
    """
    checks = _Checks(trace)
    p = MISSING if trace.model is None else trace.model.parameters
    dtype = trace.plan.dtype if trace.model is None else trace.model.dtype  # what is computed again
    with np.errstate(all="ignore"):  # the comparison finds them
        trace.config.architecture.forward(p, trace.config, _RecordedStep(checks, dtype))
        for name, site, layer in trace.config.architecture.sites.expand(trace.config.n_layer):
            if site.derived and name in trace.names():
                checks.derived(name, site.name, layer)
    return checks.found


_INDICES = ("token_ids", "positions")


# -- what the steps of the forward pass are handed ----------------------------------------------------


class _Recorded(np.ndarray[Any, Any]):
    """A recorded array that knows its name, as its views do; `missing` says why there is none."""

    name = ""
    missing = ""

    def __array_finalize__(self, of: Any) -> None:
        self.name, self.missing = getattr(of, "name", ""), getattr(of, "missing", "")


class _RecordedStep(ReplayStep):
    """Hands every line what was recorded, and checks the line's result against it."""

    def __init__(self, checks: "_Checks", dtype: Any) -> None:
        trace = checks.trace
        positions = list(trace.positions)
        ids = np.array(trace.token_ids)[positions]
        super().__init__(trace.config, dtype, ids, positions, None, trace.plan.stop_at_layer)
        self.checks, self.n_key = checks, len(trace.token_ids)
        self.token_ids, self.positions = map(_named, (self.token_ids, self.positions), _INDICES)

    def __call__(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        full_name, kind = self._named(name)
        recorded = self.checks.recorded(full_name, kind, self.dtype)
        self.results[full_name] = recorded
        named = [_name_of(x) for x in inputs]
        self.checks.about(full_name, kind, self._layer, named if op is add else ())
        statement = f"{recorded.name} = {_called(op)}({', '.join(named)})"
        self.checks.step(full_name, statement, recorded, inputs, lambda: self._run(kind, op, inputs))
        return recorded

    def own(self, name: str, x: Array) -> Array:
        """All rows, as `all` hands them over."""
        return self.all(name, x)

    def all(self, name: str, x: Array) -> Array:
        """All rows, under the name of what they are; those stored under it where their whole is not."""
        full_name, kind = self._named(name)
        if _missing(x) and full_name in self.checks.trace:
            return self.checks.recorded(full_name, kind, self.dtype)
        return _named(x, full_name)


def _named(x: Array, name: str) -> "_Recorded":
    """The same array under a name."""
    found = x.view(_Recorded)
    found.name = name
    return found


def _missing(x: Array) -> str:
    """Why an array holds nothing that was recorded; empty where it does."""
    return x.missing if isinstance(x, _Recorded) else ""


def _called(op: Callable[..., None]) -> str:
    return getattr(op, "__name__", "operation")


def _name_of(x: Any) -> str:
    if isinstance(x, _Recorded):
        return x.name
    if isinstance(x, np.ndarray | tuple | Missing):
        return "parameters"
    return f"{x:.6g}" if isinstance(x, float) else str(x)


# -- what is checked ----------------------------------------------------------------------------------


class _Checks:
    """The identities of a trace as they are come by, in execution order."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.found = trace, Verification()
        precisions = {trace.plan.dtype.name, trace.plan.keep.dtype or trace.plan.dtype.name}
        precisions |= set() if trace.model is None else {trace.model.dtype.name}
        self.tolerance = max(NOISE[name] for name in precisions)
        self.partial = len(trace.positions) < len(trace.token_ids)
        self.edited = self._edited()
        layers = range(trace.config.n_layer)
        self.as_input = {block_input(layer, 0): f"h.{layer}.resid_pre" for layer in layers}

    def stored_name(self, name: str) -> str:
        """Under which name a site was kept: its own, or that of the block that reads it."""
        if name not in self.trace and self.as_input.get(name) in self.trace.names():
            return self.as_input[name]
        return name

    def _edited(self) -> set[str]:
        """The sites that are not what their step computed; a part that was edited changed its whole."""
        names = self.trace.metadata.get("edits")
        found = {str(name) for name in names} if isinstance(names, list) else set()
        parts = {name for name in found if name in self.trace and self.is_view(name)}
        return found.union(*(bases(self.trace.config, *self._site(name)) for name in parts))

    def _site(self, name: str) -> tuple[str, int | None]:
        config = self.trace.config
        site, layer = config.architecture.sites.resolve(name, None, config.n_layer)
        return site.name, layer

    def is_view(self, name: str) -> bool:
        """Return whether a site is a part of another one, so that there is nothing to compare."""
        derived = self.trace.config.architecture.derived.get(self._site(name)[0])
        return derived is not None and derived.view is not None

    def recorded(self, name: str, kind: str, dtype: Any) -> _Recorded:
        """Return a recorded site in the precision of the run, or an array of NaN that says why not."""
        stored = self.stored_name(name)
        if stored in self.trace:
            return _named(self.trace[stored].astype(dtype, copy=False), stored)
        shape = self.trace.plan.shape_of(self.trace.config.architecture.sites[kind])
        found = _named(np.broadcast_to(np.array(np.nan, dtype), shape), name)
        found.missing = f"{name} was not kept"
        return found

    def step(
        self, name: str, statement: str, recorded: Array, inputs: Any, compute: Callable[[], Array]
    ) -> None:
        """Hold a step's result, computed again, against what was recorded of it."""
        arrays = [x for x in (recorded, *inputs) if isinstance(x, _Recorded)]
        missing = next(filter(None, map(_missing, arrays)), None)
        quadratic = [self._is_quadratic(x.name) for x in arrays]
        meets = any(quadratic) and not all(quadratic)  # queries and keys, which are of all positions
        if missing is not None:
            self.found.skipped[statement] = missing
        elif name in self.edited:
            self.found.skipped[statement] = "edited"
        elif any(isinstance(x, Missing) for x in inputs):
            self.found.skipped[statement] = "needs the model's weights: Trace.open(path, model=...)"
        elif meets and self.partial:
            self.found.skipped[statement] = "needs every position"
        else:
            self.compare(statement, recorded, compute())

    def _is_quadratic(self, name: str) -> bool:
        sites = self.trace.config.architecture.sites
        return name not in _INDICES and sites[self._site(name)[0]].quadratic

    def about(self, name: str, kind: str, layer: int | None, added: Sequence[str] = ()) -> None:
        """What the table says of a site, unless its step is that very sum of `added`."""
        for statement, names, needs_weights, compute in _statements(self.trace, name, kind, layer):
            if added and sorted(map(self.stored_name, names[1:])) == sorted(added):
                continue
            missing = next((n for n in names if n not in self.trace), None)
            if missing is not None and not (needs_weights and self.trace.model is None):
                self.found.skipped[statement] = f"{missing} was not kept"
            elif not self.edited.isdisjoint((name, name.replace("attn.out", "attn.proj"))):
                self.found.skipped[statement] = "edited"
            elif needs_weights and self.trace.model is None:
                self.found.skipped[statement] = "needs the model's weights: Trace.open(path, model=...)"
            else:
                self.compare(statement, *compute())

    def derived(self, name: str, site: str, layer: int | None) -> None:
        """A stored derived site, and the same computed now."""
        config, model = self.trace.config, self.trace.model
        base = bases(config, site, layer)
        statement = f"{name} follows from {base[0]}"
        missing = next((n for n in base if n not in self.trace), None)
        if missing is not None:
            self.found.skipped[statement] = f"{missing} was not kept"
        elif config.architecture.derived[site].needs_weights and model is None:
            self.found.skipped[statement] = "needs the model's weights: Trace.open(path, model=...)"
        else:
            self.compare(statement, self.trace[name], self.trace.derive(site, layer))

    def compare(self, statement: str, found: Array, expected: Array) -> None:
        """Note the largest difference, relative to the largest magnitude; raise if it is more than noise."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(found - expected)
        if not np.isfinite(difference.max(initial=0.0)):
            difference = np.nan_to_num(difference, copy=False, nan=np.inf)
            difference[(found == expected) | (np.isnan(found) & np.isnan(expected))] = 0.0  # infinities too
        largest = np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max(initial=1.0)
        worst = float(difference.max(initial=0.0) / largest)
        if worst > self.tolerance:
            at = np.unravel_index(np.argmax(difference), difference.shape)
            where = ", ".join(str(int(i)) for i in at)
            raise VerificationError(
                f"{statement} does not hold: off by {worst:.1e} of the largest value at [{where}], "
                f"where noise is at most {self.tolerance:.0e}"
            )
        self.found.checked[statement] = worst


def _statements(trace: Trace, name: str, kind: str, layer: int | None) -> Iterator[Identity]:
    """What holds of a site by its meaning, whatever the line that computes it."""
    site, n = trace.config.architecture.sites[kind], len(trace.token_ids)
    h = "" if layer is None else f"h.{layer}."

    def unseen_keys() -> tuple[Array, Array]:
        assert layer is not None, "attention is in layers"
        values = trace[name][:, unseen(trace.positions, n, trace.config.window(layer))]
        return values, np.full(values.shape, site.unseen)

    def sum_of_heads() -> tuple[Array, Array]:
        assert layer is not None, "heads are in layers"
        bias = trace.config.architecture.attention_bias
        heads = trace[f"{h}attn.heads"].sum(1)
        return heads if bias is None else heads + bias(trace.parameters(), layer), trace[name]

    if site.unseen is not None:
        statement = f"{name} is {site.unseen:g} where a key is not seen"
        yield Identity(statement, (name,), False, unseen_keys)
    if kind == "attn.pattern":
        yield Identity(
            f"{name} rows sum to 1",
            (name,),
            False,
            lambda: (trace[name].astype(np.float64).sum(-1), np.ones(trace[name].shape[:2])),
        )
    if kind == "attn.out" and "attn.heads" in trace.config.architecture.sites:
        plus = "" if trace.config.architecture.attention_bias is None else " + bias"
        statement = f"{name} = sum of {h}attn.heads{plus}"
        yield Identity(statement, (name, f"{h}attn.heads"), True, sum_of_heads)
    sums = {
        "resid_mid": (block_input(layer, 0), f"{h}attn.out"),
        "resid_post": (f"{h}resid_mid", f"{h}mlp.out"),
    }
    if kind in sums:
        stream, added = sums[kind]
        yield Identity(
            f"{name} is {stream} and {added}",
            (name, stream, added),
            False,
            lambda: (trace[name], trace[stream].astype(trace.plan.dtype) + trace[added]),
        )
    if trace.config.architecture.holds is not None:
        yield from trace.config.architecture.holds(trace, name, kind, layer)
