"""Damaged files of every kind: each is refused by one line of ours, or gives an answer that is right.

`pytest tests/mutation --mutations 1000 --mutation-seed 7` makes other tries. What fails names its kind, seed
and number, which become a row of `FOUND`; `CASES` are damages of which each was a mistake once.
"""

import io
import json
import math
import warnings

import numpy as np
import pytest
from support import tiny_checkpoint as tiny
from support.file_mutators import zipped
from support.mutated_files import KINDS, Folder

# Tries that failed once: kind, seed, number.
FOUND: list[tuple[str, int, int]] = [("ledger_trace", 538863934, 18), ("tokenizer_json", 11, 83)]


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def tries_of(config, name):
    """How many of all the tries are of this kind."""
    total = config.getoption("--mutations") or (20_000 if config.getoption("--slow") else 2_000)
    return math.ceil(total * KINDS[name].share / sum(kind.share for kind in KINDS.values()))


def attempted(folder, name, seed, numbers):
    """These tries; how many were refused. Fails with every one that ended otherwise, as a row of `FOUND`."""
    refused, wrong = 0, []
    for number in numbers:
        file, content, chance = folder.chosen(name, seed, number)
        try:
            refused += folder.attempt(file, content, chance)
        except Exception as error:
            row = f'("{name}", {seed}, {number})'
            wrong.append(f"{row}: {file}: {type(error).__name__}: {error}"[:1000])
    if wrong:
        pytest.fail("\n".join(wrong[:10]))
    return refused


@pytest.fixture
def folder(tmp_path, request):
    name = request.node.callspec.params["name"]
    return Folder(KINDS[name], tmp_path / "files")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about numbers that no model has
        yield


@pytest.mark.every(2)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_right(request, folder, name):
    seed = request.config.getoption("--mutation-seed")
    n = tries_of(request.config, name)
    refused = attempted(folder, name, seed, range(n))
    assert n < 20 or not KINDS[name].refuses or refused > n / 10


def test_tries_that_failed_once(tmp_path):
    for i, (name, seed, number) in enumerate(FOUND):
        attempted(Folder(KINDS[name], tmp_path / str(i)), name, seed, [number])


# -- damages that were mistakes once ----------------------------------------------------------------------


def lines(change):
    """The first entry of a file of JSON lines, changed by a function."""

    def edit(file):
        rows = [json.loads(line) for line in file.splitlines()]
        change(next(row for row in rows if "schema" not in row))
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    return edit


def metadata(**changes):
    """What a saved trace says of itself, changed."""

    def edit(file):
        header, data = tiny.split(file)
        said = json.loads(header["__metadata__"]["gpt2np"]) | changes
        return tiny.join(header | {"__metadata__": {"gpt2np": json.dumps(said)}}, data)

    return edit


def member(name, content):
    """One entry of a zip file instead of all."""
    return lambda file: zipped([(name, content)])


CODE = b"\x93NUMPY\x01\x00" + (54).to_bytes(2, "little") + b"(" * 54
ARRAY = npy(np.ones((9, 9)))
CASES = {
    "top of one number": ("ledger", "g.jsonl", lines(lambda row: row.update(top=[[1]]))),
    "top of a text": ("ledger", "g.jsonl", lines(lambda row: row.update(top=[["a", 1.0]]))),
    "top a number": ("ledger", "g.jsonl", lines(lambda row: row.update(top=5))),
    "removals a number": ("ledger", "g.jsonl", lines(lambda row: row.update(removals=5))),
    "a probability of text": ("ledger", "g.jsonl", lines(lambda row: row.update(probability="a"))),
    "a raw logit of text": ("ledger", "g.jsonl", lines(lambda row: row.update(raw_logit="a"))),
    "half an id": ("ledger", "g.jsonl", lines(lambda row: row.update(token_id=373.5))),
    "an infinite id": ("ledger", "g.jsonl", lambda file: file.replace(b'"token_id": ', b'"token_id": 1e400')),
    "a deep ledger": ("ledger", "g.jsonl", lambda file: b"[" * 100_000),
    "half a surrogate pair": ("ledger", "g.jsonl", lambda file: file.replace(b'"top_k"', b'"\\ud800"', 1)),
    "an unknown key": ("ledger", "g.jsonl", lambda file: file.replace(b'"entropy"', b'"\\u001b[31m"', 1)),
    "n_prompt of text": ("ledger_trace", "t.safetensors", metadata(n_prompt="2")),
    "n_prompt of a half": ("ledger_trace", "t.safetensors", metadata(n_prompt=1.5)),
    "an index without tokens": ("kv_index", "index.jsonl", lines(lambda row: row.pop("tokens"))),
    "an index without a text": ("kv_index", "index.jsonl", lines(lambda row: row.pop("input_text"))),
    "tokens of text": ("kv_index", "index.jsonl", lines(lambda row: row.update(tokens=[]))),
    "an index of numbers": ("kv_index", "index.jsonl", lines(lambda row: row.update(predicted_next_token=5))),
    "a header that is no Python": ("dialect_file", "hf.npz", member("gpt2np.npy", CODE)),
    "a commit that is NaN": ("cli_stats_export", "t.safetensors", metadata(commit=float("nan"))),
    "half a pair for a token": ("cli_stats_export", "t.safetensors", metadata(tokens=["\ud800", "b", "c"])),
    "edits that are a number": ("saved_trace", "t.safetensors", metadata(edits=5)),
    "nothing that fits": ("dump_npz", "d.npz", member("h.0.attn.pattern.npy", ARRAY)),
    "a name of another colour": ("dump_npz", "d.npz", member("\x1b[31mname\x07.npy", ARRAY)),
    "flags": ("dump_npz", "d.npz", member("embed.npy", npy(np.ones((5, 8), bool)))),
    "a manifest of colours": (
        "manifest", "manifest.jsonl", lines(lambda row: row["options"].update(max_new_tokens="\x1b[31m")),
    ),
    "a manifest of another id": ("manifest", "manifest.jsonl", lines(lambda row: row.update(id=2))),
    "a manifest of a long text": (
        "manifest", "manifest.jsonl", lines(lambda row: row["model"].update(dtype="x" * 20_000)),
    ),
    "a long schema": ("kv_index", "index.jsonl", lambda file: file.replace(b"gpt2np", b"x" * 20_000)),
    "no fingerprint": ("kv_index", "index.jsonl", lambda file: file.replace(b'"fingerprint"', b'"finger"')),
    "an entry with ends of lines": ("manifest", "manifest.jsonl", lines(lambda row: row.update(path="a\nb"))),
    "integers": (
        "capture_file", "c.safetensors",
        lambda file: file.replace(b'"F32"', b'"I32"'),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "file", "edit"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("chance", [0.1, 0.9])  # what is done with the files
def test_damage_that_was_a_mistake_once(folder, name, file, edit, chance):
    good = folder.good[folder.path / file]
    assert edit(good) != good
    folder.attempt(file, edit(good), chance)
