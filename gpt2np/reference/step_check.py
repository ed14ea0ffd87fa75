"""Judges a single step: one array, as it is, against one site; and names the mistake that explains it."""

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpt2np.errors import InputError, short
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.ops import softmax as softmax_op
from gpt2np.reference.attention_future import FILL
from gpt2np.reference.axis_layouts import seen
from gpt2np.reference.candidates import CONTRADICTED, Candidate
from gpt2np.reference.diagnosis import Diagnosis
from gpt2np.reference.error_measure import Measure, difference, measure
from gpt2np.reference.mistake_replay import until_step
from gpt2np.reference.mistakes import CATALOGUE, KNOWN
from gpt2np.reference.noise_bands import Expected, expect
from gpt2np.reference.precision import in_precision
from gpt2np.reference.search_limit import SearchLimit
from gpt2np.text.prompts import Prompt
from gpt2np.threads import using_those_of
from gpt2np.tracing.sites import Site

_HINTS = {mistake.slug: tuple(mistake.hints) for mistake in KNOWN}
_DOUBLE = 2.0**-27  # of a band of float32: 4 times what arithmetic in float64 explains
_QUARTER = 0.25  # of a band of float32: what a run without a mistake seldom reaches
_SURE = 0.3  # of an error within the band, what a mistake that is named may leave unexplained
_KEPT = 4  # prompts whose truth and noise are remembered


@dataclass(frozen=True)
class StepVerdict:
    """The result of `check_step` for one array.

    `state` is `right`, `suspicious` (1 to 4 times the noise, or a future that is masked with too small a
    number), `wrong`, or `shape`. `where` names axes and indexes of what is most wrong, never a value; for a
    wrong shape it has both shapes. `ratio` is the largest error as a multiple of what float32 explains; a
    mistake may be named below 1, if the error is just what it gives. `mistake` is a slug of the catalogue,
    None where none explains the array; `hints` are its questions, the nearer one last. `tried` is how many
    forms of mistakes were tried, and `ended` whether the search ended before all were. `noise` is for the
    next call with these tokens.
    """

    site: str
    state: str
    where: str
    ratio: float
    mistake: str | None = None
    hints: tuple[str, ...] = ()
    tried: int = field(default=0, repr=False, compare=False)
    ended: bool = field(default=False, repr=False, compare=False)
    noise: Expected | None = field(default=None, repr=False, compare=False)

    @property
    def hint(self) -> str:
        """The first question; empty where no mistake is named."""
        return self.hints[0] if self.hints else ""


def check_step(
    site: str,
    values: Any,
    ids: Prompt,
    model: Model,
    *,
    mistakes: Collection[str] | None = None,
    budget: float = 1.0,
    forms: int = 0,
    noise: Expected | None = None,
) -> StepVerdict:
    """Compare one array with the site that it should be.

    `values` is an array or a list in the site's own shape, which is held as it is: no other layout is looked
    for, and scores in the future must be -inf, or at most -9000. `ids` are the tokens, or the text.
    `mistakes` are the slugs to look for; None: all that are made in a step without a cache. Those of a cache,
    and those in the choice of tokens, must be named. `budget` is how many seconds of computing the search may
    take (0: to the end), and `forms` how many forms of mistakes it may try (0: all), which ends at the same
    place on every machine. Truth and noise of the last prompts are remembered; `noise` is that of an earlier
    verdict on these tokens.

    Raises:
        InputError: the model is none, the values are no numbers, a mistake is not in the catalogue,
            the budget is no time, the forms are no count, or the noise is that of other tokens.
        UnknownSiteError: there is no such site.

    Example:
        >>> check_step("h.0.ln_1", my_layer_norm(x, weight, bias, 1e-5), "Elizabeth was", model)
        StepVerdict(site='h.0.ln_1', state='wrong', where='pos 0, n_embd 51 (576 of 576 are outside)', ...
    """
    if not isinstance(model, Model):
        raise InputError(f"model={short(model)}: must be what gpt2np.load gives")
    if mistakes is None:
        only: Collection[str] = {mistake.slug for mistake in CATALOGUE}
    else:
        only = _checked(mistakes)
    limit = SearchLimit(budget, name="budget", forms=forms)
    with using_those_of(model):
        wide, expected = _expected(model, model.token_ids(ids), noise)
        table, n_layer = model.config.architecture.sites, model.config.n_layer
        kind, layer = table.resolve(site, None, n_layer)
        name = kind.full_name(layer)
        if name == "top_k_tokens":
            raise InputError("top_k_tokens holds ids, not numbers with noise: compare them with ==")
        array, truth = _array(values), expected.truth[name]
        if array.shape != truth.shape:
            where = f"[{' '.join(kind.axis_names)}] = {truth.shape}, yours is {array.shape}"
            return StepVerdict(name, "shape", where, np.inf, noise=expected)
        found = _Step(wide, expected, name, kind, layer, array, only, limit, mistakes is not None).verdict()
        return replace(found, tried=limit.tried, ended=limit.ended, noise=expected)


def _checked(mistakes: Collection[str]) -> Collection[str]:
    if isinstance(mistakes, str):
        raise InputError(f"mistakes={short(mistakes)}: must be a list of slugs")
    for slug in mistakes:
        if slug not in _HINTS:
            raise InputError(f"mistakes: {short(slug)} is not in the catalogue (gpt2np compare --mistakes)")
    return mistakes


def _array(values: Any) -> Array:
    """Somebody's numbers as an array of float32 or float64.

    Raises:
        InputError: they are no such numbers.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the values are no array of numbers: {short(str(error))}") from None
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise InputError(f"the values are {array.dtype}: must be float32 or float64")
    return array


# -- truth and noise, computed once ---------------------------------------------------------------------

_Known = tuple["weakref.ref[Model]", Model, Expected]
_known: OrderedDict[tuple[int, tuple[int, ...]], _Known] = OrderedDict()


def _expected(model: Model, ids: list[int], noise: Expected | None) -> tuple[Model, Expected]:
    """The model in float64, and what it gives for these tokens: as it was computed for an earlier call."""
    if noise is not None and (list(noise.truth.token_ids) != ids or noise.truth.config != model.config):
        raise InputError("noise is that of other tokens, or of another model: leave it out")
    key = id(model), tuple(ids)
    found = _known.get(key)
    if found is None or found[0]() is not model:
        same = (wide for ref, wide, _ in _known.values() if ref() is model)
        wide = next(same, None) or in_precision(model, "float64")
        truth = None if noise is not None else wide.trace(ids)
        found = weakref.ref(model), wide, noise or expect(model, ids, "float32", truth)
    _known[key] = found
    _known.move_to_end(key)
    while len(_known) > _KEPT:
        _known.popitem(last=False)
    return found[1], noise or found[2]


# -- the verdict ----------------------------------------------------------------------------------------


class _Scaled(Mapping[str, Array]):
    """Bands, all smaller by a factor."""

    def __init__(self, bands: Mapping[str, Array], factor: float) -> None:
        self._bands, self._factor = bands, factor

    def __getitem__(self, name: str) -> Array:
        return self._bands[name] * self._factor

    def __iter__(self) -> Iterator[str]:
        return iter(self._bands)

    def __len__(self) -> int:
        return len(self._bands)


@dataclass
class _Step:
    """One array beside the truth."""

    model: Model  # in float64
    expected: Expected
    name: str
    site: Site
    layer: int | None
    values: Array
    only: Collection[str]
    limit: SearchLimit
    cached: bool  # whether to look for mistakes that only a cache makes possible

    def verdict(self) -> StepVerdict:
        """State, place and mistake."""
        truth, band = self.expected.truth[self.name], self.expected.bands[self.name]
        if self.site.unseen == -np.inf and (of_future := self._of_future(truth)):
            return of_future
        held = measure(self.values, truth, band, self.site, self.layer, self.model.config)
        error = difference(self.values, truth, self.site, self._window)
        if held.ratio > 1:
            return self._said(
                held.verdict, held.ratio, error / band, self._mistake(self.name, self.values, held)
            )
        fine = _DOUBLE if _is_double(self.values) else _QUARTER
        found = None
        if held.ratio > fine:  # too small for float32, but perhaps just what a mistake gives
            found = self._mistake(self.name, self.values, held, fine)
        ratios = error / (band * fine)
        return self._said("wrong" if found else "right", held.ratio, ratios, found)

    @property
    def _window(self) -> int | None:
        return None if self.layer is None else self.model.config.window(self.layer)

    def _said(self, state: str, ratio: float, ratios: Array, mistake: str | None) -> StepVerdict:
        state = "right" if state == "within-noise" else state
        where = "" if state == "right" else self._place(ratios)
        return StepVerdict(self.name, state, where, ratio, mistake, _HINTS.get(mistake or "", ()))

    def _place(self, ratios: Array) -> str:
        """Axes and indexes of the worst element, and how many are outside."""
        ratios = np.nan_to_num(ratios, nan=0.0, posinf=np.inf)
        index = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
        worst = ", ".join(f"{axis} {int(i)}" for axis, i in zip(self.site.axis_names, index, strict=True))
        return f"{worst} ({int(np.sum(ratios > 1)):,} of {ratios.size:,} are outside)"

    def _of_future(self, truth: Array) -> StepVerdict | None:
        """What is wrong with the mask of scores, if something is: judged by the pattern that it makes."""
        future = ~seen(truth.shape, self._window)
        masked = np.where(self.values <= FILL, -np.inf, self.values)
        right = np.broadcast_to(~future, masked.shape) == ~np.isneginf(masked)
        if right.all():
            return None
        whole = np.where(right, 0.0, np.inf)
        pattern = np.empty(masked.shape, np.float64)
        with np.errstate(all="ignore"):
            softmax_op(masked.astype(np.float64), out=pattern)
        name = f"h.{self.layer}.attn.pattern"
        site, layer = self.model.config.architecture.sites.resolve(name, None, self.model.config.n_layer)
        about = self.expected.truth[name], self.expected.bands[name], site, layer, self.model.config
        held = measure(pattern, *about)
        if held.ratio <= 1:
            return self._said("suspicious", held.ratio, whole, None)
        return self._said("wrong", np.inf, whole, self._mistake(name, pattern, held))

    # -- the mistake --------------------------------------------------------------------------------------

    def _mistake(self, name: str, values: Array, held: Measure, fine: float = 1.0) -> str | None:
        """The slug of the mistake that explains an array: made in this step, or in those before it.

        With bands that are smaller by `fine` it must explain all but a little of the error.
        """
        expected = Expected(self.expected.truth, _Scaled(self.expected.bands, fine))
        ids, scopes = expected.truth.token_ids, (True, False) if fine == 1 else (True,)
        for everywhere, before in itertools.product(scopes, list(self._right_before(name))):
            arrays = {earlier: expected.truth[earlier] for earlier in before} | {name: values}
            diagnosis = Diagnosis(
                *(self.model, expected, arrays, arrays, {name: held}, name, ids),
                None if self.cached else len(ids),
                limit=self.limit,
                only=self.only,
                everywhere=everywhere,
            )
            found = diagnosis.candidates()
            if found and _sure(found[0], fine):
                return found[0].slug
        return None

    def _right_before(self, name: str) -> Iterator[list[str]]:
        """The sites that are taken to be right: all before it, then those before its part of a layer."""
        config = self.model.config
        step = until_step(name, config)
        table = config.architecture.sites
        order = [full for full, site, _ in table.expand(config.n_layer) if not site.derived]
        at, layer = order.index(step), table.resolve(step, None, config.n_layer)[1]
        starts = [f"h.{layer}.ln_2", f"h.{layer}.ln_1"] if layer is not None else ["ln_f", order[0]]
        bounds = [at, *(order.index(start) for start in starts if order.index(start) < at)]
        if layer is None and at > order.index("ln_f"):
            bounds = bounds[:-1]  # a single step of the end, not the whole model
        for bound in dict.fromkeys(bounds):
            first = min(bound, order.index(starts[-1]))
            yield order[max(0, first - 1) : bound]


def _sure(candidate: Candidate, fine: float) -> bool:
    """Whether a mistake may be named."""
    if candidate.contradicted > CONTRADICTED:
        return False
    return fine == 1 or candidate.unexplained < _SURE


def _is_double(values: Array) -> bool:
    """Whether float32 could not hold these numbers."""
    with np.errstate(all="ignore"):
        return not np.array_equal(values, values.astype(np.float32), equal_nan=True)
