"""Files appear whole or not at all, where their name leads, over nothing that the run reads."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gpt2np
from gpt2np import outputs
from gpt2np.capture.capture_files import save_capture
from gpt2np.capture.formats import raw_residual
from gpt2np.capture.manifest import Manifest
from gpt2np.errors import Gpt2npError, InputError, TraceError, printable
from gpt2np.export.dialects.writing import WRITERS, write_dialect
from gpt2np.export.llmc import write_llmc
from gpt2np.export.typescript import write_typescript
from gpt2np.kv.datasets import Source, write_dataset
from gpt2np.kv.extraction import extract_to_file
from gpt2np.outputs import Unfinished, check_destinations, whole_binary_file, whole_file, whole_folder
from gpt2np.reference.fixture import write_fixture
from gpt2np.tensorfile import open_tensors, save_tensors
from gpt2np.viewer import view


def write_bytes(path):
    with whole_binary_file(path) as file:
        file.write(b"new")


def write_tensors(path):
    save_tensors(path, {"a": np.arange(3.0)}, {})


WAYS = pytest.mark.parametrize("write", [write_bytes, write_tensors])


@WAYS
def test_a_link_is_written_through(tmp_path, write):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/file").write_text("old")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "dangling").symlink_to("far/absent")
    (tmp_path / "chain").symlink_to("link")
    for name, target in (("link", "file"), ("dangling", "absent"), ("chain", "file")):
        (tmp_path / "far/file").write_text("old")
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / target).read_bytes() != b"old"
    assert sorted(os.listdir(tmp_path / "far")) == ["absent", "file"]
    assert sorted(os.listdir(tmp_path)) == ["chain", "dangling", "far", "link"]


@WAYS
@pytest.mark.parametrize(
    "name", ["loop", "one", "folder", "to_folder", "pipe", "none/x", "a\0b", "n" * 300, "\ud800"]
)
def test_names_that_cannot_be_written(tmp_path, write, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for call in (write, *[check_destinations] * (len(name) < 300)):
        with pytest.raises((InputError, TraceError)) as caught:
            call(tmp_path / name)
        assert str(caught.value).startswith(printable(f"{tmp_path / name}: cannot "))
        assert str(caught.value).isprintable()
    assert sorted(os.listdir(tmp_path)) == before


def fail(file):
    file.write("new")
    raise ZeroDivisionError


def test_a_text_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as file:
        fail(file)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


# -- leftovers ------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from gpt2np.outputs import Unfinished
made = Unfinished(Path(sys.argv[1]), of_files=sys.argv[2] == "folder")
if sys.argv[2] == "folder":
    (made.path / "half").write_text("half")
print(made.path, flush=True)
sys.stdin.read() if sys.argv[3] == "lives" else os.kill(os.getpid(), 9)
"""


@pytest.fixture
def other_run(tmp_path):
    """Another process that has something unfinished in the folder."""
    running = []

    def start(kind, end):
        command = [sys.executable, "-c", KILLED, str(tmp_path), kind, end]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return Path(running[-1].stdout.readline().strip()), running[-1]

    yield start
    for process in running:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path, other_run, kind):
    dead, killed = other_run(kind, "dies")
    alive, living = other_run(kind, "lives")
    killed.wait()
    outputs._next_look.clear()
    write_bytes(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, "a"])
    living.kill()
    living.wait()
    outputs._next_look.clear()
    write_tensors(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert not dead.exists()


def test_what_is_being_written_here_stays(tmp_path):
    making = [Unfinished(tmp_path), Unfinished(tmp_path, of_files=True)]
    outputs._next_look.clear()
    write_bytes(tmp_path / "a")
    assert all(one.path.exists() for one in making)
    for one in making:
        one.discard()
    assert os.listdir(tmp_path) == ["a"]


def test_nothing_else_is_removed(tmp_path):
    names = ["gpt2np-1.tmp", ".gpt2np-1", ".other-1.tmp", "a.tmp"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / ".gpt2np-link.tmp").symlink_to("kept")  # a link goes, not what it leads to, or stays
    os.mkfifo(tmp_path / ".gpt2np-pipe.tmp")  # nobody waits for it
    outputs._next_look.clear()
    write_bytes(tmp_path / "out")
    assert {*names, "kept", "out"} <= {*os.listdir(tmp_path)}
    assert (tmp_path / "kept/file").exists()


def test_without_locks_age_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "fcntl", None)
    for name, age in ((".gpt2np-old.tmp", 3 * 86_400), (".gpt2np-new.tmp", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_bytes(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == [".gpt2np-new.tmp", "a"]


# -- folders --------------------------------------------------------------------------------------


def test_a_folder_appears_at_once(tmp_path):
    target = tmp_path / "a/b"
    with whole_folder(target, "mark") as making:
        for name in ("mark", "x"):
            (making / name).write_text("1")
        assert not target.exists()
    assert sorted(os.listdir(target)) == ["mark", "x"]
    (target / "other").write_text("stays")
    with whole_folder(target, "mark") as making:
        (making / "mark").write_text("2")
        (making / "y").write_text("2")
        assert (target / "mark").read_text() == "1"
    assert {p.name: p.read_text() for p in target.iterdir()} == {
        "mark": "2",
        "x": "1",
        "y": "2",
        "other": "stays",
    }


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a/b", "mark") as making:
        fail((making / "x").open("w"))
    assert os.listdir(tmp_path) == []


def write_folder(folder, *names):
    with whole_folder(folder, "mark") as making:
        for name in names:
            (making / name).write_text("1")


def test_somebody_elses_folder(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="x: is there, without the mark"):
        write_folder(tmp_path, "mark", "x")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "mine")]
    write_folder(tmp_path, "mark", "y")
    write_folder(tmp_path, "mark", "x")  # now it is ours


@pytest.mark.parametrize(
    ("write", "mine"),
    [(write_typescript, "package.json"), (lambda _, folder: write_fixture(folder), "model.safetensors")],
    ids=["typescript", "fixture"],
)
def test_a_project_or_a_model_is_not_written_over(tiny, tmp_path, write, mine):
    (tmp_path / mine).write_text("mine")
    with pytest.raises(InputError, match=f"{mine}: is there, without"):
        write(tiny.trace("To be"), tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(mine, "mine")]


def test_a_message_names_the_folder_that_was_given(tmp_path):
    with (
        pytest.raises(InputError, match=f"{tmp_path}/new/a/b: cannot be written"),
        whole_folder(tmp_path / "new", "mark") as making,
    ):
        write_bytes(making / "a/b")


# -- what a run reads -----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    write_fixture(tmp_path / "m")
    return gpt2np.load(tmp_path / "m")


@pytest.fixture
def linked(tmp_path, request):
    """A function: another name of the same file."""

    def other(path):
        name = tmp_path / "other_name.safetensors"
        if request.param == "itself":
            return path
        if request.param == "symbolic link":
            name.symlink_to(path)
        else:
            os.link(path, name)
        return name

    return other


@pytest.mark.parametrize("linked", ["itself", "symbolic link", "hard link"], indirect=True)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_the_model_was_read_from_stays(tmp_path, model, linked, name):
    source = linked(tmp_path / "m" / name)
    before = source.read_bytes()
    trace = model.trace([1, 2, 3])
    calls = [lambda: trace.save(source), lambda: view(trace, out=source)]
    calls += [lambda to=to: write_dialect(trace, source, to) for to in WRITERS]
    calls += [lambda: model.trace([1, 2], out=source)] * (source.suffix == ".safetensors")
    for call in calls:
        with pytest.raises(InputError, match="is read by this very run"):
            call()
        assert source.read_bytes() == before
    trace.save(tmp_path / "m/mine.safetensors")  # another file of that folder is no matter
    trace.save(tmp_path / "m/mine.safetensors")


@pytest.mark.parametrize("linked", ["itself", "symbolic link", "hard link"], indirect=True)
def test_the_file_of_an_open_trace(tmp_path, model, linked):
    path = tmp_path / "t.safetensors"
    model.trace([1, 2, 3]).save(path)
    before, opened = path.read_bytes(), gpt2np.Trace.open(path)
    again = linked(path)
    for write in (lambda: view(opened, out=again), lambda: write_dialect(opened, again, "json")):
        with pytest.raises(InputError, match="is read by this very run"):
            write()
        assert path.read_bytes() == before


def test_a_trace_saved_over_the_file_it_was_opened_from(tmp_path, model):
    path = tmp_path / "t.safetensors"
    trace = model.trace([1, 2, 3])
    trace.save(path)
    opened = gpt2np.Trace.open(path)
    opened.metadata["note"] = "mine"
    for _ in range(2):
        opened.save(path)
        assert all(np.array_equal(opened[name], trace[name]) for name in trace.names())
    assert gpt2np.Trace.open(path).metadata["note"] == "mine"
    assert open_tensors(path).names == trace.names()


def test_functions_of_python_write_over_what_is_there(tmp_path, model):
    trace = model.trace([1, 2, 3])
    for name, write in {
        "t.safetensors": trace.save,
        "o.safetensors": lambda path: model.trace([1, 2, 3], out=path),
        "v.html": lambda path: view(trace, out=path),
        "p.html": lambda path: view(trace).save(path),
        "d.json": lambda path: write_dialect(trace, path, "json"),
    }.items():
        (tmp_path / name).write_text("old")
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() != b"old"


@pytest.mark.parametrize(
    "write",
    [
        lambda trace, path: trace.save(path),
        lambda trace, path: trace.model.trace([1], out=path),
        lambda trace, path: trace.model.trace([[1], [2]], out=path),
        lambda trace, path: view(trace, out=path),
        lambda trace, path: view(trace).save(path),
        lambda trace, path: write_dialect(trace, path, "npz"),
        lambda trace, path: write_typescript(trace, path),
        lambda trace, path: write_llmc(trace, path),
        lambda trace, path: write_fixture(path),
        lambda trace, path: extract_to_file(trace.model, [1], f"{path}.json"),
        lambda trace, path: extract_to_file(trace.model, [1], f"{path}.safetensors"),
        lambda trace, path: list(write_dataset(trace.model, [Source("x")], Path(path))),
        lambda trace, path: Manifest(Path(path)),
        lambda trace, path: save_capture(
            raw_residual(trace.model.generate("x").finish()), f"{path}.safetensors"
        ),
    ],
)
def test_a_nul_in_a_name(tiny, tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Gpt2npError) as caught:
        write(tiny.trace([1, 2]), "a\0b")
    assert str(caught.value).isprintable()
    assert os.listdir() == []
