"""A reader of a source document: takes its commands and snippets from top to bottom, in one folder.

The steps of a document are a table in `tests/documents/NAME_steps.py`, and the tables of its page in
`gpt2np/docs` are made of the same steps (`document_pages.py`).
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from support import command_line


@dataclass(frozen=True)
class Seen:
    """What a step printed, and what the snippets of Python before it and in it have defined."""

    out: str
    err: str
    names: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One command or snippet of a document, what a reader types instead, and what must come of it.

    `language` says how `ours` is run: "console" is one command line of gpt2np, "bash" a script in which
    gpt2np is a command, "python" a snippet. Snippets share their names, as cells of a notebook do. Without a
    `check` it is not run here, such as an installation; the page lists it all the same.
    """

    heading: str  # of the document: the table of the page in which the step stands
    theirs: str
    ours: str = ""  # as the document has it, if not given
    check: Callable[[Seen], object] | None = None
    note: str = ""  # for the page: what comes of it, and what the document has wrong
    language: str = "console"
    code: int = 0  # exit code of a command

    @property
    def typed(self) -> str:
        """What is run."""
        return self.ours or self.theirs


def replaced(text: str, names: Mapping[str, str]) -> str:
    """A document's line with other names of programs and folders, in the order in which they are given."""
    for theirs, ours in names.items():
        text = text.replace(theirs, ours)
    return text


class Reader:
    """Runs steps one after another; a step finds what those before it have left."""

    def __init__(self, capsys: Any) -> None:
        self.capsys = capsys
        self.names: dict[str, Any] = {}

    def take(self, step: Step) -> None:
        """Run a step and check what came of it."""
        if step.check is None:
            return
        code, out, err = getattr(self, f"_{step.language}")(step.typed)
        assert code == step.code, f"{step.typed}\nexit code {code}\n{out}\n{err}"
        assert "Traceback" not in err, err
        step.check(Seen(out, err, self.names))

    def _console(self, text: str) -> tuple[int, str, str]:
        program, *words = shlex.split(text, comments=True)
        assert program == "gpt2np", text
        return command_line.run(self.capsys, *words)

    def _bash(self, text: str) -> tuple[int, str, str]:
        script = f'gpt2np() {{ "{sys.executable}" -m gpt2np "$@"; }}\n{text}'
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def _python(self, text: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        exec(compile(text, "snippet", "exec"), self.names)
        captured = self.capsys.readouterr()
        return 0, captured.out, captured.err
