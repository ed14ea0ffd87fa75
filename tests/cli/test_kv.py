"""`gpt2np kv`: document 003's command lines, questions to files, datasets that survive being killed."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support import command_line

import gpt2np
from gpt2np.cli import main
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.kv.datasets import Source, write_dataset
from gpt2np.kv.extraction import SAMPLE_PROMPTS
from gpt2np.kv.queries import write_csv
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv
from gpt2np.tables import cell_width

TEXT = "The quick brown fox jumps over the lazy dog"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)


def run(capsys, *argv):
    return command_line.run(capsys, "kv", *argv)


def facts(capsys, *argv):
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=["data/kv_cache_output.json", "data/kv.safetensors", "data/trace.safetensors"])
def file(request, tiny, capsys):
    """The same text in each kind of file."""
    Path("data").mkdir()
    if "trace" in request.param:
        tiny.trace(TEXT, keep=["attn.qkv", "logits"], out=request.param)
    else:
        assert run(capsys, "extract", TEXT, "--out", request.param)[0] == 0
    return request.param


# -- extract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kv.json", "kv.safetensors"])
def test_extract(capsys, tiny, name):
    code, out, err = run(capsys, "extract", "Elizabeth was", "--out", name, "--top", "3")
    assert code == 0
    assert err == ""
    assert name in out
    assert out.count("%") == 3
    kv, trace = read_kv(name), tiny.trace("Elizabeth was", keep="attn.qkv")
    assert kv.prediction["token"] == trace.top(1)[0][0]
    assert len(kv.prediction["top_k_candidates"]) == 3
    for layer, (keys, values) in enumerate(kv.layers):
        assert keys.tobytes() == np.ascontiguousarray(trace[f"h.{layer}.attn.k"]).tobytes()
        assert values.tobytes() == np.ascontiguousarray(trace[f"h.{layer}.attn.v"]).tobytes()
    assert load_kv(name, tiny).generate(max_new_tokens=2).finish().text.startswith("Elizabeth was")


def test_extract_as_json_from_ids_and_from_stdin(capsys, monkeypatch):
    found = facts(capsys, "extract", "--tokens", "5,6,7", "--out", "a.json")
    assert found["input_token_ids"] == [5, 6, 7]
    assert found["bytes"] == Path("a.json").stat().st_size
    monkeypatch.setattr("sys.stdin", io.StringIO("Elizabeth was"))
    assert facts(capsys, "extract", "-", "--out", "a.safetensors")["input_text"] == "Elizabeth was"


def test_extract_without_a_text_says_which(capsys):
    _, out, err = run(capsys, "extract")
    assert read_kv("data/kv_cache_output.json").text == TEXT
    assert "no TEXT" in err
    assert str(SAMPLE_PROMPTS) in err
    assert TEXT in out


@pytest.mark.parametrize("name", ["new/kv.json", "new/kv.safetensors"])
@pytest.mark.parametrize("keep", ["*", "attn.qkv", ["attn.k", "attn.v"]], ids=str)
def test_extract_of_a_saved_generation(capsys, tiny, name, keep):
    done = tiny.generate("Elizabeth was", max_new_tokens=5, keep=keep).finish()
    done.trace.save("g.safetensors")
    code, out, err = run(capsys, "extract", "--trace", "g.safetensors", "--out", name)
    assert code == 0, err
    kv = read_kv(name)
    assert kv.token_ids == done.token_ids[:-1]
    assert kv.text == tiny.decode(kv.token_ids) == load_kv(name, tiny).kv.text
    for layer, (keys, values) in enumerate(kv.layers):
        for part, array in (("k", keys), ("v", values)):
            assert np.array_equal(array, done.trace[f"h.{layer}.attn.{part}"])
    if keep == "*":
        assert kv.prediction["token_id"] == done.token_ids[-1]
        assert f"|{done.tokens[-1]}|" in out
    else:
        assert kv.prediction is None
        assert "not in this file" in out
    more = load_kv(name, tiny).generate(max_new_tokens=3).finish()
    assert more.token_ids == tiny.generate("Elizabeth was", max_new_tokens=8).finish().token_ids[: 5 + 5]


def test_extract_of_a_text_or_an_edited_run(capsys, tiny):
    tiny.trace("Elizabeth was").save("t.safetensors")
    assert run(capsys, "extract", "--trace", "t.safetensors", "--out", "a.json")[0] == 0
    assert run(capsys, "extract", "Elizabeth was", "--out", "b.json")[0] == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    tiny.trace("Elizabeth was", edits={"h.0.mlp.out": lambda x: 0 * x}).save("e.safetensors")
    assert run(capsys, "extract", "--trace", "e.safetensors", "--out", "c.json")[0] == 0
    with pytest.raises(gpt2np.Gpt2npError, match="is damaged, or of another model"):
        load_kv("c.json", tiny)


# -- query --------------------------------------------------------------------------------------------


def test_info(capsys, file, tiny):
    code, out, err = run(capsys, "query", file, "--info")
    assert (code, err) == (0, "")
    assert f"|{TEXT}|" in out
    assert "4 layers, 4 heads, d_head 48" in out
    found = facts(capsys, "query", file, "--info")["info"]
    assert found["metadata"] == {"n_layers": 4, "n_heads": 4, "d_head": 48, "sequence_length": 17}
    assert found["input_token_ids"] == tiny.tokenizer.encode(TEXT)
    if "trace" in file:
        assert "not in this file" in out
    else:
        assert found["predicted_next_token"]["token"] == tiny.trace(TEXT).top(1)[0][0]


def test_coordinate(capsys, file, tiny):
    found = facts(capsys, "query", file, "--coordinate", 3, 2, 5)["coordinate"]
    trace = tiny.trace(TEXT)
    assert (found["layer"], found["head"], found["token_idx"], found["token"]) == (3, 2, 5, trace.tokens[5])
    for part in ("key", "value"):
        vector = trace[f"h.3.attn.{part[0]}"][5, 2]
        assert np.array(found[part], np.float32).tobytes() == vector.tobytes()
        assert found[f"{part}_norm"] == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))))
    _, out, _ = run(capsys, "query", file, "--coordinate", 3, 2, 5)
    assert f"{found['key'][0]:.6g}" in out


@pytest.mark.parametrize(("text", "places"), [("QUICK", [[1]]), ("fox", [[4, 5]]), ("The", [[0], [10]])])
def test_token_search(capsys, file, text, places):
    found = facts(capsys, "query", file, "--token-search", text)["token_search"]
    assert [place["token_idx"] for place in found["found"]] == places
    assert found["case_sensitive"] is False
    for place in found["found"]:
        assert text.lower() in "".join(place["tokens"]).lower()
    _, out, _ = run(capsys, "query", file, "--token-search", text)
    assert "case-insensitive" in out
    assert f"{len(places)} found" in out


STRANGE = "Tokyo 日本語, 😀 and naïve Straße; \\xe6 日本"


@pytest.fixture(params=["kv.json", "kv.safetensors", "trace.safetensors", "generation.safetensors"])
def strange(request, tiny, capsys):
    """A text with characters of several tokens."""
    if request.param == "trace.safetensors":
        tiny.trace(STRANGE).save(request.param)
    elif request.param == "generation.safetensors":
        tiny.generate(STRANGE, max_new_tokens=2, keep="*").finish().trace.save(request.param)
    else:
        assert run(capsys, "extract", STRANGE, "--out", request.param)[0] == 0
    return request.param


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "text", ["日本", "日", "本語", "😀", "ïve", "strasse", "ß", "\\xe6", "TOKYO 日", ", "]
)
def test_token_search_by_bytes(capsys, tiny, strange, text):
    found = facts(capsys, "query", strange, "--token-search", text)["token_search"]["found"]
    ids = tiny.tokenizer.encode(STRANGE)
    whole = [tiny.tokenizer.token_bytes(i) for i in ids]
    ends = np.cumsum([len(piece) for piece in whole])
    expected = []
    for start in range(len(STRANGE)):  # by hand: from every character of the text to every other
        for stop in range(start + 1, len(STRANGE) + 1):
            if STRANGE[start:stop].casefold() == text.casefold():
                first, last = (len(STRANGE[:n].encode()) for n in (start, stop))
                tokens = np.searchsorted(ends, [first, last - 1], side="right").tolist()
                expected.append(list(range(tokens[0], tokens[1] + 1)))
    assert [place["token_idx"] for place in found] == expected
    assert len(expected) == (2 if text in ("日本", "日") else len(expected)) > 0


def test_questions_that_find_nothing_and_those_beside_them(capsys, file):
    asked = [
        "--info",
        "--token-search",
        "zebra",
        "--search-norm",
        "1e6",
        "1e7",
        "value",
        "--layer-summary",
        "1",
    ]
    code, out, _ = run(capsys, "query", file, *asked, "--export-csv", "all.csv")
    assert code == 0
    assert "|zebra|: 0 found\n" in out
    assert "layer 1, norms over its tokens" in out
    assert {row["query"] for row in rows_of("all.csv")} == {"layer-summary"}
    found = facts(capsys, "query", file, *asked)
    assert list(found) == ["info", "token_search", "layer_summary", "search_norm"]
    assert (found["token_search"]["found"], found["search_norm"]["found"]) == ([], 0)
    every = facts(capsys, "query", file, "--search-norm", 0, 1e9, "value")["search_norm"]
    norms = [row["value_norm"] for row in every["rows"]]
    for answer in (every, found["search_norm"]):
        assert (answer["smallest"], answer["largest"]) == (min(norms), max(norms))
    shown = [float(number) for number in re.search(r"they go from (\S+) to (\S+)", out).groups()]
    assert shown == pytest.approx([min(norms), max(norms)], rel=1e-2)


def test_layer_summary(capsys, file, tiny):
    found = facts(capsys, "query", file, "--layer-summary", 2)["layer_summary"]
    assert found["layer"] == 2
    for part in ("key", "value"):
        norms = np.linalg.norm(tiny.trace(TEXT)[f"h.2.attn.{part[0]}"].astype(np.float64), axis=-1)
        for head, row in enumerate(found["heads"]):
            assert row["head"] == head
            expected = [norms[:, head].mean(), norms[:, head].min(), norms[:, head].max()]
            assert [row[f"{part}_norm_{of}"] for of in ("mean", "min", "max")] == pytest.approx(expected)


@pytest.mark.parametrize("part", ["key", "value"])
def test_search_norm(capsys, file, tiny, part):
    trace = tiny.trace(TEXT)
    norms = np.stack(
        [np.linalg.norm(trace[f"h.{i}.attn.{part[0]}"].astype(np.float64), axis=-1) for i in range(4)]
    )
    low, high = np.quantile(norms, [0.3, 0.5]).tolist()
    found = facts(capsys, "query", file, "--search-norm", low, high, part)["search_norm"]
    layers, tokens, heads = np.nonzero((norms >= low) & (norms <= high))
    expected = sorted(zip(layers.tolist(), heads.tolist(), tokens.tolist(), strict=True))
    assert [(row["layer"], row["head"], row["token_idx"]) for row in found["rows"]] == expected
    assert (found["found"], found["of"]) == (len(expected), norms.size)
    assert len(expected) > 20
    _, out, _ = run(capsys, "query", file, "--search-norm", low, high, part)
    assert f"and {len(expected) - 20} more" in out
    none = facts(capsys, "query", file, "--search-norm", 1e6, 1e7, part)["search_norm"]
    assert (none["found"], none["rows"]) == (0, [])


@pytest.mark.parametrize("part", ["key", "value"])
def test_search_norm_includes_both_ends(capsys, file, part):
    whole = facts(capsys, "query", file, "--search-norm", 0, 1e9, part)["search_norm"]["rows"]
    norms = sorted(row[f"{part}_norm"] for row in whole)
    low, high = norms[50], norms[70]
    found = facts(capsys, "query", file, "--search-norm", repr(low), repr(high), part)["search_norm"]["rows"]
    assert sorted(row[f"{part}_norm"] for row in found) == norms[50:71]
    one = facts(capsys, "query", file, "--search-norm", repr(low), repr(low), part)["search_norm"]
    assert one["found"] == norms.count(low) >= 1


def test_everything_combined_and_its_csv(capsys, file, tiny):
    asked = ["--info", "--coordinate", 0, 0, 0, "--token-search", "fox", "--layer-summary", 1]
    asked += ["--search-norm", 0, 1000, "value", "--export-csv", "all.csv"]
    code, out, err = run(capsys, "query", file, *asked)
    assert code == 0
    assert "all.csv" in err
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    names = ["info", "coordinate", "token_search", "layer_summary", "search_norm"]
    assert run(capsys, "query", file, *asked)[0] == 2  # the file is there
    assert list(facts(capsys, "query", file, *asked, "--force")) == names
    rows, trace = rows_of("all.csv"), tiny.trace(TEXT)
    counts = {"coordinate": 1, "token-search": 2 * 16, "layer-summary": 4 * 17, "search-norm": 16 * 17}
    for question, count in counts.items():
        assert sum(row["query"] == question for row in rows) == count
    assert len(rows) == sum(counts.values())
    for row in rows:
        layer, head, token = (int(row[axis]) for axis in ("layer", "head", "token_idx"))
        assert row["token"] == trace.tokens[token]
        assert int(row["token_id"]) == trace.token_ids[token]
        for part in ("key", "value"):
            vector = trace[f"h.{layer}.attn.{part[0]}"][token, head].astype(np.float64)
            assert float(row[f"{part}_norm"]) == pytest.approx(np.linalg.norm(vector), rel=1e-12)


def test_csv_alone_and_of_nothing(capsys, file):
    code, out, _ = run(capsys, "query", file, "--export-csv", "all.csv")
    assert (code, out) == (0, "")
    assert len(rows_of("all.csv")) == 4 * 4 * 17
    assert run(capsys, "query", file, "--search-norm", 1e6, 1e7, "key", "--export-csv", "none.csv")[0] == 0
    assert Path("none.csv").read_text() == "query,layer,head,token_idx,token_id,token,key_norm,value_norm\n"


def test_csv_of_tokens_with_commas_quotes_and_newlines(capsys, tiny):
    text = 'One, "two",\n\nthree\r\n'
    run(capsys, "extract", text, "--out", "kv.json")
    run(capsys, "query", "kv.json", "--export-csv", "all.csv")
    first = [row["token"] for row in rows_of("all.csv")[: len(tiny.tokenizer.encode(text))]]
    assert "".join(read_back(token) for token in first) == text


FORMULA = r"(?:[=+\-@\t\r＝＋－＠]|\n+[=+\-@＝＋－＠])"


def read_back(cell):
    """A text as it was before it was made no formula for a spreadsheet."""
    return cell[1:] if re.match(f"'+{FORMULA}", cell) else cell


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "－1", '=HYPERLINK("http://x","y")', "-"),
        *("'=1", "''@", "'s", "a=1", " =1", "'", "\n", "\n=1", "'\n=1", "é", "\U0001f600"),
    ],
)
def test_no_cell_is_a_formula(tmp_path, text):
    rows = [{"token": text, "number": -1.5, "id": 7}]
    assert write_csv(tmp_path / "a.csv", ["token", "number", "id"], rows) == 1
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        token, number, id = list(csv.reader(file))[1]
    assert (number, id) == ("-1.5", "7")
    assert not re.match(FORMULA, token)
    assert read_back(token) == text
    assert token == text or re.match(f"'*{FORMULA}", text)


def test_a_file_of_the_dataset_that_is_not_listed(capsys):
    """It is of a run killed before listing it, and then the same; or it is somebody's own."""
    argv = ["dataset", "--prompts", "one", "two", "--output-dir", "d"]
    run(capsys, *argv)
    head, first, _ = Path("d/index.jsonl").read_bytes().splitlines(keepends=True)
    before = {path.name: path.read_bytes() for path in Path("d").iterdir()}
    Path("d/index.jsonl").write_bytes(head + first)
    assert run(capsys, *argv)[0] == 0
    assert {path.name: path.read_bytes() for path in Path("d").iterdir()} == before
    Path("d/index.jsonl").write_bytes(head + first)
    Path("d/kv_00001.json").write_text("mine")
    code, _, err = run(capsys, *argv)
    assert (code, "kv_00001.json: is there unlisted" in err) == (2, True)
    assert sorted(os.listdir("d")) == ["index.jsonl", "kv_00000.json", "kv_00001.json"]
    assert Path("d/kv_00001.json").read_text() == "mine"


def test_strange_texts_keep_within_80_columns(capsys):
    text = "😀 日本語 " + "\n\t\x07" * 20 + "naïve " * 10
    run(capsys, "extract", text, "--out", "kv.json")
    asked = [
        "--token-search",
        " \n\t\x07\n\t",
        "--search-norm",
        0,
        1e9,
        "key",
        "--info",
        "--layer-summary",
        0,
    ]
    code, out, err = run(capsys, "query", "kv.json", *asked)
    assert code == 0, err
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert "\x07" not in out


# -- wrong input --------------------------------------------------------------------------------------

GOOD = ["query", "kv.json"]
WRONG = [
    [],
    ["nothing"],
    ["extract", "a", "--out", "kv.txt"],
    ["extract", "a", "--out", ""],
    ["extract", "a", "--out", "foreign.json/kv.json"],
    ["extract", "a", "--out", "foreign.json/new/kv.safetensors"],
    ["extract", "a", "--trace", "kv.safetensors", "--out", "new/kv.json"],
    ["extract", "--trace", "weights.safetensors", "--out", "new/kv.json"],
    ["extract", "--trace", "none.safetensors", "--out", "new/kv.json"],
    ["extract", "--trace", "kv.json", "--out", "new/kv.json"],
    ["extract", "--trace", "half.safetensors", "--out", "new/kv.json"],
    ["extract", "--trace", "patterns.safetensors", "--out", "new/kv.json"],
    ["extract", "--trace", "kv.safetensors", "--out", "kv.safetensors", "--force"],
    ["extract", ""],
    ["extract", "a " * 3000],
    ["extract", "a", "--tokens", "1"],
    ["extract", "--tokens", "x"],
    ["extract", "a", "--top", "0"],
    ["extract", "a", "--model", "./nowhere"],
    ["query"],
    ["query", "none.json", "--info"],
    ["query", ".", "--info"],
    ["query", "foreign.json", "--info"],
    ["query", "cut.json", "--info"],
    ["query", "cut.safetensors", "--info"],
    ["query", "weights.safetensors", "--info"],
    GOOD,
    [*GOOD, "--coordinate", "0", "0"],
    [*GOOD, "--coordinate", "4", "0", "0"],
    [*GOOD, "--coordinate", "0", "4", "0"],
    [*GOOD, "--coordinate", "0", "0", "3"],
    [*GOOD, "--coordinate", "0", "0", "-1"],
    [*GOOD, "--coordinate", "0", "a", "0"],
    [*GOOD, "--token-search", ""],
    [*GOOD, "--layer-summary", "4"],
    [*GOOD, "--layer-summary", "first"],
    [*GOOD, "--search-norm", "1", "2", "query"],
    [*GOOD, "--search-norm", "2", "1", "key"],
    [*GOOD, "--search-norm", "a", "1", "key"],
    [*GOOD, "--search-norm", "nan", "1", "key"],
    [*GOOD, "--info", "--export-csv", "foreign.json/all.csv"],
    [*GOOD, "--info", "--export-csv", "new/all.csv", "--layer-summary", "4"],
    ["dataset", "--random", "3"],
    ["dataset", "--random", "0", "--output-dir", "d"],
    ["dataset", "--random", "3", "--seed", "-1", "--output-dir", "d"],
    ["dataset", "--random", "3", "--prompts", "a", "--output-dir", "d"],
    ["dataset", "--random-tokens", "--output-dir", "d"],
    ["dataset", "--prompts", "--output-dir", "d"],
    ["dataset", "--prompts", " ", "--output-dir", "d"],
    ["dataset", "--prompts", "a", "a " * 3000, "--output-dir", "d"],
    ["dataset", "--text-file", "none.txt", "--output-dir", "d"],
    ["dataset", "--text-file", "empty.txt", "--output-dir", "d"],
    ["dataset", "--prompts", "a", "--output-dir", "kv.json"],
    ["dataset", "--prompts", "a", "--output-dir", "kv.json/d"],
    ["dataset", "--prompts", "a", "--format", "txt", "--output-dir", "d"],
]


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny):
    """Files that the wrong commands name."""
    folder = tmp_path_factory.mktemp("material")
    for suffix in (".json", ".safetensors"):
        main(["kv", "extract", "Elizabeth was", "--out", str(folder / f"kv{suffix}")])
        content = (folder / f"kv{suffix}").read_bytes()
        (folder / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    (folder / "foreign.json").write_text('{"model": "gpt2"}')
    (folder / "empty.txt").touch()
    tiny.trace("Elizabeth was", keep={"patterns": "attn.qkv", "dtype": "float16"}).save(
        folder / "half.safetensors"
    )
    tiny.trace("Elizabeth was", keep="attn.pattern").save(folder / "patterns.safetensors")
    (folder / "weights.safetensors").write_bytes((tiny.checkpoint.folder / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize("argv", WRONG, ids=lambda argv: " ".join(argv)[:60] or "nothing at all")
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, material, argv):
    monkeypatch.chdir(material)
    before = sorted(material.rglob("*"))
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("gpt2np")
    assert 20 < len(last) < 400
    assert sorted(material.rglob("*")) == before


# -- datasets -----------------------------------------------------------------------------------------


def index_of(folder):
    """The lines of an index after the first, by file."""
    first, *lines = map(json.loads, Path(folder, "index.jsonl").read_bytes().split(b"\n")[:-1])
    assert first["schema"] == "gpt2np.kv_dataset/1"
    return {line["file"]: line for line in lines}


def test_dataset_from_prompts_a_file_or_the_samples(capsys, tiny):
    Path("prompts.txt").write_text("Hello world\n\nMachine learning\n", "utf-8")
    code, out, err = run(capsys, "dataset", "--text-file", "prompts.txt", "--output-dir", "a")
    assert code == 0
    assert "wrote 2 of 2" in err
    assert "Hello world" in out
    assert run(capsys, "dataset", "--prompts", "Hello world", "Machine learning", "--output-dir", "b")[0] == 0
    assert index_of("a") == index_of("b")
    for folder in "ab":
        assert sorted(os.listdir(folder)) == ["index.jsonl", "kv_00000.json", "kv_00001.json"]
        texts = [load_kv(f"{folder}/kv_0000{i}.json", tiny).kv.text for i in (0, 1)]
        assert texts == ["Hello world", "Machine learning"]
    assert Path("a/kv_00001.json").read_bytes() == Path("b/kv_00001.json").read_bytes()
    code, _, err = run(capsys, "dataset", "--text-file", "data/sample_prompts.txt", "--output-dir", "s")
    assert (
        code,
        f"there is no data/sample_prompts.txt: the prompts are those of {SAMPLE_PROMPTS}" in err,
    ) == (0, True)
    found = facts(capsys, "dataset", "--format", "safetensors", "--output-dir", "c")
    assert [e["input_text"] for e in index_of("s").values()] == [e["input_text"] for e in found["files"]]
    assert len(found["files"]) == found["written"] == len(SAMPLE_PROMPTS.read_text("utf-8").splitlines())
    assert read_kv("c/kv_00000.safetensors").text == TEXT


@pytest.mark.parametrize("options", [[], ["--random-tokens"]], ids=["sampled", "tokens"])
def test_random_prompts_are_those_of_the_seed(capsys, tiny, options):
    for folder, n, seed in (("a", 5, 3), ("b", 5, 3), ("c", 5, 4), ("d", 2, 3), ("d", 5, 3)):
        argv = ["dataset", "--random", n, "--seed", seed, *options, "--output-dir", folder]
        assert run(capsys, *argv)[0] == 0
    texts = {folder: [entry["input_text"] for entry in index_of(folder).values()] for folder in "abcd"}
    assert texts["a"] == texts["b"] == texts["d"]
    assert len(set(texts["a"])) == 5
    assert not set(texts["a"]) & set(texts["c"])
    for path in sorted(Path("a").glob("*.json")):
        kv = load_kv(path, tiny).kv
        assert 1 <= len(kv.tokens) <= 40
        if options:
            assert kv.text == tiny.decode(kv.token_ids)
        else:
            assert tiny.tokenizer.encode(kv.text) == kv.token_ids


def test_a_rerun_writes_what_is_missing_and_touches_nothing_else(capsys):
    argv = ["dataset", "--output-dir", "d", "--prompts", "one", "two", "three"]
    run(capsys, *argv)
    before = {path.name: path.stat().st_mtime_ns for path in Path("d").iterdir()}
    content = Path("d/kv_00001.json").read_bytes()
    _, _, err = run(capsys, *argv)
    assert "wrote 0 of 3" in err
    assert before == {path.name: path.stat().st_mtime_ns for path in Path("d").iterdir()}
    Path("d/kv_00001.json").unlink()
    assert "wrote 1 of 3" in run(capsys, *argv)[2]
    Path("d/kv_00001.json").write_bytes(content[:-100])
    assert "wrote 1 of 3" in run(capsys, *argv)[2]
    assert Path("d/kv_00001.json").read_bytes() == content
    assert Path("d/kv_00000.json").stat().st_mtime_ns == before["kv_00000.json"]
    assert facts(capsys, *argv, "four")["written"] == 1


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # where str.splitlines ends a line


def test_prompts_with_any_separator_resume(capsys):
    prompts = [f"one{c}two" for c in SEPARATORS]
    assert facts(capsys, "dataset", "--output-dir", "d", "--prompts", *prompts)["written"] == 8
    assert [entry["input_text"] for entry in index_of("d").values()] == prompts
    assert facts(capsys, "dataset", "--output-dir", "d", "--prompts", *prompts, "three")["written"] == 1


def test_a_text_file_is_cut_at_newlines_only(capsys, monkeypatch):
    lines = ["\ufeffone\r", "two\rthree", "", *(f"one{c}two" for c in SEPARATORS), " four \r\r", "last"]
    expected = ["one", "two\rthree", *(f"one{c}two" for c in SEPARATORS), " four \r", "last"]
    content = "\n".join(lines).encode()
    Path("prompts.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "latin-1"))
    for file, folder in (("prompts.txt", "a"), ("-", "b")):
        assert run(capsys, "dataset", "--text-file", file, "--output-dir", folder)[0] == 0
        assert [entry["input_text"] for entry in index_of(folder).values()] == expected
    Path("latin.txt").write_bytes(b"caf\xe9")
    code, _, err = run(capsys, "dataset", "--text-file", "latin.txt", "--output-dir", "c")
    assert (code, "latin.txt: byte 0xe9 at 3 is not UTF-8" in err) == (2, True)


def test_one_run_at_a_time(capsys, tiny):
    texts = ["one", "two", "three"]
    first = write_dataset(tiny, [Source(text) for text in texts], Path("d"))
    next(first)
    before = sorted(os.listdir("d"))
    for given in (texts, ["other"]):
        code, out, err = run(capsys, "dataset", "--prompts", *given, "--output-dir", "d")
        assert (code, out) == (2, "")
        assert "d: another run is writing to this folder" in err
    assert sorted(os.listdir("d")) == before
    assert [new for _, new in first] == [True, True]
    assert "wrote 0 of 3" in run(capsys, "dataset", "--prompts", *texts, "--output-dir", "d")[2]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.99, 1.0])
def test_an_index_cut_in_the_middle_of_a_line(capsys, share):
    argv = ["dataset", "--prompts", "one", "two", "--output-dir", "d"]
    run(capsys, *argv)
    whole = Path("d/index.jsonl").read_bytes()
    for n in range(3):  # in the first line, the second, the third
        lines = whole.splitlines(keepends=True)
        Path("d/index.jsonl").write_bytes(b"".join(lines[:n]) + lines[n][: int(share * (len(lines[n]) - 1))])
        if n == 0:  # then nothing had been written yet
            Path("d/kv_00000.json").unlink()
            Path("d/kv_00001.json").unlink()
        else:
            Path("d/.gpt2np-0123456789abcdef.tmp").touch()
        code, _, err = run(capsys, *argv)
        assert code == 0, err
        assert Path("d/index.jsonl").read_bytes() == whole
        assert sorted(os.listdir("d")) == ["index.jsonl", "kv_00000.json", "kv_00001.json"]


ADDED = {
    "--prompts three": ["one", "two", "three"],
    "--prompts three two one two": ["one", "two", "three", "two"],
    "--prompts one one": ["one", "two", "one"],
    "--prompts two": ["one", "two"],
    "--text-file new.txt": ["one", "two", "four"],
    "--prompts one --special": ["one", "two", "one"],  # read otherwise: another prompt
    "--random 2 --random-tokens": ["one", "two", (0, 0), (1, 0)],
    "--random 2 --random-tokens --seed 1": ["one", "two", (0, 1), (1, 1)],
}


@pytest.mark.parametrize("more", ADDED)
def test_other_prompts_get_the_next_numbers(capsys, tiny, more):
    run(capsys, "dataset", "--prompts", "one", "two", "--output-dir", "d")
    Path("new.txt").write_text("two\nfour\n")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("d").glob("*.json")}
    for n_new in (len(ADDED[more]) - 2, 0):
        code, _, err = run(capsys, "dataset", *more.split(), "--output-dir", "d")
        assert code == 0, err
        assert f"wrote {n_new} of " in err
    listed = index_of("d")
    assert list(listed) == [f"kv_{i:05}.json" for i in range(len(ADDED[more]))]
    assert sorted(os.listdir("d")) == ["index.jsonl", *listed]
    for entry, source in zip(listed.values(), ADDED[more], strict=True):
        found = entry["source"]
        assert found.get("text", (found.get("random"), found.get("seed"))) == source
        assert load_kv(Path("d", entry["file"]), tiny).kv.text == entry["input_text"]
    for name, (changed, content) in before.items():
        assert (Path("d", name).stat().st_mtime_ns, Path("d", name).read_bytes()) == (changed, content)


def test_an_interrupted_run_goes_on_after_another_one(capsys, tiny):
    first = ["dataset", "--prompts", "one", "two", "three", "--output-dir", "d"]
    started = write_dataset(tiny, [Source(text) for text in first[2:5]], Path("d"))
    next(started)
    started.close()
    assert run(capsys, "dataset", "--prompts", "four", "--output-dir", "d")[0] == 0
    assert "wrote 2 of 3" in run(capsys, *first)[2]
    assert [entry["input_text"] for entry in index_of("d").values()] == ["one", "four", "two", "three"]


@pytest.mark.parametrize(
    "change",
    [
        ["--prompts", "one", "two", "--format", "safetensors"],
        ["--prompts", "one", "two", "--top", "3"],
        ["--random", "2", "--top", "3"],
    ],
    ids=" ".join,
)
def test_another_dataset_in_the_same_folder_is_refused(capsys, change):
    run(capsys, "dataset", "--prompts", "one", "two", "--output-dir", "d")
    before = {path.name: path.read_bytes() for path in Path("d").iterdir()}
    code, out, err = run(capsys, "dataset", *change, "--output-dir", "d")
    assert (code, out) == (2, "")
    assert "choose another folder" in err
    assert before == {path.name: path.read_bytes() for path in Path("d").iterdir()}


@pytest.mark.parametrize(
    "content", [b"", b"mine", b"mine\n", b"[]\n", b'{"schema": 1}\n', b"\xff\n", b"null\n1\n"]
)
def test_a_folder_with_somebody_elses_files_is_left_alone(capsys, content):
    Path("d").mkdir()
    Path("d/kv_00000.json").write_text("mine")
    if content:
        Path("d/index.jsonl").write_bytes(content)
    code, out, _ = run(capsys, "dataset", "--prompts", "one", "--output-dir", "d")
    assert (code, out) == (2, "")
    assert Path("d/kv_00000.json").read_text() == "mine"
    assert not content or Path("d/index.jsonl").read_bytes() == content


def test_another_model_in_the_same_folder_is_refused(capsys, tiny, tmp_path):
    run(capsys, "dataset", "--prompts", "one", "--output-dir", "d")
    other = shutil.copytree(tiny.checkpoint.folder, tmp_path / "other")
    weights = {name: np.array(array) for name, array in tiny.weights.items()}
    weights["ln_f.bias"] += 1
    safetensors.numpy.save_file(weights, next(other.glob("*.safetensors")))
    code, _, err = run(capsys, "dataset", "--prompts", "one", "--output-dir", "d", "--model", other)
    assert code == 2
    assert "model is 'tiny'" in err


def test_kill_9_in_the_middle(capsys, tiny):
    argv = ["dataset", "--random", "60", "--random-tokens", "--output-dir", "d"]
    seen: dict[str, tuple[int, bytes]] = {}
    index = Path("d/index.jsonl")
    for n_more in (1, 8, 17):
        process = subprocess.Popen([sys.executable, "-m", "gpt2np", "kv", *argv], stdout=subprocess.DEVNULL)
        goal, deadline = len(seen) + n_more, time.monotonic() + 30
        while not (index.exists() and index.read_bytes().count(b"\n") > goal):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = index.read_bytes().split(b"\n")[1:-1]  # what has an end
        listed = [json.loads(line) for line in lines]
        assert goal <= len(listed) < 60
        for entry in listed:
            path = Path("d", entry["file"])
            assert path.stat().st_size == entry["bytes"]
            assert len(read_kv(path).tokens) == entry["tokens"]
            now = path.stat().st_mtime_ns, path.read_bytes()
            assert seen.setdefault(entry["file"], now) == now
    code, _, err = run(capsys, *argv)
    assert code == 0
    assert re.search(rf"wrote {60 - len(seen)} of 60", err)
    for name, (changed, content) in seen.items():
        assert Path("d", name).stat().st_mtime_ns == changed
        assert Path("d", name).read_bytes() == content
    assert sorted(os.listdir("d")) == ["index.jsonl", *sorted(index_of("d"))]
    assert len(index_of("d")) == 60
    load_kv("d/kv_00059.json", tiny)


def test_a_disk_that_fills_up_in_the_middle(capsys, monkeypatch):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        argv = ["dataset", "--prompts", "one", "Hello world, how are you today?", "two", "--output-dir", "d"]
        code, out, err = run(capsys, *argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert sorted(os.listdir("d")) == ["index.jsonl", "kv_00000.json"]
    assert list(index_of("d")) == ["kv_00000.json"]
    assert "wrote 2 of 3" in run(capsys, *argv)[2]


@pytest.mark.parametrize("dialect", ["gpt2np", "hf", "guide", "transformer_lens", "llm.c"])
@pytest.mark.parametrize("to", ["npz", "safetensors"])
def test_query_of_what_export_wrote(capsys, tiny, to, dialect):
    write_dialect(tiny.trace(TEXT), f"t.{to}", to, dialect)
    found = facts(capsys, "query", f"t.{to}", "--coordinate", 3, 2, 5)["coordinate"]
    for part in ("key", "value"):
        vector = tiny.trace(TEXT)[f"h.3.attn.{part[0]}"][5, 2]
        assert np.array(found[part], np.float32).tobytes() == vector.tobytes()
    assert load_kv(f"t.{to}", tiny).generate(max_new_tokens=2).finish()


@pytest.mark.parametrize("to", ["npz", "safetensors", "json", "csv"])
def test_query_of_other_exports_says_what_they_are(capsys, tiny, to):
    write_dialect(tiny.trace("Hello", keep="attn.z"), f"t.{to}", to)
    code, out, err = run(capsys, "query", f"t.{to}", "--info")
    assert (code, out, err.count("\n")) == (2, "", 1)
    kinds = {"json": "is a trace as JSON", "csv": "is a CSV file"}
    assert f"t.{to}: {kinds.get(to, 'is a trace without all keys and values')}" in err
    assert "<" not in err
    assert "class" not in err


@pytest.mark.parametrize(
    "place", ["model", "input_text", "input_tokens", "predicted_next_token", "fingerprint"]
)
@pytest.mark.parametrize("question", [["--info"], ["--info", "--json"], ["--export-csv", "a.csv"]])
def test_half_a_surrogate_pair_in_a_file(capsys, place, question):
    run(capsys, "extract", "Hello", "--out", "kv.json")
    content, half = json.loads(Path("kv.json").read_text("utf-8")), "a\ud800"
    if place == "input_tokens":
        content[place][0] = half
    elif place == "predicted_next_token":
        content[place]["token"] = half
    else:
        content[place] = half
    Path("kv.json").write_text(json.dumps(content))
    code, out, err = run(capsys, "query", "kv.json", *question)
    assert (code, out) == (2, "")
    assert "kv.json: a text in it is not valid Unicode" in err
    assert not Path("a.csv").exists()


@pytest.mark.parametrize("prediction", ["a", {"token": "a"}, {"token": "a", "token_id": "1"}])
def test_a_trace_with_a_malformed_prediction(capsys, tiny, prediction):
    trace = tiny.trace("Hello", keep="attn.qkv")
    trace.metadata["predicted_next_token"] = prediction
    trace.save("t.safetensors")
    code, out, err = run(capsys, "query", "t.safetensors", "--info")
    assert (code, out) == (2, "")
    assert "predicted_next_token is " in err


def test_progress_is_for_terminals_only(capsys, monkeypatch):
    _, _, err = run(capsys, "dataset", "--prompts", "one", "--output-dir", "a")
    assert "%" not in err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, out, err = run(capsys, "dataset", "--prompts", "one", "--output-dir", "b")
    assert "100%" in err
    assert "%" not in out


def test_a_model_without_vocabulary(capsys, tiny, tmp_path):
    folder = tmp_path / "ids"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny.checkpoint.folder / name).read_bytes())
    model = gpt2np.load(folder)
    assert model.tokenizer is None
    for options in ([], ["--random-tokens"]):
        out = f"d{len(options)}"
        code, _, err = run(capsys, "dataset", "--random", 2, *options, "--output-dir", out, "--model", folder)
        assert code == 0, err
        assert load_kv(f"{out}/kv_00001.json", model).generate(max_new_tokens=2).finish()
    assert facts(capsys, "query", "d0/kv_00000.json", "--info")["info"]["input_tokens"][0].startswith("<")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "Hello world\n\nMachine learning\n"),
        ("p.jsonl", '"Hello world"\n{"text": "Machine learning", "answer": 3}\n'),
        ("p.json", '["Hello world", "Machine learning"]'),
        ("q.json", '{"prompts": [{"id": 7, "text": "Hello world"}, {"text": "Machine learning"}]}'),
    ],
)
def test_prompts_of_a_dataset_come_from_lines_json_lines_and_lists(capsys, name, content):
    Path(name).write_text(content, "utf-8")
    code, out, _ = run(capsys, "dataset", "--text-file", name, "--output-dir", "lists", "--json")
    assert code == 0
    assert [f["input_text"] for f in json.loads(out)["files"]] == ["Hello world", "Machine learning"]


def test_the_line_of_a_prompt_that_is_too_long_is_told(capsys):
    Path("p.txt").write_text("Hello\n\n" + "the " * 300 + "\n", "utf-8")
    code, out, err = run(capsys, "dataset", "--text-file", "p.txt", "--output-dir", "long")
    assert (code, out) == (2, "")
    assert "p.txt: line 3 has 301 tokens" in err


@pytest.mark.parametrize("question", [[], ["--info"]])
def test_a_file_that_is_not_there_is_told_before_a_question_is_asked_for(capsys, question):
    code, out, err = run(capsys, "query", "nothere.json", *question)
    assert (code, out) == (2, "")
    assert "nothere.json" in err
    assert "ask something" not in err
