"""The index of a KV dataset that a run is to go on with: looked at as a whole before anything is run."""

import json
import os
import shutil

import pytest
from support import tiny_checkpoint as tiny
from support.breaking import message_of

import gpt2np
from gpt2np.errors import InputError
from gpt2np.kv.datasets import randoms, texts, write_dataset

PROMPTS = ["the a", "in"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def folder(model, tmp_path):
    list(write_dataset(model, texts(PROMPTS, model), tmp_path / "d", ".safetensors"))
    return tmp_path / "d"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text("utf-8").splitlines()]


def resumed(model, folder, rows):
    """Goes on with an index of these rows, and one prompt more; what it says when it refuses."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "index.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    before = sorted((p.name, p.read_bytes()) for p in folder.iterdir())
    with pytest.raises(InputError) as caught:
        list(write_dataset(model, texts([*PROMPTS, "on"], model), folder, ".safetensors"))
    assert sorted((p.name, p.read_bytes()) for p in folder.iterdir()) == before
    return message_of(caught.value, InputError, str(folder / "index.jsonl"))


WRONG = {
    "file": (
        5,
        None,
        ["kv_00000.safetensors"],
        {},
        "../kv_00000.json",
        "/tmp/kv_00000.json",
        "mine.json",
        "kv_1.json",
    ),
    "source": ("the a", None, [], {"text": 5}, {"text": "the a", "more": 1}, {"random": "0"}, {"seed": 1.5}),
    "input_text": (5, [], True),
    "tokens": ("2", 0, 1.5, None, [2], True, 2**70),
    "predicted_next_token": (5, None, ["a"]),
    "bytes": ("many", 1.5, -1, None, True),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_kind_or_none(model, folder, name):
    header, first, second = rows_of(folder)
    for value in WRONG[name]:
        assert f"line 3: {name} is " in resumed(model, folder, [header, first, second | {name: value}])
    del second[name]
    assert f"line 3: {name} is missing, expected " in resumed(model, folder, [header, first, second])


def test_a_field_more(model, folder):
    rows = rows_of(folder)
    assert "line 2: 'more' is no field of it" in resumed(model, folder, [rows[0], rows[1] | {"more": 1}])


LINES = (
    "[]", "5", "caf\xe9", "", "null", "{}", '"a"', "hello", "[" * 100_000,
    '{"file": NaN}', '{"bytes": 1e400}',
    '{"file": "\\ud800"}', '{"file": "a", "file": "a"}', '{"tokens": 1' + "0" * 5000 + "}",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=[f"{line:.20}" for line in LINES])
def test_a_line_that_is_none(model, folder, line):
    rows = rows_of(folder)
    assert "line 2: " in resumed(model, folder, [rows[0], line, rows[2]])
    assert "line 1: " in resumed(model, folder, [line, *rows[1:]])


def test_the_index_of_something_else(model, folder):
    header, *rows = rows_of(folder)
    for name in header:
        if name in ("model", "weights"):  # the same one may be named by another path
            continue
        changed = header | {name: 99 if name == "top_k" else "x" * 10_000}
        if name == "fingerprint":  # of another file of other weights
            changed["weights"] = changed[name]
        shown = "model" if name == "fingerprint" else name
        assert f"{shown} is " in resumed(model, folder, [changed, *rows])
        without = {key: value for key, value in changed.items() if key != name}
        assert shown in resumed(model, folder, [without, *rows])


def test_whole_ones_are_gone_on_with(model, folder):
    before = rows_of(folder)
    again = list(write_dataset(model, texts([*PROMPTS, "on"], model), folder, ".safetensors"))
    assert [new for _, new in again] == [False, False, True]
    assert rows_of(folder)[:3] == before
    for seed in (0, 2**80):
        for expected in ([True, True], [False, False]):
            made = write_dataset(model, randoms(2, seed, True), folder.parent / str(seed))
            assert [new for _, new in made] == expected


def test_a_copy_of_the_model_goes_on(model, folder, tmp_path):
    before = rows_of(folder)
    copy = shutil.copytree(model.checkpoint.folder, tmp_path / "copy")
    os.utime(next(copy.glob("*.safetensors")), (10**9, 10**9))
    again = list(write_dataset(gpt2np.load(copy), texts([*PROMPTS, "on"], model), folder, ".safetensors"))
    assert [new for _, new in again] == [False, False, True]
    assert rows_of(folder)[:3] == before
