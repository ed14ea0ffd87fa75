"""One `.npz` file: names, shapes and dtypes first, then arrays one by one, never more than was announced.

`np.load` inflates whatever an entry holds before anybody has looked at its header: ten megabytes on a disk
can be ten gigabytes in memory.
"""

import io
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.errors import Gpt2npError, TraceError, reason, short
from gpt2np.files import check_regular

_HEADER = 16_384  # bytes of an entry that are read for its header: NumPy itself takes no longer ones
_PIECE = 1 << 24  # bytes that are inflated at once

# What zipfile and NumPy raise for a damaged file.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    IndexError,  # of zipfile, for a directory that is cut off
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class _Entry:
    """One array: where it is, and what its header says."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    in_fortran_order: bool
    header_bytes: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An open `.npz` file; every header has been read and checked, no array yet.

    Raises:
        error: it is missing or damaged, an entry is no array of numbers or text, or appears twice.
    """

    def __init__(self, path: str | os.PathLike[str], error: type[Gpt2npError] = TraceError) -> None:
        check_regular(path, error)
        self.path = os.fspath(path)
        self._error = error
        with self._damage("file"):
            self._archive = zipfile.ZipFile(path)
        self._entries: dict[str, _Entry] = {}
        for member in self._archive.infolist():
            name = member.filename.removesuffix(".npy")
            if f"/{member.filename}".endswith("/data.pkl"):
                raise error(f"{path}: is what torch.save writes, no .npz file")
            if not member.filename.endswith(".npy"):
                raise error(f"{path}: {short(member.filename)} is no array")
            if name in self._entries:
                raise error(f"{path}: {short(name)} appears twice")
            with self._damage(name):
                self._entries[name] = self._entry(member, name)
        self.names = list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from its header alone."""
        return self._entries[name].shape

    def numpy_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of an array, from its header alone."""
        return self._entries[name].dtype

    def nbytes(self, name: str) -> int:
        """Bytes of an array, from its header alone."""
        return self._entries[name].nbytes

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array, read now."""
        entry = self._entries[name]
        data = np.empty(entry.nbytes, np.uint8)
        with self._damage(name), self._archive.open(entry.member) as file:
            file.read(entry.header_bytes)
            at = 0
            while at < len(data):
                piece = file.read(min(_PIECE, len(data) - at))
                if not piece:
                    raise EOFError(f"ends after {at:,} of {len(data):,} bytes")
                data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
            file.read(1)  # at the end the checksum is looked at
            flat, in_c_order = data.view(entry.dtype), not entry.in_fortran_order
            return flat.reshape(entry.shape) if in_c_order else flat.reshape(entry.shape[::-1]).T

    def text(self, name: str, most: int) -> str:
        """A single text of at most so many bytes.

        Raises:
            error: it is something else, or longer.
        """
        entry = self._entries[name]
        if entry.dtype.kind != "U" or entry.shape or entry.nbytes > most:
            found = f"is {entry.dtype} of shape {short(entry.shape)}"
            raise self._error(
                f"{self.path}: {short(name)} {found}, expected a text of at most {most:,} bytes"
            )
        with self._damage(name):
            return str(self[name])

    def _entry(self, member: zipfile.ZipInfo, name: str) -> _Entry:
        """What the header of an entry says, which must fit its size."""
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("is compressed in a way that NumPy does not use")  # and that has no limits
        with self._archive.open(member) as file:
            head = io.BytesIO(file.read(_HEADER))
        shape, in_fortran_order, dtype = npy_header(head)
        if dtype.hasobject or dtype.names is not None or dtype.kind not in "fiubcU" or not dtype.itemsize:
            raise self._error(f"{self.path}: {short(name)} is no array of numbers: its dtype is {dtype}")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"its shape is {short(shape)}")
        entry = _Entry(member, shape, dtype, in_fortran_order, head.tell())
        if entry.nbytes != member.file_size - entry.header_bytes:
            found = f"{member.file_size - entry.header_bytes:,} are there"
            raise ValueError(f"shape {short(shape)} of {dtype} needs {entry.nbytes:,} bytes, but {found}")
        return entry

    def _damage(self, name: str) -> AbstractContextManager[None]:
        return damage(lambda reason: self._error(f"{self.path}: {short(name)} is damaged ({reason})"))


@contextmanager
def damage(error: Callable[[str], Gpt2npError]) -> Iterator[None]:
    """What NumPy and zipfile raise for damaged files, as the error that this makes of the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy, about headers in Python 2's spelling
            yield
    except Gpt2npError:
        raise
    except _DAMAGE as found:
        raise error(reason(found)) from None


def npy_header(head: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, as a `.npy` begins with them.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    version = np.lib.format.read_magic(head)
    readers: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"is of .npy version {version}, which holds no numbers")
    shape, in_fortran_order, dtype = readers[version](head)
    return shape, in_fortran_order, dtype
