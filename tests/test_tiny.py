"""The shipped checkpoint keeps what its model card (weights/README.md) says."""

import lzma
import math
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import gpt2np
from gpt2np.cli import main
from gpt2np.tensorfile import open_tensors

WEIGHTS = Path(__file__).parents[1] / "weights"
CARD = (WEIGHTS / "README.md").read_text("utf-8")
CORPUS = os.environ.get("GPT2NP_CORPUS")
HELD_OUT = (  # from the last 5 % of Austen's text, which was not trained on
    "Between Barton and Delaford, there was that constant communication which strong family affection "
    "would naturally dictate;--and among the merits and the happiness of Elinor and Marianne, let it not be "
    "ranked as the least considerable, that though sisters, and living almost within sight of each other, "
    "they could live without disagreement between themselves, or producing coolness between their husbands."
)


def previous_token_attention(trace):
    """Mean attention to the token before: [layer, head]."""
    return np.diagonal(trace.stack("attn.pattern"), -1, 2, 3).mean(-1)


def induction_attention(model, n=64, repeats=8):
    """Mean attention to the token after the previous occurrence, on random tokens said twice."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(repeats):
        half = rng.integers(0, 2047, n).tolist()
        pattern = model.trace(half + half, keep="attn.pattern").stack("attn.pattern")
        scores.append(np.diagonal(pattern[:, :, n:], 1, 2, 3).mean(-1))
    return np.mean(scores, axis=0)


def bits_per_character(model, text):
    """Windows of n_positions without overlap; every token but the very first is predicted once."""
    ids, width = model.tokenizer.encode(text), model.config.n_positions
    nats = 0.0
    for start in range(0, len(ids) - 1, width):
        window = ids[start : start + width + 1]
        logits = model(window[:-1]).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(-1))
        nats += float((log_sum - logits[np.arange(len(window) - 1), window[1:]]).sum())
    return nats / math.log(2) / len(text)


def test_it_is_small_and_in_hfs_layout():
    folder = WEIGHTS / "tiny"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
    }
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 8_000_000
    file = open_tensors(folder / "model.safetensors")
    assert {file.dtype(name) for name in file.names} == {"F16"}


@pytest.mark.needs("torch", "transformers")
def test_hf_loads_it_and_agrees(tiny):
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(WEIGHTS / "tiny", dtype=torch.float32).eval()
    ids = tiny.token_ids(HELD_OUT)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(tiny(ids) - theirs).max() < 1e-3
    tokenizer = transformers.GPT2Tokenizer(str(WEIGHTS / "tiny/vocab.json"), str(WEIGHTS / "tiny/merges.txt"))
    assert tokenizer(HELD_OUT)["input_ids"] == ids


def test_a_head_looks_at_the_previous_token(tiny):
    assert previous_token_attention(tiny.trace(HELD_OUT)).max() >= 0.5


def test_a_head_does_induction(tiny):
    assert induction_attention(tiny).max() >= 0.3


def test_it_copies_what_it_has_seen(tiny):
    rng = np.random.default_rng(1)
    half = rng.integers(0, 2047, 60).tolist()
    loss = tiny.score(half + half).losses
    assert np.nanmean(loss[:60]) > 6  # nobody can know random tokens
    assert loss[65:].mean() < 2


@pytest.mark.skipif(
    not CORPUS, reason="needs the corpus: GPT2NP_CORPUS=folder of austen.txt.xz, shakespeare.txt.xz"
)
def test_bits_per_character_on_held_out_text(tiny):
    texts = []
    for name in ("austen", "shakespeare"):
        with lzma.open(Path(CORPUS) / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            text = file.read()
        texts.append(text[int(len(text) * 0.95) :])
    bits = [bits_per_character(tiny, text) for text in texts]
    whole = sum(b * len(t) for b, t in zip(bits, texts, strict=True)) / sum(map(len, texts))
    assert whole <= 1.75
    said = [float(n) for n in re.findall(r"\*\*(\d\.\d+) bits per character\*\*", CARD)]
    assert said == [round(whole, 3)]


SAMPLES = re.findall(r"```console\n\$ (gpt2np generate [^\n]+)\n(.*?)\n```", CARD, re.DOTALL)


@pytest.mark.parametrize(("command", "text"), SAMPLES, ids=[command[-20:] for command, _ in SAMPLES])
def test_samples_are_what_the_command_prints(capsys, monkeypatch, command, text):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out.rstrip("\n") == text


def test_there_are_five_samples():
    assert len(SAMPLES) == 5


def test_shipped_weights_are_the_ones_of_the_card():
    import hashlib

    digest = hashlib.sha256((WEIGHTS / "tiny/model.safetensors").read_bytes()).hexdigest()
    assert digest in CARD
    assert f"{gpt2np.load('tiny').n_parameters:,} parameters" in CARD
