"""Where a text stands among tokens: by bytes, whatever the tokens' ends and however they are written."""

import pytest

from gpt2np.errors import InputError
from gpt2np.kv.queries import KV
from gpt2np.text.token_search import bytes_of_tokens, find_text

TEXTS = [
    "a日本 b日",
    "😀😀 x",
    "naïve",
    "Straße",
    "\\xe6 日",
    "a\\\\xe6",
    "été ÉTÉ",
    "\u0130x",
    "<50300>",
    "plain",
    " ",
]


def written(text, sizes, how):
    """A text as tokens of these numbers of bytes, the last one the rest, written in one of the ways."""
    raw, pieces = text.encode(), []
    for size in sizes:
        if raw:
            pieces.append(raw[:size])
            raw = raw[size:]
    pieces += [raw] if raw else []
    return pieces, [how(piece) for piece in pieces]


def as_ours(piece):
    return piece.decode(errors="backslashreplace")


def as_spelled(piece):
    from gpt2np.text.vocabulary import byte_characters

    return "".join(byte_characters()[byte] for byte in piece)


@pytest.mark.parametrize("how", [as_ours, as_spelled])
@pytest.mark.parametrize("text", TEXTS)
def test_every_part_of_a_text_however_it_is_cut(text, how):
    for n in (1, 2, 3, 5):
        pieces, tokens = written(text, [n] * 40, how)
        assert bytes_of_tokens(tokens, text) == pieces
        ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
        for start in range(len(text)):
            for stop in range(start + 1, len(text) + 1):
                first, last = len(text[:start].encode()), len(text[:stop].encode()) - 1
                at = [next(i for i, end in enumerate(ends) if place < end) for place in (first, last)]
                for wanted in (text[start:stop], text[start:stop].upper(), text[start:stop].lower()):
                    if wanted.casefold() == text[start:stop].casefold():
                        assert range(at[0], at[1] + 1) in find_text(wanted, tokens, text)


@pytest.mark.parametrize(
    ("text", "tokens", "whole", "found"),
    [
        ("日本", ["a", "\ufffd", "\ufffd", "\ufffd", " b", "\ufffd", "\ufffd"], "a日本 b本", [(1, 4)]),
        ("本", ["a", "\ufffd", "\ufffd", "\ufffd", " b", "\ufffd", "\ufffd"], "a日本 b本", [(3, 4), (5, 7)]),
        ("b", ["<s>", "a", "\ufffd", "b"], "a日b", [(3, 4)]),  # a token that is not in the text
        ("fox", ["The", "\u0120f", "ox"], None, [(1, 3)]),
        (" fox", ["The", "\u0120f", "ox"], "The fox", [(1, 3)]),
        (" fox", ["The", "\u0120f", "ox"], None, []),  # nothing says how it is written,
        ("\u0120", ["The", "\u0120f", "ox"], None, [(1, 2)]),  # but it can be searched as it is
        ("\\xe6", ["\\xe6", "\\x97", "\\xa5"], "日", [(0, 1)]),
        ("\\xe6", ["\\xe6"], "\\xe6", [(0, 1)]),
        ("\\xa5", ["a", "\\xa5"], None, [(1, 2)]),  # a byte of no character
        ("aa", ["a", "a", "a"], "aaa", [(0, 2), (1, 3)]),
        ("aa", ["aaaa"], "aaaa", [(0, 1)]),
        ("<50300>", ["a", "<50300>"], "a", [(1, 2)]),
        ("x", ["a"], "a", []),
        ("a", [], None, []),
        ("", ["a"], "a", []),
        ("\ud800", ["a"], "a", []),
    ],
)
def test_special_cases(text, tokens, whole, found):
    assert find_text(text, tokens, whole) == [range(*ends) for ends in found]


def test_an_empty_text_is_refused(tiny):
    with pytest.raises(InputError, match="empty"):
        KV.of(tiny.trace("a", keep="attn.qkv")).find("")
