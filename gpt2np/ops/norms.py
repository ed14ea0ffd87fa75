"""LayerNorm, and its mean and standard deviation."""

from typing import Any, NamedTuple

import numpy as np

from gpt2np.ops.blocks import Array, row_blocks
from gpt2np.threads import each


class LayerNorm(NamedTuple):
    """A learned scale and shift [n_embd], and the epsilon inside the root."""

    weight: Array
    bias: Array
    epsilon: float


def layer_norm(x: Array, p: LayerNorm, *, out: Array) -> None:
    """Each row to mean 0 and variance 1, then scaled and shifted: [pos, n_embd] -> [pos, n_embd].

    The variance is the mean of squares (ddof 0) and epsilon is added inside the root
    (Ba et al. 2016, https://arxiv.org/abs/1607.06450).
    """

    def some(rows: Any) -> None:
        y = out[rows]
        np.subtract(x[rows], _mean(x[rows]), out=y)
        y *= _rstd(y, p.epsilon)
        y *= p.weight
        y += p.bias

    each(some, row_blocks(out))


def layer_norm_statistics(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each row: [pos, n_embd] -> [pos, 1], [pos, 1]."""
    mean = _mean(x)
    return mean, _rstd(x - mean, epsilon)


def _mean(x: Array) -> Array:
    return np.asarray(np.add.reduce(x, axis=-1, keepdims=True) / x.shape[-1])


def _rstd(centred: Array, epsilon: float) -> Array:
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / centred.shape[-1]
    return 1.0 / np.sqrt(variance + epsilon)  # type: ignore[no-any-return]
