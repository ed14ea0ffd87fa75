"""Scores: log-probabilities, windows that slide, perplexity, and HF's guide as the reference."""

import math

import numpy as np
import pytest
from support import needs
from support.differences import relative_error
from support.random_model import random_model

from gpt2np.errors import InputError

N_POSITIONS = 16
TEXT = [int(i) for i in np.random.default_rng(0).integers(0, 60, 53)]


@pytest.fixture(scope="module", params=["float32", "float64"])
def model(request):
    return random_model(dtype=request.param, n_positions=N_POSITIONS)


def log_softmax(logits) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def by_hand(model, ids: list[int], stride: int) -> np.ndarray:
    """Each token from its own pass: what the first window that reaches it has before it."""
    found, done = [math.nan], 1
    for start in range(0, len(ids), stride):
        end = min(start + N_POSITIONS, len(ids))
        for n in range(done, end):
            found.append(log_softmax(model(ids[start:n])[-1])[ids[n]] if n > start else math.nan)
        done = max(done, end)
    return np.array(found)


def test_a_short_text_in_one_pass(model):
    for n in (2, 5, N_POSITIONS):
        score = model.score(TEXT[:n])
        rows = log_softmax(model(TEXT[:n]))
        expected = [math.nan, *(rows[i, TEXT[i + 1]] for i in range(n - 1))]
        np.testing.assert_allclose(score.log_probabilities, expected, rtol=1e-12)
        assert score.n_predicted == n - 1
        assert score.token_ids == TEXT[:n]
        assert score.tokens == [f"<{i}>" for i in TEXT[:n]]
        loss = model.trace(TEXT[:n], keep="logits")["loss"]
        np.testing.assert_allclose(score.losses[1:], loss[:-1], rtol=1e-5)


@pytest.mark.every(3)
@pytest.mark.parametrize("stride", [1, 2, 7, 8, 15, 16])
@pytest.mark.parametrize("n", [15, 16, 17, 18, 31, 32, 33, 53])
def test_windows_slide_as_defined(model, stride, n):
    score = model.score(TEXT[:n], stride=stride)
    expected = by_hand(model, TEXT[:n], stride)
    assert relative_error(score.log_probabilities, expected) < (1e-5 if model.dtype == "float32" else 1e-12)
    begins = math.ceil((n - N_POSITIONS) / stride) + 1 if n > N_POSITIONS else 1
    assert score.n_predicted == n - (begins if stride == N_POSITIONS else 1)


def test_loss_and_perplexity(model):
    for stride in (None, 4, N_POSITIONS):
        score = model.score(TEXT, stride=stride)
        losses = -score.log_probabilities[~np.isnan(score.log_probabilities)]
        assert len(losses) == score.n_predicted
        assert score.loss == pytest.approx(losses.mean(), rel=1e-14)
        assert score.perplexity == pytest.approx(math.exp(losses.mean()), rel=1e-14)
        assert score.log_probabilities.dtype == np.float64


def test_the_default_stride_is_half_the_window(model):
    assert model.score(TEXT).loss == model.score(TEXT, stride=8).loss != model.score(TEXT, stride=9).loss


def test_text_is_scored_as_its_tokens(tiny):
    text = "It is a truth universally acknowledged, that a single man must be in want of a wife."
    score = tiny.score(text)
    assert score.token_ids == tiny.tokenizer.encode(text)
    assert "".join(score.tokens) == text
    assert score.loss == tiny.score(score.token_ids).loss
    scrambled = tiny.score(score.token_ids[::-1])
    assert scrambled.perplexity > 2 * score.perplexity


@pytest.mark.parametrize("text", [[], [5]])
def test_a_text_with_nothing_to_predict_is_refused(model, text):
    with pytest.raises(InputError, match=r"empty|at least two tokens"):
        model.score(text)


@pytest.mark.parametrize("stride", [0, -1, 17, 1.5, 8.0, True, "4"])
def test_a_wrong_stride_is_refused(model, stride):
    with pytest.raises(InputError) as caught:
        model.score(TEXT, stride=stride)
    assert str(caught.value) == f"stride={stride!r}: must be a whole number from 1 to 16"


def test_ids_outside_the_vocabulary_are_refused(model):
    with pytest.raises(InputError, match="60 is not one of 0 to 59"):
        model.score([*TEXT, 60])


# -- against HF ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float32", "float64"])
def pair(request, tmp_path_factory):
    """(ours, HF's) of one random checkpoint, in one precision"""
    torch = needs.imported("torch")
    needs.imported("transformers")
    from support import hf

    import gpt2np

    torch.set_num_threads(1)
    theirs = hf.random_model(3, n_layer=2, n_head=2, n_embd=16, n_positions=N_POSITIONS, vocab_size=60)
    folder = hf.save(theirs, tmp_path_factory.mktemp("hf"))
    ours = gpt2np.load(folder, dtype=request.param)
    return ours, theirs.to(getattr(torch, request.param))


def guide(model, ids: list[int], stride: int):
    """The loop of https://huggingface.co/docs/transformers/perplexity, its names and its arithmetic."""
    import torch

    encodings, max_length, seq_len = torch.tensor([ids]), model.config.n_positions, len(ids)
    nll_sum, n_tokens, prev_end_loc, windows = 0.0, 0, 0, []
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        trg_len = end_loc - prev_end_loc
        input_ids = encodings[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        with torch.no_grad():
            neg_log_likelihood = model(input_ids, labels=target_ids).loss
        num_loss_tokens = int((target_ids != -100).sum()) - target_ids.size(0)
        nll_sum += float(neg_log_likelihood) * num_loss_tokens
        n_tokens += num_loss_tokens
        windows.append((slice(prev_end_loc, end_loc), float(neg_log_likelihood), num_loss_tokens))
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return math.exp(nll_sum / n_tokens), windows


@pytest.mark.parametrize("stride", [3, 8, 15, 16])
@pytest.mark.parametrize("n", [10, 16, 35, 53])
def test_every_window_of_hfs_guide(pair, stride, n):
    """The guide subtracts one token a window, also where no token lost its prediction: from the second window
    on its weights are one too small. Its windows and their losses are ours; its mean is, with its weights."""
    ours, theirs = pair
    tolerance = {"rel": 1e-5 if ours.dtype == "float32" else 1e-6}  # HF's loss is float32 in any case
    score = ours.score(TEXT[:n], stride=stride)
    perplexity, windows = guide(theirs, TEXT[:n], stride)
    losses = [float(np.nanmean(score.losses[rows])) for rows, _, _ in windows]
    assert losses == pytest.approx([loss for _, loss, _ in windows], **tolerance)
    weights = [weight for _, _, weight in windows]
    assert math.exp(np.average(losses, weights=weights)) == pytest.approx(perplexity, **tolerance)
    if stride == N_POSITIONS or len(windows) == 1:  # there its weights are right
        assert score.perplexity == pytest.approx(perplexity, **tolerance)
