"""The machine that reads the pickles of `torch.save` as data: nothing in a file is ever called or imported.

A pickle is a program: Python's own `pickle` would call whatever it names. This one knows the few instructions
that a training script's file needs, builds plain descriptions of tensors, dicts and lists, and refuses the
rest. What a file says of other objects (its options, paths, NumPy numbers) becomes an `Object` that does
nothing, if it is one of the harmless kinds listed here.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any, TypeVar

BFLOAT16 = "V2"  # two bytes that NumPy has no number for
STORAGES = {
    "torch.FloatStorage": "f4", "torch.HalfStorage": "f2", "torch.DoubleStorage": "f8",
    "torch.LongStorage": "i8", "torch.IntStorage": "i4", "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1", "torch.ByteStorage": "u1", "torch.BoolStorage": "b1",
    "torch.BFloat16Storage": BFLOAT16,
}  # fmt: skip
_OTHER_NAMES = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "collections.OrderedDict", "torch.Size",
    "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.bool",
    "torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8",
}  # fmt: skip
# What training scripts save beside the weights, which becomes an `Object` whatever its arguments.
_OBJECTS = {
    "argparse.Namespace", "collections.defaultdict", "collections.Counter", "types.SimpleNamespace",
    "builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset", "builtins.bytearray",
    "builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str", "builtins.bool",
    "__builtin__.dict", "__builtin__.list", "__builtin__.int", "__builtin__.float", "__builtin__.bool",
    "typing.Any", "datetime.datetime", "datetime.timedelta", "uuid.UUID", "_codecs.encode",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
    "pathlib._local.Path", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "torch.device",
    "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer",
}  # fmt: skip
# Modules whose classes hold options: made without a call (`NEWOBJ`), one of them is an `Object` as well.
_OBJECT_MODULES = {
    "__main__", "model", "config", "configs", "gpt", "train", "utils", "mingpt", "nanogpt", "omegaconf",
    "lightning", "lightning_fabric", "pytorch_lightning", "lightning_utilities", "transformers", "easydict",
    "yacs", "ml_collections", "munch", "addict", "box", "accelerate", "composer",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
}  # fmt: skip
CURE = "save model.state_dict() alone, with torch.save, and load that"

_T = TypeVar("_T")


class Problem(Exception):
    """Something wrong inside a file; its path is put in front where this is caught."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to: in the tables above, or it would have been refused."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A row of numbers somewhere in the file."""

    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class Tensor:
    """A shape laid over a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Dict:
    """A dict, kept as the pairs it was filled with: to hash a hostile key could take for ever."""

    pairs: list[Any]


@dataclass(frozen=True)
class Object:
    """An object of some class, with the dicts of its attributes; nothing else of it is known."""

    name: str
    parts: list[Dict]


def unpickled(stream: io.BytesIO, stored: dict[str, Storage]) -> Any:
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
                if type(stack[-1]) is not Object:  # of a list's subclass nothing is known
                    expect(stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append(Dict([]))
            case "SETITEM" | "SETITEMS" as name:
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                pairs = list(zip(items[::2], items[1::2], strict=True))
                if type(stack[-1]) is Object:
                    stack[-1].parts.append(Dict(pairs))
                else:
                    expect(stack[-1], Dict).pairs.extend(pairs)
            case "GLOBAL" | "INST":
                stack.append(_global(str(arg).replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = expect(stack.pop(), str), expect(stack.pop(), str)
                stack.append(_global(f"{module}.{name}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
                stored[stack[-1].key] = stack[-1]
            case "REDUCE":
                args, function = expect(stack.pop(), tuple), expect(stack.pop(), Global)
                stack.append(_call(function.name, args))
            case "NEWOBJ":
                expect(stack.pop(), tuple)
                stack.append(_object(expect(stack.pop(), Global).name))
            case "BUILD":  # attributes; those of a state dict, its `_metadata`, are not needed
                attributes = stack.pop()
                if type(stack[-1]) is Object and type(attributes) is Dict:
                    stack[-1].parts.append(attributes)
            case name:
                raise Problem(f"refuses the pickle instruction {name}, which no state dict needs")
    raise Problem("the pickle has no end")


def expect(value: Any, kind: type[_T]) -> _T:
    """The value, if it is of exactly this type.

    Raises:
        Problem: it is of another.
    """
    if type(value) is not kind:
        found, wanted = (t.__name__.strip("_").lower() for t in (type(value), kind))
        raise Problem(f"expected a {wanted} in the pickle, found a {found}")
    return value


def _global(name: str) -> Global:
    if name not in STORAGES and name not in _OTHER_NAMES and not _is_object(name):
        raise Problem(f"refuses to load {name}, which no state dict needs; {CURE}")
    return Global(name)


def _is_object(name: str) -> bool:
    return name in _OBJECTS or ("." in name and name.partition(".")[0] in _OBJECT_MODULES)


def _object(name: str) -> Object:
    if not _is_object(name):
        raise Problem(f"refuses to make a {name}, which no state dict needs; {CURE}")
    return Object(name, [])


def _storage(reference: Any) -> Storage:
    match reference:
        case ("storage", Global(name), str(key), _, int(length), *view) if name in STORAGES:
            if view in ([], [None]):
                return Storage(key, STORAGES[name], length)
    raise Problem("a reference to a storage is not of the form that torch.save writes")


def _call(function: str, args: tuple[Any, ...]) -> Any:
    match function.rpartition(".")[2]:
        case "_rebuild_tensor" | "_rebuild_tensor_v2":
            storage, offset, shape, stride = args[:4]
            if len(expect(shape, tuple)) != len(expect(stride, tuple)) or len(shape) > 64:
                raise Problem(f"a tensor has {len(shape)} axes and {len(stride)} strides")
            if not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
                raise Problem("a tensor's offset, shape and stride must be whole numbers >= 0")
            return Tensor(expect(storage, Storage), offset, shape, stride)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state":
            return expect(args[0], Tensor)
        case "OrderedDict":
            return Dict(expect(args[0], list) if args else [])
        case "Size":
            return expect(args[0], tuple)
    if function in _OBJECTS:
        return Object(function, [])
    raise Problem(f"refuses to call {function}, which no state dict needs; {CURE}")
