"""Prompt sets captured by workers: the same files and manifest, however many they are, whoever is killed."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import tiny_checkpoint
from support.command_line import run
from support.killed_runs import contents, killed_at

import gpt2np
from gpt2np.capture import prompt_files
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.capture.workers import Workers
from gpt2np.errors import InputError, TraceError

PROMPTS = PromptSet("some", tuple(Prompt(None, text) for text in ("the", "a", "in", "on a", "the the")))
SAMPLED = Options(max_new_tokens=6, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny_checkpoint.write(tmp_path_factory.mktemp("tiny")))


def captured(model, folder, **given):
    """Raw residual and internals into one folder; how many files are new."""
    return sum(
        capture_prompts(model, PROMPTS, folder, layers=layers, format=form, options=SAMPLED, **given)[1]
        for layers, form in ((None, "safetensors"), ([0, 1], "pt"))
    )


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert captured(model, folder, workers=1) == 15
    return contents(folder)


@pytest.mark.parametrize(
    "kind",
    [lambda: {"workers": 2}, lambda: {"executor": ThreadPoolExecutor(2)}, dict],
    ids=["workers", "threads", "default"],
)
def test_whoever_runs_it_the_bytes_are_the_same(model, whole, tmp_path, kind):
    assert captured(model, tmp_path, **kind()) == 15
    assert contents(tmp_path) == whole


def test_what_is_missing_is_made_again_and_nothing_else(model, whole, tmp_path):
    captured(model, tmp_path)
    (tmp_path / "inference/raw/internals/some/2_L1.pt").unlink()
    seen = []
    assert captured(model, tmp_path, workers=2, advance=lambda: seen.append(1)) == 1
    assert len(seen) == 10
    files = contents(tmp_path)
    lines = files.pop("manifest.jsonl").splitlines()
    assert lines[:-1] == whole["manifest.jsonl"].splitlines()
    assert lines[-1] in lines[:-1]  # what was made again is listed again
    assert files == {name: content for name, content in whole.items() if name != "manifest.jsonl"}


SCRIPT = """
import sys, gpt2np
from pathlib import Path
sys.path.insert(0, {tests!r})
from capture.test_prompt_workers import SAMPLED, PROMPTS, capture_prompts
n = []
def advance():
    n.append(1)
    print(len(n), flush=True)
model = gpt2np.load({model!r})
capture_prompts(model, PROMPTS, Path({folder!r}), options=SAMPLED, workers=2, advance=advance)
print("end", flush=True)
"""


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(model, whole, tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    script = SCRIPT.format(tests=tests, model=str(model.checkpoint.folder), folder=str(tmp_path))
    for number in ("1", "3"):
        killed_at(script, number)
        found = len(list(tmp_path.glob("inference/raw/residual/some/*")))
        assert int(number) <= found
    captured(model, tmp_path)
    assert contents(tmp_path) == whole


def test_workers_that_are_killed_cost_nothing_but_time(model, whole, tmp_path):
    with Workers(2) as workers:

        def kill():
            for pid in workers.pids()[:1]:
                os.kill(pid, signal.SIGKILL)

        captured(model, tmp_path, executor=workers, advance=kill)
    assert contents(tmp_path) == whole


def test_one_prompt_runs_on_as_many_threads_as_the_model_has(model, tmp_path, monkeypatch):
    given = []

    def capture(model, *others):
        given.append(model)
        return prompt_files.capture_prompt(model, *others)

    monkeypatch.setattr("gpt2np.capture.runs.capture_prompt", capture)
    one = PromptSet("prompt", (Prompt(None, "the"),))
    for workers in (None, 2):
        capture_prompts(model, one, tmp_path / str(workers), options=SAMPLED, workers=workers)
    assert [who is model for who in given] == [True, True]


def test_what_fails_names_the_file_by_the_name_that_it_would_have(model, tmp_path, monkeypatch):
    def full(capture, path, facts):
        raise TraceError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(prompt_files, "save_capture", full)
    with pytest.raises(TraceError) as raised:
        captured(model, tmp_path, workers=1)
    path = f"{tmp_path}/inference/raw/residual/some/1.safetensors"
    assert str(raised.value) == f"{path}: cannot be written (No space left on device)"
    assert list(contents(tmp_path).values()) == [b""]  # the manifest


def test_a_file_that_is_there_unlisted_and_is_another_one_stays(model, tmp_path):
    path = tmp_path / "inference/raw/residual/some/3.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=r"3\.safetensors: is there, but not in the manifest"):
        captured(model, tmp_path, workers=2)
    assert path.read_text() == "mine"
    path.unlink()
    assert captured(model, tmp_path) == 13


def test_weights_that_no_file_has_are_refused_by_workers(model, tmp_path):
    changed = model.with_weights({"wte.weight": model.weights["wte.weight"] * 2})
    with pytest.raises(InputError, match="with_weights"):
        captured(changed, tmp_path / "e", workers=2)
    assert not (tmp_path / "e").exists()
    assert captured(changed, tmp_path / "e") == 15


def command(capsys, folder, *words):
    return run(capsys, "capture", "--experiment", "e", "--output", folder, "--max-new-tokens", 3, *words)


@pytest.mark.parametrize("n", ["0", "-1", "x", "1.5", "", "1000"])
def test_wrong_numbers_of_workers(capsys, tmp_path, n):
    code, out, err = command(capsys, tmp_path, "--prompt-set", "dynamic", f"--workers={n}")
    assert (code, out) == (2, "")
    assert "workers" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_workers_do_not_go_with_a_trace(capsys, tmp_path):
    code, _, err = run(
        capsys, "capture", "--experiment", "e", "--output", tmp_path, "--trace", "t", "--workers", 2
    )
    assert code == 2
    assert "--workers" in err.splitlines()[-1]


def test_command(capsys, tmp_path, model):
    (tmp_path / "mine.txt").write_text("the\na\nin\n")
    found = []
    for workers in ((), ("--workers", 1), ("--workers", 2)):
        folder = tmp_path / str(len(found))
        words = ("--prompt-set", tmp_path / "mine.txt", "--model", model.checkpoint.folder, *workers)
        assert command(capsys, folder, *words)[0] == 0
        found.append(contents(folder))
    assert len(found[0]) == 4
    assert found[0] == found[1] == found[2]
