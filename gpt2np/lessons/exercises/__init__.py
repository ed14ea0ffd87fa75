"""The exercises of the lessons, a file for each topic: `attention.scores` is in `attention.py`."""

import importlib

from gpt2np.errors import InputError, nearest, short
from gpt2np.lessons.exercise import Exercise

# Each topic's exercises, in the order of the lesson.
NAMES = {
    "tokens": ("merge", "embed", "nearest"),
    "stream": ("layer_norm", "gelu", "after_mlp"),
    "attention": ("split", "scores", "pattern", "mix"),
    "next_word": ("logits", "filtered", "step"),
    "circuits": ("induction_score", "without", "qk", "ov"),
    "patching": ("patched", "recovered", "direction"),
    "own": ("run", "extend", "first_wrong", "answers"),
}


def names() -> list[str]:
    """The names of all exercises, in the order of the lessons."""
    return [f"{topic}.{name}" for topic, each in NAMES.items() for name in each]


def exercise(name: str) -> Exercise:
    """An exercise by its name, or by its function's.

    Raises:
        InputError: there is none.
    """
    full = next((known for known in names() if name in (known, known.rpartition(".")[2])), None)
    if full is None:
        functions = {known.rpartition(".")[2]: known for known in names()}
        meant = nearest(str(name), names()) or functions.get(nearest(str(name), functions) or "")
        found = f"did you mean {meant!r}?" if meant else "there are " + ", ".join(names())
        raise InputError(f"{short(name)} is no exercise: {found}")
    module = importlib.import_module(f"gpt2np.lessons.exercises.{full.partition('.')[0]}")
    made: Exercise = next(
        c() for c in vars(module).values() if getattr(c, "__dict__", {}).get("name") == full
    )
    return made
