"""A user's script under type checkers: each right line has its type, each wrong one is found."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.needs import pyright
from support.pages import python_of

import gpt2np
from gpt2np.analysis.interventions import Chosen, Intervention
from gpt2np.generation.options import GenerateOptions, Sampling, SamplingOptions
from gpt2np.tracing.traced_run import TraceOptions

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


PAGES = ["README.md", *(f"gpt2np/docs/{name}.md" for name in ("analysis", "export", "files", "python"))]


def test_what_the_pages_show_passes_mypy(tmp_path):
    for page in PAGES:
        for i, code in enumerate(python_of((ROOT / page).read_text("utf-8"))):
            (tmp_path / f"{Path(page).stem}_{i}.py").write_text(code, "utf-8")
    files = sorted(map(str, tmp_path.glob("*.py")))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT)
    assert (len(files) >= len(PAGES), done.stdout) == (True, "")


@pytest.mark.needs("pyright")
def test_pyright_finds_each_mistake_and_nothing_else():
    command = [pyright(), "--pythonpath", sys.executable, "--outputjson", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = defaultdict(set)
    for problem in json.loads(done.stdout)["generalDiagnostics"]:
        found[problem["range"]["start"]["line"] + 1].add(problem["rule"])
    held_against_marks(found, "pyright")


def arguments_of(method):
    """The names of a method's keyword arguments, without those that it passes on."""
    kinds = inspect.signature(method).parameters.values()
    return {p.name for p in kinds if p.kind is p.KEYWORD_ONLY}


def test_typed_options_are_the_arguments():
    chosen = {f.name for f in dataclasses.fields(Sampling)}
    assert set(SamplingOptions.__annotations__) == chosen
    assert TraceOptions.__optional_keys__ == arguments_of(gpt2np.Model.trace)
    assert GenerateOptions.__optional_keys__ == arguments_of(gpt2np.Model.generate) | chosen
    assert set(Chosen.__annotations__) == {f.name for f in dataclasses.fields(Intervention) if f.init} - {
        "value",
        "reference",
    }
