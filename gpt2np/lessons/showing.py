"""Where things are shown: in a notebook, in a page that is being made, or as text in a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpt2np.viewer.page import Page

_collector: Callable[[Any], object] | None = None


def show(*things: Any) -> None:
    """Show things one below the other: with colours in a notebook and on a page, as text in a terminal.

    Example:
        >>> show(gpt2np.analysis.heads.head_scores(model))
    """
    for thing in things:
        if _collector is not None:
            _collector(thing)
        elif _in_notebook():
            _display(thing)
        elif isinstance(thing, Page):
            print("(a page of the viewer: a notebook shows it, and so does the page of this lesson)")
        else:
            print(thing)


def shows_itself() -> bool:
    """Whether the last expression of a cell is shown by whoever runs it, so that nothing need be printed."""
    return _collector is not None or _in_notebook() or hasattr(sys, "ps1")


@contextmanager
def collecting(collector: Callable[[Any], object]) -> Iterator[None]:
    """While this lasts, `show` hands everything to `collector`, and `check` prints nothing."""
    global _collector
    before, _collector = _collector, collector
    try:
        yield
    finally:
        _collector = before


def _display(thing: object) -> None:
    """Show a thing in the notebook that runs this; IPython has no types, and need not be installed."""
    import importlib

    importlib.import_module("IPython.display").display(thing)


def _in_notebook() -> bool:
    """Whether IPython runs this."""
    import builtins

    return hasattr(builtins, "__IPYTHON__")
