"""`gpt2np circuits` as a user meets it: output, widths, JSON, pictures, wrong input."""

import json
import re

import numpy as np
import pytest
from support import command_line

from gpt2np.analysis import circuits, heads, neurons, residual_stream
from gpt2np.tables import cell_width

TEXT = "Elizabeth was not in the room, 😀 日本語 \n\t\x07 naïve"


def run(capsys, *argv):
    return command_line.run(capsys, "circuits", *argv)


def facts(capsys, *argv):
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


COMMANDS = [
    [],
    ["--score", "copying"],
    ["--head", "1.0"],
    ["--head", "1.0", "--top", "30"],
    ["--head", "0.2", TEXT],
    ["--head", "0.2", "--tokens", "5,6,7"],
    ["--neuron", "3.141", "--top", "40"],
    ["--neuron", "0.0", TEXT],
    *(["--composition", kind] for kind in "qkv"),
    ["--composition", "k", "--top", "1000"],
    ["--parameters"],
    ["--norms"],
    ["--norms", "h.1.ln_2", "--top", "30"],
    ["--norms", "ln_f", "--dtype", "float64"],
    ["--head", "1.2", "--weights"],
    [TEXT],
    ["--tokens", "5"],
    [TEXT, "--top", "3", "--dtype", "float64"],
]


@pytest.mark.every(2)
@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(argv)[:30] or "all heads")
def test_output_is_calm_and_json_strict(capsys, monkeypatch, argv):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert max(cell_width(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x07" not in out
    assert "nan" not in re.split(r"\W+", out)
    assert err == ""
    assert facts(capsys, *argv)["model"] == "tiny"


def test_the_table_of_heads(capsys, tiny):
    _, out, _ = run(capsys, "--score", "induction")
    rows = [line.split() for line in out.splitlines()[2:18]]
    assert [row[0] for row in rows[:4]] == ["1.0", "1.3", "1.1", "2.2"]
    found = facts(capsys)["scores"]
    assert found["labels"]["score"][:4] == list(heads.SCORES)
    values = np.array(found["values"])
    assert values[:4] == pytest.approx(heads.head_scores(tiny).array)
    assert values[4] == pytest.approx(circuits.copying_scores(tiny).array)
    assert values[5:] == pytest.approx(circuits.circuit_norms(tiny).array)
    _, out, _ = run(capsys)
    assert [line.split()[0] for line in out.splitlines()[2:18]] == circuits.head_labels(tiny.config)
    _, out, _ = run(capsys, "--score", "induction", "--top", "2")
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["1.0", "1.3", "previous,"]


def test_head_and_neuron(capsys, tiny):
    found = facts(capsys, "--head", "1.0", "Elizabeth was")
    assert found["qk"]["values"] == pytest.approx(
        circuits.token_scores(tiny, 1, 0, "Elizabeth was").array, rel=1e-4
    )
    directions = heads.reads_and_writes(tiny, 1, 0)
    assert [d["circuit"] for d in found["directions"]] == ["QK"] * 3 + ["OV"] * 3
    assert [d["reads"][0]["id"] for d in found["directions"]] == [d.reads[0].id for d in directions]
    found = facts(capsys, "--neuron", "3.141", "Elizabeth was")
    assert [t["id"] for t in found["raises"]] == [t.id for t in neurons.neuron(tiny, 3, 141).raises]
    assert len(found["activations"]["values"]) == 3


def test_a_text(capsys, tiny):
    found = facts(capsys, "Elizabeth was")
    trace = tiny.trace("Elizabeth was")
    assert found["tokens"] == trace.tokens
    for function in (neurons.sparsity, neurons.most_active, residual_stream.basis_alignment):
        values = np.array(found[function.__name__]["values"])
        assert values == pytest.approx(function(trace).array, rel=1e-4)


def test_the_document_in_numbers(capsys):
    _, out, _ = run(capsys, "--parameters")
    assert "66.5%" in next(line for line in out.splitlines() if "mlp" in line)


def test_the_document_in_numbers_of_its_own_model(capsys, monkeypatch, tmp_path):
    """31 % in the embedding, less in larger models; two thirds of the blocks in MLPs: needs no checkpoint."""
    monkeypatch.chdir(tmp_path)
    embedding = []
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        found = facts(capsys, "--parameters", "--model", name)
        assert found["model"] == name
        rows = dict(
            zip(found["parameters"]["labels"]["component"], found["parameters"]["values"], strict=True)
        )
        embedding.append(rows["token embedding"][1])
        assert rows["mlp"][2] == pytest.approx(2 / 3, abs=0.002)
    assert round(embedding[0], 2) == 0.31
    assert embedding == sorted(embedding, reverse=True)
    monkeypatch.setenv("GPT2NP_MODEL", "gpt2")
    code, out, err = run(capsys, "--parameters")
    assert code == 0
    assert out.startswith("124,439,808 parameters")
    assert err == ""


PICTURES = [
    [],
    ["--score", "copying"],
    ["--head", "0.2", "Elizabeth was"],
    ["--neuron", "3.141", "Elizabeth was"],
    ["--composition", "k"],
    ["--parameters"],
    ["--norms"],
    ["--norms", "ln_f"],
    ["Elizabeth was"],
]


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize("argv", PICTURES, ids=lambda argv: " ".join(argv) or "all heads")
def test_pictures(capsys, tmp_path, argv):
    path = tmp_path / "p.png"
    code, out, err = run(capsys, *argv, "--png", str(path))
    assert code == 0
    assert out
    assert f"wrote {path}" in err
    assert path.read_bytes()[:4] == b"\x89PNG"


MATPLOTLIB = pytest.mark.needs("matplotlib")
WRONG = [
    (["--head", "1"], "--head takes L.H"),
    (["--head", "4.0"], "layer 4 is not one of 0 to 3"),
    (["--head", "0.4"], "head 4 is not one of 0 to 3"),
    (["--head", ""], "--head takes L.H"),
    (["--neuron", "0.x"], "--neuron takes L.I"),
    (["--neuron", "0.768"], "neuron 768 is not one of 0 to 767"),
    (["--composition", "o"], "invalid choice: 'o'"),
    (["--composition", "k", "text"], "--composition is of the weights"),
    (["--parameters", "text"], "--parameters is of the weights"),
    (["--head", "0.0", "--neuron", "0.0"], "not allowed with"),
    (["--score", "copying", "text"], "--score goes with"),
    (["--score", "nothing"], "invalid choice"),
    (["--head", "0.0", "--png", "p.png"], "give a TEXT"),
    (["--norms", "h.4.ln_1"], "no LayerNorm is called 'h.4.ln_1'"),
    (["--norms", ""], "no LayerNorm is called ''"),
    (["text", "--norms"], "--norms is of the weights"),
    (["--norms", "--parameters"], "not allowed with"),
    (["--weights"], "--weights goes with --head"),
    (["--weights", "--neuron", "1.2"], "--weights goes with --head"),
    (["--head", "4.0", "--weights"], "layer 4 is not one of 0 to 3"),
    (["text", "--head", "0.0", "--weights"], "--weights is of the weights"),
    (["--head", "0.0", "--weights", "--png", "p.png"], "seven arrays"),
    pytest.param(["--norms", "--png", "/dev/null/p.png"], "cannot be written", marks=MATPLOTLIB),
    (["--png", "p.gif"], "p.gif"),
    (["--top", "0"], "not a whole number"),
    (["--top", "3", "--parameters"], "--top has nothing to cut in --parameters"),
    (["--top", "3", "--head", "1.2", "--weights"], "--top has nothing to cut in --weights"),
    ([""], "the prompt is empty"),
    (["a", "--tokens", "1"], "either a TEXT or --tokens"),
    (["--tokens", "99999"], "99999"),
    (["a " * 2000], "256"),
    (["--model", "./nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("argv", "says"), WRONG, ids=lambda x: x if isinstance(x, str) else None)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, tmp_path, argv, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert says in err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
