"""What an exercise is: the inputs of a function, what it must return, and the mistakes that are known.

An exercise is a subclass of `AtSite` (its result is a site of the run) or of `ByOutput` (its result is held
against that of a right function), in a file of `lessons/exercises/`:

    class Scores(AtSite):
        name = "attention.scores"  # the learner's function is called `scores`
        asks = "Which words does each word ask?"
        axes = {"q": "query head d_head", "k": "key head d_head"}  # of the inputs, in their order
        site = "h.1.attn.scores"
        mistakes = ("scores-unscaled", "scores-scaled-by-d-head")  # slugs of the catalogue

        def inputs(self, run: Run) -> dict[str, Any]:
            return {"q": run["h.1.attn.q"], "k": run["h.1.attn.k"]}

    class Nearest(ByOutput):
        name = "tokens.nearest"
        asks = "Which tokens mean nearly the same?"
        axes = {"wte": "vocab n_embd"}
        result_axes = ("k",)

        def inputs(self, model: Model) -> list[dict[str, Any]]:  # of each case; the first one is shown
            return [{"i": i, "wte": model.parameters.wte, "k": 3} for i in (1005, 412)]

        def right(self, i: int, wte: Array, k: int) -> Array: ...

        wrong = (Wrong("dot-product", by_dot_product, ("Who is the longest?", "A nearer question?")),)

What is not just a call of the function overrides `result`, which gets the learner's function and may call it
as it likes: a loop that decodes with a cache, or a run with the edits that the function returned,

    def result(self, function: Callable[..., Any], case: Case, model: Model) -> Any:
        return model.trace(PROMPT, edits=function(*case.copies()))["logits"]

(in a `ByOutput`, where `right` and the wrong functions return edits, too; decoding with a cache likewise),
and an exercise at several sites names them in `sites` and returns as many arrays from `result`.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpt2np.model import Model
from gpt2np.reference.mistakes import KNOWN

Function = Callable[..., Any]
Hints = tuple[str, str]  # a question, and a nearer one


class Todo:
    """What a stub returns, until it is written."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        """No array: whoever computes with it has called a function that is not written yet."""
        raise TypeError("a function that is called here still returns lessons.todo: write that one first")

    def __repr__(self) -> str:
        return "lessons.todo"


todo = Todo()


@dataclass(frozen=True)
class Case:
    """The arguments of one call, in their order, and what is different about it.

    `about` stands before the place of an error: "for the text 'Doctor Vesh'". What is wrong only in an
    `unusual` case is no more than suspicious.
    """

    arguments: Mapping[str, Any]
    about: str = ""
    prompt: str = ""
    unusual: bool = False

    def copies(self) -> tuple[Any, ...]:
        """The arguments, copied: what a learner's function does to them harms nobody."""
        return tuple(copied(value) for value in self.arguments.values())


@dataclass(frozen=True)
class Attempt:
    """What a learner's function gave in one case: a result, or an exception."""

    case: Case
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Finding:
    """What is found about one result: see `Verdict`. `hints` has all questions, the nearest last.

    Where no mistake is known they may be left out: then the exercise's `look` is asked. `ended` says that
    the search ended before all known mistakes were tried. `so_far` is how much of a result is there, and
    right, where the rest is not there yet: "3 of 51 steps".
    """

    state: str
    where: str = ""
    ratio: float = 0.0
    mistake: str | None = None
    hints: tuple[str, ...] = ()
    ended: bool = False
    so_far: str = ""


@dataclass(frozen=True)
class Wrong:
    """A function that makes a mistake, in place of the learner's.

    Two mistakes at once, of which one is told first, have the slug of that one. `hints` may be left out where
    the catalogue of `compare` has the slug.
    """

    slug: str
    function: Function
    hints: Hints | tuple[()] = ()


class Exercise:
    """A function to write.

    `name` is the topic and the function's name; `asks` is the question that it answers; `axes` are those of
    the inputs that are arrays. `wrong` are mistakes of this exercise alone. `hints` replace the catalogue's,
    by slug. `look` is asked where no mistake is known, and then `nearer`; `form` where the form is wrong,
    `fit` where arrays did not fit together in the function, and `stops`, by the exception's name, where it
    stopped otherwise.
    """

    name: ClassVar[str]
    asks: ClassVar[str]
    axes: ClassVar[Mapping[str, str]] = {}
    wrong: ClassVar[tuple[Wrong, ...]] = ()
    hints: ClassVar[Mapping[str, Hints]] = {}
    look: ClassVar[str] = "Which numbers go into the one that is most wrong? Can you work it out by hand?"
    nearer: ClassVar[str] = (
        "Print that number, and those that it is made of: which is the first that surprises you?"
    )
    form: ClassVar[str] = "Which axes should your result have, in which order, and which has it?"
    fit: ClassVar[str] = "Which axes does each of your arrays have there, and which of them belong together?"

    stops: ClassVar[Mapping[str, str]] = {}

    @property
    def function_name(self) -> str:
        """The name of the function, the last part of the exercise's name."""
        return self.name.rpartition(".")[2]

    def hints_of(self, slug: str | None, given: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The questions of a mistake: the exercise's own, those `given`, or the catalogue's."""
        found = self.hints.get(slug or "", given)
        return found or next((tuple(mistake.hints) for mistake in KNOWN if mistake.slug == slug), ())

    def cases(self, model: Model) -> Sequence[Case]:
        """The calls that are judged; the first is the one that `lessons.inputs` shows."""
        raise NotImplementedError

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """What is judged: by default what the function returns."""
        return function(*case.copies())

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """State, place and mistake of one attempt; `attempts` are those of all cases."""
        raise NotImplementedError


def copied(value: Any) -> Any:
    """A value, with copies of the arrays in it; what is no data (a model, a trace) is itself."""
    if isinstance(value, list | dict | set):
        return copy.deepcopy(value)
    if isinstance(value, tuple):
        parts = [copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.copy() if hasattr(value, "dtype") and hasattr(value, "copy") else value


def outcome(exercise: Exercise, function: Function, case: Case, model: Model) -> Any:
    """What an exercise's wrong function gives, or an object that equals nothing, if it cannot run here."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return exercise.result(function, case, model)
    except Exception:  # a wrong function is allowed to fail, as a learner's is
        return object()
