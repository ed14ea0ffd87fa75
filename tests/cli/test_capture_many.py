"""`gpt2np capture --text`: what it prints, and that bad input gets one line and exit code 2."""

import io
import json
import sys

import pytest
from support.command_line import run

import gpt2np
from gpt2np.capture import many
from gpt2np.capture.capture_plan import CapturePlan

TEXTS = ["Elizabeth was", "Mr Darcy had been there", "It is a truth"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", "utf-8")
    return path


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    measure = CapturePlan.tokens_a_second
    monkeypatch.setattr(CapturePlan, "tokens_a_second", lambda plan: measure(plan, 0.01))


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
    assert told.endswith("1 more is bad; --skip-bad leaves them out")
    code, out, err = run(capsys, *argv, "--skip-bad")
    assert code == 0
    assert "4 prompts, 2 left out" in out
    assert "note: left out line 4: the prompt is empty" in err
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["skipped"][0]["where"] == "line 4"
    skipped = json.loads(run(capsys, *argv, "--skip-bad", "--json")[1])["skipped"]
    assert [(bad["prompt"], bad["where"]) for bad in skipped] == [(3, "line 4"), (4, "line 5")]


def test_skipped_files_are_named(capsys, tmp_path):
    for name, text in {"b.txt": "fine", "a/z.txt": "", "c.txt": ""}.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    argv = ["capture", "--text", tmp_path / "texts", "--out", tmp_path / "caps"]
    assert refused(run(capsys, *argv)).startswith(f"{tmp_path / 'texts' / 'a' / 'z.txt'} (prompt 0) is empty")
    _, _, err = run(capsys, *argv, "--skip-bad")
    assert "note: left out a/z.txt: the prompt is empty" in err
    moved = (tmp_path / "texts").rename(tmp_path / "moved")
    assert "1 (0 new)" in run(capsys, "capture", "--text", moved, *argv[3:], "--skip-bad")[1]


def test_plan_looks_at_what_is_there(capsys, file, tmp_path):
    file.write_text("Elizabeth was not the only one in town\n" * 4000)
    argv = ["capture", "--text", file, "--out", tmp_path / "a", "--keep", "embed", "--shard-mb", "1"]
    assert "there " not in run(capsys, *argv, "--plan")[1]
    assert run(capsys, *argv)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    code, out, _ = run(capsys, *argv, "--plan")
    assert code == 0
    assert "time    none: all is there" in out
    (tmp_path / "a" / "shard_00002.safetensors").unlink()
    (tmp_path / "a" / "shard_00003.safetensors").write_bytes(b"cut")
    facts = json.loads(run(capsys, *argv, "--plan", "--json")[1])
    assert facts["shards_there"] == facts["shards"] - 2 > 2
    assert 0 < facts["bytes"] - facts["bytes_there"] <= 2_000_000
    code, out, _ = run(capsys, *argv, "--plan")
    assert f"there   {facts['shards_there']} shards by size, " in out
    assert "time    about 1 s: 1 worker" in out
    told = refused(run(capsys, *argv, "--positions", "last", "--plan"))
    assert told == refused(run(capsys, *argv, "--positions", "last"))
    assert told.endswith("a: holds another capture (with positions 'all', not 'last'): choose another folder")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    assert "holds 'mine'" in refused(run(capsys, *argv[:4], tmp_path / "b", "--plan"))
    kept = {
        path: when for path, when in before.items() if "0002" not in path.name and "0003" not in path.name
    }
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # a plan touches nothing


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--experiment", "x"], "--experiment does not go with --text"),
        (["--layer-internals"], "--layer-internals does not go with --text"),
        (["--chat"], "gpt2 has no chat template"),
        (["--threads", "2"], "--threads does not go with --text"),
        (["--positions", ""], "--positions '': must be first, last, all, or A:B:C"),
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


def test_prompts_are_numbered_from_0_and_lines_from_1(capsys, tmp_path):
    def told_of(name, content):
        (tmp_path / name).write_text(content)
        return refused(run(capsys, "capture", "--text", tmp_path / name, "--out", tmp_path / "caps"))

    assert told_of("a.json", '["fine", "", "also fine"]').startswith(
        f"{tmp_path / 'a.json'}: prompt 1 is empty"
    )
    assert told_of("a.json", '["fine", 5]').startswith(f"{tmp_path / 'a.json'}: prompt 1 must be a text")
    assert told_of("a.txt", "fine\n\n").startswith(f"{tmp_path / 'a.txt'}: line 2 (prompt 1) is empty")
    for name, content in (("b.txt", ""), ("b.json", "[]"), ("b.jsonl", "")):
        assert told_of(name, content) == f"{tmp_path / name}: there is no prompt to capture"
    (tmp_path / "a.json").write_text('["fine", ""]')
    argv = ["capture", "--text", tmp_path / "a.json", "--out", tmp_path / "caps", "--skip-bad"]
    assert "note: left out prompt 1: the prompt is empty" in run(capsys, *argv)[2]
    assert json.loads(run(capsys, *argv, "--json")[1])["skipped"][0]["where"] == "prompt 1"


def test_a_link_that_leads_nowhere_is_named(capsys, tmp_path):
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("Elizabeth was")
    (tmp_path / "texts" / "more" / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "texts" / "same.txt").symlink_to("a.txt")
    (tmp_path / "texts" / "circle").symlink_to("more")
    argv = ["capture", "--text", tmp_path / "texts", "--out", tmp_path / "caps"]
    told = refused(run(capsys, *argv))
    gone = f"{tmp_path / 'texts' / 'more' / 'gone.txt'} (prompt 1)"
    assert told == f"{gone} is a link to a file that is not there; --skip-bad leaves them out"
    code, out, err = run(capsys, *argv, "--skip-bad")
    assert code == 0
    assert "2 prompts, 1 left out" in out
    assert "note: left out more/gone.txt: the prompt is a link to a file that is not there" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2.0 h"), (1e6, "11.6 d")]
)
def test_durations(seconds, text):
    from gpt2np.cli.verbs.capture_many import duration

    assert duration(seconds) == text
