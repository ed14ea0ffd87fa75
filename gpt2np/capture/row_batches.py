"""Batches of shuffled rows of a capture, read in large pieces, the same for the same seed.

An epoch takes the shards in a random order, some at a time. Their rows are cut into pieces of about a
megabyte, which are read in random order into a buffer; batches are drawn from the whole buffer at random. So
rows of one prompt are spread over as many others as the buffer holds, and the disk is read in long runs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt2np.capture.shard_reading import Column, Shards
from gpt2np.ops import Array

_PIECE = 1 << 20  # bytes of a column that are read in one go
_SHARDS = 16  # that are mixed with one another


class Piece(NamedTuple):
    """Rows `start` to `stop` of a shard."""

    shard: int
    start: int
    stop: int


def shuffled_batches(
    shards: Shards,
    columns: Sequence[Column],
    size: int,
    seed: int,
    epochs: int | None,
    buffer: int,
    drop_last: bool,
) -> Iterator[dict[str, Array]]:
    """Yield batches of `size` rows of these columns, each row once an epoch; see `Captured.batches`."""
    widths = [column.dtype.itemsize * int(np.prod(column.row, dtype=np.int64)) for column in columns]
    rows = min(max(buffer // (sum(widths) * size), 1) * size, max(shards.n_rows, 1))
    held = {column.name: np.empty((rows, *column.row), column.dtype) for column in columns}
    for epoch in itertools.count() if epochs is None else range(epochs):
        rng = np.random.default_rng((seed, epoch))
        pieces = shuffled_pieces([s.rows for s in shards.there], max(_PIECE // max(widths), 1), rng)
        parts = filled(pieces, rows)
        coming = next(parts, None)
        while coming is not None:
            n = _read(shards, columns, coming, held)
            coming = next(parts, None)
            _announce(shards, columns, coming or ())
            order = rng.permutation(n)
            for at in range(0, n - n % size if drop_last else n, size):
                chosen = order[at : at + size]
                yield {name: array.take(chosen, axis=0) for name, array in held.items()}


def shuffled_pieces(rows: Sequence[int], most: int, rng: np.random.Generator) -> Iterator[Piece]:
    """Yield all rows of shards of so many rows, in pieces of at most `most`: some shards at a time, mixed."""
    order = rng.permutation(len(rows)).tolist()
    for first in range(0, len(order), _SHARDS):
        group = order[first : first + _SHARDS]
        pieces = [
            Piece(shard, start, min(start + most, rows[shard]))
            for shard in group
            for start in range(0, rows[shard], most)
        ]
        yield from (pieces[i] for i in rng.permutation(len(pieces)).tolist())


def filled(pieces: Iterable[Piece], rows: int) -> Iterator[list[Piece]]:
    """Yield the pieces in lists of exactly so many rows each, the last one of fewer; cuts some in two.

    Example:
        >>> list(filled([Piece(0, 0, 5), Piece(1, 0, 5)], 8))
        [[Piece(0, 0, 5), Piece(1, 0, 3)], [Piece(1, 3, 5)]]
    """
    part: list[Piece] = []
    room = rows
    for shard, start, stop in pieces:
        while start < stop:
            taken = min(room, stop - start)
            part.append(Piece(shard, start, start + taken))
            start, room = start + taken, room - taken
            if room == 0:
                yield part
                part, room = [], rows
    if part:
        yield part


def _read(shards: Shards, columns: Sequence[Column], pieces: Sequence[Piece], held: dict[str, Array]) -> int:
    """Copy pieces into the buffer one behind the other; returns the number of rows."""
    at = 0
    for number, start, stop in pieces:
        shard, n = shards.open(number), stop - start
        for column in columns:
            place = held[column.name][at : at + n]
            if column.name in shards.manifest.sites:
                shard.read_rows(column.name, start, place)
            else:
                place[...] = column.of(shard, slice(start, stop))
        at += n
    return at


def _announce(shards: Shards, columns: Sequence[Column], pieces: Iterable[Piece]) -> None:
    """Have the system read pieces while others are being used."""
    for number, start, stop in pieces:
        for column in columns:
            if column.name in shards.manifest.sites:
                shards.open(number).announce(column.name, start, stop)
