"""kill -9 at any moment: no half file under its name, and the same run again leaves what it would have left.

A child of this process is killed at the n-th time that it touches a file (an audit hook counts), or within
a few milliseconds after it.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import gpt2np
from gpt2np.cli import main

PROMPTS = ["To be", "or not to be", "that is the question"]
SET = {"prompts": [{"id": i, "text": text} for i, text in enumerate(PROMPTS)]}


def command(*argv):
    """What runs it, in the current folder."""

    def run():
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            assert main(list(argv)) == 0, nowhere.getvalue()

    return run


def folder_of_traces():
    """A folder of several traces."""
    gpt2np.load("tiny").trace(PROMPTS, keep="embed", out="caps")


CAPTURE = ["capture", "--prompt-set", "set.json", "--max-new-tokens", "2", "--experiment", "x"]
EXPORT = ["export", "in.safetensors", "--force", "-o", "out", "--to"]
RUNS = {
    "capture": command(*CAPTURE),
    "internals": command(*CAPTURE, "--layer-internals", "0", "3"),
    "trace": command("trace", "To be", "--out", "t.safetensors", "--force"),
    "traces": folder_of_traces,
    "generate": command(
        *("generate", "To be", "--max-new-tokens", "3", "--force"),
        *("--out", "g.safetensors", "--ledger", "g.jsonl"),
    ),
    "kv dataset": command("kv", "dataset", "--output-dir", "d", "--prompts", *PROMPTS),
    "kv dataset safetensors": command(
        *("kv", "dataset", "--output-dir", "d", "--format", "safetensors", "--prompts", *PROMPTS)
    ),
    "export ts": command(*EXPORT, "ts"),
    "export llm.c": command(*EXPORT, "llm.c"),
    "export npz": command(*EXPORT, "npz"),
    "export json": command(*EXPORT, "json"),
}
GROWING = ("manifest.jsonl", "index.jsonl")  # of a capture and a dataset, a line a file
TOUCHES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "mmap.__new__", "fcntl.flock"}


def touches(event, args):
    """Whether something in a folder may change by it."""
    if event == "open":
        return bool(args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in TOUCHES


def in_child(run, folder, at, delay):
    """Run it in a child, killed `delay` seconds after the `at`-th touch: (signal, number of touches)."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            count = 0

            def kill():
                time.sleep(delay)
                os.kill(os.getpid(), signal.SIGKILL)

            def hook(event, args):
                nonlocal count
                if touches(event, args):
                    count += 1
                    if count == at and delay:
                        threading.Thread(target=kill).start()
                    elif count == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            run()
            os.write(write, str(count).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with open(read) as pipe:
        counted = pipe.read()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), int(counted or 0)


def prepared(folder):
    """A folder with what the runs read."""
    folder.mkdir()
    (folder / "set.json").write_text(json.dumps(SET))
    gpt2np.load("tiny").trace("To be").save(folder / "in.safetensors")
    return folder


def state(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_temporary(path):
    return any(part.startswith(".gpt2np-") for part in Path(path).parts)


def check(name, tmp_path, monkeypatch, moments, seed):
    """Kill a run at some random moments, each in a folder of its own."""
    run, rng = RUNS[name], random.Random(f"{name} {seed}")
    whole_folder = prepared(tmp_path / "whole")
    _, n = in_child(run, whole_folder, -1, 0)
    assert n >= 3
    whole, killed = state(whole_folder), 0
    for i in range(moments):
        folder = prepared(tmp_path / str(i))
        at, delay = rng.randint(1, n), rng.choice([0, 0, rng.uniform(0, 0.004)])
        where = f"killed {delay:.4f} s after touch {at} of {n}"
        for _ in range(rng.choice([1, 1, 2])):  # and sometimes the run after it, too
            is_new = not any((folder / made).exists() for made in ("out", "caps"))
            killed += in_child(run, folder, at, delay)[0] == signal.SIGKILL
        after = {path: content for path, content in state(folder).items() if not is_temporary(path)}
        for path, content in after.items():
            growing = Path(path).name in GROWING and name != "traces"
            assert whole[path].startswith(content) if growing else content == whole[path], (path, where)
        if is_new and (name.startswith("export") or name == "traces"):
            assert after.keys() in (whole.keys(), {"set.json", "in.safetensors"}), where
        monkeypatch.chdir(folder)
        run()
        assert state(folder) == whole, where
        assert not any(is_temporary(path) for path in map(str, folder.rglob("*"))), where
    return killed


@pytest.mark.every(2)
@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments(name, tmp_path, monkeypatch):
    assert check(name, tmp_path, monkeypatch, moments=2, seed=0) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_at_many_moments(name, tmp_path, monkeypatch):
    """Over a hundred of all runs together."""
    assert check(name, tmp_path, monkeypatch, moments=12, seed=1) >= 6
