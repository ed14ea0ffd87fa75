"""The benchmark suite as it is run: its command line, its workers, and a run of no meaning."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))  # the suite is no part of the installed package

from benchmarks import results, turns, works
from benchmarks.__main__ import engine_list, main
from benchmarks.bench_capture import BATCH, CONTEXT, OURS, WAYS, contexts, ragged
from benchmarks.random_gpt2 import make
from gpt2np.architectures.gpt2.config import Config

ROOT = Path(__file__).parents[2]
SMALL = Config(n_layer=2, n_head=2, n_embd=4, n_positions=8, vocab_size=10, eos_token_id=None)


# -- command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--work", "trace-7"], "no work is called 'trace-7'"),
        (["--engines", "gpt2np,jax"], "no engine is called 'jax'"),
        (["--rounds", "0"], "'0' is not a whole number"),
        (["--python", "jax=/bin/python"], "is not ENGINE=PYTHON"),
        (["--python", "hf=/nowhere/python"], "/nowhere/python: no such file"),
        (["--quick", "--full"], "not allowed with"),
        (["report"], "report and publish take a RESULTS.json"),
        (["publish"], "report and publish take a RESULTS.json"),
        (["scaling", "x.json"], "report and publish take a RESULTS.json"),
        (["--before", "/nowhere"], "/nowhere: no checkout of gpt2np"),
    ],
)
def test_bad_arguments(capsys, arguments, says):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "publish"])
@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 1, "shape": "huge"}'])
def test_a_damaged_results_file(capsys, tmp_path, text, verb):
    path = tmp_path / "RESULTS.json"
    if text is not None:
        path.write_text(text)
    assert main([verb, str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1


def test_results_of_another_shape_are_not_added_to(capsys, tmp_path):
    results.write(tmp_path / "RESULTS.json", results.new("gpt2", 2))
    assert main(["--shape", "tiny", "--work", "load", "--out", str(tmp_path)]) == 2
    assert "was measured with shape gpt2, not tiny" in capsys.readouterr().err


def test_engine_list():
    assert engine_list("hf") == ["gpt2np", "hf_eager", "hf_sdpa"]
    assert engine_list("ctranslate2,gpt2np") == ["gpt2np", "ctranslate2"]


# -- workers --------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_dies_is_named_with_its_last_words(tmp_path):
    make(tmp_path, SMALL)
    with turns.engines(["gpt2np"], tmp_path, 1) as (started, _):
        with pytest.raises(turns.EngineError, match=r"gpt2np ended with code 1(.|\n)*no_such_method"):
            started["gpt2np"].run({"work": "no_such_method"})
        pid = started["gpt2np"].process.pid
    assert not alive(pid)
    with pytest.raises(turns.EngineError, match=r"gpt2np ended with code 1(.|\n)*no such folder"):
        turns.Engine("gpt2np", tmp_path / "nothing", 1)


def test_an_earlier_gpt2np_is_that_of_its_checkout_and_may_lack_something(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    before = tmp_path / "before"  # a gpt2np that can only load
    (before / "gpt2np").mkdir(parents=True)
    (before / "gpt2np" / "__init__.py").write_text("def load(folder):\n    return [folder]\n")
    (before / "benchmarks").mkdir()
    (before / "benchmarks" / "__init__.py").write_text("raise ImportError('the other suite')\n")
    monkeypatch.setenv("GPT2NP_BEFORE", str(before))
    make(tmp_path, SMALL)
    with turns.engines(["gpt2np", "gpt2np_before"], tmp_path, 1) as (started, absent):
        assert absent == {}
        job = {"work": "load", "report": True}
        assert started["gpt2np_before"].run(job)["value"] == [str(tmp_path)]
        job = {"work": "trace", "arguments": {"prompts": [[1, 2]]}}
        taken = turns.in_turn({name: (engine, job) for name, engine in started.items()}, 1)
        assert list(taken) == ["gpt2np"]
        assert "gpt2np_before cannot do this: AttributeError" in capsys.readouterr().err
        assert started["gpt2np_before"].run({"work": "release"})


def test_contexts_of_a_capture_are_its_prompts_concatenated():
    prompts = ragged(40)
    ids, cut = np.concatenate(prompts).tolist(), contexts(prompts)
    assert {len(context) for context in cut} == {CONTEXT}
    assert len(cut) % BATCH == 0
    assert 0 <= len(ids) - len(cut) * CONTEXT < CONTEXT * BATCH
    assert np.ravel(cut).tolist() == ids[: len(cut) * CONTEXT]


def test_everybody_stands_beside_a_capture_of_the_same():
    assert all(WAYS[ours].task == task and WAYS[ours].engine == "gpt2np" for task, ours in OURS.items())
    assert {way.task for way in WAYS.values()} == set(OURS)


def test_spinning_processes_are_ended():
    def interrupted():
        with turns.spinning(2) as spinners:
            pids.extend(spinner.pid for spinner in spinners)
            assert all(alive(pid) for pid in pids)
            raise KeyboardInterrupt

    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_an_engine_that_is_not_installed_is_absent(tmp_path):
    make(tmp_path, SMALL)
    bare = tmp_path / "python"  # a Python that finds no torch, wherever it may be
    bare.write_text(f"""#!/bin/sh
exec {sys.executable} -c '
import runpy, sys
sys.modules["torch"], sys.argv = None, sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)' "$@"
""")
    bare.chmod(0o755)
    with turns.engines(["hf_sdpa"], tmp_path, 1, {"hf_sdpa": str(bare)}) as (started, absent):
        assert started == {}
        assert absent["hf_sdpa"].startswith("torch is not installed in ")


def test_a_run_of_gpt2np_alone_then_more_of_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    common = [
        "--shape",
        "tiny",
        "--engines",
        "gpt2np",
        "--threads",
        "1",
        "--rounds",
        "2",
        "--out",
        str(tmp_path),
    ]
    wanted = ["trace-5", "steps-5", "beams-4", "batch-4", "decode-32", "save-nosync-512", "open-512", "cold"]
    wanted += ["busy-decode", "tiny-decode"]
    assert main([*common, *(word for name in wanted for word in ("--work", name))]) == 0
    out = capsys.readouterr().out
    assert "| full trace, 5 tokens | " in out
    found = results.read(tmp_path / "RESULTS.json")
    assert set(found["works"]) == set(wanted)
    assert all(len(work["rounds"]["gpt2np"]) == 2 for work in found["works"].values())
    assert results.rows(found)["busy-decode"].ratio("gpt2np_busy", "cpu")["median"] > 0
    assert results.rows(found)["busy-decode"].ratio("bare_loop_busy", "cpu", "bare_loop")["median"] > 0
    assert results.rows(found)["tiny-decode"].ratio("bare_loop", "step")["median"] > 0
    assert results.rows(found)["steps-5"].median(key="rest") > 0
    assert results.rows(found)["beams-4"].median(key="step") is None
    assert results.rows(found)["save-nosync-512"].least()[1] == "disk"
    answer = found["works"]["decode-32"]["rounds"]["gpt2np"][0]
    assert 0 < answer["first"] < answer["seconds"]
    assert all(part is not None for part in results.rows(found)["trace-5"].least())
    assert main([*common, "--continue", "--work", "load", "--work", "cold"]) == 0
    after = results.read(tmp_path / "RESULTS.json")
    assert set(after["works"]) == {*wanted, "load"}
    assert after["works"]["cold"] == found["works"]["cold"]
    assert after["works"]["load"]["run"] == 1
    assert (tmp_path / "RESULTS.md").read_text().startswith("# Results")
    assert main([*common, "--quick", "--continue", "--work", "cold"]) == 0  # nothing left to do
    assert results.read(tmp_path / "RESULTS.json")["works"] == after["works"]
    monkeypatch.setattr("benchmarks.__main__.chosen", lambda *_: works.chosen(["load"], False))
    assert main(common) == 0  # a run that starts anew
    assert set(results.read(tmp_path / "RESULTS.json")["works"]) == {"load"}
    assert results.read(tmp_path / "previous-RESULTS.json")["works"] == after["works"]


def test_what_is_interrupted_leaves_no_process_behind(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--shape", "tiny", "--engines", "gpt2np", "--threads", "1"]
    command += ["--rounds", "500", "--work", "trace-5", "--out", str(tmp_path / "out")]
    suite = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    children = Path(f"/proc/{suite.pid}/task/{suite.pid}/children")
    if not children.exists():
        suite.kill()
        pytest.skip("needs /proc")
    end = time.monotonic() + 60
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        workers = children.read_text().split()
    suite.send_signal(signal.SIGTERM)
    _, error = suite.communicate(timeout=60)
    assert suite.returncode == 130
    assert "interrupted; finished rows are in" in error
    assert len(workers) == 2
    end = time.monotonic() + 30  # the system may need a moment to end them
    while any(alive(int(pid)) for pid in workers):
        assert time.monotonic() < end, "a worker is still there"
        time.sleep(0.1)
