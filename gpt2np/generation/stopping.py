"""Where a text ends: at an end-of-text token, or before a stop string."""

from collections.abc import Iterable, Sequence
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.text.prompts import checked_ids


def end_tokens(
    eos: int | str | Sequence[int] | None, stop_tokens: Sequence[int], vocab_size: int, own: Sequence[int]
) -> frozenset[int]:
    """The ids that end a text: `eos` ("config": the model's `own`; None: none) and `stop_tokens`.

    Raises:
        InputError: something else than ids of the vocabulary.
    """
    if isinstance(stop_tokens, str) or not isinstance(stop_tokens, Iterable):
        raise InputError(f"stop_tokens={short(stop_tokens)}: must be a list of token ids")
    own_only = isinstance(eos, str) and eos == "config"
    given: list[Any] = (
        [] if eos is None or own_only else list(eos) if isinstance(eos, list | tuple) else [eos]
    )
    ends = checked_ids([*stop_tokens, *given], vocab_size)
    if own_only:
        ends += own  # outside a smaller vocabulary they are never chosen
    return frozenset(ends)


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One string or several, before the first of which a text ends.

    Raises:
        InputError: something else than strings, or an empty one.
    """
    stops = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else (stop,)
    if not all(isinstance(s, str) and s for s in stops):
        raise InputError(f"stop={short(stop)}: must be a string or a list of strings, none of them empty")
    return stops


def before_stop(text: str, stops: tuple[str, ...]) -> str | None:
    """What stands before the first stop string in a text; None where there is none."""
    cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else None


def may_begin_stop(text: str, stops: tuple[str, ...]) -> int:
    """How many of the last characters may be the beginning of a stop string."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for n in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-n:]) for stop in stops):
            return n
    return 0
