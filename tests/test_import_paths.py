"""The table of import paths, old and new, is the same in README and CHANGELOG, and true."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def table_of(page):
    text = (ROOT / page).read_text("utf-8")
    return re.search(r"<!-- import paths -->\n(.*?)\n<!-- /import paths -->", text, re.DOTALL)[1]


ROWS = [line.strip("| ").split(" | ") for line in table_of("CHANGELOG.md").splitlines()[2:]]


def found(path):
    """What a dotted path names: a module, or something in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_both_pages_have_the_same_table():
    assert table_of("README.md") == table_of("CHANGELOG.md")
    assert len(ROWS) > 80


@pytest.mark.parametrize(("before", "now"), ROWS, ids=[before.strip("`") for before, _ in ROWS])
def test_what_is_named_is_there(before, now):
    paths = re.findall(r"`(gpt2np[\w.]*)`", now)
    assert paths
    for path in paths:
        assert found(path)
    for names, path in re.findall(r"((?:`\w+`(?:, )?)+) (?:also )?in `(gpt2np[\w.]+)`", now):
        for name in re.findall(r"\w+", names):
            assert hasattr(found(path), name), f"{name} in {path}"
    if "files of these names" in now:
        folder, _, _ = paths[0].rpartition(".")
        for name in re.findall(r"`(\w+)`", now):
            assert found(f"{folder}.{name}")


@pytest.mark.parametrize("before", [before.strip("`") for before, _ in ROWS])
def test_nothing_is_left_under_an_old_path(before):
    if before in ("gpt2np.cli", "gpt2np.export.dialects"):  # folders now
        assert found(before).__file__.endswith("__init__.py")
        return
    with pytest.raises((ImportError, AttributeError)):
        found(before)
