"""Exercises that bring their own truth: the output of a right function, and of functions that are wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2np.lessons.exercise import Attempt, Case, Exercise, Finding, Wrong, outcome
from gpt2np.lessons.same import array_of, errors, is_same, kind_of, with_shape
from gpt2np.model import Model


class ByOutput(Exercise):
    """An exercise whose result is that of `right`.

    `wrong` functions take the same arguments; the mistake is named whose function gives the learner's result
    in every case, or in every one that is not unusual. Lists, texts and whole numbers must be equal, other
    numbers agree within float32's noise.
    `result_axes` names the axes of an array, or the one of a list; `abouts` says what each case is, and
    cases from `unusual` on are those where an error is only suspicious.
    """

    result_axes: ClassVar[tuple[str, ...]] = ()
    abouts: ClassVar[tuple[str, ...]] = ()
    unusual: ClassVar[int | None] = None
    right: ClassVar[Callable[..., Any]]  # a method: self, and the learner's arguments

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        """The arguments of each case, in their order."""
        raise NotImplementedError

    def cases(self, model: Model) -> Sequence[Case]:
        """One for each dict of `inputs`."""
        made = []
        for i, arguments in enumerate(self.inputs(model)):
            about = self.abouts[i] if i < len(self.abouts) else ""
            made.append(Case(arguments, about, unusual=self.unusual is not None and i >= self.unusual))
        return made

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """Whether a result is that of the right function; if not, which wrong function gives all results."""
        truth = self._true(attempt.case, model)
        state, where, ratio = self._held(attempt.result, truth)
        if state in ("right", "shape") and not (state == "shape" and self._may_be_named(attempt.result)):
            return Finding(state, where, ratio)
        alike = [other for other in attempts if attempt.case.unusual or not other.case.unusual]
        named = next((w for w in self.wrong if self._is(w, alike, model)), None)
        if named:
            ratio = 0.0 if state == "shape" else ratio  # of a form there is nothing to be rounded
            return Finding("wrong", where, ratio, named.slug, self.hints_of(named.slug, named.hints))
        return Finding(state, where, ratio)

    def _may_be_named(self, result: Any) -> bool:
        """Whether a result of the wrong shape or length may still be that of a known mistake."""
        return result is not None

    def _true(self, case: Case, model: Model) -> Any:
        return self.result(self.right, case, model)

    def _is(self, wrong: Wrong, attempts: Sequence[Attempt], model: Model) -> bool:
        """Whether a wrong function gives what the learner's gives, in every case."""
        for attempt in attempts:
            if attempt.error is not None:
                return False
            if not is_same(attempt.result, outcome(self, wrong.function, attempt.case, model)):
                return False
        return True

    def _held(self, yours: Any, truth: Any) -> tuple[str, str, float]:
        """State, place and size of the error."""
        numbers = array_of(truth)
        if numbers is not None and not isinstance(truth, list | tuple) and numbers.ndim:
            return self._held_array(yours, numbers)
        if is_same(yours, truth):
            return "right", "", 0.0
        if isinstance(truth, list | tuple):
            return self._held_list(yours, truth)
        return self._held_single(yours, truth)

    def _held_array(self, yours: Any, truth: Any) -> tuple[str, str, float]:
        axes = self.result_axes or tuple(f"axis {i}" for i in range(truth.ndim))
        array, problem = with_shape(yours, truth.shape, axes)
        if problem:
            return "shape", problem, np.inf
        whole = truth.dtype.kind in "iu"  # of which no error is a matter of rounding
        equal = np.where(array == truth, 0.0, np.inf)
        ratios = equal if whole else errors(array.astype(np.float64), truth)
        if (ratios <= 1).all():
            return "right", "", float(ratios.max(initial=0.0))
        at = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
        place = ", ".join(f"{axis} {int(i)}" for axis, i in zip(axes, at, strict=True))
        n = int((ratios > 1).sum())
        place += " is nan (no number)" if np.isnan(array[at]) else ""
        where = f"{'first' if whole else 'worst'} at {place} ({n:,} of {ratios.size:,} are wrong)"
        return "wrong", where, 0.0 if whole else float(ratios.max())

    def _held_list(self, yours: Any, truth: Sequence[Any]) -> tuple[str, str, float]:
        item = self.result_axes[0] if self.result_axes else "item"
        if not isinstance(yours, list | tuple | np.ndarray):
            said = "None: does the function end in a return?" if yours is None else kind_of(yours)
            return "shape", f"a list of {len(truth)}; yours is {said}", np.inf
        for i, (one, other) in enumerate(zip(yours, truth, strict=False)):
            if not is_same(one, other):
                return "wrong", f"{item} {i} is the first that is wrong", 0.0
        return "wrong", f"a list of {len(truth)}; yours has {len(yours)}", 0.0

    def _held_single(self, yours: Any, truth: Any) -> tuple[str, str, float]:
        one, other = array_of(yours), array_of(truth)
        if other is None or one is None or one.shape != other.shape:
            if type(yours) is type(truth):
                return "wrong", "", 0.0
            return "shape", f"it must be {kind_of(truth)}; yours is {kind_of(yours)}", np.inf
        return "wrong", "", float(errors(one.astype(np.float64), other.astype(np.float64)))
