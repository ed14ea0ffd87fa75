"""Compares a dump with our run: is it right, and if not, which step is the first wrong one, and why."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.errors import ComparisonError, InputError, short
from gpt2np.files import MAX_BYTES
from gpt2np.html_tables import heat_table, plain_table
from gpt2np.model import Model
from gpt2np.reference.candidates import Candidate
from gpt2np.reference.diagnosis import Diagnosis
from gpt2np.reference.dumps import Dump, dump_of, is_fact
from gpt2np.reference.judgement import Bands, Judgement, SiteReport
from gpt2np.reference.noise_bands import Expected
from gpt2np.reference.placement import Placement, place
from gpt2np.reference.precision import in_precision
from gpt2np.reference.search_limit import SECONDS, SearchLimit
from gpt2np.tables import counted
from gpt2np.text.prompts import Prompt
from gpt2np.threads import using_those_of
from gpt2np.tracing.trace import Trace

# Mistakes in what was recorded, not in what was computed.
_IN_THE_RECORD = ("rows-reversed", "record-overwritten", "cache-reversed")
VERDICTS = ("within-noise", "incomplete", "suspicious", "wrong")


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: `str()` is the report for people, `to_dict()` the one for programs.

    `verdict` is the worst of all sites: `within-noise`, `suspicious` or `wrong`; or `incomplete` where
    they are all within noise, but an array with the name of a site could not be compared. `site`, `layer`,
    `head` and `position` are those of the first site outside its band, `head` None unless it is one head.
    `mistake` is the slug of the best of `candidates`, None where no mistake of the catalogue fits. `n_arrays`
    is how many arrays the dump has beside token ids, `offers` say what those of unknown names may be, and
    `unusable` are those of known names that could not be compared. `searched` is after how many seconds the
    search for a mistake was given up, None where it came to its end.
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
    n_arrays: int = 0
    offers: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    searched: float | None = None

    def check(self) -> None:
        """Raise an error unless the dump is within noise; for test suites.

        Raises:
            ComparisonError: it is not, or holds what has the name of a site and could not be compared; its
                text is the report.

        Example:
            >>> gpt2np.compare(my_gpt2(ids), "gpt2", ids).check()
        """
        if self.exit_code:
            raise ComparisonError(str(self))

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
        """The head, if it is only one."""
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
        """0 within noise, 1 suspicious or wrong, 2 incomplete: but for what could not be compared."""
        return {"within-noise": 0, "incomplete": 2}.get(self.verdict, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for programs and for the page."""
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
            "search_ended_after": self.searched,
            "excused": self.first is not None and self.first.excused,
            "unused": self.first is not None and self.first.unused,
            "sites": [site.to_dict() for site in self.sites],
            "arrays": self.n_arrays,
            "unknown": list(self.unknown),
            "offers": list(self.offers),
            "unusable": list(self.unusable),
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
            "notes": list(self.notes),
            "model": self.model,
            "model_type": self.model_type,
            "source": self.source,
            "token_ids": list(self.token_ids),
        }

    def __repr__(self) -> str:
        where = "" if self.site is None else f" at {self.site}"
        why = "" if self.mistake is None else f", {self.mistake}"
        compared = counted(len(self.sites), "array")
        return f"<Comparison with {self.model}: {self.verdict}{where}{why}; {compared} compared>"

    def _repr_html_(self) -> str:
        """The verdict, the first wrong site, what explains it, and the error of each site."""
        best = self.candidates[0] if self.candidates else None
        facts = {
            "verdict": self.verdict,
            "first wrong": None if self.first is None else f"{self.site}, {self.first.measure.pattern}",
            "mistake": None if best is None else f"{best.slug}: {best.explanation}",
            "cure": None if best is None else best.cure,
        }
        rows = [[name, value] for name, value in facts.items() if value]
        return plain_table([["", ""], *rows], repr(self).strip("<>")) + self._map()

    def _map(self) -> str:
        """Error over noise of every site, layers across."""
        layers = sorted({site.layer for site in self.sites if site.layer is not None})
        names = list(dict.fromkeys(_in_layer(site.site) for site in self.sites))
        ratios = np.full((len(names), 1 + len(layers)), np.nan)
        for site in self.sites:
            column = 0 if site.layer is None else 1 + layers.index(site.layer)
            ratios[names.index(_in_layer(site.site)), column] = min(site.measure.ratio, 1e9)
        columns = ["no layer", *(f"layer {layer}" for layer in layers)]
        return heat_table(ratios, names, columns, "error over noise, up to 1 is right", most=4.0)

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
    max_bytes: int | None = MAX_BYTES,
    search: float = SECONDS,
    forms: int = 0,
    progress: Callable[[int, float], object] | None = None,
    noise: Expected | None = None,
) -> Comparison:
    """Compare a dump of activations with the same run in float64.

    `dump` is a file or folder (see `dumps.read_dump`), a mapping of names to arrays, or a trace; `model` a
    Model, or what `gpt2np.load` takes; `prompt` text or token ids, and may be left out where the dump itself
    says what ran. `names` maps their names to ours, `shapes` describes a raw file. `prefill` says that the
    dump comes from decoding with a cache: so many tokens at once, then one at a time. `rtol` and `atol`
    replace the noise bands by `atol + rtol * |truth|`. A prompt longer than the context is cut to its last
    `n_positions` tokens. `special` is that of `Model.token_ids`. `max_bytes` is how much memory the arrays
    of a `.npz` may take (None: any). `search` is for how many seconds of computing to look for the mistake
    behind the first wrong site (0: to the end), and `forms` how many forms of mistakes to try (0: all), which
    ends at the same place on every machine; the verdict does not depend on either. `progress` is called now
    and then with how many forms of mistakes have been tried, and after how many seconds. `noise` is what
    `noise_bands.expect` gave for these tokens in float32: many dumps of one run are compared faster with it.

    Raises:
        InputError: the dump cannot be read or laid out, or nothing in it has a name of a site.

    Example:
        >>> found = gpt2np.compare("mine.safetensors", "gpt2", "The capital of France is")
        >>> found.verdict, found.site, found.mistake
        ('wrong', 'h.0.mlp.post', 'gelu-erf')
    """
    limit = SearchLimit(search, progress, forms=forms)
    model = _model(model)
    with using_those_of(model):
        read = dump_of(dump, shapes=shapes, config=model.config, max_bytes=max_bytes)
        whole = model.token_ids(_prompt(prompt, read.token_ids), limit=False, special=special)
        ids = whole[-model.config.n_positions :]
        _check(prefill, len(ids), rtol, atol)
        wide = in_precision(model, "float64")
        if noise is not None and (list(noise.truth.token_ids) != ids or noise.truth.config != model.config):
            raise InputError("noise is that of other tokens, or of another model: leave it out")
        truth = wide.trace(ids) if noise is None else noise.truth
        placement = _placement(read, truth, model, names)
        bands = Bands(placement, truth, model, rtol, atol, noise)
        judged = _Judged(placement, truth, bands, wide, model, whole, prefill, limit)
        return _found(read, placement, model, judged, whole)


def _in_layer(name: str) -> str:
    """The name of a site without its layer."""
    return re.sub(r"^h\.\d+\.", "", name)


def _model(given: Model | str | os.PathLike[str] | None) -> Model:
    """A model as it is, or what `gpt2np.load` makes of it."""
    from gpt2np.loading import load

    return given if isinstance(given, Model) else load(given)


def _placement(read: Dump, truth: Trace, model: Model, names: Mapping[str, str] | None) -> Placement:
    """The arrays of a dump as sites, of which there must be one."""
    placement = place(read, truth, model.config, names=names)
    if not placement.placed:
        reasons = "; ".join(f"{short(refused.name)}: {refused.reason}" for refused in placement.refused[:3])
        raise InputError(f"{read.path}: no array of it can be compared ({reasons})")
    return placement


def _found(
    read: Dump, placement: Placement, model: Model, judged: "_Judged", whole: Sequence[int]
) -> Comparison:
    """The verdict, and all that is to be said beside it."""
    judgement, candidates = judged.result()
    architecture, ids, first = model.config.architecture, judgement.truth.token_ids, _first(judgement)
    notes = [] if len(ids) == len(whole) else [f"the last {len(ids)} of {len(whole)} tokens were run"]
    if read.token_ids is not None and list(read.token_ids[: len(ids)]) != list(ids):
        notes.append("the dump says that it ran other tokens: " + " ".join(map(str, read.token_ids[:20])))
    notes += placement.notes
    unusable = tuple(dict.fromkeys(refused.name for refused in placement.refused if not refused.harmless))
    verdicts = [*(r.verdict for r in judgement.reports), *(["incomplete"] if unusable else [])]
    return Comparison(
        max(verdicts, key=VERDICTS.index),
        tuple(judgement.reports),
        first,
        tuple(candidates),
        tuple(ids),
        model.name,
        read.path,
        tuple(notes),
        tuple(placement.unknown),
        tuple((refused.name, refused.reason) for refused in placement.refused),
        architecture.model_type,
        sum(not is_fact(name) for name in read.arrays),
        tuple(map(str, placement.offers)),
        unusable,
        judged.limit.ended_after,
    )


def _first(judgement: Judgement) -> SiteReport | None:
    """The report of the first site outside its band."""
    return next((r for r in judgement.reports if r.measure.ratio > 1), None)


@dataclass
class _Judged:
    """Each array against the truth, and the mistakes that explain the first wrong one."""

    placement: Placement
    truth: Trace
    bands: Bands
    wide: Model  # in float64
    model: Model
    whole: Sequence[int]
    prefill: int | None
    limit: SearchLimit

    def result(self) -> tuple[Judgement, list[Candidate]]:
        """Return the reports and the mistakes, the best first.

        Where an array has more rows than there are tokens and no other tokens explain it, its first rows are
        taken for the text's, if that names a mistake.
        """
        judgement = Judgement(self.placement, self.truth, self.bands, self.wide, cut=False)
        candidates = self._candidates(judgement)
        first = _first(judgement)
        if first is not None and not candidates and not np.isfinite(first.measure.ratio):
            other = Judgement(self.placement, self.truth, self.bands, self.wide, cut=True)
            if found := self._candidates(other):
                return other, found
        return judgement, candidates

    def _candidates(self, judgement: Judgement) -> list[Candidate]:
        """The mistakes that explain the first wrong site; none where it is excused."""
        first, truth = _first(judgement), self.truth
        if first is None or first.excused:
            return []
        measures = {r.site: r.measure for r in judgement.reports}
        arrays, placed = judgement.arrays, {p.site: p.array for p in self.placement.placed}
        given = {
            site: placed[site] if site in placed and placed[site].size < truth[site].size else array
            for site, array in arrays.items()
        }
        noise = self.bands.noise(first.site, first.dtype)
        about = noise, given, arrays, measures, first.site, self.whole, self.prefill
        only = _IN_THE_RECORD if first.unused else None
        search = Diagnosis(
            self.wide, *about, quick=self.model, limit=self.limit, only=only, further=bool(first.other)
        )
        return search.candidates()


def _check(prefill: int | None, length: int, rtol: float | None, atol: float | None) -> None:
    """Refuse numbers that make no sense."""
    if prefill is not None and not 1 <= prefill <= length:
        raise InputError(f"prefill={prefill}: must be 1 to {length}, the number of tokens")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance is not None and not 0 <= tolerance < float("inf"):
            raise InputError(f"{name}={tolerance}: must be a number of at least 0")


def _prompt(prompt: Prompt | None, in_dump: Sequence[int] | None) -> Prompt:
    if prompt is not None:
        return prompt
    if in_dump is None:
        raise InputError("which prompt ran? The dump does not say: give the text or its token ids")
    return list(in_dump)
