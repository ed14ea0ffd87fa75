"""`gpt2np view`: what it writes and opens, and that wrong input is one line and leaves nothing behind."""

import json
import re

import pytest

from gpt2np.cli import main
from gpt2np.viewer import packing

TEXT = "Elizabeth was"
SAMPLED = "--max-new-tokens 5 --temperature 0.9 --top-k 20 --seed 3".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, and no browser."""
    opened = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    return opened


def facts_of(path):
    """What a page says."""
    return packing.unpack(re.search(r'id="data">([^<]*)<', path.read_text("utf-8"))[1])[0]


def test_a_text(tmp_path, capsys):
    assert main(["view", TEXT, "--no-open"]) == 0
    page = tmp_path / "gpt2np-view.html"
    assert [path.name for path in tmp_path.iterdir()] == [page.name]
    assert facts_of(page)["tokens"] == ["E", "lizabeth", " was"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"wrote {page.name}, {page.stat().st_size:,} bytes" in printed.err


def test_it_opens_the_page(tmp_path, capsys, here):
    assert main(["view", "--tokens", "36,1116", "--out", "x.html", "--json"]) == 0
    assert here == [(tmp_path / "x.html").as_uri()]
    assert json.loads(capsys.readouterr().out) == {
        "out": "x.html",
        "bytes": (tmp_path / "x.html").stat().st_size,
    }


def test_without_out_the_page_is_in_a_temporary_folder(tmp_path, monkeypatch, here):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["view", TEXT]) == 0
    assert re.fullmatch(rf"{tmp_path.as_uri()}/gpt2np-\w+/gpt2np-view\.html", here[0])


def test_a_saved_trace(tmp_path, tiny):
    tiny.trace(TEXT, out="t.safetensors")
    assert main(["view", "--trace", "t.safetensors", "--no-open", "--out", "x.html"]) == 0
    facts = facts_of(tmp_path / "x.html")
    assert facts["prompt"] == TEXT
    assert facts["missing"] == {}  # `tiny` is there, so that it needs no --model


def test_a_generation_made_and_a_saved_one_are_the_same_choices(tmp_path):
    assert main(["view", TEXT, *SAMPLED, "--no-open", "--out", "made.html"]) == 0
    made = facts_of(tmp_path / "made.html")["generation"]
    assert len(made["steps"]) == 5
    assert made["ledger"]
    assert main(["generate", TEXT, *SAMPLED, "--out", "g.safetensors", "--ledger", "g.jsonl"]) == 0
    saved = ["view", "--generation", "g.safetensors", "--no-open", "--out", "saved.html"]
    assert main([*saved, "--ledger", "g.jsonl"]) == 0
    assert facts_of(tmp_path / "saved.html")["generation"]["steps"] == made["steps"]
    assert main([*saved, "--force"]) == 0  # without its ledger: what was chosen, not why
    steps = facts_of(tmp_path / "saved.html")["generation"]["steps"]
    assert [step["id"] for step in steps] == [step["id"] for step in made["steps"]]  # the last one, too
    assert {step["removals"] for step in steps} == {None}


WRONG = [
    ([""], "the prompt is empty"),
    (["--tokens", "1,2,99999"], "99999 is not one of 0 to 2047"),
    (["Elizabeth was " * 200], "the context of this model holds 256"),
    ([TEXT, "--trace", "t.safetensors"], "one thing"),
    (["--trace", "none.safetensors"], "no such file"),
    (["--trace", "text.safetensors"], "is a text file"),
    (["--generation", "t.safetensors"], "not of a generation"),
    (["--trace", "t.safetensors", "--ledger", "x"], "belongs to --generation"),
    (["--trace", "t.safetensors", "--max-new-tokens", "3"], "leave it out"),
    (["--trace", "t.safetensors", "--model", "nowhere"], "nowhere"),
    (["t.safetensors"], "is shown by --trace t.safetensors"),
    ([TEXT, "--top-k", "5"], "needs --max-new-tokens"),
    ([TEXT, "--max-new-tokens", "0"], "at least 1"),
    ([TEXT, "--keep", "*"], "keeps every site"),
    ([TEXT, "--out", "/dev/null/x.html"], "cannot be written"),
    ([TEXT, "--out", "."], "cannot be written"),
    (["--trace", "part.safetensors"], "every position"),
]


@pytest.mark.parametrize(("argv", "said"), WRONG, ids=[" ".join(argv)[:40] for argv, _ in WRONG])
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, capsys, tiny, here, argv, said):
    (tmp_path / "text.safetensors").write_text("hello")
    tiny.trace(TEXT, out="t.safetensors")
    tiny.trace(TEXT, keep={"positions": slice(1, None)}, out="part.safetensors")
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(["view", *argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not re.match(r"gpt2np: (model|note)", line)]
    assert len(lines) == 1
    assert said in lines[0]
    assert sorted(tmp_path.rglob("*")) == before
    assert here == []


def test_a_page_of_a_comparison_is_written(tmp_path, tiny, capsys):
    tiny.trace(TEXT, out="t.safetensors")
    assert main(["compare", "t.safetensors", "--html", "report.html"]) == 0
    assert facts_of(tmp_path / "report.html")["said"] == "within noise"
