"""Text to token ids and back, with a checkpoint's own vocabulary; never from the network."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from gpt2np.errors import TokenizerError, short
from gpt2np.html_tables import plain_table
from gpt2np.tables import quoted
from gpt2np.text.byte_level_bpe import ByteLevelBPE, Tables
from gpt2np.text.merges import Merge
from gpt2np.text.tokenizer_folder import END_OF_TEXT, chat_template_of, engine_of, read_folder


class Stream(Protocol):
    """Decodes ids one by one."""

    def push(self, id: int, /) -> str:
        """Return the text that this id completes."""

    def finish(self) -> str:
        """Return what was held back."""


class Engine(Protocol):
    """What a Tokenizer asks of the two kinds, `ByteLevelBPE` and `HFTokenizer`."""

    spelling: dict[int, str]  # of every id, as the files write it
    bytes: dict[int, bytes]  # of every id, those of the text it stands for; of equal ones the last is found
    special: list[str]  # texts of the special tokens

    def encode(self, text: str, special: bool, ends: bool, /) -> list[int]:
        """Return the ids of a text that is valid Unicode."""

    def decode(self, ids: list[int], /) -> str:
        """Return the text of ids that are all of the vocabulary."""

    def stream(self) -> Stream:
        """Return what decodes ids one by one, to the same text."""


class Tokenizer:
    """One checkpoint's tokens; make it with `Tokenizer.from_folder`. Ids may be NumPy integers and arrays."""

    def __init__(self, engine: Engine, note: str | None = None, begin: str | None = None) -> None:
        """Takes what does the work, what the user should know about it, and what begins every text."""
        self._engine, self.note = engine, note
        self._id = {data: id for id, data in engine.bytes.items()}
        self.chat_template: str | None = None  # the folder's own, in Jinja, which nothing here runs
        self.n_vocab: int = max(engine.bytes, default=-1) + 1
        self.end_of_text_id: int | None = self._id.get(END_OF_TEXT.encode())
        self.begin_id: int | None = None if begin is None else self._id.get(begin.encode())
        self._engine_begins = begin is not None and engine.encode("", False, True)[:1] == [self.begin_id]

    @classmethod
    def from_folder(
        cls, folder: Path, begin: str | None = None, control: Sequence[str] = ()
    ) -> "Tokenizer | None":
        """Read the tokenizer of a folder: tokenizer.json, else vocab.json and merges.txt, else None.

        `begin` is the token that begins every text, once, whether or not tokenizer.json says so (but not if
        tokenizer_config.json has `add_bos_token` false). The tokens `control` are special whatever the files
        say.

        Raises:
            TokenizerError: anything in the files is wrong, or they need the extra `tokenizers`; it names the
                file.
        """
        files = read_folder(folder)
        if files is None:
            return None
        engine, note = engine_of(files, control)
        made = cls(engine, note, begin)
        made.chat_template = chat_template_of(files)
        if begin is not None and made.begin_id is None:
            made.note = (
                f"{folder}: the vocabulary has no {begin}, with which texts of this model should begin"
            )
        if files.config.get("add_bos_token") is False and not made._engine_begins:
            made.begin_id = None
        return made

    def __repr__(self) -> str:
        return (
            f"<Tokenizer: {self.n_vocab:,} ids, {'byte-level BPE' if self._is_gpt2s else 'from tokenizers'}>"
        )

    def _repr_html_(self) -> str:
        """What the vocabulary is made of, and its longest tokens."""
        made = [[name, f"{n:,}"] for name, n in (self.parts() if self._is_gpt2s else {}).items()]
        ends = [["end of text", str(self.end_of_text_id)]]
        longest = sorted(self._engine.bytes.items(), key=lambda item: (-len(item[1]), item[0]))[:5]
        shown = " ".join(quoted(token, 40) for token in self.tokens(id for id, _ in longest))
        rows = [["", ""], ["ids", f"{self.n_vocab:,}"], *made, *ends, ["longest", shown]]
        return plain_table(rows, repr(self).strip("<>"))

    @property
    def _is_gpt2s(self) -> bool:
        return isinstance(self._engine, ByteLevelBPE)

    def encode(self, text: str, *, special: bool = False, ends: bool = True) -> list[int]:
        """Return the ids of a text, with those that the checkpoint adds at its ends (unless `ends=False`).

        Only with `special` does `<|endoftext|>` *in* the text become that one token; else it is plain text.
        Where a model's texts begin with a token, one that begins with it already gets no second one.

        Raises:
            TokenizerError: it is no text, or holds half a surrogate pair.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"character {error.start} of the text is {text[error.start]!a}"
            raise TokenizerError(f"{found}, half a surrogate pair, which UTF-8 cannot hold") from None
        ids = self._engine.encode(text, special, ends)
        if self.begin_id is None or not ends:
            return ids
        if self._engine_begins:
            return ids[1:] if ids[1:2] == [self.begin_id] else ids
        return ids if ids[:1] == [self.begin_id] else [self.begin_id, *ids]

    def special_token_in(self, text: str) -> str | None:
        """Return the first special token that `special` would find in a text, or None."""
        there = [(text.index(token), -len(token), token) for token in self._engine.special if token in text]
        if not there or self.encode(text) == self.encode(text, special=True):
            return None
        return min(there)[2]

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token, not always whole characters.

        Raises:
            TokenizerError: no token has this id.
        """
        (number,) = _integers([id])
        if number not in self._engine.bytes:
            raise TokenizerError(
                f"no token has id {short(number)}: the vocabulary's ids are 0 to {self.n_vocab - 1}"
            )
        return self._engine.bytes[number]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of all these tokens, one after another, leaving out unknown ids.

        Raises:
            TokenizerError: an id is no whole number from 0.
        """
        return b"".join([self._engine.bytes.get(id, b"") for id in _integers(ids)])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of these tokens; bytes that are not UTF-8 become U+FFFD.

        Ids that no token has, as in a padded vocabulary, are left out; `tokens` shows them.

        Raises:
            TokenizerError: an id is no whole number from 0.
        """
        return self._engine.decode([id for id in _integers(ids) if id in self._engine.bytes])

    def tokens(self, ids: Iterable[int], *, marked: bool = False) -> list[str]:
        r"""Return a string for each id: " France", or if `marked` "ĠFrance", the vocabulary's spelling.

        Bytes of incomplete characters are shown as `\xe2`, ids that no token has as `<50300>`.

        Raises:
            TokenizerError: an id is no whole number from 0.
        """
        if marked:
            return [self._engine.spelling.get(id, f"<{id}>") for id in _integers(ids)]
        found = [(id, self._engine.bytes.get(id)) for id in _integers(ids)]
        return [f"<{id}>" if raw is None else raw.decode(errors="backslashreplace") for id, raw in found]

    def find_id(self, piece: str) -> int | None:
        """Return the id of the token with exactly this text, or None: words begin with their space.

        Example:
            >>> tokenizer.find_id("lord"), tokenizer.find_id(" lord")
            (None, 1226)
        """
        return self._id.get(piece.encode(errors="surrogatepass"))

    def not_one_token(self, text: str) -> str:
        """Return what to say of a text that is not one token: which ones it is."""
        pieces = "".join(quoted(piece) for piece in self.tokens(self.encode(text, ends=False)))
        says = f"is several: {pieces.replace('||', '|')}" if pieces else "is empty"
        spaced = pieces and self.find_id(f" {text}") is not None
        hint = f"; with a space before it, {' ' + text!r}, it is one" if spaced else ""
        return f"{short(text)} is not one token, it {says}{hint}"

    def __contains__(self, id: int) -> bool:
        """Whether a token has this id."""
        return id in self._engine.bytes

    def merges(self, id: int) -> list[Merge]:
        """Return the joins that make a token of its bytes, in order; none for a byte or an added token.

        Raises:
            TokenizerError: no token has this id, or the vocabulary is not GPT-2's kind.
        """
        self.token_bytes(id)
        return self._byte_level("merges").merges(int(id))

    def parts(self) -> dict[str, int]:
        """Return what the vocabulary is made of: GPT-2's are 256 bytes, 50,000 merges and 1 added token.

        Raises:
            TokenizerError: the vocabulary is not GPT-2's kind.
        """
        engine = self._byte_level("parts")
        n_added = len(engine.bytes) - 256 - engine.n_merges
        return {"bytes": 256, "merges": engine.n_merges, "added": n_added}

    def tables(self) -> Tables | None:
        """Return what another program needs to encode as this does; None if it is not BPE alone."""
        engine = self._engine
        begins = self.begin_id is not None
        return engine.tables() if isinstance(engine, ByteLevelBPE) and not begins else None

    def _byte_level(self, what: str) -> ByteLevelBPE:
        if not isinstance(self._engine, ByteLevelBPE):
            raise TokenizerError(
                f"{what} are those of byte-level BPE, GPT-2's kind; this vocabulary is another"
            )
        return self._engine

    def stream(self) -> Stream:
        """Return what decodes ids of the vocabulary one by one; `TextStream` takes any."""
        return self._engine.stream()


class TextStream:
    """Decodes ids one by one as they are generated, holding back what is no whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Starts with nothing held back."""
        self._tokenizer, self._stream = tokenizer, tokenizer.stream()

    def push(self, id: int) -> str:
        """Return the text that this token completes: "" inside an emoji, and for an unknown id.

        Raises:
            TokenizerError: the id is no whole number from 0.
        """
        number = id if type(id) is int and id >= 0 else _integers([id])[0]
        return self._stream.push(number) if number in self._tokenizer else ""

    def finish(self) -> str:
        """Return what was held back, as U+FFFD; all pushes and this together equal `decode` of all ids."""
        return self._stream.finish()


def _integers(ids: Iterable[int]) -> list[int]:
    if isinstance(ids, bytes | bytearray | Mapping | AbstractSet):
        raise TokenizerError(f"token ids must be a flat list of integers, not {short(ids)}")
    try:
        given = list(ids)
        numbers = [operator.index(id) for id in given]
    except TypeError:
        raise TokenizerError(f"token ids must be a flat list of integers, not {short(ids)}") from None
    for id, number in zip(given, numbers, strict=True):
        if number < 0 or isinstance(id, bool):
            raise TokenizerError(f"a token id is an integer from 0, not {short(id)}")
    return numbers
