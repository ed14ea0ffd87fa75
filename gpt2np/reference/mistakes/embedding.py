"""Mistakes before the first block: other rows of the two tables, another sum of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig


class PositionOffByOne(Mistake):
    """Rows p + 1, or p - 1, of wpe instead of row p."""

    slug = "position-off-by-one"
    explanation = "Positions are counted from the wrong number: every token gets its neighbour's row of wpe."
    cure = "The first token is at position 0, and takes row 0 of wpe."
    hints = (
        "Which number do you count from?",
        "What does your very first token get, and would the second token fit it better?",
    )
    steps = ("wpe",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
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
    hints = (
        "Does it matter to your program how the text was fed in: at once, or bit by bit?",
        "Where does your program believe the newest token to be?",
    )
    steps = ("wpe",)
    whole = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
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
    hints = (
        "If you shuffle the tokens, does anything change?",
        "How would two equal tokens at different places differ?",
    )
    steps = ("wpe", "embed")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = 0 if at.step == "wpe" else inputs[0]


class EmbeddingScaled(Mistake):
    """The token embedding, or the sum, times sqrt(n_embd)."""

    slug = "embedding-scaled"
    explanation = "Embeddings are multiplied by sqrt(n_embd), as in the first Transformer; GPT-2's are not."
    cure = "Take the rows of wte as they are, and add those of wpe."
    hints = (
        "Did you bring something along from an older Transformer?",
        "How long are your vectors, beside the ones that were learned?",
    )
    steps = ("wte", "wpe", "embed")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        first, second = inputs
        right = first + second if at.step == "embed" else second[first]
        out[...] = right * float(at.config.n_embd) ** 0.5


class PositionReversed(Mistake):
    """Positions counted from the end."""

    slug = "position-reversed"
    explanation = "Positions run backwards: the last token of the text, or of the table, gets row 0 of wpe."
    cure = "The first token is at position 0, and takes row 0 of wpe."
    hints = (
        "In which direction do your numbers run?",
        "Which token of the text has the lowest number, and which the highest?",
    )
    steps = ("wpe",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from dict.fromkeys((n_tokens, config.n_positions))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        positions, table = inputs
        out[...] = table[variant - 1 - positions]

    def detail(self, variant: Any) -> str:
        return f"they are counted down from {variant - 1}"


class PositionConstant(Mistake):
    """The same row of wpe for every token."""

    slug = "position-constant"
    explanation = (
        "Every token gets the same row of wpe: the position is another number, such as an axis's size."
    )
    cure = "Positions are 0, 1, 2, ...: one for each token, from the sequence axis."
    hints = (
        "Do two equal tokens at different places get different vectors in your program?",
        "Which of your sizes is it that you count along?",
    )
    steps = ("wpe",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        sizes = (0, config.n_head, n_tokens, n_tokens - 1, 1)
        yield from dict.fromkeys(n for n in sizes if n < config.n_positions)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[1][variant]

    def detail(self, variant: Any) -> str:
        return f"always row {variant}"


class PositionStride(Mistake):
    """Rows that begin one number apart, not one row."""

    slug = "position-stride"
    explanation = "The table of positions is read without its stride: rows begin one number after the other."
    cure = "Row p of wpe begins at p * n_embd."
    hints = (
        "How far apart are two neighbours in the memory of a table?",
        "Is your first vector right, and the second one the first one moved?",
    )
    steps = ("wpe",)
    rare = True

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        positions, table = inputs
        out[...] = table.ravel()[positions[:, None] + np.arange(table.shape[1])]


class TokenTypesAdded(Mistake):
    """A row of wte for the kind of token."""

    slug = "token-types-added"
    explanation = "Token types are embedded too: a row of wte is added to every token, as for sentence pairs."
    cure = "Leave token_type_ids out: embed = wte[token] + wpe[position]."
    hints = (
        "How many summands does a vector have before the first layer?",
        "What is the difference between your vectors and the right ones? Is it everywhere the same?",
    )
    of_gpt2 = True
    steps = ("embed",)
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from range(min(2, config.vocab_size))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0] + inputs[1] + at.parameters.wte[variant]

    def detail(self, variant: Any) -> str:
        return f"row {variant}"
