"""Beam search: the few best texts are continued side by side, and the best finished one wins.

`BeamSearch` does not know the model. Each step is handed the logits of its live beams, and answers with what
each next beam continues (the parent, whose cache goes with it) and by which token:

    search = BeamSearch(prompt_ids, Sampling(num_beams=4), max_new_tokens=20, eos=50256)
    while not search.done:
        parents, tokens = search.step(logits_of(search.beams))  # [beam, vocab]
    best = search.hypotheses[0].token_ids

It finds the sequences that `GenerationMixin._beam_search` of Hugging Face transformers 5 finds for one prompt
with `do_sample=False`: the same rule for what counts as finished, the same length penalty, the same kinds of
`early_stopping`. Scores are float32 sums of log-probabilities, as there. The penalties of `Sampling` lower
each beam's log-probabilities, which are not normalised again; presence and frequency penalty, which HF has
not, count the generated tokens of each beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2np.errors import InputError, whole_number
from gpt2np.generation.filters import TokenIds, penalties
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import check_context


@dataclass(frozen=True)
class Hypothesis:
    """A finished text, prompt included: its last token is an `eos`, or the last that was allowed."""

    token_ids: tuple[int, ...]
    score: float  # log-probability of the continuation / its length ** length_penalty


class Continuation(NamedTuple):
    """A beam with one token more."""

    parent: int  # which of the beams before the step it continues
    token_id: int
    score: float  # log-probability so far; of a text that ended, its score as in `Hypothesis`


@dataclass(frozen=True)
class BeamStep:
    """What a step made of the beams: those that go on, and those that ended, each best first."""

    live: tuple[Continuation, ...]
    ended: tuple[Continuation, ...]


@dataclass(frozen=True)
class Beams:
    """A finished search: every step, and the texts that were left at its end, of which the first won."""

    steps: tuple[BeamStep, ...]
    hypotheses: tuple[Hypothesis, ...]

    def __repr__(self) -> str:
        return f"<Beams: {len(self.steps)} steps, {len(self.hypotheses)} texts at the end>"


class BeamSearch:
    """The state of one search: `beams` to be continued, finished `hypotheses`, best first, and `done`.

    `steps` has what became of the beams in every step so far.

    There is one beam, the prompt, before the first step, and `num_beams` after it (fewer only if the
    vocabulary has no more to offer). At most `num_beams` hypotheses are kept.
    """

    def __init__(
        self,
        prompt_ids: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        eos: int | Sequence[int] | None = None,
    ) -> None:
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
        if len(prompt_ids) == 0:
            raise InputError("prompt_ids: beam search needs at least one token to continue")
        self.sampling = sampling
        self.prompt_length = len(prompt_ids)
        self.max_new_tokens = max_new_tokens
        self.eos = {int(i) for i in np.atleast_1d([] if eos is None else eos)}
        self.beams = [tuple(int(i) for i in prompt_ids)]
        self.scores = np.zeros(1, dtype=np.float32)  # [beam], best first: the log-probability so far
        self.hypotheses: list[Hypothesis] = []
        self.steps: list[BeamStep] = []
        self.done = False

    def step(self, logits: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Continue every beam by one token, given the logits [beam, vocab] that follow each of `beams`.

        Returns, for each of the new `beams`, the index of the old one that it continues, and the token.
        """
        if self.done:
            raise InputError("this beam search is done: its result is in hypotheses")
        log_probs = self._log_probabilities(np.asarray(logits, dtype=np.float32))
        totals = (log_probs + self.scores[:, None]).ravel()
        n_beams, n_vocab = self.sampling.num_beams, log_probs.shape[1]

        # So many candidates that num_beams can go on even if every beam's best continuations are eos.
        candidates = _largest(totals, max(2, 1 + len(self.eos)) * n_beams)
        parents, tokens = np.divmod(candidates, n_vocab)
        length = len(self.beams[0]) + 1 - self.prompt_length  # generated tokens, with these
        ends = np.isin(tokens, list(self.eos)) | (length == self.max_new_tokens)

        # A text that ends is a hypothesis only if it is among the num_beams best of this step.
        ended = []
        for i in np.flatnonzero(ends[:n_beams]):
            ids = (*self.beams[parents[i]], int(tokens[i]))
            score = totals[candidates[i]] / length**self.sampling.length_penalty
            self.hypotheses.append(Hypothesis(ids, float(score)))
            ended.append(Continuation(int(parents[i]), int(tokens[i]), float(score)))
        self.hypotheses = sorted(self.hypotheses, key=lambda h: -h.score)[:n_beams]

        # The best of the others go on.
        live = np.flatnonzero(~ends)[:n_beams]
        if live.size == 0 and not self.hypotheses:
            raise InputError("the penalties leave no token to choose in any beam")
        self.scores = totals[candidates[live]]
        self.beams = [(*self.beams[parents[i]], int(tokens[i])) for i in live]
        going = zip(parents[live].tolist(), tokens[live].tolist(), self.scores.tolist(), strict=True)
        self.steps.append(BeamStep(tuple(Continuation(*each) for each in going), tuple(ended)))
        self.done = live.size == 0 or self._is_settled(length)
        return parents[live], tokens[live]

    def _is_settled(self, length: int) -> bool:
        """Whether no live beam is thought to beat the worst of `num_beams` hypotheses (HF's heuristic)."""
        s = self.sampling
        if len(self.hypotheses) < s.num_beams:
            return False
        if s.early_stopping is True:
            return True
        longest = s.early_stopping == "never" and s.length_penalty > 0
        best_possible = self.scores[0] / (self.max_new_tokens if longest else length) ** s.length_penalty
        return bool(best_possible <= self.hypotheses[-1].score)

    @np.errstate(under="ignore")
    def _log_probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logarithm of each row's softmax, then lowered by the penalties of that row's text."""
        if logits.ndim != 2 or len(logits) != len(self.beams) or logits.size == 0:
            raise InputError(f"logits: must be [{len(self.beams)} beams, vocab], not of shape {logits.shape}")
        if not np.isfinite(logits.max(axis=1)).all():
            raise InputError("logits: a beam has NaN, infinity or nothing but -inf")
        x = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_probs: npt.NDArray[np.float32] = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        log_probs = log_probs.astype(np.float32)
        for row, text in zip(log_probs, self.beams, strict=True):
            ids = check_context(text, self.prompt_length, len(row))
            for _, lower in penalties(self.sampling, ids, self.prompt_length):
                row[:] = lower(row)
        return log_probs


def _largest(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the indices of the `k` largest values above -inf, largest first, equals in their order."""
    k = min(k, values.size)
    indices = np.flatnonzero((values >= np.partition(values, -k)[-k]) & (values > -np.inf))
    return indices[np.argsort(-values[indices], kind="stable")][:k].astype(np.int64)
