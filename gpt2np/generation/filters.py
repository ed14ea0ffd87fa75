"""What each sampling option does to the logits of one position, and the order in which the options apply.

A penalty lowers logits; a filter *removes* tokens by setting their logit to -inf, which the softmax turns
into a probability of exactly 0. Definitions are those of Hugging Face transformers 5 (the classes of
`transformers.generation.logits_process`), and are tested to leave the same tokens; presence and frequency
penalty, which HF has not, are OpenAI's.

The order (`penalties`, then `warpers`) is that of transformers 5 (`GenerationMixin._get_logits_processor`);
presence and frequency penalty come right after the repetition penalty, as in vLLM.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpt2np.generation.options import Sampling

Logits = npt.NDArray[np.floating[Any]]  # [vocab]
TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]
Filter = tuple[str, Callable[[Logits], Logits]]  # the option's name, and what it does to the logits


@np.errstate(under="ignore")
def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Softmax in float64: exp(logit) over its sum; 0 where the logit is -inf."""
    weights = logits.astype(np.float64)
    weights -= np.maximum.reduce(weights)
    np.exp(weights, out=weights)
    weights /= np.add.reduce(weights)
    return weights


def penalize_repetition(logits: Logits, context: TokenIds, penalty: float) -> Logits:
    """Make every token of `context` (prompt too) less likely, once however often it is there.

    HF's `RepetitionPenaltyLogitsProcessor`: positive logits are divided by `penalty`, negative ones
    multiplied. The CTRL paper, where it comes from, divides both, which makes negative ones likelier.
    """
    ids = np.asarray(context, dtype=np.int64)
    out, seen = logits.copy(), logits[ids]
    with np.errstate(over="ignore", under="ignore"):
        out[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
    return out


def penalize_presence(logits: Logits, generated: TokenIds, presence: float, frequency: float) -> Logits:
    """Subtract `presence` from every token generated so far, and `frequency` times how often it was.

    OpenAI's definition: mu[j] - c[j] * frequency - (c[j] > 0) * presence, where "c[j] is how often that token
    was sampled prior to the current position". Tokens of the prompt were not sampled: they do not count.
    """
    ids, counts = np.unique(np.asarray(generated, dtype=np.int64), return_counts=True)
    out = logits.copy()
    out[ids] -= (counts * frequency + presence).astype(logits.dtype)
    return out


def ban_repeated_ngrams(logits: Logits, context: TokenIds, size: int) -> Logits:
    """Remove every token that would complete an n-gram of `size` tokens that `context` (prompt too) has.

    HF's `NoRepeatNGramLogitsProcessor`. Example: with size 2, after [5, 6, 7, 5] the token 6 is removed.
    """
    ids = np.asarray(context, dtype=np.int64)
    out = logits.copy()
    if len(ids) >= size:
        ngrams = np.lib.stride_tricks.sliding_window_view(ids, size)  # [ngram, size]
        begun = ids[len(ids) + 1 - size :]  # the size - 1 tokens that the next one would complete
        out[ngrams[(ngrams[:, :-1] == begun).all(axis=1), -1]] = -np.inf
    return out


def scale_temperature(logits: Logits, temperature: float) -> Logits:
    """Divide by `temperature`: below 1 the likely become likelier. HF's `TemperatureLogitsWarper`."""
    with np.errstate(over="ignore", under="ignore"):
        return logits / temperature


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Keep the `k` largest logits, and whatever equals the smallest of them. HF's `TopKLogitsWarper`."""
    k = min(k, logits.size)
    return np.where(logits < np.partition(logits, -k)[-k], -np.inf, logits)


@np.errstate(under="ignore")
def keep_top_p(logits: Logits, p: float) -> Logits:
    """Keep the smallest set of most likely tokens whose probabilities reach `p`; at least one.

    HF's `TopPLogitsWarper`, which sums from the *least* likely token upward and removes while the sum, in the
    logits' own precision, is at most 1 - p. If the border runs through equal logits, the lower ids are
    removed, as HF would if its sort were stable (torch leaves the order of equals open).
    """
    ascending = np.sort(logits)
    sums = np.cumsum(probabilities(ascending).astype(logits.dtype), dtype=np.float64).astype(logits.dtype)
    n_removed = min(int(np.count_nonzero(sums <= logits.dtype.type(1 - p))), logits.size - 1)
    border = ascending[n_removed]  # the least likely survivor
    out = np.where(logits < border, -np.inf, logits)
    ties = np.flatnonzero(logits == border)
    out[ties[: n_removed - np.count_nonzero(logits < border)]] = -np.inf
    return out


@np.errstate(under="ignore")
def keep_min_p(logits: Logits, min_p: float) -> Logits:
    """Keep tokens at least `min_p` times as likely as the most likely one. HF's `MinPLogitsWarper`."""
    chances = probabilities(logits).astype(logits.dtype)
    return np.where(chances < min_p * chances.max(), -np.inf, logits)


def penalties(sampling: Sampling, context: TokenIds, prompt_length: int) -> list[Filter]:
    """Return what depends on the text so far, in order: it counts in greedy, sampling and beam search."""
    s, steps = sampling, list[Filter]()
    if s.repetition_penalty != 1:
        steps.append(("repetition_penalty", lambda x: penalize_repetition(x, context, s.repetition_penalty)))
    if s.presence_penalty or s.frequency_penalty:
        counted, amounts = context[prompt_length:], (s.presence_penalty, s.frequency_penalty)
        steps.append(("presence_and_frequency_penalty", lambda x: penalize_presence(x, counted, *amounts)))
    if s.no_repeat_ngram_size:
        n = s.no_repeat_ngram_size
        steps.append(("no_repeat_ngram_size", lambda x: ban_repeated_ngrams(x, context, n)))
    return steps


class Penalized(NamedTuple):
    """What one penalty changed: ids of tokens, their logits before and after it, the largest change first.

    After it a logit is -inf where the token was removed.
    """

    name: str
    token_ids: npt.NDArray[np.int64]
    before: Logits
    after: Logits


def penalized(logits: Logits, sampling: Sampling, context: TokenIds, prompt_length: int) -> list[Penalized]:
    """Return what each of `penalties` changed in the logits of one position, in order."""
    found = []
    for name, apply in penalties(sampling, context, prompt_length):
        before, logits = logits, apply(logits)
        ids = np.flatnonzero(before != logits)
        change = np.abs(before[ids].astype(np.float64) - logits[ids])
        ids = ids[np.argsort(-change, kind="stable")]
        found.append(Penalized(name, ids, before[ids], logits[ids]))
    return found


def warpers(sampling: Sampling) -> list[Filter]:
    """Return what shapes the distribution that is drawn from, in order. Greedy has none."""
    s, steps = sampling, list[Filter]()
    if s.temperature == 0:
        return steps
    if s.temperature != 1:
        steps.append(("temperature", lambda x: scale_temperature(x, s.temperature)))
    if k := s.top_k:
        steps.append(("top_k", lambda x: keep_top_k(x, k)))
    if (p := s.top_p) is not None and p < 1:
        steps.append(("top_p", lambda x: keep_top_p(x, p)))
    if m := s.min_p:
        steps.append(("min_p", lambda x: keep_min_p(x, m)))
    return steps
