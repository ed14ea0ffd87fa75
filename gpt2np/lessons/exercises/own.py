"""Exercises of lesson 7: a GPT-2 of one's own, its cache, a judge of one's own, and the examination."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2np.errors import InputError
from gpt2np.lessons import planted_mistakes as exam
from gpt2np.lessons.exercise import Attempt, Case, Exercise, Finding, Function, Hints, copied
from gpt2np.lessons.exercises.own_hints import NEXT_STEP, OF_DUMPS, OF_PROGRAMS, ROWS, TOO_SOON, no_number
from gpt2np.lessons.exercises.own_judge import FirstWrong
from gpt2np.lessons.exercises.own_mistakes import slug_of
from gpt2np.lessons.exercises.recorded_steps import (
    Call,
    arrays_of,
    held_under,
    joined,
    layers_of,
    no_numbers,
    of_wrong_size,
    unknown_step,
)
from gpt2np.lessons.models import PROMPT, SECOND
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.ops.norms import normed
from gpt2np.reference.axis_layouts import seen
from gpt2np.reference.comparison import Comparison, compare
from gpt2np.reference.noise_bands import Expected
from gpt2np.tables import counted
from gpt2np.tracing.lines import final_norm

__all__ = ["Answers", "Extend", "FirstWrong", "Run"]

# Forms of mistakes that are tried: about a second, and the same on a busy machine.
FORMS = 120
_FROM_THE_END = 12  # where no layer is recorded, and each form is a run of the whole model
_SAME = 1e-4  # what two arrays may differ by that are the same


class Program(Exercise):
    """A function that runs the model and returns its steps as a dict: `compare` is the judge."""

    hints: ClassVar[Mapping[str, Hints]] = OF_PROGRAMS
    nearer = "Work that step out once more from what you have recorded before it: which number differs first?"
    look = "Take the step that is named and the one before it: which line of yours makes one of the other?"

    def held(
        self, steps: Mapping[str, Array], expected: Expected, model: Model, prefill: int | None = None
    ) -> Finding:
        """The first step that is wrong; or, if what is there is right, what is missing."""
        nan = no_numbers(steps)
        order = list(steps)
        numbers = {name: steps[name] for name in (order[: order.index(nan[0])] if nan else order)}
        found = None
        if _layers_missing(numbers, expected, model):
            slug = "layers-missing"
            where = "the layers are not all there, and ln_f is not made from the last one"
            return Finding("wrong", where, 0.0, slug, self.hints_of(slug))
        if numbers:
            about = numbers, model, list(expected.truth.token_ids)
            forms = FORMS if layers_of(order, model.config) else _FROM_THE_END
            try:
                found = compare(*about, prefill=prefill, search=0, forms=forms, noise=expected)
            except InputError as error:
                if not nan:
                    return Finding("shape", str(error).partition("; `gpt2np sites`")[0])
        if found is not None and (
            moved := [n for n, why in found.refused if why.startswith("has the values of")]
        ):
            slug = "names-exchanged"
            return Finding("wrong", f"look at {moved[0]}", 0.0, slug, self.hints_of(slug))
        if found is not None and found.refused and not nan:
            return Finding("shape", "; ".join(f"{name}: {why}" for name, why in found.refused[:2]))
        if found is not None and found.first is not None:
            return self._wrong(found, steps, expected, model)
        if nan:
            where = f"{nan[0]} holds NaN, which is no number: {nan[1]}"
            return Finding("wrong", where, 0.0, "not-a-number", no_number(nan[0]))
        missing = _missing(found, model) if found is not None else []
        if found is not None and missing:
            there = f"{counted(len(found.sites), 'step')} recorded, and right"
            ended = missing[0].endswith(".ln_1") and "ln_f" in missing and missing[0] != "h.0.ln_1"
            where = f"{there}; the next one that is not there is {missing[0]}"
            where += unknown_step(steps, model.config, exam.names_of(model))
            so_far = f"{len(found.sites)} of {len(found.sites) + len(missing)} steps"
            return Finding("shape", where, hints=TOO_SOON if ended else NEXT_STEP, so_far=so_far)
        return Finding("right")

    def _wrong(
        self, found: Comparison, steps: Mapping[str, Array], expected: Expected, model: Model
    ) -> Finding:
        """What is said about the first wrong step."""
        assert found.first is not None
        missing = _missing(found, model)
        where = _where(found, missing, model) + _of_the_future(found, steps, expected)
        slug, name = found.mistake, found.first.name
        if slug is None and name in steps and found.site in exam.names_of(model):
            array, truth = steps[name], expected.truth[found.site]
            if array.size == truth.size:
                slug, said = _recognised(array.reshape(truth.shape), found.site, missing, expected, model)
                where += said
        if slug is None and name.startswith("h.0.") and layers_of(list(steps), model.config) == [0]:
            slug = "written-twice" if "logits" in steps or "ln_f" in steps else None
        state = "suspicious" if found.verdict == "suspicious" else "wrong"
        ended = slug is None and found.searched is not None
        return Finding(state, where, found.first.measure.ratio, slug, self.hints_of(slug), ended)


def _recognised(
    array: Array, site: str, missing: Sequence[str], expected: Expected, model: Model
) -> tuple[str | None, str]:
    """A mistake that is not in the catalogue: its slug, and what is said about the place."""
    truth = expected.truth
    if site == "logits" and (array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=_SAME):
        return "logits-are-probabilities", ""
    if slug := slug_of(array, site, truth, model):
        return slug, ""
    if other := held_under(array, site, expected):
        return "names-exchanged", f"; it has the numbers of {other}"
    return None, ""


def _layers_missing(steps: Mapping[str, Array], expected: Expected, model: Model) -> bool:
    """Whether ln_f was made from an earlier layer than the last, which is seen without a search."""
    truth, config = expected.truth, model.config
    there = layers_of(list(steps), config)
    if not there or len(there) == config.n_layer or "ln_f" not in steps:
        return False
    x = truth[f"h.{len(there) - 1}.resid_post"]
    y = normed(x, final_norm(config, model.parameters))
    return steps["ln_f"].shape == y.shape and np.allclose(steps["ln_f"], y, rtol=_SAME, atol=_SAME)


def _missing(found: Comparison, model: Model) -> list[str]:
    """The steps that were not recorded; q, k and v stand for the fused qkv."""
    there = {site.site for site in found.sites}
    there |= {name.replace("attn.q", "attn.qkv") for name in there if name.endswith("attn.q")}
    return [name for name in exam.names_of(model) if name not in there]


def _where(found: Comparison, missing: Sequence[str], model: Model) -> str:
    """The first wrong step, from which position on, in which head; and what is not recorded before it."""
    place = f"the first wrong step is {found.site}"
    if found.position:
        place += f", from position {found.position} on"
    if found.head is not None:
        place += f", in head {found.head} alone"
    order = exam.names_of(model)
    before = [name for name in missing if name in order[: order.index(found.site or order[0])]]
    if found.site in order and before:
        named = ", ".join(before) if len(before) <= 3 else f"{len(before)} steps, the first is {before[0]}"
        place += f"; before it you have not recorded {named}"
    return place


def _of_the_future(found: Comparison, steps: Mapping[str, Array], expected: Expected) -> str:
    """A word on scores that were let pass, where the pattern is wrong."""
    scores = (found.site or "").replace("attn.pattern", "attn.scores")
    if scores == found.site or scores not in steps:
        return ""
    array, truth = steps[scores], expected.truth[scores]
    if array.shape != truth.shape or not (array[..., ~seen(truth.shape, None)] > -9000).any():
        return ""
    return f" ({scores} has numbers in the future, and is taken for scores before the mask)"


class Run(Program):
    """The whole model, every step of it recorded."""

    name = "own.run"
    asks = "Can you write it all?"

    def cases(self, model: Model) -> Sequence[Case]:
        """The prompt of the lessons, and a second one."""
        return [
            Case(_given(model, model.token_ids(text)), f"for the text {text!r}" if i else "", text)
            for i, text in enumerate((PROMPT, SECOND))
        ]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """The form of all steps, then their numbers."""
        steps, bad = arrays_of(attempt.result)
        expected = exam.expected_of(model, attempt.case.prompt)
        size = Call(len(expected.truth.token_ids))
        return bad or of_wrong_size(steps, expected.truth, size, ROWS) or self.held(steps, expected, model)


class Extend(Program):
    """The same with a cache: six tokens at once, and then one at a time; in the second text three, too."""

    name = "own.extend"
    asks = "What of all this need not be computed again?"

    def cases(self, model: Model) -> Sequence[Case]:
        """The prompt of the lessons, and a second one; shown are six tokens, and an empty cache."""
        about = f"for the text {SECOND!r}, six tokens at once, then three, then one at a time"
        return [
            Case(
                _given(model, model.token_ids(text)[: exam.PREFILL]) | {"cache": {}},
                about if i else "",
                text,
            )
            for i, text in enumerate((PROMPT, SECOND))
        ]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The steps of each call."""
        weights, config, _, cache = case.copies()
        ids, made = model.token_ids(case.prompt), []
        for call in _calls(case, len(ids)):
            steps = function(weights, config, ids[call.past : call.past + call.new], cache)
            made.append(dict(copied(dict(steps))) if isinstance(steps, Mapping) else steps)
        return made

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """The first call alone, which is a run without a past; then all of them together."""
        expected = exam.expected_of(model, attempt.case.prompt)
        ids = expected.truth.token_ids
        every: list[dict[str, Array]] = []
        for call, made in zip(_calls(attempt.case, len(ids)), attempt.result, strict=True):
            steps, bad = arrays_of(made, call.about)
            bad = bad or of_wrong_size(steps, expected.truth, call, ROWS)
            if bad is None and not every:
                first = exam.expected_of_tokens(model, tuple(ids[: call.new]))
                bad = self._first(steps, first, model)
            elif bad is None and (absent := [name for name in every[0] if name not in steps]):
                bad = Finding("shape", f"{absent[0]}{call.about} is not there")
            if bad is not None and bad.state != "right":
                return bad
            every.append(steps)
        whole, bad = joined(every, _calls(attempt.case, len(ids)))
        found = bad or self.held(whole, expected, model, exam.PREFILL)
        if found.mistake is None and re.search(r"attn\.(scores|pattern)", found.where) and attempt.case.about:
            slug = "mask-of-several-tokens"
            return Finding(found.state, found.where, found.ratio, slug, self.hints_of(slug))
        return found

    def _first(self, steps: Mapping[str, Array], expected: Expected, model: Model) -> Finding:
        """What is wrong with the first call; its positions may go on from another text."""
        found = self.held(steps, expected, model)
        embed = steps.get("embed")
        if found.mistake is None and embed is not None and embed.shape == expected.truth["embed"].shape:
            wpe, n = model.weights["wpe.weight"], len(embed)
            positions = embed - model.weights["wte.weight"][list(expected.truth.token_ids)]
            if any(np.allclose(positions, wpe[i : i + n], atol=_SAME) for i in range(1, len(wpe) - n)):
                slug = "cache-of-another-text"
                return Finding("wrong", found.where, found.ratio, slug, self.hints_of(slug))
        return found


def _calls(case: Case, n_tokens: int) -> list[Call]:
    """How many tokens each call gets."""
    sizes = [exam.PREFILL, *([3] if case.about else [])]
    sizes += [1] * (n_tokens - sum(sizes))
    return [Call(n, sum(sizes[:i]), f" of call {i + 1}") for i, n in enumerate(sizes)]


def _given(model: Model, ids: Sequence[int]) -> dict[str, Any]:
    """Weights by their names in the checkpoint, sizes, and tokens."""
    weights = {name: np.asarray(array, model.dtype) for name, array in model.weights.items()}
    return {"weights": weights, "config": model.config, "ids": list(ids)}


# -- the examination ----------------------------------------------------------------------------------------


class Answers(Exercise):
    """Which mistake each of ten programs makes."""

    name = "own.answers"
    asks = "Which mistake did each of them make?"
    hints: ClassVar[Mapping[str, Hints]] = {f"dump-{i}": each for i, each in enumerate(OF_DUMPS)}

    def cases(self, model: Model) -> Sequence[Case]:
        """One call, with nothing."""
        return [Case({})]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """How many are right, and which is the first that is not."""
        given, truth = attempt.result, exam.answers()
        given = given.tolist() if isinstance(given, np.ndarray) else given
        if not isinstance(given, list | tuple) or len(given) != len(truth):
            return Finding("shape", f"it must be a list of {len(truth)} names, one for each dump")
        unknown = [name for name in given if name is not None and name not in exam.choices()]
        if unknown:
            return Finding("shape", f"{unknown[0]!r} is not among the answers that there are to choose from")
        wrong = [i for i, (one, other) in enumerate(zip(given, truth, strict=True)) if one != other]
        if not wrong:
            return Finding("right")
        slug = f"dump-{wrong[0]}"
        said = (
            f"{len(truth) - len(wrong)} of {len(truth)} are right; the first that is not is dump {wrong[0]}"
        )
        return Finding("wrong", said, 0.0, slug, self.hints_of(slug))
