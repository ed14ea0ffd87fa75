"""How numbers travel inside the page: one block of bytes, and what makes it smaller.

The block is gzip over: the length of a JSON header (4 bytes, little-endian), the header, and the arrays one
behind the other, each at a multiple of 8. `static/run_data.js` reads it. In the page it is base64, which has
no character that could end a `<script>`.
"""

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.tables import strict_json

KINDS = {"f4": "<f4", "f2": "<f2", "i1": "|i1", "u1": "|u1", "u2": "<u2", "u4": "<u4"}
POWER = 3  # vectors are stored as cube roots: one large component leaves the small ones visible
WEIGHT_POWER = 2  # attention weights as square roots


def pack(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Header and arrays as base64 text; the kinds of arrays are those of `KINDS`."""
    index, parts, offset = {}, [], 0
    for name, array in arrays.items():
        kind = next(k for k, dtype in KINDS.items() if np.dtype(dtype) == array.dtype)
        data = np.ascontiguousarray(array, KINDS[kind]).tobytes()
        index[name] = {"kind": kind, "shape": list(array.shape), "offset": offset}
        padding = -len(data) % 8
        parts.append(data + bytes(padding))
        offset += len(data) + padding
    text = strict_json({**header, "arrays": index}, indent=None).encode("utf-8")
    text += b" " * (-(len(text) + 4) % 8)
    block = b"".join([len(text).to_bytes(4, "little"), text, *parts])
    return base64.b64encode(gzip.compress(block, 6, mtime=0)).decode("ascii")


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
