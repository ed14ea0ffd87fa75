"""Files of bare numbers: raw arrays whose shapes somebody declares, and what llm.c writes."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.errors import InputError, short
from gpt2np.export.dialects.llmc import LLMC_ORDER
from gpt2np.ops import Array
from gpt2np.reference.dump_formats import Stored

DEBUG_STATE = 20240327  # the first number of llm.c's debug_state.bin
_VOCAB = 50257
_BYTES = {"float32": 4, "float16": 2, "float64": 8}
_Entry = tuple[str, str | None, tuple[int, ...]]  # name, dtype (None: that of the file), shape


def read_raw(path: str, shapes: Any) -> Stored:
    """The arrays of a file of bare numbers, little-endian and in file order, whose total must fit exactly.

    `shapes` is a mapping `{"encoded": [1, 5, 16]}`, that as JSON, lines of `name [dtype] d0 d1 ...`, or a
    file of either. Where no dtype is given it is float32, float16 or float64, whichever fits.
    """
    entries, token_ids = _entries(shapes)
    data = _bytes_of(path)
    fixed = sum(_BYTES[dtype] * math.prod(shape) for _, dtype, shape in entries if dtype)
    count = sum(math.prod(shape) for _, dtype, shape in entries if not dtype)
    fits = [dtype for dtype, size in _BYTES.items() if fixed + count * size == len(data)]
    if not fits:
        needs = (
            " or ".join(f"{fixed + count * size:,} as {dtype}" for dtype, size in _BYTES.items())
            if count
            else f"{fixed:,}"
        )
        raise InputError(
            f"{path}: the {len(entries)} shapes need {needs} bytes, but the file has {len(data):,}"
        )
    found: Stored = {}
    at = 0
    for name, given, shape in entries:
        dtype = given or fits[0]
        end = at + math.prod(shape) * _BYTES[dtype]
        found[name] = _numbers(data[at:end], dtype).reshape(shape), dtype
        at = end
    if token_ids:
        found["inputs"] = np.array(token_ids), "int64"
    return found


def read_debug_state(path: str, config: Config | None) -> Stored:
    """llm.c's `debug_state.bin`: `inputs`, `targets`, `logits` and `loss`; the gradients are left out."""
    data = _bytes_of(path)
    header = _numbers(data[:1024], "int32") if len(data) >= 1024 else np.zeros(256, np.int32)
    version, batch, length = (int(n) for n in header[1:4])
    vocab = config.vocab_size if config else _VOCAB
    if version not in (1, 2) or not (1 <= batch <= 2**20 and 1 <= length <= 2**20):
        found = f"version {version}, B {batch}, T {length} in {len(data):,} bytes"
        raise InputError(f"{path}: llm.c debug state with a header that cannot be ({found})")
    tokens = batch * length
    end = 1024 + 8 * tokens + 4 * tokens * vocab + 4
    gradients = [end + 4 * n for n in _parameter_counts(config)] if config else []
    if len(data) < end or (config and len(data) not in (end, *gradients)):
        also = f" or {gradients[0]:,} with gradients" if gradients else ""
        raise InputError(
            f"{path}: llm.c debug state of {batch} x {length} tokens and {vocab} vocabulary entries needs "
            f"{end:,}{also} bytes, but the file has {len(data):,}"
        )
    ids = _numbers(data[1024 : 1024 + 8 * tokens], "int32").reshape(2, batch, length)
    if ids.min() < 0 or ids.max() >= vocab:
        raise InputError(f"{path}: llm.c debug state with token ids that are not 0 to {vocab - 1}")
    floats = _numbers(data[1024 + 8 * tokens : end], "float32")
    return {
        "inputs": (ids[0], "int32"),
        "targets": (ids[1], "int32"),
        "logits": (floats[:-1].reshape(batch, length, vocab), "float32"),
        "loss": (floats[-1:].reshape(()), "float32"),
    }


def read_activations(path: str, config: Config, length: int | None = None) -> Stored:
    """llm.c's ActivationTensors as they lie in memory: float32, one after another, all of them.

    Batch and length follow from the number of bytes; where several would do, from attention rows that
    sum to 1, or from `length`.
    """
    data = _bytes_of(path)
    numbers = _numbers(data, "float32") if len(data) % 4 == 0 else np.empty(0, np.float32)
    sizes = [
        (batch, n, vocab)
        for vocab in dict.fromkeys((config.vocab_size, padded(config.vocab_size)))
        for n in ([length] if length else range(1, config.n_positions + 1))
        for batch in [numbers.size // _activations(config, 1, n, vocab)[1]]
        if batch and _activations(config, batch, n, vocab)[1] == numbers.size
    ]
    right = [size for size in sizes if _attends(_split(numbers, config, *size))] if len(sizes) > 1 else sizes
    if len(right) == 1 or (right and right[0][1:] == right[-1][1:]):
        return {name: (array, "float32") for name, array in _split(numbers, config, *right[0]).items()}
    if sizes:
        some = ", ".join(f"B {b} T {n} V {v}" for b, n, v in sizes[:4])
        raise InputError(f"{path}: its {len(data):,} bytes fit llm.c activations of {some}: give the shapes")
    n = length or 5
    bytes_of_n = 4 * _activations(config, 1, n, padded(config.vocab_size))[1]
    raise InputError(
        f"{path}: is no file that says what it holds, and its {len(data):,} bytes are no "
        f"llm.c activations of this model (B 1, T {n}: {bytes_of_n:,}); "
        "for other raw numbers give a list of shapes"
    )


def padded(vocab_size: int) -> int:
    """Rows of llm.c's token table: the next multiple of 128."""
    return -(-vocab_size // 128) * 128


def _activations(
    config: Config, batch: int, n: int, vocab: int
) -> tuple[list[tuple[str, tuple[int, ...]]], int]:
    """Name and shape of each activation tensor in llm.c's order, and how many numbers they are."""
    bt, d, heads = (batch, n), config.n_embd, config.n_head
    last = {
        "ln1_mean": (), "ln1_rstd": (), "ln2_mean": (), "ln2_rstd": (), "lnf_mean": (), "lnf_rstd": (),
        "losses": (), "qkv": (3 * d,), "fch": (config.d_mlp,), "fch_gelu": (config.d_mlp,),
        "logits": (vocab,), "probs": (vocab,),
    }  # fmt: skip
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name in LLMC_ORDER:
        one = (batch, heads, n, n) if name in ("preatt", "att") else (*bt, *last.get(name, (d,)))
        single = name in ("encoded", "lnf", "lnf_mean", "lnf_rstd", "logits", "probs", "losses")
        shapes.append((name, one if single else (config.n_layer, *one)))
    return shapes, sum(math.prod(shape) for _, shape in shapes)


def _split(numbers: Array, config: Config, batch: int, n: int, vocab: int) -> dict[str, Array]:
    arrays, at = {}, 0
    for name, shape in _activations(config, batch, n, vocab)[0]:
        arrays[name] = numbers[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return arrays


def _attends(arrays: dict[str, Array]) -> bool:
    """Whether rows of the first layer's attention sum to 1, as they do at no other place."""
    with np.errstate(all="ignore"):
        sums = arrays["att"][0].sum(axis=-1, dtype=np.float64)
        return bool(np.mean(np.abs(sums - 1) < 1e-2) > 0.9)


def _parameter_counts(config: Config) -> list[int]:
    """Numbers of gradients, with the token table padded and not."""
    wte = config.vocab_size * config.n_embd
    rest = config.n_parameters - wte
    return [rest + padded(config.vocab_size) * config.n_embd, rest + wte]


def _entries(shapes: Any) -> tuple[list[_Entry], list[int]]:
    """Names and shapes in file order, and the token ids that ran if they are said beside them."""
    where = "shapes"
    if isinstance(shapes, os.PathLike) or (isinstance(shapes, str) and _names_a_file(shapes)):
        where = os.fspath(shapes)
        try:
            shapes = Path(where).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from None
    if isinstance(shapes, str):
        shapes = _json(shapes, where) if shapes.lstrip()[:1] in ("{", "[") else _lines(shapes, where)
    if isinstance(shapes, Mapping):
        shapes = list(shapes.items())
    shapes, token_ids = _listed(shapes)
    if not isinstance(shapes, list) or not shapes:
        raise InputError(f'{where}: expected names with shapes, as in {{"encoded": [1, 5, 16]}}')
    entries = [_entry(item, where) for item in shapes]
    names = [name for name, _, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: {short(name)} appears twice")
    return entries, token_ids


def _listed(shapes: Any) -> tuple[Any, list[int]]:
    """The entries in what describes a file and lists its arrays: the `activations.json` of an export."""
    for _, listed in shapes if _is_object(shapes) else ():
        if not (isinstance(listed, list) and listed and all(map(_is_object, listed))):
            continue
        arrays = [dict(x) for x in listed]
        if all("name" in x and "shape" in x for x in arrays):
            ids = dict(shapes).get("inputs")
            whole = isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**31 for i in ids)
            entries = [(x["name"], {key: x.get(key) for key in ("dtype", "shape")}) for x in arrays]
            return entries, list(ids) if whole and ids else []
    return shapes, []


def _is_object(value: Any) -> bool:
    """Whether it is an object of JSON, which is read as pairs."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


def _names_a_file(text: str) -> bool:
    if "\n" in text or text.lstrip()[:1] in ("{", "["):
        return False
    return os.path.exists(text) or len(text.split()) == 1


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error})") from None


def _lines(text: str, where: str) -> list[Any]:
    """Lines `name [dtype] d0 d1 ...`; what comes after a # is no part of them."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        name, *words = line.partition("#")[0].replace(",", " ").split() or [""]
        if not name:
            continue
        dtype = words.pop(0) if words and not words[0].isdecimal() else None
        if not all(word.isdecimal() and len(word) < 16 for word in words):
            raise InputError(f"{where}: line {number} is {short(line)}, expected `name [dtype] d0 d1 ...`")
        rows.append((name, {"dtype": dtype, "shape": [int(word) for word in words]}))
    return rows


def _entry(item: Any, where: str) -> _Entry:
    name, value = item if isinstance(item, list | tuple) and len(item) == 2 else (None, None)
    if isinstance(value, list | tuple) and value and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)  # an object of JSON
    dtype, shape = None, value
    if isinstance(value, Mapping):
        dtype, shape = value.get("dtype"), value.get("shape")
    spelled = {"f32": "float32", "f16": "float16", "f64": "float64", "half": "float16", "float": "float32"}
    dtype = spelled.get(str(dtype).lower(), str(dtype).lower()) if dtype is not None else None
    fine = isinstance(shape, list | tuple) and all(type(n) is int and 0 < n < 2**40 for n in shape)
    if not isinstance(name, str) or not fine or (dtype is not None and dtype not in _BYTES):
        raise InputError(
            f"{where}: {short(item)} is not a name with a shape of whole numbers above 0 (and a dtype "
            f"{', '.join(_BYTES)})"
        )
    return name, dtype, tuple(shape)  # type: ignore[arg-type]


def _bytes_of(path: str) -> Array:
    """The bytes of a file, mapped into memory."""
    try:
        if os.path.getsize(path) == 0:
            raise InputError(f"{path}: is empty")
        return np.memmap(path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _numbers(data: Array, dtype: str) -> Array:
    """Little-endian numbers out of bytes, copied only where they lie unaligned."""
    numbers = np.ndarray(data.size // np.dtype(dtype).itemsize, np.dtype(dtype).newbyteorder("<"), data)
    if not (numbers.flags.aligned and numbers.dtype.isnative):
        numbers = numbers.astype(dtype)
    numbers.flags.writeable = False
    return numbers
