"""Tokens that are parts of a character are shown as the character and which part they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import run

import gpt2np
from gpt2np.characters import joined, readable

CASES = {
    "whole words": (["E", "lizabeth", " was"], ["E", "lizabeth", " was"]),
    "one of three bytes": (["\\xe6", "\\x97", "\\xa5"], ["日 1/3", "日 2/3", "日 3/3"]),
    "two tokens": ([" \\xe6\\x97", "\\xa5", "x"], [" 日 1/2", "日 2/2", "x"]),
    "the end of one and the start of the next": (["\\xe6", "\\x97\\xa5\\xe6", "\\x9c\\xac"],
                                                 ["日 1/2", "日 2/2本 1/2", "本 2/2"]),
    "a character that is cut": (["a", "\\xe6", "\\x97"], ["a", "\\xe6", "\\x97"]),
    "a stray byte before a character": (["\\xa5", "\\xc3", "\\xaf"], ["\\xa5", "ï 1/2", "ï 2/2"]),
    "one that cannot be seen": (["\\xe2", "\\x80", "\\x8d"], [f"\\u200d {i}/3" for i in (1, 2, 3)]),
    "a control character in bytes": (["\\xc2", "\\x85"], ["\\u0085 1/2", "\\u0085 2/2"]),
    "tokens without text": (["", "\\xc3", "", "\\xaf", ""], ["", "ï 1/2", "", "ï 2/2", ""]),
    "nothing": ([], []),
}  # fmt: skip


@pytest.mark.parametrize(("tokens", "shown"), CASES.values(), ids=CASES)
def test_parts(tokens, shown):
    assert readable(tokens) == shown


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_any_text_is_joined_again_and_every_character_shown(tiny, text):
    tokens = tiny.tokenizer.tokens(tiny.tokenizer.encode(text))
    assert joined(tokens) == text
    shown = readable(tokens)
    assert len(shown) == len(tokens)
    assert set(filter(str.isprintable, text)) <= set("".join(shown))


TEXT = "日本語 🙂 naïve"


def test_where_tokens_are_shown(capsys, tiny):
    for verb, *options in (
        ["trace"],
        ["trace", "--show", "h.0.attn.pattern", "--head", "0"],
        ["trace", "--against", "日本語 🙂 xaïve"],
    ):
        _, out, _ = run(capsys, verb, TEXT, *options)
        assert "日 1/3|" in out
        assert not re.search(r"\|\\x(?!f0)", out.partition("next token")[0].partition("predictions")[0])
    assert f"text  {TEXT}\n" in run(capsys, "trace", TEXT)[1]
    assert "text  " not in run(capsys, "trace", "Elizabeth was")[1]
    trace = tiny.trace(TEXT)
    assert repr(trace).startswith("<Trace of '日本語 🙂")
    assert "日 1/3" in trace._repr_html_()
    assert "日 1/3" in tiny.score(TEXT)._repr_html_()
    assert gpt2np.analysis.lens.logit_lens(trace).kl.labels["pos"][0] == "0 |日 1/3|"
    assert trace.tokens[0] == "\\xe6"  # which stays what it was
