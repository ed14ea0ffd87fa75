"""Exercises of lesson 7: a GPT-2 of one's own, its cache, a judge of one's own, and the examination."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2np.errors import InputError
from gpt2np.lessons import planted_mistakes as exam
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.exercise import Attempt, Case, Exercise, Finding, Function, Hints, Wrong
from gpt2np.lessons.models import PROMPT, SECOND, model_of_lessons, run_of
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.comparison import Comparison, compare
from gpt2np.tables import counted

SECONDS = 2.5  # of computing, that the search for a mistake may take


class Program(Exercise):
    """A function that runs the model and returns its steps as a dict: `compare` is the judge."""

    prefill: ClassVar[int | None] = None
    look = "Take the step that is named and the one before it: which line of yours makes one of the other?"

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """The first step that is wrong; or, if what is there is right, what is missing."""
        steps = attempt.result
        if not isinstance(steps, Mapping) or not steps:
            said = "a dict that is empty" if steps == {} else f"a {type(steps).__name__}"
            return Finding("shape", f"it must be a dict of steps by name; yours is {said}")
        noise = exam.expected_of(model, attempt.case.prompt)
        about = steps, model, list(noise.truth.token_ids)
        try:
            found = compare(*about, prefill=self.prefill, search=SECONDS, noise=noise)
        except InputError as error:
            return Finding("shape", str(error))
        if found.refused:
            return Finding("shape", "; ".join(f"{name}: {why}" for name, why in found.refused[:2]))
        missing = _missing(found, model)
        if found.first is not None:
            state = "suspicious" if found.verdict == "suspicious" else "wrong"
            hints = self.hints_of(found.mistake)
            where, ended = _where(found, missing, model), found.searched is not None
            return Finding(state, where, found.first.measure.ratio, found.mistake, hints, ended)
        if missing:
            there = f"{counted(len(found.sites), 'step')} recorded, and right"
            return Finding("shape", f"{there}; the next one that is not there is {missing[0]}")
        return Finding("right")


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
        place += f"; before it you have not recorded {', '.join(before[-3:])}"
    return place


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


class Extend(Program):
    """The same with a cache: a few tokens at once, and then one at a time."""

    name = "own.extend"
    asks = "What of all this need not be computed again?"
    prefill = exam.PREFILL

    def cases(self, model: Model) -> Sequence[Case]:
        """The prompt of the lessons, and a second one; shown are six tokens, and an empty cache."""
        return [
            Case(
                _given(model, model.token_ids(text)[: exam.PREFILL]) | {"cache": {}},
                f"for the text {text!r}" if i else "",
                text,
            )
            for i, text in enumerate((PROMPT, SECOND))
        ]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The steps of all calls, joined along the positions."""
        weights, config, first, cache = case.copies()
        ids = run_of(model, case.prompt).token_ids
        calls = [first, *([token] for token in ids[len(first) :])]
        made = [function(weights, config, new, cache) for new in calls]
        if not all(isinstance(steps, Mapping) for steps in made):
            return next(steps for steps in made if not isinstance(steps, Mapping))
        return {f"step{i}.{name}": array for i, steps in enumerate(made) for name, array in steps.items()}


def _given(model: Model, ids: Sequence[int]) -> dict[str, Any]:
    """Weights by their names in the checkpoint, sizes, and tokens."""
    weights = {name: np.asarray(array, model.dtype) for name, array in model.weights.items()}
    return {"weights": weights, "config": model.config, "ids": list(ids)}


# -- a judge of one's own ---------------------------------------------------------------------------------


def _off(theirs: Array, truth: Array) -> Array:
    """How far off each number is; equal infinities are not."""
    with np.errstate(invalid="ignore"):
        return np.where(theirs == truth, 0.0, np.abs(theirs - truth))


def _first(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump, order: Sequence[str], test: Any) -> Any:
    steps = (name for name in order if name in theirs)
    return next((n for n in steps if test(_off(theirs[n], truth[n]), bands[n], theirs[n], truth[n])), None)


def _outside(error: Array, band: Array, *_: Array) -> bool:
    return bool((error > band).any())


def _judge(test: Any = _outside, order: Any = lambda theirs, truth: list(truth)) -> Function:
    """A judge that looks at the steps in an order, and calls those wrong for which the test is true."""
    return lambda theirs, truth, bands: _first(theirs, truth, bands, order(theirs, truth), test)


def _largest(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> str:
    return max(theirs, key=lambda name: float((_off(theirs[name], truth[name]) / bands[name]).max()))


def _last(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> Any:
    return _judge(order=lambda theirs, truth: list(truth)[::-1])(theirs, truth, bands)


def _with_infinities(error: Array, band: Array, theirs: Array, truth: Array) -> bool:
    with np.errstate(invalid="ignore"):
        return not bool((np.abs(theirs - truth) <= band).all())


class FirstWrong(ByOutput):
    """The step to look at, in a dump of somebody's program."""

    name = "own.first_wrong"
    asks = "Where did it go wrong first?"
    abouts = (
        "",
        "for a second dump",
        "for a third dump",
        "for a fourth dump",
        "for a dump without a mistake",
    )
    wrong = (
        Wrong(
            "order-of-names",
            _judge(order=lambda theirs, truth: sorted(truth)),
            (
                "Which step does the model compute first, and which one do you look at first?",
                "Does the alphabet know in which order a model runs? Which of your inputs does know it?",
            ),
        ),
        Wrong(
            "order-of-the-dump",
            _judge(order=lambda theirs, truth: list(theirs)),
            (
                "Who promises that a program writes its steps down in the order of execution?",
                "You get two dicts with steps: which of the two stands in the order in which a model runs?",
            ),
        ),
        Wrong(
            "largest-error",
            _largest,
            (
                "One mistake is made early. Where would you expect the largest error: there, or further on?",
                "What happens to a small error on its way through four layers?",
            ),
        ),
        Wrong(
            "last-wrong",
            _last,
            (
                "Everything behind a mistake is wrong, too. Which of all the wrong steps says most?",
                "When do you stop looking?",
            ),
        ),
        Wrong(
            "every-rounding",
            _judge(lambda error, *_: bool(error.any())),
            (
                "The dump is in float32, the truth in float64. Can a right program have the same bits?",
                "Which of your inputs says how far off a right program may be?",
            ),
        ),
        Wrong(
            "mean-error",
            _judge(lambda error, band, *_: bool(error.mean() > band.mean())),
            (
                "If a single number of a thousand is wrong, does your judge see it?",
                "What is left of one large error, once you have averaged it with all the small ones?",
            ),
        ),
        Wrong(
            "one-sided",
            _judge(lambda error, band, theirs, truth: bool((error * np.sign(theirs - truth) > band).any())),
            (
                "Is a number that is too small as wrong as one that is too large?",
                "Which sign has an error, and does your test care?",
            ),
        ),
        Wrong(
            "infinity-less-infinity",
            _judge(_with_infinities),
            (
                "Which step is called wrong here, and which numbers in it are no ordinary numbers?",
                "Two infinities are equal. What is their difference, and is that smaller than anything?",
            ),
        ),
    )
    look = "Take the first dump: which steps do you visit, in which order, and at which do you stop?"

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        """Dumps with mistakes at other places: everywhere, at one number, of one sign; in part; and none."""
        expected = exam.expected_of(model_of_lessons(), PROMPT)  # whatever the model: dumps are judged
        truth, bands = exam.steps_of(expected), exam.bands_of(expected)
        late = exam.planted(expected, "softmax-sum-starts-at-one", None, ("attn.pattern",), (2,))
        norm = exam.planted(
            expected, "layernorm-no-mean", _form("layernorm-no-mean", model_of_lessons()), ("ln_2",), (1,)
        )
        clean = {name: array.astype(np.float32) for name, array in truth.items()}
        single = {name: array.copy() for name, array in clean.items()}
        single["h.3.mlp.out"][7, 100] += 20 * np.max(bands["h.3.mlp.out"])
        part = {name: norm[name] for name in sorted(norm) if not name.endswith(("ln_2", "mlp.pre"))}
        given = {"truth": truth, "bands": bands}
        return [{"theirs": dump} | given for dump in (late, norm, single, part, clean)]

    def _may_be_named(self, result: Any) -> bool:
        return True  # None is an answer here

    def right(self, theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> Any:
        return _judge()(theirs, truth, bands)


def _form(slug: str, model: Model) -> Any:
    """The first form of a mistake of the catalogue."""
    return next(iter(exam.mistake_called(slug).variants(model.config, 12, [])))


# -- the examination ----------------------------------------------------------------------------------------

_QUESTIONS: tuple[Hints, ...] = (
    (
        "How much smaller are these scores than they should be: by the same factor everywhere?",
        "Is that factor a number that you know from this model's sizes? Has something been done twice?",
    ),
    (
        "How large is the error, and at which inputs is it largest?",
        "Two curves that lie almost on each other: which function has an exact form and an approximate one?",
    ),
    (
        "Which layers are right? Is the difference the same at every position?",
        "What does a step add that does not depend on the text at all?",
    ),
    (
        "Take the token part away from both: what is left, and whose is it?",
        "Is what the first token has what another token should have?",
    ),
    (
        "The vectors are right, the products of them are not. Who meets whom?",
        "Each word sends out three vectors. Can two of them have changed their roles?",
    ),
    (
        "Which two things are added here? Is either of them missing?",
        "What was in the stream a little earlier, before attention had written anything?",
    ),
    (
        "The same small factor at every number: which one, once the bias is taken away?",
        "By what do you divide when you take the mean of 192 numbers, and by what do some people?",
    ),
    (
        "Which scores are numbers here and should not be?",
        "How far into the future does each word see?",
    ),
    (
        "What each head has found is right. Who puts the heads side by side?",
        "Which words have become mixed up, and in which order do numbers lie in memory?",
    ),
    (
        "From which position on is it wrong? What is different about the words from there on?",
        "When a new word looks at itself, whom does it see?",
    ),
)


class Answers(Exercise):
    """Which mistake each of ten programs makes."""

    name = "own.answers"
    asks = "Which mistake did each of them make?"
    hints: ClassVar[Mapping[str, Hints]] = {f"dump-{i}": each for i, each in enumerate(_QUESTIONS)}

    def cases(self, model: Model) -> Sequence[Case]:
        """One call, with nothing."""
        return [Case({})]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """How many are right, and which is the first that is not."""
        given, truth = attempt.result, exam.answers()
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
