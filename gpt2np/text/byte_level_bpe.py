"""GPT-2's own kind of tokenizer: byte-level BPE, with tiktoken.

GPT-2 cuts text into words with a regular expression, writes each word as UTF-8 bytes, and joins neighbouring
pieces, lowest rank first, as long as a line of merges.txt joins them. tiktoken does that work here, in *rank
space* (256 bytes, then the merges in file order); a list maps ranks to the ids of vocab.json, which may be
in any order. Added tokens such as `<|endoftext|>` are cut out of the text before all this.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gpt2np.errors import TokenizerError
from gpt2np.text.added_tokens import AddedToken
from gpt2np.text.merges import Merge, merges_of
from gpt2np.text.vocabulary import Vocabulary, byte_characters

WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))  # what \s is in WORDS
SPACES += "\u2028\u2029\u202f\u205f\u3000"
LONG_SPACE = re.compile(f"[{SPACES}]{{1000,}}")


class Tables(NamedTuple):
    """A vocabulary as lists: the spelling of each id, the ids of bytes and then of merges, and added ids."""

    spelling: list[str | None]
    ranks: list[int]
    added: list[int]


class ByteLevelBPE:
    """Texts to ids and back, each id a few bytes of the text; see `tokenizer.Engine`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        added: dict[str, AddedToken],
        prefix_space: bool = False,
        ends: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> None:
        """Takes what the files say: with `prefix_space`, a text gets a space in front if it has none."""
        import tiktoken

        ids, ranks = vocabulary.ids, vocabulary.ranks
        byte_of = {char: byte for byte, char in enumerate(byte_characters())}
        own = {token.id: token.text for token in added.values() if token.text not in ranks}
        pieces = {id: piece for piece, id in ids.items() if id not in own}
        self.spelling = own | pieces
        self.bytes = {id: text.encode() for id, text in own.items()}
        self.bytes |= {id: _bytes_of(piece, byte_of) for id, piece in pieces.items()}
        by_rank = {self.bytes[ids[piece]]: rank for piece, rank in ranks.items()}
        self._ranks, self._characters = by_rank, byte_characters()
        self._added_ids, self.n_merges = frozenset(own), len(ranks) - 256
        self._bpe = tiktoken.Encoding("gpt2np", pat_str=WORDS, mergeable_ranks=by_rank, special_tokens={})
        self._id_of_rank = [ids[piece] for piece in ranks]
        self.special = [token.text for token in added.values() if token.special]
        self._added, self._prefix_space = added, prefix_space
        self._before, self._after = (list(end) for end in ends)
        first, second = ([t for t in added.values() if t.normalized is late] for late in (False, True))
        self._patterns = [_any_of(tokens) for tokens in (first, second) if tokens]

    def encode(self, text: str, special: bool, ends: bool) -> list[int]:
        """The ids of a text: `special` is about special tokens in it, `ends` about those around it."""
        parts: list[str | AddedToken] = [text]
        for pattern in self._patterns:
            parts = [new for part in parts for new in self._cut(part, pattern, special)]
        ids: list[int] = []
        for part in parts:
            ids += [part.id] if isinstance(part, AddedToken) else self._encode_plain(part)
        return [*self._before, *ids, *self._after] if ends else ids

    def _cut(
        self, part: str | AddedToken, pattern: re.Pattern[str], special: bool
    ) -> Iterator[str | AddedToken]:
        """Added tokens and the text between them, cut as the `tokenizers` library does it."""
        if isinstance(part, AddedToken):
            yield part
            return
        done = 0
        for match in pattern.finditer(part):
            token, (start, stop) = self._added[match[0]], match.span()
            if token.special and not special:
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
        if self._prefix_space and text and not text.startswith(" "):
            text = f" {text}"
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

    def merges(self, id: int) -> list[Merge]:
        """The joins that make a token of the vocabulary; none for a single byte and an added token."""
        return [] if id in self._added_ids else merges_of(self.bytes[id], self._ranks, self._characters)

    def tables(self) -> Tables | None:
        """What another program needs to encode as this does; None if not only merges make ids of a text.

        That is a space put in front, tokens at the ends, or added tokens that are found in plain text.
        """
        if self._prefix_space or self._before or self._after or not set(self._added) <= set(self.special):
            return None
        spelling = [self.spelling.get(id) for id in range(max(self.spelling) + 1)]
        return Tables(spelling, self._id_of_rank, sorted(self._added_ids))

    def decode(self, ids: list[int]) -> str:
        """The text of these ids, all of the vocabulary; bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self.bytes[id] for id in ids]).decode(errors="replace")

    def stream(self) -> "ByteStream":
        """Decodes ids one by one."""
        return ByteStream(self.bytes)


class ByteStream:
    """Decodes ids one by one, holding bytes back until a character is whole."""

    def __init__(self, bytes_of: dict[int, bytes]) -> None:
        self._bytes = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this id completes."""
        return self._decoder.decode(self._bytes[id])

    def finish(self) -> str:
        """What was held back."""
        return self._decoder.decode(b"", True)


def _bytes_of(piece: str, byte_of: dict[str, int]) -> bytes:
    """The bytes of a piece in GPT-2's spelling; of any other text, its UTF-8."""
    try:
        return bytes([byte_of[char] for char in piece])
    except KeyError:
        return piece.encode()


def _any_of(tokens: list[AddedToken]) -> re.Pattern[str]:
    """Finds the leftmost of these tokens, and of those that start there the longest."""
    texts = sorted((token.text for token in tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)))


def _is_word(char: str) -> bool:
    """Whether a character (or "") belongs to a word, in the sense of `single_word`."""
    category = unicodedata.category(char) if char else "-"
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc")
