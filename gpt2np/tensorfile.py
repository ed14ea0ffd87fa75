"""One `.safetensors` file: read by mapping it into memory, written whole or by mapping it into memory.

The format: 8 bytes (little-endian) that say how long the header is; a JSON header that gives each tensor's
dtype, shape and place; then the data, without holes. Arrays that are read are views of the file, and so are
those of a file in the making.
"""

import contextlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Self

import numpy as np
import safetensors
from numpy.typing import DTypeLike, NDArray

from gpt2np.errors import CheckpointError, Gpt2npError, TraceError, short
from gpt2np.files import START, check_regular, kind_of_start
from gpt2np.outputs import Unfinished, sync_folder, target_of, to_disk

Path = str | os.PathLike[str]
Entry = tuple[str, DTypeLike, tuple[int, ...]]  # of a file to be written: name, dtype, shape

# What NumPy has, by the format's name...
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
# ...and every dtype of the format, in bits.
_BITS = {name: np.dtype(code).itemsize * 8 for name, code in _NUMPY.items()} | {
    "BF16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_BLOCK_BYTES = 1 << 22  # that are put into order at a time
_WRITABLE = {np.dtype(code): name for name, code in _NUMPY.items() if name != "C64"}


class _Problem(Exception):
    """Something wrong inside a file; its path is put in front where this is caught."""


def map_file(path: Path, error: type[Gpt2npError]) -> mmap.mmap:
    """Map a weight file read-only; raises `error` if it is missing, empty, no file, or a Git LFS pointer."""
    check_regular(path, error)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if mapped[:23] == b"version https://git-lfs":
            raise _Problem("is a Git LFS pointer, not the weights; run `git lfs pull`")
    except (_Problem, OSError, ValueError) as e:
        raise error(f"{path}: {_reason(e)}") from None
    return mapped


class TensorFile:
    """An open `.safetensors` file: arrays by name, read-only views of the file. Made by `open_tensors`.

    `names` are in file order, `metadata` is the file's table of strings, `header_bytes` the JSON header as it
    stands in the file. The file must not be cut short while views of it are in use.
    """

    def __init__(self, path: Path, error: type[Gpt2npError]) -> None:
        mapped = map_file(path, error)
        try:
            self.header_bytes, self.metadata, self._entries = _parse(mapped)
            with safetensors.safe_open(path, framework="numpy"):  # the reference reader must agree
                pass
        except (_Problem, safetensors.SafetensorError, RecursionError, OSError, ValueError) as e:
            raise error(f"{path}: {_reason(e)}") from None
        self.path = os.fspath(path)
        self.names = list(self._entries)
        self.file_size = len(mapped)
        self._error = error
        self._data = np.frombuffer(mapped, np.uint8)[8 + len(self.header_bytes) :]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return tuple(self._entry(name)["shape"])

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as the file spells it, such as `"F32"` or `"BF16"`."""
        return str(self._entry(name)["dtype"])

    def numpy_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of the array that the tensor becomes, from the header alone."""
        dtype = self.dtype(name)
        if dtype != "BF16" and dtype not in _NUMPY:
            raise self._error(
                f"{self.path}: tensor {short(name)} has dtype {dtype}, which NumPy does not have"
            )
        return np.dtype(_NUMPY.get(dtype, "<u2"))

    def offset(self, name: str) -> int:
        """Where in the file the bytes of a tensor begin."""
        return 8 + len(self.header_bytes) + int(self._entry(name)["data_offsets"][0])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The tensor: a view of the file, a copy where the file leaves it unaligned.

        NumPy has no bfloat16: of a BF16 tensor these are the bits (`checkpoints.bfloat16` widens them).
        """
        self.numpy_dtype(name)
        array = _view(self._data, self._entry(name))
        if not array.flags.aligned:
            array = array.copy()
        array.flags.writeable = False
        return array

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise self._error(f"{self.path}: no tensor named {short(name)} (it has {len(self.names)} others)")
        return self._entries[name]


def open_tensors(path: Path, error: type[Gpt2npError] = CheckpointError) -> TensorFile:
    """Check a `.safetensors` file's header and map the file; raises `error` for whatever is wrong with it."""
    return TensorFile(path, error)


def _parse(mapped: mmap.mmap) -> tuple[bytes, dict[str, str], dict[str, dict[str, Any]]]:
    """Header bytes, metadata, and the entries in file order: one after another, every data byte used once."""
    length = int.from_bytes(mapped[:8], "little")
    data_size = len(mapped) - 8 - length
    if length > 100_000_000 or data_size < 0:  # the first is the format's own limit
        if kind := kind_of_start(mapped[:START]):
            raise _Problem(f"is {kind}, no .safetensors file")
        raise _Problem(f"header length is {length:,} in a file of {len(mapped):,} bytes (truncated?)")
    header_bytes = mapped[8 : 8 + length]
    if header_bytes[:1] != b"{":
        raise _Problem(f"header must begin with '{{', found {header_bytes[:1]!r}")
    try:
        header = json.loads(header_bytes.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except ValueError as e:  # both not JSON and not UTF-8
        raise _Problem(f"header is not valid JSON: {e}") from None
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise _Problem("header key '__metadata__' must be an object whose values are all strings")
    for name, entry in header.items():
        _check_entry(name, entry)
    entries = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    at = 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if begin != at:
            raise _Problem(f"tensor {short(name)}: data_offsets begin at {begin}, expected {at}")
        at = end
    if at != data_size:
        raise _Problem(f"data_offsets end at {at:,}, but the file has {data_size:,} bytes of data")
    return header_bytes, metadata, entries


def _check_entry(name: str, entry: Any) -> None:
    tensor = f"tensor {short(name)}"
    if type(entry) is not dict or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _Problem(f"{tensor}: expected dtype, shape and data_offsets, found {short(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in _BITS:
        raise _Problem(f"{tensor}: unknown dtype {short(dtype)}")
    for key, value in (("shape", shape), ("data_offsets", offsets)):
        if type(value) is not list or not all(type(n) is int and n >= 0 for n in value):
            raise _Problem(f"{tensor}: {key} must be a list of whole numbers >= 0, found {short(value)}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Problem(f"{tensor}: data_offsets must be [begin, end], found {short(offsets)}")
    if len(shape) > 64 or math.prod(n for n in shape if n) * 16 >= 2**63:
        raise _Problem(f"{tensor}: shape {short(shape)} is more than NumPy can hold")
    bits, found = math.prod(shape) * _BITS[dtype], offsets[1] - offsets[0]
    if bits != found * 8:
        needed = f"shape {short(shape)} of {dtype} needs {bits / 8 if bits % 8 else bits // 8:,} bytes"
        raise _Problem(f"{tensor}: {needed}, data_offsets {offsets} hold {found:,}")


def _view(data: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    return data[begin:end].view(_NUMPY.get(entry["dtype"], "<u2")).reshape(entry["shape"])


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise _Problem(f"header key {short(name)} appears twice")
        table[name] = value
    return table


def _reason(e: Exception) -> str:
    return str(getattr(e, "strerror", None) or e)[:500]


class TensorFileWriter:
    """A `.safetensors` file in the making: `arrays` are writable views of it, zero until filled.

    It has a temporary name in the same folder until `commit`. As a context manager it commits at the end of
    the block, or discards on an exception. Made by `create_tensors`.
    """

    def __init__(
        self,
        path: str,
        target: Any,
        making: Unfinished,
        mapped: mmap.mmap,
        arrays: dict[str, NDArray[Any]],
        sync: bool,
    ) -> None:
        self.path = path
        self.arrays = arrays
        self._target, self._mapped, self._sync = target, mapped, sync
        self._making: Unfinished | None = making  # None once committed or discarded

    def commit(self) -> None:
        """Write out what is in memory and give the file its name; arrays still held elsewhere stay usable."""
        if self._making is None:
            raise TraceError(f"{self.path}: already committed or discarded")
        try:
            if self._sync:
                self._mapped.flush()
            self._making.finish(self._target)
        except OSError as e:
            raise TraceError(f"{self.path}: cannot be written: {_reason(e)}") from None
        finally:
            self.discard()  # after a success, nothing has the temporary name any more

    def discard(self) -> None:
        """Remove the temporary file and let go of the arrays; does nothing after `commit`."""
        if self._making is not None:
            self._making.discard()
        self._making = None
        self.arrays = {}
        with contextlib.suppress(BufferError):  # a view is alive: the mapping goes with the last one
            self._mapped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._making is not None:
            self.commit()
        else:
            self.discard()


def create_tensors(
    path: Path, entries: Sequence[Entry], metadata: Mapping[str, str], sync: bool = True
) -> TensorFileWriter:
    """Lay out a file of (name, dtype, shape) entries in exactly this order, and reserve its space on disk.

    With `sync` the data has reached the disk when the file gets its name, else the system sees to that later.
    An entry behind one of a narrower dtype may come out unaligned, right but slow: put wide ones first.
    Raises TraceError where the folder, the disk or an entry does not allow it; then nothing is left behind.
    """
    target, making, head, end, header = _begin(path, entries, metadata)
    try:
        with making.path.open("r+b") as file:
            _reserve(file, head, end)
            file.flush()
            mapped = mmap.mmap(file.fileno(), len(head) + end, access=mmap.ACCESS_WRITE)
    except BaseException as e:
        making.discard()
        if isinstance(e, OSError | OverflowError):
            raise TraceError(f"{path}: cannot write {end:,} bytes of data: {_reason(e)}") from None
        raise
    data = np.frombuffer(mapped, np.uint8)[len(head) :]
    arrays = {name: _view(data, entry) for name, entry in header.items()}
    return TensorFileWriter(os.fspath(path), target, making, mapped, arrays, sync)


def file_bytes(entries: Sequence[Entry], metadata: Mapping[str, str]) -> int:
    """Bytes that a file of these (name, dtype, shape) entries has, its header included."""
    head, end, _ = _layout(entries, metadata)
    return len(head) + end


def _layout(entries: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, int, dict[str, Any]]:
    """The bytes of a file up to its data, the number of bytes of data, and the header's entries."""
    if not all(type(text) is str for item in metadata.items() for text in item):
        raise _Problem("metadata must be strings")
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in entries:
        dtype, dims = np.dtype(dtype).newbyteorder("<"), [int(n) for n in shape]
        if name in header or name == "__metadata__" or dtype not in _WRITABLE:
            raise _Problem(f"tensor {short(name)}: the name is taken, or dtype {dtype} cannot be written")
        begin, end = end, end + math.prod(dims) * dtype.itemsize
        header[name] = {"dtype": _WRITABLE[dtype], "shape": dims, "data_offsets": [begin, end]}
        _check_entry(name, header[name])
    whole = {"__metadata__": dict(metadata)} | header
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % 64)  # so that the data is aligned, also to a cache line
    return len(text).to_bytes(8, "little") + text, end, header


def save_tensors(
    path: Path,
    arrays: Mapping[str, NDArray[Any] | np.generic],
    metadata: Mapping[str, str],
    sync: bool = True,
) -> None:
    """Write arrays of any memory layout to a `.safetensors` file, in C order and in the order given.

    With `sync` the file has reached the disk when this returns, so that it survives a power cut.
    Raises TraceError where the folder, the disk or an entry does not allow it; then nothing is left behind.
    """
    entries = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    target, making, head, end, header = _begin(path, entries, metadata)
    try:
        with making.path.open("r+b") as file, to_disk(file, sync) as written:
            _reserve(file, head, end)
            for array, entry in zip(arrays.values(), header.values(), strict=True):
                for block in _blocks(np.asarray(array, _NUMPY[entry["dtype"]])):
                    file.write(block.data)
                    written(block.nbytes)
        making.finish(target)
        if sync:
            sync_folder(target.parent)
    except (OSError, OverflowError) as e:
        raise TraceError(f"{path}: cannot write {end:,} bytes of data: {_reason(e)}") from None
    finally:
        making.discard()  # after a success, nothing has the temporary name any more


def _begin(
    path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]
) -> tuple[Any, Unfinished, bytes, int, dict[str, Any]]:
    """An empty file under a temporary name, its target, and what `_layout` says of it."""
    target = target_of(path, TraceError)
    try:
        head, end, header = _layout(entries, metadata)
        return target, Unfinished(target.parent), head, end, header
    except (_Problem, OSError, ValueError) as e:
        raise TraceError(f"{path}: cannot be written: {_reason(e)}") from None


def _reserve(file: IO[bytes], head: bytes, end: int) -> None:
    """Write what comes before the data, and take the disk's space for that; stands at its beginning then."""
    file.write(head)
    file.flush()
    if hasattr(os, "posix_fallocate"):  # no holes: writing to one on a full disk kills the process
        os.posix_fallocate(file.fileno(), 0, len(head) + end)
        return
    for at in range(0, end, 1 << 20):
        file.write(bytes(min(1 << 20, end - at)))
    file.seek(len(head))


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """The bytes of an array in C order, some rows at a time where they lie otherwise in memory."""
    n = len(array) if array.ndim and not array.flags.c_contiguous else 0
    step = max(1, n * _BLOCK_BYTES // max(1, array.nbytes))
    for block in [array[i : i + step] for i in range(0, n, step)] or [array]:
        yield np.ascontiguousarray(block).reshape(-1).view(np.uint8)
