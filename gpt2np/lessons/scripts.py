"""A learner's file: its syntax, and running it beside its own folder; where in it something went wrong."""

import ast
import contextlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from gpt2np.errors import InputError, printable
from gpt2np.files import read_text


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

    Raises:
        InputError: it cannot be read, or is not Python; says in which line.
    """
    source = read_text(path)
    try:
        return ast.parse(source, str(path))
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL; brackets nested too deeply
        raise InputError(f"{path}: is not Python that can be read ({error})") from None


def place_in(path: Path, error: BaseException) -> str:
    """Where in a file an exception was raised, as `, line 7`; empty if it was not there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def said(error: BaseException) -> str:
    """An exception in one line, as Python ends its traceback."""
    return printable("".join(traceback.format_exception_only(error)).strip().splitlines()[-1])


@contextlib.contextmanager
def modules_beside(path: Path) -> Iterator[None]:
    """While the block runs, modules are looked for in a file's folder first, as Python does."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have taken it out
            sys.path.remove(folder)
