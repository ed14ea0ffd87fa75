"""`--special`, and the note on texts whose special tokens are read as plain text."""

import json

import numpy as np
import pytest
from support.command_line import run

TEXT = "Hi<|endoftext|>"
NOTE = (
    "gpt2np: note: the text contains <|endoftext|>, which is read as 13 characters of plain text; "
    "--special makes it one token\n"
)


def argv_of(verb, folder):
    """A command that reads TEXT, and its `--special` output as JSON where there is one."""
    file = folder / "text.txt"
    file.write_text(TEXT)
    one, other = np.zeros((11, 192), np.float32), np.zeros((3, 192), np.float32)
    np.savez(folder / "dump.npz", wte=one, ln_f=other)  # one of them fits
    (folder / "ids.json").write_text("[39, 72, 2047]")
    return {
        "trace": ["trace", TEXT, "--json"],
        "trace --show": ["trace", TEXT, "--show", "h.0.ln_1", "--json"],
        "generate": ["generate", TEXT, "--max-new-tokens", 2, "--json"],
        "score": ["score", file, "--json"],
        "tokenize": ["tokenize", TEXT, "--json"],
        "lens": ["lens", TEXT, "--json"],
        "lens --heads": ["lens", TEXT, "--heads", "--json"],
        "heads": ["heads", TEXT, "--json"],
        "circuits": ["circuits", TEXT, "--json"],
        "circuits --head": ["circuits", TEXT, "--head", "0.0", "--json"],
        "circuits --neuron": ["circuits", TEXT, "--neuron", "0.0", "--json"],
        "stats": ["stats", TEXT, "--json"],
        "stats, generated": ["stats", TEXT, "--max-new-tokens", 2, "--json"],
        "patch": ["patch", TEXT, "Ho<|endoftext|>", "--answer", " a", "--wrong", " the", "--json"],
        "view": ["view", TEXT, "--no-open", "--out", folder / "page.html"],
        "view, generated": ["view", TEXT, "--max-new-tokens", 2, "--no-open", "--out", folder / "g.html"],
        "compare": ["compare", folder / "dump.npz", "--prompt", TEXT, "--json"],
        "kv extract": ["kv", "extract", TEXT, "--out", folder / "kv.json", "--json"],
        "kv dataset": ["kv", "dataset", "--prompts", "x", TEXT, "--output-dir", folder / "data", "--json"],
        "capture": ["capture", "--prompt", TEXT, "--experiment", "e", "--output", folder,
                    "--max-new-tokens", 2, "--json"],
        "export": ["export", TEXT, "--to", "llm.c", "-o", folder / "c", "--json"],
    }[verb]  # fmt: skip


VERBS = (
    "trace|trace --show|generate|score|tokenize|lens|lens --heads|heads|circuits|circuits --head|"
    "circuits --neuron|stats|stats, generated|patch|view|view, generated|compare|kv extract|kv dataset|"
    "capture|export"
).split("|")


@pytest.mark.every(2)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_takes_a_text(capsys, tmp_path, verb):
    argv = argv_of(verb, tmp_path)
    code, plain, err = run(capsys, *argv)
    assert code in ((0, 1) if verb == "compare" else (0,)), err
    assert err.count(NOTE) == 1
    if verb in ("kv dataset", "capture"):
        argv[argv.index(tmp_path / "data" if verb == "kv dataset" else tmp_path)] = tmp_path / "other"
    force = ["--force"] if verb in ("view", "view, generated", "kv extract", "export") else []
    code, special, err = run(capsys, *argv, *force, "--special")
    assert code in ((0, 1) if verb == "compare" else (0,)), err
    assert "note: the text contains" not in err
    if "--json" in argv and verb != "lens --heads":
        assert plain != special


def test_ids_and_quiet_texts_have_no_note(capsys):
    for argv in (
        ["tokenize", "--tokens", "39,2047"],
        ["trace", "Elizabeth was"],
        ["tokenize", TEXT, "--special"],
    ):
        code, _, err = run(capsys, *argv)
        assert code == 0
        assert "note" not in err


def test_one_token_of_three(capsys):
    _, out, _ = run(capsys, "tokenize", TEXT, "--special", "--json")
    assert json.loads(out)["token_ids"][-1] == 2047
    code, out, _ = run(capsys, "trace", TEXT, "--special", "--json")
    assert code == 0
    assert len(json.loads(out)["tokens"]) == 3


def test_ids_beyond_the_model_are_a_mistake(capsys):
    code, _, err = run(capsys, "tokenize", "--tokens", "39,2048")
    assert code == 2
    assert "token id 2048 is not one of 0 to 2047" in err
