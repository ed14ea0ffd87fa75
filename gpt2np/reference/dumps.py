"""Somebody's dump: the arrays in a file, a folder or a mapping, under their own names and in their layout."""

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.errors import InputError, short
from gpt2np.files import MAX_BYTES, kind_of_start
from gpt2np.ops import Array
from gpt2np.reference import dump_formats, raw_files
from gpt2np.reference.decoding_steps import joined
from gpt2np.reference.dump_formats import Stored
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace import Trace

# Names of what comes from the tokens alone, which nobody has to compute.
FACTS = ("token_ids", "input_ids", "inputs", "tokens", "ids", "embed.hook_in")
OTHER_FACTS = ("targets", "labels", "position_ids", "attention_mask", "pos_embed.hook_in")

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of torch before 1.6


@dataclass(frozen=True)
class Dump:
    """Arrays under the names that they have in a file, in the precision stored; bfloat16 as float32 values.

    `dtypes` are the stored ones ("bfloat16" too); `token_ids` what ran, where the file itself says so (of
    several sequences the first). `kind` is safetensors, npz, npy, npy folder, raw, torch, llm.c debug state,
    llm.c activations, trace or arrays.
    """

    path: str
    kind: str
    arrays: dict[str, Array]
    dtypes: dict[str, str]
    token_ids: list[int] | None = None


def read_dump(
    path: str | os.PathLike[str],
    *,
    shapes: Any = None,
    config: ModelConfig | None = None,
    length: int | None = None,
    max_bytes: int | None = MAX_BYTES,
) -> Dump:
    """Read a dump of any kind, recognised by its content.

    A file of bare numbers needs its `shapes`, in file order: a mapping, JSON, lines of `name [dtype] d0 d1
    ...`, or a file of them. One without shapes is taken for llm.c's activations, which need the `config`.
    The arrays of a `.npz` are read into memory: `max_bytes` is how much they may take, and four times what
    all sites of the model do at its longest text; None: whatever they take.

    Raises:
        InputError: it is missing, damaged or of no kind that is known, or does not fit its shapes.

    Example:
        >>> read_dump("mine.bin", shapes={"encoded": [1, 5, 768], "ln1": [12, 1, 5, 768]})
    """
    where = os.fspath(path)
    kind = _kind_of(where)
    if shapes is not None and kind != "raw":
        raise InputError(f"{where}: shapes are for files of bare numbers, and this is a {kind} file")
    metadata: dict[str, str] = {}
    if kind == "safetensors":
        found, metadata = dump_formats.read_safetensors(where)
    elif kind == "npz":
        found, metadata = dump_formats.read_npz(where, _most_bytes(config, max_bytes))
    elif kind == "raw":
        kind, found = _bare_numbers(where, shapes, config, length)
    else:
        found = _arrays_in(where, kind, config)
    return _dump(where, kind, found, dump_formats.own_token_ids(where, metadata))


def _arrays_in(where: str, kind: str, config: ModelConfig | None) -> Stored:
    """The arrays of a file or folder of a kind that has nothing to say about them."""
    if kind == "npy":
        name = os.path.basename(where).removesuffix(".npy")
        return {name: dump_formats.read_npy(where, name)}
    if kind == "npy folder":
        return dump_formats.read_npy_folder(where)
    if kind == "torch":
        return dump_formats.read_torch_file(where)
    own = None if config is None else gpt2_only(config, "debug state of llm.c")
    return raw_files.read_debug_state(where, own)


def _bare_numbers(
    where: str, shapes: Any, config: ModelConfig | None, length: int | None
) -> tuple[str, Stored]:
    """The arrays of a file of nothing but numbers, and its kind."""
    if shapes is not None:
        return "raw", raw_files.read_raw(where, shapes)
    if config is None:
        raise InputError(
            f"{where}: does not say what it holds: bare numbers are read with a list of shapes "
            f"(gpt2np compare {where} --shapes FILE)"
        )
    own = gpt2_only(config, "activations of llm.c")
    return "llm.c activations", raw_files.read_activations(where, own, length)


def _most_bytes(config: ModelConfig | None, max_bytes: int | None) -> int | None:
    """How much the arrays of a file may take."""
    if config is None or max_bytes is None:
        return max_bytes
    names = [name for name, _, _ in config.architecture.sites.expand(config.n_layer)]
    return min(max_bytes, 4 * Plan(config, config.n_positions, keep=names).nbytes)


def dump_of(
    given: Any,
    *,
    shapes: Any = None,
    config: ModelConfig | None = None,
    length: int | None = None,
    max_bytes: int | None = MAX_BYTES,
) -> Dump:
    """A Dump of whatever holds arrays: a Dump, a path, a Trace, or a mapping.

    A mapping's values are NumPy arrays, torch tensors, whatever NumPy takes, or lists, tuples and mappings of
    them: the items of a tuple `attentions` are called `attentions[0]` and so on. HF's output object is one.

    Raises:
        InputError: it is none of these, or the file cannot be read.
    """
    if isinstance(given, Dump):
        return given
    if isinstance(given, str | os.PathLike):
        return read_dump(given, shapes=shapes, config=config, length=length, max_bytes=max_bytes)
    if isinstance(given, Trace):
        if given.positions != range(len(given.positions)):
            raise InputError("the trace keeps some positions only: make one of all, or of the first ones")
        own = {name: dump_formats.stored(given[name]) for name in given.names()}
        return _dump("trace", "trace", own, given.token_ids)
    if not hasattr(given, "items"):
        raise InputError(
            f"a dump is a path, a Trace or a mapping of names to arrays, not {type(given).__name__}"
        )
    found: Stored = {}
    for name, value in _flattened("", given, 0):
        if name in found:
            raise InputError(f"two arrays of the dump are called {short(name)}")
        found[name] = _array(name, value)
    return _dump("arrays", "arrays", found, None)


def _dump(path: str, kind: str, found: Stored, token_ids: list[int] | None) -> Dump:
    if not found:
        raise InputError(f"{path}: holds no arrays")
    found = joined(found)
    for name, (array, _) in found.items():
        if array.size == 0:
            raise InputError(f"{path}: array {short(name)} is empty: its shape is {array.shape}")
    if token_ids is None:
        ids = next(
            (a for name in FACTS for a, _ in [found.get(name, (np.empty(0), ""))] if _are_ids(a)), None
        )
        token_ids = None if ids is None else ids.reshape(-1, ids.shape[-1])[0].tolist()
    arrays = {name: array for name, (array, _) in found.items()}
    return Dump(path, kind, arrays, {name: dtype for name, (_, dtype) in found.items()}, token_ids)


def _are_ids(array: Array) -> bool:
    return array.dtype.kind in "iu" and 1 <= array.ndim <= 2 and array.size > 0


def _kind_of(path: str) -> str:
    """What a path holds, by its first bytes."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return "npy folder"
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise InputError(f"{path}: expected a file or a folder, found a device")
        with open(path, "rb") as file:
            start = file.read(32)
        if start[:4] == b"PK\x03\x04":
            return _kind_of_zip(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not start:
        raise InputError(f"{path}: is empty")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: is a Git LFS pointer, not the file; run `git lfs pull`")
    suffix = os.path.splitext(path)[1].lower()
    if start.startswith(b"\x93NUMPY") or suffix == ".npy":
        return "npy"
    if start.startswith(_LEGACY_TORCH) or suffix in (".pt", ".pth", ".ckpt", ".pkl", ".pickle"):
        return "torch"
    if start.startswith(b"PK\5\6"):
        raise InputError(f"{path}: is an empty zip file: it holds no arrays")
    if suffix == ".npz":
        raise InputError(f"{path}: is called .npz, but is no zip file")
    if suffix == ".safetensors" or (start[8:10] == b'{"' and start[4:8] == bytes(4)):
        return "safetensors"
    if int.from_bytes(start[:4], "little") == raw_files.DEBUG_STATE:
        return "llm.c debug state"
    if suffix in (".json", ".csv", ".txt", ".html", ".ts"):
        raise InputError(f"{path}: a dump is .safetensors, .npz, .npy, .pt or raw numbers, not {suffix}")
    kind = kind_of_start(start)
    if kind not in ("", "a text file"):  # a few numbers may happen to be the bytes of a text
        raise InputError(f"{path}: is {kind}: a dump is .safetensors, .npz, .npy, .pt or raw numbers")
    return "raw"


def _kind_of_zip(path: str) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(f"/{name}".endswith("/data.pkl") for name in names):
        return "torch"
    if names and not any(name.endswith(".npy") for name in names):
        raise InputError(f"{path}: is a zip file, but holds neither .npy arrays nor what torch.save writes")
    return "npz"


def _flattened(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Names and arrays inside mappings, lists and tuples; texts and single values are no arrays."""
    if depth > 6:
        raise InputError(f"{short(name)} of the dump is nested more than 6 deep")
    if hasattr(value, "items") and not hasattr(value, "__array__"):
        for key, part in value.items():
            yield from _flattened(f"{name}.{key}" if name else str(key), part, depth + 1)
    elif isinstance(value, list | tuple) and (not value or any(_has_numbers(part) for part in value)):
        for i, part in enumerate(value):
            yield from _flattened(f"{name}[{i}]", part, depth + 1)
    elif isinstance(getattr(value, "layers", None), list):  # HF's cache of keys and values
        for i, layer in enumerate(value.layers):
            yield f"{name}[{i}][0]", layer.keys
            yield f"{name}[{i}][1]", layer.values
    elif value is not None and not isinstance(value, str | bytes | bool):
        yield name, value


def _has_numbers(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "items") or isinstance(value, list | tuple)


def _array(name: str, value: Any) -> tuple[Array, str]:
    """An array of whatever library; torch's are known by what they can do, so torch is not imported."""
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            value = value.detach().cpu()
            if str(value.dtype) == "torch.bfloat16":
                return np.asarray(value.float().numpy()), "bfloat16"
            value = value.numpy()
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # of ml_dtypes, as JAX has it
            return array.astype(np.float32), "bfloat16"
        if array.dtype.hasobject:
            raise TypeError("Python objects")
    except Exception as error:
        raise InputError(f"{short(name)} of the dump is no array of numbers ({short(str(error))})") from None
    return dump_formats.stored(array)


def is_fact(name: str) -> bool:
    """Whether a name is that of token ids and the like, which are no activations."""
    return name.lower() in FACTS + OTHER_FACTS
