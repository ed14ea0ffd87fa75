"""Somebody's token ids against the tokenizer's: where they part, and why."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from gpt2np.errors import InputError, short
from gpt2np.files import read_bytes
from gpt2np.reference.dump_formats import read_npy
from gpt2np.tables import first_lines

Ids = str | os.PathLike[str] | Iterable[Any]  # a file, `464,3139`, or a list

_AROUND = 3  # tokens shown on either side of where they part


class TokenizerLike(Protocol):
    """What is needed of `gpt2np.text.tokenizer.Tokenizer`."""

    n_vocab: int
    end_of_text_id: int | None

    def encode(self, text: str, *, special: bool = False, ends: bool = True) -> list[int]:
        """Ids of a text."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of these tokens."""

    def tokens(self, ids: Iterable[int], *, marked: bool = False) -> list[str]:
        """One readable string for each id."""


@dataclass(frozen=True)
class TokenComparison:
    """Two tokenizations of one text.

    `index` is the first token that differs, None if they are equal; `character` where in the text the tokens
    before it end. `ours` and `theirs` are (index, id, token) around it, `reasons` what would explain it.
    """

    equal: bool
    text: str
    n_ours: int
    n_theirs: int
    index: int | None = None
    character: int | None = None
    ours: tuple[tuple[int, int, str], ...] = ()
    theirs: tuple[tuple[int, int, str], ...] = ()
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        return asdict(self)

    def __repr__(self) -> str:
        return first_lines(str(self))

    def __str__(self) -> str:
        if self.equal:
            return f"tokens: the same {self.n_ours} ids"
        at, char = self.index or 0, self.character or 0
        lines = [
            f"tokens: they part at token {at} (ours {self.n_ours}, theirs {self.n_theirs}), "
            f"at character {char}: {self.text[char : char + 30]!r}"
        ]
        for who, around in (("ours", self.ours), ("theirs", self.theirs)):
            shown = " ".join(f"{'>' if i == at else ''}{id}{token!r}" for i, id, token in around)
            lines.append(f"  {who:<6} {shown or '(no more)'}")
        return "\n".join(lines + [f"  {reason}" for reason in self.reasons])


def compare_tokens(tokenizer: TokenizerLike, text: str, their_ids: Ids) -> TokenComparison:
    """Compare ids that somebody's tokenizer gave for a text with ours; `read_token_ids` reads them.

    Raises:
        InputError: theirs cannot be read, or holds anything but whole numbers from 0.

    Example:
        >>> compare_tokens(model.tokenizer, "Hello there", [15496, 220, 612]).index
        1
    """
    theirs, ours = read_token_ids(their_ids), tokenizer.encode(text)
    special = tokenizer.encode(text, special=True)
    if theirs in (ours, special):
        return TokenComparison(True, text, len(theirs), len(theirs))
    index = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    index = min(len(ours), len(theirs)) if index is None else index
    before = tokenizer.decode_bytes(ours[:index])
    return TokenComparison(
        False,
        text,
        len(ours),
        len(theirs),
        index,
        len(before.decode(errors="ignore")),
        _around(tokenizer, ours, index),
        _around(tokenizer, theirs, index),
        tuple(_reasons(tokenizer, text, ours, theirs)),
    )


def read_token_ids(given: Ids) -> list[int]:
    """Ids as somebody has them: a list, `464,3139`, or a file.

    A file is JSON (a list, or an object with one under `ids`, `input_ids`, `token_ids` or `tokens`), text,
    `.npy`, or bare int32 or uint16 numbers (`.bin`; llm.c's token file is known by its header).

    Raises:
        InputError: it cannot be read, or holds anything but whole numbers from 0.
    """
    if isinstance(given, os.PathLike) or (isinstance(given, str) and not _is_list(given)):
        where = os.fspath(given)
        ids = _read_file(where)
    else:
        where = "token ids"
        ids = _numbers_of(given, where) if isinstance(given, str) else list(given)
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind not in "iu":
            raise InputError(f"{where}: token ids must be whole numbers, found {ids.dtype}")
        ids = ids.reshape(-1).tolist()
    ids = [i.item() if isinstance(i, np.integer) else i for i in ids]
    if not ids or not all(type(i) is int and i >= 0 for i in ids):
        wrong = next((i for i in ids if type(i) is not int or i < 0), None)
        raise InputError(f"{where}: expected token ids, whole numbers from 0, found {short(wrong or ids)}")
    return ids


def _is_list(text: str) -> bool:
    return bool(re.fullmatch(r"[\s\d,;\[\]]*\d[\s\d,;\[\]]*", text)) and not os.path.exists(text)


def _numbers_of(text: str, where: str) -> list[int]:
    """Whole numbers with anything but letters, digits and signs between them."""
    words = [word for word in re.split(r"[\s,;\[\]()]+", text) if word]
    for word in words:
        if not re.fullmatch(r"\d{1,18}", word):
            raise InputError(f"{where}: expected token ids, whole numbers from 0, found {short(word)}")
    return [int(word) for word in words]


def _read_file(path: str) -> Any:
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such file, and no list of ids")
    data = read_bytes(path)
    if data.startswith(b"\x93NUMPY"):
        return read_npy(path, "token ids")[0]
    if re.fullmatch(rb"[\x20-\x7e\s]*", data[:4096].removeprefix(b"\xef\xbb\xbf")):
        return _of_text(data.decode("utf-8-sig", errors="replace"), path)
    return _of_bytes(data, path)


def _of_text(text: str, path: str) -> Any:
    if text.lstrip()[:1] not in ("[", "{"):
        return _numbers_of(text, path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    if isinstance(found, dict):
        found = next(
            (found[key] for key in ("ids", "input_ids", "token_ids", "tokens") if key in found), None
        )
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        found = found[0]  # a batch of one
    if not isinstance(found, list):
        raise InputError(f"{path}: expected a JSON list of token ids")
    return found


def _of_bytes(data: bytes, path: str) -> Any:
    """Bare numbers: int32 where every fourth byte is zero, as it is for ids below 16 million, else uint16."""
    if data[:4] == (20240520).to_bytes(4, "little"):  # llm.c's token file: 256 int32, then uint16
        return np.frombuffer(data[1024 : len(data) // 2 * 2], "<u2")
    if len(data) % 4 == 0 and not any(data[3::4]):
        return np.frombuffer(data, "<i4")
    if len(data) % 2 == 0:
        return np.frombuffer(data, "<u2")
    raise InputError(f"{path}: {len(data):,} bytes are neither int32 nor uint16 token ids")


def _around(tokenizer: TokenizerLike, ids: list[int], index: int) -> tuple[tuple[int, int, str], ...]:
    span = range(max(0, index - _AROUND), min(len(ids), index + _AROUND + 1))
    return tuple((i, ids[i], tokenizer.tokens([ids[i]])[0]) for i in span)


def _reasons(tokenizer: TokenizerLike, text: str, ours: list[int], theirs: list[int]) -> Iterable[str]:
    """What would explain the difference, the surest first."""
    end = tokenizer.end_of_text_id
    stripped = list(theirs)
    where = []
    if end is not None and stripped[:1] == [end] != ours[:1]:
        stripped, where = stripped[1:], ["in front"]
    if end is not None and stripped[-1:] == [end] != ours[-1:]:
        stripped, where = stripped[:-1], [*where, "at the end"]
    if where:
        same = "; the rest is the same" if stripped == ours else ""
        yield f"theirs has <|endoftext|> (id {end}) {' and '.join(where)}{same}"
        if stripped == ours:
            return
    outside = next((i for i in stripped if i >= tokenizer.n_vocab), None)
    if outside is not None:
        last = tokenizer.n_vocab - 1
        yield f"theirs has id {outside}, and the vocabulary ends at {last}: another vocabulary"
        return
    if theirs == tokenizer.encode(text, ends=False):
        yield "theirs lacks the tokens that this checkpoint puts at the ends of a text; the rest is the same"
        return
    if stripped == ours[: len(stripped)]:
        yield f"theirs stops after {len(stripped)} of {len(ours)} tokens: truncated"
        return
    if stripped == ours[len(ours) - len(stripped) :]:
        yield f"theirs lacks the first {len(ours) - len(stripped)} tokens: truncated on the left"
        return
    said = tokenizer.decode_bytes(stripped).decode(errors="replace")
    yield from _about_texts(said, text)


def _about_texts(said: str, text: str) -> Iterable[str]:
    """What became of the text, if their ids are read with our vocabulary."""
    if said == text:
        yield "both decode to this text: the same vocabulary, but merges or words are cut otherwise"
        return
    forms = {form: unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    if said == text.strip():
        yield "theirs is the text without the spaces around it"
    elif said == f" {text}":
        yield "theirs has a space in front of the text (add_prefix_space)"
    elif said == text.replace("\r\n", "\n"):
        yield r"theirs has \n where the text has \r\n"
    elif form := next((form for form, it in forms.items() if said == it), None):
        yield f"theirs is the text normalised to {form}"
    elif said == text.lower():
        yield "theirs is the text in lower case"
    elif said == " ".join(text.split()):
        yield "theirs is the text with its white space made single spaces"
    elif "".join(said.split()) == "".join(text.split()):
        yield "theirs is the text with other white space: spaces are lost or added"
    elif said.replace("\ufffd", "") != said and "\ufffd" not in text:
        yield f"theirs decodes to {short(said)}: bytes of characters are lost"
    else:
        yield f"theirs decodes to {short(said)}: another vocabulary, or another text"
