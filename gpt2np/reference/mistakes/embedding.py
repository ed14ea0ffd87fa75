"""Mistakes before the first block: other tokens, other positions, another sum of the two."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import At, Mistake, OtherPrompt, PromptMistake


class PositionOffByOne(Mistake):
    """Rows p + 1, or p - 1, of wpe instead of row p."""

    slug = "position-off-by-one"
    explanation = "Positions are counted from the wrong number: every token gets its neighbour's row of wpe."
    cure = "The first token stands at position 0, and takes row 0 of wpe."
    steps = ("wpe",)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (1, -1, 2)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        positions, table = inputs
        out[...] = table[np.clip(positions + variant, 0, len(table) - 1)]

    def detail(self, variant: Any) -> str:
        return f"positions are {abs(variant)} too {'large' if variant > 0 else 'small'}"


class PositionRestart(Mistake):
    """Tokens that run with a cache are counted from 0 again."""

    slug = "position-restart"
    explanation = "With a cache the positions restart: a new token gets row 0 of wpe instead of its own."
    cure = "A new token's position is the number of tokens in the cache."
    steps = ("wpe",)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        starts = [prefill] if prefill < n_tokens else range(1, n_tokens)
        yield from ((start, counts) for start in starts for counts in (False, True))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        positions, table = inputs
        start, counts = variant
        restarted = positions - start if counts else np.zeros_like(positions)
        out[...] = table[np.where(positions >= start, restarted, positions)]

    def detail(self, variant: Any) -> str:
        return f"from position {variant[0]} on"


class PositionMissing(Mistake):
    """No position embedding."""

    slug = "position-missing"
    explanation = "The position embedding is not added."
    cure = "embed = wte[token] + wpe[position]."
    steps = ("wpe", "embed")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = 0 if at.step == "wpe" else inputs[0]


class EmbeddingScaled(Mistake):
    """The token embedding times sqrt(n_embd)."""

    slug = "embedding-scaled"
    explanation = (
        "Token embeddings are multiplied by sqrt(n_embd), as in the first Transformer; GPT-2 does not."
    )
    cure = "Take the rows of wte as they are."
    steps = ("wte",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        ids, table = inputs
        out[...] = table[ids] * float(at.config.n_embd) ** 0.5


class BosPrepended(PromptMistake):
    """<|endoftext|> in front of the prompt."""

    slug = "bos-prepended"
    explanation = "A token was put in front of the prompt: every token stands one position too late."
    cure = (
        "GPT-2's tokeniser adds nothing: run the ids of the text alone, or compare with --tokens that has it."
    )

    def prompts(self, ids: tuple[int, ...], whole: tuple[int, ...], config: Config) -> Iterator[OtherPrompt]:
        for bos in dict.fromkeys((*config.eos_ids, config.vocab_size - 1, 0)):
            if 0 <= bos < config.vocab_size and len(ids) < config.n_positions:
                detail = f"token {bos} in front"
                yield OtherPrompt((bos, *ids), slice(None), detail)
                yield OtherPrompt((bos, *ids), slice(1, None), detail + ", whose own row is left out")
                yield OtherPrompt((bos, *ids), slice(0, len(ids)), detail + ", and the last row is left out")


class ContextTruncated(PromptMistake):
    """The wrong end of a long text, or too much of it, was cut off."""

    slug = "context-truncated"
    explanation = "The text was cut at the wrong end, or although it fits."
    cure = "Keep the last n_positions tokens: what is to be continued stands at the end."

    def prompts(self, ids: tuple[int, ...], whole: tuple[int, ...], config: Config) -> Iterator[OtherPrompt]:
        if len(whole) > len(ids):
            yield OtherPrompt(whole[: len(ids)], slice(None), f"its first {len(ids)} tokens were kept")
        for n in range(len(ids) - 1, 0, -1):
            yield OtherPrompt(ids[-n:], slice(None), f"the first {len(ids) - n} tokens were cut off")


class WrongTokenIds(PromptMistake):
    """Other ids; which ones is read from the embeddings in the dump."""

    slug = "wrong-token-ids"
    explanation = "Other tokens ran: the tokeniser, its vocabulary or the order of the ids differs."
    cure = "Print your ids beside those of `gpt2np tokenize TEXT`; --their-tokens says where two lists part."
    reads_ids = True

    def prompts(self, ids: tuple[int, ...], whole: tuple[int, ...], config: Config) -> Iterator[OtherPrompt]:
        top = config.vocab_size - 1
        yield OtherPrompt(ids[::-1], slice(None), "in reverse order")
        end = next((i for i in config.eos_ids if i < config.vocab_size), 0)
        yield OtherPrompt((*ids[1:], end), slice(None), "shifted by one")
        for shift in (1, -1):
            shifted = tuple(min(max(i + shift, 0), top) for i in ids)
            yield OtherPrompt(shifted, slice(None), f"every id is {shift:+d}")
