"""Arrays that are not what a site holds, but right by another convention: said, and not called a mistake."""

from dataclasses import dataclass

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.error_measure import difference, valid
from gpt2np.reference.precision import EPSILON
from gpt2np.tracing.sites import Site

_LOG2_E = 1.4426950408889634  # where exp is computed as a power of 2
_FEW = 8  # columns: a constant explains any row that has not many more
_TL = "TransformerLens' default loader; use from_pretrained_no_processing"


@dataclass(frozen=True)
class Convention:
    """By what an array differs, in words; `harmless` if nothing that is compared is lost by it.

    `error` is what it does not explain: absolute, element by element.
    """

    note: str
    harmless: bool
    error: Array


@dataclass(frozen=True)
class Seen:
    """An array of a dump beside the truth: the site, its window, under which name and dtype it came.

    `scale` is what the layer's dot products are multiplied by.
    """

    site: Site
    values: Array
    truth: Array
    band: Array
    window: int | None
    name: str
    dtype: str
    scale: float = 1.0

    def rest(self, explained: Array) -> Array:
        """What is left of the errors if this is what was meant."""
        return difference(self.values, explained, self.site, self.window)

    def fits(self, error: Array, size: float | Array = 1.0) -> bool:
        """Whether it is no more than noise, for values that are so many times larger than the site's own."""
        return bool((error <= np.maximum(size, 1.0) * self.band).all())


def convention(seen: Seen, only_recorded: bool) -> Convention | None:
    """The convention by which an array is right, or None.

    `only_recorded` if what follows shows that the program went on with other numbers than these.
    """
    if not np.isfinite(seen.values[np.isfinite(seen.truth)]).all():
        return None
    found = _constant_a_row(seen) or (_factor(seen) if only_recorded else None)
    return found or _centred(seen) or _folded_bias(seen)


def _constant_a_row(seen: Seen) -> Convention | None:
    """Logits or scores that differ by a constant in each row, which softmax does not see."""
    if seen.site.name not in ("logits", "attn.scores") or seen.truth.shape[-1] < _FEW:
        return None
    mask = valid(seen.site, seen.truth.shape, seen.window)
    mask = np.broadcast_to(True if mask is None else mask, seen.truth.shape)
    with np.errstate(all="ignore"):
        apart = np.where(mask, seen.values.astype(np.float64) - seen.truth, 0.0)
        shift = apart.sum(axis=-1, keepdims=True) / mask.sum(axis=-1, keepdims=True)
        largest = np.where(mask, seen.truth, -np.inf).max(axis=-1, keepdims=True)
        error = seen.rest(seen.truth + shift)
    noise = seen.band + 2 * EPSILON.get(seen.dtype, EPSILON["float32"]) * np.abs(shift)
    spread = np.where(mask, seen.truth, np.nan)
    if not (error <= noise).all() or (noise > np.nanstd(spread, axis=-1, keepdims=True).max() / 4).any():
        return None  # or the shift is so large that nothing is left of the row
    what = _name_of_shift(seen, shift, largest, noise)
    if seen.site.name == "attn.scores" and not what:
        return None  # a short row differs by a constant whatever is wrong with it
    note = (
        f"every row differs by a constant, which softmax does not see: {what or 'they give the same choice'}"
    )
    return Convention(note, True, error)


def _name_of_shift(seen: Seen, shift: Array, largest: Array, noise: Array) -> str:
    """What people take from a row: the largest, the mean, the logarithm of the sum of exponentials."""
    noise = noise.max(axis=-1, keepdims=True)
    if (np.abs(shift + largest) <= noise).all():
        return "less the largest of the row"
    if seen.site.name == "attn.scores":
        same = (np.abs(shift - shift.mean()) <= noise).all()
        return f"{float(shift.mean()):+.4g} everywhere" if same else ""
    total = largest + np.log(np.exp(seen.truth - largest).sum(axis=-1, keepdims=True))
    if (np.abs(shift + total) <= noise).all():
        return "log-probabilities"
    centred = (np.abs(shift + seen.truth.mean(axis=-1, keepdims=True)) <= noise).all()
    return "less the mean of the row, as a centred unembedding gives it" if centred else ""


def _factor(seen: Seen) -> Convention | None:
    """Scores before or queries after the scaling, in the base of 2 or not, while what follows is right."""
    scale = seen.scale
    usual = {
        "attn.scores": (1 / scale, _LOG2_E, _LOG2_E / scale),
        "attn.q": (scale, scale**0.5, _LOG2_E * scale),
        "attn.k": (scale, scale**0.5),
    }.get(seen.site.name, ())
    for factor in usual:
        if abs(factor - 1) < 1e-3:
            continue
        with np.errstate(all="ignore"):
            error = seen.rest(seen.truth * factor)
        if seen.fits(error, factor):
            before = "before they are scaled, " if factor == 1 / scale and "scores" in seen.site.name else ""
            note = f"{before}{factor:.6g} times ours; what follows is right, so that only the record is"
            return Convention(note, True, error / max(factor, 1.0))
    return None


def _centred(seen: Seen) -> Convention | None:
    """The residual stream, or what is added to it, without its mean over n_embd."""
    if seen.site.axis_names != ("pos", "n_embd") or seen.site.name.startswith("ln_"):
        return None
    error = seen.rest(seen.truth - seen.truth.mean(axis=-1, keepdims=True))
    return Convention(f"its mean over n_embd is taken out: {_TL}", False, error) if seen.fits(error) else None


def _folded_bias(seen: Seen) -> Convention | None:
    """Values of TransformerLens that lack the same vector at every position."""
    if seen.site.name not in ("attn.v", "attn.z") or "hook_" not in seen.name or len(seen.truth) < 3:
        return None
    shift = (seen.values.astype(np.float64) - seen.truth).mean(axis=0)
    error = seen.rest(seen.truth + shift)
    note = f"every position differs by the same vector: the bias of the values is folded away: {_TL}"
    return Convention(note, False, error) if seen.fits(error) else None
