"""A user's script under type checkers: each right line has its type, each wrong one is found."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.needs import pyright

SCRIPT = Path(__file__).parent / "support" / "typed_use.py"
ROOT = Path(__file__).parents[1]
LINES = SCRIPT.read_text("utf-8").splitlines()
MARKS = {
    number: dict(zip(("mypy", "pyright"), mark[1].split(", "), strict=True))
    for number, line in enumerate(LINES, 1)
    if (mark := re.search(r"# wrong: (.+)", line))
}


def test_there_are_thirty_of_each():
    assert sum(line.startswith("assert_type(") for line in LINES) >= 30
    assert len(MARKS) >= 30


def held_against_marks(found: dict[int, set[str]], checker: str) -> None:
    """Errors by their line: of each marked one the kind that is named there, of no other any."""
    assert set(found) == set(MARKS)
    for number, marks in MARKS.items():
        assert marks[checker] in found[number], (LINES[number - 1], found[number])


def test_mypy_finds_each_mistake_and_nothing_else():
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent"]
    command.append(str(SCRIPT))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = defaultdict(set)
    for place, number, code in re.findall(r"^(.+):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE):
        assert Path(place).name == SCRIPT.name, done.stdout
        found[int(number)].add(code)
    assert found, done.stdout + done.stderr
    held_against_marks(found, "mypy")


@pytest.mark.needs("pyright")
def test_pyright_finds_each_mistake_and_nothing_else():
    command = [pyright(), "--pythonpath", sys.executable, "--outputjson", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = defaultdict(set)
    for problem in json.loads(done.stdout)["generalDiagnostics"]:
        found[problem["range"]["start"]["line"] + 1].add(problem["rule"])
    held_against_marks(found, "pyright")
