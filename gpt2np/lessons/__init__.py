"""Lessons: seven files to read, run and write functions in, and a check that says which mistake you made.

>>> from gpt2np import lessons
>>> q, k = lessons.inputs("attention.scores")  # what your function gets, in float64
>>> lessons.check("attention.scores", scores)  # right, or where it is wrong, and a question

`gpt2np learn` lists the lessons. Whoever uses them computes on one thread from then on.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2np.lessons.checker import check, inputs, judge, or_ours
    from gpt2np.lessons.exercise import todo
    from gpt2np.lessons.models import PROMPT, available
    from gpt2np.lessons.pictures import bars, heatmap
    from gpt2np.lessons.planted_mistakes import examination
    from gpt2np.lessons.showing import show
    from gpt2np.lessons.verdict import Verdict

__all__ = [
    "PROMPT",
    "Verdict",
    "available",
    "bars",
    "check",
    "examination",
    "heatmap",
    "inputs",
    "judge",
    "or_ours",
    "show",
    "todo",
]

_LATER = {
    "PROMPT": "models",
    "Verdict": "verdict",
    "available": "models",
    "bars": "pictures",
    "check": "checker",
    "examination": "planted_mistakes",
    "heatmap": "pictures",
    "inputs": "checker",
    "judge": "checker",
    "or_ours": "checker",
    "show": "showing",
    "todo": "exercise",
}


def __getattr__(name: str) -> Any:
    """What is imported when it is first used: the list of lessons needs no model."""
    import importlib

    from gpt2np.threads import keep_one

    if name not in _LATER:
        raise AttributeError(f"module 'gpt2np.lessons' has no attribute {name!r}")
    keep_one()
    return getattr(importlib.import_module(f"gpt2np.lessons.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
