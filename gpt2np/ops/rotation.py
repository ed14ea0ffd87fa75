"""Rotary positions: queries and keys turned by where they stand (Su et al. 2021)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.threads import each


@dataclass(frozen=True, eq=False)
class Turn:
    """Cosines and sines of the angles of some positions: both [pos, 1, d_head / 2]."""

    cos: Array
    sin: Array

    def __str__(self) -> str:
        return "positions"


def turn_of(positions: Array, theta: float, d_head: int, dtype: DTypeLike) -> Turn:
    """How far each pair of numbers of a head is turned: by `position * theta ** (-2 * j / d_head)`.

    The angles are computed in float64, and their cosines and sines rounded once: in float32 an angle of
    thousands of turns is off by a ten thousandth.
    """
    frequencies = float(theta) ** (-2.0 * np.arange(d_head // 2) / d_head)
    angles = np.asarray(positions, np.float64)[:, None, None] * frequencies
    return Turn(np.cos(angles).astype(dtype), np.sin(angles).astype(dtype))


def rotate(x: Array, turn: Turn, *, out: Array) -> None:
    """Turn each head by its position: [pos, head, d_head] -> [pos, head, d_head].

    Pair j is numbers j and j + d_head / 2 of a head; turning changes no head's length.
    """
    half = x.shape[-1] // 2

    def some(rows: Any) -> None:
        cos, sin = turn.cos[rows], turn.sin[rows]
        a, b = x[rows][..., :half], x[rows][..., half:]
        np.multiply(a, cos, out=out[rows][..., :half])
        out[rows][..., :half] -= b * sin
        np.multiply(b, cos, out=out[rows][..., half:])
        out[rows][..., half:] += a * sin

    each(some, row_blocks(out))
