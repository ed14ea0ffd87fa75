"""Files that version 0.1.0 wrote, in `support/made_by_0.1.0`: they stay readable for good.

They are read bit for bit as that version read them (`expected.json`), and everything that takes such a file
works on it as it did. Each test works in a copy of the folder, where the model's fingerprint is the old one.
"""

import csv
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import gpt2np
from gpt2np.capture.capture_files import load_capture
from gpt2np.capture.manifest import read_manifest
from gpt2np.cli import main
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import choose
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv
from gpt2np.viewer.packing import unpack

SUPPORT = next(folder / "support" for folder in Path(__file__).parents if (folder / "support").is_dir())
MADE = SUPPORT / "made_by_0.1.0"
EXPECTED = json.loads((MADE / "expected.json").read_text("utf-8"))
ABOUT = {"make.py", "facts.py", "expected.json", "expected.npz"}


def _facts():
    spec = importlib.util.spec_from_file_location("facts_of_0_1_0", MADE / "facts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _paths(folder, names):
    return [f"{folder}/{name}" for name in names.split()]


facts = _facts()
MODEL = _paths("model", "config.json model.safetensors vocab.json merges.txt")
FIXTURE = _paths("fixture", "config.json model.safetensors prompt.txt bands.safetensors")
TRACES = [
    *_paths("traces", "full.safetensors ids.safetensors short.safetensors float64.safetensors"),
    *_paths("traces", "float16.safetensors positions.safetensors edited.safetensors stopped.safetensors"),
    *_paths("traces", "derived.safetensors mixed.safetensors run.safetensors"),
    *_paths("traces/packed", "0.safetensors 1.safetensors 2.safetensors"),
    *_paths("generations", "sampled.safetensors greedy.safetensors beams.safetensors"),
    *_paths("generations", "continued.safetensors steered.safetensors"),
    "fixture/trace.safetensors",
]
LEDGERS = _paths("generations", "sampled.jsonl greedy.jsonl")
KV = [
    *_paths("kv", "text.json text.safetensors ids.safetensors plain.json"),
    *_paths("datasets", "lines/kv_00000.json lines/kv_00001.json tokens/kv_00000.json"),
    *_paths("datasets", "sampled/kv_00000.safetensors sampled/kv_00001.safetensors"),
]
INDEXES = _paths("datasets", "lines/index.jsonl sampled/index.jsonl tokens/index.jsonl lines.txt")
EXPORTS = [
    *_paths("exports", "gpt2np.npz hf.npz transformer_lens.npz mixed_guide.npz float16_hf.npz"),
    *_paths("exports", "guide.safetensors llm.c.safetensors float64_hf.safetensors"),
    *_paths("exports", "positions_transformer_lens.safetensors"),
]
TEXTS = _paths("exports", "hf.json hf.csv")
LLMC = _paths("exports/llm.c", "gpt2_4K_debug_state.bin activations.bin")
RAW = "inference/raw"
CAPTURES = [
    *_paths(f"captures/greedy/{RAW}/residual/two", "1.safetensors two.safetensors"),
    *_paths(f"captures/greedy/{RAW}/internals/two", "1_L1.safetensors two_L1.safetensors"),
    f"captures/sampled/{RAW}/residual/prompt/1.safetensors",
]
TORCH = _paths(f"captures/greedy/{RAW}/residual/two", "1.pt two.pt")
MANIFESTS = _paths("captures", "greedy/manifest.jsonl sampled/manifest.jsonl two.json")
AS_KV = _paths("traces", "full.safetensors ids.safetensors float16.safetensors")
AS_KV += _paths("exports", "hf.npz guide.safetensors transformer_lens.npz llm.c.safetensors float16_hf.npz")
RERUNS = EXPECTED["reruns"].values()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A copy of the folder to work in, its weights as old as they were."""
    folder = tmp_path / "made"
    shutil.copytree(MADE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    modified = EXPECTED["model"]["modified"]
    os.utime(folder / "model" / "model.safetensors", ns=(modified, modified))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    return folder


@pytest.fixture
def run(capsys):
    def command(*argv):
        code = main(list(argv))
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return command


def model_of(path, trace):
    return gpt2np.load("fixture" if path.startswith("fixture") else "model", dtype=trace.plan.dtype.name)


def assert_same(found, expected, where="", rel=1e-4):
    """All that was expected is found, with noise in numbers; more may be found."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}", rel)
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{where}[{i}]", rel)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-5), where
    else:
        assert found == expected, where


def all_files(folder):
    """Content and time of every file below a folder."""
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


# -- the list -------------------------------------------------------------------------------------


def test_no_file_is_without_a_test():
    lists = MODEL, FIXTURE, TRACES, LEDGERS, KV, INDEXES, EXPORTS, TEXTS, LLMC, CAPTURES, TORCH, MANIFESTS
    listed = [path for names in lists for path in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.as_posix() for path in map(Path, all_files("."))} - ABOUT


def test_nothing_that_is_expected_is_without_a_test():
    assert EXPECTED["traces"].keys() == set(TRACES)
    assert EXPECTED["exports"].keys() == set(EXPORTS)
    assert EXPECTED["exported"].keys() == {*EXPORTS, *TEXTS}
    assert EXPECTED["ledgers"].keys() == set(LEDGERS)
    assert EXPECTED["kv"].keys() == {*KV, *AS_KV}
    assert EXPECTED["captures"].keys() == set(CAPTURES)


# -- models ---------------------------------------------------------------------------------------


def test_the_model():
    model = gpt2np.load("model")
    assert model.checkpoint.fingerprint == EXPECTED["model"]["fingerprint"]
    stored = safetensors.numpy.load_file("model/model.safetensors")
    assert model.weights.keys() == {name.removeprefix("transformer.") for name in stored}
    for name, array in stored.items():
        np.testing.assert_array_equal(model.weights[name.removeprefix("transformer.")], array)
    for said in EXPECTED["traces"].values():
        if said["metadata"].get("prompt") and "n_prompt" not in said["metadata"]:
            assert model.token_ids(said["metadata"]["prompt"]) == said["token_ids"]
            assert model.tokens(said["token_ids"]) == said["tokens"]


def test_the_fixture():
    model = gpt2np.load("fixture")
    bands = safetensors.numpy.load_file("fixture/bands.safetensors")
    stored = gpt2np.Trace.open("fixture/trace.safetensors")
    ids = [int(i) for i in Path("fixture/prompt.txt").read_text().split(",")]
    assert ids == stored.token_ids
    trace = model.trace(ids)
    assert bands.keys() == set(trace.names()) == set(stored.names())
    for name, band in bands.items():
        future = np.isneginf(stored[name])
        np.testing.assert_array_equal(np.isneginf(trace[name]), future)
        with np.errstate(invalid="ignore"):
            assert (np.abs(trace[name] - stored[name]) <= band)[~future].all(), name


# -- traces ---------------------------------------------------------------------------------------


def assert_opened(trace, said):
    """A trace with its model has what it had, and whatever could be checked or derived still can be."""
    assert_same(facts.trace_facts(trace), {name: said[name] for name in facts.trace_facts(trace)})
    derived = {name: facts.summary(array) for name, array in facts.derived_arrays(trace).items()}
    assert_same(derived, said["derived"])
    assert len(trace.verify().checked) >= said["verified"]
    if "top" in said:
        assert_same(trace.top(3, trace.positions[-1]), said["top"])


@pytest.mark.parametrize("path", TRACES)
def test_traces(path):
    said = EXPECTED["traces"][path]
    alone = gpt2np.Trace.open(path)
    assert facts.trace_facts(alone)["arrays"] == said["arrays"]
    assert list(alone.names()) == list(said["arrays"])
    assert_opened(gpt2np.Trace.open(path, model_of(path, alone)), said)
    assert_opened(read_dialect(path, model_of(path, alone)), said)


@pytest.mark.parametrize("path", TRACES)
def test_a_trace_is_what_other_readers_read(path):
    trace, stored = gpt2np.Trace.open(path), safetensors.numpy.load_file(path)
    assert set(trace.names()) == stored.keys()
    for name, array in stored.items():
        assert trace[name].dtype == array.dtype
        np.testing.assert_array_equal(trace[name], array)


def test_arrays_as_they_were():
    trace = gpt2np.Trace.open("traces/full.safetensors", gpt2np.load("model"))
    with np.load("expected.npz") as arrays:
        for name, array in arrays.items():
            assert trace[name].dtype == array.dtype
            if name in trace.names():
                np.testing.assert_array_equal(trace[name], array)
            else:
                np.testing.assert_allclose(trace[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["traces/full.safetensors", "traces/float16.safetensors"])
def test_a_trace_that_is_saved_again_is_the_same(path):
    gpt2np.Trace.open(path).save("again.safetensors")
    again = gpt2np.Trace.open("again.safetensors")
    said = EXPECTED["traces"][path]
    assert_same(facts.trace_facts(again), {name: said[name] for name in facts.trace_facts(again)})


def test_weights_that_were_copied_are_still_those_of_the_trace():
    os.utime("model/model.safetensors")
    model = gpt2np.load("model")
    assert model.checkpoint.fingerprint != EXPECTED["model"]["fingerprint"]
    gpt2np.Trace.open("traces/full.safetensors", model).verify()
    assert load_kv("kv/text.json", model).token_ids == EXPECTED["kv"]["kv/text.json"]["token_ids"]


@pytest.mark.parametrize("said", EXPECTED["commands"], ids=lambda said: " ".join(said["argv"][:4]))
def test_commands_take_them(run, said):
    out = run(*said["argv"])
    if said["out"] is not None:
        now = json.loads(out)
        assert_same(now, _only_said(_with_ranks_from_1(said["out"]), now))


def _only_said(out, now):
    """What version 0.1.0 printed, which told four facts even of files that do not say them."""
    facts = {"schema", "digest", "fingerprint", "input_token_ids"} - now.get("info", {"schema": 0}).keys()
    if "info" not in out:
        return out
    return out | {"info": {name: fact for name, fact in out["info"].items() if name not in facts}}


def _with_ranks_from_1(out):
    """What version 0.1.0 printed, whose lens gave the likeliest token rank 0."""
    if "rank" not in out:
        return out
    values = [[rank + 1 for rank in row] for row in out["rank"]["values"]]
    title = out["rank"]["title"].replace("(0 is the likeliest)", "(1 is the likeliest)")
    return out | {"rank": out["rank"] | {"values": values, "title": title}}


@pytest.mark.parametrize("said", EXPECTED["pages"], ids=lambda said: " ".join(said["argv"][:5]))
def test_view_shows_them(run, said):
    run(*said["argv"])
    page = Path("page.html").read_text("utf-8")
    assert_same(unpack(re.search(r'id="data">([^<]*)<', page)[1])[0], said["facts"])


@pytest.mark.parametrize("path", EXPECTED["comparisons"])
def test_compare_takes_them(path):
    said = EXPECTED["comparisons"][path]
    model = "fixture" if path.startswith("fixture") else "model"
    found = gpt2np.compare(path, model, "é in" if path in LLMC else None)
    expected = tuple(said.values())
    if "float16" in path:  # which is recognised now
        expected = (expected[0], "within-noise", None)
    assert (list(found.token_ids), found.verdict, found.site) == expected


# -- generations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", EXPECTED["generated"], ids=["sampled", "beams"])
def test_the_same_options_give_the_same_text(run, said):
    assert_same(json.loads(run(*said["argv"])), said["out"])


@pytest.mark.parametrize("path", LEDGERS)
def test_ledgers(path):
    lines = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    for line in lines:
        if line["raw_logits"] is not None:
            line["raw_logits"] = facts.digest(np.array(line["raw_logits"], np.float32))
    assert_same(lines, EXPECTED["ledgers"][path])
    n_prompt = 5 if "sampled" in path else 3
    chosen = EXPECTED["traces"][path.replace("jsonl", "safetensors")]["token_ids"][n_prompt:]
    assert [line["token_id"] for line in lines][:-1] == chosen


def test_a_ledger_is_chosen_again():
    response = []
    for text in Path("generations/sampled.jsonl").read_text("utf-8").splitlines():
        line = json.loads(text)
        n_prompt, logits = len(line["prompt_ids"]), np.array(line["raw_logits"], np.float32)
        choice = choose(
            logits,
            Sampling(**line["sampling"]),
            context=np.array([*line["prompt_ids"], *response]),
            prompt_length=n_prompt,
            uniform=line["uniform"],
            ledger="full",
        )
        assert_same(json.loads(json.dumps(choice.ledger.to_json())), line, rel=1e-6)
        response.append(choice.token_id)
    assert len(response) == 3


# -- keys and values ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*KV, *AS_KV])
def test_kv_files(path):
    said, kv = EXPECTED["kv"][path], read_kv(path)
    found = facts.kv_facts(kv)
    assert_same(found, {name: said[name] for name in found})
    if kv.digest is not None:
        assert kv.digest == kv.computed_digest()


@pytest.mark.parametrize("path", [path for path in [*KV, *AS_KV] if "continued" in EXPECTED["kv"][path]])
def test_a_text_goes_on_from_its_keys_and_values(path):
    model, said = gpt2np.load("model"), EXPECTED["kv"][path]
    done = load_kv(path, model).generate([5], max_new_tokens=2, eos=None).finish()
    assert done.token_ids == said["continued"]
    if path in TRACES or path in EXPORTS:
        past = read_dialect(path, model)
        prompt = [*said["token_ids"], 5]
        assert (
            model.generate(prompt, past=past, max_new_tokens=2, eos=None).finish().token_ids == done.token_ids
        )


# -- exports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXPORTS)
def test_exports_are_read_back(path):
    trace = read_dialect(path, model_of(path, read_dialect(path)))
    assert_opened(trace, EXPECTED["exports"][path])


@pytest.mark.parametrize("path", EXPORTS)
def test_exports_are_what_is_written_today(run, path):
    run(*EXPECTED["exported"][path])
    today, then = raw_arrays(Path(path).name), raw_arrays(path)
    assert list(today) == list(then)
    for name, array in then.items():
        assert today[name].dtype == array.dtype
        np.testing.assert_allclose(today[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def raw_arrays(path):
    """What other readers find in a file, the text about it left out."""
    if path.endswith(".safetensors"):
        return safetensors.numpy.load_file(path)
    with np.load(path) as file:
        return {name: array for name, array in file.items() if name != "gpt2np"}


def test_an_export_as_json_is_what_is_written_today(run):
    run(*EXPECTED["exported"]["exports/hf.json"])
    today, then = (json.loads(Path(path).read_text("utf-8")) for path in ("hf.json", "exports/hf.json"))
    assert_same(today, then)
    assert list(today["arrays"]) == list(then["arrays"])


def test_an_export_as_csv_is_what_is_written_today(run):
    run(*EXPECTED["exported"]["exports/hf.csv"])
    today, then = (csv_rows(path) for path in ("hf.csv", "exports/hf.csv"))
    assert_same(today, then)


def csv_rows(path):
    rows = list(csv.DictReader(Path(path).read_text("utf-8").splitlines()))
    return [row | {"value": float(row["value"])} for row in rows]


@pytest.mark.parametrize("path", TEXTS)
def test_exports_as_text_are_still_not_traces(capsys, path):
    assert main(["export", path, "--to", "npz", "-o", "out.npz"]) == 2
    assert "not read back" in capsys.readouterr().err


# -- captures and datasets ------------------------------------------------------------------------


@pytest.mark.parametrize("path", CAPTURES)
def test_captures(path):
    found = facts.capture_facts(load_capture(path))
    assert found == EXPECTED["captures"][path]


@pytest.mark.parametrize("path", TORCH)
def test_captures_of_torch(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "torch", None)  # which wrote them, and is not needed to read them
    found = facts.capture_facts(load_capture(path))
    assert found == EXPECTED["captures"][path.replace(".pt", ".safetensors")]


@pytest.mark.parametrize("name", ["greedy", "sampled"])
def test_manifests(name):
    folder = Path("captures", name)
    entries = {f"{folder.as_posix()}/{entry.path}": entry for entry in read_manifest(folder)}
    assert entries.keys() == {path for path in [*CAPTURES, *TORCH] if path.startswith(folder.as_posix())}
    for path, entry in entries.items():
        assert entry.bytes == Path(path).stat().st_size
        assert entry.model["fingerprint"] == EXPECTED["model"]["fingerprint"]


@pytest.mark.parametrize("said", RERUNS, ids=EXPECTED["reruns"])
def test_a_rerun_finds_everything_and_writes_nothing(run, said):
    before = all_files(".")
    assert_same(json.loads(run(*said["argv"])), said["out"])
    assert all_files(".") == before


@pytest.mark.needs("torch")
def test_a_rerun_with_torch_finds_everything_and_writes_nothing(run):
    before = all_files(".")
    argv = next(iter(RERUNS))["argv"]
    out = json.loads(run(*argv, "--format", "pt"))
    assert out["new"] == 0
    assert [f"captures/greedy/{entry['path']}" for entry in out["files"]] == TORCH
    assert all_files(".") == before


@pytest.mark.parametrize("said", RERUNS, ids=EXPECTED["reruns"])
def test_what_is_missing_is_made_again(run, said):
    before = all_files(".")
    folder, last = said["out"]["folder"], said["out"]["files"][-1]
    path = f"{folder}/{last.get('path') or last['file']}"
    Path(path).unlink()
    out = json.loads(run(*said["argv"]))
    assert out["written" if "written" in out else "new"] == 1
    after = all_files(".")
    lists = {f"{folder}/manifest.jsonl", f"{folder}/index.jsonl"}
    assert {name for name in before if after[name] != before[name]} - lists == {path}
    assert before.keys() == after.keys()
    assert_same_content(path, before[path][0])


def assert_same_content(path, content):
    """A file that was written today holds what the old one held, but for noise."""
    if path.endswith(".json"):
        then = json.loads(content)
        del then["digest"]
        assert_same(json.loads(Path(path).read_text("utf-8")), then)
        return
    today, then = safetensors.numpy.load_file(path), safetensors.numpy.load(content)
    assert today.keys() == then.keys()
    for name, array in then.items():
        np.testing.assert_allclose(today[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_experiment_grows(run):
    argv = next(iter(RERUNS))["argv"]
    before = all_files("captures")
    out = json.loads(run(*argv, "--layer-internals", "0"))
    assert out["new"] == 2
    after = all_files("captures")
    assert all(after[path] == before[path] for path in before if not path.endswith("manifest.jsonl"))


def test_a_dataset_grows(run):
    with Path("datasets/lines.txt").open("a", encoding="utf-8") as file:
        file.write("on\n")
    before = all_files("datasets/lines")
    argv = next(said["argv"] for said in RERUNS if "datasets/lines" in said["argv"])
    out = json.loads(run(*argv))
    assert out["written"] == 1
    assert [entry["file"] for entry in out["files"]] == [f"kv_{i:05}.json" for i in range(3)]
    after = all_files("datasets/lines")
    assert all(after[path] == before[path] for path in before if not path.endswith("index.jsonl"))
