"""Memory for what a pass computes and nobody keeps."""

import math
import threading
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing import spare_memory

_GIVEN_BACK = 1 << 25  # bytes; the allocator of glibc keeps what is smaller, as long as the process runs


class Scratch:
    """Memory for arrays that nobody keeps: one buffer a name and thread, which layers use in turn."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], Array] = {}
        self._last: dict[tuple[str, int], Array] = {}  # of each, which the next layer asks for again

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], room_for: int = 0) -> Array:
        """An array of this shape in the buffer of this name, which is made with room for so many elements."""
        key = name, threading.get_ident()
        found = self._last.get(key)
        if found is not None and found.shape == shape and found.dtype == dtype:
            return found
        size, buffer = math.prod(shape), self._buffers.get(key)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[key] = _buffer(max(size, room_for), dtype)
        found = self._last[key] = buffer[:size].reshape(shape)
        return found


def _buffer(size: int, dtype: np.dtype[Any]) -> Array:
    n_bytes = size * dtype.itemsize
    if n_bytes < _GIVEN_BACK:
        return np.empty(size, dtype)
    return spare_memory.block(n_bytes)[:n_bytes].view(dtype)
