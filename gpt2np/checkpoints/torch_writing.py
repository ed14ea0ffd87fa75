"""Writing what `torch.load` reads, without torch: nested dicts and lists of arrays, texts and numbers.

The file is the zip archive that `torch.save` makes: `data.pkl`, in which a tensor is a shape laid over a
storage, and an entry for each storage. Tensors may lie in one storage, and share the numbers that are equal.
"""

import struct
import zipfile
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np

from gpt2np.checkpoints.torch_pickle import STORAGES, Storage, Tensor
from gpt2np.errors import InputError, short
from gpt2np.ops import Array
from gpt2np.outputs import whole_binary_file

_NAMES = {dtype: name.removeprefix("torch.") for name, dtype in STORAGES.items() if dtype != "V2"}
_ALIGNMENT = 64  # of a storage in the file, as torch has it


class Storages:
    """The numbers of a file that is to be written; describes the tensors that are laid over them."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def alone(self, array: Array) -> Tensor:
        """An array with a storage of its own.

        Raises:
            InputError: torch has no numbers of this kind.
        """
        whole = np.asarray(array, order="C")
        return self._over(whole, [whole])[0]

    def together(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Arrays in one storage where they share numbers or rows, as attention does that grows step by step.

        Each must be the first corner of the last, or all must differ in the length of the first axis only.
        """
        last = arrays[-1]
        if any(array.dtype != last.dtype or array.ndim != last.ndim for array in arrays):
            return [self.alone(array) for array in arrays]
        corners = [last[tuple(slice(n) for n in array.shape)] for array in arrays]
        if all(_same(array, corner) for array, corner in zip(arrays, corners, strict=True)):
            whole = np.asarray(last, order="C")
            return self._over(whole, [whole[tuple(slice(n) for n in array.shape)] for array in arrays])
        if last.ndim and all(array.shape[1:] == last.shape[1:] for array in arrays):
            whole, ends = np.concatenate(arrays), np.cumsum([len(array) for array in arrays]).tolist()
            return self._over(whole, [whole[end - len(a) : end] for a, end in zip(arrays, ends, strict=True)])
        return [self.alone(array) for array in arrays]

    def _over(self, whole: Array, views: Sequence[Array]) -> list[Tensor]:
        """Descriptions of views of an array, which becomes a storage."""
        dtype = whole.dtype.str[1:]
        if dtype not in _NAMES:
            raise InputError(f"torch has no tensors of {whole.dtype}")
        storage = Storage(str(len(self.arrays)), dtype, whole.size)
        begin = whole.__array_interface__["data"][0]
        self.arrays[storage.key] = whole
        tensors = []
        for view in views:
            offset = (view.__array_interface__["data"][0] - begin) // view.itemsize if view.size else 0
            strides = tuple(stride // view.itemsize for stride in view.strides)
            tensors.append(Tensor(storage, offset, view.shape, strides))
        return tensors


def _same(array: Array, other: Array) -> bool:
    return array.shape == other.shape and array.tobytes() == other.tobytes()


def write_torch(path: str | PathLike[str], value: Any, storages: Storages) -> None:
    """Write dicts, lists, texts, numbers and tensors over `storages`; the same value makes the same bytes.

    Raises:
        InputError: there is something else in it, or the file cannot be written; nothing is left behind.
    """
    pickled = b"\x80\x02" + b"".join(_Pickle().of(value)) + b"."
    with whole_binary_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            _add(archive, name, data)
        for key, array in storages.arrays.items():
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            _add(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data)


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """An entry whose content begins at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(f"archive/{name}")
    begin = archive.start_dir + 30 + len(info.filename) + 4
    padding = -begin % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(info, data)


class _Pickle:
    """Values as instructions of a pickle; what comes again and again is written once."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def of(self, value: Any) -> Iterator[bytes]:
        """The instructions that make a value."""
        if isinstance(value, Tensor):
            yield self._tensor(value)
        elif isinstance(value, dict):
            yield b"}("
            for key, item in value.items():
                yield self._plain(key)
                yield from self.of(item)
            yield b"u"
        elif isinstance(value, list):
            yield b"]("
            for item in value:
                yield from self.of(item)
            yield b"e"
        else:
            yield self._plain(value)

    def _plain(self, value: Any) -> bytes:
        match value:
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int() if -(2**31) <= value < 2**31:
                return b"J" + struct.pack("<i", value)
            case int() if -(2**63) <= value < 2**63:
                return b"\x8a\x08" + struct.pack("<q", value)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                text = value.encode("utf-8", "surrogatepass")
                return b"X" + struct.pack("<I", len(text)) + text
        raise InputError(f"a .pt file holds texts, numbers and arrays, not {short(value)}")

    def _constant(self, instructions: bytes) -> bytes:
        """Instructions that make a value; the next time it is fetched instead."""
        if instructions in self._known:
            return self._known[instructions]
        number = bytes([len(self._known)])
        self._known[instructions] = b"h" + number
        return instructions + b"q" + number

    def _tensor(self, tensor: Tensor) -> bytes:
        rebuild = self._constant(b"ctorch._utils\n_rebuild_tensor_v2\n")
        storage = tensor.storage
        kind = self._constant(b"ctorch\n" + _NAMES[storage.dtype].encode() + b"\n")
        parts = [self._constant(self._plain("storage")), kind, self._plain(storage.key)]
        parts += [self._constant(self._plain("cpu")), self._plain(storage.length)]
        sizes = [b"(" + b"".join(map(self._plain, axes)) + b"t" for axes in (tensor.shape, tensor.stride)]
        hooks = self._constant(b"ccollections\nOrderedDict\n") + b")R"
        stored = b"(" + b"".join(parts) + b"tQ"
        return (
            rebuild + b"(" + stored + self._plain(tensor.offset) + b"".join(sizes) + b"\x89" + hooks + b"tR"
        )
