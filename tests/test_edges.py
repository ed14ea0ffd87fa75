"""Models and numbers at the edge: one token in the vocabulary, equal logits; and what can be pickled."""

import copy
import json
import pickle

import numpy as np
import pytest

import gpt2np
from gpt2np.analysis import attribution, circuits, heads, lens, neurons, statistics
from gpt2np.architectures.gpt2.weights import parameter_shapes
from gpt2np.cli import main
from gpt2np.errors import InputError, short
from gpt2np.tensorfile import save_tensors
from gpt2np.tracing.derived import top_k_tokens

ONE = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 1, "eos_token_id": 0}


@pytest.fixture(scope="module")
def one_token(tmp_path_factory):
    """The folder of a model whose vocabulary is one token, which ends a text."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"} | ONE))
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(gpt2np.Config(**ONE))
    save_tensors(
        folder / "model.safetensors",
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        {},
    )
    return folder


CALLS = {
    "a page": lambda m: gpt2np.view(m.trace([0, 0])),
    "a page of a generation": lambda m: gpt2np.view(
        m.generate([0], max_new_tokens=3, keep="*", eos=None, ledger=True).finish()
    ),
    "drawn": lambda m: m.generate([0], max_new_tokens=3, temperature=1.0, top_k=5, top_p=0.5).finish(),
    "beams": lambda m: m.generate([0], max_new_tokens=3, num_beams=3).finish(),
    "top": lambda m: m.trace([0, 0]).top(5),
    "verify": lambda m: m.trace([0, 0]).verify(),
    "score": lambda m: m.score([0, 0]).perplexity,
    "lens": lambda m: lens.logit_lens(m.trace([0, 0]), token=0, k=3),
    "attribution": lambda m: attribution.attribution(m.trace([0, 0]), 0),
    "heads": lambda m: heads.head_scores(m, n=3),
    "reads and writes": lambda m: heads.reads_and_writes(m, 0, 0),
    "circuits": lambda m: circuits.copying_scores(m),
    "a neuron": lambda m: neurons.neuron(m, 0, 0),
    "statistics": lambda m: statistics.attention_summary(
        m.generate([0], max_new_tokens=2, keep="*", eos=None).finish()
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_vocabulary_of_one_token(one_token, call):
    assert len(str(call(gpt2np.load(one_token))))


VERBS = [
    ["trace"], ["lens"], ["heads"], ["circuits"], ["circuits", "--head", "0.0"], ["stats"],
    ["view", "--no-open"], ["generate", "--max-new-tokens", "2"],
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_verbs_with_a_vocabulary_of_one_token(one_token, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    tokens = [] if verb[0] == "circuits" else ["--tokens", "0,0"]
    assert main([*verb, *tokens, "--model", str(one_token)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("n_vocab", [1, 3, 100, 5000])
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("n_values", [1, 2, 50])
def test_the_first_of_equal_logits(n_vocab, k, n_values):
    logits = np.random.default_rng(n_vocab + k).integers(0, n_values, (5, n_vocab)).astype(np.float32)
    expected = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top_k_tokens(logits, k), expected)
    np.testing.assert_array_equal(top_k_tokens(logits[2], k), expected[2])


def test_top_takes_what_greedy_takes(tiny):
    trace = tiny.trace("Elizabeth was", edits={"logits": lambda x: x * 0})
    assert [i for _, i, _ in trace.top(3)] == [0, 1, 2]
    assert trace["top_k_tokens"][-1, :3].tolist() == [0, 1, 2]
    chosen = tiny.generate("Elizabeth was", max_new_tokens=1, edits={"logits": lambda x: x * 0}).finish()
    assert chosen.token_ids[-1] == 0


# -- copies of what is returned ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("dialect", ["guide", "hf", "transformer_lens"])
def test_a_dialect_can_be_copied(tiny, make, dialect):
    ours = tiny.trace("Elizabeth was").to(dialect)
    copied = make(ours)
    assert list(copied) == list(ours)
    for name in ours:
        np.testing.assert_equal(copied[name], ours[name])


def test_a_generation_that_runs_says_why_it_cannot_be_copied(tiny):
    running = tiny.generate("Elizabeth was", max_new_tokens=3)
    for make in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(InputError, match=r"neither pickled nor copied: finish\(\) it"):
            make(running)
    assert len(pickle.loads(pickle.dumps(running.finish())).steps) == 3


def test_messages_hold_whatever_is_shown_on_one_line():
    for value in (np.arange(1000).reshape(10, 100), "a\nb", "\x1b[31m", 10**5000, {"a": np.eye(9)}, b"\n"):
        text = short(value)
        assert text.isprintable()
        assert len(text) <= 100
