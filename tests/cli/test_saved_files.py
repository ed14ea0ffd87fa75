"""Files of every kind given back to the command line: `info FILE`, and `--trace FILE` in place of a text."""

import json
import pkgutil
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.command_line import run

import gpt2np
from gpt2np.analysis.interventions import zero
from gpt2np.errors import TraceError
from gpt2np.tracing.trace import Trace

TEXT = "Elizabeth was"


def torch_file(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    from gpt2np.cli import main

    out = lambda name: str(folder / name)  # noqa: E731
    for argv in (
        ["trace", TEXT, "--out", out("t.safetensors")],
        ["trace", TEXT, "--keep", "attn.pattern", "--out", out("some.safetensors")],
        [
            "generate",
            TEXT,
            "--max-new-tokens",
            "3",
            "--out",
            out("g.safetensors"),
            "--ledger",
            out("g.jsonl"),
        ],
        ["kv", "extract", TEXT, "--out", out("kv.json")],
        ["kv", "extract", TEXT, "--out", out("kv.safetensors")],
        ["kv", "dataset", "--prompts", TEXT, "Hello", "--output-dir", out("kvs")],
        ["capture", "--prompt", TEXT, "--experiment", "e", "--output", str(folder), "--max-new-tokens", "2"],
        [*"capture --experiment pt --format pt --max-new-tokens 2 --prompt Hi --output".split(), str(folder)],
        ["export", TEXT, "--to", "npz", "--dialect", "hf", "--out", out("hf.npz")],
        ["export", TEXT, "--to", "safetensors", "--dialect", "guide", "--out", out("guide.safetensors")],
        ["export", TEXT, "--to", "npz", "--out", out("own.npz")],
        ["export", TEXT, "--to", "json", "--out", out("own.json")],
        ["fixture", "--out", out("fx")],
    ):
        assert main(argv) == 0
    np.savez(folder / "dump.npz", logits=np.zeros((3, 2048), np.float32), a=np.zeros(3))
    tiny = gpt2np.load("tiny")
    tiny.trace([TEXT, "Hello"], out=folder / "traces")
    (folder / "page.html").write_text("<!doctype html><title>404</title>")
    (folder / "text.txt").write_text("Elizabeth was\n")
    (folder / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    torch_file(folder / "a.pt")
    (folder / "npy").mkdir()
    np.save(folder / "npy/x.npy", np.zeros((2, 3)))
    return folder


KINDS = {
    "t.safetensors": ("the trace of a text", TEXT, 53),
    "some.safetensors": ("the trace of a text", TEXT, 4),
    "g.safetensors": ("the trace of a generation", "stopped by", 53),
    "g.jsonl": ("the ledger of a generation", "entries  3", None),
    "kv.json": ("a KV file", "predicted next token  | not|", None),
    "kv.safetensors": ("a KV file", "| not|", 8),
    "kvs": ("a folder of KV files", "entries  2", None),
    "kvs/index.jsonl": ("a folder of KV files", "entries  2", None),
    "e": ("an experiment of captures", "entries  1", None),
    "e/inference/raw/residual/prompt/1.safetensors": ("a capture", TEXT, 36),
    "pt/inference/raw/residual/prompt/1.pt": ("a capture", "Hi", 36),
    "hf.npz": ("the trace of a text", TEXT, None),
    "guide.safetensors": ("the trace of a text", TEXT, None),
    "fx/model.safetensors": ("the weights of a model", "gpt2np info --model", 28),
    "fx/trace.safetensors": ("the trace of a text", "--trace", None),
    "traces": ("a folder of traces", "entries  2", None),
    "traces/index.jsonl": ("a folder of traces", "entries  2", None),
    "": ("a folder", "hf.npz", None),
    "dump.npz": ("arrays of another program (npz)", "gpt2np compare", 2),
    "npy": ("arrays of another program (npy folder)", "gpt2np compare", 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_info_tells_what_a_file_is(capsys, folder, name):
    kind, words, n_arrays = KINDS[name]
    code, out, err = run(capsys, "info", folder / name)
    assert (code, err) == (0, "")
    assert kind in out
    assert words in out
    code, out, _ = run(capsys, "info", folder / name, "--json")
    facts = json.loads(out)
    assert facts["kind"] == kind
    if n_arrays is not None:
        assert len(facts["arrays"]) == n_arrays


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere.npz"], "no such file"),
        (["fx/config.json"], "gpt2np info --model fx"),
        (["fx/README.txt"], "README.txt"),
        (["p.png"], "p.png: is a PNG picture"),
        (["fx/fixture.json"], "fixture.json"),
        (["t.safetensors", "--model", "tiny"], "--model is of a model"),
        (["tiny", "--model", "tiny"], "not both"),
        (["t.safetensors", "--hash"], "--hash is of a model"),
    ],
)
def test_info_of_what_is_none(capsys, folder, monkeypatch, argv, words):
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, "info", *argv)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "dialect"), [("hf.npz", "hf"), ("guide.safetensors", "guide")])
def test_info_tells_the_names_that_are_in_the_file(capsys, folder, name, dialect):
    facts = json.loads(run(capsys, "info", folder / name, "--json")[1])
    file = np.load(folder / name) if name.endswith("npz") else safetensors.numpy.load_file(folder / name)
    there = {name: [list(file[name].shape), file[name].dtype.name] for name in file if name != "gpt2np"}
    assert facts["names_of"] == dialect
    assert {a["name"]: [a["shape"], a["dtype"]] for a in facts["arrays"]} == there
    assert f"names of     {dialect}" in run(capsys, "info", folder / name)[1]
    assert "names_of" not in json.loads(run(capsys, "info", folder / "own.npz", "--json")[1])


@pytest.mark.parametrize("argv", [["trace"], ["stats"], ["heads"]], ids=" ".join)
def test_an_export_is_taken_as_the_trace_that_it_is(capsys, folder, argv):
    assert run(capsys, *argv, "--trace", folder / "own.npz")[:2] == run(capsys, *argv, TEXT)[:2]
    for name in ("hf.npz", "guide.safetensors"):
        show = ["trace", "--show", "h.1.attn.pattern", "--json"]
        assert run(capsys, *show, "--trace", folder / name)[:2] == run(capsys, *show, TEXT)[:2]


NO_TRACES = {
    "own.json": "is a trace as JSON, no .safetensors file",
    "page.html": "is a web page, no",
    "text.txt": "is a text file, no",
    "p.png": "is a PNG picture, no",
    "g.jsonl": "is the ledger of a generation, no",
    "kv.json": "is a KV file in JSON, no",
    "kvs/index.jsonl": "is the index of a folder of KV files, no",
    "a.pt": "is what torch.save writes, no .npz file",
    "dump.npz": "is not a trace",
    "kvs": "expected a file, found a folder",
    "e/inference/raw/residual/prompt/1.safetensors": "is not a trace (its schema is 'gpt2np.capture/1')",
}


@pytest.mark.parametrize("name", NO_TRACES)
def test_what_is_given_as_a_trace_and_is_none(capsys, folder, name):
    with pytest.raises(TraceError, match=re.escape(f"{folder / name}: {NO_TRACES[name]}")):
        Trace.open(folder / name)
    code, out, err = run(capsys, "trace", "--trace", folder / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert NO_TRACES[name] in err


def test_every_path_of_ours_that_a_command_names_can_be_imported():
    texts = [path.read_text("utf-8") for path in (Path(gpt2np.__file__).parent / "cli").rglob("*.py")]
    called = {name for text in texts for name in re.findall(r"[\"` (](gpt2np(?:\.[a-z_0-9]+)+)", text)}
    schemas = {f"gpt2np.{name}" for name in ("trace", "traces", "dialect", "kv_dataset", "captured")}
    assert "gpt2np.capture.capture_files.load_capture" in called
    for name in called - schemas:
        assert pkgutil.resolve_name(name)


@pytest.mark.parametrize(
    "argv", [["trace"], ["view", "--no-open", "--out", "v.html"], ["lens"]], ids=" ".join
)
def test_a_text_that_is_the_name_of_a_file_is_run_and_said(capsys, folder, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Hello")
    code, _, err = run(capsys, *argv, "text.txt")
    assert code == 0
    assert "note: text.txt is run as a text; - < text.txt instead" in err


@pytest.mark.parametrize("more", [[], ["--keep", "attn.z"]])
def test_export_of_a_text_file_says_so(capsys, folder, tmp_path, more):
    code, _, err = run(
        capsys, "export", folder / "text.txt", "--to", "npz", "--out", tmp_path / "x.npz", *more
    )
    assert code == 2
    assert "text.txt: is a text file, no saved trace; its text is run by: gpt2np export - <" in err


def test_info_of_a_kv_file_says_what_is_in_it(capsys, folder, tmp_path):
    content = json.loads((folder / "kv.json").read_text())
    for name in ("schema", "input_token_ids", "fingerprint", "digest"):
        del content[name]
    (tmp_path / "foreign.json").write_text(json.dumps(content))
    for argv in (["info", tmp_path / "foreign.json"], ["kv", "query", tmp_path / "foreign.json", "--info"]):
        facts = json.loads(run(capsys, *argv, "--json")[1])
        facts = facts.get("info", facts)
        assert not facts.keys() & {"schema", "input_token_ids", "fingerprint", "digest"}
        assert facts["input_tokens"] == content["input_tokens"]


@pytest.mark.parametrize("name", ["kv.json", "kv.safetensors"])
@pytest.mark.parametrize("verb", ["info", "kv query"])
def test_a_changed_key_is_found_by_the_digest(capsys, folder, tmp_path, name, verb):
    if name == "kv.json":
        content = json.loads((folder / name).read_text())
        content["kv_cache"]["layer_1"]["head_0"]["tokens"][1]["key"][3] += 1
        (tmp_path / name).write_text(json.dumps(content))
    else:
        content = bytearray((folder / name).read_bytes())
        content[-4:] = b"\0\0\0\0"
        (tmp_path / name).write_bytes(content)
    argv = [*verb.split(), tmp_path / name] + (["--info"] if verb == "kv query" else [])
    code, out, err = run(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is damaged: its token ids, keys and values are not those of its digest" in err


def test_show_of_a_site_that_one_layer_kept(capsys, tmp_path):
    run(capsys, "trace", TEXT, "--keep", "h.2.resid_post", "--out", tmp_path / "t.safetensors")
    err = run(capsys, "trace", "--trace", tmp_path / "t.safetensors", "--show", "resid_post")[2]
    assert "there are h.2.resid_post" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["view", "--generation", "g.safetensors", "--ledger", "g.safetensors"], "is not a ledger"),
        (["view", "--generation", "g.safetensors", "--ledger", "p.png"], "it is a PNG picture"),
        (["view", TEXT, "--no-open", "--out", "page2"], "page2: the name must end in .html"),
        (["score", "some text"], "some text: no such file; score - reads a text from stdin"),
        (["export", TEXT, "--to", "npz", "--out", "x.json"], "x.json: the name says another kind of file"),
        (
            ["kv", "dataset", "--text-file", "long.txt", "--output-dir", "new"],
            "long.txt: line 3 has 300 tokens",
        ),
        (["kv", "dataset", "--text-file", "long.jsonl", "--output-dir", "new"], "long.jsonl: line 2 has 300"),
        (["kv", "dataset", "--text-file", "none.json", "--output-dir", "new"], "a 'text' (or 'prompt')"),
    ],
)
def test_files_and_names_of_another_kind(capsys, folder, monkeypatch, argv, words):
    (folder / "long.txt").write_text("Hello\n\n" + " the" * 300)
    (folder / "long.jsonl").write_text('"Hello"\n' + json.dumps({"prompt": " the" * 300}))
    (folder / "none.json").write_text('[{"note": "x"}]')
    monkeypatch.chdir(folder)
    code, out, err = run(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_info_of_damaged_files(capsys, folder, tmp_path):
    for name in ("t.safetensors", "kv.json", "hf.npz", "g.jsonl"):
        content = (folder / name).read_bytes()
        for cut in (0, 1, 9, 100, len(content) // 2):
            (tmp_path / name).write_bytes(content[:cut])
            code, out, err = run(capsys, "info", tmp_path / name)
            assert (code, out, err.count("\n")) == (2, "", 1) or (cut == 0 and name == "g.jsonl")


def test_info_takes_a_model_as_it_stands(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run(capsys, "info", "tiny")[1] == run(capsys, "info")[1]
    assert run(capsys, "info", "fx")[1] == run(capsys, "info", "--model", "fx")[1]


SAVED = [
    ["trace"],
    ["trace", "--json"],
    ["trace", "--show", "attention_weights", "--head", "0"],
    ["trace", "--show", "top_k_tokens", "--top", "3"],
    ["heads"],
    ["lens"],
    ["circuits"],
    ["circuits", "--head", "1.2"],
    ["circuits", "--neuron", "1.5", "--json"],
    ["stats"],
]


@pytest.mark.parametrize("argv", SAVED, ids=" ".join)
def test_a_saved_trace_says_what_the_text_does(capsys, folder, argv):
    verb, *options = argv
    saved = run(capsys, verb, "--trace", folder / "t.safetensors", *options)
    ran = run(capsys, verb, TEXT, *options)
    assert saved[0] == ran[0] == 0
    assert saved[1] == ran[1]


def test_patch_takes_the_saved_trace_of_the_clean_text(capsys, tmp_path):
    clean, corrupt = "Elizabeth was very", "Elizabeth had very"
    run(capsys, "trace", clean, "--out", tmp_path / "c.safetensors")
    answers = ["--answer", " much", "--wrong", " good"]
    saved = run(capsys, "patch", "--trace", tmp_path / "c.safetensors", corrupt, *answers)
    assert saved[0] == 0
    assert saved[1] == run(capsys, "patch", clean, corrupt, *answers)[1]
    for argv in ([clean], [clean, corrupt, "--trace", tmp_path / "c.safetensors"]):
        code, out, err = run(capsys, "patch", *argv, *answers)
        assert (code, out) == (2, "")
        assert "CORRUPT" in err


def test_a_trace_that_kept_little_is_shown_as_far_as_it_goes(capsys, folder):
    code, out, err = run(capsys, "trace", "--trace", folder / "some.safetensors")
    assert code == 0
    assert "attn.pattern" in out
    assert "next token" not in out
    assert "not told what each layer would predict" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trace", TEXT], "not both"),
        (["trace", "--keep", "ln_f"], "--keep needs a prompt"),
        (["trace", "--out", "x.safetensors"], "--out needs a prompt"),
        (["trace", "--against", "x"], "--against needs a prompt"),
        (["circuits", TEXT], "not both"),
        (["circuits", "--composition", "k"], "it takes no text"),
        (["trace", "--show", "mlp.post"], "was not kept"),
    ],
)
def test_what_does_not_go_with_a_saved_trace(capsys, folder, argv, words):
    code, out, err = run(capsys, *argv, "--trace", folder / "some.safetensors")
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("verb", ["trace", "lens", "heads", "stats", "circuits", "info"])
def test_an_edited_run_is_not_shown_as_the_models_own(capsys, tmp_path, tiny, verb):
    path = tmp_path / "edited.safetensors"
    tiny.trace(TEXT, edits={"h.0.attn.z": zero(heads=0)}).save(path)
    code, out, err = run(capsys, verb, *([path] if verb == "info" else ["--trace", path]))
    assert code == 0
    assert "h.0.attn.z (zero heads=0)" in (out if verb == "info" else err)
