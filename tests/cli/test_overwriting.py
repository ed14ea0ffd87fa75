"""No command writes over a file that is there, unless told to, and none over one that it reads."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
from support import command_line

import gpt2np
from gpt2np.checkpoints.checkpoint import shipped_folder
from gpt2np.cli.program import build_parser
from gpt2np.export.typescript import FILES as TYPESCRIPT
from gpt2np.kv.reading import read_kv
from gpt2np.reference.fixture import FILES as FIXTURE

PNG = pytest.mark.needs("matplotlib")
FOLDERS = {"capture", "kv dataset", "fixture", "export"}  # with rules of their own


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    return lambda *argv: command_line.run(capsys, *argv)


# A command, what it reads, and the option and name of what it writes.
WRITES = [
    (["trace", "To be"], "--out", "t.safetensors"),
    pytest.param(["trace", "To be", "--show", "wte"], "--png", "p.png", marks=PNG),
    (["generate", "To be", "--max-new-tokens", "2"], "--out", "g.safetensors"),
    (["generate", "To be", "--max-new-tokens", "2"], "--ledger", "g.jsonl"),
    (["view", "To be", "--no-open"], "--out", "v.html"),
    (["view", "--trace", "in.safetensors", "--no-open"], "--out", "v.html"),
    pytest.param(["lens", "To be"], "--png", "p.png", marks=PNG),
    pytest.param(["heads", "To be"], "--png", "p.png", marks=PNG),
    pytest.param(["circuits", "--norms"], "--png", "p.png", marks=PNG),
    pytest.param(["stats", "--trace", "in.safetensors"], "--png", "p.png", marks=PNG),
    (["compare", "in.safetensors", "--prompt", "Elizabeth was"], "--html", "c.html"),
    (["kv", "extract", "To be"], "--out", "kv.json"),
    (["kv", "extract", "To be"], "--out", "kv.safetensors"),
    (["kv", "query", "in.safetensors"], "--export-csv", "q.csv"),
    *[
        (["export", "in.safetensors", "--to", to], "-o", f"x.{to}")
        for to in ("npz", "json", "csv", "safetensors")
    ],
]
EACH_WRITE = pytest.mark.parametrize(
    ("argv", "option", "name"),
    WRITES,
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)


@pytest.mark.every(2)
@EACH_WRITE
def test_an_existing_file_stays_unless_forced(run, tmp_path, argv, option, name):
    gpt2np.load("tiny").trace("Elizabeth was").save(tmp_path / "in.safetensors")
    Path("old").write_text("old")
    for path in (name, f"link_{name}"):
        if path != name:
            os.symlink("old", path)
        else:
            Path(path).write_text("old")
        code, out, err = run(*argv, option, path)
        assert (code, out) == (2, "")
        assert err.splitlines() == [f"gpt2np: {path}: is there already; --force overwrites it"]
        assert Path(path).read_text() == "old"
        code, _, err = run(*argv, option, path, "--force")
        assert code == 0, err
        assert Path(path).read_bytes()[:3] != b"old"
    assert Path(f"link_{name}").is_symlink()
    assert Path("old").read_bytes() == Path(f"link_{name}").read_bytes()
    assert not [path for path in os.listdir() if path.startswith(".")]


@pytest.mark.every(2)
@EACH_WRITE
def test_missing_folders_are_made_and_stay_only_with_something_in_them(run, tmp_path, argv, option, name):
    gpt2np.load("tiny").trace("Elizabeth was").save(tmp_path / "in.safetensors")
    Path("there").mkdir()
    for folder in ("new/newer", "there/new", "new/../new"):
        for wrong in (["--no-such-option"], ["--model", "./nothing"]):
            code, _, _ = run(*argv, option, f"{folder}/{name}", *wrong)
            assert code == 2 or argv[0] in ("stats", "export", "kv")  # which may need no model
            if code == 0:
                shutil.rmtree(folder.split("/..")[0].removesuffix("/newer"))
            assert sorted(os.listdir()) == ["in.safetensors", "there"]
            assert os.listdir("there") == []
    code, _, err = run(*argv, option, f"new/newer/{name}")
    assert code == 0, err
    assert os.listdir("new/newer") == [name]


def test_a_folder_that_cannot_be_made(run):
    Path("file").touch()
    for path in ("file/new/kv.json", "new/\0/kv.json", "file/kv.json"):
        code, out, err = run("kv", "extract", "a", "--out", path)
        assert (code, out) == (2, "")
        assert "cannot be written" in err.splitlines()[-1]
        assert os.listdir() == ["file"]


def test_default_names_are_no_exception(run):
    for argv, name in (
        (["view", "To be", "--no-open"], "gpt2np-view.html"),
        (["kv", "extract", "To be"], "data/kv_cache_output.json"),
    ):
        assert run(*argv)[0] == 0
        before = Path(name).read_bytes()
        code, _, err = run(*argv)
        assert (code, err.splitlines()[-1]) == (2, f"gpt2np: {name}: is there already; --force overwrites it")
        assert Path(name).read_bytes() == before
        assert run(*argv, "--force")[0] == 0


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        (["export", "in.safetensors", "--to", "ts", "-o", "out"], TYPESCRIPT),
        (["export", "To be", "--to", "llm.c", "-o", "out"], ["gpt2_2M.bin", "activations.json"]),
        (["fixture", "-o", "out", "--seed", "3"], FIXTURE),
    ],
    ids=["ts", "llm.c", "fixture"],
)
def test_folders(run, tmp_path, argv, files):
    gpt2np.load("tiny").trace("Elizabeth was").save(tmp_path / "in.safetensors")
    assert run(*argv)[0] == 0
    assert {*files} <= {*os.listdir("out")}
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    code, _, err = run(*argv)
    assert code == 2
    assert "is there already; --force overwrites it" in err
    Path("out", files[0]).write_text("changed")
    Path("out", "other").write_text("stays")
    code, _, err = run(*argv, "--force")
    assert code == 0, err
    after = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert after == before | {"other": b"stays"}


@pytest.mark.every(2)
@pytest.mark.parametrize("linked", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["view", "--trace", "FILE", "--no-open"], "--out"),
        (["view", "--generation", "FILE", "--no-open"], "--out"),
        (["compare", "FILE", "--prompt", "Elizabeth was"], "--html"),
        (["kv", "query", "FILE"], "--export-csv"),
        (["export", "FILE", "--to", "json"], "-o"),
        (["export", "FILE", "--to", "safetensors"], "-o"),
        (["trace", "x", "--model", "./m"], "--out"),
        (["generate", "x", "--max-new-tokens", "1", "--model", "./m"], "--out"),
        (["generate", "x", "--max-new-tokens", "1", "--model", "./m"], "--ledger"),
        (["kv", "extract", "x", "--model", "./m"], "--out"),
        (["kv", "extract", "--trace", "FILE"], "--out"),
        (["view", "x", "--model", "./m", "--no-open"], "--out"),
        (["compare", "other.safetensors", "--model", "./m"], "--html"),
        (["view", "--trace", "other.safetensors", "--model", "./m", "--no-open"], "--out"),
        (["export", "other.safetensors", "--model", "./m", "--to", "npz"], "-o"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_a_command_reads_stays_even_if_forced(run, argv, option, linked):
    model = gpt2np.load("tiny")
    for name in ("mine.safetensors", "other.safetensors"):
        model.trace("Elizabeth was").save(name)
    source = "mine.safetensors"
    if "./m" in argv:
        shutil.copytree(shipped_folder(), "m")
        source = "m/model.safetensors"
    before, name = Path(source).read_bytes(), "again.safetensors"
    if linked == "itself":
        name = source
    elif linked == "symbolic link":
        os.symlink(source, name)
    else:
        os.link(source, name)
    words = [source if word == "FILE" else word for word in argv]
    code, out, err = run(*words, option, name, "--force")
    assert (code, out) == (2, "")
    refusals = [f"gpt2np: {name}: is read by this very run; write to another file"]
    if "view" in argv and "./m" in argv:
        refusals = [f"gpt2np: {name}: the name must end in .html or .htm, which says what it is"]
    if "export" in argv:
        refusals.append(f"gpt2np: {name}: the name says another kind of file than --to {argv[-1]}")
    assert err.splitlines()[-1] in refusals
    assert Path(source).read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "tokenizer.json"])
def test_no_file_of_the_model_is_written_over(run, name):
    shutil.copytree(shipped_folder(), "m")
    if not Path("m", name).exists():
        pytest.skip(f"tiny has no {name}")
    before = Path("m", name).read_bytes()
    for argv in (
        ["kv", "extract", "x", "--out"],
        ["view", "x", "--no-open", "--out"],
        ["generate", "x", "--ledger"],
    ):
        code, _, err = run(*argv, f"m/{name}", "--model", "./m", "--force")
        assert code == 2, err
        assert Path("m", name).read_bytes() == before


def test_two_outputs_are_two_files(run):
    for ledger in ("x.safetensors", "./x.safetensors"):
        code, _, err = run("generate", "x", "--out", "x.safetensors", "--ledger", ledger)
        assert code == 2
        assert "is given for two different files" in err
    assert os.listdir() == []


def test_refused_before_anything_runs(run):
    """A long run that could not be written would be lost."""
    Path("x.safetensors").touch()
    code, _, err = run("generate", "x", "--out", "x.safetensors", "--max-new-tokens", "100000")
    assert (code, len(err.splitlines())) == (2, 1)


def test_every_option_that_names_an_output_is_known():
    """Of verbs to come, too: whoever writes a file has `--force`."""
    written = {"out", "png", "html", "ledger", "export_csv", "csv", "output", "output_dir", "poster"}
    seen = []

    def visit(parser, name):
        actions = {action.dest: action for action in parser._actions}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb, child in action.choices.items():
                    visit(child, f"{name} {verb}".strip())
        names = written & actions.keys()
        if not names or name in FOLDERS:
            return
        seen.append(name)
        outputs = set(parser.get_default("outputs"))
        assert "force" in actions, name
        assert outputs == names - ({"ledger"} if name == "view" else set()), name

    visit(build_parser(), "")
    assert {"trace", "generate", "view", "compare", "kv extract", "kv query", "stats", "patch"} <= set(seen)


def test_a_capture_changed_in_place_is_not_taken(run):
    argv = ["capture", "--prompt", "Elizabeth", "--max-new-tokens", "2", "--experiment", "x"]
    assert run(*argv)[0] == 0
    [path] = Path("experiments/x").rglob("*.safetensors")
    whole = path.read_bytes()
    status = path.stat()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, _, err = run(*argv)
    assert code == 2
    assert "has been changed since it was captured; delete it, and it is captured again" in err
    path.unlink()
    assert run(*argv)[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", ["three pages of notes", '{"paths": ', "{", '{"path": 1', " ", "x\ny"])
@pytest.mark.parametrize("how", ["file", "link"])
def test_a_manifest_of_somebody_elses_stays(run, content, how):
    """Only the beginning of a line of its own is cut off, as a killed run leaves it."""
    argv = ["capture", "--prompt", "Elizabeth", "--max-new-tokens", "1", "--experiment", "x"]
    Path("experiments/x").mkdir(parents=True)
    file = Path("experiments/x/manifest.jsonl")
    if how == "link":
        Path("notes").touch()
        file.symlink_to("../../notes")
    file.write_text(content)
    code, _, err = run(*argv)
    if '{"path": "'.startswith(content):
        assert code == 0, err
        return
    assert code == 2
    assert "manifest" in err
    assert file.read_text() == content


def test_a_line_of_a_killed_capture_is_cut_off(run):
    argv = ["capture", "--prompt", "Elizabeth", "--max-new-tokens", "1", "--experiment", "x"]
    assert run(*argv)[0] == 0
    file = Path("experiments/x/manifest.jsonl")
    whole = file.read_bytes()
    for cut in (1, 5, 10, 11, 40, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert run(*argv)[0] == 0
        assert file.read_bytes() == whole


def test_kv_files_can_be_read_after_a_second_run(run):
    assert run("kv", "extract", "To be", "--out", "kv.json")[0] == 0
    assert run("kv", "extract", "or not", "--out", "kv.json", "--force")[0] == 0
    assert read_kv("kv.json").text == "or not"
    assert json.loads(Path("kv.json").read_text())["input_text"] == "or not"


@pytest.mark.parametrize(
    ("argv", "ending"),
    [
        (["trace", "x", "--out"], ".safetensors"),
        (["generate", "x", "--max-new-tokens", "1", "--out"], ".safetensors"),
        (["view", "x", "--no-open", "--out"], ".html"),
    ],
)
def test_a_name_that_says_another_kind_of_file(run, argv, ending):
    for name in ("t.txt", "t.html" if ending != ".html" else "t.safetensors", "t.npz", "t.png"):
        code, out, err = run(*argv, name)
        assert (code, out) == (2, "")
        assert f"{name}: the name must end in {ending}" in err
    assert os.listdir() == []
    assert run(*argv, "t")[0] == (2 if ending == ".html" else 0)
