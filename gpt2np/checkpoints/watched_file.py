"""Notices when a weight file that a model's weights are views of is written to."""

import os
import weakref
from pathlib import Path
from typing import Self

import numpy as np

from gpt2np.errors import CheckpointError
from gpt2np.ops import Array


def is_mapped(array: Array) -> bool:
    """Whether an array is a view of a file, and not of memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None


class WatchedFile:
    """A weight file as it was when it was opened, by size and time of change.

    The file is held open, so that one which is deleted, or replaced by another of its name, is still the one
    that is mapped: its numbers are those that were loaded. One that is written in place is not. A copy of
    this object watches nothing: the weights that are copied with it are no views of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._opened, self._before = path, -1, (-1, -1)
        try:  # a pipe of this name must not make us wait for its writer
            self._opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError):  # who reads the file says what is wrong
            return
        weakref.finalize(self, os.close, self._opened)
        self._before = self._now()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._opened)
        return status.st_size, status.st_mtime_ns

    def check_same(self) -> None:
        """Refuse a file that another one had replaced before it was mapped.

        Raises:
            CheckpointError: names the file.
        """
        if not os.path.samestat(os.fstat(self._opened), os.stat(self.path)):
            raise CheckpointError(f"{self.path}: was replaced while it was read; load it again")

    def check(self) -> None:
        """Refuse to go on with weights that are not those that were loaded; takes a microsecond.

        Raises:
            CheckpointError: names the file.
        """
        if self._opened >= 0 and self._now() != self._before:
            raise CheckpointError(
                f"{self.path}: has been written to since it was loaded, and the weights are views of it: "
                "load the model again (with copy=True it does not depend on the file)"
            )

    @classmethod
    def of_copy(cls, path: Path) -> Self:
        """One that watches nothing."""
        made = cls.__new__(cls)
        made.path, made._opened, made._before = path, -1, (-1, -1)
        return made

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        self.check()  # what has been written to would be copied, and then trusted
        return WatchedFile.of_copy, (self.path,)
