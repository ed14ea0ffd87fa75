"""The baseline notebook from top to bottom, in one folder, held against its own cells run with HF."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from documents.baseline_notebook_steps import CELLS, NAME, STEPS, cell_for_the_test
from support.document_models import write_gpt_neo
from support.document_reader import Reader

from gpt2np.analysis import baseline_notebook, statistics
from gpt2np.cli import main


def small(folder):
    """As many layers and heads as the notebook's model, and a window shorter than its text."""
    write_gpt_neo(folder)


def whole(folder):
    """All of its sizes and its vocabulary; parameters are random, attention visibly uneven."""
    vocabulary = os.environ.get("GPT2NP_GPT2_VOCAB")
    if not vocabulary:
        pytest.skip("GPT2NP_GPT2_VOCAB is not set: it names a folder with GPT-2's vocab.json and merges.txt")
    from support import hf_gpt_neo

    sizes = {"hidden_size": 768, "num_heads": 12, "vocab_size": 50257, "max_position_embeddings": 2048}
    theirs = hf_gpt_neo.random_model(0, "GL" * 6, eos_token_id=50256, bos_token_id=50256, **sizes)
    theirs.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(Path(vocabulary) / name, Path(folder) / name)


@pytest.mark.needs("torch", "transformers")
@pytest.mark.parametrize("write", [small, pytest.param(whole, marks=pytest.mark.slow)])
def test_in_order(capsys, monkeypatch, tmp_path, write):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    write(NAME)
    theirs, printed = {}, {}
    for number in CELLS:
        capsys.readouterr()
        exec(compile(cell_for_the_test(number), f"cell {number}", "exec"), theirs)
        printed[number] = capsys.readouterr().out
    assert "New tokens: 40" in printed[10]
    reader = Reader(capsys)
    reader.names |= {"printed": printed, "theirs": theirs["output"]}
    for step in STEPS:
        assert step.check is not None
        reader.take(step)


def test_mean_and_maximum_of_attention_do_not_show_focus(tiny):
    """A model that attends to everything alike prints the same numbers; entropy tells the two apart."""
    zero = {n: np.zeros_like(w) for n, w in tiny.weights.items() if ".attn.c_attn." in n}
    text = "Elizabeth was not sorry that Mr. Darcy was"
    focused, even = tiny.trace(text), tiny.with_weights(zero).trace(text)
    n = len(focused.token_ids)
    assert np.allclose(even["h.0.attn.pattern"][:, -1], 1 / n)
    for run in (focused, even):
        low, high, mean, *sums = statistics.attention_statistics(run).array[0, 0]
        assert (low, high) == (0, 1)
        assert mean == pytest.approx(1 / n)
        assert sums == pytest.approx([1, 1, 1])
    assert baseline_notebook.attention_values(focused) == baseline_notebook.attention_values(even)
    assert statistics.entropy(focused).array.mean() < 0.7 * statistics.entropy(even).array.mean()
    assert statistics.saturation(even).array.max() == pytest.approx(1 / n)  # the first query, always


def test_layer_11_norm_is_of_the_state_after_ln_f(tiny):
    trace = tiny.trace("Elizabeth was")
    last = statistics.layer_comparison(trace).array[1]
    assert last == pytest.approx(np.linalg.norm(trace["ln_f"][-1]), rel=1e-5)
    assert last != pytest.approx(np.linalg.norm(trace["h.3.resid_post"][-1]), rel=0.01)


@pytest.mark.parametrize(
    "argv",
    [["--step", "1"], ["--every", "1"], ["--pos", "0"], ["--threshold", "0.5"], ["--json"]],
    ids=lambda argv: argv[0],
)
def test_the_notebook_takes_no_options_of_the_tables(capsys, argv):
    assert main(["stats", "Elizabeth was", "--max-new-tokens", "2", "--notebook", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"gpt2np: {argv[0]} does not go with --notebook")


def test_text_is_wrapped_on_a_terminal_only(capsys, monkeypatch):
    text = "Elizabeth was not sorry that Mr. Darcy was " * 4
    assert main(["stats", text]) == 0
    assert text.strip() in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["stats", text]) == 0
    out = capsys.readouterr().out
    assert text.strip() not in out
    assert text.strip() in out.replace("\n", "")
