"""Files that are pipes, devices, folders, links or nothing: never waited for, never read without end."""

import json
import os

import numpy as np
import pytest
from support import tiny_checkpoint as tiny
from support.breaking import message_of

import gpt2np
from gpt2np.capture.capture_files import load_capture
from gpt2np.capture.manifest import read_manifest
from gpt2np.capture.prompt_set import Prompt, PromptSet, load_prompt_set
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import Gpt2npError
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.files import kind_of, read_bytes, read_json, read_lines, read_text
from gpt2np.generation.ledger_file import read_ledger
from gpt2np.kv.datasets import texts, write_dataset
from gpt2np.kv.reading import read_kv
from gpt2np.npzfile import NpzFile
from gpt2np.reference.comparison import compare
from gpt2np.reference.dumps import read_dump
from gpt2np.reference.token_comparison import read_token_ids
from gpt2np.tracing.trace import Trace

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))


# A reader, and the name that its file has
READERS = {
    "read_bytes": (lambda path, model: read_bytes(path), "x"),
    "read_text": (lambda path, model: read_text(path), "x"),
    "read_json": (lambda path, model: read_json(path), "x"),
    "read_lines": (lambda path, model: list(read_lines(path)), "x"),
    "a trace": (lambda path, model: Trace.open(path), "x.safetensors"),
    "a trace in a dialect": (lambda path, model: read_dialect(path), "x.npz"),
    "an npz": (lambda path, model: NpzFile(path), "x.npz"),
    "a ledger": (lambda path, model: read_ledger(path, 300), "x.jsonl"),
    "a prompt set": (lambda path, model: load_prompt_set(str(path)), "x.json"),
    "a manifest": (lambda path, model: read_manifest(path.parent), "manifest.jsonl"),
    "a capture": (lambda path, model: load_capture(path), "x.safetensors"),
    "KV JSON": (lambda path, model: read_kv(path), "x.json"),
    "KV safetensors": (lambda path, model: read_kv(path), "x.safetensors"),
    "KV npz": (lambda path, model: read_kv(path), "x.npz"),
    "the shapes of a dump": (
        lambda path, model: compare(raw(path.parent), model, tiny.IDS, shapes=path),
        "shapes",
    ),
    "a dump": (lambda path, model: read_dump(path), "x.bin"),
    "their tokens": (lambda path, model: read_token_ids(path), "x.json"),
}
INTO = {
    "an index that is added to": (
        lambda path, model: list(write_dataset(model, texts(["a"], model), path.parent)),
        "index.jsonl",
    ),
    "a manifest that is added to": (
        lambda path, model: capture_prompts(
            model, PromptSet("s", (Prompt(1, "a"),)), path.parent, options=Options(1)
        ),
        "manifest.jsonl",
    ),
}


def raw(folder):
    np.ones(5, "<f4").tofile(folder / "d.bin")
    return folder / "d.bin"


def strange(path, kind):
    """Puts something there that is no file."""
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo(path.parent / "p")
            path.symlink_to(path.parent / "p")
        case "device":
            path.symlink_to("/dev/zero")
        case "terminal":
            path.symlink_to("/dev/tty")
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)


KINDS = ("pipe", "link to a pipe", "device", "terminal", "folder", "link to itself", "nothing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", [*READERS, *INTO])
def test_what_is_no_file_is_refused_at_once(tmp_path, model, reader, kind):
    if reader in INTO and kind == "nothing":
        return  # it is begun
    if (reader, kind) == ("a dump", "folder"):
        return  # of .npy files
    read, name = (READERS | INTO)[reader]
    strange(tmp_path / name, kind)
    with pytest.raises(Gpt2npError) as caught:
        read(tmp_path / name, model)
    message_of(caught.value, type(caught.value), str(tmp_path))


def test_links_to_files_are_files(tmp_path):
    (tmp_path / "real").write_bytes(b"\xef\xbb\xbf[1]")
    (tmp_path / "link").symlink_to("real")
    assert read_bytes(tmp_path / "link") == b"\xef\xbb\xbf[1]"
    assert read_text(tmp_path / "link") == "[1]"
    assert read_json(tmp_path / "link") == [1]
    assert kind_of(tmp_path / "link") == "a JSON file"


def test_a_file_may_be_so_large_and_no_larger(tmp_path):
    path = tmp_path / "x"
    for size in (0, 1, 10):
        path.write_bytes(b"a" * size)
        assert read_bytes(path, most=10) == b"a" * size
    path.write_bytes(b"a" * 11)
    for read in (read_bytes, read_text, read_json):
        with pytest.raises(Gpt2npError, match="has more than 10 bytes"):
            read(path, most=10)
    path.write_bytes(b"a" * 9 + b"\n" + b"b" * 10)
    assert list(read_lines(path, most=10)) == [b"a" * 9, b"b" * 10]
    path.write_bytes(b"a" * 9 + b"\n" + b"b" * 11)
    with pytest.raises(Gpt2npError, match="a line has more than 10 bytes"):
        list(read_lines(path, most=10))


def test_a_sparse_file_of_a_terabyte(tmp_path):
    for name in ("x.json", "manifest.jsonl", "x.npz", "x.safetensors"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 40)
    for read in (
        lambda: load_prompt_set(str(tmp_path / "x.json")),
        lambda: read_kv(tmp_path / "x.json"),
        lambda: read_manifest(tmp_path),
        lambda: NpzFile(tmp_path / "x.npz"),
        lambda: read_kv(tmp_path / "x.npz"),
        lambda: Trace.open(tmp_path / "x.safetensors"),
        lambda: read_token_ids(tmp_path / "x.json"),
    ):
        with pytest.raises(Gpt2npError):
            read()


def test_paths_that_cannot_be_one(tmp_path, model):
    for reader, (read, name) in READERS.items():
        if reader in ("the shapes of a dump", "a manifest"):
            continue
        with pytest.raises(Gpt2npError) as caught:
            read(tmp_path / f"a\0b{name}", model)
        message_of(caught.value, type(caught.value), rf"a\x00b{name}")


def test_a_manifest_and_a_set_with_a_mark_at_the_start(tmp_path):
    (tmp_path / "x.json").write_text("\ufeff" + json.dumps({"prompts": [{"id": 1, "text": "a"}]}), "utf-8")
    assert load_prompt_set(str(tmp_path / "x.json")).prompts[0].text == "a"
