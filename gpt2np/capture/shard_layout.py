"""What lies in a shard, and in which order; its exact size before it is made.

Each kept site is an array `[rows, ...]`, the rows of one prompt after those of another; attention scores and
patterns, whose rows have a length of their own, are flat. Beside them lie `row_offsets`, `token_offsets`,
`token_ids` and `positions`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt2np import tensorfile
from gpt2np.ops import Array
from gpt2np.tracing.plan import Entry

SCHEMA = "gpt2np.captured/1"
ROW_OFFSETS, TOKEN_OFFSETS = "row_offsets", "token_offsets"  # [prompts + 1] int64
TOKEN_IDS, POSITIONS = "token_ids", "positions"  # [tokens], [rows] int32


class Layout(NamedTuple):
    """The arrays of a shard as its file has them, and what its header says."""

    arrays: list[tuple[str, np.dtype[np.generic], tuple[int, ...]]]
    metadata: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return tensorfile.file_bytes(self.arrays, self.metadata)


def layout(
    entries: Sequence[Entry], lengths: Array, kept: Sequence[range], number: int, fingerprint: str
) -> Layout:
    """Return the layout of a shard, whose prompts have these lengths and kept positions."""
    n_rows = sum(map(len, kept))
    squares = int(flat_offsets(lengths, kept, 1)[-1])
    arrays: list[tuple[str, np.dtype[np.generic], tuple[int, ...]]] = [
        (ROW_OFFSETS, np.dtype(np.int64), (len(lengths) + 1,)),
        (TOKEN_OFFSETS, np.dtype(np.int64), (len(lengths) + 1,)),
        (TOKEN_IDS, np.dtype(np.int32), (int(lengths.sum()),)),
        (POSITIONS, np.dtype(np.int32), (n_rows,)),
    ]
    for entry in entries:
        shape = (squares * entry.shape[0],) if entry.site.quadratic else (n_rows, *entry.shape[1:])
        arrays.append((entry.name, entry.dtype, shape))
    arrays.sort(key=lambda array: -array[1].itemsize)  # what is wide first: else it would not be aligned
    return Layout(arrays, {"schema": SCHEMA, "fingerprint": fingerprint, "shard": str(number)})


def flat_offsets(lengths: Array, kept: Sequence[range], n_head: int) -> Array:
    """Return where the [query, head, key] of each prompt begins in a flat array: [prompts + 1]."""
    sizes = [len(k) * n_head * n for k, n in zip(kept, lengths.tolist(), strict=True)]
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def row_offsets(kept: Sequence[range]) -> Array:
    """Return where the rows of each prompt begin: [prompts + 1]."""
    return np.concatenate(([0], np.cumsum([len(k) for k in kept]))).astype(np.int64)


def row_shape(entry: Entry) -> list[int]:
    """Return the shape of a row as the manifest says it; of attention, whose rows end in keys, the heads."""
    return [entry.shape[0]] if entry.site.quadratic else list(entry.shape[1:])
