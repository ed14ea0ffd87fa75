"""Damaged files of every kind: each is refused by one line of ours, or gives an answer that is right.

`pytest tests/mutation --mutations 1000 --mutation-seed 7` makes other tries. What fails names its kind, seed
and number, which become a row of `FOUND`; `CASES` are damages of which each was a mistake once.
"""

import warnings

import pytest
from support.mutated_files import KINDS, Folder

# Tries that failed once: kind, seed, number.
FOUND: list[tuple[str, int, int]] = []


def tries_of(config, name):
    """How many of all the tries are of this kind."""
    total = config.getoption("--mutations") or (20_000 if config.getoption("--slow") else 2_000)
    return round(total * KINDS[name].share / sum(kind.share for kind in KINDS.values()))


def attempted(folder, name, seed, number):
    """One try; a failure says which."""
    file, content, chance = folder.chosen(name, seed, number)
    try:
        return folder.attempt(file, content, chance)
    except (Exception, pytest.fail.Exception) as error:
        row = f'("{name}", {seed}, {number})'
        pytest.fail(f"{row}: {file}: {type(error).__name__}: {error}"[:2000])


@pytest.fixture
def folder(tmp_path, request):
    name = request.node.callspec.params["name"]
    return Folder(KINDS[name], tmp_path / "files")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about numbers that no model has
        yield


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_right(request, folder, name):
    seed = request.config.getoption("--mutation-seed")
    n = tries_of(request.config, name)
    refused = sum(attempted(folder, name, seed, number) for number in range(n))
    assert n < 20 or not KINDS[name].refuses or refused > n / 10


@pytest.mark.parametrize(("name", "seed", "number"), FOUND)
def test_what_failed_once(folder, name, seed, number):
    attempted(folder, name, seed, number)
