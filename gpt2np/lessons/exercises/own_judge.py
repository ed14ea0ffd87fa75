"""The exercise of lesson 7 in which a learner writes a judge: dumps to be judged, and judges that err."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2np.lessons import planted_mistakes as exam
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.exercise import Case, Function, Hints, Wrong
from gpt2np.lessons.models import PROMPT, model_of_lessons
from gpt2np.lessons.same import kind_of
from gpt2np.model import Model
from gpt2np.ops import Array

_Test = Callable[[Array, Array, Array, Array], bool]  # error, band, theirs, true: is the step wrong?
_Order = Callable[[exam.Dump, exam.Dump], list[str]]
# What becomes of the difference from NaN: it is infinite, or less than any band, or is asked itself.
_NAN: tuple[float, ...] = (np.inf, 0.0, np.nan)
_NTH = (  # as one counts programs, not as the examination numbers its dumps
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


def _off(theirs: Array, truth: Array, nan: float) -> Array:
    """How far off each number is; equal infinities are not."""
    with np.errstate(invalid="ignore"):
        error = np.where(theirs == truth, 0.0, np.abs(theirs - truth))
    return np.where(np.isnan(error), nan, error)


def _in_their_order(theirs: exam.Dump, truth: exam.Dump) -> list[str]:
    return [name for name in truth if name in theirs]


def _without(kinds: tuple[str, ...], theirs: exam.Dump, truth: exam.Dump) -> list[str]:
    return [name for name in truth if name in theirs and not name.endswith(kinds)]


def _outside(error: Array, band: Array, *_: Array) -> bool:
    return bool((error > band).any())


def _judge(test: _Test = _outside, order: _Order = _in_their_order, nan: float = np.inf) -> Function:
    """A judge that looks at the steps in an order, and calls those wrong for which the test is true."""

    def judge(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> Any:
        with np.errstate(all="ignore"):
            for name in order(theirs, truth):
                if name in theirs:
                    error = _off(theirs[name], truth[name], nan)
                    if test(error, bands[name], theirs[name], truth[name]):
                        return name
        return None

    return judge


def _furthest_outside(nan: float) -> Function:
    def judge(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> str | None:
        outside = {name: float((_off(theirs[name], truth[name], nan) - bands[name]).max()) for name in theirs}
        largest = max(_in_their_order(theirs, truth), key=outside.__getitem__)
        return largest if outside[largest] > 0 else None

    return judge


def _largest(nan: float) -> Function:
    def judge(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> str:
        ratios = {name: float((_off(theirs[name], truth[name], nan) / bands[name]).max()) for name in theirs}
        return max(theirs, key=ratios.__getitem__)

    return judge


def _all_that_is_there(theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> Any:
    """A judge to whom a step is wrong that was not written down."""
    for name in truth:
        if name not in theirs or _outside(_off(theirs[name], truth[name], np.inf), bands[name]):
            return name
    return None


def _signed(sign: int) -> _Test:
    return lambda error, band, theirs, truth: bool((sign * error * np.sign(theirs - truth) > band).any())


def _signed_or_nan(sign: int) -> _Test:
    return lambda error, band, theirs, truth: (
        not ((theirs == truth) | (sign * (theirs - truth) <= band)).all()
    )


def _with_infinities(error: Array, band: Array, theirs: Array, truth: Array) -> bool:
    return not bool((np.abs(theirs - truth) <= band).all())


def _only_finite(error: Array, band: Array, theirs: Array, truth: Array) -> bool:
    return bool((error > band)[np.isfinite(truth)].any())


def _both_finite(error: Array, band: Array, theirs: Array, truth: Array) -> bool:
    return bool((error > band)[np.isfinite(truth) & np.isfinite(theirs)].any())


def _close(atol: float, rtol: float) -> _Test:
    return lambda error, band, theirs, truth: (
        not np.allclose(theirs, truth, atol=atol, rtol=rtol, equal_nan=False)
    )


def _close_in_bands(error: Array, band: Array, theirs: Array, truth: Array) -> bool:
    return not np.allclose(theirs, truth, atol=band)


def _further(tolerance: float) -> _Test:
    return lambda error, *_: bool((error > tolerance).any())


_HINTS: dict[str, Hints] = {
    "order-of-names": (
        "Which step does the model compute first, and which one do you look at first?",
        "Does the alphabet know in which order a model runs? Which of your inputs does know it?",
    ),
    "order-of-the-dump": (
        "Who promises that a program writes its steps down in the order of execution?",
        "You get two dicts with steps: which of the two stands in the order in which a model runs?",
    ),
    "largest-error": (
        "One mistake is made early. Where would you expect the largest error: there, or further on?",
        "What happens to a small error on its way through four layers?",
    ),
    "last-wrong": (
        "Everything behind a mistake is wrong, too. Which of all the wrong steps says most?",
        "When do you stop looking?",
    ),
    "every-rounding": (
        "The dump is in float32, the truth in float64. Can a right program have the same bits?",
        "Which of your inputs says how far off a right program may be?",
    ),
    "mean-error": (
        "If a single number of a thousand is wrong, does your judge see it?",
        "What is left of one large error, once you have averaged it with all the small ones?",
    ),
    "one-sided": (
        "Is a number that is too small as wrong as one that is too large?",
        "Which sign has an error, and does your test care?",
    ),
    "infinity-less-infinity": (
        "Which step is called wrong here, and which numbers in it are no ordinary numbers?",
        "Two infinities are equal. What is their difference, and is that smaller than anything?",
    ),
    "missing-step": (
        "Is a step wrong, only because nobody wrote it down?",
        "Which of your two dicts with steps may have fewer than the other?",
    ),
    "scores-left-out": (
        "Is there a step at which your judge never looks?",
        "The future has infinities, but what of the past: can the scores of that not be wrong?",
    ),
    "finite-only": (
        "Where the truth is infinite, may there be any number at all?",
        "A program that looks into the future: what stands in its scores, and does your judge look there?",
    ),
    "fixed-tolerance": (
        "How far off may a number be: as far at every step?",
        "You get three dicts. Which of them does your judge never read?",
    ),
    "two-tolerances": (
        "Your comparison allows a second tolerance of its own: how large is it, and who asked for it?",
        "A relative tolerance grows with the number: how much more than the band does yours let pass?",
    ),
    "first-step-only": (
        "Do you look at a second step, when the first is right?",
        "When may a judge say that nothing is wrong: after one step, or after all of them?",
    ),
    "all-numbers-wrong": (
        "If a single number of a thousand is wrong, is the step right?",
        "Must every number be off, or is one enough?",
    ),
    "largest-band": (
        "Each position has a band of its own. With which one do you compare?",
        "An error at one position, a band of another one: what can slip through?",
    ),
    "nan-passes": (
        "What does a step hold that has gone wrong altogether, and what does your test say to that?",
        "Is something that is no number larger than a band? Is it smaller?",
    ),
}


def _tests() -> Iterator[tuple[str, _Test, _Order]]:
    """Judges that err in what they call wrong, or in the order in which they look."""
    yield "order-of-names", _outside, lambda theirs, truth: sorted(truth)
    yield "order-of-the-dump", _outside, lambda theirs, truth: list(theirs)
    yield "last-wrong", _outside, lambda theirs, truth: list(truth)[::-1]
    for slug, test in (
        ("every-rounding", lambda error, *_: bool(error.any())),
        ("mean-error", lambda error, band, *_: bool(error.mean() > band.mean())),
        ("all-numbers-wrong", lambda error, band, *_: bool((error > band).all())),
        ("one-sided", _signed(1)),
        ("one-sided", _signed(-1)),
        ("one-sided", _signed_or_nan(1)),
        ("one-sided", _signed_or_nan(-1)),
        ("infinity-less-infinity", _with_infinities),
        ("finite-only", _only_finite),
        ("finite-only", _both_finite),
        ("largest-band", lambda error, band, *_: bool((error > band.max()).any())),
    ):
        yield slug, test, _in_their_order
    yield "two-tolerances", _close_in_bands, _in_their_order
    for tolerance in _TOLERANCES:
        for test in (_close(tolerance, 1e-5), _close(tolerance, 0.0), _further(tolerance)):
            yield "fixed-tolerance", test, _in_their_order
    yield "first-step-only", _outside, lambda theirs, truth: list(truth)[:1]
    yield "first-step-only", _outside, lambda theirs, truth: _in_their_order(theirs, truth)[:1]
    for kinds in (("scores",), ("scores", "pattern")):
        yield (
            "scores-left-out",
            _outside,
            functools.partial(_without, kinds),
        )


def _wrong() -> Iterator[Wrong]:
    """Each of them with what it may do to NaN: the first mistake is the one that is told."""
    for slug, test, order in _tests():
        for nan in _NAN:
            yield Wrong(slug, _judge(test, order, nan), _HINTS[slug])
    for nan in _NAN:
        for largest in (_largest, _furthest_outside):
            yield Wrong("largest-error", largest(nan), _HINTS["largest-error"])
    yield Wrong("missing-step", _all_that_is_there, _HINTS["missing-step"])
    yield Wrong("nan-passes", _judge(nan=0.0), _HINTS["nan-passes"])


class FirstWrong(ByOutput):
    """The step to look at, in a dump of somebody's program."""

    name = "own.first_wrong"
    asks = "Where did it go wrong first?"
    wrong = tuple(_wrong())
    abouts = tuple(f"for the {nth} of twelve programs that are not those of the examination" for nth in _NTH)
    look = "Take such a program: which steps do you visit, in which order, and at which do you stop?"
    nearer = "Which step did you return, and is an earlier one outside of its band?"
    stops: ClassVar[Mapping[str, str]] = {
        "KeyError": "Need a program have written down every step, and which of your three dicts has them all?"
    }

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        """Dumps with mistakes at other places: everywhere, at one number, of one sign; in part; and none."""
        expected = exam.expected_of(model_of_lessons(), PROMPT)  # whatever the model: dumps are judged
        truth, bands = exam.steps_of(expected), exam.bands_of(expected)
        late = exam.planted(expected, "softmax-sum-starts-at-one", None, ("attn.pattern",), (2,))
        no_mean = next(
            iter(exam.mistake_called("layernorm-no-mean").variants(model_of_lessons().config, 12, []))
        )
        norm = exam.planted(expected, "layernorm-no-mean", no_mean, ("ln_2",), (1,))
        unscaled = exam.planted(expected, "scores-unscaled", None, ("attn.scores",), (1,))
        clean = {name: array.astype(np.float32) for name, array in truth.items()}
        part = {name: norm[name] for name in sorted(norm) if not name.endswith(("ln_2", "mlp.pre"))}
        dumps = [late, norm, _changed(clean, "h.3.mlp.out", (7, 100), 20 * np.max(bands["h.3.mlp.out"]))]
        dumps += [part, clean, unscaled, *_hidden(clean, bands)]
        return [{"theirs": dump, "truth": truth, "bands": bands} for dump in dumps]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The answer, with arrays that nobody can change: those of the lesson cannot be changed either."""
        arguments = case.copies()
        for dump in arguments:
            exam.fixed(dump)
        return function(*arguments)

    def _may_be_named(self, result: Any) -> bool:
        return result is None or isinstance(result, str)  # None is an answer here

    def _held_single(self, yours: Any, truth: Any) -> tuple[str, str, float]:
        if yours is not None and not isinstance(yours, str):
            return "shape", f"it must be the name of one step, or None; yours is {kind_of(yours)}", 0.0
        if yours == "":
            return "shape", "where no step is wrong it must be None; yours is an empty string", 0.0
        return "wrong", f"it is not {'None' if yours is None else yours}", 0.0

    def right(self, theirs: exam.Dump, truth: exam.Dump, bands: exam.Dump) -> Any:
        return _judge()(theirs, truth, bands)


def _changed(
    dump: exam.Dump, name: str, at: tuple[int, ...], by: float, to: float | None = None
) -> exam.Dump:
    """A dump with another number at one place."""
    made = {step: array.copy() for step, array in dump.items()}
    made[name][at] = made[name][at] + by if to is None else to
    return made


def _hidden(clean: exam.Dump, bands: Mapping[str, Array]) -> Iterator[exam.Dump]:
    """A small error, one below another position's band, a number in the future, and what is no number."""
    yield _changed(clean, "embed", (3, 50), 3 * float(bands["embed"][3, 0]))
    band = bands["h.1.resid_mid"][:, 0]
    least = int(np.argmin(band))
    yield _changed(clean, "h.1.resid_mid", (least, 20), float(np.sqrt(band[least] * band.max())))
    yield _changed(clean, "h.1.attn.scores", (2, 3, 5), 0.0, to=0.5)
    broken = _changed(clean, "h.2.attn.pattern", (0, 4), 0.0, to=np.nan)
    names = list(clean)
    for name in names[names.index("h.2.attn.z") :]:
        broken[name] = np.full_like(broken[name], np.nan)
    yield broken
    for name, bands_off in (("h.3.mlp.out", 0.7), ("embed", 10.0)):  # near zero, where no share counts
        sizes = np.abs(clean[name])
        place = np.unravel_index(int(np.argmin(sizes)), sizes.shape)
        width = float(np.broadcast_to(bands[name], sizes.shape)[place])
        yield _changed(clean, name, tuple(int(i) for i in place), bands_off * width)
