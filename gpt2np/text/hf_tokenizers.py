"""Tokenizers of every other kind, with HF's `tokenizers`, which the extra of that name installs."""

import functools
import json
import re
from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2np.errors import MissingExtraError, TokenizerError, reason, short
from gpt2np.files import read_text
from gpt2np.text.added_tokens import AddedToken
from gpt2np.text.pipeline import steps
from gpt2np.text.vocabulary import byte_characters

if TYPE_CHECKING:
    import tokenizers

BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
CONTEXT = 64  # tokens that a stream keeps: what stands before a word can change how it is joined


class HFTokenizer:
    """A tokenizer.json as `tokenizers` runs it; see `tokenizer.Engine`."""

    def __init__(
        self, file: Path, whole: dict[str, Any], more: list[AddedToken], why: str, changed: bool = False
    ) -> None:
        """Takes the file and its content, tokens to add to it, and why it is not GPT-2's kind.

        `changed`: the content is not the file's any more, and counts.

        Raises:
            TokenizerError: `tokenizers` is not installed, or cannot use the file.
        """
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"{file}: {why}: not GPT-2's tokenizer. HF's tokenizers can run it: "
                "pip install 'gpt2np[tokenizers]'"
            ) from None
        _check(file, whole.get("model") or {})
        self._more, self._text = more, json.dumps(whole) if changed else read_text(file, TokenizerError)
        special = {token.text for token in more if token.special}
        special |= {token["content"] for token in whole.get("added_tokens") or () if token.get("special")}
        apart = _without_merges_to(special, whole)
        self._text_apart = self._text if apart is None else json.dumps(apart)
        failed = f"{file}: {why}: not GPT-2's tokenizer, and HF's tokenizers cannot use it"
        _checked(failed, lambda: self._plain)
        joins = steps(whole, "decoder")
        vocab = self._plain.get_vocab()
        # the shortest spelling last, so that `find_id` of "a" is the piece "a" and not "<0x61>"
        self.spelling = {vocab[piece]: piece for piece in sorted(vocab, key=lambda p: (-len(p), vocab[p]))}
        added = self._plain.get_added_tokens_decoder()
        self.special = [token.content for token in added.values() if token.special]
        self.bytes = {id: _bytes_of(piece, joins) for id, piece in self.spelling.items()}
        self.bytes |= {id: token.content.encode() for id, token in added.items()}
        is_byte = BYTE.fullmatch if "ByteFallback" in joins else lambda piece: None
        self._lone_bytes = frozenset(id for id, piece in self.spelling.items() if is_byte(piece))

    # Two of them, since how special tokens are read is a setting: two threads may want both.

    @functools.cached_property
    def _plain(self) -> "tokenizers.Tokenizer":
        return self._made(split_special=True)

    @functools.cached_property
    def _with_special(self) -> "tokenizers.Tokenizer":
        return self._made(split_special=False)

    def _made(self, split_special: bool) -> "tokenizers.Tokenizer":
        import tokenizers

        made = tokenizers.Tokenizer.from_str(self._text_apart if split_special else self._text)
        flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
        for token in self._more:
            new = tokenizers.AddedToken(token.text, **{flag: getattr(token, flag) for flag in flags})
            (made.add_special_tokens if token.special else made.add_tokens)([new])
        made.no_truncation()  # HF's own call asks for neither unless told to
        made.no_padding()
        made.encode_special_tokens = split_special
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Without the two: what `tokenizers` pickles lacks that setting."""
        return {key: value for key, value in vars(self).items() if key not in ("_plain", "_with_special")}

    def encode(self, text: str, special: bool, ends: bool) -> list[int]:
        """The ids of a text: `special` is about special tokens in it, `ends` about those around it."""
        one = self._with_special if special else self._plain
        failed = f"HF's tokenizers cannot encode this text ({len(text)} characters)"
        ids: list[int] = _checked(failed, lambda: one.encode(text, add_special_tokens=ends).ids)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of these ids, all of the vocabulary, as the file's decoder joins them."""
        text: str = self._plain.decode(ids, skip_special_tokens=False)
        return text

    def stream(self) -> "TextSoFar":
        """Decodes ids one by one."""
        return TextSoFar(self, self._lone_bytes)


class TextSoFar:
    """Decodes ids one by one, holding text back that the next token could change."""

    def __init__(self, engine: HFTokenizer, lone_bytes: frozenset[int]) -> None:
        self._engine, self._lone_bytes = engine, lone_bytes
        self._ids: list[int] = []
        self._shown = 0  # characters of their text

    def push(self, id: int) -> str:
        """The text that this id completes."""
        self._ids.append(id)
        if id in self._lone_bytes:  # whether they are a character shows when all of them are there
            return ""
        text = self._engine.decode(self._ids)
        if text.endswith("\ufffd"):
            return ""
        new = text[self._shown :]
        self._shown = len(text)
        if len(self._ids) > 4 * CONTEXT:
            self._ids = self._ids[-CONTEXT:]
            self._shown = len(self._engine.decode(self._ids))
        return new

    def finish(self) -> str:
        """What was held back."""
        text = self._engine.decode(self._ids)
        new, self._shown = text[self._shown :], len(text)
        return new


def _check(file: Path, model: dict[str, Any]) -> None:
    """Refuse what `tokenizers` would take and answer at random, or with a panic that prints a trace."""
    if dropout := model.get("dropout"):
        what = "with which no text has the same ids twice: set it to null"
        raise TokenizerError(f"{file}: model.dropout is {short(dropout)}, {what}")
    merges, vocab = model.get("merges"), model.get("vocab")
    if not isinstance(merges, list) or not isinstance(vocab, dict):
        return
    prefix = str(model.get("continuing_subword_prefix") or "")
    for number, entry in enumerate(merges):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        whole = isinstance(pair, list) and len(pair) == 2 and all(isinstance(piece, str) for piece in pair)
        if not whole or not pair[1].startswith(prefix) or pair[0] + pair[1].removeprefix(prefix) not in vocab:
            what = f"not two pieces whose result is in model.vocab{prefix and f' (after {short(prefix)})'}"
            raise TokenizerError(f"{file}: model.merges[{number}] is {short(entry)}, {what}")


def _without_merges_to(special: Set[str], whole: dict[str, Any]) -> dict[str, Any] | None:
    """A tokenizer.json without the merges that make a special token out of text; None if it has none.

    HF makes merges of all pieces of a SentencePiece vocabulary, so that `<bos>` may be two pieces joined.
    """
    model = whole.get("model") or {}
    merges = model.get("merges") or []
    kept = [
        merge
        for merge in merges
        if (merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)) not in special
    ]
    return None if len(kept) == len(merges) else {**whole, "model": {**model, "merges": kept}}


def _checked(failed: str, call: Callable[[], Any]) -> Any:
    """What `tokenizers` returns; its errors, and panics of Rust, become one of ours."""
    try:
        return call()
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{failed}: {reason(error)}") from None


def _bytes_of(piece: str, joins: list[str]) -> bytes:
    """The bytes of the text that a piece stands for, by the steps of the decoder that joins them."""
    if "ByteLevel" in joins:
        byte_of = _BYTE_OF
        if all(char in byte_of for char in piece):
            return bytes([byte_of[char] for char in piece])
    if "ByteFallback" in joins and (byte := BYTE.fullmatch(piece)):
        return bytes([int(byte[1], 16)])
    if "WordPiece" in joins:
        return piece.removeprefix("##").encode() if piece.startswith("##") else f" {piece}".encode()
    if "BPEDecoder" in joins:
        return re.sub("</w>$", " ", piece).encode()
    if {"Metaspace", "Replace"} & {*joins}:
        return piece.replace("\u2581", " ").encode()
    return piece.encode()


_BYTE_OF = {char: byte for byte, char in enumerate(byte_characters())}
