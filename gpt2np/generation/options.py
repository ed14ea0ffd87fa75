"""The options for choosing tokens, and what each may be."""

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from gpt2np.errors import InputError, nearest, short

if TYPE_CHECKING:
    from gpt2np.tracing.edits import Edits, EditsLike
    from gpt2np.tracing.keep import Keep, KeepLike
    from gpt2np.tracing.resume import Past


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens; the defaults are plain greedy decoding. Wrong values raise `InputError`.

    Greedy takes the largest logit, so `top_k`, `top_p` and `min_p` matter only when `temperature` is above 0;
    the penalties always count. `num_beams` above 1 is beam search (`generation.beam`), deterministic here.
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
    early_stopping: bool | Literal["never"] = False  # beam search: True, False or "never", as in HF

    def __post_init__(self) -> None:
        for name, (kind, low, high, allowed) in ALLOWED.items():
            value = getattr(self, name)
            if value is None and "None" in allowed:
                continue
            known = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
            if not known or not (low <= value <= high or (name == "temperature" and value == 0)):  # NaN too
                raise InputError(f"{name}={short(value)}: must be {allowed}")
            object.__setattr__(self, name, kind(value))
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise InputError(f'early_stopping={short(self.early_stopping)}: must be True, False or "never"')
        if self.num_beams > 1 and self.temperature > 0:
            both = f"num_beams={self.num_beams} with temperature={self.temperature}"
            raise InputError(f"{both}: sampling from beams is not supported; leave one of the two out")


ALLOWED: dict[str, tuple[type[int] | type[float], float, float, str]] = {
    # 1e-30 to 1e30 is what float32 logits can be multiplied and divided by
    "temperature": (float, 1e-30, 1e30, "a number from 1e-30 to 1e30, or 0 for greedy"),
    "top_k": (int, 0, math.inf, "a whole number of at least 1 (0 or None is off)"),
    "top_p": (float, 5e-324, 1, "a number above 0 and at most 1 (1 or None is off)"),
    "min_p": (float, 0, 1, "a number from 0 to 1 (0 or None is off)"),
    "repetition_penalty": (float, 1e-30, 1e30, "a number from 1e-30 to 1e30 (1 is off); prompt and response"),
    "presence_penalty": (float, -2, 2, "a number from -2 to 2 (0 is off); counts the response only"),
    "frequency_penalty": (float, -2, 2, "a number from -2 to 2 (0 is off); counts the response only"),
    "no_repeat_ngram_size": (int, 0, math.inf, "a whole number of at least 1 (0 is off)"),
    "num_beams": (int, 1, math.inf, "a whole number of at least 1 (1 is no beam search)"),
    "length_penalty": (float, -10, 10, "a number from -10 to 10 (0 is off)"),
}


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]


Ledger = bool | Literal["full"]
OnOverflow = Literal["refuse", "slide"]
EndOfText = int | Sequence[int] | Literal["config"] | None


class DecodingOptions(SamplingOptions, total=False):
    """The keyword arguments of `Model.generate`, but for what concerns the prompt."""

    max_new_tokens: int
    seed: int | Sequence[int | None] | None
    eos: EndOfText
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    keep: "KeepLike | Keep | None"
    ledger: Ledger
    lookup: int
    on_overflow: OnOverflow
    edits: "EditsLike | None"


class GenerateOptions(DecodingOptions, total=False):
    """The keyword arguments of `Model.generate`."""

    past: "Past | None"
    special: bool


@dataclass(frozen=True)
class Options:
    """What `Model.generate` was asked for, apart from the prompts and their seeds."""

    max_new_tokens: int
    sampling: Sampling
    stop_ids: frozenset[int]
    stop: tuple[str, ...]
    keep: "Keep | None"
    ledger: Ledger
    lookup: int
    slide: bool
    past: "Past | None" = None
    edits: "Edits | None" = None
    special: bool = False

    def check(self) -> None:
        """Refuse what does not go together."""
        if not isinstance(self.ledger, bool | str) or self.ledger not in (False, True, "full"):
            raise InputError(f"ledger={short(self.ledger)}: must be True, False or 'full'")
        if self.lookup and self.sampling.temperature > 0:
            raise InputError("lookup is for greedy decoding: it needs temperature 0")
        if self.sampling.num_beams > 1 and (self.lookup or self.ledger or self.stop or self.slide):
            raise InputError(
                "num_beams above 1 goes with neither lookup, ledger, stop nor on_overflow='slide'"
            )
        if self.keep is not None:
            p = self.keep.positions
            if (p.start or 0) < 0 or (p.stop or 0) < 0:
                raise InputError("keep's positions count from the start: a generation may end early")


def sampling_options(given: Mapping[str, Any]) -> Sampling:
    """Return the options for choosing a token.

    Raises:
        InputError: an option that does not exist, or a value outside its range.
    """
    choosing = {f.name for f in fields(Sampling)}
    known = list(GenerateOptions.__annotations__)
    for name in given:
        if name not in choosing:
            near = nearest(name, known)
            hint = f"; the nearest is {short(near)}" if near else f"; known are {', '.join(known)}"
            raise InputError(f"generate has no option {short(name)}{hint}")
    return Sampling(**given)


def seeds_of(seed: Any, n: int) -> list[Any]:
    """Return the seed of each of n prompts: one for all, or a list with one each.

    Raises:
        InputError: a list of another length, or something without an order.
    """
    if isinstance(seed, AbstractSet | Mapping):
        raise InputError(f"seed={short(seed)}: must be a whole number, or a list of one for each prompt")
    if isinstance(seed, str | bytes) or not isinstance(seed, Iterable):
        return [seed] * n
    seeds = list(seed)
    if len(seeds) != n:
        raise InputError(f"{len(seeds)} seeds for {n} prompts")
    return seeds
