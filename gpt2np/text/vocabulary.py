"""Reads and checks what a Tokenizer is made of: a checkpoint's vocab.json, merges.txt and added tokens.

Where both are absent, as in a folder saved by transformers 5, tokenizer.json holds the same two tables.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpt2np.errors import TokenizerError, short

_T = TypeVar("_T", list[Any], dict[str, Any])
SURROGATE = re.compile("[\ud800-\udfff]")

# What tokenizer.json must say for GPT-2's words and merges to be all that happens to a text.
_PLAIN: dict[str, tuple[object, ...]] = {
    ".normalizer": (None,),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False, None),
    "pre_tokenizer.use_regex": (True, None),
    "model.type": ("BPE", None),  # the first versions did not write it
    "model.dropout": (None, 0.0),
    "model.continuing_subword_prefix": ("", None),
    "model.end_of_word_suffix": ("", None),
    "model.ignore_merges": (False, None),
}


def byte_characters() -> list[str]:
    """The printable character that stands for each of the 256 bytes in vocab.json and merges.txt.

    >>> byte_characters()[ord("A")], byte_characters()[ord(" ")]
    ('A', 'Ġ')
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclass(frozen=True)
class AddedToken:
    """A token that merges do not make: matched as a whole, before the text is cut into words.

    `lstrip` and `rstrip` let it swallow the white space on that side, `single_word` keeps it from matching
    inside a word, `normalized` tokens are looked for after all others, `special` ones only on request.
    """

    text: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Pieces to ids, pieces to ranks (256 bytes, then merges in file order), texts to added tokens."""

    ids: dict[str, int]
    ranks: dict[str, int]
    added: dict[str, AddedToken]


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read a checkpoint folder; None if it has neither vocab.json and merges.txt nor tokenizer.json.

    Raises TokenizerError, naming the file, if one of the two is missing or anything in them is wrong.
    """
    files = [folder / "vocab.json", folder / "merges.txt"]
    missing = [file.name for file in files if not file.exists()]
    whole = folder / "tokenizer.json"
    if len(missing) == 2 and not whole.exists():
        return None
    if len(missing) == 1:
        raise TokenizerError(f"{folder} has no {missing[0]}: a tokenizer needs vocab.json and merges.txt")
    if missing:
        files = [whole, whole]
        table, entries = _read_model(whole)
        pairs = _merges_of_model(whole, entries)
    else:
        table, pairs = _read_json(files[0]), _merges_of_text(files[1])
    ids = _checked_ids(files[0], table)
    merges = _checked_merges(pairs, ids, files[0])
    made = {*byte_characters(), *(left + right for left, right in merges)}
    return Vocabulary(ids, _ranks(files[1], merges), _read_added(folder, ids, made))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file} cannot be read: {error}") from None


def _read_json(file: Path) -> dict[str, Any]:
    text = _read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def _checked_id(file: Path, text: str, id: object) -> int:
    if type(id) is not int or not 0 <= id < 2**31:
        found = repr(id)[:40]
        raise TokenizerError(
            f"{file}: the id of {short(text)} is {found}, not an integer from 0 to 2147483647"
        )
    if text == "" or SURROGATE.search(text):
        raise TokenizerError(f"{file}: the token {short(text)} (id {id}) is empty or half a surrogate pair")
    return id


def _read_model(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """The two tables of a tokenizer.json, which must do to a text what GPT-2 does."""
    whole = _read_json(file)
    parts = {"": whole} | {key: _optional(file, whole, key, dict) for key in ("pre_tokenizer", "model")}
    for field, allowed in _PLAIN.items():
        part, _, key = field.partition(".")
        if (found := parts[part].get(key)) not in allowed:
            name, expected = field.lstrip("."), f"expected {allowed[0]!r}"
            raise TokenizerError(f"{file}: {name} is {short(found)}, {expected}: not GPT-2's tokenizer")
    model = parts["model"]
    return _optional(file, model, "vocab", dict), _optional(file, model, "merges", list)


def _checked_ids(file: Path, table: dict[str, Any]) -> dict[str, int]:
    ids = {text: _checked_id(file, text, id) for text, id in table.items()}
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
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
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


def _read_added(folder: Path, ids: dict[str, int], made: set[str]) -> dict[str, AddedToken]:
    """Tokens of vocab.json that no merge makes (special), and what three optional files declare."""
    added = {text: AddedToken(text, id, special=True) for text, id in ids.items() if text not in made}
    ids, owner = dict(ids), {id: text for text, id in ids.items()}
    for file, token in _declared(folder):
        text, id = token.text, token.id
        if ids.setdefault(text, id) != id:
            raise TokenizerError(f"{file}: {short(text)} has id {id}, but {ids[text]} elsewhere")
        if owner.setdefault(id, text) != text:
            raise TokenizerError(
                f"{file}: {short(text)} has id {id}, but so has {short(owner[id])} elsewhere"
            )
        added[text] = token
    return added


def _declared(folder: Path) -> Iterator[tuple[Path, AddedToken]]:
    """What added_tokens.json, tokenizer.json and tokenizer_config.json declare; the last word counts."""
    files = [folder / f"{name}.json" for name in ("added_tokens", "tokenizer", "tokenizer_config")]
    plain, whole, config = [_read_json(file) if file.exists() else {} for file in files]
    roles = [value for key, value in config.items() if key.endswith("_token")]  # "eos_token" and the like
    roles += _optional(files[2], config, "additional_special_tokens", list)
    special = [role.get("content") if isinstance(role, dict) else role for role in roles]
    for text, id in plain.items():
        yield files[0], _added_token(files[0], {"content": text, "id": id, "special": text in special})
    for entry in _optional(files[1], whole, "added_tokens", list):
        yield files[1], _added_token(files[1], entry)
    for key, entry in _optional(files[2], config, "added_tokens_decoder", dict).items():
        id = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else key
        yield files[2], _added_token(files[2], {**entry, "id": id} if isinstance(entry, dict) else entry)


def _optional(file: Path, content: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = content.get(key) or kind()
    if not isinstance(value, kind):
        raise TokenizerError(f"{file}: {key} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def _added_token(file: Path, entry: object) -> AddedToken:
    text = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(text, str):
        raise TokenizerError(f"{file}: {short(entry)} is no added token: an object with content and id")
    flags = {name: bool(entry.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
    normalized = bool(entry.get("normalized", not flags["special"]))
    return AddedToken(text, _checked_id(file, text, entry.get("id")), **flags, normalized=normalized)
