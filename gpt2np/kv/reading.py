"""Reads and checks KV files: the document's JSON, ours or another program's, and our `.safetensors`."""

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gpt2np.errors import InputError, TraceError, short
from gpt2np.export.decimal_text import rows_as_text
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.files import MAX_BYTES, check_regular, check_unicode, decoded, kind_of, read_bytes
from gpt2np.kv.queries import KV, ROTATED
from gpt2np.ops import Array
from gpt2np.tracing.metadata_fields import PREDICTION
from gpt2np.tracing.plan import human_bytes
from gpt2np.tracing.trace_metadata import DIALECT_SCHEMA
from gpt2np.tracing.trace_metadata import SCHEMA as TRACE_SCHEMA

SCHEMA = "gpt2np.kv/1"
_NUMBERS = 1024  # of a vector: no more of them are taken to become an array as soon as they are read
_IN_MEMORY = 2.4  # bytes of memory for a byte of JSON: itself, its text, and its numbers as arrays
KEYS = ("model", "input_text", "input_tokens", "predicted_next_token", "kv_cache", "metadata")


class Positions(list[dict[str, Any]]):
    """One head's `tokens`: dicts that are made when they are read, from keys and values [pos, d_head].

    It is a list, so that `json.dump` takes it, but it cannot be changed; `list(tokens)` can.
    """

    def __init__(self, keys: Array, values: Array) -> None:
        super().__init__()
        self._keys, self._values = keys, values

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._item(i) for i in range(len(self))[index]]
        return self._item(range(len(self))[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._item(i) for i in range(len(self)))

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        return (self._item(i) for i in reversed(range(len(self))))

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and list(self) == list(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    # The inherited ones would look into the list itself, which is empty.

    def __lt__(self, other: Any) -> bool:
        return list(self) < list(other) if isinstance(other, list) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return list(self) <= list(other) if isinstance(other, list) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return list(self) > list(other) if isinstance(other, list) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return list(self) >= list(other) if isinstance(other, list) else NotImplemented

    def __add__(self, other: Any) -> Any:
        return list(self) + list(other) if isinstance(other, list) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return list(other) + list(self) if isinstance(other, list) else NotImplemented

    def __mul__(self, n: Any) -> Any:
        return list(self) * n

    def __rmul__(self, n: Any) -> Any:
        return list(self) * n

    def copy(self) -> list[dict[str, Any]]:
        """Return a plain list."""
        return list(self)

    def count(self, item: Any) -> int:
        """Return how often an item is in it."""
        return list(self).count(item)

    def index(self, item: Any, *bounds: Any) -> int:
        """Return where an item is first."""
        return list(self).index(item, *bounds)

    def __repr__(self) -> str:
        return f"<{len(self)} tokens of {self._keys.shape[1]} numbers each for key and value>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)  # a copy is a plain list

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("these tokens are views of a trace and cannot be changed; list(tokens) can")

    append = extend = insert = pop = remove = clear = sort = reverse = _fixed
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _fixed

    def _item(self, i: int) -> dict[str, Any]:
        key, value = (rows[i].astype(np.float32).tolist() for rows in (self._keys, self._values))
        return {"token_idx": i, "key": key, "value": value}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its keys and of its values, [pos, d_head]."""
        return self._keys.shape

    def to_json(self) -> Iterator[str]:
        """Yield the list as JSON text, a token a line; see `as_json`."""
        return as_json([self])


def as_json(heads: Sequence[Positions]) -> Iterator[str]:
    """Yield the `tokens` of heads of the same shape as JSON text: all numbers are spelled in one go.

    Raises:
        InputError: a number is not finite, which JSON does not have.
    """
    pairs = [np.stack([head._keys, head._values], axis=1) for head in heads]
    both = np.concatenate(pairs, dtype=np.float32, casting="same_kind")  # [head * pos, 2, d_head]
    if not np.isfinite(both).all():
        raise InputError("keys or values are not finite: the weights are damaged or too large")
    lines = iter(rows_as_text(both.reshape(-1, both.shape[2])))
    for head in heads:
        tokens = (
            f'{{"token_idx": {i}, "key": [{next(lines)}], "value": [{next(lines)}]}}'
            for i in range(len(head))
        )
        yield "[\n" + ",\n".join(tokens) + "\n]"


def as_positions(tokens: Any) -> Positions | None:
    """Plain lists of one head's tokens as float32 arrays; None if it is something else, or has more in it."""
    if isinstance(tokens, Positions):
        return tokens
    if not isinstance(tokens, list) or not tokens:
        return None
    parts: dict[str, list[Any]] = {"key": [], "value": []}
    for i, item in enumerate(tokens):
        if not isinstance(item, dict) or item.keys() != {"token_idx", "key", "value"}:
            return None
        if type(item["token_idx"]) is not int or item["token_idx"] != i:
            return None
        for part, vectors in parts.items():
            vectors.append(_vector(item[part]))
    vectors = parts["key"] + parts["value"]
    if not all(isinstance(vector, np.ndarray) and vector.shape == vectors[0].shape for vector in vectors):
        return None
    return Positions(np.stack(parts["key"]), np.stack(parts["value"]))


def read_kv(path: str | PathLike[str], *, max_bytes: int | None = MAX_BYTES) -> KV:
    """Read a KV file: JSON, or a `.safetensors` or `.npz` file, of any dialect, that has keys and values.

    JSON and `.npz` are read into memory, of which they may take `max_bytes`; None: whatever they do. What
    JSON holds must be what its digest was made of, if it has one; `KV.check_digest` looks at other files.

    Raises:
        TraceError: it is missing, damaged, too large, or something else.
    """
    check_regular(path, TraceError)
    is_trace = Path(path).suffix == ".safetensors" or zipfile.is_zipfile(path)
    try:
        kv = _from_trace(path, max_bytes) if is_trace else _checked(_parsed(path, max_bytes))
        if not is_trace:  # all of it has been read
            kv.check_digest(path)
    except _Wrong as error:
        raise TraceError(f"{path}: {error}") from None
    check_unicode(path, [kv.model, kv.text, kv.tokens, kv.prediction, kv.fingerprint])
    return kv


def _from_trace(path: str | PathLike[str], max_bytes: int | None) -> KV:
    trace = read_dialect(Path(path), max_bytes=max_bytes)
    try:
        return KV.of(trace)
    except TraceError as error:
        raise _Wrong(f"is a trace without all keys and values: {error}") from None


def _parsed(path: str | PathLike[str], max_bytes: int | None) -> Any:
    """The content of a JSON file; entries of `tokens` are records."""
    size = os.path.getsize(path)
    _check_memory(_IN_MEMORY * size, max_bytes)
    raw = _ascii(read_bytes(path, TraceError, size), path)
    _check_memory(_memory_of(raw), max_bytes)
    text = raw.decode("ascii")
    del raw
    try:
        content = json.loads(text, object_hook=_record, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        if kind_of(path) == "a CSV file":
            raise _Wrong("is a CSV file, and those are not read back: take npz or safetensors") from None
        raise _Wrong(f"is not JSON, or cut short ({error})") from None
    if isinstance(content, dict) and content.get("schema") in (TRACE_SCHEMA, DIALECT_SCHEMA):
        raise _Wrong("is a trace as JSON, and those are not read back: take npz or safetensors")
    return content


def _ascii(raw: bytes, path: str | PathLike[str]) -> bytes:
    """The same JSON with escapes for what is not ASCII: one such character makes all of a text wider."""

    def escaped(match: re.Match[bytes]) -> bytes:
        return json.dumps(decoded(match[0], str(path), TraceError, match.start()))[1:-1].encode()

    return re.sub(rb"[\x80-\xff]+", escaped, raw.removeprefix(b"\xef\xbb\xbf"))


def _memory_of(raw: bytes) -> float:
    """Bytes that a JSON text may take at most: its own, and those of what is in its lists.

    A KV file has some hundred numbers in a list, which become an array as soon as the list ends.
    """
    records = raw.count(b'"token_idx"')
    lists = max(0, raw.count(b"[") + raw.count(b"{") - 3 * records)
    others = max(0, raw.count(b",") - raw.count(b'"key"') * _NUMBERS - 4 * records)
    return _IN_MEMORY * len(raw) + 600 * records + 250 * lists + 32 * others


def _check_memory(needed: float, most: int | None) -> None:
    if most is not None and needed > most:
        raise _Wrong(
            f"is JSON that may take {human_bytes(int(needed))} of memory, the limit is {human_bytes(most)}: "
            "--force (in Python max_bytes=None) reads it; a .safetensors file needs none"
        )


class _Wrong(Exception):
    """Something in a file that should not be there; the path is put in front where this is caught."""


@dataclass(frozen=True)
class _Record:
    """One entry of `tokens`; its vectors are arrays if they were lists of numbers."""

    token_idx: Any
    key: Any
    value: Any


def _record(item: dict[str, Any]) -> Any:
    """Turns such an entry into arrays as soon as it is read, so that no file becomes millions of objects."""
    if not {"token_idx", "key", "value"} <= item.keys():
        return item
    return _Record(item["token_idx"], _vector(item["key"]), _vector(item["value"]))


def _vector(given: Any) -> Any:
    if not isinstance(given, list) or not all(map(_is_of_numbers, set(map(type, given)))):
        return given
    try:
        array = np.array(given, np.float64)
    except OverflowError:
        return given
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _is_of_numbers(kind: type) -> bool:
    return issubclass(kind, int | float | np.integer | np.floating) and kind is not bool


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _expect(good: bool, where: str, expected: str, found: Any) -> None:
    if not good:
        raise _Wrong(f"{where}: expected {expected}, found {short(found)}")


def _checked(content: Any) -> KV:
    """What a document says, after a look at every key, number of entries and length."""
    _expect(isinstance(content, dict), "top level", "an object with model, input_tokens, kv_cache", content)
    for key in KEYS:
        if key not in content:
            raise _Wrong(f"is no KV cache file: it has no {short(key)}")
    schema, tokens, ids = (content.get(key) for key in ("schema", "input_tokens", "input_token_ids"))
    if schema is not None:
        _expect(schema == SCHEMA, "schema", repr(SCHEMA), schema)
    _expect(isinstance(content["model"], str), "model", "a name", content["model"])
    _expect(isinstance(content["input_text"], str | None), "input_text", "a text", content["input_text"])
    good = isinstance(tokens, list) and tokens and all(isinstance(token, str) for token in tokens)
    _expect(bool(good), "input_tokens", "a list of texts", tokens)
    good = ids is None or (isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids))
    _expect(good and (not ids or len(ids) == len(tokens)), "input_token_ids", f"{len(tokens)} ids", ids)
    fingerprint, digest = content.get("fingerprint"), content.get("digest")
    _expect(isinstance(fingerprint, str | None), "fingerprint", "a text", fingerprint)
    _expect(isinstance(digest, str | None), "digest", "a text", digest)
    prediction = content["predicted_next_token"]
    good = prediction is None or PREDICTION.accepts(prediction)
    _expect(good, "predicted_next_token", PREDICTION.expected, prediction)
    sizes = _sizes(content["metadata"], len(tokens))
    _check_members(content["kv_cache"], sizes)
    return KV(
        content["model"],
        tokens,
        _layers(content["kv_cache"], sizes),
        content["input_text"],
        ids or [],
        prediction,
        fingerprint,
        digest=digest,
        n_query_head=None if sizes.keys is None else sizes.n_query_head,
        keys=sizes.keys,
        sites=("attn.k_rot" if sizes.keys == ROTATED else "attn.k", "attn.v"),
        schema=schema,
    )


class _Sizes(NamedTuple):
    """What a document's `metadata` say; `n_head` are the heads that keys and values have."""

    n_layer: int
    n_query_head: int
    d_head: int
    length: int
    n_head: int
    keys: str | None


def _sizes(given: Any, length: int) -> _Sizes:
    names = ("n_layers", "n_heads", "d_head", "sequence_length")
    good = isinstance(given, dict) and all(type(given.get(name)) is int and given[name] > 0 for name in names)
    _expect(good, "metadata", f"{', '.join(names)} as whole numbers", given)
    n_layer, n_query_head, d_head, n = (given[name] for name in names)
    _expect(n == length, "metadata.sequence_length", f"{length} as in input_tokens", n)
    n_head, keys = given.get("n_kv_heads", n_query_head), given.get("keys")
    good = ("n_kv_heads" in given) == ("keys" in given) and isinstance(keys, str | None)
    good = good and type(n_head) is int and n_head > 0 and n_query_head % n_head == 0
    _expect(good, "metadata", "n_kv_heads, which divides n_heads, and keys, or none of these", given)
    return _Sizes(n_layer, n_query_head, d_head, n, n_head, keys)


def _check_members(cache: Any, sizes: _Sizes) -> None:
    """Refuse, before memory is taken for it, a document that has not what its `metadata` say."""
    for layer, heads in enumerate(_members(cache, "kv_cache", "layer", sizes.n_layer)):
        _members(heads, f"kv_cache.layer_{layer}", "head", sizes.n_head)
    entry = cache["layer_0"]["head_0"]
    records = entry.get("tokens") if isinstance(entry, dict) else None
    if isinstance(records, list) and records:
        _check_record(records[0], "kv_cache.layer_0.head_0.tokens[0]", 0, sizes.d_head)


def _layers(cache: Any, sizes: _Sizes) -> list[tuple[Array, Array]]:
    """Keys and values of each layer."""
    layers, shape = [], (sizes.length, sizes.n_head, sizes.d_head)
    for layer, heads in enumerate(_members(cache, "kv_cache", "layer", sizes.n_layer)):
        keys, values = (np.empty(shape, np.float32) for _ in "kv")
        where = f"kv_cache.layer_{layer}"
        for head, entry in enumerate(_members(heads, where, "head", sizes.n_head)):
            records = entry.get("tokens") if isinstance(entry, dict) else None
            place = f"{where}.head_{head}.tokens"
            good = isinstance(records, list) and len(records) == sizes.length
            _expect(good, place, f"{sizes.length} entries", records)
            for i, record in enumerate(records or ()):
                _check_record(record, f"{place}[{i}]", i, sizes.d_head)
                keys[i, head], values[i, head] = record.key, record.value
        layers.append((keys, values))
    return layers


def _members(given: Any, where: str, kind: str, n: int) -> list[Any]:
    """The values of `kind_0` to `kind_{n-1}`, which must be all there is."""
    good = isinstance(given, dict) and len(given) == n and all(f"{kind}_{i}" in given for i in range(n))
    _expect(good, where, f"{kind}_0 to {kind}_{n - 1}", list(given) if isinstance(given, dict) else given)
    return [given[f"{kind}_{i}"] for i in range(n)]


def _check_record(record: Any, where: str, i: int, d_head: int) -> None:
    _expect(isinstance(record, _Record), where, "token_idx, key and value", record)
    _expect(
        record.token_idx == i and type(record.token_idx) is int,
        f"{where}.token_idx",
        f"{i}",
        record.token_idx,
    )
    for part in ("key", "value"):
        vector = getattr(record, part)
        good = (
            isinstance(vector, np.ndarray) and vector.shape == (d_head,) and bool(np.isfinite(vector).all())
        )
        found = vector.tolist() if isinstance(vector, np.ndarray) else vector
        _expect(good, f"{where}.{part}", f"{d_head} numbers that float32 can hold", found)
