"""Ledgers read back: whole ones, and ones that somebody else wrote, or that are damaged."""

import json
import os

import numpy as np
import pytest
from support.breaking import message_of

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import InputError
from gpt2np.generation.ledger_file import read_ledger, with_ledger
from gpt2np.tracing.trace import Trace

OPTIONS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 1, "eos": None}


@pytest.fixture(scope="module")
def done(tiny):
    return tiny.generate("Elizabeth was", max_new_tokens=3, keep="logits", ledger="full", **OPTIONS).finish()


@pytest.fixture
def rows(done):
    return [json.loads(json.dumps(entry.to_json())) for entry in done.ledger]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_ledger_comes_back(done, rows, tmp_path):
    done.trace.save(tmp_path / "g.safetensors")
    path = write(tmp_path / "g.jsonl", rows)
    assert read_ledger(path, 2048) == done.ledger
    back = with_ledger(Trace.open(tmp_path / "g.safetensors", done.trace.model), path)
    assert (back.token_ids, back.tokens, back.ledger) == (done.token_ids, done.tokens, done.ledger)
    assert back.probabilities == done.probabilities
    path.write_text(path.read_text("utf-8").replace("\n", "\r\n\n"), "utf-8")  # of an editor
    assert read_ledger(path, 2048) == done.ledger


def test_a_ledger_without_logits_and_with_infinite_ones(tiny, tmp_path):
    short = tiny.generate("Elizabeth was", max_new_tokens=2, ledger=True, eos=None).finish().ledger
    assert read_ledger(write(tmp_path / "a", [entry.to_json() for entry in short]), 2048) == short
    row = short[0].to_json() | {"raw_logit": None, "raw_logits": [None] + [0.0] * 2047}
    assert read_ledger(write(tmp_path / "b", [row]), 2048)[0].raw_logit is None


# field of the first entry, and what it must not be
WRONG = {
    "step": (1, -1, 0.0, "0", None, True, 2**70),
    "token_id": (373.5, "a", -1, 2048, None, True, [1], 10**300),
    "probability": (-0.1, 1.5, "a", None, True, [0.5]),
    "raw_logit": ("a", [1.0], True, 10**300),
    "raw_rank": (1.5, -1, 2049, None, "0"),
    "removals": (5, None, [1], [{}], {}, [[]], [{"name": "top_k"}], "top_k"),
    "survivors": (-1, 1.5, "a", None),
    "entropy": (-1, "a", None, [1]),
    "top": ([[1]], 5, [["a", 1.0]], [[1, "a"]], [[1, 2.0]], [[1, 0.5, 0.5]], [[2048, 0.5]], "a"),
    "uniform": ("a", -0.5, 1.5, [0.5], True),
    "interval": (5, [0.1], ["a", "b"], [0.1, None], [0.1, 0.2, 0.3], {"a": 1}),
    "sampling": (5, None, [], {"temperatur": 1}, {"temperature": "warm"}, {"top_k": [1]}),
    "prompt_ids": (5, "a", [1.5], [-1], [2048], [None]),
    "raw_logits": (5, [0.0], ["a"] * 2048, [[0.0]] * 2048, [True] * 2048),
}  # fmt: skip
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name} {value!r:.30}" for name, value in CASES])
def test_a_field_of_another_kind(rows, tmp_path, name, value):
    path = write(tmp_path / "g.jsonl", [rows[0] | {name: value}, *rows[1:]])
    with pytest.raises(InputError) as caught:
        read_ledger(path, 2048)
    message_of(caught.value, InputError, f"{path}: line 1: {name}")


def test_a_field_too_few_or_too_many(rows, tmp_path):
    for name in rows[0]:
        path = write(tmp_path / "g.jsonl", [rows[0], {k: v for k, v in rows[1].items() if k != name}])
        with pytest.raises(InputError, match=f"line 2: {name} is missing, expected "):
            read_ledger(path, 2048)
    for name in ("new", "\x1b[31m"):
        path = write(tmp_path / "g.jsonl", [rows[0] | {name: 1}])
        with pytest.raises(InputError) as caught:
            read_ledger(path, 2048)
        message_of(caught.value, InputError, "line 1: ", "is no field of it")


def test_options_that_generate_refuses_are_refused_here(rows, tmp_path):
    for wrong in ({"top_p": 2.0}, {"temperature": -1}, {"num_beams": 0}):
        path = write(tmp_path / "g.jsonl", [rows[0] | {"sampling": rows[0]["sampling"] | wrong}])
        with pytest.raises(InputError, match=f"line 1: sampling: {next(iter(wrong))}="):
            read_ledger(path, 2048)


LINES = {
    "deep": (b"[" * 100_000, "is not a ledger"),
    "deep in an object": (b'{"a":' * 100_000, "line 1: is not JSON"),
    "no JSON": (b"hello", "it is a text file"),
    "cut short": (b'{"step": 0, "token', "line 1: is not JSON"),
    "NaN": (b'{"step": NaN}', "NaN is not a number of JSON"),
    "1e400": (b'{"step": 1e400}', "line 1: is not JSON"),
    "5,000 digits": (b'{"step": ' + b"9" * 5000 + b"}", "line 1: is not JSON"),
    "half a surrogate pair": (b'{"step": "\\ud800"}', "half a surrogate pair"),
    "half of one in a name": (b'{"\\udfff": 1}', "half a surrogate pair"),
    "not UTF-8": (b'{"step": "caf\xe9"}', "byte 0xe9 at 13 is not UTF-8"),
    "a key twice": (b'{"step": 0, "step": 0}', "'step' appears twice"),
    "a list": (b"[1, 2]", "it is a JSON file"),
    "a number": (b"5", "is not a ledger"),
    "nothing": (b"", "it is empty"),
    "lines without anything": (b"\n\n\r\n", "it is empty"),
    "another program's": (b"\x89PNG\r\n\x1a\n\0\0", "it is a PNG picture"),
}


@pytest.mark.parametrize(("content", "part"), LINES.values(), ids=LINES)
def test_what_is_no_ledger(tmp_path, content, part):
    path = tmp_path / "g.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_ledger(path, 2048)
    message_of(caught.value, InputError, str(path), part)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, part in (
        (tmp_path / "none", "no such file"), (tmp_path, "folder"), (tmp_path / "pipe", "pipe"),
        ("/dev/zero", "device"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=part):
            read_ledger(path, 2048)


def test_the_ledger_of_another_generation(tiny, done, rows, tmp_path):
    done.trace.save(tmp_path / "g.safetensors")
    trace = Trace.open(tmp_path / "g.safetensors", tiny)
    fewer, more = rows[:-1], [*rows, rows[-1] | {"step": len(rows)}]
    swapped = [rows[0], rows[1] | {"token_id": (rows[1]["token_id"] + 1) % 2048}, *rows[2:]]
    prompt = [rows[0] | {"prompt_ids": [1, 2]}, *rows[1:]]
    for wrong in (fewer, more, swapped, prompt):
        with pytest.raises(InputError, match="ledger of another generation"):
            with_ledger(trace, write(tmp_path / "g.jsonl", wrong))
    with pytest.raises(InputError, match="not of a generation"):
        with_ledger(tiny.trace("Elizabeth was"), write(tmp_path / "g.jsonl", rows))


def test_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = [
        "generate",
        "Elizabeth was",
        "--max-new-tokens",
        "2",
        "--out",
        "g.safetensors",
        "--ledger",
        "g.jsonl",
    ]
    view = ["view", "--generation", "g.safetensors", "--ledger", "g.jsonl", "--no-open", "--out", "v.html"]
    assert main(done) == 0
    assert main(view) == 0
    rows = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text("utf-8").splitlines()]
    write(tmp_path / "g.jsonl", [rows[0] | {"top": [[1]]}, rows[1]])
    os.remove("v.html")
    capsys.readouterr()
    assert main(view) == 2
    assert "g.jsonl: line 1: top is [[1]], expected a list, each item " in capsys.readouterr().err
    assert not (tmp_path / "v.html").exists()
    assert np.isfinite(gpt2np.Trace.open("g.safetensors")["logits"]).all()
