"""A folder of traces says which run it is of, and takes no other."""

import json
import os

import numpy as np
import pytest

import gpt2np
from gpt2np.errors import InputError, TraceError

PROMPTS = ["To be", "or not to be", [1, 2, 3]]
KEEP = "attn.pattern"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.trace(PROMPTS, keep=KEEP, out=tmp_path / "caps")
    return tmp_path / "caps"


def test_names_and_index(tiny, folder):
    names = [f"{number:06}.safetensors" for number in range(3)]
    assert sorted(os.listdir(folder)) == [*names, "index.jsonl"]
    run, *rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert run["schema"] == "gpt2np.traces/1"
    assert (run["model"], run["fingerprint"]) == ("tiny", tiny.checkpoint.fingerprint)
    assert run["sites"] == [f"h.{i}.attn.pattern" for i in range(4)]
    assert [row["file"] for row in rows] == names
    assert [row["prompt"] for row in rows] == [*PROMPTS[:2], None]
    for row, prompt in zip(rows, PROMPTS, strict=True):
        opened = gpt2np.Trace.open(folder / row["file"])
        assert row["token_ids"] == opened.token_ids == tiny.token_ids(prompt)
        assert row["tokens"] == len(opened.token_ids)
        expected = tiny.trace(prompt)["h.3.attn.pattern"]
        assert np.abs(opened["h.3.attn.pattern"] - expected).max() < 1e-5


def test_the_width_of_names_is_that_of_any_number_of_prompts(tiny, tmp_path):
    tiny.trace(["a"] * 11, keep="embed", out=tmp_path / "many")
    tiny.trace(["a"], keep="embed", out=tmp_path / "one")
    assert {*os.listdir(tmp_path / "one")} < {*os.listdir(tmp_path / "many")}


def test_the_same_run_writes_the_same_folder(tiny, folder):
    before = contents(folder)
    (folder / "000001.safetensors").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("mine")
    traces = tiny.trace(PROMPTS, keep=KEEP, out=folder)
    assert contents(folder) == before | {"notes.txt": b"mine"}
    assert len(traces) == 3
    os.remove(folder / "000002.safetensors")  # as if it had been killed between two files
    tiny.trace(PROMPTS, keep=KEEP, out=folder)
    assert contents(folder) == before | {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        (PROMPTS[:2], {}),
        ([*PROMPTS, "more"], {}),
        (PROMPTS[::-1], {}),
        (PROMPTS, {"keep": "mlp.out"}),
        (PROMPTS, {"keep": {"patterns": KEEP, "dtype": "float16"}}),
        (PROMPTS, {"keep": {"patterns": KEEP, "positions": slice(1, None)}}),
        (PROMPTS, {"keep": KEEP, "stop_at_layer": 2}),
        (PROMPTS, {"edits": {"h.1.attn.z": lambda z: z * 0}}),
    ],
    ids=["fewer", "more", "order", "keep", "dtype", "positions", "stop", "edits"],
)
def test_a_folder_of_another_run_is_refused(tiny, folder, prompts, options):
    before = contents(folder)
    with pytest.raises(TraceError, match="holds the traces of another run"):
        tiny.trace(prompts, **{"keep": KEEP, **options}, out=folder)
    assert contents(folder) == before


def test_another_model_is_refused(tiny64, folder):
    before = contents(folder)
    with pytest.raises(TraceError, match="holds the traces of another run"):
        tiny64.trace(PROMPTS, keep=KEEP, out=folder)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["0.safetensors", "000.safetensors", "000004.safetensors", "index.jsonl"])
def test_a_folder_of_who_knows_what_is_refused(tiny, tmp_path, name):
    """Of an older version, say, which wrote no index."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(TraceError, match="holds the traces of another run"):
        tiny.trace(["a", "b"], out=tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_run_that_fails_leaves_nothing(tiny, tmp_path):
    def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tiny.trace(PROMPTS, out=tmp_path / "a/b", edits={"h.3.attn.z": fails})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/x", "loop", "a\0b", "n" * 300])
def test_what_can_be_no_folder(tiny, tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((InputError, TraceError), match=r"cannot be (made|written)"):
        tiny.trace(["a", "b"], out=tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]
