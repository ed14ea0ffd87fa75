"""Ways from the stream before an MLP to the stream after it: the right one, and wrong ones."""

from collections.abc import Callable

import numpy as np

from gpt2np.lessons.exercise import Function
from gpt2np.ops import Array, LayerNorm, Linear, gelu_tanh, layer_norm


def curve(kind: Callable[..., None]) -> Function:
    """An activation function that returns its result."""

    def function(x: Array) -> Array:
        kind(x, out=(out := np.empty_like(x)))
        return out

    return function


GELU = curve(gelu_tanh)


Normalise = Callable[[Array, LayerNorm], Array]


def normed(x: Array, p: LayerNorm) -> Array:
    """LayerNorm, into an array of its own."""
    layer_norm(x, p, out=(out := np.empty_like(x)))
    return out


def norm_of(function: Function) -> Normalise:
    """LayerNorm as a learner's function computes it."""
    return lambda x, p: np.asarray(function(x, p.weight, p.bias, p.epsilon))


def after_mlp(
    norm: Normalise = normed,
    activation: Function = GELU,
    added_to: str = "resid_mid",
    biases: tuple[int, int] = (1, 1),
    twice: int = 1,
) -> Function:
    """The stream after the MLP, with some of its parts left out, repeated or misplaced."""

    def function(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
        x = norm(resid_mid, ln_2)
        hidden = activation(x @ c_fc.weight + biases[0] * c_fc.bias)
        out = twice * (hidden @ c_proj.weight + biases[1] * c_proj.bias)
        centred = resid_mid - resid_mid.mean(-1, keepdims=True)
        sums = {"resid_mid": resid_mid, "ln_2": x, "nothing": 0.0, "twice": 2 * resid_mid, "centred": centred}
        return np.asarray(out + sums[added_to])

    return function


def not_normed(x: Array, p: LayerNorm) -> Array:
    """The stream as it is."""
    return x


def normed_after(inside: Normalise, whole: bool) -> Function:
    """LayerNorm after the sum, or after the MLP and before the sum."""

    def function(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
        out = after_mlp(inside, added_to="nothing")(resid_mid, ln_2, c_fc, c_proj)
        return normed(resid_mid + out, ln_2) if whole else resid_mid + normed(out, ln_2)

    return function


def bias_after_curve(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
    """The bias of the first matrix, added to what the curve gives."""
    hidden = GELU(normed(resid_mid, ln_2) @ c_fc.weight) + c_fc.bias
    return np.asarray(resid_mid + hidden @ c_proj.weight + c_proj.bias)


def curve_at_the_end(resid_mid: Array, ln_2: LayerNorm, c_fc: Linear, c_proj: Linear) -> Array:
    """The curve after the second matrix."""
    out = after_mlp(activation=np.asarray, added_to="nothing")(resid_mid, ln_2, c_fc, c_proj)
    return np.asarray(resid_mid + GELU(out))
