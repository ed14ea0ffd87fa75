"""`gpt2np capture --text`: what it prints, and that bad input gets one line and exit code 2."""

import io
import json
import sys

import pytest
from support.command_line import run

import gpt2np
from gpt2np.capture import many

TEXTS = ["Elizabeth was", "Mr Darcy had been there", "It is a truth"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", "utf-8")
    return path


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    measure = many.CapturePlan.tokens_a_second
    monkeypatch.setattr(many.CapturePlan, "tokens_a_second", lambda plan: measure(plan, 0.01))


def refused(done):
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("gpt2np: ").removesuffix("\n")


def test_it_writes_what_the_function_writes(capsys, file, tmp_path):
    code, out, err = run(capsys, "capture", "--text", file, "--out", tmp_path / "a", "--positions", "last")
    assert code == 0, err
    assert out.splitlines()[0] == "texts   3 prompts"
    assert "shards  1 (1 new)" in out
    assert err == f"gpt2np: everything is in {tmp_path / 'a'}\n"
    gpt2np.load("tiny").capture(TEXTS, tmp_path / "b", positions="last")
    for name in ("manifest.json", "shards.jsonl", "shard_00000.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_json(capsys, file, tmp_path):
    argv = ["capture", "--text", file, "--out", tmp_path / "a", "--keep", "ln_1", "attn.z", "--json"]
    _, out, _ = run(capsys, *argv)
    facts = json.loads(out)
    assert (facts["prompts"], facts["shards"], facts["new"], facts["skipped"]) == (3, 1, 1, [])
    assert json.loads(run(capsys, *argv)[1])["new"] == 0
    names = json.loads((tmp_path / "a" / "manifest.json").read_text())["sites"]
    assert set(names) == {f"h.{i}.{site}" for i in range(4) for site in ("ln_1", "attn.z")}


def test_plan_writes_nothing_and_knows_the_bytes(capsys, file, tmp_path):
    argv = ["capture", "--text", file, "--out", tmp_path / "a"]
    code, out, _ = run(capsys, *argv, "--plan")
    assert code == 0
    assert not (tmp_path / "a").exists()
    _, planned, _ = run(capsys, *argv, "--plan", "--json")
    run(capsys, *argv)
    size = (tmp_path / "a" / "shard_00000.safetensors").stat().st_size
    assert json.loads(planned)["bytes"] == size
    assert f"{size:,}" in out


def test_plan_refuses_what_the_disk_cannot_hold(capsys, file, tmp_path, monkeypatch):
    argv = ["capture", "--text", file, "--out", tmp_path / "a"]
    monkeypatch.setattr(many, "free_bytes", lambda folder: 1000)
    code, out, err = run(capsys, *argv, "--plan")
    assert (code, err.count("\n")) == (2, 1)
    assert "1.0 kB left (--force)" in err
    assert "bytes" in out
    assert run(capsys, *argv, "--plan", "--force")[0] == 0
    assert "left (--force)" in refused(run(capsys, *argv))
    assert run(capsys, *argv, "--force")[0] == 0


def test_stdin(capsys, tmp_path, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()), "utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(capsys, "capture", "--text", "-", "--out", tmp_path / "a")[0] == 0
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["texts"]["prompts"] == 3


def test_skip_bad_lists_what_it_left_out(capsys, file, tmp_path):
    with file.open("a") as more:
        more.write("\n" + "Elizabeth " * 500 + "\nfine\n")
    argv = ["capture", "--text", file, "--out", tmp_path / "a"]
    told = refused(run(capsys, *argv))
    assert told.startswith(f"{file}: line 4 (prompt 3) is empty")
    assert told.endswith("1 more are bad; --skip-bad leaves them out")
    code, out, err = run(capsys, *argv, "--skip-bad")
    assert code == 0
    assert "4 prompts, 2 left out" in out
    assert "note: left out prompt 3: the prompt is empty" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--experiment", "x"], "--experiment does not go with --text"),
        (["--layer-internals"], "--layer-internals does not go with --text"),
        (["--chat"], "--chat does not go with --text"),
        (["--threads", "2"], "--threads does not go with --text"),
        (["--positions", "middle"], "--positions middle: must be first, last, all, or A:B:C"),
        (["--keep", "resid_pots"], "--keep: "),
        (["--workers", "0"], "argument --workers"),
        (["--workers", "x"], "argument --workers"),
        (["--workers", "1000"], "--workers 1000: must be a whole number from 1 to 256"),
        (["--window", "9999"], "--window 9999: the context of this model holds 1 to"),
        (["--store", "int8"], "argument --store"),
        (["--dask", "tcp://127.0.0.1:1"], "dask"),
        (["--dask", "nofile.json"], "dask"),
        (["--dask", "tcp://127.0.0.1:1", "--workers", "2"], "--workers are of this machine"),
    ],
)  # fmt: skip
def test_wrong_options(capsys, file, tmp_path, options, says, monkeypatch):
    monkeypatch.setattr("gpt2np.capture.cluster.TIMEOUT", 0.2)
    told = refused(run(capsys, "capture", "--text", file, "--out", tmp_path / "a", *options))
    assert says in told.lower() if says == "dask" else told.startswith(says)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--text", "missing.txt", "--out", "x"], "missing.txt: no such file"),
        (["--text", "{file}"], "--out FOLDER is needed"),
        (["--text", "{file}", "--out", ""], "the name of what is to be written is empty"),
        (["--prompt", "x", "--keep", "embed"], "--keep goes with --text"),
        (["--prompt", "x", "--plan"], "--plan goes with --text"),
        (["--prompt", "x", "--text", "{file}"], "argument --text: not allowed with argument --prompt"),
        ([], "give --prompt TEXT, --prompt-set NAME|FILE or --text FILE"),
    ],
)
def test_wrong_commands(capsys, file, argv, says):
    argv = [word.format(file=file) for word in argv]
    assert refused(run(capsys, "capture", *argv)).startswith(says)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")]
)
def test_durations(seconds, text):
    from gpt2np.cli.verbs.capture_many import duration

    assert duration(seconds) == text
