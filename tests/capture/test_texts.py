"""What texts a file, a folder or a set stands for, and the windows that texts are cut into."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import gemma2_checkpoint

from gpt2np.capture.prompt_tokens import tokens_of, windows_of
from gpt2np.capture.texts import Texts, read_texts
from gpt2np.errors import InputError

SEPARATOR = "one\u2028line, \x85 and \x0c, too"


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", f"first\n{SEPARATOR}\r\nlast", ["first", SEPARATOR, "last"]),
        ("a.txt", "\ufefffirst\n\n second \n", ["first", "", " second "]),
        ("a.list", "[1]\n", ["[1]"]),
        (
            "a.jsonl",
            f'"x"\n{{"text": "{SEPARATOR[:9]}", "id": 3}}\r\n{{"prompt": "z"}}\n',
            ["x", SEPARATOR[:9], "z"],
        ),
        ("a.jsonl", '"x"\n\n{"text": ""}', ["x", "", ""]),
        ("a.json", '["x", {"text": "y"}]', ["x", "y"]),
        ("a.json", '{"description": "mine", "prompts": [{"id": 1, "text": "x"}]}', ["x"]),
        ("a.JSON", "[]", []),
    ],
)
def test_files(tmp_path, name, content, texts):
    (tmp_path / name).write_bytes(content.encode())
    found = read_texts(str(tmp_path / name))
    assert found.texts == texts
    assert not found.whole


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '"x"\n{"text": 3}', "line 2 must be a text, or an object with a 'text'"),
        ("a.jsonl", '"x"\n{"text"', "line 2"),
        ("a.jsonl", "[" * 100_000, "line 1"),
        ("a.json", '{"text": "x"}', "must hold a list of texts"),
        ("a.json", '["x", 4]', "prompt 1 must be a text"),
        ("a.json", "[", "a.json"),
        ("a.txt", b"x\n\xff", "byte 0xff at 2 is not UTF-8"),
    ],
)
def test_malformed_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as raised:
        read_texts(str(tmp_path / name))
    assert says in str(raised.value)
    assert name in str(raised.value)


def test_a_missing_file_and_a_folder_without_texts(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_texts(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"has no \.txt files$"):
        read_texts(str(tmp_path))
    (tmp_path / ".a.txt").write_text("x")
    with pytest.raises(InputError, match=r"has no \.txt files, but for hidden ones$"):
        read_texts(str(tmp_path))


def test_shipped_sets_are_known_by_name():
    assert len(read_texts("baseline").texts) > 3


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    files = {"b.txt": "bee", "a/z.txt": "zed", "a.txt": "\ufeffay\n", "c.md": "no"}
    files |= {".a.txt": "an editor's", ".git/a.txt": "no text", "b.txt~": "as it was", "._b.txt": "of a Mac"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    found = read_texts(str(tmp_path))
    names = [str(Path(found.where(i)).relative_to(tmp_path)) for i in range(3)]
    assert (found.texts, names, found.whole) == (["zed", "ay\n", "bee"], ["a/z.txt", "a.txt", "b.txt"], True)


@pytest.mark.parametrize("window", [1, 2, 7, 256])
def test_windows_are_the_whole_text_in_pieces(tiny, window):
    text = "It is a truth universally acknowledged, that a single man must be in want of a wife. " * 5
    cut = windows_of(tiny, [text, "Elizabeth"], str, window)
    ids = tiny.token_ids(text, limit=False)
    lengths = [len(cut[i]) for i in range(len(cut))]
    n = -(-len(ids) // window)
    assert cut.ids.tolist() == ids + tiny.token_ids("Elizabeth")
    assert all(length == window for length in lengths[: n - 1])
    assert max(lengths) <= window


def test_every_window_begins_as_every_text_does(tmp_path):
    class Begins:
        config = gemma2_checkpoint.config_of()

        class tokenizer:
            begin_id = 2

        def token_ids(self, text, **_):
            return [2, *map(int, text.split())]

    cut = windows_of(Begins(), ["10 11 12 13 14", "10", "7 8"], str, 3)
    assert [cut[i].tolist() for i in range(len(cut))] == [
        [2, 10, 11],
        [2, 12, 13],
        [2, 14],
        [2, 10],
        [2, 7, 8],
    ]


def test_a_file_may_be_one_text_for_windows(tiny, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("Elizabeth was\nnot the only one\n" * 20, "utf-8")
    tiny.capture(file, tmp_path / "one", window=16, keep="embed")
    said = json.loads((tmp_path / "one" / "manifest.json").read_text())["texts"]
    assert said["tokens"] == len(tiny.token_ids(file.read_text(), limit=False))
    assert said["prompts"] == -(-said["tokens"] // 16)
    (tmp_path / "a.jsonl").write_text('"x"')
    with pytest.raises(InputError, match="a window cuts the texts of a folder"):
        tiny.capture(tmp_path / "a.jsonl", tmp_path / "two", window=16)
    for name, says in (("", "the name of the texts is empty"), ("baseline", "these are prompts")):
        with pytest.raises(InputError, match=says):
            read_texts(name, window=True)
    with pytest.raises(InputError, match="window=257"):
        tiny.capture(file, tmp_path / "two", window=tiny.config.n_positions + 1)


def test_the_hash_tells_prompts_apart_that_have_the_same_tokens(tiny):
    a, b = tokens_of(tiny, [[1, 2], [3]]), tokens_of(tiny, [[1], [2, 3]])
    assert a.ids.tolist() == b.ids.tolist()
    assert a.sha256 != b.sha256
    assert a.sha256 == tokens_of(tiny, [np.array([1, 2]), (3,)]).sha256


def test_bad_texts_are_named_by_where_they_stand(tiny, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("fine\n\nfine\n")
    texts = read_texts(str(file))
    assert isinstance(texts, Texts)
    with pytest.raises(InputError) as raised:
        tokens_of(tiny, texts.texts, texts.where)
    assert str(raised.value).startswith(f"{file}: line 2 (prompt 1) is empty: it needs at least one token")
