"""Mistakes in how queries and keys are turned by their positions."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, Turn, rotate, turn_of
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.contract import ModelConfig


class Rotation(Mistake):
    """Queries and keys turned in another way."""

    steps = ("attn.q_rot", "attn.k_rot")
    operations = (rotate,)


class RotationPairs(Rotation):
    """Neighbours are turned together, instead of numbers half a head apart."""

    slug = "rotation-pairs"
    explanation = "Numbers 2j and 2j + 1 of a head are turned together, instead of j and j + head_dim / 2."
    cure = "Checkpoints in HF's layout turn halves: (x1 cos - x2 sin, x2 cos + x1 sin), x1 the first half."
    hints = (
        "Who is whose partner, and how far from each other do they stand?",
        "Is every vector as long as it should be, and still wrong?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, turn = inputs
        a, b = x[..., ::2], x[..., 1::2]
        out[..., ::2], out[..., 1::2] = a * turn.cos - b * turn.sin, b * turn.cos + a * turn.sin


class RotationMissing(Rotation):
    """Neither turned, or only one of the two."""

    slug = "rotation-missing"
    explanation = "Queries and keys are not turned by their positions, or only one of the two is."
    cure = "Turn queries and keys, not values, before the scores."
    hints = (
        "How does this model know which word came first?",
        "Would anything be different if two words changed places?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0]


class RotationBackwards(Rotation):
    """Turned the other way."""

    slug = "rotation-backwards"
    explanation = (
        "Queries and keys, or one of the two, are turned the wrong way: the sign of the sines is wrong."
    )
    cure = "(x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin)."
    hints = (
        "In which direction do you go round, and does it matter?",
        "Are numbers of yours right but for a minus?",
    )

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, turn = inputs
        rotate(x, Turn(turn.cos, -turn.sin), out=out)


class RotationAngles(Rotation):
    """Other angles: of another base, of other positions, or of a wrong share of the head."""

    slug = "rotation-angles"
    explanation = "Queries and keys are turned by other angles: of another base, or of other positions."
    cure = "The angle of pair j is position * rope_theta ** (-2 j / head_dim); the first position is 0."
    hints = (
        "What happens to the very first word, and what to the next?",
        "Where do the numbers come from that say how far to go round?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        theta = getattr(config, "rope_theta", None)
        yield from (("base", base) for base in (1e4, 1e6, 5e5, 1e5) if base != theta)
        yield from (("positions from", first) for first in (1, -1, 2))
        yield ("frequencies of", config.n_embd)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, _ = inputs
        how, value = variant
        c: Any = at.config
        positions = np.arange(len(x)) + (value if how == "positions from" else 0)
        theta = value if how == "base" else c.rope_theta
        turn = turn_of(positions, theta, c.d_head, x.dtype)
        if how == "frequencies of":
            half = turn_of(positions, theta, value, x.dtype)
            turn = Turn(half.cos[..., : c.d_head // 2], half.sin[..., : c.d_head // 2])
            if turn.cos.shape[-1] < c.d_head // 2:
                return out.fill(np.nan)
        rotate(x, turn, out=out)

    def detail(self, variant: Any) -> str:
        how, value = variant
        return "the frequencies are those of n_embd" if how == "frequencies of" else f"{how} {value:g}"
