"""What may be given as a prompt: a text or token ids; and several of them."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpt2np.errors import InputError
from gpt2np.ops import Array

Prompt = str | Sequence[int] | Array


def as_prompts(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts of a call, and whether they were given as several.

    Raises:
        InputError: it is neither a prompt nor a list of them.
    """
    if isinstance(prompt, str):
        return [prompt], False
    items = as_list(prompt)
    if not items:
        raise InputError("the list of prompts is empty")
    nested = [isinstance(item, str | list | tuple) or np.ndim(item) > 0 for item in items]
    if not any(nested):
        return [items], False
    if not all(nested):
        raise InputError("a list of prompts holds texts or lists of token ids, nothing else")
    return items, True


def as_list(prompt: Any) -> list[Any]:
    """The items of anything that has some.

    Raises:
        InputError: it has none, as a number, or they are bytes.
    """
    scalar = isinstance(prompt, np.ndarray) and prompt.ndim == 0
    if scalar or isinstance(prompt, bytes) or not isinstance(prompt, Iterable):
        raise InputError(f"a prompt is text or a list of token ids, not {prompt!r}")
    return list(prompt)


def checked_ids(ids: Iterable[Any], vocab_size: int) -> list[int]:
    """Token ids as integers.

    Raises:
        InputError: one is no whole number, or not of the vocabulary.
    """
    whole = [_whole(i) for i in ids]
    for i in whole:
        if not 0 <= i < vocab_size:
            raise InputError(f"token id {i} is not one of 0 to {vocab_size - 1}")
    return whole


def _whole(value: Any) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except (TypeError, RuntimeError):
        raise InputError(f"token ids are whole numbers, not {value!r}") from None
