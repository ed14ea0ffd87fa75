"""`gpt2np generate` and `gpt2np score` as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.command_line import run

import gpt2np
from gpt2np.analysis.interventions import zero

PROMPT = "Elizabeth was"


def test_it_prints_prompt_and_continuation(capsys, tiny):
    code, out, err = run(capsys, "generate", PROMPT, "--max-new-tokens", "12")
    assert code == 0
    assert out == tiny.generate(PROMPT, max_new_tokens=12).finish().text + "\n"
    assert err == ""


def test_options_mirror_python(capsys, tiny):
    options = {
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "no_repeat_ngram_size": 3,
        "seed": 4,
        "max_new_tokens": 30,
    }
    flags = [text for name, v in options.items() for text in ("--" + name.replace("_", "-"), str(v))]
    _, out, _ = run(capsys, "generate", PROMPT, *flags, "--stop", "\n", "--json")
    facts, done = json.loads(out), tiny.generate(PROMPT, stop="\n", **options).finish()
    assert facts["text"] == done.text
    assert facts["response"]["token_ids"] == done.response.token_ids
    assert facts["stopped_by"] == done.stopped_by


def test_beams_lookup_slide_and_eos(capsys, tiny):
    _, beams, _ = run(capsys, "generate", PROMPT, "--num-beams", "3", "--early-stopping", "true", "--json")
    assert json.loads(beams)["text"] == tiny.generate(PROMPT, num_beams=3, early_stopping=True).finish().text
    _, guessed, _ = run(capsys, "generate", PROMPT, "--lookup", "4")
    _, plain, _ = run(capsys, "generate", PROMPT)
    assert guessed == plain
    long = ["--tokens", ",".join(["7"] * 250), "--max-new-tokens", "10"]
    assert run(capsys, "generate", *long)[0] == 2
    assert run(capsys, "generate", *long, "--on-overflow", "slide")[0] == 0
    first = tiny.generate(PROMPT, max_new_tokens=1).finish().token_ids[-1]
    _, ended, _ = run(capsys, "generate", PROMPT, "--eos", str(first), "--json")
    assert json.loads(ended)["stopped_by"] == "eos"
    _, endless, _ = run(capsys, "generate", PROMPT, "--eos", "none", "--json")
    assert json.loads(endless)["stopped_by"] == "length"


def test_out_saves_the_trace_and_ledger_the_choices(capsys, tmp_path):
    trace, ledger = tmp_path / "g.safetensors", tmp_path / "g.jsonl"
    code, _, err = run(
        capsys, "generate", PROMPT, "--max-new-tokens", "9", "--temperature", "1", "--seed", "2",
        "--out", str(trace), "--ledger", str(ledger), "--keep", "resid_post", "--keep", "logits",
    )  # fmt: skip
    assert code == 0
    assert str(trace) in err
    opened = gpt2np.Trace.open(trace)
    assert opened.metadata["n_prompt"] == 3
    assert set(opened.names()) == {"logits", *(f"h.{i}.resid_post" for i in range(4))}
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(lines) == 9
    assert len(opened.token_ids) == 3 + 9 - 1
    assert [line["token_id"] for line in lines][:-1] == opened.token_ids[3:]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.jsonl", "g.safetensors"]


def default_interrupt():
    """A process started in the background ignores Ctrl-C, and so do those that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_with_what_there_is(tmp_path):
    ledger = tmp_path / "l.jsonl"
    command = [sys.executable, "-u", "-m", "gpt2np", "generate", PROMPT, "--max-new-tokens", "200000"]
    command += ["--on-overflow", "slide", "--ledger", str(ledger)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=default_interrupt
    )
    shown = process.stdout.read(len(PROMPT) + 20)  # it is under way
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert (shown + out).startswith(PROMPT.encode())
    assert out.endswith(b"\n")
    assert len(ledger.read_text().splitlines()) >= 1


def test_text_arrives_as_it_is_chosen():
    command = [sys.executable, "-m", "gpt2np", "generate", PROMPT, "--max-new-tokens", "240"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=buffered
    )
    pieces = []
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        pieces.append(piece)
    assert process.wait() == 0
    assert len(pieces) > 3


@pytest.mark.parametrize("text", ["It is a truth universally acknowledged. " * 60, "To be"])
def test_score(capsys, tmp_path, tiny, text):
    file = tmp_path / "text.txt"
    file.write_text(text)
    code, out, _ = run(capsys, "score", str(file), "--json", "--tokens", "--stride", "64")
    assert code == 0
    facts, result = json.loads(out), tiny.score(text, stride=64)
    assert facts["perplexity"] == result.perplexity
    assert facts["loss"] == result.loss
    assert facts["per_token"][0]["loss"] is None
    assert len(facts["per_token"]) == len(result.token_ids)
    _, table, _ = run(capsys, "score", str(file), "--tokens")
    assert max(map(len, table.splitlines())) <= 80


WRONG = [
    ["generate", ""],
    ["generate", PROMPT, "--temperature", "-1"],
    ["generate", PROMPT, "--temperature", "nan"],
    ["generate", PROMPT, "--top-p", "1.5"],
    ["generate", PROMPT, "--top-k", "x"],
    ["generate", PROMPT, "--max-new-tokens", "300"],
    ["generate", PROMPT, "--eos", "x"],
    ["generate", PROMPT, "--eos", "99999"],
    ["generate", PROMPT, "--stop", ""],
    ["generate", PROMPT, "--seed", "-1"],
    ["generate", PROMPT, "--lookup", "3", "--temperature", "1"],
    ["generate", PROMPT, "--num-beams", "2", "--temperature", "1"],
    ["score", "/nowhere.txt"],
    ["score", "/"],
    ["score", str(Path(__file__)), "--stride", "0"],
    ["score", str(Path(__file__)), "--stride", "300"],
]


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_wrong_input(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("gpt2np")


@pytest.mark.parametrize("option", ["--out", "--ledger"])
def test_an_unwritable_file_is_one_line(capsys, option):
    code, _, err = run(
        capsys, "generate", PROMPT, "--max-new-tokens", "2", option, "/dev/null/file.safetensors"
    )
    assert code == 2
    assert "/dev/null" in err.strip().splitlines()[-1]


@pytest.mark.parametrize("options", [["--temperature", "0.8", "--top-k", "20", "--seed", "1"], []])
def test_choices_are_shown_as_the_ledger_has_them(capsys, tiny, options):
    argv = ["generate", "Elizabeth was", "--max-new-tokens", "3", *options, "--show-choices"]
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    _, told, _ = run(capsys, *argv, "--json")
    entries = json.loads(told)["choices"]
    assert len(entries) == 3
    for entry, shown in zip(entries, out.split("\nstep ")[1:], strict=True):
        assert f"| {entry['probability']:.1%}, number {entry['raw_rank'] + 1} by its raw logit" in shown
        assert f"; {entry['survivors']:,} left" in shown
        assert all(f"{r['name']} {r['count']:,}" in shown for r in entry["removals"] if r["count"])
        assert ("greedy" in shown) == (entry["uniform"] is None)
        assert entry["uniform"] is None or f"{entry['uniform']:.4f}, which falls" in shown
    assert out.startswith(run(capsys, *argv[:-1])[1])


@pytest.mark.parametrize("verb", ["trace", "lens", "heads", "generate", "score"])
def test_a_head_is_switched_off(capsys, tmp_path, tiny, verb):
    (tmp_path / "text").write_text("Elizabeth was not")
    given = [tmp_path / "text"] if verb == "score" else ["Elizabeth was not"]
    with_it, without = (run(capsys, verb, *given, *more)[1] for more in ([], ["--zero-head", "0.3"]))
    assert with_it != without
    for wrong, says in (("9.0", "layer 9"), ("0.9", "there is no 9"), ("x", "takes L.H")):
        code, out, err = run(capsys, verb, *given, "--zero-head", wrong)
        assert (code, out) == (2, "") or verb == "generate"
        assert says in err


def test_what_runs_without_two_heads_is_what_edits_make(capsys, tiny):
    off = ["--zero-head", "1.0", "--zero-head", "1.2"]
    _, out, _ = run(capsys, "trace", "a b", *off, "--show", "logits", "--json")
    expected = tiny("a b", edits={"h.1.attn.z": zero(heads=[0, 2])})
    np.testing.assert_allclose(json.loads(out)["sites"]["logits"]["values"], expected, rtol=1e-5)
