"""How numbers travel inside the page: one block of bytes, and what makes it smaller.

The block is gzip over: the length of a JSON header (4 bytes, little-endian), the header, and the arrays one
behind the other, each at a multiple of 8. `static/run_data.js` reads it. In the page it is base64, which has
no character that could end a `<script>`.
"""

import base64
import functools
import gzip
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.tables import strict_json

KINDS = {"f4": "<f4", "f2": "<f2", "i1": "|i1", "u1": "|u1", "u2": "<u2", "u4": "<u4"}
_GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # how a gzip begins that has no time and no name
_LAST = b"\3\0"  # a block of nothing, with which compressed data end
POWER = 3  # vectors are stored as cube roots: one large component leaves the small ones visible
WEIGHT_POWER = 2  # attention weights as square roots


def pack(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Header and arrays as base64 text; the kinds of arrays are those of `KINDS`."""
    return Packer().pack(header, arrays)


class Packer:
    """Packs several times what only grows: arrays that were packed before are not compressed again."""

    def __init__(self) -> None:
        self._index: dict[str, dict[str, Any]] = {}
        self._blocks: list[tuple[bytes, bytes]] = []  # some arrays one behind the other, and compressed
        self._length = 0

    def pack(self, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
        """Header and arrays as base64 text; the arrays packed before come first, and are the same."""
        self._take({name: array for name, array in arrays.items() if name not in self._index})
        text = strict_json({**header, "arrays": self._index}, indent=None).encode("utf-8")
        text += b" " * (-(len(text) + 4) % 8)
        head = len(text).to_bytes(4, "little") + text
        blocks = [(head, _deflated(head)), *self._blocks]
        check = functools.reduce(lambda before, block: zlib.crc32(block[0], before), blocks, 0)
        tail = struct.pack("<II", check, sum(len(raw) for raw, _ in blocks) % 2**32)
        whole = b"".join([_GZIP, *(small for _, small in blocks), _LAST, tail])
        return base64.b64encode(whole).decode("ascii")

    def _take(self, arrays: Mapping[str, Array]) -> None:
        parts = []
        for name, array in arrays.items():
            kind = next(k for k, dtype in KINDS.items() if np.dtype(dtype) == array.dtype)
            data = np.ascontiguousarray(array, KINDS[kind]).tobytes()
            self._index[name] = {"kind": kind, "shape": list(array.shape), "offset": self._length}
            parts.append(data + bytes(-len(data) % 8))
            self._length += len(parts[-1])
        block = b"".join(parts)
        self._blocks.append((block, _deflated(block)))


def _deflated(data: bytes) -> bytes:
    """Compressed so that others can follow."""
    stream = zlib.compressobj(6, wbits=-15)
    return stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH)


def unpack(text: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `pack` was given: the same that the page decodes."""
    block = gzip.decompress(base64.b64decode(text))
    n = int.from_bytes(block[:4], "little")
    header = json.loads(block[4 : 4 + n])
    arrays = {}
    for name, facts in header.pop("arrays").items():
        dtype = np.dtype(KINDS[facts["kind"]])
        count, start = math.prod(facts["shape"]), 4 + n + facts["offset"]
        arrays[name] = np.frombuffer(block, dtype, count, start).reshape(facts["shape"])
    return header, arrays


def shrink(x: Array, cells: int) -> Array:
    """At most so many cells for a vector [..., n]: of each group the component of the largest magnitude.

    Example:
        >>> shrink(np.array([1.0, -3.0, 2.0, 0.5]), 2)
        array([-3.,  2.])
    """
    factor = factor_of(x.shape[-1], cells)
    if factor == 1:
        return x
    missing = -x.shape[-1] % factor
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
    groups = padded.reshape(*x.shape[:-1], -1, factor)
    best = np.abs(np.nan_to_num(groups)).argmax(axis=-1, keepdims=True)
    return np.asarray(np.take_along_axis(groups, best, -1)[..., 0])


def factor_of(n: int, cells: int) -> int:
    """How many components share a cell."""
    return -(-n // cells)


def quantise(x: Array) -> tuple[Array, Array]:
    """Vectors [..., n] as bytes, and the largest magnitude [...]: x = scale * sign(q) * |q / 127| ** 3."""
    finite = np.nan_to_num(x.astype(np.float32), nan=0.0, posinf=3e38, neginf=-3e38)
    scale = np.abs(finite).max(axis=-1)
    relative = finite / np.where(scale > 0, scale, 1)[..., None]
    q = np.sign(relative) * np.rint(127 * np.abs(relative) ** (1 / POWER))
    return q.astype(np.int8), scale.astype(np.float32)


def strip_of(x: Array, cells: int, floats: bool) -> dict[str, Array]:
    """Vectors as cells: float16, or bytes and in `:scale` what one of them means."""
    small = shrink(x, cells)
    if floats:
        return {"": np.clip(small, -65504, 65504).astype(np.float16)}
    q, scale = quantise(small)
    return {"": q, ":scale": scale}


def restore(q: Array, scale: Array) -> Array:
    """What the page makes of `quantise`'s result."""
    relative = q.astype(np.float64) / 127
    return np.asarray(np.sign(relative) * np.abs(relative) ** POWER * scale[..., None])


def quantise_weights(weights: Array, kind: str) -> Array:
    """Numbers from 0 to 1 as `f4`, as `u2` evenly, or as `u1` by their square roots."""
    if kind == "f4":
        return weights.astype(np.float32)
    clean = np.clip(np.nan_to_num(weights.astype(np.float64)), 0, 1)
    if kind == "u2":
        return np.rint(clean * 65535).astype(np.uint16)
    return np.rint(255 * clean ** (1 / WEIGHT_POWER)).astype(np.uint8)


def restore_weights(stored: Array) -> Array:
    """What the page makes of `quantise_weights`' result."""
    if stored.dtype == np.uint16:
        return np.asarray(stored / 65535)
    return np.asarray((stored / 255) ** WEIGHT_POWER) if stored.dtype == np.uint8 else stored
