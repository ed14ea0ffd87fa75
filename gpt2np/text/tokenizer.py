"""Text to token ids and back, with a checkpoint's own vocabulary; never from the network.

GPT-2 cuts text into words with a regular expression, writes each word as UTF-8 bytes, and joins neighbouring
pieces, lowest rank first, as long as a line of merges.txt joins them. tiktoken does that work here, in *rank
space* (256 bytes, then the merges in file order); a list maps ranks to the ids of vocab.json, which may be
in any order. Added tokens such as `<|endoftext|>` are cut out of the text before all this.
"""

import codecs
import operator
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpt2np.errors import TokenizerError
from gpt2np.text.vocabulary import AddedToken, Vocabulary, byte_characters, read_vocabulary

END_OF_TEXT = "<|endoftext|>"
WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))  # what \s is in WORDS
SPACES += "\u2028\u2029\u202f\u205f\u3000"
LONG_SPACE = re.compile(f"[{SPACES}]{{1000,}}")


class Tokenizer:
    """One checkpoint's tokens; make it with `Tokenizer.from_folder`. Ids may be NumPy integers and arrays."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Takes what `read_vocabulary` has checked."""
        import tiktoken

        ids, ranks, added = vocabulary.ids, vocabulary.ranks, vocabulary.added
        byte_of = {char: byte for byte, char in enumerate(byte_characters())}
        pieces = [piece for piece in ids if piece in ranks or piece not in added]
        raw = {piece: bytes([byte_of[char] for char in piece]) for piece in pieces}
        by_rank = {raw[piece]: rank for piece, rank in ranks.items()}
        self._bpe = tiktoken.Encoding("gpt2np", pat_str=WORDS, mergeable_ranks=by_rank, special_tokens={})
        self._id_of_rank = [ids[piece] for piece in ranks]
        self._added = added
        first, second = ([t for t in added.values() if t.normalized is late] for late in (False, True))
        self._patterns = [_any_of(tokens) for tokens in (first, second) if tokens]
        self._spelling = {token.id: token.text for token in added.values()} | {ids[p]: p for p in raw}
        self._bytes = {token.id: token.text.encode() for token in added.values()}
        self._bytes |= {ids[piece]: data for piece, data in raw.items()}
        self._id = {data: id for id, data in self._bytes.items()}
        self.n_vocab: int = max(self._bytes) + 1
        self.end_of_text_id: int | None = added[END_OF_TEXT].id if END_OF_TEXT in added else None

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer | None":
        """The tokenizer of a checkpoint folder: vocab.json and merges.txt, else tokenizer.json, else None.

        Raises TokenizerError, naming the file, if one of the two is missing or anything in them is wrong.
        """
        vocabulary = read_vocabulary(folder)
        return None if vocabulary is None else cls(vocabulary)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text; only with `allow_special` can `<|endoftext|>` in it become that one token."""
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"character {error.start} of the text is {text[error.start]!a}"
            raise TokenizerError(f"{found}, half a surrogate pair, which UTF-8 cannot hold") from None
        parts: list[str | AddedToken] = [text]
        for pattern in self._patterns:
            parts = [new for part in parts for new in self._cut(part, pattern, allow_special)]
        ids: list[int] = []
        for part in parts:
            ids += [part.id] if isinstance(part, AddedToken) else self._encode_plain(part)
        return ids

    def _cut(
        self, part: str | AddedToken, pattern: re.Pattern[str], allow_special: bool
    ) -> Iterator[str | AddedToken]:
        """Added tokens and the text between them, cut as the `tokenizers` library does it."""
        if isinstance(part, AddedToken):
            yield part
            return
        done = 0
        for match in pattern.finditer(part):
            token, (start, stop) = self._added[match[0]], match.span()
            if token.special and not allow_special:
                continue
            if token.single_word and (
                _is_word(part[max(start - 1, 0) : start]) or _is_word(part[stop : stop + 1])
            ):
                continue
            while token.lstrip and start > done and part[start - 1] in SPACES:
                start -= 1
            while token.rstrip and stop < len(part) and part[stop] in SPACES:
                stop += 1
            if done < start:
                yield part[done:start]
            yield token
            done = stop
        if done < len(part):
            yield part[done:]

    def _encode_plain(self, text: str) -> list[int]:
        # tiktoken's regular expression runs out of stack on a million spaces before a word. GPT-2 always
        # cuts before the last space of such a run, so cutting there first changes nothing.
        cuts = [run.end() - 1 for run in LONG_SPACE.finditer(text) if run.end() < len(text)]
        ids: list[int] = []
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            try:
                ids += [self._id_of_rank[rank] for rank in self._bpe.encode_ordinary(text[start:stop])]
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # Rust's: no Exception, so nobody catches it
                    raise
                raise TokenizerError(f"tiktoken cannot encode this text ({len(text)} characters)") from None
        return ids

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token (not always whole characters); TokenizerError if no token has this id."""
        (number,) = _integers([id])
        if number not in self._bytes:
            raise TokenizerError(
                f"no token has id {number}: the vocabulary's ids are 0 to {self.n_vocab - 1}"
            )
        return self._bytes[number]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all these tokens, one after another."""
        return b"".join([self.token_bytes(id) for id in _integers(ids)])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def tokens(self, ids: Iterable[int], *, marked: bool = False) -> list[str]:
        r"""One readable string for each id: " France", or in GPT-2's own spelling "ĠFrance" if `marked`.

        Bytes of incomplete characters are shown as `\xe2`, ids of a padded vocabulary as `<50300>`.
        """
        if marked:
            return [self._spelling.get(id, f"<{id}>") for id in _integers(ids)]
        found = [(id, self._bytes.get(id)) for id in _integers(ids)]
        return [f"<{id}>" if raw is None else raw.decode(errors="backslashreplace") for id, raw in found]

    def find_id(self, piece: str) -> int | None:
        """The id of the token whose text is exactly this (mind the space in " France"), or None."""
        return self._id.get(piece.encode(errors="surrogatepass"))


class TextStream:
    """Decodes ids one by one as they are generated, holding bytes back until a character is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Starts with nothing held back."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this token completes: "" in the middle of an emoji."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def finish(self) -> str:
        """What was held back, as U+FFFD; all pushes and this together equal `decode` of all ids."""
        return self._decoder.decode(b"", True)


def _any_of(tokens: list[AddedToken]) -> re.Pattern[str]:
    """Finds the leftmost of these tokens, and of those that start there the longest."""
    texts = sorted((token.text for token in tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)))


def _is_word(char: str) -> bool:
    """Whether a character (or "") belongs to a word, in the sense of `single_word`."""
    category = unicodedata.category(char) if char else "-"
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc")


def _integers(ids: Iterable[int]) -> list[int]:
    try:
        given = list(ids)
        numbers = [operator.index(id) for id in given]
    except TypeError:
        raise TokenizerError(f"token ids must be a flat list of integers, not {repr(ids)[:80]}") from None
    for id, number in zip(given, numbers, strict=True):
        if number < 0 or isinstance(id, bool):
            raise TokenizerError(f"a token id is an integer from 0, not {id}")
    return numbers
