"""How a token is made of its bytes, against tiktoken's own merging of a text."""

import itertools
import json
import re

import pytest
from support.command_line import run

from gpt2np.checkpoints.checkpoint import shipped_folder
from gpt2np.errors import TokenizerError
from gpt2np.text.merges import merges_of
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.text.vocabulary import byte_characters

TEXTS = ["Elizabeth was", "  two  spaces\n", "日本語 😀", "naïve", "the the the", "isn't", "x" * 40]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(shipped_folder())


@pytest.fixture(scope="module")
def lines():
    return (shipped_folder() / "merges.txt").read_text("utf-8").splitlines()[1:]


@pytest.mark.parametrize("text", TEXTS)
def test_each_merge_is_the_line_of_merges_txt_and_the_last_one_is_the_token(tokenizer, lines, text):
    for i in tokenizer.encode(text):
        pieces = [byte_characters()[byte] for byte in tokenizer.token_bytes(i)]
        for merge in tokenizer.merges(i):
            left, right = lines[merge.number - 1].split(" ")
            at = next(n for n in range(len(pieces)) if pieces[n : n + 2] == [left, right])
            pieces[at : at + 2] = [left + right]
            assert merge.pieces == pieces
        assert pieces == [tokenizer.tokens([i], marked=True)[0]]


@pytest.mark.parametrize("text", TEXTS)
def test_merging_whole_words_stops_where_the_tokens_end(tokenizer, lines, text):
    """The order of BPE in a word: always the first line that applies; no join goes beyond a token."""
    number = {tuple(line.split(" ")): n for n, line in enumerate(lines)}
    for word in re.findall(r" ?[^\W\d_]+", text):
        pieces = [byte_characters()[byte] for byte in word.encode()]
        while pairs := [(number[p], i) for i, p in enumerate(itertools.pairwise(pieces)) if p in number]:
            _, at = min(pairs)
            pieces[at : at + 2] = ["".join(pieces[at : at + 2])]
        assert pieces == tokenizer.tokens(tokenizer.encode(word), marked=True)


def test_every_token_of_the_vocabulary_is_made(tokenizer):
    for i in range(tokenizer.n_vocab):
        merges = tokenizer.merges(i)
        if len(tokenizer.token_bytes(i)) == 1 or i == tokenizer.end_of_text_id:
            assert merges == []
        else:
            assert merges[-1].pieces == tokenizer.tokens([i], marked=True)


def test_the_parts_add_up(tokenizer, lines):
    parts = tokenizer.parts()
    assert parts == {"bytes": 256, "merges": len(lines), "added": 1}
    assert sum(parts.values()) == tokenizer.n_vocab == 2048
    assert 256 + 50_000 + 1 == 50_257  # GPT-2's own


def test_the_docstring():
    ranks = {b"th": 256, b"the": 257}
    found = merges_of(b"the", ranks, [chr(i) for i in range(256)])
    assert found == [(1, ["th", "e"]), (2, ["the"])]
    assert merges_of(b"t", ranks, byte_characters()) == []


def test_ids_that_are_none(tokenizer):
    for wrong in (2048, -1):
        with pytest.raises(TokenizerError):
            tokenizer.merges(wrong)


def test_on_the_command_line(capsys, tokenizer):
    code, out, _ = run(capsys, "tokenize", "Mr. Darcy é", "--merges", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["vocabulary"] == tokenizer.parts()
    for row in facts["tokens"]:
        assert [tuple(m.values()) for m in row["merges"]] == [tuple(m) for m in tokenizer.merges(row["id"])]
    code, out, _ = run(capsys, "tokenize", "Mr. Darcy Darcy", "--merges")
    assert "vocabulary: 256 bytes + 1,791 merges + 1 added = 2,048 tokens" in out
    assert out.count("id 1652\n") == 1  # a token that comes twice is told once
    assert "merge  1,397  ĠDarcy" in out
    code, out, _ = run(capsys, "tokenize", "--tokens", "2047", "--merges")
    assert "an added token" in out
    code, out, _ = run(capsys, "info")
    assert "2,048 tokens: 256 bytes + 1,791 merges + 1 added" in out


def test_a_vocabulary_of_another_kind(capsys, tmp_path):
    from support.document_models import write_model
    from tokenizers import Tokenizer as Theirs
    from tokenizers import models

    folder = write_model(tmp_path / "model", n_layer=1, n_head=2, n_embd=4)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    Theirs(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(folder / "tokenizer.json"))
    code, out, err = run(capsys, "tokenize", "a", "--merges", "--model", str(folder))
    assert (code, out) == (2, "")
    assert "byte-level BPE" in err.splitlines()[-1]
    assert run(capsys, "info", "--model", str(folder))[0] == 0
