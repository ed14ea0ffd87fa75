"""Results on a terminal of 60 columns: no line is longer, and nothing is lost."""

import json

import pytest
from support.command_line import run

from gpt2np.tables import cell_width, fitted, table, wrapped

LONG = "To be, or not to be: that is the question. "
COMMANDS = [
    ["trace", LONG],
    ["trace", "日本語 🙂 naïve “quotes”"],
    ["trace", LONG, "--against", "To do, or not to do"],
    ["trace", "Elizabeth was", "--show", "h.1.mlp.post", "--show", "attention_weights"],
    ["trace", LONG, "--show", "h.0.attn.scores"],
    ["heads", LONG],
    ["heads", LONG, "--against", "!"],
    ["lens", LONG, "--pos", "all"],
    ["lens", LONG, "--heads"],
    ["circuits"],
    ["circuits", "--head", "1.2"],
    ["circuits", "Elizabeth was", "--head", "1.2"],
    ["circuits", LONG],
    ["circuits", "--neuron", "1.5"],
    ["circuits", "--composition", "k"],
    ["circuits", "--overlap", "q"],
    ["circuits", "--interference"],
    ["circuits", "--parameters"],
    ["circuits", "--norms"],
    ["circuits", "--norms", "h.0.ln_1"],
    ["circuits", "--head", "1.2", "--weights"],
    ["stats", "Elizabeth was", "--max-new-tokens", "3"],
    ["patch", "Elizabeth was very", "Elizabeth had very", "--answer", " much", "--wrong", " good"],
    ["patch", LONG, LONG.replace("not", "do"), "--answer", "2", "--wrong", "5", "--over", "resid_post"],
    ["tokenize", LONG, "--merges"],
    ["sites"],
    ["plan", "1", "10", "100", "200"],
    ["capture", "--list"],
]


@pytest.mark.every(2)
@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:40])
def test_no_line_is_longer_than_the_terminal(capsys, monkeypatch, argv):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run(capsys, *argv)
    assert code == 0
    too_long = [line for line in out.splitlines() if cell_width(line) > 60]
    assert not too_long
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(cell_width, run(capsys, *argv)[1].splitlines())) <= 80


def test_a_table_that_is_too_wide_is_cut_between_columns(monkeypatch):
    rows = [["name", *(f"column {i}" for i in range(9))], *([f"n{i}", *["0.123"] * 9] for i in range(3))]
    monkeypatch.setenv("COLUMNS", "50")
    parts = fitted(rows, "<" + ">" * 9).split("\n\n")
    assert len(parts) == 3
    assert [part.split()[0] for part in parts] == ["name"] * 3
    assert [len(part.splitlines()) for part in parts] == [4] * 3
    assert sum(part.count("0.123") for part in parts) == 27
    monkeypatch.setenv("COLUMNS", "200")
    assert fitted(rows[:2], "<" + ">" * 9).count("\n\n") == 1  # a page is at most 80 wide
    assert fitted([row[:4] for row in rows], "<>>>") == table([row[:4] for row in rows], "<>>>")


@pytest.mark.parametrize(("columns", "widest"), [("10", 40), ("60", 60), ("100", 80), ("wide", 80)])
def test_sentences_are_as_wide_as_the_terminal(monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    lines = wrapped(" ".join(["word"] * 100)).splitlines()
    assert widest - 5 < max(map(len, lines)) <= widest


def test_json_does_not_depend_on_the_terminal(capsys, monkeypatch):
    outs = []
    for columns in ("60", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        outs.append(json.loads(run(capsys, "trace", "Elizabeth was", "--json")[1]))
    assert outs[0] == outs[1]
