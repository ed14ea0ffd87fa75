"""The kinds of files that hold arrays: each is read as data, never run, and checked before it is believed."""

import contextlib
import json
import math
import os
import zipfile
from typing import IO, Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.checkpoints.bfloat16 import bfloat16_to_float32, widened
from gpt2np.checkpoints.torch_pickle import CURE
from gpt2np.checkpoints.torchfile import read_torch_tree
from gpt2np.errors import CheckpointError, InputError, short
from gpt2np.npzfile import damage, npy_header
from gpt2np.ops import Array

Stored = dict[str, tuple[Array, str]]  # arrays by name, each with the dtype that it is stored in

METADATA = "gpt2np"  # what our own files say of themselves
_CURE = "save plain tensors, as in torch.save(dict(output), FILE)"
_MOST_FILES = 100_000
_MOST_BYTES = 1 << 34  # of one array in a .npz: its header is believed before its bytes are there


def stored(array: Array) -> tuple[Array, str]:
    """An array in this machine's byte order and its dtype's name; two bytes without a type are a bfloat16."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        bits = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
        return bfloat16_to_float32(bits), "bfloat16"
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array, array.dtype.name


def read_safetensors(path: str) -> tuple[Stored, dict[str, str]]:
    """Every tensor of a `.safetensors` file, and the file's table of strings."""
    file = tensorfile.open_tensors(path, error=InputError)
    dtypes = {"BF16": "bfloat16"}
    arrays = {name: widened(file, name) for name in file.names}
    return {n: (a, dtypes.get(file.dtype(n), a.dtype.name)) for n, a in arrays.items()}, file.metadata


def read_torch_file(path: str) -> Stored:
    """Every tensor of what `torch.save` wrote."""
    try:
        return read_torch_tree(path)
    except CheckpointError as error:
        raise InputError(str(error).replace(CURE, _CURE)) from None


def read_npz(path: str, most: int | None = None) -> tuple[Stored, dict[str, str]]:
    """Every array of a `.npz` file, and its entry `gpt2np` if it has one, as `gpt2np export` writes it.

    All headers are read before the first array is inflated: together they may have `most` bytes.
    """
    found: Stored = {}
    metadata: dict[str, str] = {}
    with _damage(path, "file"), zipfile.ZipFile(path) as archive:
        if most is not None:
            _check_total(archive, path, most)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.is_dir():
                continue
            if not info.filename.endswith(".npy"):
                raise InputError(f"{path}: {short(info.filename)} in it is no .npy, so this is no .npz file")
            if name in found:
                raise InputError(f"{path}: {short(name)} appears twice")
            with _damage(path, name), archive.open(info) as file:
                array = _read_npy(file, info.file_size, path, name)
            if name == METADATA and array.dtype.kind == "U":
                metadata[METADATA] = str(array)
            else:
                found[name] = stored(array)
    return found, metadata


def read_npy(path: str, name: str) -> tuple[Array, str]:
    """The array of a `.npy` file, mapped into memory; `name` is what messages call it."""
    with _damage(path, name):
        with open(path, "rb") as file:
            shape, in_fortran_order, dtype = _npy_header(file, path, name)
            begin, found = file.tell(), os.fstat(file.fileno()).st_size
        count = _check_size(shape, dtype, found - begin, path, name)
        if count == 0:
            return np.empty(shape, dtype), dtype.name
        order: Any = "F" if in_fortran_order else "C"
        return stored(np.memmap(path, dtype, "r", begin, shape, order).view(np.ndarray))


def read_npy_folder(path: str) -> Stored:
    """Every `.npy` of a folder and its subfolders: `h/3/ln_1.npy` is called `h.3.ln_1`."""
    found: Stored = {}
    visited = set()
    files: list[tuple[str, str]] = []
    with _damage(path, "folder"):
        for folder, subfolders, names in os.walk(path, followlinks=True, onerror=_raise):
            real = os.path.realpath(folder)
            if real in visited:  # a link to a folder above would lead round in circles
                subfolders.clear()
                continue
            visited.add(real)
            subfolders.sort()
            files += [(folder, name) for name in sorted(names) if name.endswith(".npy") and name[0] != "."]
            if len(files) + len(visited) > _MOST_FILES:
                raise InputError(f"{path}: more than {_MOST_FILES:,} files and folders")
    for folder, file in files:
        whole = os.path.join(folder, file)
        name = os.path.relpath(whole, path).removesuffix(".npy").replace(os.sep, ".")
        if not os.path.isfile(whole):
            raise InputError(f"{whole}: is no file, or a link to nothing")
        if name in found:
            raise InputError(f"{path}: two files are called {short(name)}")
        found[name] = read_npy(whole, name)
    if not found:
        raise InputError(f"{path}: is a folder without .npy files")
    return found


def own_token_ids(path: str, metadata: dict[str, str]) -> list[int] | None:
    """The token ids in the metadata of a file that gpt2np wrote, which must begin at position 0."""
    if METADATA not in metadata:
        return None
    try:
        facts = json.loads(metadata[METADATA])
    except (ValueError, RecursionError):
        raise InputError(f"{path}: metadata {METADATA!r} is not JSON") from None
    ids = facts.get("token_ids") if isinstance(facts, dict) else None
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        return None
    if facts.get("positions") not in (None, [None, None, None], [0, None, None], [0, None, 1]):
        what = f"positions {short(facts['positions'])} of a trace are kept in it"
        if not _is_prefix(facts["positions"], len(ids)):
            raise InputError(f"{path}: only {what}; make one of all positions, or of the first ones")
    return ids


def _is_prefix(positions: Any, length: int) -> bool:
    try:
        return range(length)[slice(*positions)] == range(len(range(length)[slice(*positions)]))
    except (TypeError, ValueError):
        return False


def _damage(path: str, name: str) -> contextlib.AbstractContextManager[None]:
    what = "" if name in ("file", "folder") else f"array {short(name)} "
    return damage(lambda reason: InputError(f"{path}: {what}cannot be read ({reason})"))


def _raise(error: OSError) -> None:
    raise error


def _npy_header(file: IO[bytes], path: str, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    shape, in_fortran_order, dtype = npy_header(file)
    if dtype.hasobject or dtype.names is not None:
        kind = "Python objects" if dtype.hasobject else "records"
        raise InputError(f"{path}: array {short(name)} holds {kind}, not numbers: save it with a float dtype")
    return shape, in_fortran_order, dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], found: int, path: str, name: str) -> int:
    count = 1
    for n in shape:
        if type(n) is not int or n < 0:
            raise InputError(f"{path}: array {short(name)} has shape {short(shape)}")
        count *= n
    needed = count * dtype.itemsize
    if needed != found:
        raise InputError(
            f"{path}: array {short(name)} of shape {short(shape)} and {dtype} needs {needed:,} bytes, "
            f"but {found:,} are there (truncated?)"
        )
    return count


def _check_total(archive: zipfile.ZipFile, path: str, most: int) -> None:
    """Refuse arrays that are larger than they can be for this model, by what their headers say."""
    total = 0
    for info in archive.infolist():
        if info.is_dir() or not info.filename.endswith(".npy"):
            continue
        with _damage(path, info.filename.removesuffix(".npy")), archive.open(info) as file:
            shape, _, dtype = _npy_header(file, path, info.filename.removesuffix(".npy"))
        total += math.prod(shape) * dtype.itemsize
        if total > most:
            name = info.filename.removesuffix(".npy")
            raise InputError(
                f"{path}: with {short(name)} its arrays take {total:,} bytes of memory, and this model's "
                f"sites at most {most:,}: leave out what is none of them, or take --force (in Python "
                "max_bytes=None); a .safetensors file needs none"
            )


def _read_npy(file: IO[bytes], size: int, path: str, name: str) -> Array:
    shape, in_fortran_order, dtype = _npy_header(file, path, name)
    count = _check_size(shape, dtype, size - file.tell(), path, name)
    if count * dtype.itemsize > _MOST_BYTES:
        raise InputError(f"{path}: array {short(name)} claims {count * dtype.itemsize:,} bytes")
    data = file.read()
    if len(data) != count * dtype.itemsize:
        raise InputError(f"{path}: array {short(name)} ends early (truncated?)")
    flat = np.frombuffer(data, dtype) if count else np.empty(0, dtype)
    return flat.reshape(shape[::-1]).T if in_fortran_order else flat.reshape(shape)
