"""What may be given as a prompt: a text or token ids; and several of them."""

import contextlib
import io
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, SupportsIndex

import numpy as np

from gpt2np.errors import InputError, TokenizerError, short
from gpt2np.ops import Array


class SupportsArray(Protocol):
    """What NumPy makes an array of: a tensor of another library."""

    def __array__(self) -> Array:
        """The ids as an array."""


Prompt = str | Sequence[SupportsIndex] | Array | SupportsArray
Prompts = Sequence[Prompt] | Iterator[Prompt] | ValuesView[Prompt]
Encoded = Mapping[str, Any]  # what a tokenizer of Hugging Face's returns: `input_ids`, of one text or several


def as_prompts(prompt: Any) -> tuple[list[Prompt], bool]:
    """The prompts of a call, and whether they were given as several.

    A tokenizer's output, a mapping with `input_ids`, is the ids in it, without those that its
    `attention_mask` leaves out.

    Raises:
        InputError: it is neither a prompt nor a list of them.
    """
    if isinstance(prompt, str):
        return [prompt], False
    items = as_list(prompt)
    if not items:
        raise InputError("the list of prompts is empty")
    nested = [_is_prompt(item) for item in items]
    if not any(nested):
        return [items], False
    if not all(nested):
        i = nested.index(False)
        found = f"number {i + 1} is {short(items[i])}"
        raise InputError(f"a list of prompts holds texts or lists of token ids, nothing else: {found}")
    return [item if isinstance(item, str) else as_list(item) for item in items], True


def ids_of_each(prompts: Sequence[Prompt], ids_of: Callable[[Prompt], list[int]]) -> list[list[int]]:
    """What a function makes of each prompt; of several, its error says which one it refuses.

    Raises:
        InputError, TokenizerError: those of the function.
    """
    found = []
    for number, prompt in enumerate(prompts, 1):
        with numbered(number, len(prompts)):
            found.append(ids_of(prompt))
    return found


@contextlib.contextmanager
def numbered(number: int, n: int) -> Iterator[None]:
    """What is refused in the block is refused as prompt `number` of n, where there are several."""
    try:
        yield
    except (InputError, TokenizerError) as error:
        if n == 1:
            raise
        raise of_prompt(f"prompt {number} of {n}", error) from None


def of_prompt(which: str, error: InputError | TokenizerError) -> InputError | TokenizerError:
    """The same error, which says of which prompt it is."""
    said = str(error)
    own = said.removeprefix("the prompt ")
    return type(error)(f"{which}: {said}" if own == said else f"{which} {own}")


def as_ids(prompt: Any) -> list[Any]:
    """The ids of one prompt, as they were given.

    Raises:
        InputError: it is none, or a list of several prompts.
    """
    items = as_list(prompt)
    if any(_is_prompt(item) for item in items):
        raise InputError("one prompt is a text or a flat list of token ids, not a list of several")
    return items


def _is_prompt(item: Any) -> bool:
    if isinstance(item, int):  # what most are
        return False
    return isinstance(item, str | list | tuple) or is_mapping(item) or np.ndim(item) > 0


def as_list(prompt: Any) -> list[Any]:
    """The items of anything that has some, in their order; of a tokenizer's output, its ids.

    Raises:
        InputError: it has none, as a number; or they have no order, as a set's, or are no ids, as a file's.
    """
    if is_mapping(prompt):
        return _ids_of(prompt)
    for kind, advice in _NO_PROMPTS:
        if isinstance(prompt, kind):
            raise InputError(f"a prompt is text or a list of token ids, not {advice}")
    if hasattr(prompt, "readline"):
        raise InputError(f"a prompt is text or a list of token ids, not {_OPEN_FILE}")
    if getattr(prompt, "ndim", 1) == 0 or not isinstance(prompt, Iterable):
        raise InputError(f"a prompt is text or a list of token ids, not {short(prompt)}")
    return list(prompt)


# What is iterable and yet no prompt.
_OPEN_FILE = "an open file: read it first, as in file.read()"
_NO_PROMPTS: tuple[tuple[Any, str], ...] = (
    ((bytes, bytearray, memoryview), "bytes: decode them first, as in data.decode('utf-8')"),
    (io.IOBase, _OPEN_FILE),
    (os.PathLike, "a path: read the file first, as in Path(...).read_text('utf-8')"),
    (AbstractSet, "a set, which has no order: give a list"),
)


def is_mapping(value: Any) -> bool:
    """Whether iterating over this yields its keys, as over a dict, a BatchEncoding or a table of columns."""
    columns = hasattr(value, "keys") and getattr(value, "ndim", 0) != 1  # a pandas Series yields its values
    return isinstance(value, Mapping) or (columns and not isinstance(value, type))


def _ids_of(encoded: Any) -> list[Any]:
    """The ids in a tokenizer's output: a list of them, or a list of such lists."""
    ids = encoded.get("input_ids")
    if ids is None or isinstance(ids, str):
        found = "a mapping without input_ids" if ids is None else "a mapping whose input_ids are a text"
        raise InputError(f"a prompt is text or a list of token ids, not {found}: give one of its values")
    for key in ("position_ids", "past_key_values", "inputs_embeds", "token_type_ids"):
        value = encoded.get(key)
        if value is not None and not (key == "token_type_ids" and not np.any(np.asarray(value))):
            raise InputError(f"{key} in a prompt are not supported: give the ids alone")
    mask = encoded.get("attention_mask")
    several = any(np.ndim(row) > 0 for row in as_list(ids))
    rows = as_list(ids) if several else [ids]
    masks = [None] * len(rows) if mask is None else as_list(mask) if several else [mask]
    if len(masks) != len(rows):
        raise InputError(f"attention_mask has {len(masks)} rows, input_ids {len(rows)}")
    kept = [_unmasked(as_list(row), row_mask) for row, row_mask in zip(rows, masks, strict=True)]
    return kept if several else kept[0]


def _unmasked(ids: list[Any], mask: Any) -> list[Any]:
    """The ids of one row without its padding, before or behind them."""
    if mask is None:
        return ids
    given = [] if isinstance(mask, str) else as_list(mask)
    if not all(np.ndim(m) == 0 and m in (0, 1) for m in given):
        raise InputError("attention_mask must be 1 where a token counts and 0 where it is padding")
    seen = [bool(m) for m in given]
    if len(seen) != len(ids):
        raise InputError(f"attention_mask has {len(seen)} positions, input_ids {len(ids)}")
    first, n = (seen.index(True), sum(seen)) if any(seen) else (0, 0)
    if not all(seen[first : first + n]):
        raise InputError("attention_mask leaves out positions inside the text, which is not supported")
    return ids[first : first + n]


def window_of(ids: Array, start: int, stop: int, begin: int | None) -> Array:
    """The ids of a text from `start` to `stop`, to be run alone.

    Where every text begins with the token `begin`, so does each of its windows, in the place of the first.
    """
    window = ids[start:stop].copy()
    if begin is not None and len(window) and ids[0] == begin:
        window[0] = begin
    return window


def checked_ids(ids: Iterable[Any], vocab_size: int) -> list[int]:
    """Token ids as integers.

    Raises:
        InputError: one is no whole number, or not of the vocabulary.
    """
    whole = [_whole(i) for i in ids]
    for i in whole:
        if not 0 <= i < vocab_size:
            raise InputError(f"token id {short(i)} is not one of 0 to {vocab_size - 1}")
    return whole


def _whole(value: Any) -> int:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except (TypeError, RuntimeError):
        raise InputError(f"token ids are whole numbers, not {short(value)}") from None
