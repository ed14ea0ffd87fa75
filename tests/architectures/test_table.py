"""Every cell of the table of architectures: a checked value, or one line that refuses."""

import inspect

import pytest
from architectures.table import FUNCTIONS, MODELS, VERBS, Case, public_functions

from gpt2np.cli.program import build_parser
from gpt2np.errors import Gpt2npError

ROWS = VERBS | FUNCTIONS


@pytest.fixture(scope="module", params=MODELS)
def architecture(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    MODELS[request.param](folder)
    return request.param, folder


@pytest.mark.every(4)
@pytest.mark.parametrize("name", ROWS)
def test_a_cell(architecture, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    which, folder = architecture
    row, case = ROWS[name], Case(folder, tmp_path, capsys)
    if which not in row.refused:
        row.check(case, row.run(case))
        return
    with pytest.raises(Gpt2npError, match=row.refused[which]) as caught:
        row.run(case)
    assert "\n" not in str(caught.value)


def test_every_verb_is_in_the_table():
    verbs = next(a for a in build_parser()._actions if getattr(a, "choices", None)).choices
    assert {name.split()[0] for name in VERBS} == set(verbs)


def test_every_public_function_is_in_the_table():
    assert sorted(FUNCTIONS) == sorted(public_functions())


def test_nothing_is_refused_to_gpt2():
    refused = {name for name, row in ROWS.items() if "gpt2" in row.refused}
    of_others = {"trace --trace, of another model", "kv extract, of another model", "download"}
    chat = {f"{verb} --chat" for verb in ("generate", "patch", "compare")} | {"Model.chat_prompt"}
    assert refused == {*of_others, *chat, "lens --before-cap"}


def test_refusals_are_of_architectures_that_are_there():
    for name, row in ROWS.items():
        assert set(row.refused) <= set(MODELS), name
        assert inspect.isfunction(row.run)
