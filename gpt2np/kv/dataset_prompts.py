"""The prompts of a dataset: texts, or made by chance, each of which knows how to make itself again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.errors import InputError, whole_number
from gpt2np.model import Model
from gpt2np.text.prompts import Prompt, of_prompt

MOST_BY_CHANCE = 20  # tokens of a prompt that chance makes: 4 to so many


@dataclass(frozen=True)
class Source:
    """Where a prompt comes from: a text, or chance, number `number` of a seed."""

    text: str | None = None
    number: int = 0
    seed: int = 0
    random_tokens: bool = False
    special: bool = False  # that of `Model.token_ids`
    chat: bool = False  # the text is a message to the model

    def facts(self) -> dict[str, Any]:
        """Return what the index says about it, and recognises it by."""
        if self.text is not None:
            read = {"special": self.special, "chat": self.chat}
            return {"text": self.text} | {how: True for how, is_so in read.items() if is_so}
        return {"random": self.number, "seed": self.seed, "random_tokens": self.random_tokens}

    def prompt(self, model: Model) -> Prompt:
        """Make the prompt; it depends on number and seed only, not on the order in which prompts are made."""
        if self.text is not None:
            return model.chat_prompt(self.text) if self.chat else self.text
        make = _random_ids if self.random_tokens else _sampled
        return make(model, np.random.default_rng([self.seed, self.number]))


def texts(
    given: Iterable[str],
    model: Model,
    special: bool = False,
    places: Sequence[str] = (),
    chat: bool = False,
) -> list[Source]:
    """Return a prompt for each text that is not blank; `special` is that of `Model.token_ids`.

    With `chat`, each text is a message to the model. `places` are where the texts stand in a file, for
    what is said when one is refused.

    Raises:
        InputError: there are none, or one is longer than the context.
    """
    given = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(text, str) for text in given):
        raise InputError("the prompts of a dataset must be texts")
    kept = [text for text in given if text.strip()]
    if not kept:
        raise InputError("there are no prompts: give one on each line")
    for number, text in enumerate(given, 1):
        try:
            model.token_ids(model.chat_prompt(text) if chat else text or " ", special=special)
        except InputError as error:
            raise of_prompt(places[number - 1] if places else f"prompt {number}", error) from None
    return [Source(text, special=special, chat=chat) for text in kept]


def randoms(n: int, seed: int = 0, random_tokens: bool = False) -> list[Source]:
    """Return n random prompts: sampled from the model, or of uniformly random tokens."""
    seed = whole_number("seed", seed, 0)
    return [Source(None, number, seed, random_tokens) for number in range(whole_number("n", n, 1))]


def _random_ids(model: Model, rng: np.random.Generator) -> list[int]:
    n = int(rng.integers(4, MOST_BY_CHANCE + 1))
    ids: list[int] = rng.integers(0, model.config.vocab_size, min(n, model.config.n_positions)).tolist()
    return ids


def _sampled(model: Model, rng: np.random.Generator) -> Prompt:
    """What the model writes at the start of a text, some 4 to 20 tokens."""
    config, tokenizer = model.config, model.usable_tokenizer
    begin = None if tokenizer is None else tokenizer.begin_id
    for _ in range(20):
        start = _random_ids(model, rng)[:1]  # drawn even where it is not used: a seed means the same texts
        start = [*config.eos_ids[:1]] or start
        start = start if begin is None else [begin]
        n = min(int(rng.integers(4, MOST_BY_CHANCE + 1)), config.n_positions)
        seed = int(rng.integers(2**31))
        response = model.generate(start, max_new_tokens=n, temperature=1.0, seed=seed).finish().response
        text = str(response.text).strip()
        if model.tokenizer is None:
            return [int(i) for i in response.token_ids]
        if text and len(model.tokenizer.encode(text)) <= config.n_positions:
            return text
    return _random_ids(model, rng)  # a model that only ever ends the text, or writes spaces
