r"""What a reader is shown of tokens that are parts of a character, whose bytes are written as `\xe6`."""

import re
from collections.abc import Sequence
from itertools import accumulate

# A byte of an incomplete character, as `Tokenizer.tokens` shows it.
_SHOWN = re.compile(rb"\\x([89a-f][0-9a-f])")


def bytes_shown(token: str) -> bytes:
    r"""The bytes that a token stands for, those of incomplete characters written as `\xe6`."""
    written = token.encode("utf-8", "surrogatepass")
    return _SHOWN.sub(lambda found: bytes([int(found[1], 16)]), written)


def joined(tokens: Sequence[str]) -> str:
    r"""The text of tokens in a row, whose parts of characters are put together where all are there.

    >>> joined(["a", "\\xe6", "\\x97", "\\xa5", "\\xe6"])
    'a日\\xe6'
    """
    return b"".join(map(bytes_shown, tokens)).decode("utf-8", "backslashreplace")


def readable(tokens: Sequence[str]) -> list[str]:
    r"""Each token of a text as it is shown: of a part of a character, the character and which part it is.

    A character that cannot be seen is named, as in `\u200d 1/3`.

    >>> readable([" ", "\\xe6", "\\x97", "\\xa5", "\\xe6"])
    [' ', '日 1/3', '日 2/3', '日 3/3', '\\xe6']
    """
    pieces = [bytes_shown(token) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    characters = b"".join(pieces).decode("utf-8", "surrogateescape")
    parts: list[list[str]] = [[] for _ in tokens]
    at = first = 0
    for character in characters:
        end = at + len(character.encode("utf-8", "surrogateescape"))
        while ends[first] <= at:
            first += 1
        last = first
        while ends[last] < end:
            last += 1
        holders = [i for i in range(first, last + 1) if pieces[i]]
        for number, i in enumerate(holders, 1):
            whole = len(holders) == 1
            parts[i].append(character if whole else f"{_named(character)} {number}/{len(holders)}")
        at = end
    shown = ["".join(found) for found in parts]
    return [
        text if text.isprintable() and "\\x" in token else token
        for token, text in zip(tokens, shown, strict=True)
    ]


def _named(character: str) -> str:
    return character if character.isprintable() else f"\\u{ord(character):04x}"
