"""How well a replay explains a dump: row by row it must be what is right, or what the replay gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import seen
from gpt2np.reference.error_measure import difference
from gpt2np.reference.mistake_replay import Replayed
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace

_EXPLAINS = (
    0.003  # of an error, what a replay may leave unexplained: its own noise is larger than the truth's
)
_MASKED = -1e4  # scores as low as this are as good as minus infinity
_FEW = 160  # columns of a wide site that are looked at first


@dataclass(frozen=True)
class Fit:
    """How well a replay explains a dump.

    Of the rows that it changes `contradicted` is the share that is right in the dump, `denied` the largest
    such share in one of the wrong sites; `unexplained` is the share of the error that it leaves.
    """

    contradicted: float
    denied: float
    unexplained: float


@dataclass(frozen=True)
class _Held:
    """An array of the dump beside the truth, as far as no replay changes it; errors have two axes or more."""

    site: Site
    window: int | None  # of its layer
    error: Array
    band: Array
    wrong: Array  # rows that are outside: [..., 1]
    evidence: bool  # whether something is outside that is a number
    most: Array  # the largest error of each row: [..., 1]
    cap: Array  # what a replay may leave of it at the very most
    right_norm: Array  # of the truth's rows: [..., 1]

    @cached_property
    def few_columns(self) -> Array:
        """Those in which wrong rows are most wrong, and some more."""
        flat, wrong = self.error.reshape(-1, self.error.shape[-1]), self.wrong.reshape(-1)
        worst = flat[wrong][:_FEW].argmax(axis=-1)
        spread = np.linspace(0, flat.shape[-1] - 1, min(_FEW, flat.shape[-1])).astype(np.intp)
        return np.unique(np.concatenate([worst, spread]))


class Fits:
    """Holds replays against the arrays of one dump: `arrays` by full name, in the axes of our sites."""

    def __init__(self, truth: Trace, bands: Mapping[str, Array], arrays: Mapping[str, Array]) -> None:
        self._truth, self._bands, self._arrays = truth, bands, arrays
        self._known: dict[str, _Held] = {}

    def fit(self, replayed: Replayed, unseen: tuple[str, ...], checks: Sequence[str]) -> Fit | None:
        """How well a replay explains these arrays; None where it does not.

        A site that is right altogether, and would not be with the mistake, shows that it was not made.
        """
        changed, contradicted, denied = 0, 0, 0.0
        left = total = 0.0
        evidence = False
        for name in checks:
            held, values, truth = self._held(name), self._arrays[name], self._truth[name]
            replay = _shown(replayed[name], values, truth, held)
            error, band, wrong, most = held.error, held.band, held.wrong, held.most
            rest = _rows(difference(values, replay, held.site, held.window))
            if (wrong & ~(rest <= held.cap).all(axis=-1, keepdims=True)).any():
                return None
            growth = np.maximum(1.0, _norm(_rows(replay)) / np.maximum(held.right_norm, 1e-30))
            evidence |= held.evidence
            tolerance = np.minimum(np.maximum(band * growth, _EXPLAINS * most), held.cap)
            tolerance = np.where(np.isfinite(most), tolerance, band * growth)
            if (wrong & ~(rest <= tolerance).all(axis=-1, keepdims=True)).any():
                return None
            if held.site.name not in unseen:
                moved = _rows(difference(replay, truth, held.site, held.window)) > 4 * band
                affected = moved.any(axis=-1, keepdims=True)
                changed += int(affected.sum())
                contradicted += int((affected & ~wrong).sum())
                if not wrong.any():
                    moved &= np.isfinite(_rows(replay))  # scores may be recorded before they are masked
                    if not _undone(held.site) and moved.any():
                        return None
                elif not _undone(held.site):
                    denied = max(denied, float((affected & ~wrong).sum() / max(affected.sum(), 1)))
            where = np.broadcast_to(wrong, error.shape) & np.isfinite(error)
            left += float(np.sum(np.square(rest[where])))
            total += float(np.sum(np.square(error[where])))
        if not evidence:  # what is not a number says nothing about how it came about
            return None
        return Fit(contradicted / max(changed, 1), denied, float(np.sqrt(left / total)) if total else 0.0)

    def few_columns(self, name: str) -> Array:
        """The columns by which `rejects` judges."""
        return self._held(name).few_columns

    def rejects(self, name: str, replay: Array) -> bool:
        """Whether a replay in float32 of `few_columns` shows already that it explains nothing.

        It allows for more than `fit` does, and float32's own noise is a small part of a band.
        """
        held, columns = self._held(name), self.few_columns(name)
        rest = difference(self._arrays[name][..., columns], replay, held.site)
        band = np.broadcast_to(held.band, held.error.shape)[..., columns]
        allowed = np.maximum(held.most / 2, band)
        finite = np.isfinite(held.most)
        return bool((held.wrong & finite & ~(rest <= allowed).all(axis=-1, keepdims=True)).any())

    def _held(self, name: str) -> _Held:
        """What no replay changes about an array, computed once."""
        if name not in self._known:
            config = self._truth.config
            site, layer = config.architecture.sites.resolve(name, None, config.n_layer)
            window = None if layer is None else config.window(layer)
            values, truth = self._arrays[name], self._truth[name]
            error = difference(values, truth, site, window)
            band = self._bands[name]
            if error.ndim == 1:
                band = band[:, None]
            error = _rows(error)
            outside = error > band
            evidence = bool((outside & ~np.isnan(values.reshape(error.shape))).any())
            wrong = np.asarray(outside.any(axis=-1, keepdims=True))
            most = error.max(axis=-1, keepdims=True)
            cap = np.maximum(most / 3, band / 2)
            about = error, band, wrong, evidence, most, cap, _norm(_rows(truth))
            self._known[name] = _Held(site, window, *about)
        return self._known[name]


def _undone(site: Site) -> bool:
    """Whether a site is computed back from what a norm gave, not from what it did."""
    return site.derived and site.name.startswith("ln_")


def _rows(x: Array) -> Array:
    """An array whose last axis is that of one row's numbers: a number a position is a row of one."""
    return x[:, None] if x.ndim == 1 else x


def _norm(x: Array) -> Array:
    """The length of each row, of what is finite in it."""
    finite = np.nan_to_num(x, posinf=0.0, neginf=0.0)
    with np.errstate(all="ignore"):
        return np.asarray(np.sqrt(np.sum(np.square(finite), axis=-1, keepdims=True)))


def _shown(replay: Array, values: Array, truth: Array, held: _Held) -> Array:
    """A replay as a dump of it is laid out.

    What is not a number in a pattern does not count where nothing is seen, nor which value a masked score
    has: a large negative number, or 0 where nothing is written.
    """
    if held.site.name == "attn.scores":
        masked = np.isneginf(replay) & np.isfinite(truth)
        return np.where(masked & ((values <= _MASKED) | (values == 0)), values, replay)
    if held.site.name != "attn.pattern" or not np.isnan(replay).any():
        return replay
    hidden = ~seen(replay.shape, held.window)
    return np.where(hidden & np.isnan(replay), values, replay)
