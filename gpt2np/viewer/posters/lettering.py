"""How words and numbers are written on a poster, how wide they are, and how they are cut into lines.

Letters are taken to be as wide as Arial's.
"""

import unicodedata

FAMILY = "Arial, Liberation Sans, Arimo, Helvetica, sans-serif"  # all of them have the same widths
_WIDTHS = {  # thousandths of the size
    191: "'",
    222: "ijl",
    260: "|",
    278: " \u00a0!,./:;I[\\]ft·",
    167: "⁄",
    333: "()-`r¹²³⁴⁵⁶⁷⁸⁹₁₂₃₄₅₆₇₈₉",
    334: "{}",
    355: '"',
    389: "*",
    469: "^",
    500: "Jcksvxyz",
    556: "#$0123456789?L_abdeghnopqu–",
    584: "+<=>~−×",
    611: "FTZ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
    889: "%",
    944: "W",
    1000: "…—→",
    1015: "@",
}
_WIDTH = {letter: width / 1000 for width, letters in _WIDTHS.items() for letter in letters}
_OTHER, _FULL, _BOLD = 0.66, 1.15, 1.08
_KEPT = ("Cf", "Zs")  # joiners and marks of direction, spaces of any width
_ISOLATE, _END = "\u2068", "\u2069"
_DIRECTIONS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067" + _ISOLATE + _END)


def clean(words: str, kept: str = "") -> str:
    """The words as XML may have them: what cannot be seen, or turns around what follows, is replaced."""
    return "".join(
        c
        if c.isprintable() or c in kept or (unicodedata.category(c) in _KEPT and c not in _DIRECTIONS)
        else _named(c)
        for c in words
    )


def isolated(words: str) -> str:
    """Words of a run among others, which they do not turn around, whichever way they are read."""
    return f"{_ISOLATE}{clean(words)}{_END}"


def as_drawn(words: str) -> str:
    """What is written for words some of which may be `isolated`."""
    return clean(words, kept=_ISOLATE + _END)


def number(value: float, places: int) -> str:
    """A number with a true minus, and none before a zero."""
    return f"{value:z.{places}f}".replace("-", "−")


def whole_percent(share: float) -> str:
    """A share in percent without places, which does not say none or all where it is not quite that."""
    if 0 < share < 0.005:
        return "<\u00a01\u00a0%"
    return ">\u00a099\u00a0%" if 0.995 <= share < 1 else f"{100 * share:.0f}\u00a0%"


def _named(c: str) -> str:
    return {"\n": "↵", "\t": "⇥"}.get(c, "\ufffd")


def width(words: str, size: float, weight: int = 400) -> float:
    """About how wide words are."""
    return sum(map(_letter, words)) * size * (_BOLD if weight > 500 else 1)


def _letter(c: str) -> float:
    known = _WIDTH.get(c)
    if known is not None:
        return known
    if unicodedata.combining(c) or unicodedata.category(c) == "Cf":
        return 0
    return _FULL if unicodedata.east_asian_width(c) in "WF" or ord(c) >= 0x1F000 else _OTHER


def cut(words: str, most: float, size: float, weight: int = 400) -> str:
    """The words, or as many letters of them as have room, and dots."""
    if width(words, size, weight) <= most:
        return words
    while words and width(words, size, weight) > most - size:
        words = words[:-1]
    return words + "…"


def lines(words: str, most: float, size: float, weight: int = 400) -> list[str]:
    """The words in lines that are at most so wide; a longer word is cut, an address behind a slash."""
    found, line = [], ""
    for word in words.split(" "):
        for piece in _pieces(word, most, size, weight):
            longer = f"{line} {piece}" if line else piece
            if line and width(longer, size, weight) > most:
                found.append(line)
                longer = piece
            line = longer
    return [*found, line] if line else found


def _pieces(word: str, most: float, size: float, weight: int) -> list[str]:
    pieces = []
    while width(word, size, weight) > most:
        end = next(i for i in range(1, len(word) + 1) if width(word[: i + 1], size, weight) > most)
        slash = word.rfind("/", 1, end) + 1
        end = slash if slash > end // 2 else end
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]
