"""The changelog's table of import paths, old and new, is true."""

import importlib
import re
from pathlib import Path

import pytest

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")
TABLE = re.search(r"<!-- import paths -->\n(.*?)\n<!-- /import paths -->", CHANGELOG, re.DOTALL)[1]
ROWS = [line.strip("| ").split(" | ") for line in TABLE.splitlines()[2:]]


def found(path):
    """What a dotted path names: a module, or something in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_the_table_is_there():
    assert len(ROWS) > 80


def test_versions_are_listed_from_the_newest_with_their_dates():
    versions = re.findall(r"^## (\d+)\.(\d+)\.(\d+) \((.+)\)$", CHANGELOG, re.MULTILINE)
    assert len(versions) == CHANGELOG.count("\n## ")
    assert sorted(versions, reverse=True) == versions
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for *_, date in versions[1:])
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", versions[0][3])


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
