"""`gpt2np stats` as a user meets it."""

import json
import re

import numpy as np
import pytest
from support import command_line

from gpt2np.analysis import baseline_notebook, statistics
from gpt2np.tables import cell_width

PROMPT = "Why does phone battery drain faster over time? Answer in 2 detailed points"


def run(capsys, *argv):
    return command_line.run(capsys, "stats", *argv)


GENERATE = ("--max-new-tokens", "40", "--repetition-penalty", "10")
COMMANDS = [
    (PROMPT,),
    (PROMPT, *GENERATE),
    (PROMPT, "--max-new-tokens", "70", "--temperature", "1.5", "--seed", "3", "--step", "-1"),
    ("To be, or not to be: that is the question. " * 15, "--every", "1", "--pos", "0"),
    ("😀 日本語 \n\t\x07 naïve" * 4, "--threshold", "0.5"),
    ("--tokens", "5", "--dtype", "float64"),
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:40])
def test_output_is_calm(capsys, monkeypatch, argv):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)  # elsewhere a text stays as it is
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x07" not in out
    assert "nan" not in out
    assert len(out.splitlines()) < 190
    assert err == ""


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:40])
def test_json_is_strict(capsys, argv):
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_it_prints_the_notebooks_tables(capsys, tiny):
    done = tiny.generate(PROMPT, max_new_tokens=40, repetition_penalty=10.0, keep="*").finish()
    _, out, _ = run(capsys, PROMPT, *GENERATE)
    for section in (
        baseline_notebook.attention_values,
        baseline_notebook.summary,
    ):
        assert section(done) in out
    assert baseline_notebook.architecture(done) in out
    assert baseline_notebook.shapes(done) in out
    assert "attention of layer 0 by step" in out
    assert "attention of layer 0 by step" not in run(capsys, PROMPT)[1]


def test_layers_are_called_what_they_are_elsewhere(capsys, tiny):
    trace = tiny.trace(PROMPT)
    _, out, _ = run(capsys, PROMPT)
    table = out.split("hidden states, step 0\n")[1].split("\n\n")[0].splitlines()[1:]
    names = ["embedding", *(f"after layer {i}" for i in range(3)), "after ln_f"]
    assert [line.split("  ")[1] for line in table] == names  # every layer, without --every
    for i, site in enumerate(["embed", "h.0.resid_post", "h.1.resid_post", "h.2.resid_post", "ln_f"]):
        assert table[i].split()[-1] == f"{trace[site].max():.4g}"
    for site, what in (
        ("embed", "of the embedding"),
        ("h.3.resid_post", "after layer 3"),
        ("ln_f", "after ln_f"),
    ):
        assert re.search(rf"norm {what} +{np.linalg.norm(trace[site][-1].astype(float)):.4g}\n", out)
    assert "cosine of embedding and ln_f" in out
    assert "Layer 0 norm" not in out
    assert "Layer 0 norm" in run(capsys, PROMPT, "--notebook")[1]  # the notebook's own words
    assert "after layer 1" not in run(capsys, PROMPT, "--every", "3")[1]


def test_options_reach_the_tables(capsys, tiny):
    done = tiny.generate(PROMPT, max_new_tokens=5, keep="*").finish()
    _, out, _ = run(capsys, PROMPT, "--max-new-tokens", "5", "--step", "2", "--every", "2")
    assert baseline_notebook.attention_values(done, 2) in out
    hidden = statistics.pick(statistics.hidden_state_statistics(done), "step", 2)
    assert str(statistics.every_nth(hidden, [0, 2, 4])) in out
    assert "Generation Step 2" in out
    _, out, _ = run(capsys, PROMPT, "--pos", "3", "--json")
    facts, trace = json.loads(out), tiny.trace(PROMPT)
    expected = statistics.layer_comparison(trace, 0, 3).array
    assert facts["comparison"]["values"] == pytest.approx(expected.tolist())
    assert facts["comparison"]["verdict"] == statistics.verdict(expected[-1])


def test_json_has_every_layer_and_step(capsys, tiny):
    done = tiny.generate(PROMPT, max_new_tokens=6, keep="*").finish()
    _, out, _ = run(capsys, PROMPT, "--max-new-tokens", "6", "--threshold", "0.6", "--json")
    facts = json.loads(out)
    assert facts["text"] == done.text
    assert facts["generated_tokens"] == 6
    assert [step["chosen"] for step in facts["steps"]] == done.response.tokens
    assert facts["saturation"]["threshold"] == 0.6
    for name, array in {
        "attention": statistics.attention_statistics(done),
        "entropy": statistics.entropy(done),
        "distance": statistics.distance(done),
        "first_token": statistics.first_token(done),
        "saturation": statistics.saturation(done, 0.6),
        "hidden_states": statistics.hidden_state_statistics(done),
        "comparison_by_step": statistics.comparison_by_step(done),
    }.items():
        assert facts[name]["axes"] == list(array.axes)
        np.testing.assert_allclose(facts[name]["values"], array.array, rtol=1e-5, atol=1e-6)


def test_a_saved_trace(capsys, tiny, tmp_path):
    done = tiny.generate(PROMPT, max_new_tokens=6, keep="*").finish()
    done.trace.save(tmp_path / "t.safetensors")
    code, out, err = run(capsys, "--trace", str(tmp_path / "t.safetensors"))
    assert (code, err) == (0, "")
    assert str(statistics.pick(statistics.hidden_state_statistics(done), "step", 0)) in out
    assert baseline_notebook.summary(done) in out
    assert "Total parameters: 2,222,208" in out
    _, out, _ = run(capsys, "--trace", str(tmp_path / "t.safetensors"), "--json")
    chosen = [step["chosen"] for step in json.loads(out)["steps"]]
    assert chosen == done.response.tokens  # the last one too, which was never fed
    tiny.trace(PROMPT).save(tmp_path / "u.safetensors")
    _, out, _ = run(capsys, "--trace", str(tmp_path / "u.safetensors"))
    assert PROMPT in out
    assert "New tokens: 0" in out


@pytest.mark.parametrize(
    ("verb", "said"),
    [(v, "a saved trace is shown by --trace t.safetensors") for v in ("stats", "lens", "heads", "view")]
    + [(v, "t.safetensors: is a file, not a text") for v in ("trace", "generate", "tokenize", "circuits")],
)
def test_a_saved_trace_is_not_taken_for_a_text(capsys, monkeypatch, tiny, tmp_path, verb, said):
    monkeypatch.chdir(tmp_path)
    tiny.trace(PROMPT, out="t.safetensors")
    code, out, err = command_line.run(capsys, verb, "t.safetensors")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert command_line.run(capsys, verb if verb != "view" else "stats", "no.safetensors")[0] == 0


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize("draw", ["entropy", "distance", "first_token", "saturation"])
def test_png(capsys, tmp_path, draw):
    from matplotlib import image

    code, _, err = run(capsys, PROMPT, "--png", str(tmp_path / "p.png"), "--draw", draw)
    assert code == 0
    assert f"wrote {tmp_path / 'p.png'}" in err
    assert image.imread(tmp_path / "p.png")[..., :3].std() > 0.05


WRONG = {
    "give a TEXT, --tokens or --trace FILE, as in: gpt2np stats": (),
    "--draw goes with --png FILE": ("hi", "--draw", "distance"),
    "needs --max-new-tokens": ("hi", "--temperature", "1"),
    "instead of a text": ("hi", "--trace", "t.safetensors"),
    "nowhere.safetensors": ("--trace", "nowhere.safetensors"),
    "--step 1 is not one of 0 to 0": ("hi", "--step", "1"),
    "position 9 is not one of 0 to ": ("hi", "--pos", "9"),
    "0 to 1": ("hi", "--threshold", "nan"),
    "'0' is not a whole number": ("hi", "--every", "0"),
    "a picture's name ends in": ("hi", "--png", "p.gif"),
    "context": ("hi", "--max-new-tokens", "1000"),
}


@pytest.mark.parametrize(("message", "argv"), WRONG.items(), ids=WRONG)
def test_wrong_input_is_one_line(capsys, monkeypatch, tmp_path, message, argv):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_what_it_takes(capsys, tiny, tmp_path):
    tiny.trace("hi there", keep="mlp.*").save(tmp_path / "t.safetensors")
    code, out, err = run(capsys, "--trace", str(tmp_path / "t.safetensors"))
    assert (code, out) == (2, "")
    assert "is not in this trace" in err
    assert err.count("\n") == 1
