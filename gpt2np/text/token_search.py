"""Where a text stands among tokens, whose ends need not be ends of characters.

Tokens are searched as their bytes: `日` may be three tokens of a byte each, an emoji four. What is only known
as text, such as the tokens in a file, becomes bytes again first.
"""

from collections.abc import Sequence

import numpy as np

from gpt2np.characters import bytes_shown
from gpt2np.text.vocabulary import byte_characters

_BYTE_OF = {char: byte for byte, char in enumerate(byte_characters())}


def find_text(text: str, tokens: Sequence[str], whole: str | None = None) -> list[range]:
    r"""The tokens that contain a text, whatever its case, or that spell it together; in order, none twice.

    `whole` is the text of all tokens, where it is known. A token may be written as itself, with escapes for
    bytes of incomplete characters, or in the spelling of GPT-2's vocabulary. A text that stands nowhere is
    looked for as tokens are written: `\xe6`, `Ġ` or `<50300>`.

    >>> find_text("本", ["日", "\\xe6", "\\x9c", "\\xac"])
    [range(1, 4)]
    """
    folded = text.casefold()
    if not folded:
        return []
    pieces = bytes_of_tokens(tokens, whole)
    characters = b"".join(pieces).decode("utf-8", "surrogateescape")  # a stray byte is one character
    parts = [character.casefold() for character in characters]
    starts_of_parts = _starts([len(part) for part in parts])
    starts_of_bytes = _starts([len(c.encode("utf-8", "surrogateescape")) for c in characters])
    starts_of_tokens = _starts([len(piece) for piece in pieces])
    found: list[range] = []
    haystack, at = "".join(parts), -1
    while (at := haystack.find(folded, at + 1)) >= 0:
        first, last = _places(starts_of_parts, at, at + len(folded) - 1)
        begin, end = starts_of_bytes[first], starts_of_bytes[last + 1] - 1
        first, last = _places(starts_of_tokens, begin, end)
        if not found or found[-1] != range(first, last + 1):
            found.append(range(first, last + 1))
    return found or [range(i, i + 1) for i, token in enumerate(tokens) if folded in token.casefold()]


def bytes_of_tokens(tokens: Sequence[str], whole: str | None = None) -> list[bytes]:
    """The bytes that each token stands for, by how it is written, and by the text where that is known.

    Tokens written with U+FFFD, as some programs write parts of characters, share what the text has there.
    """
    text, at = (whole or "").encode("utf-8", "surrogatepass"), 0
    pieces: list[bytes] = []
    unknown = 0  # how many of the last pieces only the text can tell
    for token in tokens:
        readings = _readings(token)
        places = [text.find(piece, at + unknown) if unknown else at for piece in readings]
        fits = [i for i, piece in enumerate(readings) if places[i] >= 0 and text.startswith(piece, places[i])]
        if fits:
            i = fits[0]
            _share(pieces, unknown, text[at : places[i]])
            at, unknown = places[i] + len(readings[i]), 0
            pieces.append(readings[i])
        else:
            unknown = unknown + 1 if whole is not None and "\ufffd" in token else 0
            pieces.append(readings[1])
    _share(pieces, unknown, text[at:])
    return pieces


def _readings(token: str) -> tuple[bytes, bytes, bytes]:
    """What a token may stand for: itself, what its escapes say, and what it spells in GPT-2's vocabulary."""
    written = token.encode("utf-8", "surrogatepass")
    spelled = bytes([_BYTE_OF[c] for c in token]) if all(c in _BYTE_OF for c in token) else written
    return written, bytes_shown(token), spelled


def _share(pieces: list[bytes], n: int, rest: bytes) -> None:
    """Give the last n pieces a byte of the text each, and the last of them what is left."""
    for i in range(n):
        pieces[len(pieces) - n + i] = rest[i : i + 1] if i < n - 1 else rest[i:]


def _starts(lengths: Sequence[int]) -> list[int]:
    """Where each part begins, and where the last one ends."""
    return [0, *np.cumsum(lengths, dtype=np.int64).tolist()]


def _places(starts: Sequence[int], first: int, last: int) -> list[int]:
    """The parts in which two positions are; a part of no length holds none."""
    found: list[int] = (np.searchsorted(starts, [first, last], side="right") - 1).tolist()
    return found
