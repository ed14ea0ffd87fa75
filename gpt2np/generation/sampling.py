"""Choosing the next token: from the logits of one position to one token id.

    logits [vocab] -> penalties -> temperature -> top-k -> top-p -> min-p -> softmax -> one draw -> token id

`choose` is a pure function. The model is not known, nothing is remembered between two tokens, and even
chance comes from outside, as one number in [0, 1) (`draws`): the same arguments always give the same token.
What each option does to the logits is in `gpt2np.filters`.

The order is that of Hugging Face transformers 5 (`GenerationMixin._get_logits_processor`); presence and
frequency penalty, which HF has not, come right after the repetition penalty, as in vLLM. Like HF, all of it
works on float32 logits, whatever precision the model ran in; probabilities come from those in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpt2np.errors import InputError
from gpt2np.filters import (
    Logits,
    TokenIds,
    ban_repeated_ngrams,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_presence,
    penalize_repetition,
    probabilities,
    scale_temperature,
)

Filter = tuple[str, Callable[[Logits], Logits]]  # the option's name, and what it does to the logits


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens; the defaults are plain greedy decoding. Wrong values raise `InputError`.

    Greedy takes the largest logit, so `top_k`, `top_p` and `min_p` matter only when `temperature` is above 0;
    the penalties always count. `num_beams` above 1 is beam search (`gpt2np.beam`), deterministic here.
    """

    temperature: float = 0.0  # 0: greedy. Ackley, Hinton & Sejnowski 1985
    top_k: int | None = None  # None or 0: off. Fan et al. 2018
    top_p: float | None = None  # None or 1: off. Nucleus sampling, Holtzman et al. 2019
    min_p: float | None = None  # None or 0: off. Nguyen et al. 2024
    repetition_penalty: float = 1.0  # 1: off. CTRL, Keskar et al. 2019; counts prompt and generated tokens
    presence_penalty: float = 0.0  # 0: off. OpenAI API; counts generated tokens only
    frequency_penalty: float = 0.0  # 0: off. OpenAI API; counts generated tokens only
    no_repeat_ngram_size: int = 0  # 0: off. Paulus et al. 2017; counts prompt and generated tokens
    num_beams: int = 1  # 1: no beam search
    length_penalty: float = 1.0  # beam search: score = log-probability / length ** length_penalty
    early_stopping: bool | str = False  # beam search: True, False or "never", as in HF

    def __post_init__(self) -> None:
        for name, (kind, low, high, allowed) in ALLOWED.items():
            value = getattr(self, name)
            if value is None and "None" in allowed:
                continue
            numbers = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
            known = isinstance(value, numbers) and not isinstance(value, bool)
            if not known or not (low <= value <= high or (name == "temperature" and value == 0)):  # NaN too
                raise InputError(f"{name}={value!r}: must be {allowed}")
            object.__setattr__(self, name, kind(value))
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise InputError(f'early_stopping={self.early_stopping!r}: must be True, False or "never"')
        if self.num_beams > 1 and self.temperature > 0:
            both = f"num_beams={self.num_beams} with temperature={self.temperature}"
            raise InputError(f"{both}: sampling from beams is not supported; leave one of the two out")


ALLOWED: dict[str, tuple[type[int] | type[float], float, float, str]] = {
    # 1e-30 to 1e30 is what float32 logits can be multiplied and divided by
    "temperature": (float, 1e-30, 1e30, "a number from 1e-30 to 1e30, or 0 for greedy"),
    "top_k": (int, 0, np.inf, "a whole number of at least 1 (0 or None is off)"),
    "top_p": (float, 5e-324, 1, "a number above 0 and at most 1 (1 or None is off)"),
    "min_p": (float, 0, 1, "a number from 0 to 1 (0 or None is off)"),
    "repetition_penalty": (float, 1e-30, 1e30, "a number from 1e-30 to 1e30 (1 is off)"),
    "presence_penalty": (float, -2, 2, "a number from -2 to 2 (0 is off)"),
    "frequency_penalty": (float, -2, 2, "a number from -2 to 2 (0 is off)"),
    "no_repeat_ngram_size": (int, 0, np.inf, "a whole number of at least 1 (0 is off)"),
    "num_beams": (int, 1, np.inf, "a whole number of at least 1 (1 is no beam search)"),
    "length_penalty": (float, -10, 10, "a number from -10 to 10 (0 is off)"),
}


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


def draws(seed: int | None = None) -> Iterator[float]:
    """Yield the uniform numbers in [0, 1) of one prompt, one a token; None takes fresh entropy.

    They are `numpy.random.Generator(PCG64(seed)).random()`: 53 random bits over 2**53. Each prompt has an
    iterator of its own, which is why its text does not depend on the prompts beside it.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
        raise InputError(f"seed={seed!r}: must be a whole number of at least 0, or None for fresh entropy")
    generator = np.random.Generator(np.random.PCG64(seed))
    return (generator.random() for _ in count())


@dataclass(frozen=True)
class Removal:
    """What one step took out: how many tokens, their probability before it, and the ten likeliest."""

    name: str
    count: int
    mass: float
    most_likely: tuple[int, ...]


@dataclass(frozen=True)
class LedgerEntry:
    """Why this token: all that led to one choice.

    From `raw_logits`, `prompt_ids`, `sampling` and `uniform` another program can make the choices again,
    without the chosen ids and without NumPy's generator; `tests/replay.js` does.
    """

    step: int  # 0 for the first generated token
    token_id: int
    probability: float  # in the final distribution
    raw_logit: float  # as the model gave it
    raw_rank: int  # 0 for the largest raw logit; equal logits share a rank
    removals: tuple[Removal, ...]  # in order of application; a step that removes nothing has count 0
    survivors: int  # tokens with a probability above 0 in the final distribution
    entropy: float  # of the final distribution, in nats
    top: tuple[tuple[int, float], ...]  # its ten likeliest tokens: (id, probability)
    uniform: float | None  # the number drawn; None when greedy
    interval: tuple[float, float] | None  # the cumulative probabilities [low, high) that it fell between
    sampling: Sampling
    prompt_ids: tuple[int, ...] | None = None  # this and the next: only with ledger="full"
    raw_logits: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return a dict for `json.dumps(..., allow_nan=False)`; a raw logit of -inf becomes None."""
        entry = asdict(self)
        if self.raw_logits is not None:
            entry["raw_logits"] = [x if x > -np.inf else None for x in self.raw_logits.tolist()]
        return entry


@dataclass(frozen=True)
class Choice:
    """The chosen token and its probability in the final distribution (greedy: after penalties)."""

    token_id: int
    probability: float
    ledger: LedgerEntry | None = None


def choose(
    logits: npt.ArrayLike,
    sampling: Sampling,
    *,
    context: TokenIds,
    prompt_length: int,
    uniform: float | None = None,
    ledger: bool | Literal["full"] = False,
) -> Choice:
    """Choose the token that follows `context` (the prompt, then what was generated) from its logits [vocab].

    Greedy takes the largest logit, the first of equals. Sampling lays the probabilities end to end in order
    of token id, and takes the token into whose stretch `uniform` falls. `ledger` explains the choice ("full":
    with the raw logits too). Raises `InputError` if no token is left to choose.
    """
    if sampling.num_beams > 1:
        raise InputError(
            f"num_beams={sampling.num_beams}: beams are chosen together, by gpt2np.beam.BeamSearch"
        )
    raw = np.asarray(logits, dtype=np.float32)
    context = check_context(context, prompt_length, raw.size)
    final, removals = check_logits("the model", raw), list[Removal]()
    for name, apply in penalties(sampling, context, prompt_length) + warpers(sampling):
        before, final = final, check_logits(name, apply(final))
        if ledger:
            removals.append(_removal(name, before, final))
    chances = probabilities(final)
    if sampling.temperature == 0:
        token, uniform, interval = int(final.argmax()), None, None
    else:
        token, interval = inverse_cdf(chances, uniform)
    if not ledger:
        return Choice(token, float(chances[token]))

    possible = chances[chances > 0]
    entry = LedgerEntry(
        step=len(context) - prompt_length,
        token_id=token,
        probability=float(chances[token]),
        raw_logit=float(raw[token]),
        raw_rank=int(np.count_nonzero(raw > raw[token])),
        removals=tuple(removals),
        survivors=possible.size,
        entropy=abs(float(-(possible * np.log(possible)).sum())),  # abs: a certain token has 0, not -0
        top=tuple((i, float(chances[i])) for i in _likeliest(chances)),
        uniform=uniform,
        interval=interval,
        sampling=sampling,
        prompt_ids=tuple(int(i) for i in context[:prompt_length]) if ledger == "full" else None,
        raw_logits=raw.copy() if ledger == "full" else None,
    )
    return Choice(token, entry.probability, entry)


def inverse_cdf(chances: npt.NDArray[np.float64], uniform: float | None) -> tuple[int, tuple[float, float]]:
    """Return the first token whose cumulative probability is above `uniform`, and its stretch [low, high)."""
    if uniform is None or not 0 <= uniform < 1:
        raise InputError(f"uniform={uniform!r}: sampling needs a number from 0 up to, but not including, 1")
    ends = np.cumsum(chances)
    last_possible = chances.size - 1 - int((chances[::-1] > 0).argmax())
    ends[last_possible:] = 1.0  # whatever rounding made of it: a removed token is never drawn
    i = int(np.searchsorted(ends, uniform, side="right"))  # the first above
    return i, (float(ends[i - 1]) if i else 0.0, float(ends[i]))


def check_context(context: TokenIds, prompt_length: int, n_vocab: int) -> npt.NDArray[np.int64]:
    """Return the ids as an array; raise `InputError` unless all are in the vocabulary and hold the prompt."""
    ids = np.asarray(context)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"context: must be one row of whole numbers, not {ids.dtype} of shape {ids.shape}")
    if ids.size and not (ids.min() >= 0 and ids.max() < n_vocab):
        raise InputError(
            f"context: ids run from {ids.min()} to {ids.max()}; the vocabulary from 0 to {n_vocab - 1}"
        )
    if not 0 <= prompt_length <= ids.size:
        raise InputError(
            f"prompt_length={prompt_length}: must be from 0 to {ids.size}, the length of the context"
        )
    return ids.astype(np.int64)


def check_logits(source: str, logits: Logits) -> Logits:
    """Return `logits` as they are; raise `InputError` naming their source if nothing can be chosen."""
    if logits.ndim != 1 or logits.size == 0:
        raise InputError(f"logits: must be one row [vocab], not of shape {logits.shape}")
    largest = logits.max()
    if largest == -np.inf:
        raise InputError(f"{source} leaves no token to choose: every logit is -inf")
    if not np.isfinite(largest):
        raise InputError(f"{source} gave a logit that is {largest}")
    return logits


def _likeliest(values: npt.NDArray[np.floating[Any]]) -> list[int]:
    """Return the ids of the ten largest values above 0, largest first, equal ones in order of id."""
    cut = np.partition(values, -10)[-10] if values.size > 10 else 0
    ids = np.flatnonzero((values >= cut) & (values > 0))
    return [int(i) for i in ids[np.argsort(-values[ids], kind="stable")][:10]]


def _removal(name: str, before: Logits, after: Logits) -> Removal:
    gone = (after == -np.inf) & (before > -np.inf)
    if not gone.any():
        return Removal(name, 0, 0.0, ())
    chances = np.where(gone, probabilities(before), 0.0)
    return Removal(name, int(gone.sum()), float(chances.sum()), tuple(_likeliest(chances)))
