"""Files of every kind given back to the command line: `info FILE`, and `--trace FILE` in place of a text."""

import json

import numpy as np
import pytest
from support.command_line import run

from gpt2np.analysis.interventions import zero

TEXT = "Elizabeth was"


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
        ["fixture", "--out", out("fx")],
    ):
        assert main(argv) == 0
    np.savez(folder / "dump.npz", logits=np.zeros((3, 2048), np.float32), a=np.zeros(3))
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
