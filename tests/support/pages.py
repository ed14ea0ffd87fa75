"""Pages that show what is typed and what is printed: their blocks, run again and held against the page."""

import re
import shlex

import pytest

from gpt2np.cli import main

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NOISE = re.compile(r"noise explains \S+ \S+ times")  # rounding itself, which every machine has its own of


def blocks_of(page):
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def sessions_of(page):
    """(command, what it prints) for every `$ gpt2np ...` in a console block."""
    found = []
    for language, text in blocks_of(page):
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                if command.startswith("gpt2np"):
                    found.append((command, output))
    return found


def python_of(page):
    """The blocks of Python."""
    return [text for language, text in blocks_of(page) if language == "python"]


def prints_what_is_shown(command, output, page, capsys):
    """Run a command line; it prints the same text, with numbers equal to what other rounding may change.

    A line `...` stands for any number of lines that a page leaves out.
    """
    if "theirs.safetensors" in command:  # a block of Python before it has written it
        code = next(code for code in python_of(page) if "theirs.safetensors" in code)
        exec(compile(code, "page", "exec"), {})
        capsys.readouterr()
    assert main(shlex.split(command)[1:]) == (1 if output.startswith("wrong") else 0)
    printed, output = NOISE.sub("noise", capsys.readouterr().out), NOISE.sub("noise", output)
    before, cut, after = output.partition("...\n")
    if cut:
        lines, end = printed.splitlines(keepends=True), after.count("\n")
        assert len(lines) > output.count("\n") - 1, "nothing is left out"
        printed = "".join([*lines[: before.count("\n")], *lines[len(lines) - end :]])
        output = before + after
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", output).split()
    found, shown = ([float(n) for n in NUMBER.findall(text)] for text in (printed, output))
    assert found == pytest.approx(shown, rel=2e-3, abs=2e-2)
