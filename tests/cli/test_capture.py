"""`gpt2np capture`: prompt sets to folders of files, resumed, refused, cut off, and killed."""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from documents.capture_formats_steps import SETS

from gpt2np.capture.formats import load_capture
from gpt2np.capture.manifest import Manifest, read_manifest
from gpt2np.capture.prompt_set import SHIPPED, Prompt, PromptSet, load_prompt_set
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.cli import main
from gpt2np.errors import InputError, TraceError
from gpt2np.tables import cell_width

INTERNALS, RESIDUAL = "inference/raw/internals", "inference/raw/residual"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs one command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)

    def command(*argv):
        try:
            code = main(["capture", *map(str, argv)])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def refused(result):
    """The one line that a wrong command ends with."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("gpt2np")
    return last


def state(folder):
    """Bytes and time of change of every capture file."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "manifest.jsonl"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def assert_listed_is_whole(folder):
    """What the manifest lists has its size, its hash, and loads; the number of files listed."""
    entries = read_manifest(Path(folder))
    for entry in entries:
        content = (Path(folder) / entry.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)
        capture = load_capture(Path(folder) / entry.path)
        assert capture["prompt"]["text"] == entry.text
        assert len(capture["prompt"]["token_ids"]) == entry.prompt_tokens
        assert len(capture["response"]["token_ids"]) == entry.response_tokens
    assert len({entry.path for entry in entries}) == len(entries)
    return len(entries)


# -- what it writes, and where --------------------------------------------------------------------


def test_layer_internals_of_a_prompt(run, tiny):
    code, out, err = run(
        "--experiment", "my_exp", "--prompt", "Elizabeth was", "--layer-internals", 3, "--max-new-tokens", 5
    )
    assert code == 0, err
    assert list(state("experiments/my_exp")) == [f"{INTERNALS}/prompt/1_L3.safetensors"]
    capture = load_capture(f"experiments/my_exp/{INTERNALS}/prompt/1_L3.safetensors")
    done = tiny.generate("Elizabeth was", max_new_tokens=5, keep="*").finish()
    assert capture["response"]["text"] == done.response.text
    np.testing.assert_array_equal(capture["prompt"]["mlp"]["gelu"], done.trace["h.3.mlp.post"][:3])
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert f"{INTERNALS}/prompt" in out
    assert "experiments/my_exp" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "layers"), [([], [2]), (["all"], [0, 1, 2, 3]), (["0", "3"], [0, 3]), (["1", "1"], [1])]
)
def test_which_layers(run, given, layers):
    code, out, _ = run(
        "--prompt", "A", "--layer-internals", *given, "--max-new-tokens", 2, "--experiment", "x", "--json"
    )
    assert code == 0
    assert [file["layer"] for file in json.loads(out)["files"]] == layers
    assert sorted(state("experiments/x")) == [f"{INTERNALS}/prompt/1_L{i}.safetensors" for i in layers]


def test_raw_residual_of_a_set(run, tiny):
    code, out, _ = run(
        "--experiment", "my_exp", "--prompt-set", "single_trait", "--max-new-tokens", 3, "--json"
    )
    assert code == 0
    files = json.loads(out)["files"]
    prompts = load_prompt_set("single_trait").prompts
    assert [file["path"] for file in files] == [
        f"{RESIDUAL}/single_trait/{i}.safetensors" for i in range(1, 11)
    ]
    assert [(file["id"], file["text"]) for file in files] == [(p.id, p.text) for p in prompts]
    assert json.loads(out)["new"] == 10
    assert assert_listed_is_whole("experiments/my_exp") == 10
    capture = load_capture(f"experiments/my_exp/{RESIDUAL}/single_trait/4.safetensors")
    assert capture["prompt"]["token_ids"] == tiny.token_ids(prompts[3].text)
    assert list(capture["prompt"]["activations"]) == ["0", "1", "2", "3"]


def test_fifty_tokens_and_greedy_by_default(run, tiny):
    run("--prompt", "Elizabeth was", "--experiment", "x", "--output", "there")
    capture = load_capture(f"there/x/{RESIDUAL}/prompt/1.safetensors")
    assert capture["response"]["token_ids"] == tiny.generate("Elizabeth was").finish().response.token_ids
    assert capture["response"]["activations"]["0"]["residual_in"].shape == (50, 192)


def test_sampling_is_repeatable(run, tiny):
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8"), ("d", None)):
        options = [] if seed is None else ["--seed", seed]
        argv = [
            "--prompt",
            "Elizabeth was",
            "--experiment",
            name,
            "--max-new-tokens",
            8,
            "--temperature",
            0.9,
        ]
        assert run(*argv, *options)[0] == 0
    texts = [
        load_capture(f"experiments/{name}/{RESIDUAL}/prompt/1.safetensors")["response"]["text"]
        for name in "abcd"
    ]
    assert texts[0] == texts[1] != texts[2]
    again = tiny.generate("Elizabeth was", max_new_tokens=8, temperature=0.9, seed=0).finish()
    assert texts[3] == again.response.text
    assert read_manifest(Path("experiments/a"))[0].options == {
        "max_new_tokens": 8,
        "temperature": 0.9,
        "seed": 7,
    }


@pytest.mark.needs("torch")
def test_pt_beside_safetensors(run):
    import torch

    argv = ["--prompt", "Elizabeth was", "--experiment", "x", "--max-new-tokens", 3, "--layer-internals"]
    assert run(*argv)[0] == 0
    assert run(*argv, "--format", "pt")[0] == 0
    one, other = (f"experiments/x/{INTERNALS}/prompt/1_L2.{end}" for end in ("pt", "safetensors"))
    np.testing.assert_array_equal(
        torch.load(one)["prompt"]["attention"]["attn_weights"].numpy(),
        load_capture(other)["prompt"]["attention"]["attn_weights"],
    )
    assert assert_listed_is_whole("experiments/x") == 2


def test_pt_needs_no_torch(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    argv = ["--prompt", "A", "--experiment", "x", "--max-new-tokens", 3]
    assert run(*argv, "--format", "pt")[0] == 0
    assert run(*argv)[0] == 0
    one, other = (load_capture(f"experiments/x/{RESIDUAL}/prompt/1.{end}") for end in ("pt", "safetensors"))
    assert one["response"]["tokens"] == other["response"]["tokens"]
    for layer in "0123":
        for name, array in one["response"]["activations"][layer].items():
            np.testing.assert_array_equal(array, other["response"]["activations"][layer][name])


def test_a_set_of_ones_own(run, tmp_path):
    rows = [{"id": 7, "text": "A"}, {"id": "mr-darcy.2", "text": "B", "note": "why"}]
    (tmp_path / "mine.json").write_text(json.dumps({"prompts": rows}))
    assert run("--prompt-set", tmp_path / "mine.json", "--experiment", "x", "--max-new-tokens", 1)[0] == 0
    assert sorted(state("experiments/x")) == [f"{RESIDUAL}/mine/{i}.safetensors" for i in ("7", "mr-darcy.2")]


def test_progress_only_on_a_terminal(run, monkeypatch):
    assert "prompt/s" not in run("--prompt", "A", "--experiment", "x", "--max-new-tokens", 1)[2]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, out, err = run("--prompt", "A", "--experiment", "y", "--max-new-tokens", 1)
    assert code == 0
    assert "1/1" in err
    assert "1/1" not in out


# -- the shipped sets -----------------------------------------------------------------------------


def test_the_six_sets(tiny):
    assert list(SETS) == list(SHIPPED)
    texts = []
    for name, size in SETS.items():
        prompts = load_prompt_set(name)
        assert (prompts.name, [p.id for p in prompts.prompts]) == (name, list(range(1, size + 1)))
        assert prompts.description
        for prompt in prompts.prompts:
            assert prompt.note
            assert len(tiny.token_ids(prompt.text)) + 50 <= tiny.config.n_positions
            texts.append(prompt.text)
    assert len(set(texts)) == sum(SETS.values()) == 51


def test_list(run, tiny):
    code, out, _ = run("--list")
    assert code == 0
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert all(name in out for name in SETS)
    code, out, _ = run("--list", "--json")
    sets = json.loads(out)["prompt_sets"]
    assert {s["name"]: len(s["prompts"]) for s in sets} == SETS
    for prompt in (p for s in sets for p in s["prompts"]):
        assert prompt["tokens"] == len(tiny.token_ids(prompt["text"]))


# -- again, and otherwise -------------------------------------------------------------------------

ARGV = [
    "--prompt-set",
    "baseline",
    "--layer-internals",
    "1",
    "2",
    "--max-new-tokens",
    "3",
    "--experiment",
    "x",
]


def test_a_rerun_changes_nothing(run):
    assert run(*ARGV)[0] == 0
    before, manifest = state("experiments/x"), Path("experiments/x/manifest.jsonl").read_bytes()
    code, out, _ = run(*ARGV, "--json")
    assert (code, json.loads(out)["new"], len(json.loads(out)["files"])) == (0, 0, 10)
    assert state("experiments/x") == before
    assert Path("experiments/x/manifest.jsonl").read_bytes() == manifest


def test_more_layers_and_more_sets_are_added(run):
    run(*ARGV)
    before = state("experiments/x")
    code, out, _ = run(*(a if a != "2" else "3" for a in ARGV), "--json")
    assert (code, json.loads(out)["new"]) == (0, 5)
    assert run("--prompt-set", "dynamic", "--max-new-tokens", 3, "--experiment", "x")[0] == 0
    after = state("experiments/x")
    assert {path: after[path] for path in before} == before
    assert len(after) == assert_listed_is_whole("experiments/x") == 10 + 5 + 8


def test_what_was_deleted_is_captured_again_and_the_same(run):
    run(*ARGV)
    before = state("experiments/x")
    path = f"{INTERNALS}/baseline/3_L2.safetensors"
    (Path("experiments/x") / path).unlink()
    _, out, _ = run(*ARGV, "--json")
    assert json.loads(out)["new"] == 1
    after = state("experiments/x")
    assert after.pop(path)[0] == before.pop(path)[0]
    assert after == before
    assert assert_listed_is_whole("experiments/x") == 10  # the last line of a path counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--max-new-tokens", "4"], "was captured with max_new_tokens 3, this run has 4"),
        (["--temperature", "0.5"], "was captured with temperature 0.0, this run has 0.5"),
        (["--dtype", "float64"], "was captured with dtype float32, this run has float64"),
    ],
)
def test_other_options_are_refused(run, change, message):
    run(*ARGV)
    before, manifest = state("experiments/x"), Path("experiments/x/manifest.jsonl").read_bytes()
    line = refused(run(*ARGV, *change))
    assert message in line
    assert "another experiment" in line
    assert (state("experiments/x"), Path("experiments/x/manifest.jsonl").read_bytes()) == (before, manifest)


def test_another_seed_is_refused_only_where_it_counts(run):
    assert run(*ARGV, "--seed", 1)[0] == run(*ARGV, "--seed", 2)[0] == 0
    sampled = ["--prompt", "A", "--experiment", "y", "--max-new-tokens", 2, "--temperature", 1, "--seed"]
    assert run(*sampled, 1)[0] == 0
    assert "was captured with seed 1, this run has 2" in refused(run(*sampled, 2))


def test_another_model_is_refused(run, tmp_path):
    from support.tiny_checkpoint import write

    assert run("--prompt", "the", "--max-new-tokens", 2, "--experiment", "x")[0] == 0
    line = refused(
        run("--prompt", "in", "--max-new-tokens", 2, "--experiment", "x", "--model", write(tmp_path / "m"))
    )
    assert "was captured with model tiny (" in line
    assert "another experiment" in line


def test_a_copy_of_the_model_is_the_model(run, tmp_path):
    from support.tiny_checkpoint import write

    options = ["--max-new-tokens", 2, "--experiment", "x", "--model"]
    model = write(tmp_path / "m")
    assert run("--prompt", "the", *options, model)[0] == 0
    copy = shutil.copytree(model, tmp_path / "copy")
    os.utime(copy / "model.safetensors", (10**9, 10**9))
    assert run("--prompt", "in", *options, copy)[0] == 0
    weights = {entry.model["weights"] for entry in read_manifest(Path("experiments/x"))}
    assert len(weights) == 1
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\0")
    assert "was captured with model" in refused(run("--prompt", "on", *options, copy))


def listed(folder="experiments/x"):
    return [(entry.id, entry.text, Path(entry.path).name) for entry in read_manifest(Path(folder))]


def test_prompts_get_the_next_number(run):
    argv = ["--experiment", "x", "--max-new-tokens", 2, "--prompt"]
    for text, id, more in (
        ("Elizabeth", 1, []),
        ("Darcy", 2, []),
        ("Elizabeth", 1, []),  # is there
        ("Darcy", 2, ["--layer-internals", "3"]),
        ("Jane", 9, ["--id", "9"]),
        ("Bingley", 10, []),
        ("Lydia", "mr.w", ["--id", "mr.w"]),
        ("Kitty", 11, ["--layer-internals", "0"]),
        ("Lydia", "mr.w", []),
        ("Jane", 9, ["--id", "9"]),
        ("Jane", 12, ["--id", "12"]),  # said so
    ):
        before = state("experiments/x") if Path("experiments").exists() else {}
        code, out, err = run(*argv, text, *more, "--json")
        assert code == 0, err
        (entry,) = json.loads(out)["files"]
        assert (entry["id"], entry["text"]) == (id, text)
        assert {path: state("experiments/x")[path] for path in before} == before
    assert len(listed()) == assert_listed_is_whole("experiments/x") == 8


def test_an_id_of_the_manifest_that_is_a_path(run):
    argv = ["--experiment", "x", "--max-new-tokens", 2, "--prompt", "Elizabeth"]
    assert run(*argv)[0] == 0
    manifest = Path("experiments/x/manifest.jsonl")
    row = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(row | {"id": "../../../../mine"}) + "\n")
    before = sorted(Path().rglob("*"))
    assert "manifest.jsonl: the id '../../../../mine' must consist of" in refused(run(*argv))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("id", ["1", "x-1"])
def test_another_prompt_of_the_same_id_is_refused(run, id):
    argv = ["--experiment", "x", "--max-new-tokens", 2, "--id", id, "--prompt"]
    assert run(*argv, "Elizabeth")[0] == 0
    line = refused(run(*argv, "Darcy"))
    assert f"{id}.safetensors is of another prompt, 'Elizabeth': take another id, or another exp" in line
    assert len(listed()) == 1


# -- saved generations ----------------------------------------------------------------------------


def generate(run, text, name, *more):
    from gpt2np.cli import main

    assert main(["generate", text, "--max-new-tokens", "3", "--out", name, *more]) == 0


@pytest.mark.parametrize("format", ["safetensors", "pt"])
@pytest.mark.parametrize("layers", [[], ["--layer-internals"], ["--layer-internals", "all"]])
def test_a_saved_generation(run, capsys, format, layers):
    generate(run, "Elizabeth was", "g.safetensors")
    capsys.readouterr()
    options = [*layers, "--format", format, "--json"]
    code, out, err = run("--trace", "g.safetensors", "--experiment", "x", *options)
    assert code == 0, err
    asked = ["--prompt", "Elizabeth was", "--max-new-tokens", 3, "--experiment", "y", *options]
    expected = json.loads(run(*asked)[1])["files"]
    found = json.loads(out)["files"]
    assert [e["path"] for e in found] == [e["path"] for e in expected]
    for one, other in zip(found, expected, strict=True):
        assert_same(*(load_capture(f"experiments/{x}/{e['path']}") for x, e in (("x", one), ("y", other))))
        for key in ("id", "text", "layer", "prompt_tokens", "response_tokens"):
            assert one[key] == other[key]
        assert one["model"]["fingerprint"] == other["model"]["fingerprint"]
    assert run("--trace", "g.safetensors", "--experiment", "x", *options)[0] == 0
    assert len(listed()) == assert_listed_is_whole("experiments/x") == len(found)


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_several_saved_generations(run):
    for seed in "12":
        generate(run, "Elizabeth", f"{seed}.safetensors", "--temperature", "1.5", "--seed", seed)
    generate(run, "Darcy", "3.safetensors", "--temperature", "1.5", "--seed", "1")
    generate(run, "Darcy", "greedy.safetensors")
    for name, id in (("1", 1), ("2", 2), ("3", 3), ("2", 2)):
        code, out, err = run("--trace", f"{name}.safetensors", "--experiment", "x")
        assert code == 0, err
        assert f"1 of {name}.safetensors" in out
        assert listed()[-1 if name == "3" else id - 1][0] == id
    assert len(listed()) == 3
    line = refused(run("--trace", "2.safetensors", "--experiment", "x", "--id", "1"))
    assert "is of another generation of the prompt, 'Elizabeth'" in line
    assert "was captured with sampling {" in refused(
        run("--trace", "greedy.safetensors", "--experiment", "x")
    )
    line = refused(run("--prompt", "A", "--experiment", "x"))
    assert "was captured without max_new_tokens, this run has 50" in line
    assert run("--prompt", "A", "--max-new-tokens", 1, "--experiment", "y")[0] == 0
    line = refused(run("--trace", "2.safetensors", "--experiment", "y"))
    assert "was captured without saved, this run has True" in line


def test_traces_that_are_no_whole_generation(run, tiny):
    tiny.trace("Elizabeth").save("text.safetensors")
    tiny.generate("Elizabeth", max_new_tokens=2, keep="attn.pattern").finish().trace.save("few.safetensors")
    trace = tiny.generate("Elizabeth", max_new_tokens=2, keep="*").finish().trace
    del trace.metadata["generation"]
    trace.save("old.safetensors")
    Path("junk.safetensors").write_bytes(b"junk")
    for name, message in (
        ("text", "is of a text that was read, not of a generation"),
        ("few", "few.safetensors: h.0.resid_pre is derived: embed is not in this trace"),
        ("old", "does not have the last token"),
        ("junk", "junk.safetensors: "),
        ("none", "none.safetensors: no such file"),
    ):
        assert message in refused(run("--trace", f"{name}.safetensors", "--experiment", "x"))
    trace.save("g.safetensors")
    for option, value in (("--max-new-tokens", 5), ("--temperature", 1), ("--seed", 1)):
        line = refused(run("--trace", "g.safetensors", "--experiment", "x", option, value))
        assert f"{option} chooses tokens, and those of --trace are chosen already" in line
    assert not Path("experiments").exists()


# -- wrong input ----------------------------------------------------------------------------------

X = ["--experiment", "x"]
WRONG = {
    "nothing": ([], "give --prompt TEXT, --prompt-set"),
    "no prompt": (X, "give --prompt TEXT, --prompt-set"),
    "an id that is a path": ([*X, "--prompt", "A", "--id", "../a"], "--id '../a' must consist"),
    "an id of a set": ([*X, "--prompt-set", "dynamic", "--id", "1"], "--id goes with --prompt or --trace"),
    "a prompt and a trace": ([*X, "--prompt", "A", "--trace", "g.safetensors"], "not allowed with"),
    "no experiment": (["--prompt", "A"], "--experiment NAME is needed"),
    "two prompts": ([*X, "--prompt", "A", "--prompt-set", "dynamic"], "not allowed with"),
    "an experiment that is a path": (["--prompt", "A", "--experiment", "../x"], "'../x' must consist"),
    "an experiment without a name": (["--prompt", "A", "--experiment", ""], "--experiment '' must consist"),
    "an unknown set": ([*X, "--prompt-set", "dynamics"], "'dynamics': the nearest is 'dynamic'"),
    "a very unknown set": ([*X, "--prompt-set", "q"], "no prompt set 'q': there are single_trait, multi"),
    "no file": ([*X, "--prompt-set", "no.json"], "no.json: no such file"),
    "a file of a shipped set": (
        [*X, "--prompt-set", "inference/prompts/dynamic.json"],
        "prompts/dynamic.json: no such file; the set that comes with gpt2np is called dynamic",
    ),
    "an empty prompt": ([*X, "--prompt", ""], "the prompt: the prompt is empty"),
    "a long prompt": ([*X, "--prompt", "the " * 300], "the prompt: 3"),
    "a long response": ([*X, "--prompt", "A", "--max-new-tokens", "257"], "257 new ones take 257 positions"),
    "no response": ([*X, "--prompt", "A", "--max-new-tokens", "0"], "not a whole number of at least 1"),
    "no such layer": ([*X, "--prompt", "A", "--layer-internals", "4"], "layer=4: must be"),
    "a layer below 0": ([*X, "--prompt", "A", "--layer-internals", "-1"], "-1"),
    "a layer in words": ([*X, "--prompt", "A", "--layer-internals", "two"], "layer numbers, or all alone"),
    "all and more": ([*X, "--prompt", "A", "--layer-internals", "all", "1"], "layer numbers, or all alone"),
    "a huge layer": ([*X, "--prompt", "A", "--layer-internals", "9" * 30], "from 0 to 3"),
    "a temperature below 0": ([*X, "--prompt", "A", "--temperature", "-1"], "temperature"),
    "no temperature": ([*X, "--prompt", "A", "--temperature", "nan"], "temperature"),
    "a seed below 0": ([*X, "--prompt", "A", "--temperature", "1", "--seed", "-1"], "seed"),
    "another format": ([*X, "--prompt", "A", "--format", "npz"], "invalid choice"),
    "no model": ([*X, "--prompt", "A", "--model", "./nowhere"], "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(run, case):
    argv, message = WRONG[case]
    assert message in refused(run(*argv))
    assert not Path("experiments").exists()


BAD_SETS = {
    "not JSON": ("{", "is not JSON"),
    "deep JSON": ("[" * 100_000, "is not JSON"),
    "not UTF-8": (b"\xff\xfe\x00", "byte 0xff at 0 is not UTF-8"),
    "a list": ("[]", "must hold"),
    "no prompts": ('{"prompts": []}', "must hold"),
    "prompts of numbers": ('{"prompts": ["A", 5]}', "prompt 2 must be a text, or an object with a 'text'"),
    "a number for a description": ('{"description": 1, "prompts": [{"id": 1, "text": "A"}]}', "must hold"),
    "a list of one without text": ('["A", {"id": 1}]', "prompt 2 must have a 'text'"),
    "an unknown key": ('{"prompts": [{"id": 1, "text": "A", "txt": "B"}]}', "prompt 1 must have"),
    "no text": ('{"prompts": [{"text": "A"}, {"id": 2, "text": ""}]}', "prompt 2 must have a 'text'"),
    "a number for a text": ('{"prompts": [{"id": 1, "text": 5}]}', "prompt 1 must have a 'text'"),
    "an id that is a list": ('{"prompts": [{"id": [1], "text": "A"}]}', "prompt 1: the id must be"),
    "an id that is true": ('{"prompts": [{"id": true, "text": "A"}]}', "prompt 1: the id must be"),
    "an id below 0": ('{"prompts": [{"id": -1, "text": "A"}]}', "the id '-1' must consist"),
    "an id that is a path": ('{"prompts": [{"id": "../a", "text": "A"}]}', "the id '../a' must consist"),
    "a hidden id": ('{"prompts": [{"id": ".a", "text": "A"}]}', "the id '.a' must consist"),
    "an id twice": ('{"prompts": [{"id": 1, "text": "A"}, {"id": "1", "text": "B"}]}', "'1' appears twice"),
    "a long one among others": (
        json.dumps({"prompts": [{"id": 1, "text": "A"}, {"id": 2, "text": "the " * 240}]}),
        "prompt 2 of bad: 241 tokens and 50 new ones take 290 positions "
        "(the last token is not run); the context of this model holds 256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SETS)
def test_bad_prompt_sets(run, tmp_path, case):
    content, message = BAD_SETS[case]
    (tmp_path / "bad.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(run(*X, "--prompt-set", "bad.json"))
    assert message in line
    assert len(line) < 400
    assert not Path("experiments").exists()


def test_a_set_with_half_a_surrogate_pair(run, tmp_path):
    (tmp_path / "mine.json").write_text('{"prompts": [{"id": 1, "text": "a\\ud800"}]}')
    last = refused(run("--prompt-set", "mine.json", "--experiment", "x"))
    assert "mine.json: a text in it is not valid Unicode" in last


def test_a_set_file_needs_a_name(run, tmp_path):
    (tmp_path / "a b.json").write_text('{"prompts": [{"id": 1, "text": "A"}]}')
    assert "the name of the set 'a b' must consist" in refused(run(*X, "--prompt-set", "a b.json"))
    (tmp_path / "d.json").mkdir()
    assert "d.json: expected a file, found a folder" in refused(run(*X, "--prompt-set", "d.json"))


def test_folders_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("here")
    argv = ["--prompt", "A", "--experiment", "x", "--max-new-tokens", "1"]
    assert "cannot be written (Not a directory)" in refused(run(*argv, "--output", "file"))
    (tmp_path / "experiments/x/inference").mkdir(parents=True)
    (tmp_path / "experiments/x/inference/raw").write_text("here")
    assert "cannot be written" in refused(run(*argv))
    assert (tmp_path / "experiments/x/inference/raw").read_text() == "here"
    (tmp_path / "experiments/y/manifest.jsonl").mkdir(parents=True)
    assert "cannot be written (Is a directory)" in refused(run("--prompt", "A", "--experiment", "y"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(run, tmp_path):
    (tmp_path / "experiments").mkdir(mode=0o555)
    assert "cannot be written (Permission denied)" in refused(run("--prompt", "A", "--experiment", "x"))


MANIFESTS = ["[]", "{}", "x", '{"path": "a"}', "[" * 100_000, "", "\xff"]


@pytest.mark.parametrize("line", MANIFESTS, ids=lambda line: line[:10])
def test_a_damaged_manifest(run, line):
    run(*ARGV)
    manifest, before = Path("experiments/x/manifest.jsonl"), state("experiments/x")
    good = manifest.read_bytes()
    damaged = good + line.encode("latin-1") + b"\n"
    manifest.write_bytes(damaged)
    assert "manifest.jsonl: line 11: " in refused(run(*ARGV))
    with pytest.raises(TraceError, match="line 11"):
        read_manifest(Path("experiments/x"))
    assert (manifest.read_bytes(), state("experiments/x")) == (damaged, before)
    wrong = json.loads(good.splitlines()[0]) | {"bytes": "many"}
    manifest.write_text(json.dumps(wrong) + "\n")
    assert "line 1: bytes is 'many'" in refused(run(*ARGV))
    with pytest.raises(TraceError, match="no such file"):
        read_manifest(Path("nowhere"))


def test_a_file_that_has_changed_its_size(run):
    run(*ARGV)
    path = Path(f"experiments/x/{INTERNALS}/baseline/3_L2.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    before = state("experiments/x")
    assert "3_L2.safetensors: has" in refused(run(*ARGV))
    assert state("experiments/x") == before


# -- cut off in the middle ------------------------------------------------------------------------


def test_a_line_that_was_not_finished(run):
    """The file of the unfinished line is whole; it is listed again, and not touched."""
    run(*ARGV)
    manifest, before = Path("experiments/x/manifest.jsonl"), state("experiments/x")
    good = manifest.read_bytes()
    for cut in (good[:-1], good[:-40], good[: good.rfind(b"\n", 0, -1) + 1], b"{", b""):
        manifest.write_bytes(cut)
        code, out, _ = run(*ARGV, "--json")
        assert code == 0
        assert json.loads(out)["new"] == 10 - cut.count(b"\n")
        assert manifest.read_bytes() == good
        assert state("experiments/x") == before


def test_a_file_of_somebody_else_is_left_alone(run):
    path = Path(f"experiments/x/{INTERNALS}/baseline/2_L1.safetensors")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    line = refused(run(*ARGV))
    assert "2_L1.safetensors: is there, but not in the manifest" in line
    assert path.read_bytes() == b"mine"
    assert assert_listed_is_whole("experiments/x") == 2  # the first prompt's
    assert len(state("experiments/x")) == 3
    path.unlink()
    assert run(*ARGV)[0] == 0
    assert assert_listed_is_whole("experiments/x") == 10


def test_what_a_killed_run_left_half_done_is_removed(run):
    run(*ARGV)
    before = state("experiments/x")
    folder = Path("experiments/x") / INTERNALS / "baseline"
    (folder / ".gpt2np-0123.tmp").write_bytes(b"half")
    (folder / ".gpt2np-4567.tmp").mkdir()
    (folder / ".gpt2np-4567.tmp/1_L0.safetensors").write_bytes(b"half")
    assert run(*ARGV)[0] == 0
    assert state("experiments/x") == before


def test_one_run_at_a_time(run):
    with Manifest(Path("experiments/x")):
        assert "another capture is writing to this experiment" in refused(run(*ARGV))
    assert run(*ARGV)[0] == 0


@pytest.mark.parametrize("when", [0, 1, 5, 9])
def test_disk_full_in_the_middle(run, monkeypatch, when):
    reserve, calls = os.posix_fallocate, []

    def full(*place):
        calls.append(1)
        if len(calls) > when:
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(*place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert "No space left on device" in refused(run(*ARGV))
    before = state("experiments/x")
    assert len(before) == assert_listed_is_whole("experiments/x") == when
    assert run(*ARGV)[0] == 0
    after = state("experiments/x")
    assert {path: after[path] for path in before} == before
    assert len(after) == assert_listed_is_whole("experiments/x") == 10


@pytest.mark.needs("torch")
def test_disk_full_in_the_middle_of_a_pt_file(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        last = refused(run("--prompt", "Hello", "--experiment", "x", "--format", "pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "1.pt: cannot be written (File too large)" in last
    assert state("experiments/x") == {}


def test_disk_full_while_listing(run, monkeypatch):
    write, written = os.write, []

    def full(file, data):
        written.append(1)
        if len(written) == 4:
            return write(file, data[:30])  # a part of the line, and then no more
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert "manifest.jsonl: cannot be written (No space left" in refused(run(*ARGV))
    assert Path("experiments/x/manifest.jsonl").read_bytes().endswith(b"}\n")
    assert assert_listed_is_whole("experiments/x") == 3
    before = state("experiments/x")
    assert len(before) == 4
    assert run(*ARGV)[0] == 0
    after = state("experiments/x")
    assert {path: after[path] for path in before} == before
    assert assert_listed_is_whole("experiments/x") == 10


def test_killed_at_ten_random_moments(tmp_path):
    """kill -9: what is listed is whole, and later runs change nothing that was there and finish the rest."""
    prompts = [{"id": i, "text": f"Chapter {i}. Elizabeth"} for i in range(150)]
    (tmp_path / "many.json").write_text(json.dumps({"prompts": prompts}))
    argv = ["capture", "--prompt-set", "many.json", "--layer-internals", "all", "--max-new-tokens", "3"]
    command = [sys.executable, "-m", "gpt2np", *argv, "--experiment", "x"]
    folder, random_moment = tmp_path / "experiments/x", random.Random(0)
    manifest = folder / "manifest.jsonl"
    environment = {key: value for key, value in os.environ.items() if key != "GPT2NP_MODEL"}
    before, listed, killed = {}, 0, 0
    for _ in range(10):
        size = manifest.stat().st_size if manifest.exists() else 0
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, env=environment)
        while process.poll() is None and not (manifest.exists() and manifest.stat().st_size > size):
            time.sleep(0.002)
        time.sleep(random_moment.uniform(0, 0.15))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        count = assert_listed_is_whole(folder)
        assert count >= listed
        after = state(folder)
        half_done = {path for path in after if path.startswith(".gpt2np-")}
        assert {path: after.get(path) for path in before} == before
        assert len({Path(path).parts[0] for path in half_done}) <= 1  # the next run removes them
        before, listed = {path: after[path] for path in after.keys() - half_done}, count
    assert killed >= 5  # or else the machine is so fast that it was done before
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    after = state(folder)
    assert {path: after[path] for path in before} == before
    expected = {f"{INTERNALS}/many/{i}_L{layer}.safetensors" for i in range(150) for layer in range(4)}
    assert after.keys() == expected
    assert assert_listed_is_whole(folder) == 600


def test_from_python(tiny, tmp_path):
    prompts = PromptSet("mine", (Prompt(1, "Elizabeth"), Prompt(2, "Darcy")))
    seen = []
    entries, new = capture_prompts(
        tiny,
        prompts,
        tmp_path / "x",
        layers=[0],
        options=Options(max_new_tokens=2),
        advance=lambda: seen.append(1),
    )
    assert (len(entries), new, len(seen)) == (2, 2, 2)
    assert entries == read_manifest(tmp_path / "x")
    with pytest.raises(InputError, match="safetensors or pt, not 'npz'"):
        capture_prompts(tiny, prompts, tmp_path / "y", format="npz")
    with pytest.raises(InputError, match="layer=True: must be"):
        capture_prompts(tiny, prompts, tmp_path / "y", layers=[True])
    assert not (tmp_path / "y").exists()


LISTS = {
    "mine.txt": "Hello world\r\n\n  \nMachine learning\n",
    "mine.jsonl": '"Hello world"\n\n{"prompt": "Machine learning"}\n',
    "mine.json": '["Hello world", {"text": "Machine learning"}]',
    "mine2.json": '{"prompts": [{"text": "Hello world"}, "Machine learning"]}',
}


@pytest.mark.parametrize("name", LISTS)
def test_many_prompts_come_from_lines_json_lines_and_lists(run, tmp_path, name):
    (tmp_path / name).write_text(LISTS[name], "utf-8")
    first = run("--prompt-set", name, "--experiment", "x", "--max-new-tokens", "2", "--json")
    files = json.loads(first[1])["files"]
    assert [(entry["id"], entry["text"]) for entry in files] == [(1, "Hello world"), (2, "Machine learning")]
    again = run("--prompt-set", name, "--experiment", "x", "--max-new-tokens", "2", "--json")
    assert json.loads(again[1])["new"] == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", "Hello\n" * 730 + "the " * 240, "prompt 731 of bad: 241 tokens"),
        ("bad.txt", "\n \n", "holds no prompts"),
        ("bad.jsonl", '"A"\n{"text": 5}', "bad.jsonl: line 2 must have a 'text'"),
        ("bad.jsonl", '"A"\nB', "bad.jsonl: line 2: is not JSON"),
        ("bad.json", "[]", "must hold a list"),
        ("bad.jsonl", '{"id": "a", "text": "A"}\n{"id": "a", "text": "B"}', "'a' appears twice"),
    ],
)
def test_the_prompt_that_is_refused_is_named(run, tmp_path, name, content, message):
    (tmp_path / name).write_text(content, "utf-8")
    assert message in refused(run(*X, "--prompt-set", name))
    assert not Path("experiments").exists()
