"""Texts that commands are given: the same bytes have the same tokens, whichever way they come."""

import io
import json
import os
import threading

import pytest
from support.command_line import run

from gpt2np.cli.arguments import read_prompt
from gpt2np.cli.program import build_parser
from gpt2np.cli.texts import as_unicode, read_lines, read_text
from gpt2np.errors import InputError

# bytes of a file, which all are UTF-8
TEXTS = {
    "plain": b"Elizabeth was",
    "with an end": b"Elizabeth was\n",
    "CRLF": b"Mr. Darcy\r\nsmiled\r\n",
    "a lone carriage return": b"Mr. Darcy\rsmiled\r",
    "mixed": b"a\r\n\nb\n\rc\r\r\nd\n",
    "other ends of lines": "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i".encode(),
    "control characters": b"a\x00b\x01\x1b[31m\x7f\x1a",
    "a mark": b"\xef\xbb\xbfElizabeth",
    "a mark inside": b"a\xef\xbb\xbfb",
    "not normalised": "é e\u0301 \ufb01 \u200b".encode(),
    "far away": "☃ \U0001f600 \U0010ffff".encode(),
    "spaces": b"  \t a \t ",
}


class Stdin:
    """What stands for `sys.stdin` where it has been replaced."""

    def __init__(self, content, encoding="utf-8"):
        self.buffer = io.BytesIO(content)
        self.encoding = encoding


@pytest.fixture
def ids_of(capsys, monkeypatch):
    def ids(content, *argv):
        monkeypatch.setattr("sys.stdin", Stdin(content))
        code, out, err = run(capsys, *argv)
        assert code == 0, err
        return json.loads(out)

    return ids


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_a_file_a_pipe_stdin_and_an_argument_are_the_same(tmp_path, monkeypatch, content):
    text = content.decode()
    path = tmp_path / "text"
    path.write_bytes(content)
    assert read_text(str(path)) == text
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert read_text(str(tmp_path / "pipe")) == text
    writer.join()
    for encoding in ("utf-8", "latin-1", "cp1252", "ascii", "utf-16"):
        for newline in (None, "", "\n", "\r\n"):
            stdin = io.TextIOWrapper(io.BytesIO(content), encoding, newline=newline)
            monkeypatch.setattr("sys.stdin", stdin)
            assert read_text("-") == text
    monkeypatch.setattr("sys.stdin", io.StringIO(text, newline=""))  # of a program, or a notebook
    assert read_text("-") == text
    assert as_unicode(text) == text
    assert as_unicode(os.fsdecode(content)) == text


@pytest.mark.parametrize(
    ("content", "text"), [(b"a b\n", "a b"), (b"a b\r\n", "a b"), (b"a\n\n", "a\n"), (b" a ", " a ")]
)
def test_a_prompt_on_stdin_loses_the_end_of_its_last_line(ids_of, content, text):
    assert ids_of(content, "tokenize", "-", "--json")["text"] == text


def test_score_of_a_file_and_of_stdin(ids_of, tmp_path, tiny):
    content = b"Mr. Darcy\r\nsmiled\rat her"
    (tmp_path / "crlf.txt").write_bytes(content)
    facts = [ids_of(content, "score", file, "--json", "--tokens") for file in (tmp_path / "crlf.txt", "-")]
    assert facts[0] == facts[1]
    assert [row["id"] for row in facts[0]["per_token"]] == tiny.tokenizer.encode(content.decode())


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", TEXTS)
def test_the_ids_are_those_that_hf_gives_for_the_bytes(ids_of, tmp_path, tiny, name):
    from transformers import PreTrainedTokenizerFast

    file = str(tiny.checkpoint.folder / "tokenizer.json")
    if not os.path.exists(file):
        from tokenizers import ByteLevelBPETokenizer

        folder = tiny.checkpoint.folder
        theirs = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        expected = theirs.encode(TEXTS[name].decode()).ids
    else:
        expected = PreTrainedTokenizerFast(tokenizer_file=file)(TEXTS[name].decode())["input_ids"]
    (tmp_path / "text").write_bytes(TEXTS[name])
    for given in ([] if TEXTS[name].endswith(b"\n") else [["-"]]) + [["--", TEXTS[name].decode()]]:
        assert ids_of(TEXTS[name], "tokenize", "--json", *given)["token_ids"] == expected


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_lists_of_lines(tmp_path, content):
    (tmp_path / "lines").write_bytes(content)
    lines = read_lines(str(tmp_path / "lines"))
    assert lines == [line.removesuffix("\r") for line in content.decode().removeprefix("\ufeff").split("\n")]


# -- what is not UTF-8 ------------------------------------------------------------------------------------

# bytes, the first that is wrong, and where
WRONG = {
    "Latin-1": (b"caf\xe9", "0xe9", 3),
    "Latin-1 at the start": (b"\xe9t\xe9", "0xe9", 0),
    "Windows' quotes": (b"say \x93hi\x94", "0x93", 4),
    "a character that is cut": ("caf☃".encode()[:-1], "0xe2", 3),
    "a continuation alone": (b"ab\x80", "0x80", 2),
    "too long a form": (b"a\xc0\xaf", "0xc0", 1),
    "half a surrogate pair": (b"abcd\xed\xa0\x80", "0xed", 4),
    "UTF-16": ("\ufeffhello".encode("utf-16-le"), "0xff", 0),
    "behind a good character": ("é".encode() + b"\xe9", "0xe9", 2),
    "beyond Unicode": (b"\xf4\x90\x80\x80", "0xf4", 0),
}
PLACES = {
    "trace TEXT": ["trace", None],
    "generate TEXT": ["generate", None],
    "tokenize TEXT": ["tokenize", None],
    "lens TEXT": ["lens", None],
    "view TEXT": ["view", None, "--no-open"],
    "export TEXT": ["export", None, "--to", "llm.c", "-o", "nowhere"],
    "capture --prompt": ["capture", "--experiment", "x", "--prompt", None],
    "kv dataset --prompts": ["kv", "dataset", "--output-dir", "d", "--prompts", "good", None],
    "kv extract TEXT": ["kv", "extract", None],
    "kv query --token-search": ["kv", "query", "f.json", "--token-search", None],
    "compare --prompt": ["compare", "dump", "--prompt", None],
    "generate --stop": ["generate", "a", "--stop", None],
    "lens --token": ["lens", "a", "--token", None],
    "patch CLEAN": ["patch", None, "b", "--answer", "c", "--wrong", "d"],
    "patch --answer": ["patch", "a", "b", "--answer", None, "--wrong", "d"],
    "score -": ["score", "-"],
    "trace -": ["trace", "-"],
    "kv dataset --text-file -": ["kv", "dataset", "--output-dir", "d", "--text-file", "-"],
    "compare --prompt -": ["compare", "dump", "--prompt", "-"],
}


@pytest.mark.parametrize("place", PLACES)
def test_the_byte_is_named(capsys, monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    for content, byte, at in WRONG.values():
        monkeypatch.setattr("sys.stdin", Stdin(content))
        argv = [os.fsdecode(content) if word is None else word for word in PLACES[place]]
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, "")
        assert f"byte {byte} at {at} is not UTF-8" in err
        assert err.count("\n") == 1
        err.encode()
    assert list(tmp_path.iterdir()) == []


def test_the_byte_of_a_file_is_named(tmp_path):
    for read in (read_text, read_lines):
        for content, byte, at in WRONG.values():
            (tmp_path / "text").write_bytes(content)
            with pytest.raises(InputError) as caught:
                read(str(tmp_path / "text"))
            assert str(caught.value) == f"{tmp_path}/text: byte {byte} at {at} is not UTF-8"


def test_half_a_surrogate_pair_of_a_calling_program(capsys):
    args = build_parser().parse_args(["trace", "a\ud800"])
    with pytest.raises(InputError, match=r"character 1 of the text is '\\ud800', half a surrogate pair"):
        read_prompt(args)
    assert "half a surrogate pair" in run(capsys, "generate", "a", "--stop", "\ud800")[2]


# -- what cannot be read ----------------------------------------------------------------------------------


def test_no_stdin(capsys, monkeypatch):
    closed = io.TextIOWrapper(io.BytesIO(b"a"))
    closed.close()
    detached = io.TextIOWrapper(io.BytesIO(b"a"))
    detached.detach()
    for stdin in (None, closed, detached):
        monkeypatch.setattr("sys.stdin", stdin)
        for argv in (
            ["trace", "-"],
            ["score", "-"],
            ["kv", "dataset", "--output-dir", "d", "--text-file", "-"],
        ):
            code, _, err = run(capsys, *argv)
            assert code == 2
            assert err.startswith("gpt2np: stdin: ")
            assert err.count("\n") == 1


def test_a_text_without_end(capsys, monkeypatch):
    monkeypatch.setattr("gpt2np.cli.texts.MOST_TEXT", 1000)
    for size, code in ((1000, 0), (1001, 2)):
        monkeypatch.setattr("sys.stdin", Stdin(b" a" * 500 + b"b" * (size - 1000)))
        found, _, err = run(capsys, "score", "-")
        assert found == code, err
    assert "stdin: has more than 1,000 bytes" in err
    assert "/dev/zero: has more than 1,000 bytes" in run(capsys, "score", "/dev/zero")[2]
    assert "/: cannot be read (Is a directory)" in run(capsys, "score", "/")[2]
