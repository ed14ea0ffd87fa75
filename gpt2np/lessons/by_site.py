"""Exercises whose result is a site of the run: judged by `reference.check_step`."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from gpt2np.errors import InputError
from gpt2np.lessons.exercise import Attempt, Case, Exercise, Finding, Wrong, outcome
from gpt2np.lessons.models import PROMPT, SECOND, run_of
from gpt2np.lessons.pictures import visible
from gpt2np.lessons.same import array_of, errors, is_same, with_shape
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference import StepVerdict, check_step
from gpt2np.reference.attention_future import FILL
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

# Forms of mistakes that are tried, at all sites together: about a second, and the same on a busy machine.
FORMS = 300


class Run:
    """The true run of a prompt, for an exercise's inputs: sites by name, and what the model has learned."""

    def __init__(self, model: Model, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        self.trace: Trace = run_of(model, prompt)
        self.parameters, self.config = model.parameters, model.config

    def __getitem__(self, site: str) -> Any:
        return self.trace[site]

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the prompt."""
        return list(self.trace.token_ids)


class AtSite(Exercise):
    """An exercise whose result is `site`, or, as several arrays, `sites`.

    `mistakes` are slugs of the catalogue, looked for first; those of a cache must be named to be found.
    `shape` gives the axes that the learner's result has, where they are not those of the site but the same
    numbers in the same order: `"pos n_embd"` for `attn.z`. `look_at` is `look` about
    token {}, where the first is right. `prompts` are the texts; the second one finds what is right for the
    first one only.
    """

    site: ClassVar[str] = ""
    sites: ClassVar[tuple[str, ...]] = ()
    mistakes: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[str] = ""
    forms: ClassVar[int] = FORMS  # fewer where each takes long
    look_at: ClassVar[str] = ""
    prompts: ClassVar[tuple[str, ...]] = (PROMPT, SECOND)
    _tried = 0  # forms of mistakes, in this judgement

    def inputs(self, run: Run) -> Mapping[str, Any]:
        """The arguments, in their order."""
        raise NotImplementedError

    def cases(self, model: Model) -> Sequence[Case]:
        """One for each prompt."""
        return [
            Case(self.inputs(Run(model, prompt)), f"for the text {prompt!r}" if i else "", prompt)
            for i, prompt in enumerate(self.prompts)
        ]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """The first of the sites that is not right; one whose mistake has a name before any other."""
        self._tried = 0
        sites, results = self.sites or (self.site,), attempt.result
        if not self.sites:
            results = (results,)
        elif not isinstance(results, tuple | list | np.ndarray) or len(results) != len(sites):
            return Finding("shape", f"your function must return {len(sites)} arrays, as in `return a, b`")
        run = Run(model, attempt.case.prompt)
        if self.sites and (together := self._together(results, run, attempt.case)):
            return together
        findings = [self._at(site, r, run, attempt) for site, r in zip(sites, results, strict=True)]
        found = [finding for finding in findings if finding.state != "right"]
        return next((f for f in found if f.mistake), found[0] if found else Finding("right"))

    def _together(self, results: Any, run: Run, case: Case) -> Finding | None:
        """The mistake of the exercise's own that gives all of several results."""
        truth = [run[site] for site in self.sites]
        off = [i for i, (one, true) in enumerate(zip(results, truth, strict=True)) if not is_same(one, true)]
        for wrong in self.wrong if off else ():
            made = outcome(self, wrong.function, case, run.model)
            if isinstance(made, tuple | list | np.ndarray) and is_same(list(results), list(made)):
                site = self.sites[off[0]]
                said = self._told(check_step(site, results[off[0]], run.token_ids, run.model, mistakes=()))
                hints = self.hints_of(wrong.slug, wrong.hints)
                where = _labelled(site, _with_tokens(said.where, run.trace.tokens))
                return Finding("wrong", where, said.ratio, wrong.slug, hints)
        return None

    def _at(self, site: str, result: Any, run: Run, attempt: Attempt) -> Finding:
        """What is found at one site."""
        truth, kind = run[site], run.config.architecture.sites.resolve(site, None, run.config.n_layer)[0]
        axes, shape = kind.axis_names, truth.shape
        if self.shape:
            axes = tuple(self.shape.split())
            shape = (*shape[: len(axes) - 1], int(np.prod(shape[len(axes) - 1 :])))
        array, problem = with_shape(result, shape, axes)
        if problem:
            return Finding("shape", _labelled(site, problem) if self.sites else problem)
        try:
            found = self._found(site, array.reshape(truth.shape), run, attempt.case)
        except InputError as error:
            return Finding("shape", str(error))
        where = _with_tokens(found.where, run.trace.tokens)
        return replace(found, where=_labelled(site, where) if self.sites else where)

    def _found(self, site: str, array: Any, run: Run, case: Case) -> Finding:
        """State and mistake: the exercise's own are looked for before all others."""
        found = self.own(site, array, run, case)
        if found.state == "wrong" and found.mistake is None and self.mistakes:
            found = self._searched(site, array, run, None)
        if found.state == "wrong" and found.mistake is None:
            return replace(found, hints=self.looked(array, run[site]))
        return found

    def looked(self, array: Array, truth: Array) -> tuple[str, ...]:
        """What to ask where no mistake is known: about the worst row, if the first one is right."""
        off = errors(array, truth).reshape(len(truth), -1).max(axis=1)
        if not self.look_at or off[0] > 1:
            return ()
        return (self.look_at.format(int(off.argmax())),)

    def _searched(self, site: str, array: Any, run: Run, mistakes: Collection[str] | None) -> Finding:
        """What the catalogue says; the search goes on as long as forms are left."""
        left = min(FORMS, self.forms) - self._tried
        about = site, array, run.token_ids, run.model
        if left <= 0:
            return replace(self._told(check_step(*about, mistakes=())), ended=True)
        said = check_step(*about, mistakes=mistakes, budget=0, forms=left)
        self._tried += said.tried
        return self._told(said)

    def own(self, site: str, array: Any, run: Run, case: Case) -> Finding:
        """State and mistake, if it is one of the exercise's own; `array` is in the site's shape."""
        about = site, array, run.token_ids, run.model
        if self.wrong:
            said = self._told(check_step(*about, mistakes=()))  # its functions are quick to try
            if said.state == "wrong":
                mine = _hidden(array, site, run.config)
                for wrong in self.wrong:
                    if is_same(_hidden(self._of(wrong, case, run.model, site), site, run.config), mine):
                        hints = self.hints_of(wrong.slug, wrong.hints)
                        return Finding("wrong", said.where, said.ratio, wrong.slug, hints)
        return self._searched(site, array, run, self.mistakes or None)

    def _told(self, said: StepVerdict) -> Finding:
        where = f"worst at {said.where.replace('are outside', 'are wrong')}" if said.where else ""
        hints = self.hints_of(said.mistake)
        return Finding(said.state, where, said.ratio, said.mistake, hints, ended=said.ended)

    def _of(self, wrong: Wrong, case: Case, model: Model, site: str) -> Any:
        """What a mistake of the exercise's own gives at a site, in the site's shape."""
        made = outcome(self, wrong.function, case, model)
        if self.sites and isinstance(made, tuple | list | np.ndarray):
            made = made[self.sites.index(site)]
        numbers = array_of(made)
        shape = run_of(model, case.prompt)[site].shape
        return numbers.reshape(shape) if numbers is not None and numbers.size == np.prod(shape) else made


def _hidden(values: Any, site: str, config: ModelConfig) -> Any:
    """Scores with minus infinity for whatever hides a key, as a mask of -1e9 does; all else as it is."""
    unseen = config.architecture.sites.resolve(site, None, config.n_layer)[0].unseen
    numbers = array_of(values) if unseen == -np.inf else None
    return values if numbers is None else np.where(numbers <= FILL, -np.inf, numbers)


def _labelled(site: str, where: str) -> str:
    """A place in one of several sites: "k: pos 0, head 1"."""
    return f"{site.rpartition('.')[2]}: {where}" if where else ""


def _with_tokens(where: str, tokens: Sequence[str]) -> str:
    """A place in which each position has its token: "query 4 (`ber`), key 0 (`L`)"."""

    def named(found: re.Match[str]) -> str:
        return f"{found[0]} (`{visible(tokens[int(found[1])]).replace('`', chr(39))}`)"

    return re.sub(r"\b(?:pos|query|key) (\d+)\b", named, where)
