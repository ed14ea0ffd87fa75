"""The two tables of byte-level BPE, pieces and merges, read from a checkpoint's files and checked.

They are in vocab.json and merges.txt, or, as transformers 5 saves them, both in tokenizer.json.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gpt2np.errors import TokenizerError, short
from gpt2np.files import read_json, read_text

_T = TypeVar("_T", list[Any], dict[str, Any])
SURROGATE = re.compile("[\ud800-\udfff]")


def byte_characters() -> list[str]:
    """The printable character that stands for each of the 256 bytes in vocab.json and merges.txt.

    >>> byte_characters()[ord("A")], byte_characters()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class Vocabulary(NamedTuple):
    """Pieces to ids, pieces to ranks (256 bytes, then merges in file order), and what merges can make."""

    ids: dict[str, int]
    ranks: dict[str, int]
    made: frozenset[str]


def vocabulary_of_files(table: Path, merges: Path) -> Vocabulary:
    """The tables of a vocab.json and a merges.txt.

    Raises:
        TokenizerError: one cannot be read, or anything in it is wrong; it names the file and the entry.
    """
    return _vocabulary(table, read_object(table), merges, _merges_of_text(merges))


def vocabulary_of_model(file: Path, model: dict[str, Any]) -> Vocabulary:
    """The tables in the field `model` of a tokenizer.json.

    Raises:
        TokenizerError: anything in them is wrong; it names the file and the entry.
    """
    table, entries = field_of(file, model, "vocab", dict), field_of(file, model, "merges", list)
    return _vocabulary(file, table, file, _merges_of_model(file, entries))


def _vocabulary(
    table_file: Path, table: dict[str, Any], merges_file: Path, pairs: Iterator[tuple[str, str, str]]
) -> Vocabulary:
    ids = _checked_ids(table_file, table)
    merges = _checked_merges(pairs, ids, table_file)
    made = frozenset({*byte_characters(), *(left + right for left, right in merges)})
    return Vocabulary(ids, _ranks(merges_file, merges), made)


def read_object(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        TokenizerError: it cannot be read, is not JSON, or holds something else.
    """
    content = read_json(file, TokenizerError)
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def field_of(file: Path, content: dict[str, Any], key: str, kind: type[_T]) -> _T:
    """A field that holds a list or an object; an empty one where it is missing or null.

    Raises:
        TokenizerError: it holds something else.
    """
    value = content.get(key) or kind()
    if not isinstance(value, kind):
        raise TokenizerError(f"{file}: {key} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def checked_id(file: Path, text: str, id: object) -> int:
    """The id that a file gives a token.

    Raises:
        TokenizerError: it is no id, or the token's text is empty or not valid Unicode.
    """
    if type(id) is not int or not 0 <= id < 2**31:
        found = repr(id)[:40]
        raise TokenizerError(
            f"{file}: the id of {short(text)} is {found}, not an integer from 0 to 2147483647"
        )
    if text == "" or SURROGATE.search(text):
        raise TokenizerError(f"{file}: the token {short(text)} (id {id}) is empty or half a surrogate pair")
    return id


def _checked_ids(file: Path, table: dict[str, Any]) -> dict[str, int]:
    ids = {text: checked_id(file, text, id) for text, id in table.items()}
    owner: dict[int, str] = {}
    for text, id in ids.items():
        if owner.setdefault(id, text) != text:
            raise TokenizerError(f"{file}: {short(owner[id])} and {short(text)} have the same id {id}")
    missing = [f"0x{byte:02x}" for byte, char in enumerate(byte_characters()) if char not in ids]
    if missing:
        names = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise TokenizerError(f"{file} lacks {len(missing)} of the 256 single bytes: {names}")
    return ids


def _merges_of_text(file: Path) -> Iterator[tuple[str, str, str]]:
    """Where in merges.txt, and the two pieces."""
    for number, line in enumerate(read_text(file, TokenizerError).split("\n"), start=1):
        line = line.removesuffix("\r")
        if line == "" or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not (left and right) or " " in right:
            raise TokenizerError(f"{file} line {number}: {line[:60]!r} is not two pieces and a space between")
        yield f"{file} line {number}", left, right


def _merges_of_model(file: Path, entries: list[Any]) -> Iterator[tuple[str, str, str]]:
    """The same from tokenizer.json, where a merge is one string with a space or, newer, a list of two."""
    for number, entry in enumerate(entries):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) and p for p in pair):
            raise TokenizerError(f"{file}: model.merges[{number}] is {short(entry)}, not two pieces")
        yield f"{file}: model.merges[{number}]", *pair


def _checked_merges(
    pairs: Iterator[tuple[str, str, str]], ids: dict[str, int], file: Path
) -> list[tuple[str, str]]:
    known = set(byte_characters())
    merges = []
    for where, left, right in pairs:
        for piece in (left, right):
            if piece not in known:
                raise TokenizerError(f"{where}: {short(piece)} is no byte, and no earlier line makes it")
        if left + right not in ids:
            raise TokenizerError(f"{where}: its result {short(left + right)} is not in {file.name}")
        known.add(left + right)
        merges.append((left, right))
    return merges


def _ranks(file: Path, merges: list[tuple[str, str]]) -> dict[str, int]:
    """Rank of each piece: 256 bytes, then what merges make, without merges that can never happen.

    With these ranks tiktoken is exactly HF. A file that no training writes and that no ranks could stand for
    (it joins a piece that only a later line can really make) is refused.
    """
    ranks = {char: byte for byte, char in enumerate(byte_characters())}
    halves: dict[str, tuple[str, str]] = {}
    lacking: set[str] = set()
    for left, right in merges:
        whole = left + right
        lacking.update(piece for piece in (left, right) if piece not in ranks)
        if whole not in ranks and _can_meet(left, right, ranks, halves):
            if whole in lacking:
                raise TokenizerError(
                    f"{file}: a line that uses {short(whole)} is before '{left} {right}', which makes it"
                )
            ranks[whole] = len(ranks)
            halves[whole] = (left, right)
    return ranks


def _can_meet(left: str, right: str, ranks: dict[str, int], halves: dict[str, tuple[str, str]]) -> bool:
    """Whether encoding the text left + right ever comes to these two pieces side by side.

    tiktoken joins two pieces if the *result* has a rank, whatever merge made it; HF only if the *pair* is in
    merges.txt. The two agree once the results of merges that cannot happen have no rank. Undo the later join
    on either side of the border, again and again: had the two pieces that then meet there been joined first,
    left and right would never have come about. Among equal ranks the leftmost pair is joined first.
    """
    if left not in ranks or right not in ranks:
        return False
    while left in halves or right in halves:
        if ranks[left] > ranks[right]:
            limit, left = ranks[left], halves[left][1]
        else:
            limit, right = ranks[right] + 1, halves[right][0]
        if ranks.get(left + right, limit) < limit:
            return False
    return True
