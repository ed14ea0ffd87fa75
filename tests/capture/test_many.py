"""A capture that is killed, interrupted, damaged or repeated ends as the same bytes, and never as others."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import gpt_neo_checkpoint
from support.captured_folder import bytes_of

import gpt2np
from gpt2np.capture.capture_folder import CaptureFolder
from gpt2np.capture.capture_plan import plan_capture
from gpt2np.capture.many import Watch, capture_many
from gpt2np.errors import CheckpointError, InputError, TraceError

WORDS = "Elizabeth was not the only one who had been to see her sister and Mr Darcy in town again".split()
MB = 1_000_000


def texts(n, seed=0, longest=12):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(n)]


@pytest.fixture(scope="module")
def prompts():
    return texts(2000, longest=8)


@pytest.fixture(scope="module")
def whole(tiny, prompts, tmp_path_factory):
    """An uninterrupted capture by one process."""
    folder = tmp_path_factory.mktemp("whole") / "capture"
    done = tiny.capture(prompts, folder, workers=1, shard_bytes=MB)
    assert done.shards == done.new > 12
    return folder


@pytest.fixture(scope="module")
def some():
    return texts(300)


KB250 = {"shard_bytes": 250_000}


@pytest.fixture(scope="module")
def small(tiny, some, tmp_path_factory):
    """The same of fewer prompts, in shards of 250 kB."""
    folder = tmp_path_factory.mktemp("small") / "capture"
    assert tiny.capture(some, folder, workers=1, **KB250).shards > 8
    return folder


def started(file, folder, *options):
    argv = ["capture", "--text", file, "--out", folder, "--shard-mb", "1", "--workers", "2", *options]
    command = [sys.executable, "-m", "gpt2np", *map(str, argv)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(folder).parent,  # so that it imports the package that the tests do
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def n_finished(folder):
    path = Path(folder) / "shards.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()


def test_killed_five_times_it_ends_as_if_it_had_not_been(prompts, whole, tmp_path):
    file, folder, rng = tmp_path / "texts.txt", tmp_path / "capture", random.Random(5)
    file.write_text("\n".join(prompts) + "\n", "utf-8")
    before = 0
    for kill in range(6):  # the first is Ctrl-C
        process = started(file, folder)
        target = before + rng.randint(1, 2)
        wait_for(process, lambda target=target: n_finished(folder) >= target)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        _, said = process.communicate()
        if not kill:
            assert process.returncode == 130
            assert said == f"gpt2np: interrupted; the same command goes on with {folder}\n"
            assert not list(folder.glob(".gpt2np-*"))
        assert n_finished(folder) >= target
        before = n_finished(folder)
    process = started(file, folder, "--json")
    out, said = process.communicate()
    assert said == f"gpt2np: everything is in {folder}\n" or not said
    assert json.loads(out)["new"] == len(list(whole.glob("shard_*"))) - before
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")
def test_a_killed_worker_costs_its_shard(prompts, whole, tmp_path):
    file, folder = tmp_path / "texts.txt", tmp_path / "capture"
    file.write_text("\n".join(prompts), "utf-8")
    process = started(file, folder)
    wait_for(process, lambda: n_finished(folder) >= 2)
    children = [
        int(pid)
        for path in Path(f"/proc/{process.pid}/task").glob("*/children")
        for pid in path.read_text().split()
    ]
    os.kill(children[0], signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0
    assert "the worker was killed (signal 9); it is made again" in said
    assert bytes_of(folder) == bytes_of(whole)


def test_any_executor_will_do(tiny, prompts, whole, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        tiny.capture(prompts, tmp_path / "capture", executor=executor, shard_bytes=MB)
    assert bytes_of(tmp_path / "capture") == bytes_of(whole)


@pytest.mark.needs("distributed")
def test_a_cluster_of_two_workers_of_which_one_is_killed(tiny, prompts, whole, tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        killed = []

        def kill(shard, made):
            if made is not None and not killed:
                killed.append(cluster.workers[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        plan = plan_capture(tiny, prompts, shard_bytes=MB)
        capture_many(plan, tmp_path / "capture", executor=client, watch=Watch(shard=kill))
    assert killed
    assert bytes_of(tmp_path / "capture") == bytes_of(whole)


def test_what_is_finished_is_not_made_again(tiny, some, small):
    before = {path: path.stat().st_mtime_ns for path in small.glob("*[!g]") if path.name != "run.log"}
    done = tiny.capture(some, small, **KB250)
    assert done.new == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("damage", ["cut", "changed", "deleted", "last line torn"])
def test_only_the_damaged_shard_is_made_again(tiny, some, small, tmp_path, damage):
    folder = tmp_path / "capture"
    shutil.copytree(small, folder)
    shard, notes, made_again = folder / "shard_00003.safetensors", [], []
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(content[:-1])
    elif damage == "changed":
        content[-5] ^= 1
        shard.write_bytes(content)
    elif damage == "deleted":
        shard.unlink()
    else:
        lines = (folder / "shards.jsonl").read_bytes()
        (folder / "shards.jsonl").write_bytes(lines[:-7])
    plan = plan_capture(tiny, some, **KB250)
    watch = Watch(shard=lambda shard, made: made and made_again.append(made.file), note=notes.append)
    capture_many(plan, folder, workers=1, watch=watch)
    if damage == "last line torn":
        assert (made_again, notes) == ([plan.shards[-1].file], [])
    else:
        assert made_again == [shard.name]
        says = {"cut": "bytes instead of", "changed": "has been changed", "deleted": "is missing"}[damage]
        assert [str(shard) in note and says in note and "made again" in note for note in notes] == [True]
    assert bytes_of(folder) == bytes_of(small)


@pytest.mark.parametrize(
    ("says", "options"),
    [
        ("of other texts", {"texts": texts(300, seed=1)}),
        ("of other texts", {"texts": texts(299)}),
        ("of other sites", {"keep": "ln_1"}),
        ("with store 'float16', not 'float32'", {"store": "float32"}),
        ("with positions 'all', not 'last'", {"positions": "last"}),
        ("with shard bytes 250000, not 2000000", {"shard_bytes": 2 * MB}),
        ("with pack tokens 512, not 64", {"pack_tokens": 64}),
        ("with shared beginnings True, not False", {"share": False}),
        ("with special False, not True", {"special": True}),
    ],
)
def test_another_capture_is_refused_and_nothing_touched(tiny, some, small, says, options):
    before = bytes_of(small), (small / "run.log").read_bytes()
    options = {"shard_bytes": 250_000, "texts": some} | options
    with pytest.raises(InputError) as raised:
        tiny.capture(options.pop("texts"), small, **options)
    assert str(raised.value) == f"{small}: holds another capture ({says}): choose another folder"
    assert (bytes_of(small), (small / "run.log").read_bytes()) == before


def test_another_model_is_refused(tiny, some, small, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(tiny.checkpoint.folder, copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(InputError, match="of the model tiny, or of one whose weights have changed"):
        gpt2np.load(copy).capture(some, small, **KB250)
    edited = tiny.with_weights({"wpe.weight": tiny.weights["wpe.weight"] * 2})
    with pytest.raises(InputError, match="of the model tiny"):
        edited.capture(some, small, **KB250)
    with pytest.raises(InputError, match="in float32, not float64"):
        gpt2np.load(tiny.checkpoint.folder, dtype="float64").capture(some, small, **KB250)
    wrongs = [{"executor": 3}, {"share": "no"}, {"texts": None}, {"texts": {"a": 1}}, {"texts": {"a", "b"}}]
    for wrong in [*wrongs, {"folder": None}]:
        (name,) = wrong
        with pytest.raises(InputError, match=f"{name}=|{name} must be|takes a list of texts"):
            tiny.capture(**({"texts": some, "folder": tmp_path / "new"} | wrong))
    with pytest.raises(TypeError, match=r"^Model\.capture\(\) got an unexpected keyword argument 'foo'$"):
        tiny.capture(some, tmp_path / "new", foo=1)
    with pytest.raises(InputError, match="with_weights has replaced are in no file"):
        edited.capture(some, tmp_path / "new", workers=2, **KB250)
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_written_to_meanwhile_stops_the_capture(tmp_path):
    copy = gpt_neo_checkpoint.write(tmp_path / "neo", "GL")  # whose weights are views of the file
    ids = [[i % 300, 7] for i in range(50)]
    plan = plan_capture(gpt2np.load(copy), ids, shard_bytes=1000)

    def write(shard, made):
        os.utime(copy / "model.safetensors", (1, 1))

    with pytest.raises(CheckpointError, match="has been written to"):
        capture_many(plan, tmp_path / "capture", workers=1, watch=Watch(shard=write))
    assert n_finished(tmp_path / "capture") == 1


def test_a_prompt_whose_pass_is_not_finite_is_named(tiny, tmp_path):
    table = tiny.weights["wte.weight"].copy()
    table[7] = 3e38
    broken = tiny.with_weights({"wte.weight": table})
    ids = [[i, i + 1, 1] for i in range(100, 200)]
    ids[60] = [5, 7, 6]
    with pytest.raises(CheckpointError, match=r"not finite .* of prompt 60"):
        broken.capture(ids, tmp_path / "capture", shard_bytes=30_000, store="float32")


def test_two_at_once(tiny, some, tmp_path):
    plan = plan_capture(tiny, some[:3])
    with (
        CaptureFolder(tmp_path / "capture", plan.manifest()),
        pytest.raises(InputError, match="another capture is writing to this folder"),
    ):
        capture_many(plan, tmp_path / "capture")
    assert capture_many(plan, tmp_path / "capture").new == 1


def test_other_files_are_left_alone(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt' and no manifest.json: choose another folder"):
        tiny.capture(["Elizabeth"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="cannot be made a folder"):
        tiny.capture(["Elizabeth"], tmp_path / "notes.txt")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is not the manifest of a capture"):
        tiny.capture(["Elizabeth"], tmp_path)


def test_a_full_disk_leaves_no_half_shard_and_it_goes_on(tiny, some, small, tmp_path, monkeypatch):
    folder, calls = tmp_path / "capture", []
    fallocate = os.posix_fallocate

    def full(*args):
        calls.append(args)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fallocate(*args)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TraceError, match=r"shard_00004.safetensors: cannot write .* No space left"):
        tiny.capture(some, folder, workers=1, **KB250)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir() if "shard_" in path.name) == [
        f"shard_{i:05}.safetensors" for i in range(4)
    ]
    assert not list(folder.glob(".gpt2np-*"))
    assert tiny.capture(some, folder, workers=1, **KB250).new == len(list(small.glob("shard_*"))) - 4
    assert bytes_of(folder) == bytes_of(small)


def test_what_the_disk_cannot_hold_is_refused_before_it_begins(tiny, some, tmp_path, monkeypatch):
    plan = plan_capture(tiny, some, **KB250)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=plan.nbytes - 1))
    with pytest.raises(InputError, match=r"MB are to be written, and the disk has .* MB left \(force=True\)"):
        capture_many(plan, tmp_path / "capture")
    assert not (tmp_path / "capture").exists()
    capture_many(plan, tmp_path / "capture", workers=1, force=True)


def test_the_plan_knows_every_byte(tiny, small, tmp_path, some):
    for folder, options in (
        (small, {"shard_bytes": 250_000}),
        (tmp_path / "a", {"keep": "*", "positions": "0:9:2"}),
    ):
        texts_ = some if folder == small else some[:20]
        plan = plan_capture(tiny, texts_, **options)
        capture_many(plan, folder, workers=1)
        assert [s.bytes for s in plan.shards] == [(folder / s.file).stat().st_size for s in plan.shards]
        assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(plan.manifest()))


def test_nothing_but_the_log_knows_of_times_hosts_or_workers(small):
    names = {path.name for path in small.iterdir()}
    shards = {f"shard_{i:05}.safetensors" for i in range(len(names) - 3)}
    assert names == {"manifest.json", "shards.jsonl", "run.log", *shards}
    manifest = json.loads((small / "manifest.json").read_text())
    said = {"schema", "gpt2np", "model", "config", "options", "texts", "sites", "shards", "skipped"}
    assert set(manifest) == said
    lines = [json.loads(line) for line in (small / "shards.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(shards)
    assert all(set(line) == {"file", "bytes", "sha256"} for line in lines)


def test_the_rate_is_measured_and_shared_beginnings_are_counted(tiny):
    shared = list(range(30))
    plan = plan_capture(tiny, [[*shared, i] for i in range(100)])
    assert (plan.tokens_needed, plan.tokens_run) == (3100, 130)
    assert plan.tokens_a_second(0.05) > 0


def test_bad_prompts_are_named_by_number_or_left_out(tiny, tmp_path):
    prompts = ["fine", "", [5] * 5000, [1, 2], [99999], "also fine"]
    with pytest.raises(InputError) as raised:
        tiny.capture(prompts, tmp_path / "capture")
    assert str(raised.value).startswith("prompt 1 is empty: it needs at least one token; 2 more are bad")
    assert not (tmp_path / "capture").exists()
    done = tiny.capture(prompts, tmp_path / "capture", skip_bad=True)
    assert (done.prompts, [bad.prompt for bad in done.skipped]) == (3, [1, 2, 4])
    listed = json.loads((tmp_path / "capture" / "manifest.json").read_text())["skipped"]
    assert [row["prompt"] for row in listed] == [1, 2, 4]
    assert "has 5000 tokens" in listed[1]["reason"]
    with pytest.raises(InputError, match="no prompt to capture: all are bad"):
        tiny.capture(["", ""], tmp_path / "other", skip_bad=True)


def test_an_executor_must_return_futures(tiny, tmp_path):
    class Calls:
        def submit(self, function, *args):
            return None

    with pytest.raises(InputError, match=r"^executor=<.*Calls.*: its submit must return a future, not None$"):
        tiny.capture(["Elizabeth"], tmp_path / "capture", executor=Calls())


def test_ids_may_be_arrays(tiny, tmp_path):
    tiny.capture([np.array([1, 2, 3]), [1, 2, 3], (1, 2, 3)], tmp_path / "capture")
