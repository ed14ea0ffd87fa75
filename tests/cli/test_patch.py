"""`gpt2np patch`: the map as text, JSON and picture, and what it refuses."""

import json

import numpy as np
import pytest
from support.command_line import run

from gpt2np.analysis.patching import logit_difference, sweep
from gpt2np.tables import cell_width

CLEAN, CORRUPT = (f"Jane saw Mr. {name}. Yes, she saw Mr." for name in ("Darcy", "Elton"))
COMMAND = ["patch", CLEAN, CORRUPT, "--answer", " Darcy", "--wrong", " Elton"]


@pytest.mark.parametrize(
    "options",
    [[], ["--direct"], ["--over", "resid_post"], ["--over", "h.[23].attn.v", "--by", "pos"]],
    ids=str,
)
def test_the_map(capsys, tiny, monkeypatch, options):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    code, out, err = run(capsys, *COMMAND, *options)
    assert code == 0
    assert err == ""
    assert "0 as after CORRUPT, 1 as after CLEAN" in out
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    _, text, _ = run(capsys, *COMMAND, *options, "--json")
    facts = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    metric = logit_difference(*(tiny.token_ids(f" {name}")[0] for name in ("Darcy", "Elton")))
    ends = [metric(tiny(text)[-1]) for text in (CLEAN, CORRUPT)]
    assert [facts[which]["logit_difference"] for which in ("clean", "corrupt")] == pytest.approx(ends)
    assert f"after CLEAN {ends[0]:.3f}, after CORRUPT {ends[1]:.3f}" in out
    over = options[options.index("--over") + 1] if "--over" in options else "attn.z"
    by = "pos" if "--by" in options else None
    found = sweep(CLEAN, CORRUPT, metric, over, model=tiny, by=by, direct="--direct" in options)
    share = (found.array - ends[1]) / (ends[0] - ends[1])
    np.testing.assert_allclose(facts["map"]["values"], share, atol=1e-4)
    assert facts["map"]["axes"] == list(found.axes)
    assert facts["answer"] == {"id": tiny.token_ids(" Darcy")[0], "token": " Darcy"}
    assert facts["direct"] == ("--direct" in options)


def test_it_finds_the_induction_head_and_where_the_name_stands(capsys):
    """Head 2.2 of the model card; the name is read at position 5, and used at the last one, 13."""
    _, text, _ = run(capsys, *COMMAND, "--json")
    values = np.array(json.loads(text)["map"]["values"])
    assert values[2, 2] > 0.4
    _, text, _ = run(capsys, *COMMAND, "--json", "--over", "resid_post")
    facts = json.loads(text)
    values = np.array(facts["map"]["values"])
    assert facts["map"]["labels"]["pos"][5] == "5 | Darcy|/| Elton|"
    assert values[0].argmax() == 5
    assert values[3] == pytest.approx([0.0] * 13 + [1.0], abs=1e-4)


def test_token_ids_and_precision(capsys, tiny):
    ids = [str(tiny.token_ids(f" {name}")[0]) for name in ("Darcy", "Elton")]
    _, by_text, _ = run(capsys, *COMMAND, "--dtype", "float64")
    _, by_id, _ = run(capsys, "patch", CLEAN, CORRUPT, "--answer", ids[0], "--wrong", ids[1])
    assert by_text == by_id


def test_names_of_other_dialects(capsys):
    _, expected, _ = run(capsys, *COMMAND, "--over", "attn.pattern")
    code, found, _ = run(capsys, *COMMAND, "--over", "attention_weights")
    assert (code, found) == (0, expected)


@pytest.mark.needs("matplotlib")
def test_a_picture(capsys, tmp_path):
    code, _, err = run(capsys, *COMMAND, "--png", str(tmp_path / "map.png"))
    assert code == 0
    assert str(tmp_path / "map.png") in err
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([CLEAN, "Jane saw", "--answer", " Darcy", "--wrong", " Elton"], "clean has 14 tokens and corrupt 3"),
        ([CLEAN, CLEAN, "--answer", " Darcy", "--wrong", " Elton"], "nothing to bring back"),
        ([CLEAN, CORRUPT, "--answer", " Darcy", "--wrong", " Darcy"], "the same token"),
        ([CLEAN, CORRUPT, "--answer", "Darcy", "--wrong", " Elton"], "is not one token"),
        ([CLEAN, CORRUPT, "--answer", "99999", "--wrong", " Elton"], "99999"),
        ([CLEAN, CORRUPT, "--answer", " Darcy"], "--wrong"),
        ([CLEAN, "", "--answer", " Darcy", "--wrong", " Elton"], "empty"),
        ([CLEAN], "CORRUPT"),
        ([*COMMAND[1:], "--over", "attn.zz"], "attn.zz"),
        ([*COMMAND[1:], "--over", "attn.*"], "one site"),
        ([*COMMAND[1:], "--over", "atention_weights"], "the nearest is 'attention_weights'"),
        ([*COMMAND[1:], "--to", "layer_9_Q"], "layer 9 is not one of 0 to 3"),
        ([*COMMAND[1:], "--over", "resid_pre"], "derived"),
        ([*COMMAND[1:], "--over", "attn.q", "--direct"], "not written"),
        ([*COMMAND[1:], "--over", "mlp.out", "--by", "head"], "goes by pos"),
        ([*COMMAND[1:], "--to", "h.0.attn.q"], "no layer of 'attn.z' comes before h.0.attn.q"),
        ([*COMMAND[1:], "--to", "h.9.attn.q"], "layer 9 is not one of"),
        ([*COMMAND[1:], "--to", "h.3.attn.qq"], "no site is called"),
        ([*COMMAND[1:], "--to", "h.3.resid_pre"], "derived"),
        ([*COMMAND[1:], "--to", "h.3.attn.q", "--direct"], "not allowed with"),
        ([*COMMAND[1:], "--to", "h.3.attn.q", "--to-head", "4"], "there is no 4"),
        ([*COMMAND[1:], "--to", "h.3.attn.q", "--to-head", "-1"], "counted from the start"),
        ([*COMMAND[1:], "--to", "h.3.mlp.out", "--to-head", "1"], "has no axis head"),
        ([*COMMAND[1:], "--to-head", "1"], "--to-head goes with --to"),
        ([*COMMAND[1:], "--to", ""], "no site is called"),
        ([*COMMAND[1:], "--png", "map.gif"], "map.gif"),
        pytest.param(
            [*COMMAND[1:], "--png", "/dev/null/map.png"],
            "/dev/null/map.png",
            marks=pytest.mark.needs("matplotlib"),
        ),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, argv, message):
    code, out, err = run(capsys, "patch", *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert message in err.strip().splitlines()[-1]
