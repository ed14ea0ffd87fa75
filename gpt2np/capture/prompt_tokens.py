"""The token ids of all prompts of a capture: one flat array, and where in it each prompt begins."""

import hashlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gpt2np.capture.texts import Unread
from gpt2np.errors import InputError, TokenizerError, short
from gpt2np.ops import Array
from gpt2np.text.prompts import Prompt, of_prompt
from gpt2np.text.texts_of_model import TextsOfModel

P = TypeVar("P")


class Skipped(NamedTuple):
    """A prompt that was left out: the number that it had, from 0, why, and where it stands, if in a file."""

    prompt: int
    reason: str
    place: str | None = None

    @property
    def named(self) -> str:
        """What to call it in a message."""
        return f"prompt {self.prompt}" if self.place is None else self.place

    def facts(self) -> dict[str, Any]:
        """Return it as the manifest has it."""
        where = {} if self.place is None else {"where": self.place}
        return {"prompt": self.prompt} | where | {"reason": self.reason}


@dataclass(frozen=True)
class PromptTokens:
    """Prompts as ids: `ids` of all of them [tokens] int32, `offsets` [prompts + 1] int64.

    `skipped` are those that were left out.
    """

    ids: Array
    offsets: Array
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, prompt: int) -> Array:
        return self.ids[self.offsets[prompt] : self.offsets[prompt + 1]]

    @property
    def sha256(self) -> str:
        """A hash of all ids and of where prompts begin."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.ids.astype("<i4").tobytes())
        return digest.hexdigest()


def tokens_of(
    model: TextsOfModel,
    prompts: Iterable[Prompt],
    where: Callable[[int], str] | None = None,
    *,
    special: bool = False,
    chat: bool = False,
    skip_bad: bool = False,
) -> PromptTokens:
    """Return the ids of prompts; `where` says where the one of a number stands.

    With `chat` each is a user's message, which is put into the turns of the model.

    Raises:
        InputError, TokenizerError: a prompt is empty, too long, or has other ids than the vocabulary's: names
            the first of them and counts the others; `skip_bad` leaves them out instead. Or the model has
            no turns.
    """
    if chat:
        model.chat_prompt("a message")  # refuses a model without turns, once

    def ids_of(prompt: Prompt) -> list[int]:
        if not chat:
            return model.token_ids(prompt, special=special)
        if not isinstance(prompt, str):
            raise InputError(f"the prompt is no text, as a user's message is: {short(prompt)}")
        if not prompt.strip():
            raise InputError("the prompt is empty, and no message")
        return model.token_ids(model.chat_prompt(prompt))

    return _collected(prompts, ids_of, where, skip_bad)


def windows_of(
    model: TextsOfModel,
    texts: Iterable[str],
    where: Callable[[int], str],
    window: int,
    *,
    special: bool = False,
    skip_bad: bool = False,
) -> PromptTokens:
    """Return the ids of texts of any length, each cut into windows of so many tokens; the last has the rest.

    Raises:
        InputError: a text is empty, or a window longer than the context.
    """
    if not 1 <= window <= model.config.n_positions:
        most = model.config.n_positions
        raise InputError(f"window={window}: the context of this model holds 1 to {most} tokens")
    whole = _collected(
        texts, lambda text: model.token_ids(text, limit=False, special=special), where, skip_bad
    )
    begin = None if model.tokenizer is None else model.tokenizer.begin_id
    several = [part for i in range(len(whole)) for part in _windows(whole[i], window, begin)]
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in several]))).astype(np.int64)
    return PromptTokens(np.concatenate(several), offsets, whole.skipped)


def _windows(ids: Array, window: int, begin: int | None) -> list[Array]:
    """A text in pieces of at most so many ids; where every text begins with one token, each piece does."""
    if begin is None or ids[0] != begin or window == 1:
        return [ids[at : at + window] for at in range(0, len(ids), window)]
    starts = range(1, max(2, len(ids)), window - 1)
    return [np.concatenate((ids[:1], ids[at : at + window - 1])) for at in starts]


def _collected(
    prompts: Iterable[P], ids_of: Callable[[P], list[int]], where: Callable[[int], str] | None, skip_bad: bool
) -> PromptTokens:
    """The ids of all prompts; those that are refused are skipped, or all is refused."""
    ids, offsets, refused = array("i"), array("q", [0]), []
    for number, prompt in enumerate(prompts):
        try:
            if isinstance(prompt, Unread):
                raise InputError(prompt.reason)
            ids.extend(ids_of(prompt))
            offsets.append(len(ids))
        except (InputError, TokenizerError) as error:
            refused.append((number, error))
            if type(error) is not InputError and type(error) is not TokenizerError:
                raise  # the vocabulary cannot be used at all
    if refused and not skip_bad:
        number, first = refused[0]
        which = f"prompt {number}"
        if where is not None:
            which = where(number) if where(number).endswith(which) else f"{where(number)} ({which})"
        named = of_prompt(which, first)
        more = len(refused) - 1
        others = f"; {more:,} more {'is' if more == 1 else 'are'} bad" if more else ""
        raise type(named)(f"{named}{others}; skip_bad=True leaves them out")
    if len(offsets) == 1:
        raise InputError("there is no prompt to capture" + (": all are bad" if refused else ""))
    skipped = tuple(Skipped(number, str(why)) for number, why in refused)
    return PromptTokens(np.array(ids, np.int32), np.array(offsets, np.int64), skipped)
