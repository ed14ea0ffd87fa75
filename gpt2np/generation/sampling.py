"""Choosing the next token: from the logits of one position to one token id.

    logits [vocab] -> penalties -> temperature -> top-k -> top-p -> min-p -> softmax -> one draw -> token id

`choose` is a pure function. The model is not known, nothing is remembered between two tokens, and even
chance comes from outside, as one number in [0, 1) (`draws`): the same arguments always give the same token.
What each option does to the logits, and in which order, is in `generation/filters.py`. Like Hugging Face's,
all of it works on float32 logits, whatever precision the model ran in; probabilities are in float64.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpt2np.errors import InputError, short, whole_number
from gpt2np.generation.filters import (
    Logits,
    TokenIds,
    penalties,
    probabilities,
    warpers,
)
from gpt2np.generation.options import Sampling


def draws(seed: int | None = None) -> Iterator[float]:
    """Yield the uniform numbers in [0, 1) of one prompt, one a token; None takes fresh entropy.

    They are `numpy.random.Generator(PCG64(seed)).random()`: 53 random bits over 2**53. Each prompt has an
    iterator of its own, which is why its text does not depend on the prompts beside it.
    """
    fixed = None if seed is None else whole_number("seed", seed, 0)
    generator = np.random.Generator(np.random.PCG64(fixed))
    return (generator.random() for _ in count())


@dataclass(frozen=True)
class Removal:
    """What one step took out.

    `name` is the option, such as "top_k"; `count` the number of tokens; `mass` the probability that they had
    before it; `most_likely` the ids of the ten likeliest of them.
    """

    name: str
    count: int
    mass: float
    most_likely: tuple[int, ...]


@dataclass(frozen=True)
class LedgerEntry:
    """Why this token: all that led to one choice.

    `step` is 0 for the first generated token, whose id is `token_id` and whose probability in the final
    distribution is `probability`. `raw_logit` is its logit as the model gave it and `raw_rank` how many are
    larger: 0 for the largest, where the lens and the page call the likeliest token number 1. `removals` are
    what each filter took out, in order; `survivors` is the number of tokens that were left, `entropy` that of
    their distribution in nats, `top` its ten likeliest as (id, probability). `uniform` is the number drawn
    from [0, 1), None when greedy; `interval` are the two sums of probabilities, in order of token id, that it
    fell between: [low, high). With `ledger="full"` there are `prompt_ids` and `raw_logits`; from these,
    `sampling` and `uniform` another program can make the choices again, without NumPy's generator.
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

    def __repr__(self) -> str:
        removed = [f"{removal.name} {removal.count}" for removal in self.removals if removal.count]
        drawn = "greedy" if self.uniform is None else f"drawn {self.uniform:.4g}"
        chosen = f"id {self.token_id}, probability {self.probability:.4g}, raw rank {self.raw_rank}"
        left = f"{self.survivors} left" + (f" (removed by {', '.join(removed)})" if removed else "")
        return f"<LedgerEntry of step {self.step}: {chosen}; {left}; {drawn}>"

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


@np.errstate(under="ignore")
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
            f"num_beams={sampling.num_beams}: beams are chosen together, by gpt2np.generation.beam.BeamSearch"
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
        raise InputError(
            f"uniform={short(uniform)}: sampling needs a number from 0 up to, but not including, 1"
        )
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
    if ids.size and not (np.minimum.reduce(ids) >= 0 and np.maximum.reduce(ids) < n_vocab):
        raise InputError(
            f"context: ids run from {ids.min()} to {ids.max()}; the vocabulary from 0 to {n_vocab - 1}"
        )
    if not 0 <= prompt_length <= ids.size:
        raise InputError(
            f"prompt_length={prompt_length}: must be from 0 to {ids.size}, the length of the context"
        )
    return ids.astype(np.int64, copy=False)


def check_logits(source: str, logits: Logits) -> Logits:
    """Return `logits` as they are; raise `InputError` naming their source if nothing can be chosen."""
    if logits.ndim != 1 or logits.size == 0:
        raise InputError(f"logits: must be one row [vocab], not of shape {logits.shape}")
    largest = np.maximum.reduce(logits)
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
