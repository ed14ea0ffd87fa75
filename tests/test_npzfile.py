"""`.npz` files: what NumPy and our exporters write, and files that announce other things than they hold."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from support import tiny_checkpoint as tiny
from support.breaking import message_of

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import TraceError
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.kv.reading import read_kv
from gpt2np.npzfile import NpzFile

ARRAYS = {
    "a": np.arange(6, dtype="<f4").reshape(2, 3), "a.b/c": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "half": np.ones((2, 2), "<f2"), "none": np.empty((0, 4), "<f4"), "one": np.array(5),
    "text": np.array("é☃"), "big": np.arange(3, dtype=">i4"), "flags": np.array([True, False]),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_it_reads_what_numpy_writes(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    file = NpzFile(tmp_path / "x.npz")
    assert file.names == list(ARRAYS)
    for name, array in ARRAYS.items():
        read = file[name]
        assert (file.shape(name), file.numpy_dtype(name), file.nbytes(name)) == (
            array.shape, array.dtype, array.nbytes
        )  # fmt: skip
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert np.array_equal(read, array)
    assert file.text("text", 100) == "é☃"
    for name in ("a", "one", "text"):
        with pytest.raises(TraceError, match=f"'{name}' is .* expected a text of at most 4 bytes"):
            file.text(name, 4)


# -- files that lie ---------------------------------------------------------------------------------------


def header(text, version=1, size=None):
    raw = text.encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(raw) if size is None else size)
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw


def says(shape="(2, 3)", descr="'<f4'", order="False", data=bytes(24), **more):
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", **more) + data


def npz(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


LIES = {
    "a header that is no Python": header("(" * 54),
    "an unfinished text": header("'''" + "a" * 50),
    "a header of indents": header("{\n  'a':\n 1}\n"),
    "code": header("__import__('os').abort()\n"),
    "deep lists": header("[" * 900),
    "no header": b"\x93NUMPY\x01\x00",
    "no npy": b"hello",
    "nothing": b"",
    "a header that is announced to be gigantic": header("{", version=2, size=2**32 - 1),
    "a header that is gigantic": header("{" + " " * 100_000, version=2),
    "version 3": b"\x93NUMPY\x03\x00" + says()[8:],
    "more data than it says": says("(1, 3)"),
    "less data than it says": says("(9, 3)"),
    "a gigantic shape": says("(1000000000000, 1000000)"),
    "a negative shape": says("(-2, -3)"),
    "a shape of flags": says("(True, 6)"),
    "a shape of text": says("('a',)"),
    "objects": says(descr="'|O'", data=bytes(48)),
    "records": says(descr="[('a', '<f4')]"),
    "bytes without a type": says(descr="'|V4'"),
    "a dtype of no size": says(descr="'<U0'", data=b""),
    "an unknown dtype": says(descr="'<q9'"),
    "dates": says(descr="'<M8[s]'", data=bytes(48)),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES)
@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
def test_an_entry_that_lies(tmp_path, content, compression):
    for name in ("gpt2np.npy", "a.npy"):
        path = npz(tmp_path / "x.npz", [(name, content)], compression)
        for read in (NpzFile, read_dialect, read_kv):
            with pytest.raises(TraceError) as caught:
                read(path)
            message_of(caught.value, TraceError, str(path), name.removesuffix(".npy"))


def test_files_that_are_something_else(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    good = npz(tmp_path / "good.npz", [("a.npy", says())]).read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[:-10])
    (tmp_path / "half.npz").write_bytes(good[len(good) // 2 :])
    npz(tmp_path / "stray.npz", [("a.npy", says()), ("read me.txt", b"hello")])
    npz(tmp_path / "strange.npz", [("a.npy", says())], zipfile.ZIP_BZIP2)
    npz(tmp_path / "strange too.npz", [("a.npy", says())], zipfile.ZIP_LZMA)
    with pytest.warns(UserWarning, match="Duplicate"):
        npz(tmp_path / "twice.npz", [("a.npy", says()), ("a.npy", says())])
    parts = {
        "none": "no such file", ".": "folder", "pipe": "pipe", "cut.npz": "cut.npz: ",
        "half.npz": "half.npz: ",
        "stray.npz": "'read me.txt' is no array", "strange.npz": "way that NumPy does not use",
        "strange too.npz": "compressed in a way", "twice.npz": "'a' appears twice",
    }  # fmt: skip
    for name, part in parts.items():
        with pytest.raises(TraceError, match=part):
            NpzFile(tmp_path / name)


def test_a_damaged_checksum(tmp_path):
    data = np.arange(6, dtype="<f4").tobytes()
    path = npz(tmp_path / "x.npz", [("a.npy", says(data=data))])
    path.write_bytes(path.read_bytes().replace(data, data[::-1]))
    with pytest.raises(TraceError, match=r"'a' is damaged \(Bad CRC"):
        NpzFile(path)["a"]


# -- memory -----------------------------------------------------------------------------------------------


@contextmanager
def at_most(n_bytes):
    """Fails if the block takes more memory at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_bytes, f"{peak:,}"


def zeros(descr, n):
    """An entry of so many zeros, as pieces that are never in memory together."""
    head = header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({n},), }}".ljust(117) + "\n")
    yield head
    left = n * np.dtype(descr).itemsize
    while left:
        yield bytes(min(left, 1 << 22))
        left -= min(left, 1 << 22)


def bomb(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, pieces in entries:
            with archive.open(name, "w") as file:
                for piece in pieces:
                    file.write(piece)
    return path


def metadata_of(trace, dialect="hf", **changes):
    text = json.dumps(trace.metadata | {"schema": "gpt2np.dialect/1", "dialect": dialect} | changes)
    out = io.BytesIO()
    np.save(out, np.array(text))
    return [out.getvalue()]


def bombs(trace):
    config = trace.config.to_dict()
    wide = config | {"vocab_size": 2**30, "eos_token_id": None}
    return {
        "metadata of 64 MB": [("gpt2np.npy", zeros("<U16777216", 1))],
        "metadata that are numbers": [("gpt2np.npy", zeros("<f4", 1 << 24))],
        "an unknown array of 64 MB": [
            ("gpt2np.npy", metadata_of(trace)),
            ("mine.npy", zeros("<f4", 1 << 24)),
        ],
        "a known array of 64 MB": [("gpt2np.npy", metadata_of(trace)), ("logits.npy", zeros("<f4", 1 << 24))],
        "one before the metadata": [
            ("logits.npy", zeros("<f4", 1 << 24)),
            ("gpt2np.npy", metadata_of(trace)),
        ],
        "without metadata": [("logits.npy", zeros("<f4", 1 << 24))],
        "a config that is as large": [
            ("gpt2np.npy", metadata_of(trace, config=wide, token_ids=[1], tokens=None)),
            ("logits.npy", zeros("<f4", 1 << 24)),
        ],
    }


NAMES = [
    "metadata of 64 MB", "metadata that are numbers", "an unknown array of 64 MB", "a known array of 64 MB",
    "one before the metadata", "without metadata", "a config that is as large",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_inflated_before_it_was_looked_at(model, tmp_path, name):
    path = bomb(tmp_path / "bomb.npz", bombs(model.trace(tiny.IDS))[name])
    assert path.stat().st_size < 1 << 20
    for read in (read_dialect, read_kv):
        with at_most(8 << 20), pytest.raises(TraceError) as caught:
            read(path)
        message_of(caught.value, TraceError, str(path))


def test_more_than_a_gigabyte_must_be_asked_for(model, tmp_path, monkeypatch, capsys):
    trace = model.trace(tiny.IDS)
    write_dialect(trace, tmp_path / "t.npz", "npz", "hf")
    n_bytes = sum(np.load(tmp_path / "t.npz")[name].nbytes for name in trace.to("hf").arrays)
    assert read_dialect(tmp_path / "t.npz", max_bytes=n_bytes).names()
    with pytest.raises(TraceError, match="--force"):
        read_dialect(tmp_path / "t.npz", max_bytes=n_bytes - 1)
    assert read_dialect(tmp_path / "t.npz", max_bytes=None).names()
    monkeypatch.setattr("gpt2np.files.MAX_BYTES", n_bytes - 1)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "t.npz", "--to", "csv", "-o", "t.csv"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", "t.npz", "--to", "csv", "-o", "t.csv", "--force"]) == 0


def test_large_kv_json_must_be_asked_for(model, tmp_path, monkeypatch, capsys):
    from gpt2np.kv.extraction import extract_to_file

    extract_to_file(model, "the", tmp_path / "kv.json")
    size = (tmp_path / "kv.json").stat().st_size
    assert read_kv(tmp_path / "kv.json", max_bytes=10 * size).n_layer == 2
    with pytest.raises(TraceError, match="--force"):
        read_kv(tmp_path / "kv.json", max_bytes=2 * size)
    monkeypatch.setattr("gpt2np.files.MAX_BYTES", size)
    monkeypatch.chdir(tmp_path)
    assert main(["kv", "query", "kv.json", "--info"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["kv", "query", "kv.json", "--info", "--force"]) == 0


BOMBS = {
    "lists": b"[" + b"[]," * (1 << 20) + b"1]",
    "objects": b"[" + b"{}," * (1 << 20) + b"1]",
    "numbers": b"[" + b"1.5," * (1 << 20) + b"1]",
    "texts": b"[" + b'"ab",' * (1 << 20) + b"1]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_that_takes_many_times_its_size(tmp_path, name):
    path = tmp_path / "kv.json"
    path.write_bytes(BOMBS[name])
    with at_most(12 << 20), pytest.raises(TraceError, match="--force"):
        read_kv(path, max_bytes=12 << 20)


def test_kv_json_of_any_text_and_bytes_that_are_none(model, tmp_path):
    from gpt2np.kv.extraction import extract_to_file

    path = tmp_path / "kv.json"
    extract_to_file(model, tiny.IDS, path)
    whole = json.loads(path.read_text("utf-8"))
    for text in ("é", "☃ \U0001f600", '"\\"', "\x7f\x80\u2028"):
        path.write_text(json.dumps(whole | {"input_text": text}, ensure_ascii=False), "utf-8")
        assert read_kv(path).text == text
    content = path.read_bytes()
    at = content.index(b"input_text")
    path.write_bytes(content[:at] + b"\xe9" + content[at:])
    with pytest.raises(TraceError, match=f"byte 0xe9 at {at:,} is not UTF-8"):
        read_kv(path)
