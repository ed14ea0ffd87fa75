"""Ready-made edits: `model.trace(text, edits={"h.9.attn.z": zero(heads=[6])})`, and projections on a vector.

Each can be restricted to `positions` (a number, a list, or a slice; they count from the start of the text),
`heads` (of keys and values: groups of heads, where heads share them), `neurons`, and `steps` of a generation
(0 runs the prompt, 1 the first chosen token). Positions that no prompt of the run has are refused, but for
a generation, in which a text grows.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import pos_labels, rows_of
from gpt2np.analysis.subjects import check_subject
from gpt2np.errors import InputError, nearest, short
from gpt2np.ops import Array, RMSNorm, layer_norm_statistics
from gpt2np.tracing.edits import Where
from gpt2np.tracing.trace import Trace

Some = int | slice | Iterable[int] | None  # which indices; None: all


class Chosen(TypedDict, total=False):
    """What an edit is restricted to, as keyword arguments."""

    positions: Some
    heads: Some
    neurons: Some
    steps: Some


CHOICES = ("positions", "heads", "neurons", "steps")

# A function of (the chosen rows, where, which rows they are) that returns their new values.
Value = Callable[[Array, Where, list[int]], Array]


@dataclass(frozen=True)
class Intervention:
    """An edit of some rows, heads and neurons of a site; everything else there stays as it was."""

    value: Value
    positions: Some = None
    heads: Some = None
    neurons: Some = None
    steps: Some = None
    reference: Sequence[Trace] = ()  # the traces that the value comes from
    _checked: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name in CHOICES:
            self._checked[name] = _choice(name, getattr(self, name))

    @property
    def told(self) -> str:
        """What it does and where, which a trace says of itself: "zero heads=0"."""
        what = getattr(self.value, "__qualname__", "edit").partition(".")[0]
        where = [f"{name}={short(x)}" for name in CHOICES if (x := getattr(self, name)) is not None]
        return f"{what} {', '.join(where) or 'everywhere'}"

    def __repr__(self) -> str:
        return f"<Intervention {self.told.replace(' ', ': ', 1)}>"

    def __call__(self, array: Array, where: Where) -> Array:
        """The array with the chosen part replaced."""
        axes = where.site.axis_names
        of_rows = axes.index("query") if "query" in axes else 0
        rows = [
            row
            for row, (position, step) in enumerate(zip(where.positions, where.steps.tolist(), strict=True))
            if self._wants("positions", position) and self._wants("steps", step)
        ]
        if not rows:
            return array
        at: tuple[Any, ...] = (*[slice(None)] * of_rows, rows)
        part = array[at]
        chosen = np.ones((1,) * array.ndim, bool)
        for name, axis in (("heads", where.site.head_axis or "head"), ("neurons", "d_mlp")):
            if self._checked[name] is not None:
                chosen = chosen & self._mask(name, axis, where, array.shape)
        result = array.copy()
        result[at] = np.where(chosen, self.value(part, where, rows), part)
        return result

    def read_files(self) -> list[Path]:
        """Return the files of the traces that the value comes from."""
        return [path for trace in self.reference for path in trace.source_files()]

    def check_positions(self, n: int) -> None:
        """Refuse `positions` that a text of n tokens does not have, or a slice that lies behind its end.

        Raises:
            InputError: so it is.
        """
        chosen = self._checked["positions"]
        last = chosen.start if isinstance(chosen, range) else max(chosen or [0])
        if last >= n:
            raise InputError(f"positions=: the text has {n} tokens, there is no position {last}")

    def _wants(self, name: str, index: int) -> bool:
        chosen = self._checked[name]
        return chosen is None or index in chosen

    def _mask(self, name: str, axis: str, where: Where, shape: tuple[int, ...]) -> Array:
        """Which entries are chosen along an axis."""
        if axis not in where.site.axis_names:
            raise InputError(f"{name}=: {where.name} has no axis {axis} ({where.site.axes})")
        at = where.site.axis_names.index(axis)
        n, chosen = shape[at], self._checked[name]
        if isinstance(chosen, frozenset) and max(chosen, default=0) >= n:
            raise InputError(f"{where.name} has {n} {name}, 0 to {n - 1}; there is no {max(chosen)}")
        mask = np.array([i in chosen for i in range(n)])
        return mask.reshape([n if i == at else 1 for i in range(len(shape))])


F = TypeVar("F", bound=Callable[..., Intervention])


def _restrictable(function: F) -> F:
    """Show the keywords of `**where` in its signature, and explain them at the end of its docstring."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    only = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Some) for n in CHOICES
    ]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *only]))  # noqa: B010
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{_RESTRICTED}"
    return function


_RESTRICTED = """Args:
    positions: of the text, counted from its start: a number, a list or a slice; None: all.
    heads: in the same way; of keys and values, groups of heads where heads share them.
    neurons: in the same way.
    steps: of a generation; 0 runs the prompt, 1 the first chosen token."""


def _made(value: Value, where: Chosen, reference: Sequence[Trace] = ()) -> Intervention:
    """The intervention of one of the functions below, whose keywords `where` are.

    Raises:
        InputError: there is no such keyword, or its value chooses nothing.
    """
    for name in where:
        if name not in CHOICES:
            what = value.__qualname__.partition(".")[0]
            near = "; the layer stands in the name of the site, 'h.3.attn.z'" if "layer" in name else None
            found = nearest(name, CHOICES)
            near = near or (f"; did you mean {found}?" if found else "")
            raise InputError(f"{what} takes {', '.join(CHOICES)}, not {short(name)}{near}")
    return Intervention(value, **where, reference=reference)


@_restrictable
def zero(**where: Unpack[Chosen]) -> Intervention:
    """Replace by zeros, which switches off what was there."""
    return _made(lambda array, *_: np.zeros_like(array), where)


@_restrictable
def scale(factor: float, **where: Unpack[Chosen]) -> Intervention:
    """Multiply by a factor."""
    _finite("scale", factor)
    return _made(lambda array, *_: array * factor, where)


def _finite(name: str, value: Any) -> Array:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
        raise InputError(f"{name} takes finite numbers, not {short(value)}")
    return numbers


@_restrictable
def steer(vector: Array, coefficient: float = 1.0, **where: Unpack[Chosen]) -> Intervention:
    """Add `coefficient * vector` to every row, such as a trait's vector [n_embd] to `h.6.resid_post`."""
    direction = _finite("steer", vector)
    _finite("steer", coefficient)

    def value(array: Array, at: Where, _: list[int]) -> Array:
        if direction.ndim != 1 or direction.shape[0] != array.shape[-1]:
            expected = f"expected [{array.shape[-1]}] as in {at.name} ({at.site.axes})"
            raise InputError(f"steer: the vector is {list(direction.shape)}, {expected}")
        return np.asarray(array + (coefficient * direction).astype(array.dtype))

    return _made(value, where)


@_restrictable
def mean(traces: Trace | Sequence[Trace], **where: Unpack[Chosen]) -> Intervention:
    """Replace by the mean over all positions of a reference set: every row becomes the same.

    Raises:
        InputError: the set is empty, or holds something else; at a run: the site's rows have no mean
            (attention scores and patterns).
    """
    reference = [traces] if isinstance(traces, Trace | str) else list(traces)
    if not reference:
        raise InputError("mean: the reference set has no trace")
    for trace in reference:
        check_subject("mean", trace)
    known: dict[str, Array] = {}

    def value(array: Array, at: Where, _: list[int]) -> Array:
        if at.site.quadratic:
            raise InputError(f"mean: the rows of {at.name} have different lengths, so that they have no mean")
        if at.name not in known:
            rows = np.concatenate([trace[at.name] for trace in reference])
            if not len(rows):
                raise InputError(f"mean: the reference set has no rows of {at.name}")
            known[at.name] = rows.mean(axis=0, dtype=np.float64).astype(array.dtype)
        return _shaped("mean", known[at.name], array.shape[1:], at)

    return _made(value, where, reference)


@_restrictable
def patch(trace: Trace, **where: Unpack[Chosen]) -> Intervention:
    """Replace by what another run had at the same positions.

    Raises:
        InputError: it is no trace; at a run: it does not have one of the positions, or is of another shape.
    """
    check_subject("patch", trace)

    def value(array: Array, at: Where, rows: list[int]) -> Array:
        found = trace[at.name]
        positions = [at.positions[row] for row in rows]
        missing = [position for position in positions if position not in trace.positions]
        if missing:
            raise InputError(
                f"{at.name}: the trace to patch from has no position {missing[0]} ({len(trace.positions)} "
                "positions there); positions= restricts a patch"
            )
        of_trace = [trace.positions.index(position) for position in positions]
        if not at.site.quadratic:
            return _shaped("patch", found[of_trace], array.shape, at)
        n_key = array.shape[-1]
        longer = np.full((found.shape[0], len(rows), n_key), at.site.unseen, array.dtype)
        found = found[:, of_trace, :n_key]
        longer[..., : found.shape[-1]] = found
        return _shaped("patch", longer, array.shape, at)

    return _made(value, where, [trace])


@_restrictable
def freeze(trace: Trace, **where: Unpack[Chosen]) -> Intervention:
    """Hold an attention pattern, or the scale of a norm, at what it was in another run.

    A norm with its scale frozen is linear: a mean is still subtracted, scale and shift still apply.

    Raises:
        InputError: it is no trace; at a run: the site is neither (use `patch`), or the trace does not have
            its positions.
    """
    check_subject("freeze", trace)
    replace = patch(trace).value

    def value(array: Array, at: Where, rows: list[int]) -> Array:
        if at.site.quadratic:
            return replace(array, at, rows)
        if at.norm is None:
            raise InputError(f"freeze is for attention patterns and norms, not {at.name}: use patch")
        positions = [at.positions[row] for row in rows]
        try:
            of_trace = [trace.positions.index(position) for position in positions]
        except ValueError:
            raise InputError(f"{at.name}: the trace to freeze from lacks positions of this run") from None
        x, p = at.norm[0][rows], at.norm[1]
        if isinstance(p, RMSNorm):
            return np.asarray(x / trace[f"{at.name}.rms"][of_trace][:, None].astype(x.dtype) * p.weight)
        mean, _ = layer_norm_statistics(x, p.epsilon)
        rstd = trace[f"{at.name}.rstd"][of_trace][:, None].astype(x.dtype)
        return np.asarray((x - mean) * rstd * p.weight + p.bias)

    return _made(value, where, [trace])


@np.errstate(under="ignore")
def project(trace: Trace, vector: Array) -> NamedArray:
    """Project the residual stream on a direction: resid_post @ vector / |vector|, [layer, pos].

    Raises:
        InputError: it is no trace, or the vector is not [n_embd], not finite, or zero.
        TraceError: some `resid_post` was not kept.
    """
    check_subject("project", trace)
    direction = _finite("project", vector).astype(np.float64)
    length = float(np.linalg.norm(direction))
    n_embd = trace.config.n_embd
    if direction.shape != (n_embd,):
        raise InputError(f"project: the vector is {list(direction.shape)}, expected [{n_embd}]")
    if not 0 < length < np.inf:
        raise InputError("project: the vector has no direction: its length is 0 or overflows")
    along = trace.stack("resid_post") @ (direction / length)
    labels = pos_labels(trace, rows_of(trace, None))
    return NamedArray(along, ("layer", "pos"), {"pos": labels}, "resid_post along the vector")


def _choice(name: str, chosen: Any) -> Any:
    """The chosen indices as something that answers `in`: a set, or a range."""
    if chosen is None:
        return None
    if isinstance(chosen, slice):
        ends = [chosen.start or 0, 1 << 62 if chosen.stop is None else chosen.stop]
        step = 1 if chosen.step is None else chosen.step
        if not all(_whole(end) and end >= 0 for end in ends) or not _whole(step) or step < 1:
            raise InputError(f"{name}={chosen}: counts from the start, forwards")
        return range(ends[0], ends[1], step)
    found = [chosen] if _whole(chosen) else chosen
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise InputError(f"{name}={short(chosen)}: must be a whole number, a list of them or a slice")
    found = list(found)
    if not all(_whole(i) and i >= 0 for i in found):
        raise InputError(f"{name}={short(chosen)}: whole numbers, counted from the start (0 is the first)")
    return frozenset(int(i) for i in found)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _shaped(verb: str, found: Array, shape: tuple[int, ...], at: Where) -> Array:
    if found.shape != shape:
        raise InputError(f"{verb}: {at.name} is {list(found.shape)} in the trace, but {list(shape)} here")
    return found
