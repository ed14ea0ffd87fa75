"""Soft caps: large numbers bent towards a bound that they never pass."""

import numpy as np

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.threads import each


def capped(x: Array, cap: float | None, *, out: Array) -> None:
    """`cap * tanh(x / cap)`: almost x near 0, and never larger than the cap; `None` is no cap."""

    def some(rows: slice) -> None:
        np.copyto(out[rows], x[rows])
        if cap is not None:
            bend(out[rows], cap)

    each(some, row_blocks(out))


def bend(x: Array, cap: float) -> None:
    """Cap an array where it lies."""
    x /= cap
    np.tanh(x, out=x)
    x *= cap
