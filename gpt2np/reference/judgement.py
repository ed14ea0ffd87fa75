"""Judges each array of a dump: against the noise of its precision, and against what people record instead."""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2np.errors import Gpt2npError
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.consequences import only_recorded
from gpt2np.reference.conventions import Seen, convention
from gpt2np.reference.error_measure import Measure, difference, measure
from gpt2np.reference.noise_bands import Expected, expect
from gpt2np.reference.placement import Placed, Placement
from gpt2np.reference.position_alignment import Alignment
from gpt2np.reference.precision import EPSILON
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace

HALF = ("float16", "bfloat16")
# What programs in mixed precision keep in float32, whatever they multiply in.
_KEPT_WIDE = ("resid_pre", "resid_mid", "resid_post", "ln_1", "ln_2", "ln_f")
_ROWS = re.compile(r"^\d+ rows? ")  # a note on how many there are
_LEAST = 2.0**-24  # the smallest number that float16 has


@dataclass(frozen=True)
class SiteReport:
    """One array of the dump: under which name and layout it was found, and how far off it is.

    `excused` if what is wrong with it is no mistake in the computation: it is said in the pattern what it is.
    `unused` if what follows is right, and would not be with these values; `other` is the site whose values it
    has instead of its own.
    """

    site: str
    layer: int | None
    name: str
    layout: str
    dtype: str
    notes: tuple[str, ...]
    measure: Measure
    excused: bool = False
    unused: bool = False
    other: str = ""

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
            "excused": self.excused,
            "unused": self.unused,
            "notes": list(self.notes),
        }


class Bands:
    """What may be between an array and the truth: the noise of the arithmetic, or what the user says.

    The arithmetic is that of the array and of all before it: a float32 array is as noisy as the half ones
    that it was computed from. Half arrays that are float32 ones rounded at the end make nothing noisier.
    """

    def __init__(
        self,
        placement: Placement,
        truth: Trace,
        model: Model,
        rtol: float | None,
        atol: float | None,
        noise: Expected | None = None,
    ) -> None:
        """`noise` is that of float32, if it is known already."""
        self.truth, self._model = truth, model
        self._tolerances = None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)
        self._expected: dict[str, Expected] = {}
        if self._tolerances is None:
            precisions = {"float32", *(p.dtype for p in placement.placed if p.dtype in HALF)}
            known = {} if noise is None else {"float32": noise}
            self._expected = {p: known.get(p) or expect(model, truth.token_ids, p, truth) for p in precisions}
        self._half = {} if self._tolerances else self._half_before(placement)

    def of(self, site: str, dtype: str = "float32") -> Array:
        """The band of a site that is stored in this precision."""
        if self._tolerances is not None:
            right = self.truth[site]
            sizes = np.abs(np.where(np.isfinite(right), right, 0.0))
            return np.asarray(self._tolerances[1] + self._tolerances[0] * sizes)
        return self._expected.get(dtype, self._expected["float32"]).bands[site]

    def precisions(self, site: str, dtype: str) -> tuple[str, ...]:
        """Those in which an array that is stored so may have been computed, the finest first."""
        own = dtype if dtype in HALF else "float32"
        return tuple(dict.fromkeys((own, self._half.get(site, own))))

    def noise(self, site: str, dtype: str) -> Expected:
        """The truth with the bands of every site, for the arithmetic of one of them."""
        precision = self.precisions(site, dtype)[-1]
        found = self._expected.get(precision)
        return found or expect(self._model, self.truth.token_ids, "float32", self.truth)

    def _half_before(self, placement: Placement) -> dict[str, str]:
        """For each site the half precision that steps before it were computed in."""
        computed = {p.site: p.dtype for p in placement.placed if p.dtype in HALF and self._is_computed(p)}
        if not computed:
            return {}
        found, current = {}, ""
        wide = [p for p in placement.placed if p.dtype not in HALF and p.site.startswith("h.")]
        if all(p.site.split(".", 2)[2] in _KEPT_WIDE for p in wide):
            current = next(iter(computed.values()))  # the products are not in the dump
        before = {site.name for site in self.truth.config.architecture.sites.before_layers}
        for placed in placement.placed:
            current = computed.get(placed.site, current)
            if current and placed.site not in before:
                found[placed.site] = current
        return found

    def _is_computed(self, placed: Placed) -> bool:
        """Whether a half array is noisier than the truth, rounded, is."""
        truth, values = self.truth[placed.site], placed.array
        if values.shape != truth.shape:
            return True
        with np.errstate(all="ignore"):
            rounding = np.abs(truth) * (0.51 * EPSILON[placed.dtype]) + _LEAST
            error = np.abs(values.astype(np.float64) - truth)
            fine = (error <= rounding + self.of(placed.site)) | ~np.isfinite(truth)
        return not bool(fine.all())


class Judgement:
    """The reports of a dump's arrays in the order of execution; `arrays` are they with all rows, by site."""

    def __init__(self, placement: Placement, truth: Trace, bands: Bands, model: Model, cut: bool) -> None:
        """`model` computes in float64; `cut`: of arrays with too many rows the first ones are meant."""
        self.truth, self.bands, self.model, self.config = truth, bands, model, truth.config
        self.arrays: dict[str, Array] = {}
        alignment = Alignment(len(truth.token_ids), self.config, cut)
        held = {placed.site: self._held(placed, alignment) for placed in placement.placed}
        measures = {site: report.measure for site, report in held.items()}
        self.reports = [self._excused(held[p.site], measures) for p in placement.placed]
        self.reports = self._renamed(self._exchanged(self.reports))

    def _resolve(self, name: str) -> tuple[Site, int | None]:
        return self.config.architecture.sites.resolve(name, None, self.config.n_layer)

    def _held(self, placed: Placed, alignment: Alignment) -> SiteReport:
        site, layer = self._resolve(placed.site)
        truth, notes = self.truth[placed.site], placed.notes
        for precision in self.bands.precisions(placed.site, placed.dtype):
            held = alignment.hold(placed.array, truth, self.bands.of(placed.site, precision), site, layer)
            if held.measure.ratio <= 1:
                break
        if held.note:
            notes = (*(note for note in notes if not _ROWS.search(note)), held.note)
        if precision in HALF and placed.dtype not in HALF:
            notes = (*notes, f"as noisy as the {precision} before it")
        self.arrays[placed.site] = held.whole
        about = placed.site, layer, placed.name, placed.layout, placed.dtype, notes
        return SiteReport(*about, held.measure, excused=held.elsewhere)

    # -- what is no mistake -----------------------------------------------------------------------

    def _excused(self, report: SiteReport, measures: dict[str, Measure]) -> SiteReport:
        """A report as it is, or with what the array holds instead of the site."""
        values, truth = self.arrays[report.site], self.truth[report.site]
        if report.measure.ratio <= 1 or report.excused or values.shape != truth.shape:
            return report
        if not self._says_something(report) and not self._goes_on_wrong(report, measures):
            return replace(report, excused=True)
        site, layer = self._resolve(report.site)
        unused = only_recorded(report.site, values, self.model, self.truth, self._band, measures)
        window = None if layer is None else self.config.window(layer)
        band = self.bands.of(report.site, report.dtype)
        scale = 1.0 if layer is None else self.config.attention_scale(layer)
        seen = Seen(site, values, truth, band, window, report.name, report.dtype, scale)
        found = convention(seen, unused)
        if found is None:
            return replace(report, unused=unused)
        if not found.harmless:
            return replace(report, excused=True, measure=replace(report.measure, pattern=found.note))
        with np.errstate(all="ignore"):
            ratio = float(np.max(np.where(found.error == 0, 0.0, found.error / band)))
        self.arrays[report.site] = truth  # nothing that is compared is wrong with it
        measures[report.site] = Measure(min(ratio, 1.0), float(np.max(found.error)), float(np.max(band)))
        return replace(report, measure=measures[report.site], notes=(*report.notes, found.note))

    def _band(self, site: str) -> Array:
        return self.bands.of(site)

    def _goes_on_wrong(self, report: SiteReport, measures: dict[str, Measure]) -> bool:
        """Whether a later site is wrong with numbers that somebody has computed."""
        names = list(measures)
        wrong = (name for name in names[names.index(report.site) + 1 :] if measures[name].ratio > 1)
        return any(self._says_something(replace(report, site=name)) for name in wrong)

    def _says_something(self, report: SiteReport) -> bool:
        """Whether the wrong rows hold numbers: not NaN or infinity alone, nor 0 as memory never written."""
        values, truth = self.arrays[report.site], self.truth[report.site]
        if values.shape != truth.shape:
            return True
        site, layer = self._resolve(report.site)
        error = difference(values, truth, site, None if layer is None else self.config.window(layer))
        outside = error > self.bands.of(report.site, report.dtype)
        told = np.isfinite(values) | (np.isneginf(values) if site.unseen == -np.inf else False)
        if not told[outside].any():
            return False
        if site.name in self.config.architecture.positional:
            return True
        axes = site.axis_names
        row_axis = next((i for i, axis in enumerate(axes) if axis in ("pos", "query")), None)
        if row_axis is None:
            return True
        rows = np.moveaxis(outside, row_axis, 0).reshape(outside.shape[row_axis], -1).any(axis=1)
        written = np.where(np.isfinite(truth), values, 0.0)
        return bool(np.moveaxis(written, row_axis, 0)[rows].any())

    # -- arrays under the name of another site ----------------------------------------------------

    def _exchanged(self, reports: list[SiteReport]) -> list[SiteReport]:
        """Reports in which arrays that have each other's values are excused: no computation gives them.

        They are of one kind of site in several layers, or of one layer, if what follows is right.
        """
        wrong = [r for r in reports if r.measure.ratio > 1 and not r.excused]
        kinds = {r.site: self._resolve(r.site)[0] for r in wrong}
        there: dict[str, str] = {}
        for report in wrong:
            for other in wrong:
                same = kinds[report.site] is kinds[other.site]
                alike = kinds[report.site].axis_names == kinds[other.site].axis_names
                able = report is not other and (same or (alike and report.unused and other.unused))
                if able and self._has_values_of(report.site, other.site):
                    there[report.site] = other.site
                    break
        while loose := [site for site, other in there.items() if other not in there]:
            for site in loose:
                del there[site]
        if len(set(there.values())) < len(there):
            return reports
        return [self._under_another(r, there[r.site]) if r.site in there else r for r in reports]

    def _under_another(self, report: SiteReport, other: str) -> SiteReport:
        """A report of an array that was recorded under the name of another one."""
        pattern = f"your {report.name} is our {other}: recorded under each other's names, or in another order"
        return replace(report, excused=True, other=other, measure=replace(report.measure, pattern=pattern))

    def _has_values_of(self, site: str, other: str) -> bool:
        """Whether the array of a site has the values of another one; one element tells most that do not."""
        values, truth = self.arrays[site], self.truth[other]
        if values.shape != truth.shape or np.ndim(values) < 2:
            return False
        last = (-1,) * values.ndim
        band = np.broadcast_to(self.bands.of(other), truth.shape)
        if not abs(float(values[last]) - float(truth[last])) <= float(band[last]):
            return False
        return self._measured(values, other).ratio <= 1

    def _renamed(self, reports: list[SiteReport]) -> list[SiteReport]:
        """Reports in which an array that has the values of another site counts as that one.

        Only where what follows shows that the program went on with the right values of the site of its name:
        `embed` is what many call the embedding of the tokens alone. Where nothing follows, the other site is
        said.
        """
        there = {report.site for report in reports}
        found: list[SiteReport] = []
        for report in reports:
            wrong = report.measure.ratio > 1 and not report.excused
            first = not report.unused and all(r.measure.ratio <= 1 for r in found)
            other = self._other_site(report, behind=first) if wrong else None
            if other is None:
                found.append(report)
            elif report.unused:
                note = f"it has the values of {other}, and what follows from {report.site} is right"
                if other in there:
                    at = next(i for i, r in enumerate(found) if r.site == other)
                    found[at] = replace(
                        found[at], notes=(*found[at].notes, f"your {report.name} is it again: {note}")
                    )
                    del self.arrays[report.site]
                else:
                    layer = self._resolve(other)[1]
                    m = self._measured(self.arrays[report.site], other)
                    named = replace(report, site=other, layer=layer, measure=m, unused=False)
                    found.append(replace(named, notes=(*report.notes, note)))
                    self.arrays[other] = self.arrays.pop(report.site)
            else:
                found.append(self._of_other_site(report, other, reports))
        order = [name for name, _, _ in self.config.architecture.sites.expand(self.config.n_layer)]
        found.sort(key=lambda report: order.index(report.site))
        self.arrays = {r.site: self.arrays[r.site] for r in found}
        return found

    def _of_other_site(self, report: SiteReport, other: str, reports: list[SiteReport]) -> SiteReport:
        """A report with the site whose values it has, excused if that may be a matter of counting."""
        pattern = f"your {report.name} is our {other}"
        counted = (
            report.layer is not None and other == f"h.{report.layer - 1}." + report.site.split(".", 2)[2]
        )
        alone = all(
            r.layer in (None, report.layer) and (r.measure.ratio <= 1 or r is report) for r in reports
        )
        if counted and alone:
            pattern += ": layers numbered from 1?"
        m = replace(
            report.measure, pattern=f"{pattern}; {report.measure.pattern}" if not counted else pattern
        )
        return replace(report, measure=m, excused=counted and alone, other=other)

    def _measured(self, values: Array, name: str) -> Measure:
        site, layer = self._resolve(name)
        return measure(values, self.truth[name], self.bands.of(name), site, layer, self.config)

    def _other_site(self, report: SiteReport, behind: bool) -> str | None:
        """The nearest site before it that has these values, or else the first one `behind` it."""
        if np.ndim(self.arrays[report.site]) < 2:
            return None
        axes = self._resolve(report.site)[0].axis_names
        order = list(self.config.architecture.sites.expand(self.config.n_layer))
        at = next(i for i, (name, _, _) in enumerate(order) if name == report.site)
        nearest = [*order[:at][::-1], *(order[at + 1 :] if behind else [])]
        for name, site, _ in nearest:
            if site.axis_names != axes or site.name == "resid_pre":
                continue  # which is the resid_post before it
            try:
                if self._has_values_of(report.site, name):
                    return name
            except Gpt2npError:  # it is not in the truth
                continue
        return None
