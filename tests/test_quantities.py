"""The README's tables of quantities name what exists: functions, sites, commands and tests."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import gpt2np
from gpt2np.cli import build_parser

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text("utf-8").partition("<!-- quantities -->")[2]
LINES = SECTION.partition("<!-- /quantities -->")[0].splitlines()
ROWS = [[cell.strip() for cell in line.split("|")[1:5]] for line in LINES if line.startswith("| ")]
ROWS = [row for row in ROWS if row[1] != "function" and not row[0].startswith("---")]
PLACES = {"TEXT": "hi", "FILE": "f", "CLEAN": "hi", "CORRUPT": "ho", "T2": "b"}


def ids(row):
    return row[0][:40]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_the_tables_are_there():
    assert len(ROWS) > 35
    assert all(names(cell) for row in ROWS for cell in row[1:])


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_functions(row, tiny):
    for name in names(row[1]):
        head, _, rest = name.partition(".")
        if name.startswith("trace["):
            assert tiny.trace("Elizabeth was")[re.search(r'"(.+)"', name)[1].replace("h.i.", "h.1.")].size
        elif name.startswith("model.weights["):
            assert re.search(r'"(.+)"', name)[1] in tiny.weights
        elif head.startswith("model"):
            assert hasattr(tiny, re.split(r"[.(]", rest)[0] or "__call__")
        elif head == "trace":
            assert hasattr(gpt2np.Trace, rest)
        elif head == "generated":
            from gpt2np.generated import Generated

            assert hasattr(Generated, rest)
        else:
            module, _, function = name.rpartition(".")
            module = module if module.startswith("gpt2np.") else f"gpt2np.analysis.{module}"
            assert getattr(importlib.import_module(module), function).__doc__


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_commands(row):
    for command in names(row[2]):
        words = [PLACES.get(word, word) for word in shlex.split(command)]
        assert words[0] == "gpt2np"
        build_parser().parse_args(words[1:])


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_tests(row):
    text = "".join((ROOT / "tests" / f"{name}.py").read_text("utf-8") for name in names(row[3]))
    for function in re.findall(r"`[a-z]+\.([a-z_]+)`", row[1]):
        assert function in text, f"{row[3]} does not mention {function}"
