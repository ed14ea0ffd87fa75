"""What `after_attn` is in a file of layer internals: the residual stream there, or what the MLP reads of it.

The program that first wrote such files hooked the input of the MLP: that is not the stream between attention
and MLP, as the format says, but the same behind a norm. Which of the two a file has follows from its other
arrays, without the model.
"""

import numpy as np

from gpt2np.capture.capture_files import Capture
from gpt2np.ops import Array

_ENOUGH = 4  # rows: with fewer, anything fits
# What may remain unexplained: of the MLP's answer, where chance leaves 0.7 and more, and of all others.
_OF_WRITTEN, _ROUNDING = 0.4, 0.01


def after_attention(capture: Capture) -> str | None:
    """Return `"resid_mid"` or `"ln_2"`, whichever `after_attn` is; None where the file does not tell.

    Raw residual never tells, nor does a text of fewer than 4 rows. `"ln_2"` can be told of an RMSNorm only.
    """
    if "residual" not in capture["prompt"]:
        return None
    after, output, down = (_rows(capture, *place) for place in _PLACES)
    if len(after) < _ENOUGH:
        return None
    if _of_stream(after, output, down):
        return "resid_mid"
    return "ln_2" if _normed(after, output, down) else None


_PLACES = (("residual", "after_attn"), ("residual", "output"), ("mlp", "down_proj"))


def _rows(capture: Capture, group: str, name: str) -> Array:
    """An array at every position, [pos, n_embd]: the response's first row is the prompt's last."""
    prompt, response = (capture[phase][group][name] for phase in ("prompt", "response"))
    rows = [prompt, *(np.reshape(row, (1, -1)) for row in response[1:])]
    return np.concatenate(rows).astype(np.float64)


def _normed_rows(x: Array) -> Array:
    """Each row divided by its root mean square, zeros where it has none."""
    size = np.sqrt((x * x).mean(axis=1, keepdims=True))
    rows: Array = np.divide(x, size, out=np.zeros_like(x), where=size > 0)
    return rows


def _of_stream(after: Array, output: Array, down: Array) -> bool:
    """Whether the MLP's answer, as it is or behind a norm, leads from `after` to `output`.

    What most columns leave unexplained must be rounding, be it that of bfloat16.
    """
    size = np.sqrt((output * output).mean(axis=1, keepdims=True))
    if not size.all():
        return False
    written, y = (output - after) / size, _normed_rows(down) / size
    lengths = (y * y).sum(axis=0)
    weight = np.divide((written * y).sum(axis=0), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    squares = [(x * x).sum(axis=0) for x in (written, output / size)]
    for said in (down / size, y * weight):
        left = ((written - said) ** 2).sum(axis=0)
        parts = (np.median(np.sqrt(left / np.where(whole > 0, whole, 1))) for whole in squares)
        if all(part < most for part, most in zip(parts, (_OF_WRITTEN, _ROUNDING), strict=True)):
            return True
    return False


def _normed(after: Array, output: Array, down: Array) -> bool:
    """Whether `after` is the stream behind an RMSNorm, the stream being `output` without the MLP's answer.

    With a number r for each row, the inverse of what its norm divides by, and two weights for each column,
    r * after = a * output - b * down', where down' is the MLP's answer without its length. So r * after lies,
    in each column, in the plane of two known vectors: the best r is an eigenvector.
    """
    y = _normed_rows(down)
    planes = np.linalg.qr(np.stack([output.T, y.T], axis=-1))[0]  # [n_embd, pos, 2]
    sizes = np.sqrt((after * after).sum(axis=1))
    if not sizes.all():
        return False
    inside = (planes * (after / sizes[:, None]).T[:, :, None]).swapaxes(0, 1).reshape(len(after), -1)
    explained = np.linalg.svd(inside, compute_uv=False)[0] ** 2  # of 1
    return bool(1 - explained < (2 * _ROUNDING) ** 2)
