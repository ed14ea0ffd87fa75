"""Holds a dump against ours: is it right, and if not, which step is the first wrong one, and why."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.errors import InputError, short
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.diagnosis import Candidate, Diagnosis
from gpt2np.reference.dumps import dump_of
from gpt2np.reference.error_measure import Measure
from gpt2np.reference.noise_bands import Expected, expect
from gpt2np.reference.placement import Placed, Placement, place
from gpt2np.reference.position_alignment import Alignment
from gpt2np.reference.precision import in_precision
from gpt2np.text.prompts import Prompt
from gpt2np.tracing.trace import Trace

VERDICTS = ("within-noise", "suspicious", "wrong")


@dataclass(frozen=True)
class SiteReport:
    """One array of the dump: under which name and layout it was found, and how far off it is."""

    site: str
    layer: int | None
    name: str
    layout: str
    dtype: str
    notes: tuple[str, ...]
    measure: Measure

    @property
    def verdict(self) -> str:
        """`within-noise`, `suspicious` or `wrong`."""
        return self.measure.verdict

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        m = self.measure
        return {
            "site": self.site,
            "layer": self.layer,
            "verdict": self.verdict,
            "ratio": m.ratio,
            "error": m.error,
            "band": m.band,
            "position": m.position,
            "heads": list(m.heads),
            "pattern": m.pattern,
            "name": self.name,
            "layout": self.layout,
            "dtype": self.dtype,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `str()` is the report for people, `to_dict()` the one for machines.

    `verdict` is the worst of all sites: `within-noise`, `suspicious` or `wrong`. `site`, `layer`, `head` and
    `position` are those of the first site outside its band, `head` None unless it is one head. `mistake` is
    the slug of the best of `candidates`, None where no mistake of the catalogue fits.
    """

    verdict: str
    sites: tuple[SiteReport, ...]
    first: SiteReport | None = None
    candidates: tuple[Candidate, ...] = ()
    token_ids: tuple[int, ...] = ()
    model: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    model_type: str = "gpt2"

    @property
    def site(self) -> str | None:
        """Full name of the first site outside its band."""
        return None if self.first is None else self.first.site

    @property
    def layer(self) -> int | None:
        """Its layer."""
        return None if self.first is None else self.first.layer

    @property
    def position(self) -> int | None:
        """The first position (or query) that is outside."""
        return None if self.first is None else self.first.measure.position

    @property
    def head(self) -> int | None:
        """The head, where it is one only."""
        heads = () if self.first is None else self.first.measure.heads
        if self.candidates and self.candidates[0].heads is not None:
            heads = self.candidates[0].heads
        return heads[0] if len(heads) == 1 else None

    @property
    def mistake(self) -> str | None:
        """Slug of the mistake that explains the first wrong site."""
        return self.candidates[0].slug if self.candidates else None

    @property
    def exit_code(self) -> int:
        """0 within noise, 1 suspicious or wrong."""
        return int(self.verdict != "within-noise")

    def to_dict(self) -> dict[str, Any]:
        """Everything, for machines and for the page."""
        best = self.candidates[0] if self.candidates else None
        return {
            "verdict": self.verdict,
            "site": self.site,
            "layer": self.layer,
            "head": self.head,
            "position": self.position,
            "mistake": self.mistake,
            "explanation": None if best is None else best.explanation,
            "cure": None if best is None else best.cure,
            "detail": None if best is None else best.detail,
            "pattern": None if self.first is None else self.first.measure.pattern,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "sites": [site.to_dict() for site in self.sites],
            "unknown": list(self.unknown),
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
            "notes": list(self.notes),
            "model": self.model,
            "model_type": self.model_type,
            "source": self.source,
            "token_ids": list(self.token_ids),
        }

    def __str__(self) -> str:
        from gpt2np.reference.report_text import text

        return text(self)


@np.errstate(all="ignore")
def compare(
    dump: Any,
    model: Model | str | os.PathLike[str] | None = None,
    prompt: Prompt | None = None,
    *,
    names: Mapping[str, str] | None = None,
    shapes: Any = None,
    prefill: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    special: bool = False,
) -> Comparison:
    """Hold a dump of activations against the same run in float64.

    `dump` is a file or folder (see `dumps.read_dump`), a mapping of names to arrays, or a trace; `model` a
    Model, or what `gpt2np.load` takes; `prompt` text or token ids, and may be left out where the dump itself
    says what ran. `names` maps their names to ours, `shapes` describes a raw file. `prefill` says that the
    dump comes from decoding with a cache: so many tokens at once, then one at a time. `rtol` and `atol`
    replace the noise bands by `atol + rtol * |truth|`. A prompt longer than the context is cut to its last
    `n_positions` tokens. `special` is that of `Model.token_ids`.

    Raises:
        InputError: the dump cannot be read or laid out, or nothing in it has a name of a site.

    Example:
        >>> found = gpt2np.compare("mine.safetensors", "gpt2", "The capital of France is")
        >>> found.verdict, found.site, found.mistake
        ('wrong', 'h.0.mlp.post', 'gelu-erf')
    """
    from gpt2np.loading import load

    model = model if isinstance(model, Model) else load(model)
    read = dump_of(dump, shapes=shapes, config=model.config)
    whole = model.token_ids(_prompt(prompt, read.token_ids), limit=False, special=special)
    ids = whole[-model.config.n_positions :]
    notes = [] if len(ids) == len(whole) else [f"the last {len(ids)} of {len(whole)} tokens were run"]
    if read.token_ids is not None and list(read.token_ids) != list(ids):
        notes.append("the dump says that it ran other tokens: " + " ".join(map(str, read.token_ids[:20])))
    _check(prefill, len(ids), rtol, atol)
    wide = in_precision(model, "float64")
    truth = wide.trace(ids)
    placement = place(read, truth, model.config, names=names)
    if not placement.placed:
        reasons = "; ".join(f"{short(refused.name)}: {refused.reason}" for refused in placement.refused[:3])
        raise InputError(f"{read.path}: no array of it can be compared ({reasons})")
    precisions = {p.dtype for p in placement.placed if p.dtype in ("float16", "bfloat16")}
    expected = {
        p: expect(model, ids, p, truth) for p in {"float32", *precisions} if rtol is None and atol is None
    }
    reports, arrays = _hold(placement, truth, _bands(expected, truth, rtol, atol))
    architecture = model.config.architecture
    verdict = max((r.verdict for r in reports), key=VERDICTS.index)
    first = next((r for r in reports if r.measure.ratio > 1), None)
    candidates: list[Candidate] = []
    if first is not None and not architecture.catalogue:
        notes.append(f"there is no catalogue of mistakes for {architecture.model_type}: only gpt2 has one")
    elif first is not None:
        noise = next(iter(expected.values()), None) or expect(model, ids, "float32", truth)
        noise = expected.get(first.dtype, noise)
        measures = {r.site: r.measure for r in reports}
        given = {placed.site: placed.array for placed in placement.placed}
        diagnosis = Diagnosis(wide, noise, given, arrays, measures, first.site, whole, prefill)
        candidates = diagnosis.candidates()
    return Comparison(
        verdict,
        tuple(reports),
        first,
        tuple(candidates),
        tuple(ids),
        model.name,
        read.path,
        tuple(notes),
        tuple(placement.unknown),
        tuple((refused.name, refused.reason) for refused in placement.refused),
        architecture.model_type,
    )


def _check(prefill: int | None, length: int, rtol: float | None, atol: float | None) -> None:
    """Refuse numbers that make no sense."""
    if prefill is not None and not 1 <= prefill <= length:
        raise InputError(f"prefill={prefill}: must be 1 to {length}, the number of tokens")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance is not None and not 0 <= tolerance < float("inf"):
            raise InputError(f"{name}={tolerance}: must be a number of at least 0")


def _bands(
    expected: Mapping[str, Expected], truth: Trace, rtol: float | None, atol: float | None
) -> Callable[[Placed], Array]:
    """What may be between an array and the truth: the noise of its precision, or what the user says."""

    def of_noise(placed: Placed) -> Array:
        return expected.get(placed.dtype, expected["float32"]).bands[placed.site]

    def of_tolerances(placed: Placed) -> Array:
        right = truth[placed.site]
        sizes = np.abs(np.where(np.isfinite(right), right, 0.0))
        return np.asarray((atol or 0.0) + (rtol or 0.0) * sizes)

    return of_noise if rtol is None and atol is None else of_tolerances


def _hold(
    placement: Placement, truth: Trace, bands: Callable[[Placed], Array]
) -> tuple[list[SiteReport], dict[str, Array]]:
    """A report of each array in the order of execution, and by site the arrays with all rows."""
    config, reports, arrays = truth.config, [], {}
    alignment = Alignment(len(truth.token_ids), config)
    for placed in placement.placed:
        site, layer = config.architecture.sites.resolve(placed.site, None, config.n_layer)
        found, arrays[placed.site] = alignment.hold(
            placed.array, truth[placed.site], bands(placed), site, layer
        )
        about = placed.site, layer, placed.name, placed.layout, placed.dtype, placed.notes
        reports.append(SiteReport(*about, found))
    return reports, arrays


def _prompt(prompt: Prompt | None, in_dump: Sequence[int] | None) -> Prompt:
    if prompt is not None:
        return prompt
    if in_dump is None:
        raise InputError("which prompt ran? The dump does not say: give the text or its token ids")
    return list(in_dump)
