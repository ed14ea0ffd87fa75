"""`gpt2np heads` and `gpt2np lens` as a user meets them."""

import json

import numpy as np
import pytest
from support.command_line import run
from support.tiny_checkpoint import safetensors, tensors, write

import gpt2np
from gpt2np.analysis.attribution import attribution, head_grid, writers
from gpt2np.analysis.lens import attention_lens, logit_lens
from gpt2np.tables import cell_width


@pytest.fixture(autouse=True)
def _default_model(monkeypatch):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)


LONG = "To be, or not to be: that is the question. " * 8
COMMANDS = [
    ["heads", "Elizabeth was"],
    ["heads", "Elizabeth was", "--token", " not", "--against", " a", "--pos", "1", "--top", "3"],
    ["heads", "😀 日本語 \n\t\x07 naïve", "--top", "1000"],
    ["heads", "--tokens", "5,6,7", "--token", "2047", "--against", "\x07", "--dtype", "float64"],
    ["lens", "Elizabeth was"],
    ["lens", "😀 日本語 \n\t\x07 naïve", "--pos", "all", "--top", "4"],
    ["lens", LONG, "--token", " not", "--pos", "5"],
    ["lens", "Elizabeth was", "--heads"],
    ["lens", LONG, "--heads", "--layer", "2", "--top", "30", "--pos", "0"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:50])
def test_output_is_calm(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x07" not in out
    assert err == ""


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:50])
def test_json_is_strict(capsys, argv):
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_heads_are_those_of_the_functions(capsys, tiny):
    trace = tiny.trace("Elizabeth was not")
    _, out, _ = run(
        capsys, *["heads", "Elizabeth was not", "--token", " a", "--against", " in", "--pos", "2", "--json"]
    )
    facts, found = json.loads(out), attribution(trace, (" a", " in"), 2)
    assert facts["attribution"]["labels"]["component"] == found.labels["component"]
    np.testing.assert_array_equal(facts["attribution"]["values"], found.array)
    np.testing.assert_array_equal(facts["heads"]["values"], head_grid(found).array)
    np.testing.assert_array_equal(facts["writers"]["values"], writers(trace, 2).array)
    logits = trace["logits"][2].astype(float)
    assert facts["sum"] == pytest.approx(logits[258] - logits[298], abs=1e-4)
    assert facts["position"] == "2 | was|"


def test_heads_explain_the_prediction_unless_told_otherwise(capsys, tiny):
    token, id_, _ = tiny.trace("Elizabeth was").top(1)[0]
    _, out, _ = run(capsys, "heads", "Elizabeth was")
    assert f"|{token}| ({id_})" in out.splitlines()[0]
    assert "all together" in out
    assert "ln_f.bias" in run(capsys, "heads", "Elizabeth was", "--top", "100")[1]


def test_lens_is_that_of_the_functions(capsys, tiny):
    trace = tiny.trace("Elizabeth was not")
    _, out, _ = run(
        capsys, *["lens", "Elizabeth was not", "--token", " a", "--pos", "all", "--top", "2", "--json"]
    )
    facts, found = json.loads(out), logit_lens(trace, " a", 2)
    for name in ("top_ids", "top_probabilities", "probability", "rank", "entropy", "kl"):
        np.testing.assert_array_equal(facts[name]["values"], getattr(found, name).array)
    assert facts["chosen"] == [258] * 4
    _, out, _ = run(capsys, "lens", "Elizabeth was not", "--heads", "--layer", "1", "--pos", "0", "--json")
    facts, heads = json.loads(out), attention_lens(trace, 1, 0, 3)
    np.testing.assert_allclose(facts["raised"]["values"], heads.raised.array, rtol=1e-6)
    assert facts["lowered_ids"]["values"] == heads.lowered_ids.array.tolist()


def test_lens_of_all_positions_has_a_table_for_each(capsys):
    _, out, _ = run(capsys, "lens", "Elizabeth was", "--pos", "all")
    assert [line.split(";")[0] for line in out.splitlines() if line.startswith("position ")] == [
        "position 0 |E|",
        "position 1 |lizabeth|",
        "position 2 | was|",
    ]
    _, last, _ = run(capsys, "lens", "Elizabeth was")
    assert out.endswith(last)


def test_a_token_that_is_digits_is_itself_where_there_is_such_a_token(capsys, tiny):
    two = tiny.tokenizer.find_id("2")
    assert two not in (None, 2)
    for given, expected in (("2", two), ("315", 315)):
        _, out, _ = run(capsys, "lens", "Elizabeth was", "--token", given, "--json")
        assert json.loads(out)["chosen"] == [expected]


@pytest.mark.parametrize("verb", [["heads"], ["lens"], ["lens", "--heads"]], ids=" ".join)
def test_a_saved_trace_says_the_same(capsys, tiny, tmp_path, verb):
    path = tmp_path / "t.safetensors"
    tiny.trace("Elizabeth was", out=path)
    _, ran, _ = run(capsys, *verb, "Elizabeth was")
    code, read, _ = run(capsys, *verb, "--trace", path)
    assert (code, read) == (0, ran)


def test_a_trace_of_another_model_is_refused(capsys, tmp_path):
    """Even where the shapes are the same: the weights decide."""
    for seed in (0, 1):
        write(tmp_path / str(seed))
        (tmp_path / str(seed) / "model.safetensors").write_bytes(safetensors(tensors(seed)))
    gpt2np.load(tmp_path / "0").trace([1, 2], out=tmp_path / "t.safetensors")
    code, _, err = run(capsys, "lens", "--trace", tmp_path / "t.safetensors", "--model", tmp_path / "1")
    assert code == 2
    assert "of another model" in err
    assert run(capsys, "lens", "--trace", tmp_path / "t.safetensors", "--model", tmp_path / "0")[0] == 0
    code, _, err = run(capsys, "lens", "--trace", tmp_path / "t.safetensors")
    assert code == 2
    assert "of another model" in err


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize("verb", ["heads", "lens"])
def test_pictures(capsys, tmp_path, verb):
    path = tmp_path / "p.png"
    code, out, err = run(capsys, verb, "Elizabeth was not at all", "--png", path)
    assert code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"gpt2np: wrote {path}: " in err.splitlines()[-1]
    assert out == run(capsys, verb, "Elizabeth was not at all")[1]


MATPLOTLIB = pytest.mark.needs("matplotlib")
WRONG = [
    (["heads"], "give a TEXT, --tokens or --trace FILE"),
    (["heads", ""], "the prompt is empty"),
    (["heads", "a", "--trace", "t.safetensors"], "not both"),
    (["heads", "a", "--token", "not sure"], "is not one token, it is several: |not| sure|"),
    (["heads", "a", "--against", "2048"], "token id 2048 is not one of"),
    (["heads", "a", "--pos", "1"], "position 1 is not one of the 1 positions"),
    (["heads", "a", "--pos", "x"], "invalid int value"),
    (["heads", "a", "--top", "0"], "at least 1"),
    (["heads", "--trace", "/nowhere.safetensors"], "/nowhere.safetensors"),
    (["lens", "a", "--pos", "x"], "--pos takes a whole number or all"),
    (["lens", "a", "--pos", "-2"], "position -2 is not one of"),
    (["lens", "a", "--layer", "1"], "--layer goes with --heads"),
    (["lens", "a", "--heads", "--layer", "4"], "--layer 4: must be a whole number from 0 to 3"),
    (["lens", "a", "--heads", "--token", "b"], "--token goes with the lens itself"),
    pytest.param(["lens", "a", "--heads", "--png", "p.png"], "goes with the lens itself", marks=MATPLOTLIB),
    (["lens", "a", "--heads", "--pos", "all"], "--heads looks at one position"),
    (["lens", "a", "--token", "\ud800"], "surrogate"),
]


@pytest.mark.parametrize(
    ("argv", "says"), WRONG, ids=lambda x: " ".join(x)[:50] if isinstance(x, list) else ""
)
def test_wrong_input_is_one_line_and_exit_2(capsys, argv, says):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("gpt2np")
    assert says in last
    assert "Traceback" not in err


def test_a_trace_that_did_not_keep_what_is_needed(capsys, tiny, tmp_path):
    path = tmp_path / "t.safetensors"
    tiny.trace("Elizabeth was", keep="attn.*", out=path)
    for verb, missing in (("heads", "resid_post"), ("lens", "embed")):
        code, out, err = run(capsys, verb, "--trace", path)
        assert (code, out) == (2, "")
        assert f"{missing} is not in this trace" in err.splitlines()[-1]
