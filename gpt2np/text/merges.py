"""How byte-level BPE makes a token: which pairs of pieces are joined, in which order."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple


class Merge(NamedTuple):
    """One join: the line of merges.txt that says so, counted from 1, and the pieces that there are then."""

    number: int
    pieces: list[str]


def merges_of(token: bytes, ranks: Mapping[bytes, int], spelling: list[str]) -> list[Merge]:
    """The joins that make a token out of its single bytes, the first line of merges.txt first.

    `ranks` has the 256 bytes and then every join, `spelling` the character of each byte. Pairs that
    go beyond a token are never joined, so the bytes of a token alone are joined as they are in a text.

    Example:
        >>> merges_of(b"the", {b"th": 256, b"the": 257}, [chr(i) for i in range(256)])
        [Merge(number=1, pieces=['th', 'e']), Merge(number=2, pieces=['the'])]
    """
    pieces, found = [token[i : i + 1] for i in range(len(token))], list[Merge]()
    while True:
        joined = [(ranks.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(pieces))]
        possible = [(rank, i) for rank, i in joined if rank is not None]
        if not possible:
            return found
        rank, at = min(possible)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        found.append(Merge(rank - 255, ["".join(spelling[byte] for byte in piece) for piece in pieces]))
