"""A capture that goes on where its own lists are damaged, the model has moved, or the version has changed."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial

import pytest
from support.captured_folder import bytes_of

import gpt2np
from gpt2np.capture import many, open_capture
from gpt2np.capture.capture_folder import CaptureFolder, shards_there
from gpt2np.capture.capture_plan import plan_capture
from gpt2np.capture.many import Watch, capture_many
from gpt2np.capture.shards_of_plan import why_not_of
from gpt2np.capture.worker_model import ModelSource, fingerprint_of
from gpt2np.cli.verbs.captured_facts import captured_facts
from gpt2np.errors import CheckpointError, InputError, TraceError

TEXTS = [f"Elizabeth was not the only {n} in town" for n in ("one", "sister", "daughter", "man") * 5]
OPTIONS = {"keep": "embed", "shard_bytes": 20_000}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "caps"
    assert tiny.capture(TEXTS, folder, workers=1, **OPTIONS).shards > 2
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "caps")


def gone_on(model, folder):
    """What a run makes anew, and what it notes."""
    made, notes = [], []
    watch = Watch(shard=lambda shard, new: new and made.append(new.file), note=notes.append)
    capture_many(plan_capture(model, TEXTS, **OPTIONS), folder, workers=1, watch=watch)
    return made, notes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"garbage", "is not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'{"file": "shard_00001.safetensors", "bytes": "many"}', "bytes is 'many'"),
        (b'{"file": "shard_00001.safetensors", "bytes": 7, "sha256": ""}', "or of another size"),
        (b'{"file": "../x", "bytes": 7, "sha256": ""}', "'../x' is no shard of the manifest"),
    ],
)
def test_a_malformed_line_costs_its_shard(tiny, folder, whole, line, says):
    path = folder / "shards.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        TraceError, match=r"line 2: .*: run the capture again, .*, or delete the line$"
    ) as told:
        open_capture(folder)
    assert "\n" not in str(told.value)
    made, notes = gone_on(tiny, folder)
    assert made == ["shard_00001.safetensors"]
    assert [note.startswith(f"{path}: line 2: ") for note in notes] == [True]
    assert says in notes[0]
    assert notes[0].endswith("; its shard is made again")
    assert bytes_of(folder) == bytes_of(whole)


def test_a_list_that_is_gone_costs_all_of_them(tiny, folder, whole):
    (folder / "shards.jsonl").unlink()
    made, notes = gone_on(tiny, folder)
    n = len(list(whole.glob("shard_*")))
    says = f"is missing; {n} shards that are there, made again: without the hashes in it nobody knows"
    assert (len(made), len(notes)) == (n, 1)
    assert notes[0].startswith(f"{folder / 'shards.jsonl'}: {says} whether they are whole")
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.parametrize("line", [b"null", b'{"file": "../x", "bytes": 7, "sha256": ""}'])
def test_a_foreign_line_costs_nothing(tiny, folder, whole, line):
    path = folder / "shards.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    made, notes = gone_on(tiny, folder)
    assert (made, len(notes)) == ([], 1)
    assert notes[0].endswith("; it is left out, and all shards are listed without it")
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sites": 5}, "sites is 5, expected "),
        ({"model": None}, "model is None, expected "),
        ({"options": []}, r"options is \[\], expected "),
        ({"skipped": [3]}, "skipped is "),
        (b'{"schema": "gpt2np.captured/1", "sites"', "is not JSON"),
        ({"schema": "gpt2np.captured/9", "gpt2np": "9.0"}, "gpt2np 9.0 wrote it, which can read it$"),
    ],
)
def test_a_malformed_manifest_is_one_line(tiny, folder, changes, says):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_bytes(changes if isinstance(changes, bytes) else json.dumps(content | changes).encode())
    for shard in folder.glob("shard_*"):  # by which the manifest could be known
        shard.unlink()
    before = bytes_of(folder)
    for read in (lambda: gone_on(tiny, folder), lambda: open_capture(folder)):
        with pytest.raises(TraceError, match=says) as told:
            read()
        assert str(told.value).startswith(str(path))
        assert "\n" not in str(told.value)
        cure = ": run the capture again, which can write it anew, or put back a copy of it"
        assert str(told.value).endswith(cure) == ("captured/9" not in str(told.value))
    assert bytes_of(folder) == before


@pytest.mark.parametrize("left", [None, b"", b"{}", b'{"schema": "gpt2np.captured/1", "sites"'])
def test_a_lost_manifest_is_written_anew_where_the_shards_are_of_this_capture(tiny, folder, whole, left):
    path = folder / "manifest.json"
    path.unlink() if left is None else path.write_bytes(left)
    shard = folder / "shard_00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    plan = plan_capture(tiny, TEXTS, **OPTIONS)
    there = shards_there(folder, plan.manifest, plan.shards, partial(why_not_of, plan))
    assert there == {s.file for s in plan.shards} - {shard.name}
    made, notes = gone_on(tiny, folder)
    assert made == [shard.name]
    assert notes[0].startswith(f"{path}: was lost, and is written anew: ")
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.parametrize(
    ("lost", "options", "says"),
    [
        ("manifest.json", {"positions": "last", "shard_bytes": 2_000}, "shards.jsonl: line 1: "),
        ("manifest.json", {"keep": "h.0.resid_pre"}, "shard_00000.safetensors is of another capture"),
        ("manifest.json", {"texts": TEXTS[::-1]}, "shard_00000.safetensors is of another capture"),
        ("manifest.json", {"texts": TEXTS[:3]}, " is no shard of this capture"),
        ("both", {}, "shards.jsonl lists no shard that is there"),
    ],
)
def test_a_lost_manifest_that_cannot_be_known_is_not_written(tiny, folder, lost, options, says):
    for name in ("manifest.json", "shards.jsonl"):
        if lost in (name, "both"):
            (folder / name).unlink()
    before, options = bytes_of(folder), {"texts": TEXTS} | OPTIONS | options
    with pytest.raises(InputError) as told:
        tiny.capture(options.pop("texts"), folder, **options)
    assert "no manifest.json; it cannot be written anew, as " in str(told.value)
    assert says in str(told.value)
    assert str(told.value).endswith(": put back a copy of it, or choose another folder")
    assert "\n" not in str(told.value)
    assert bytes_of(folder) == before


def test_another_capture_may_begin_where_nothing_was_finished(tiny, tmp_path):
    folder, plan = tmp_path / "caps", plan_capture(tiny, TEXTS, **OPTIONS)
    with CaptureFolder(folder, plan.manifest()) as place:
        place.finished(plan.shards)
        with pytest.raises(InputError, match="another capture is writing to this folder"):
            tiny.capture(TEXTS, folder, keep="ln_1")
    assert sorted(bytes_of(folder)) == ["manifest.json", "shards.jsonl"]
    tiny.capture(TEXTS, folder, keep="ln_1")
    assert "h.0.ln_1" in open_capture(folder).names
    with pytest.raises(InputError, match="holds another capture"):
        tiny.capture(TEXTS, folder, **OPTIONS)


def test_another_version_goes_on_and_says_so(tiny, folder, whole, monkeypatch):
    assert open_capture(folder).manifest.version == gpt2np.__version__
    assert captured_facts(str(folder))["gpt2np"] == gpt2np.__version__
    (folder / "shard_00001.safetensors").unlink()
    monkeypatch.setattr(many, "__version__", "9.0")
    made, notes = gone_on(tiny, folder)
    assert made == ["shard_00001.safetensors"]
    begun = f"{folder}: was begun by gpt2np {gpt2np.__version__}, and goes on with 9.0"
    assert notes[0] == f"{begun}: rows of the two may differ within noise"
    assert bytes_of(folder) == bytes_of(whole)  # the manifest is that of the version which began


def test_a_copy_of_the_model_is_the_model(tiny, folder, whole, tmp_path):
    copy = shutil.copytree(tiny.checkpoint.folder, tmp_path / "copy")
    os.utime(copy / "model.safetensors", (10**9, 10**9))
    (folder / "shard_00001.safetensors").unlink()
    assert gone_on(gpt2np.load(copy), folder)[0] == ["shard_00001.safetensors"]
    assert bytes_of(folder) == bytes_of(whole)
    assert open_capture(folder).verify(gpt2np.load(copy)).identical


def test_a_worker_takes_a_copy_of_the_model_and_no_other(tiny, tmp_path):
    copy = shutil.copytree(tiny.checkpoint.folder, tmp_path / "copy")
    given = ModelSource.of(gpt2np.load(copy))
    known = replace(given, weights=fingerprint_of(tiny.checkpoint))
    os.utime(copy / "model.safetensors", (10**9, 10**9))
    assert known.load().checkpoint.fingerprint == given.fingerprint
    with pytest.raises(CheckpointError, match="is not the model any more"):
        given.load()
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="is not the model any more"):
        known.load()
