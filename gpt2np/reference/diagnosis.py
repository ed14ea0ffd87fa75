"""Names the mistake: replays the catalogue between the last right site and the first wrong one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.candidates import CONTRADICTED, SLUGS, Candidate, ranked
from gpt2np.reference.error_measure import Measure, difference
from gpt2np.reference.execution_order import ExecutionOrder
from gpt2np.reference.mistake_fit import Fit, Fits
from gpt2np.reference.mistake_replay import Replays, Scope, until_step
from gpt2np.reference.mistakes import CATALOGUE, Mistake, Seen
from gpt2np.reference.noise_bands import Expected
from gpt2np.reference.other_prompts import OtherPrompts
from gpt2np.reference.search_limit import SearchLimit
from gpt2np.tracing.lines import lines
from gpt2np.tracing.sites import Site

_LAST = 0.5  # as if so much were unexplained: what replays explain comes before what is only recognised
_SINGLE = 6  # steps that may have the mistake, up to which each is tried alone
_REORDERED = 64  # rows of a cache that are looked at, if their order may be another
_SOON = 4  # positions that look right although a cache is in use
_PARTLY = 2000  # forms of mistakes in some heads or at some positions that are tried
# What people do most, in the order in which it is tried, before the rest of the catalogue.
USUAL = tuple(
    """gelu-erf mask-missing scores-unscaled missing-ln-f position-off-by-one position-missing
    scores-scaled-by-n-embd qkv-order heads-merged-untransposed mask-off-by-one residual-missing
    layernorm-eps-value untied-weights qkv-interleaved heads-strided mask-value-small missing-bias
    transposed-c-attn transposed-c-fc transposed-c-proj layernorm-ddof1 missing-ln weights-bfloat16
    weights-float16""".split()
)
_RANK = {slug: rank for rank, slug in enumerate(USUAL)}
_PER_HEAD = frozenset(("attn.qkv", "attn.scores", "attn.pattern", "attn.z"))


@dataclass(frozen=True)
class _Hypothesis:
    """A form of a mistake, made in these steps (full names) and this scope."""

    mistake: Mistake
    variant: Any
    steps: list[str]
    layer: int | None  # of the first
    scope: Scope
    late: tuple[int, ...] = ()  # what is smaller is tried first

    def candidate(self, fit: Fit) -> Candidate:
        m, scope = self.mistake, self.scope
        detail = m.detail(self.variant)
        about = m.slug, m.explanation, m.cure, detail, self.layer, scope.heads, scope.rows
        return Candidate(*about, fit.contradicted, fit.unexplained, fit.denied)


class Diagnosis:
    """The search for the mistake behind the first wrong site.

    `given` is the dump by full name in the axes of our sites; `arrays` the same, with the truth in the rows
    that are not in it; `measures` how far each is from the truth; `whole` the tokens that were asked for, of
    which the reference ran the last ones. `prefill` is how many ran at once, before a cache was used: all, or
    perhaps not all (None). `quick` is the model in a precision that costs less: what it shows to explain
    nothing is not replayed in float64. `limit` is how long to search, `only` the slugs of the mistakes that
    are looked for; they are made `everywhere`, or perhaps in some heads or at some positions only. `further`
    if a mistake must explain what follows the first wrong site too: that may be just a wrong name.
    """

    def __init__(
        self,
        model: Model,
        expected: Expected,
        given: Mapping[str, Array],
        arrays: Mapping[str, Array],
        measures: Mapping[str, Measure],
        first: str,
        whole: Sequence[int],
        prefill: int | None,
        *,
        quick: Model | None = None,
        limit: SearchLimit | None = None,
        only: Collection[str] | None = None,
        everywhere: bool = False,
        further: bool = False,
    ) -> None:
        self.model, self.expected, self.truth = model, expected, expected.truth
        self.given, self.arrays, self.measures, self.first = given, arrays, measures, first
        self.config = model.config
        self.whole = tuple(whole)
        self.ids = tuple(self.truth.token_ids)
        self.prefill, self._at_once = prefill or len(self.ids), prefill == len(self.ids)
        self.limit, self._everywhere = limit or SearchLimit(0), everywhere
        self._further = further
        self._only = SLUGS if only is None else only
        self._fits = Fits(self.truth, expected.bands, arrays)
        self.replays = Replays(model, self.truth, self.prefill)
        self._quick = Replays(model if quick is None else quick, self.truth, self.prefill)
        self._run = ExecutionOrder(self.config)
        self._sites, self._order, self._index = self._run.sites, self._run.steps, self._run.index
        operations = {self._sites[name][0].name: line.op for name, line in lines(self.config).items()}
        steps = {m: m.steps_in(self.config, operations) for m in CATALOGUE if m.slug in self._only}
        self._catalogue = {mistake: found for mistake, found in steps.items() if found}
        self._entry = self._run.first_step_of(self._resolve(first)[1])
        self._last = self._index[until_step(first, self.config)]
        self._good = self._run.last_right(self._before())
        self._checks = [n for n in [*self._before(), first] if self._run.step(n) > self._good]

    def candidates(self) -> list[Candidate]:
        """Every mistake that explains the first wrong site, the best first."""
        if not self._says_something():
            return []
        self.limit.begin()
        found = list(self._prompts(self._checks))
        if self.arrays[self.first].shape != self.truth[self.first].shape:
            return ranked(found)
        fitting = self._search([Scope()])
        if found and fitting and self._after():  # a token in front is like positions one too large
            found = list(self._prompts([*self._checks, *self._after()]))
            fitting = self._explaining_the_rest(fitting) if found else fitting
        recognised = list(self._recognised())
        # in an array of its own, or under a wrong name, it does not look like this further on
        if (recognised or self._further) and self._after():
            fitting = self._explaining_the_rest(fitting)
        scopes = [] if self._everywhere else list(self._scopes(self.measures[self.first]))
        fitting = self._not_contradicted(fitting, scopes)
        if not (found or fitting or recognised):
            fitting = self._not_contradicted(self._search(scopes), scopes)
            fitting = self._explaining_the_rest(fitting) if self._further and self._after() else fitting
        return ranked([*self._told_apart(fitting), *found, *recognised])

    def _says_something(self) -> bool:
        """Whether anything that is wrong is a number: what is none says nothing about how it came about."""
        array, truth = self.arrays[self.first], self.truth[self.first]
        if array.shape != truth.shape:
            return not np.isnan(array).all()
        site, layer = self._resolve(self.first)
        window = None if layer is None else self.config.window(layer)
        outside = difference(array, truth, site, window) > self.expected.bands[self.first]
        return not np.isnan(array[outside]).all()

    # -- where ------------------------------------------------------------------------------------

    def _resolve(self, name: str) -> tuple[Site, int | None]:
        return self._sites[name]

    def _before(self) -> list[str]:
        """Sites of the dump before the first wrong one, in execution order: all of them are right."""
        names = list(self.arrays)
        return names[: names.index(self.first)]

    def _touched(self, mistake: Mistake) -> Iterator[tuple[list[str], bool]]:
        """Sets of steps between the last right and the first wrong site in which the mistake may be made.

        One step, or those of one layer that belong together, to the layer's end; the same step of all layers;
        and all at once. With each whether it is only a part of what could be made with the mistake: a program
        mostly has it in every layer.
        """
        touched: dict[tuple[int | None, str], list[str]] = {}
        good = self._run.last_right(self._before(), mistake.only_scales)
        for name in self._order[good + 1 :]:
            site, layer = self._resolve(name)
            key = layer, "" if mistake.together else site.name
            if site.name in self._catalogue[mistake] and (self._index[name] <= self._last or key in touched):
                touched.setdefault(key, []).append(name)
        if len(touched) <= _SINGLE:
            yield from ((names, len(touched) > 1) for names in touched.values())
        kinds: dict[str, list[str]] = {}
        for (_, kind), names in touched.items():
            kinds.setdefault(kind, []).extend(names)
        if len(kinds) > 1:
            yield from ((names, False) for names in kinds.values() if len(names) > 1)
        if len(touched) > 1:
            yield [name for names in touched.values() for name in names], False

    def _scopes(self, first: Measure) -> Iterator[Scope]:
        """Parts of a layer in which alone the mistake may be made."""
        p = first.position or 0
        rows = [slice(p, p + 1), slice(p, None)]
        yield from (Scope(None, r) for r in rows)
        heads = first.heads or range(self.config.n_head)
        if len(heads) < self.config.n_head:
            yield Scope(tuple(heads))
        yield from (Scope((head,), r) for head in heads for r in (slice(None), *rows))

    def _starts(self) -> list[int]:
        """Positions from which on a cache may have been in use: it shows there, or soon afterwards."""
        if self._at_once:
            return []
        if self.prefill < len(self.ids):
            return [self.prefill]
        first = self.measures[self.first].position or 0
        if self._resolve(self.first)[0].name in ("attn.k", "attn.v"):  # as the cache is left in the end
            return list(range(1, min(len(self.ids), _REORDERED)))
        return [start for start in range(first, first - _SOON, -1) if start > 0]

    # -- replays ----------------------------------------------------------------------------------

    def _search(self, scopes: Sequence[Scope]) -> list[tuple[_Hypothesis, Candidate]]:
        """What fits in the first of the scopes in which anything does; what was found when time is over."""
        found: list[tuple[int, _Hypothesis, Candidate]] = []
        left = _PARTLY
        for scope in scopes:
            numbered = list(enumerate(self._hypotheses(scope)))
            for number, hypothesis in sorted(numbered, key=lambda one: one[1].late):
                left -= scope != Scope()
                if left < 0 or self.limit.over():
                    break
                if self._is_out(hypothesis):
                    continue
                candidate = self._fit(hypothesis)
                if candidate is not None:
                    found.append((number, hypothesis, candidate))
            if found or left < 0 or self.limit.ended:
                break
        fitting = [(hypothesis, candidate) for _, hypothesis, candidate in sorted(found, key=lambda f: f[0])]
        return self._explaining_the_rest(fitting) if self._unwritten() and self._after() else fitting

    def _unwritten(self) -> bool:
        """Whether scores of the first wrong site may never have been written: any mask explains those."""
        values, truth = self.arrays[self.first], self.truth[self.first]
        return self._resolve(self.first)[0].name == "attn.scores" and bool(
            ((values == 0) & (truth != 0)).any()
        )

    def _is_out(self, h: _Hypothesis) -> bool:
        """Whether a quick replay shows that a hypothesis explains nothing, where a whole one is long."""
        site, layer = self._resolve(self.first)
        if site.derived or site.quadratic or self.first in h.steps or h.layer == layer:
            return False
        columns = self._fits.few_columns(self.first)
        only = columns if site.name == "logits" else None
        replay = self._quick.replay(h.mistake, h.variant, h.steps, h.scope, self.first, only)[self.first]
        return self._fits.rejects(self.first, replay if only is not None else replay[..., columns])

    def _not_contradicted(
        self, fitting: list[tuple[_Hypothesis, Candidate]], scopes: Sequence[Scope]
    ) -> list[tuple[_Hypothesis, Candidate]]:
        """Mistakes in the heads and at the positions where they show, if all that they change is wrong."""
        narrowed = [self._narrowed(*one, scopes) for one in fitting]
        return [(made, candidate) for made, candidate in narrowed if candidate.denied <= CONTRADICTED]

    def _narrowed(
        self, hypothesis: _Hypothesis, candidate: Candidate, scopes: Sequence[Scope]
    ) -> tuple[_Hypothesis, Candidate]:
        """The same mistake in the heads and at the positions where it shows, if not everywhere."""
        best = hypothesis, candidate
        for scope in scopes if candidate.contradicted > 0 else ():
            if not _may_be_in(scope, hypothesis.mistake):
                continue
            if self.limit.over():
                break
            other = replace(hypothesis, scope=scope)
            found = self._fit(other)
            if found is not None and found.contradicted < best[1].contradicted:
                best = other, found
        return best

    def _hypotheses(self, scope: Scope) -> Iterator[_Hypothesis]:
        """Every form of every mistake that may be made between the last right and the first wrong site."""
        starts = self._starts()
        for mistake in self._catalogue:
            if not _may_be_in(scope, mistake):
                continue
            variants = list(enumerate(mistake.variants(self.config, len(self.ids), starts)))
            touched = list(self._touched(mistake))
            # in a layer whose first step is right, nothing is wrong with the order of layers
            enters_wrong = self._good < self._entry
            every = [(self._all(self._catalogue[mistake]), False)] if touched and enters_wrong else []
            for i, variant in variants:
                for steps, partly in every if mistake.in_all(variant) else touched:
                    rank = _RANK.get(mistake.slug, len(USUAL))
                    late = partly, rank == len(USUAL), mistake.rare, i, rank
                    layer = self._resolve(self.first if mistake.in_all(variant) else steps[0])[1]
                    yield _Hypothesis(mistake, variant, steps, layer, scope, late)

    def _all(self, kinds: Collection[str]) -> list[str]:
        """These steps in every layer."""
        return [name for name in self._order if self._resolve(name)[0].name in kinds]

    def _fit(self, h: _Hypothesis, after: Sequence[str] = ()) -> Candidate | None:
        """How well a hypothesis explains the first wrong site and these behind it, or None."""
        replayed = self.replays.replay(h.mistake, h.variant, h.steps, h.scope, [self.first, *after][-1])
        checks = [*self._before(), self.first] if h.mistake.in_all(h.variant) else self._checks
        fit = self._fits.fit(replayed, h.mistake.unseen, [*checks, *after])
        return None if fit is None else h.candidate(fit)

    def _after(self, further: int = 0) -> list[str]:
        """Sites of the dump behind the first wrong one, to the end of its layer, or the next one.

        With `further` also the one behind that layer; with 2 to the end of the next layer of another window.
        """
        names = list(self.arrays)
        layer = self._resolve(self.first)[1]
        after = [
            n for n in names[names.index(self.first) + 1 :] if self.arrays[n].shape == self.truth[n].shape
        ]
        ends = (layer, *self._run.to_another_kind(layer if further > 1 else None))
        ends = ends if layer is not None else (None, 0)  # behind the embedding stands block 0
        near = [n for n in after if self._resolve(n)[1] in ends and n not in ("ln_f", "logits")]
        return (
            [*near, *(n for n in after if n not in near)][: len(near) + 1] if further else near or after[:1]
        )

    def _wider(self, h: _Hypothesis, all_kinds: bool) -> Iterator[list[str]]:
        """The steps of a hypothesis, and the same ones from its layer on; or all that the mistake touches."""
        if not all_kinds:
            yield h.steps
        kinds = self._catalogue[h.mistake] if all_kinds else {self._resolve(n)[0].name for n in h.steps}
        start = self._index[h.steps[0]]
        yield [name for name in self._order[start:] if self._resolve(name)[0].name in kinds]

    def _told_apart(self, fitting: list[tuple[_Hypothesis, Candidate]]) -> list[Candidate]:
        """Of several mistakes that explain the first wrong site those that explain the layer, and more."""
        for further in range(3 if self._run.to_another_kind(self._resolve(self.first)[1]) else 2):
            if len({candidate.slug for _, candidate in fitting}) > 1:
                fitting = self._explaining_the_rest(fitting, further) or fitting
        return [candidate for _, candidate in fitting]

    def _explaining_the_rest(
        self, fitting: list[tuple[_Hypothesis, Candidate]], further: int = 0
    ) -> list[tuple[_Hypothesis, Candidate]]:
        """Those that explain the sites behind the first wrong one too.

        They are made in their steps, or in the same ones of all layers from there on; where that explains it
        for none, in all that they touch from there on.
        """
        after = self._after(further)
        for all_kinds in (False, True) if after else ():
            still: list[tuple[_Hypothesis, Candidate]] = []
            for hypothesis, _ in fitting:
                for steps in self._wider(hypothesis, all_kinds):
                    made = replace(hypothesis, steps=steps)
                    found = self._fit(made, after)
                    if found is not None:
                        still.append((made, found))
                        break
            if still:
                return still
        return []

    def _recognised(self) -> Iterator[Candidate]:
        """Mistakes that leave a trace of their own without a replay."""
        site, layer = self._resolve(self.first)
        step = self._index[until_step(self.first, self.config)]
        confirmed = step > 0 and self._order[step - 1] in self._before()
        arrays = self.arrays[self.first], self.truth[self.first], self.expected.bands[self.first]
        seen = Seen(site.name, layer, *arrays, self.truth, confirmed)
        for mistake, steps in self._catalogue.items():
            if site.name in steps or mistake.anywhere:
                detail = mistake.recognise(seen)
                if detail is not None:
                    about = mistake.slug, mistake.explanation, mistake.cure, detail, layer
                    yield Candidate(*about, None, slice(None), 0.0, _LAST)

    def _prompts(self, checks: Sequence[str]) -> Iterator[Candidate]:
        """Other tokens than those asked for, if they explain these sites."""
        array, truth = self.given[self.first], self.truth[self.first]
        if array.shape == truth.shape and self._run.follows_the_embedding(self._good):
            return
        about = self.model, self._quick.model, self.expected, self.given, self.arrays, self.whole
        for mistake, detail in OtherPrompts(*about).explaining(checks, self._only):
            found = mistake.slug, mistake.explanation, mistake.cure, detail
            yield Candidate(*found, None, None, slice(None), 0.0, 0.0)


def _may_be_in(scope: Scope, mistake: Mistake) -> bool:
    """Whether a mistake may be made in some heads or positions alone."""
    if scope == Scope():
        return True
    return not mistake.whole and (scope.heads is None or _PER_HEAD.issuperset(mistake.steps))
