"""The command line as a user meets it: output, widths, JSON, exit codes."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from support.command_line import run

import gpt2np
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.cli.program import build_parser
from gpt2np.tables import cell_width, quoted, strict_json, table

COMMANDS = [
    ["trace", "Elizabeth was"],
    ["trace", "Elizabeth was", "--keep", "attn.*"],
    ["trace", "To be, or not to be: that is the question. " * 15, "--top", "20"],
    ["trace", "😀 日本語 \n\t\x07 naïve"],
    ["trace", "--tokens", "5,6,7", "--dtype", "float64"],
    ["tokenize", "Hello wörld 😀 日本語 " + "x" * 100],
    ["sites"],
    ["plan", "1", "16", "50", "100", "200", "256"],
    ["plan", "--model", "gpt2-xl", "256", "512", "1000", "1024", "--dtype", "float64"],
    ["info"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:40])
def test_output_is_calm(capsys, argv, monkeypatch):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    code, out, err = run(capsys, *argv)
    assert code == 0
    if argv[0] != "info":  # a folder may be long
        assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x07" not in out
    assert err == ""


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:40])
def test_json_is_strict(capsys, argv):
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_trace_shows_what_the_model_saw_computed_and_predicts(capsys, tiny):
    _, out, _ = run(capsys, "trace", "Elizabeth was", "--json")
    facts, trace = json.loads(out), tiny.trace("Elizabeth was")
    assert [t["id"] for t in facts["tokens"]] == trace.token_ids
    assert [t["token"] for t in facts["tokens"]] == trace.tokens
    assert [(t["token"], t["id"], t["probability"]) for t in facts["top"]] == trace.top(5)
    assert facts["lens"][-1]["id"] == trace.top(1)[0][1]
    assert facts["lens"][-1]["probability"] == pytest.approx(trace.top(1)[0][2], rel=1e-4)
    assert [row["site"] for row in facts["lens"]] == ["embed", *(f"h.{i}.resid_post" for i in range(4))]
    rows = {row["site"]: row for row in facts["sites"]}
    assert rows["h.*.attn.scores"]["max"] == max(
        float(trace[f"h.{i}.attn.scores"][np.isfinite(trace[f"h.{i}.attn.scores"])].max()) for i in range(4)
    )
    assert rows["h.*.attn.scores"]["shape"] == list(trace["h.0.attn.scores"].shape)
    assert sum(row["bytes"] for row in facts["sites"]) == trace.nbytes == facts["bytes"]


def test_trace_with_less_kept_predicts_the_same(capsys):
    _, whole, _ = run(capsys, "trace", "Elizabeth was", "--json")
    _, part, _ = run(capsys, "trace", "Elizabeth was", "--keep", "h.1.*", "--json")
    assert json.loads(whole)["lens"] == json.loads(part)["lens"]
    for a, b in zip(json.loads(whole)["top"], json.loads(part)["top"], strict=True):
        assert a["id"] == b["id"]
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-4)


def test_trace_out(capsys, tmp_path):
    out = tmp_path / "t.safetensors"
    code, _, err = run(capsys, "trace", "Elizabeth was", "--out", str(out))
    assert code == 0
    assert str(out) in err
    assert gpt2np.Trace.open(out).prompt == "Elizabeth was"


def test_prompt_from_stdin(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Elizabeth was"))
    _, out, _ = run(capsys, "tokenize", "-", "--json")
    assert json.loads(out)["text"] == "Elizabeth was"


def test_special_tokens_only_on_request(capsys):
    _, plain, _ = run(capsys, "tokenize", "<|endoftext|>", "--json")
    _, special, _ = run(capsys, "tokenize", "<|endoftext|>", "--special", "--json")
    assert len(json.loads(plain)["token_ids"]) > 1
    assert json.loads(special)["token_ids"] == [2047]


def test_plan_needs_no_checkpoint_for_a_released_size(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "plan", "1024", "--model", "gpt2", "--json")
    plan = json.loads(out)["plans"][0]
    assert plan["quadratic"] == 2 * 12 * 12 * 1024 * 1024 * 4
    assert plan["bytes"] == sum(plan["groups"].values()) == plan["linear"] + plan["quadratic"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plan_says_both_sizes_of_weights_that_are_stored_in_bfloat16(capsys, monkeypatch, tmp_path, dtype):
    monkeypatch.chdir(tmp_path)
    asked = ("plan", "30", "--model", "google/gemma-2-2b-it", "--dtype", dtype)
    size = 2_614_341_888 * {"float32": 4, "float64": 8}[dtype]
    facts = json.loads(run(capsys, *asked, "--json")[1])
    assert (facts["weights"], facts["dtype"]) == (size, dtype)
    assert facts["weights_as_stored"] == {"dtype": "bfloat16", "bytes": 5_228_683_776}
    told = f"and {size:,} bytes of weights as {dtype} (5,228,683,776 where they are stored in bfloat16)"
    assert told in run(capsys, *asked)[1]


def test_info_splits_the_parameters(capsys, tiny):
    _, out, _ = run(capsys, "info", "--json", "--hash")
    facts = json.loads(out)
    assert sum(facts["parameters_by_component"].values()) == facts["parameters"] == 2_222_208
    assert facts["config"] == tiny.config.to_dict()
    assert len(facts["sha256"]) == 64


WRONG = [
    ["trace"],
    ["trace", ""],
    ["trace", "a", "--tokens", "1"],
    ["trace", "--tokens", "1,x"],
    ["trace", "--tokens", "99999"],
    ["trace", "--tokens", "-3"],
    ["trace", "a", "--keep", "attn.patern"],
    ["trace", "a " * 2000],
    ["trace", "a", "--top", "0"],
    ["trace", "a", "--dtype", "float16"],
    ["trace", "a", "--model", "./nowhere"],
    ["trace", "a", "--out", "/dev/null/t.safetensors"],
    ["trace", "a", "--out", "/"],
    ["plan", "0"],
    ["plan", "257"],
    ["plan", "x"],
    ["tokenize", "--tokens", "4000"],
    ["info", "--model", "not a model"],
    ["nothing"],
    [],
]


@pytest.mark.parametrize("argv", WRONG, ids=lambda argv: " ".join(argv)[:40] or "nothing at all")
def test_wrong_input_is_one_line_and_exit_2(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[-1].startswith("gpt2np")
    assert len(lines[-1]) > 20


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_every_site_can_be_kept_and_shown(capsys, site):
    code, out, _ = run(capsys, "trace", "Elizabeth was", "--keep", site.name, "--json")
    assert code == 0
    assert [row["site"].removeprefix("h.*.") for row in json.loads(out)["sites"]] == [site.name]


def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "gpt2np"]
    done = subprocess.run([*command, "trace", "a" * 3], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wrong = subprocess.run([*command, "trace", ""], capture_output=True, text=True, cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    cut = subprocess.run(
        f"{sys.executable} -m gpt2np sites | head -1", shell=True, capture_output=True, text=True
    )
    assert cut.stderr == ""


def test_every_verb_has_a_description():
    verbs = next(a for a in build_parser()._actions if getattr(a, "choices", None))
    for name, parser in verbs.choices.items():
        assert parser.description, name
        assert all(a.help for a in parser._actions), name


def test_tables():
    assert table([["a", "1"], ["日本", "22"]], "<>", indent=0) == "a      1\n日本  22"
    assert quoted("a\nb\x1b") == "|a\\nb\\x1b|"
    assert cell_width(quoted("日" * 50)) <= 20
    assert strict_json([float("inf"), float("nan"), {"a": -np.inf}, 1.5]).split() == (
        '[ null, null, { "a": null }, 1.5 ]'.split()
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "the " * 250, "--max-new-tokens", "20"], "(--on-overflow slide continues anyway"),
        (["generate", "x", "--num-beams", "2", "--temperature", "1"], "--num-beams 2 with --temperature 1.0"),
        (["generate", "x", "--temperature", "-1"], "--temperature -1.0"),
        (["trace", "x", "--keep", "attn.foo"], "--keep: no site"),
        (["trace", "x", "--show", "attn.pattern.foo"], "attn.pattern"),
        (["lens", "x", "--pos", "9"], "position 9"),
        (["patch", "a b", "a c", "--answer", "1", "--wrong", "2", "--over", "ln_f"], "--over ln_f"),
        (
            ["patch", "a b", "a c", "--answer", "1", "--wrong", "2", "--by", "head", "--over", "resid_post"],
            "--by head",
        ),
        (["stats", "x", "--threshold", "2"], "--threshold 2.0"),
        (["trace", "x", "--threads", "9999"], "--threads 9999"),
        (["info", "--model", "./nowhere", "--revision", "x"], "nowhere"),
    ],
)
def test_hints_are_spelt_as_the_shell_spells_them(capsys, argv, words):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert words in err
    assert not re.search(r"\w=['\d\w]|\['|\(\.\.\.", err)


def test_sites_call_a_layer_by_one_name(capsys):
    _, out, _ = run(capsys, "sites")
    assert "h.i.attn.pattern" in out
    assert "blocks.i.attn.hook_pattern" in out
    assert "{i}" not in out
