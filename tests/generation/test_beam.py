"""Beam search: HF's sequences from the same logits, by hand, by exhaustion, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
from support import needs

from gpt2np.errors import InputError
from gpt2np.generation.beam import BeamSearch, Hypothesis
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import choose


def run(search: BeamSearch, logits_of) -> list[Hypothesis]:
    """Drive a search with logits_of(list of texts) -> [beam, vocab], checking what step() answers."""
    while not search.done:
        before = search.beams
        parents, tokens = search.step(logits_of(before))
        assert search.beams == [(*before[p], t) for p, t in zip(parents, tokens, strict=True)]
        assert len(search.scores) == len(search.beams) <= search.sampling.num_beams
    return search.hypotheses


class Table:
    """A model without a network: the next token's logits depend on the last two tokens."""

    def __init__(self, n_vocab: int, seed: int) -> None:
        self.logits = (
            np.random.default_rng(seed).normal(size=(n_vocab, n_vocab, n_vocab)).astype(np.float32) * 2
        )

    def __call__(self, texts) -> np.ndarray:
        return np.stack([self.logits[text[-2] if len(text) > 1 else 0, text[-1]] for text in texts])


def log_probability(model: Table, text, prompt_length: int) -> float:
    total = 0.0
    for end in range(prompt_length, len(text)):
        x = model([text[:end]])[0].astype(np.float64)
        total += float(x[text[end]] - math.log(np.exp(x).sum()))
    return total


def test_by_hand():
    """The greedy first token (1, probability 0.6) is a trap: its continuations are flat. Two beams see it."""
    after = {(0,): [0, 0.6, 0.4], (0, 1): [0.34, 0.33, 0.33], (0, 2): [0.9, 0.05, 0.05]}

    def logits_of(texts):
        with np.errstate(divide="ignore"):
            return np.log(np.array([after[t] for t in texts], dtype=np.float32))

    found = run(BeamSearch([0], Sampling(num_beams=2, length_penalty=0), max_new_tokens=2), logits_of)
    assert [h.token_ids for h in found] == [(0, 2, 0), (0, 1, 0)]
    assert [h.score for h in found] == pytest.approx([math.log(0.36), math.log(0.204)], rel=1e-6)
    greedy = run(BeamSearch([0], Sampling(), max_new_tokens=2), logits_of)
    assert [h.token_ids for h in greedy] == [(0, 1, 0)]


@pytest.mark.parametrize("seed", range(5))
def test_with_enough_beams_it_finds_the_best_of_all(seed):
    model, n, length = Table(4, seed), 4, 3
    found = run(BeamSearch([1, 2], Sampling(num_beams=n**length), max_new_tokens=length), model)
    texts = [(1, 2, *new) for new in itertools.product(range(n), repeat=length)]
    expected = sorted(texts, key=lambda t: -log_probability(model, t, 2))
    assert [h.token_ids for h in found] == expected
    assert found[0].score == pytest.approx(log_probability(model, expected[0], 2) / length, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}])
def test_one_beam_is_greedy_on_log_probabilities(options):
    model, s = Table(12, 3), Sampling(**options)
    found = run(BeamSearch([1, 2], s, max_new_tokens=10), model)
    text = (1, 2)
    for _ in range(10):
        x = model([text])[0].astype(np.float64)
        x -= math.log(np.exp(x).sum())
        text = (*text, choose(x, s, context=text, prompt_length=2).token_id)
    assert [h.token_ids for h in found] == [text]


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
def test_scores_and_ends(early_stopping, length_penalty):
    for seed in range(5):
        model = Table(10, seed)
        s = Sampling(num_beams=3, early_stopping=early_stopping, length_penalty=length_penalty)
        found = run(BeamSearch([4], s, max_new_tokens=8, eos=np.array([2, 7])), model)
        assert len(found) == len({h.token_ids for h in found}) == 3
        for h in found:
            new = h.token_ids[1:]
            assert new[-1] in (2, 7) or len(new) == 8
            assert not {2, 7} & set(new[:-1])
            expected = log_probability(model, h.token_ids, 1) / len(new) ** length_penalty
            assert h.score == pytest.approx(expected, rel=1e-5)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_presence_penalty_counts_each_beams_own_tokens():
    flat = np.zeros((1, 5), np.float32)
    search = BeamSearch([0, 0], Sampling(num_beams=2, presence_penalty=1.0), max_new_tokens=3)
    search.step(flat)
    assert search.beams == [
        (0, 0, 0),
        (0, 0, 1),
    ]  # equals: the first come first; the prompt's 0 does not count
    search.step(np.repeat(flat, 2, axis=0))
    assert search.beams == [(0, 0, 0, 1), (0, 0, 0, 2)]


def test_never_does_not_stop_early_when_short_texts_are_preferred():
    """HF looks ahead to the longest text only if length_penalty is above 0; here a better end comes third."""

    def logits_of(texts):
        return np.log(np.float32([[0.005, 0.99, 0.005] if len(t) == 3 else [0.89, 0.1, 0.01] for t in texts]))

    s = Sampling(num_beams=2, length_penalty=-1, early_stopping="never")
    found = run(BeamSearch([0], s, max_new_tokens=100, eos=1), logits_of)
    assert [h.token_ids for h in found] == [(0, 0, 0, 1), (0, 1)]


def test_a_vocabulary_smaller_than_the_beams():
    found = run(
        BeamSearch([0], Sampling(num_beams=8), max_new_tokens=np.int64(2), eos=np.int64(1)), Table(3, 0)
    )
    assert {h.token_ids for h in found} == {(0, 1), *((0, a, b) for a in (0, 2) for b in (0, 1, 2))}


# --- against HF ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf():
    """Yield a tiny random GPT-2 of HF's, and torch."""
    torch, transformers = needs.imported("torch"), needs.imported("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is too small for more
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=20, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5)
    yield model, torch
    torch.set_num_threads(threads)


@pytest.mark.every(3)
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-0.7, 0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 2, "repetition_penalty": 1.7},
        {"num_beams": 3, "no_repeat_ngram_size": 2},
        {"num_beams": 5, "repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
    ],
    ids=str,
)
def test_the_same_sequences_as_hf(early_stopping, length_penalty, options, hf):
    model, torch = hf
    rng = np.random.default_rng(8)
    s = Sampling(**options, early_stopping=early_stopping, length_penalty=length_penalty)

    def logits_of(texts):
        with torch.no_grad():
            return model(torch.tensor(texts)).logits[:, -1].numpy()

    for n_eos in (0, 1, 1, 2, 2, 4, 6):  # a good part of the vocabulary, so that texts end at every step
        eos = rng.choice(20, n_eos, replace=False).tolist()
        prompt = rng.integers(0, 20, size=int(rng.integers(1, 6))).tolist()
        n = int(rng.integers(1, 16))
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            **options,
            do_sample=False,
            early_stopping=early_stopping,
            length_penalty=length_penalty,
            max_new_tokens=n,
            eos_token_id=eos or None,
            pad_token_id=19,
            num_return_sequences=s.num_beams,
            return_dict_in_generate=True,
            output_scores=True,
        )
        ours = run(BeamSearch(prompt, s, max_new_tokens=n, eos=eos), logits_of)
        width = theirs.sequences.shape[1]
        padded = [[*h.token_ids, *[19] * (width - len(h.token_ids))] for h in ours]
        assert padded == theirs.sequences.tolist()
        np.testing.assert_allclose([h.score for h in ours], theirs.sequences_scores, rtol=1e-4, atol=1e-5)


# --- what it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None])
def test_wrong_lengths(n):
    with pytest.raises(InputError, match="max_new_tokens="):
        BeamSearch([0], Sampling(num_beams=2), max_new_tokens=n)


def test_an_empty_prompt():
    with pytest.raises(InputError, match="prompt_ids"):
        BeamSearch([], Sampling(num_beams=2), max_new_tokens=3)


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (np.zeros(5), r"must be \[1 beams, vocab\]"),
        (np.zeros((2, 5)), r"not of shape \(2, 5\)"),
        (np.zeros((1, 0)), "must be"),
        (np.full((1, 5), np.nan), "NaN"),
        (np.full((1, 5), -np.inf), "nothing but -inf"),
        (np.zeros((1, 2)), "ids run from 3 to 3"),
    ],
)
def test_wrong_logits(logits, says):
    with pytest.raises(InputError, match=says):
        BeamSearch([3], Sampling(num_beams=2), max_new_tokens=3).step(logits)


def test_no_token_left_and_a_search_that_is_done():
    search = BeamSearch([0], Sampling(num_beams=2, no_repeat_ngram_size=1), max_new_tokens=5)
    search.step(np.zeros((1, 2)))
    with pytest.raises(InputError, match="leave no token"):
        search.step(np.zeros((1, 2)))
    search = BeamSearch([0], Sampling(num_beams=2), max_new_tokens=1)
    search.step(np.zeros((1, 4)))
    assert search.done
    with pytest.raises(InputError, match="done"):
        search.step(np.zeros((2, 4)))


def test_the_steps_tell_what_became_of_every_beam():
    search = BeamSearch([0], Sampling(num_beams=3), max_new_tokens=5, eos=1)
    rng, before, ended = np.random.default_rng(3), [(0,)], []
    while not search.done:
        parents, tokens = search.step(rng.normal(size=(len(before), 6)))
        step = search.steps[-1]
        assert [(each.parent, each.token_id) for each in step.live] == list(
            zip(parents.tolist(), tokens.tolist(), strict=True)
        )
        assert [each.score for each in step.live] == search.scores.tolist()
        ended += [((*before[each.parent], each.token_id), each.score) for each in step.ended]
        assert [(*before[each.parent], each.token_id) for each in step.live] == search.beams
        before = search.beams
    assert {(text.token_ids, text.score) for text in search.hypotheses} <= set(ended)


def test_a_finished_generation_has_its_beams(tiny):
    done = tiny.generate("Elizabeth was", max_new_tokens=6, num_beams=3, eos=None).finish()
    assert repr(done.beams) == "<Beams: 6 steps, 3 texts at the end>"
    assert list(done.beams.hypotheses[0].token_ids) == done.token_ids
    scores = [text.score for text in done.beams.hypotheses]
    assert scores == sorted(scores, reverse=True)
    assert tiny.generate("Elizabeth was", max_new_tokens=2).finish().beams is None
