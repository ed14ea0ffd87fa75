"""Memory for what a pass computes and nobody keeps."""

import math
import threading
from typing import Any

import numpy as np

from gpt2np.ops import Array


class Scratch:
    """Memory for arrays that nobody keeps: one buffer a name and thread, which layers use in turn."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], Array] = {}
        self._rows: dict[tuple[str, int], Array] = {}  # the last of each, which decoding asks for again

    def rows(self, name: str, n: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of n rows of this shape in the buffer of this name."""
        key = name, threading.get_ident()
        found = self._rows.get(key)
        if found is None or len(found) != n or found.shape[1:] != row or found.dtype != dtype:
            found = self._rows[key] = self.array(name, (n, *row), dtype)
        return found

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], room_for: int = 0) -> Array:
        """An array of this shape in the buffer of this name, which is made with room for so many elements."""
        size, key = math.prod(shape), (name, threading.get_ident())
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[key] = np.empty(max(size, room_for), dtype)
        return buffer[:size].reshape(shape)
