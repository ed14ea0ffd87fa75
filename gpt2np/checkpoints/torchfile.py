"""What `torch.save` writes, read without torch: state dicts, and the files of training scripts around them.

Two containers exist: a zip archive with an entry for each storage (torch 1.6 and later), and before that a
row of pickles, then the storages. Both are mapped into memory; arrays are views of them where possible. What
was pickled is read as data and never run: see `torch_pickle`.
"""

import contextlib
import io
import itertools
import math
import mmap
import os
import zipfile
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2np.checkpoints.bfloat16 import bfloat16_to_float32
from gpt2np.checkpoints.torch_pickle import (
    BFLOAT16,
    CURE,
    Dict,
    Object,
    Problem,
    Storage,
    Tensor,
    expect,
    unpickled,
)
from gpt2np.errors import CheckpointError, short
from gpt2np.tensorfile import map_file

_MAX_PICKLE = 4_000_000  # bytes: some 20,000 tensors; GPT-2 XL has 100 KB
_MAX_REPEATED = 2**28  # elements of a tensor that shows its storage several times over
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older container

_MOST_TENSORS = 100_000  # and as many values of other kinds: a list may hold itself, again and again
_DEEPEST = 8

Path = str | os.PathLike[str]
Keys = tuple[str, ...]
Setting = str | int | float | bool | None
_Order = Literal["<", ">"]  # little-endian, big-endian
_Opened = tuple[Any, dict[str, NDArray[np.uint8]], _Order]  # pickled value, bytes of each storage


class TorchFile:
    """What a file of `torch.save` holds: dicts of tensors and of settings, by the keys that lead to them.

    `tables[("model",)]` are the tensors under the key "model", as `{name: description}`; `()` is the dict on
    top. `settings` are likewise the numbers, texts and flags of every dict, and of objects that hold options.
    `arrays` reads a table; what nobody asks for is not read.
    """

    def __init__(self, path: Path, root: Any, raw: dict[str, NDArray[np.uint8]], order: _Order) -> None:
        self.path, self._raw, self._order = path, raw, order
        self.tables: dict[Keys, dict[str, Tensor]] = {}
        self.settings: dict[Keys, dict[str, Setting]] = {}
        for keys, table in _dicts(root):
            named = [(key, value) for key, value in table.pairs if type(key) is str]
            tensors = {key: value for key, value in named if type(value) is Tensor}
            settings = {
                key: value for key, value in named if type(value) in (str, int, float, bool, NoneType)
            }
            if tensors:
                self.tables.setdefault(keys, {}).update(tensors)
            if settings:
                self.settings.setdefault(keys, {}).update(settings)

    def arrays(self, keys: Keys) -> dict[str, NDArray[Any]]:
        """The tensors of a table, read-only and as stored: bfloat16 as `ops.narrow_weights.BFLOAT16`.

        Raises:
            CheckpointError: a tensor lies outside its storage.
        """
        with _telling(self.path):
            laid = _laid(self.tables[keys], self._raw, self._order, as_stored=True)
            return {name: array for name, (array, _) in laid.items()}


def read_torch(path: Path) -> TorchFile:
    """What `torch.save` wrote: a dict of tensors, or one with such dicts in it; a bare tensor is "tensor".

    Raises:
        CheckpointError: it is damaged, or something else, or holds what no checkpoint needs.
    """
    with _telling(path):
        root, raw, order = _opened(path)
        if type(root) is Object:
            raise Problem(f"refuses to load {root.name}, a whole object: {CURE}")
        root = Dict([("tensor", root)]) if type(root) is Tensor else expect(root, Dict)
        file = TorchFile(path, root, raw, order)
        if not file.tables:
            raise Problem(f"no tensors under names in it; its keys are {_some([k for k, _ in root.pairs])}")
        return file


def read_torch_tree(path: Path) -> dict[str, tuple[NDArray[Any], str]]:
    """All tensors that `torch.save` wrote, in whatever dicts, lists and tuples they stand, and their dtypes.

    A name says where: `"hidden.0"` is in a dict in a dict, `"attentions[3]"` in a list in a dict. The arrays
    are read-only, and bfloat16 becomes float32; the dtype is the stored one, such as "bfloat16".

    Raises:
        CheckpointError: it is damaged, or something else.
    """
    with _telling(path):
        root, raw, order = _opened(path)
        return _laid(_all_tensors(root), raw, order)


def read_torch_value(path: Path) -> Any:
    """What `torch.save` wrote, as it was: dicts, lists, texts and numbers, and tensors as arrays.

    The arrays are read-only, and bfloat16 becomes float32; a tuple becomes a list.

    Raises:
        CheckpointError: it is damaged, or holds something else.
    """
    with _telling(path):
        root, raw, order = _opened(path)
        values: dict[Storage, NDArray[Any]] = {}
        return _value(root, raw, order, values, _DEEPEST, itertools.count())


def _value(
    value: Any,
    raw: dict[str, NDArray[np.uint8]],
    order: _Order,
    values: dict[Storage, NDArray[Any]],
    depth: int,
    seen: Iterator[int],
) -> Any:
    """A value with its tensors as arrays; `values` are those of the storages that were read already."""
    if depth < 0 or next(seen) > _MOST_TENSORS:
        raise Problem(f"lists and dicts are more than {_DEEPEST} deep, or hold too many values")
    below = (raw, order, values, depth - 1, seen)
    if type(value) is Tensor:
        storage = value.storage
        if storage not in values:
            values[storage] = _read_storage(storage, raw[storage.key], order)
        return _lay_over("", value, values[storage])
    if type(value) is Dict:
        return {key: _value(part, *below) for key, part in _keys(value)}
    if isinstance(value, list | tuple):
        return [_value(part, *below) for part in value]
    if type(value) in (str, int, float, bool, NoneType):
        return value
    raise Problem(f"holds {short(getattr(value, 'name', value))}, which is no text, number or tensor")


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Whatever goes wrong in a file becomes an error that names it."""
    try:
        yield
    except Problem as e:
        raise CheckpointError(f"{path}: {_one_line(e)}") from None
    except Exception as e:  # also RecursionError and MemoryError
        if isinstance(e, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged torch file ({type(e).__name__}: {_one_line(e)})") from e


def _opened(path: Path) -> _Opened:
    mapped = map_file(path, CheckpointError)
    return _open_zip(path, mapped) if mapped[:2] == b"PK" else _open_legacy(mapped)


def _laid(
    tensors: dict[str, Tensor], raw: dict[str, NDArray[np.uint8]], order: _Order, as_stored: bool = False
) -> dict[str, tuple[NDArray[Any], str]]:
    """The arrays of these tensors, and the dtypes that they are stored in."""
    storages = {tensor.storage for tensor in tensors.values()}
    values = {storage: _read_storage(storage, raw[storage.key], order, as_stored) for storage in storages}
    return {
        name: (_lay_over(name, tensor, values[tensor.storage]), _dtype_name(tensor.storage.dtype))
        for name, tensor in tensors.items()
    }


def _dicts(root: Dict) -> Iterator[tuple[Keys, Dict]]:
    """The dict on top, and all in it, each once, with the keys that lead there."""
    waiting: list[tuple[Keys, Dict]] = [((), root)]
    seen, n_values = {id(root)}, 0
    while waiting:
        keys, table = waiting.pop()
        yield keys, table
        n_values += len(table.pairs)
        if n_values > _MOST_TENSORS:
            raise Problem("its dicts hold too many values")
        for key, value in reversed(table.pairs if len(keys) < _DEEPEST else []):
            for inner in value.parts if type(value) is Object else [value]:
                if type(inner) is Dict and type(key) in (str, int) and id(inner) not in seen:
                    seen.add(id(inner))
                    waiting.append(((*keys, str(key)), inner))


def _some(keys: list[Any]) -> str:
    """The first few keys of a dict, as part of a message."""
    names = [short(key) for key in keys if type(key) in (str, int)][:8]
    return ", ".join(names) or "none"


def _one_line(e: Exception) -> str:
    """What an error says, which may contain names out of the file: cut, and without line breaks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(e)[:500])


def _open_zip(path: str | os.PathLike[str], mapped: mmap.mmap) -> _Opened:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if f"/{name}".endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Problem(f"expected a zip archive with one data.pkl, found {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    data = np.frombuffer(mapped, np.uint8)

    def find(name: str) -> NDArray[np.uint8]:
        if name not in entries:
            raise Problem(f"{name}: missing from the archive")
        info = entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Problem(f"{name}: compressed or encrypted, expected to be stored as it is")
        head = mapped[info.header_offset : info.header_offset + 30]  # ends with the sizes of name and extra
        begin = info.header_offset + 30
        begin += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        if head[:4] != b"PK\x03\x04" or begin + info.file_size > len(mapped):
            raise Problem(f"{name}: not where the archive says it is (damaged or truncated)")
        return data[begin : begin + info.file_size]

    pickle = find(pickles[0])
    if len(pickle) > _MAX_PICKLE:
        raise Problem(f"{pickles[0]}: {len(pickle):,} bytes, but {_MAX_PICKLE:,} do for any state dict")
    big = f"{folder}byteorder" in entries and find(f"{folder}byteorder")[:4].tobytes() == b"big"
    stored: dict[str, Storage] = {}
    root = unpickled(io.BytesIO(pickle.tobytes()), stored)
    return root, {key: find(f"{folder}data/{key}") for key in stored}, ">" if big else "<"


def _open_legacy(mapped: mmap.mmap) -> _Opened:
    if mapped[257:262] == b"ustar":
        raise Problem("is a tar file of the first torch versions; load and save it with torch 1.x first")
    if mapped[:1] != b"\x80":
        raise Problem(f"is no torch file: begins with {mapped[:8]!r}")
    at = 0
    values = []
    stored: dict[str, Storage] = {}
    for _ in range(5):
        stream = io.BytesIO(mapped[at : at + _MAX_PICKLE])
        values.append(unpickled(stream, stored))
        if values[0] != _MAGIC:
            raise Problem("is a pickle, but none that torch.save wrote")
        at += stream.tell()
    _magic, _protocol, _system, root, keys = values
    raw = {}
    for key in expect(keys, list):
        if expect(key, str) not in stored:
            raise Problem(f"storage {short(key)}: in the file, but no tensor refers to it")
        length, begin = int.from_bytes(mapped[at : at + 8], "little"), at + 8
        at = begin + length * np.dtype(stored[key].dtype).itemsize
        if at > len(mapped):
            raise Problem(
                f"storage {short(key)}: ends at byte {at:,} of a file of {len(mapped):,} (truncated?)"
            )
        raw[key] = np.frombuffer(mapped, np.uint8)[begin:at]
    for key in stored.keys() - raw.keys():
        raise Problem(f"storage {short(key)}: missing from the file")
    return root, raw, "<"  # in this container whatever the machine


def _all_tensors(root: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while waiting:
        name, value, depth = waiting.pop()
        if type(value) is Tensor:
            if found.setdefault(name or "tensor", value) is not value:
                raise Problem(f"two tensors would be called {short(name)}")
            continue
        if type(value) is Dict:
            inside = [(f"{name}.{key}" if name else str(key), part) for key, part in _keys(value)]
        elif isinstance(value, list | tuple):
            inside = [(f"{name}[{i}]", part) for i, part in enumerate(value[:_MOST_TENSORS])]
        else:
            continue
        seen += len(inside)
        if depth == _DEEPEST or seen > _MOST_TENSORS:
            raise Problem(f"lists and dicts are more than {_DEEPEST} deep, or hold too many values")
        waiting += [(key, part, depth + 1) for key, part in reversed(inside)]
    if not found:
        raise Problem("no tensors in it")
    return found


def _keys(table: Dict) -> list[tuple[str | int, Any]]:
    return [(key, value) for key, value in table.pairs if type(key) in (str, int)]


def _dtype_name(code: str) -> str:
    return "bfloat16" if code == BFLOAT16 else np.dtype(code).name


def _read_storage(
    storage: Storage, raw: NDArray[np.uint8], order: _Order, as_stored: bool = False
) -> NDArray[Any]:
    dtype = np.dtype("u2" if storage.dtype == BFLOAT16 else storage.dtype).newbyteorder(order)
    if len(raw) != storage.length * dtype.itemsize:
        expected = f"{storage.length:,} x {dtype.itemsize}"
        raise Problem(f"storage {short(storage.key)}: expected {expected} bytes, found {len(raw):,}")
    array: NDArray[Any] = raw.view(dtype)
    if storage.dtype == BFLOAT16 and not as_stored:
        array = bfloat16_to_float32(array)
    elif not (array.flags.aligned and dtype.isnative):
        array = array.astype(dtype.newbyteorder("="))
    if storage.dtype == BFLOAT16 and as_stored:
        array = array.view(BFLOAT16)
    array.flags.writeable = False
    return array


def _lay_over(name: str, tensor: Tensor, values: NDArray[Any]) -> NDArray[Any]:
    shape, stride = tensor.shape, tensor.stride
    count = math.prod(shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if count and last >= len(values):
        raise Problem(f"tensor {short(name)}: reaches element {last:,} of a storage that has {len(values):,}")
    if count > max(len(values), _MAX_REPEATED):
        raise Problem(f"tensor {short(name)}: shape {shape} repeats a storage of {len(values):,} too often")
    offset = tensor.offset * values.itemsize if count else 0
    return np.ndarray(shape, values.dtype, values, offset, [step * values.itemsize for step in stride])
