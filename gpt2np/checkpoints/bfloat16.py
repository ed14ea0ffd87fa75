"""Where bfloat16, which NumPy does not have, becomes float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.ops.narrow_weights import BFLOAT16
from gpt2np.tensorfile import TensorFile


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of bfloat16 bit patterns; exact, a bfloat16 being the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def widened(file: TensorFile, name: str) -> NDArray[Any]:
    """A tensor of a `.safetensors` file, read-only; BF16 becomes float32, all else is as stored."""
    array = file[name]
    if file.dtype(name) == "BF16":
        array = bfloat16_to_float32(array)
        array.flags.writeable = False
    return array


def as_stored(file: TensorFile, name: str) -> NDArray[Any]:
    """A tensor of a `.safetensors` file, read-only and as stored: BF16 as `ops.narrow_weights.BFLOAT16`."""
    array = file[name]
    if file.dtype(name) == "BF16":
        return array.astype(np.uint16, copy=False).view(BFLOAT16)
    return array
