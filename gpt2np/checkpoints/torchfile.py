"""`pytorch_model.bin` without torch: the tensors of a state dict, read as data and never run.

Such a file is a pickle, and a pickle is a program: Python's `pickle` would call whatever it names. `_run` is
a small machine of its own for the few instructions that a state dict needs: it builds plain descriptions of
tensors and refuses all else, so that nothing in a file can make it call, import or change anything.

Two containers exist: a zip archive with an entry for each storage (torch 1.6 and later), and before that a
row of pickles, then the storages. Both are mapped into memory; arrays are views of them where possible.
"""

import io
import math
import mmap
import os
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2np.checkpoints.bfloat16 import bfloat16_to_float32
from gpt2np.errors import CheckpointError
from gpt2np.tensorfile import map_file

_MAX_PICKLE = 4_000_000  # bytes: some 20,000 tensors; GPT-2 XL has 100 KB
_MAX_REPEATED = 2**28  # elements of a tensor that shows its storage several times over
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older container

_BFLOAT16 = "V2"  # two bytes that NumPy has no number for
_STORAGES = {
    "torch.FloatStorage": "f4", "torch.HalfStorage": "f2", "torch.DoubleStorage": "f8",
    "torch.LongStorage": "i8", "torch.IntStorage": "i4", "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1", "torch.ByteStorage": "u1", "torch.BoolStorage": "b1",
    "torch.BFloat16Storage": _BFLOAT16,
}  # fmt: skip
_OTHER_NAMES = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "collections.OrderedDict", "torch.Size",
    "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.bool",
    "torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
}  # fmt: skip

_MOST_TENSORS = 100_000  # and as many values of other kinds: a list may hold itself, again and again
_DEEPEST = 8

_T = TypeVar("_T")
_Order = Literal["<", ">"]  # little-endian, big-endian
_Opened = tuple[Any, dict[str, NDArray[np.uint8]], _Order]  # pickled value, bytes of each storage


class _Problem(Exception):
    """Something wrong inside a file; its path is put in front where this is caught."""


@dataclass(frozen=True)
class _Global:  # a name that a pickle refers to: in the tables above, or it would have been refused
    name: str


@dataclass(frozen=True)
class _Storage:  # a row of numbers somewhere in the file
    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class _Tensor:  # a shape laid over a storage; offset and stride count elements
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Dict:  # kept as the pairs it was filled with: to hash a hostile key could take for ever
    pairs: list[Any]


def read_torch(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The tensors that `torch.save` wrote, by name; a bare tensor has the name "tensor".

    Takes a dict of tensors, or one that holds such a dict as "state_dict" or "model"; values that are no
    tensors are left out. The arrays are read-only, and bfloat16 becomes float32. Raises CheckpointError for
    any other content, and for a tensor that lies outside its storage.
    """
    return {name: array for name, (array, _) in _read(path, _named_tensors).items()}


def read_torch_tree(path: str | os.PathLike[str]) -> dict[str, tuple[NDArray[Any], str]]:
    """All tensors that `torch.save` wrote, in whatever dicts, lists and tuples they stand, and their dtypes.

    A name says where: `"hidden.0"` is in a dict in a dict, `"attentions[3]"` in a list in a dict. The arrays
    are those of `read_torch`; the dtype is the stored one, such as "bfloat16". Raises CheckpointError.
    """
    return _read(path, _all_tensors)


def _read(
    path: str | os.PathLike[str], find: Callable[[Any], dict[str, _Tensor]]
) -> dict[str, tuple[NDArray[Any], str]]:
    """The tensors that `find` finds in what was pickled, and the dtypes that they are stored in."""
    mapped = map_file(path, CheckpointError)
    try:
        root, raw, order = _open_zip(path, mapped) if mapped[:2] == b"PK" else _open_legacy(mapped)
        tensors = find(root)
        storages = {tensor.storage for tensor in tensors.values()}
        values = {storage: _read_storage(storage, raw[storage.key], order) for storage in storages}
        return {
            name: (_lay_over(name, tensor, values[tensor.storage]), _dtype_name(tensor.storage.dtype))
            for name, tensor in tensors.items()
        }
    except _Problem as e:
        raise CheckpointError(f"{path}: {_one_line(e)}") from None
    except Exception as e:  # also RecursionError and MemoryError
        raise CheckpointError(f"{path}: damaged torch file ({type(e).__name__}: {_one_line(e)})") from e


def _one_line(e: Exception) -> str:
    """What an error says, which may contain names out of the file: cut, and without line breaks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(e)[:500])


def _open_zip(path: str | os.PathLike[str], mapped: mmap.mmap) -> _Opened:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if f"/{name}".endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Problem(f"expected a zip archive with one data.pkl, found {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    data = np.frombuffer(mapped, np.uint8)

    def find(name: str) -> NDArray[np.uint8]:
        if name not in entries:
            raise _Problem(f"{name}: missing from the archive")
        info = entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _Problem(f"{name}: compressed or encrypted, expected to be stored as it is")
        head = mapped[info.header_offset : info.header_offset + 30]  # ends with the sizes of name and extra
        begin = info.header_offset + 30
        begin += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        if head[:4] != b"PK\x03\x04" or begin + info.file_size > len(mapped):
            raise _Problem(f"{name}: not where the archive says it is (damaged or truncated)")
        return data[begin : begin + info.file_size]

    pickle = find(pickles[0])
    if len(pickle) > _MAX_PICKLE:
        raise _Problem(f"{pickles[0]}: {len(pickle):,} bytes, but {_MAX_PICKLE:,} do for any state dict")
    big = f"{folder}byteorder" in entries and find(f"{folder}byteorder")[:4].tobytes() == b"big"
    stored: dict[str, _Storage] = {}
    root = _run(io.BytesIO(pickle.tobytes()), stored)
    return root, {key: find(f"{folder}data/{key}") for key in stored}, ">" if big else "<"


def _open_legacy(mapped: mmap.mmap) -> _Opened:
    if mapped[257:262] == b"ustar":
        raise _Problem("is a tar file of the first torch versions; load and save it with torch 1.x first")
    if mapped[:1] != b"\x80":
        raise _Problem(f"is no torch file: begins with {mapped[:8]!r}")
    at = 0
    values = []
    stored: dict[str, _Storage] = {}
    for _ in range(5):
        stream = io.BytesIO(mapped[at : at + _MAX_PICKLE])
        values.append(_run(stream, stored))
        if values[0] != _MAGIC:
            raise _Problem("is a pickle, but none that torch.save wrote")
        at += stream.tell()
    _magic, _protocol, _system, root, keys = values
    raw = {}
    for key in _expect(keys, list):
        if _expect(key, str) not in stored:
            raise _Problem(f"storage {key!r}: in the file, but no tensor refers to it")
        length, begin = int.from_bytes(mapped[at : at + 8], "little"), at + 8
        at = begin + length * np.dtype(stored[key].dtype).itemsize
        if at > len(mapped):
            raise _Problem(f"storage {key!r}: ends at byte {at:,} of a file of {len(mapped):,} (truncated?)")
        raw[key] = np.frombuffer(mapped, np.uint8)[begin:at]
    for key in stored.keys() - raw.keys():
        raise _Problem(f"storage {key!r}: missing from the file")
    return root, raw, "<"  # in this container whatever the machine


def _run(stream: io.BytesIO, stored: dict[str, _Storage]) -> Any:
    """The value that a pickle describes; adds the storages it refers to. Linear in time and memory."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        begin = marks.pop()
        items = stack[begin:]
        del stack[begin:]
        return items

    for op, arg, _ in pickletools.genops(stream):
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _LITERALS:
                stack.append(arg)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if arg is None else arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS" as name:
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append(_Dict([]))
            case "SETITEM" | "SETITEMS" as name:
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _expect(stack[-1], _Dict).pairs.extend(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL" | "INST":
                stack.append(_global(str(arg).replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(_global(f"{module}.{name}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
                stored[stack[-1].key] = stack[-1]
            case "REDUCE":
                args, function = _expect(stack.pop(), tuple), _expect(stack.pop(), _Global)
                stack.append(_call(function.name, args))
            case "BUILD":  # attributes, such as the `_metadata` of a state dict: not needed
                stack.pop()
            case name:
                raise _Problem(f"refuses the pickle instruction {name}, which no state dict needs")
    raise _Problem("the pickle has no end")


def _expect(value: Any, kind: type[_T]) -> _T:
    if type(value) is not kind:
        found, wanted = (t.__name__.strip("_").lower() for t in (type(value), kind))
        raise _Problem(f"expected a {wanted} in the pickle, found a {found}")
    return value


def _global(name: str) -> _Global:
    if name not in _STORAGES and name not in _OTHER_NAMES:
        raise _Problem(f"refuses to load {name}, which no state dict needs")
    return _Global(name)


def _storage(reference: Any) -> _Storage:
    match reference:
        case ("storage", _Global(name), str(key), _, int(length), *view) if name in _STORAGES:
            if view in ([], [None]):
                return _Storage(key, _STORAGES[name], length)
    raise _Problem("a reference to a storage is not of the form that torch.save writes")


def _call(function: str, args: tuple[Any, ...]) -> Any:
    match function.rpartition(".")[2]:
        case "_rebuild_tensor" | "_rebuild_tensor_v2":
            storage, offset, shape, stride = args[:4]
            if len(_expect(shape, tuple)) != len(_expect(stride, tuple)) or len(shape) > 64:
                raise _Problem(f"a tensor has {len(shape)} axes and {len(stride)} strides")
            if not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
                raise _Problem("a tensor's offset, shape and stride must be whole numbers >= 0")
            return _Tensor(_expect(storage, _Storage), offset, shape, stride)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state":
            return _expect(args[0], _Tensor)
        case "OrderedDict":
            return _Dict(_expect(args[0], list) if args else [])
        case "Size":
            return _expect(args[0], tuple)
    raise _Problem(f"refuses to call {function}")


def _named_tensors(root: Any) -> dict[str, _Tensor]:
    if type(root) is _Tensor:
        return {"tensor": root}
    pairs = _expect(root, _Dict).pairs
    inner = [value for key, value in pairs if key in ("state_dict", "model") and type(value) is _Dict]
    named = [[(k, v) for k, v in table.pairs if type(v) is _Tensor] for table in (root, *inner)]
    found = [pairs for pairs in named if pairs]
    if len(found) != 1:
        what = "several, which is unclear" if found else "no tensors"
        raise _Problem(f"expected one dict of tensors (top level, state_dict or model), found {what}")
    return {_expect(name, str): tensor for name, tensor in found[0]}


def _all_tensors(root: Any) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while waiting:
        name, value, depth = waiting.pop()
        if type(value) is _Tensor:
            if found.setdefault(name or "tensor", value) is not value:
                raise _Problem(f"two tensors would be called {name!r}")
            continue
        if type(value) is _Dict:
            inside = [(f"{name}.{key}" if name else str(key), part) for key, part in _keys(value)]
        elif isinstance(value, list | tuple):
            inside = [(f"{name}[{i}]", part) for i, part in enumerate(value[:_MOST_TENSORS])]
        else:
            continue
        seen += len(inside)
        if depth == _DEEPEST or seen > _MOST_TENSORS:
            raise _Problem(f"lists and dicts are more than {_DEEPEST} deep, or hold too many values")
        waiting += [(key, part, depth + 1) for key, part in reversed(inside)]
    if not found:
        raise _Problem("no tensors in it")
    return found


def _keys(table: _Dict) -> list[tuple[str | int, Any]]:
    return [(key, value) for key, value in table.pairs if type(key) in (str, int)]


def _dtype_name(code: str) -> str:
    return "bfloat16" if code == _BFLOAT16 else np.dtype(code).name


def _read_storage(storage: _Storage, raw: NDArray[np.uint8], order: _Order) -> NDArray[Any]:
    dtype = np.dtype("u2" if storage.dtype == _BFLOAT16 else storage.dtype).newbyteorder(order)
    if len(raw) != storage.length * dtype.itemsize:
        expected = f"{storage.length:,} x {dtype.itemsize}"
        raise _Problem(f"storage {storage.key!r}: expected {expected} bytes, found {len(raw):,}")
    array: NDArray[Any] = raw.view(dtype)
    if storage.dtype == _BFLOAT16:
        array = bfloat16_to_float32(array)
    elif not (array.flags.aligned and dtype.isnative):
        array = array.astype(dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _lay_over(name: str, tensor: _Tensor, values: NDArray[Any]) -> NDArray[Any]:
    shape, stride = tensor.shape, tensor.stride
    count = math.prod(shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if count and last >= len(values):
        raise _Problem(f"tensor {name!r}: reaches element {last:,} of a storage that has {len(values):,}")
    if count > max(len(values), _MAX_REPEATED):
        raise _Problem(f"tensor {name!r}: shape {shape} repeats a storage of {len(values):,} too often")
    offset = tensor.offset * values.itemsize if count else 0
    return np.ndarray(shape, values.dtype, values, offset, [step * values.itemsize for step in stride])
