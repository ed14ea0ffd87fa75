import contextlib
import errno
import json
import os
import resource
import stat
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2np import outputs, tensorfile
from gpt2np.checkpoints.bfloat16 import widened
from gpt2np.errors import CheckpointError, TraceError, printable
from gpt2np.tensorfile import create_tensors, open_tensors, save_tensors

pytestmark = pytest.mark.filterwarnings("error")
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def write(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


MALFORMED = {
    "empty file": (b"", "empty"),
    "shorter than its length field": (b"\x01\0\0", "3 bytes"),
    "only a length": (struct.pack("<Q", 10), "truncated"),
    "length of 2**64-1": (file_bytes(b"{}", length=2**64 - 1), "18,446,744,073,709,551,615"),
    "length over the limit": (file_bytes(b"{}", length=100_000_001), "100,000,001"),
    "length past the end": (file_bytes(b"{}", length=3), "truncated"),
    "length of 0": (file_bytes(b""), "begin with"),
    "not JSON": (file_bytes(b"{nonsense}"), "JSON"),
    "JSON cut short": (file_bytes(b'{"x": {'), "JSON"),
    "a list": (file_bytes(b"[1, 2]"), "begin with"),
    "spaces first": (file_bytes(b"  {}"), "begin with"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "JSON"),
    "half a surrogate": (file_bytes(b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), ""),
    "nested without end": (file_bytes(b'{"x":' + b"[" * 200_000), ""),
    "nested as far as JSON goes": (file_bytes(b'{"x":' + b"[" * 900 + b"]" * 900 + b"}"), ""),
    "a number of 5000 digits": (file_bytes(b'{"x":' + b"9" * 5000 + b"}"), "JSON"),
    "NaN for a shape": (file_bytes(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'), "shape"),
    "entry is a string": (file_bytes({"x": "F32"}), "'x'"),
    "entry is a list": (file_bytes({"x": []}), "'x'"),
    "dtype missing": (file_bytes({"x": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"), "'x'"),
    "shape missing": (file_bytes({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"), "'x'"),
    "data_offsets missing": (file_bytes({"x": {"dtype": "F32", "shape": [1]}}, b"1234"), "'x'"),
    "unknown dtype": (file_bytes(entry("F33"), b"1234"), "'F33'"),
    "dtype a number": (file_bytes(entry(32), b"1234"), "'x': unknown dtype 32"),
    "dtype a list": (file_bytes(entry([]), b"1234"), "'x': unknown dtype"),
    "shape a number": (
        file_bytes({"x": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, b"1234"),
        "'x': shape",
    ),
    "shape of strings": (file_bytes(entry(shape=["1"]), b"1234"), "'x': shape"),
    "shape of floats": (file_bytes(entry(shape=[1.0]), b"1234"), "'x': shape"),
    "shape of booleans": (file_bytes(entry(shape=[True]), b"1234"), "'x': shape"),
    "negative shape": (file_bytes(entry(shape=[-1]), b"1234"), "'x': shape"),
    "two negatives in a shape": (file_bytes(entry(shape=[-1, -1]), b"1234"), "'x': shape"),
    "shape beyond 2**63": (file_bytes(entry(shape=[2**64]), b"1234"), "'x': shape"),
    "shape that overflows to its size": (file_bytes(entry(shape=[2**62, 2**62]), b"1234"), "'x': shape"),
    "empty, of absurd shape": (file_bytes(entry(shape=[2**62, 2**62, 0], offsets=(0, 0))), "'x': shape"),
    "65 axes": (file_bytes(entry(shape=[1] * 65), b"1234"), "'x': shape"),
    "shape too large for its bytes": (file_bytes(entry(shape=[2]), b"1234"), "needs 8 bytes"),
    "shape too small for its bytes": (file_bytes(entry(shape=[]), b"12345678"), ""),
    "half a byte": (file_bytes(entry("F4", offsets=(0, 1)), b"1"), "needs 0.5 bytes"),
    "offsets of one number": (file_bytes(entry(offsets=[0]), b"1234"), "'x': data_offsets"),
    "offsets of three": (file_bytes(entry(offsets=[0, 4, 4]), b"1234"), "'x': data_offsets"),
    "offsets negative": (file_bytes(entry(offsets=[-4, 0]), b"1234"), "'x': data_offsets"),
    "offsets backwards": (file_bytes(entry(offsets=[4, 0]), b"1234"), "'x': data_offsets"),
    "offsets null": (file_bytes({"x": {**ONE, "data_offsets": None}}, b"1234"), "'x': data_offsets"),
    "data truncated": (file_bytes({"x": ONE}, b"123"), "3 bytes"),
    "no data": (file_bytes({"x": ONE}), "0 bytes"),
    "trailing bytes": (file_bytes({"x": ONE}, b"12345"), "5 bytes"),
    "hole at the start": (file_bytes(entry(offsets=[4, 8]), b"12345678"), "'x': data_offsets begin at 4"),
    "hole in the middle": (file_bytes({"x": ONE, "y": {**ONE, "data_offsets": [8, 12]}}, b"1" * 12), "'y'"),
    "overlap": (file_bytes({"x": ONE, "y": {**ONE, "data_offsets": [2, 6]}}, b"123456"), "'y'"),
    "the same place twice": (file_bytes({"x": ONE, "y": ONE}, b"1234"), "'y'"),
    "duplicate name": (
        file_bytes(b'{"x":%b,"x":%b}' % ((json.dumps(ONE).encode(),) * 2), b"1234"),
        "'x' appears twice",
    ),
    "duplicate key of an entry": (
        file_bytes(b'{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        "'dtype' appears twice",
    ),
    "metadata a list": (file_bytes({"__metadata__": []}), "__metadata__"),
    "metadata null": (file_bytes({"__metadata__": None}), "__metadata__"),
    "metadata with a number": (file_bytes({"__metadata__": {"n": 1}}), "__metadata__"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, no .safetensors file"),
    "a long name": (file_bytes({"x" * 100_000: ONE}), ""),
}  # fmt: skip


@pytest.mark.parametrize("error", [CheckpointError, TraceError])
@pytest.mark.parametrize(("content", "says"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused_in_one_sentence(tmp_path, content, says, error):
    path = write(tmp_path, content)
    with pytest.raises(error) as caught:
        open_tensors(path, error)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert says in message
    assert len(message) < len(str(path)) + 510


def test_places_that_are_no_readable_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").write_text("x")
    for path, says in (
        (tmp_path / "absent", "no such file"),
        (tmp_path, "found a folder"),
        (tmp_path / "pipe", "found a pipe"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "text" / "inside", "Not a directory"),
        ("/dev/zero", "found a device"),
        ("a\0b", "null"),
    ):
        with pytest.raises(CheckpointError, match=says):
            open_tensors(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_file(tmp_path):
    path = write(tmp_path, file_bytes({"x": ONE}, b"1234"))
    path.chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        open_tensors(path)


def test_reads_what_the_reference_library_wrote(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(3, 4)).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "double": rng.normal(size=(2, 1, 2)),
        "ids": np.arange(-3, 3),
        "mask": np.array([[True, False, True]]),
        "byte": np.array(200, np.uint8),
        "none": np.zeros((0, 7), np.float32),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, {"format": "np"})
    file = open_tensors(path)
    assert file.path == str(path)
    assert file.metadata == {"format": "np"}
    assert sorted(file.names) == sorted(arrays)
    assert file.file_size == path.stat().st_size
    assert path.read_bytes()[8:].startswith(file.header_bytes)
    assert json.loads(file.header_bytes)["w"]["dtype"] == file.dtype("w") == "F32"
    for name, array in arrays.items():
        read = file[name]
        assert name in file
        assert file.shape(name) == read.shape == array.shape
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
        assert not read.flags.writeable
        assert read.flags.aligned


def test_arrays_are_views_of_the_file_and_outlive_it(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"w": np.arange(1000.0)}, {})
    first, second = open_tensors(path)["w"], open_tensors(path)["w"]
    path.unlink()
    assert first.base is not None
    assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_unaligned_data_is_copied(tmp_path):
    path = write(
        tmp_path,
        file_bytes(
            b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} ', np.float32([1.5, -2]).tobytes()
        ),
    )
    assert (path.stat().st_size - 8) % 4 != 0
    array = open_tensors(path)["x"]
    assert array.flags.aligned
    assert not array.flags.writeable
    assert array.tolist() == [1.5, -2]


def test_names_come_in_the_order_of_the_data(tmp_path):
    header = {
        "late": {**ONE, "data_offsets": [4, 8]},
        "none": entry(shape=[0], offsets=[4, 4])["x"],
        "early": ONE,
    }
    assert open_tensors(write(tmp_path, file_bytes(header, b"12345678"))).names == ["early", "none", "late"]


def test_bfloat16_becomes_the_float32_it_means(tmp_path):
    values = np.float32([1, -2.5, 3e38, 1e-40, 0, np.inf, -np.inf, np.nan])
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    file = open_tensors(write(tmp_path, file_bytes(entry("BF16", [2, 4], [0, 16]), bits.tobytes())))
    np.testing.assert_array_equal(file["x"], bits.reshape(2, 4))  # as stored
    array = widened(file, "x")
    assert array.dtype == np.float32
    assert array.shape == (2, 4)
    assert not array.flags.writeable
    assert np.array_equal(array.view(np.uint32).ravel() >> 16, bits)


def test_a_dtype_numpy_lacks_is_an_error_only_when_asked_for(tmp_path):
    header = entry("F8_E4M3", [4]) | {"y": {**ONE, "data_offsets": [4, 8]}}
    file = open_tensors(write(tmp_path, file_bytes(header, b"12345678")))
    assert file.dtype("x") == "F8_E4M3"
    assert file["y"].shape == (1,)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'x' has dtype F8_E4M3"):
        file["x"]


@pytest.mark.parametrize("ask", [lambda f: f["nope"], lambda f: f.shape("nope"), lambda f: f.dtype("nope")])
def test_unknown_names(tmp_path, ask):
    file = open_tensors(write(tmp_path, file_bytes({"x": ONE}, b"1234")), TraceError)
    assert "nope" not in file
    with pytest.raises(TraceError, match=r"model\.safetensors: no tensor named 'nope'"):
        ask(file)


VALID = file_bytes(
    {
        "__metadata__": {"k": "v"},
        "x": entry("F32", [2, 2], [0, 16])["x"],
        "y": entry("BF16", [2], [16, 20])["x"],
    },
    bytes(range(20)),
)


def read_everything(path):
    """Touch all of a file: that works or is an error of ours, and anything else fails the test."""
    with contextlib.suppress(CheckpointError):
        file = open_tensors(path)
        for name in file.names:
            file[name].tobytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4),
    end=st.one_of(st.just(len(VALID)), st.integers(0, len(VALID))),
    more=st.binary(max_size=5),
)
@example(flips=[], end=len(VALID), more=b"")
def test_damaged_bytes_never_do_worse_than_an_error(tmp_path, flips, end, more):
    content = bytearray(VALID)
    for place, value in flips:
        content[place] = value
    read_everything(write(tmp_path, bytes(content[:end]) + more))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "F4", "BOOL", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.sampled_from(["__metadata__", "x", "y"]), JSON), data=st.binary(max_size=8))
def test_any_json_for_a_header(tmp_path, header, data):
    read_everything(write(tmp_path, file_bytes(header, data)))


# Writing


ALL_DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


def test_what_is_written_reads_back_here_and_in_the_reference_library(tmp_path):
    path = tmp_path / "trace.safetensors"
    entries = [(f"a{i}", dtype, (2, 3)) for i, dtype in enumerate(ALL_DTYPES)]
    entries += [("empty", np.float32, (0, 4)), ("scalar", np.dtype("f8"), ()), ("last", "f4", (1,))]
    with create_tensors(path, entries, {"schema": "1", "text": 'é"\n\0'}) as writer:
        assert list(writer.arrays) == [name for name, _, _ in entries]
        for i, array in enumerate(writer.arrays.values()):
            assert not array.any()
            array[...] = np.arange(array.size).reshape(array.shape) + i
        expected = {name: array.copy() for name, array in writer.arrays.items()}
        assert not path.exists()
    assert os.listdir(tmp_path) == ["trace.safetensors"]

    file = open_tensors(path, TraceError)
    theirs = safetensors.numpy.load_file(path)
    assert file.names == list(expected)
    assert file.metadata == {"schema": "1", "text": 'é"\n\0'}
    assert (8 + len(file.header_bytes)) % 64 == 0
    for name, array in expected.items():
        for read in (file[name], theirs[name]):
            assert read.dtype == array.dtype
            assert read.shape == array.shape
            assert np.array_equal(read, array)
    with safetensors.safe_open(path, "numpy") as reference:
        assert reference.metadata() == file.metadata


LAYOUTS = {
    "Fortran": np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
    "transposed": np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(2, 0, 1),
    "strided": np.arange(20, dtype=np.int32)[1::3],
    "backwards": np.arange(6.0)[::-1],
    "broadcast": np.broadcast_to(np.float32(7), (2, 2)),
    "0-d": np.array(3.5),
    "scalar": np.float32(1.25),
    "boolean scalar": np.bool_(True),
    "empty": np.zeros((3, 0, 2), np.float32),
    "big-endian": np.arange(5, dtype=">i4"),
    "longlong": np.arange(3, dtype=np.longlong),
    "read-only": np.frombuffer(b"12345678", np.uint32),
}


def test_any_memory_layout_is_stored_right(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, LAYOUTS, {})
    file, theirs = open_tensors(path), safetensors.numpy.load_file(path)
    for name, array in LAYOUTS.items():
        for read in (file[name], theirs[name]):
            assert read.shape == array.shape, name
            assert read.dtype == np.dtype(array.dtype).newbyteorder("="), name
            assert np.array_equal(read, array), name
    assert file.names == list(LAYOUTS)
    assert file.metadata == {}


def test_a_file_without_tensors(tmp_path):
    save_tensors(tmp_path / "w", {}, {"only": "words"})
    assert open_tensors(tmp_path / "w").names == []
    assert open_tensors(tmp_path / "w").metadata == {"only": "words"}


def test_a_file_may_be_rewritten_from_its_own_views(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": np.arange(3.0), "b": np.ones(2)}, {})
    old = open_tensors(path)
    save_tensors(path, {"b": old["b"], "a": old["a"]}, {})
    assert open_tensors(path).names == ["b", "a"]
    assert open_tensors(path)["a"].tolist() == old["a"].tolist() == [0, 1, 2]


def test_arrays_held_after_commit_stay_usable(tmp_path):
    writer = create_tensors(tmp_path / "t", [("a", "f4", (3,))], {})
    held = writer.arrays["a"]
    held[:] = 5
    writer.commit()
    assert writer.arrays == {}
    assert held.tolist() == [5, 5, 5]
    assert open_tensors(tmp_path / "t")["a"].tolist() == [5, 5, 5]
    with pytest.raises(TraceError, match="already"):
        writer.commit()
    writer.discard()
    assert (tmp_path / "t").exists()


def test_nothing_remains_of_what_was_discarded(tmp_path):
    (tmp_path / "t").write_text("old")
    writer = create_tensors(tmp_path / "t", [("a", "f4", (3,))], {})
    writer.discard()
    writer.discard()

    def interrupted():
        with create_tensors(tmp_path / "t", [("a", "f4", (3,))], {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with create_tensors(tmp_path / "t", [("a", "f4", (3,))], {}) as writer:
        writer.discard()
    assert os.listdir(tmp_path) == ["t"]
    assert (tmp_path / "t").read_text() == "old"


def test_the_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    save_tensors(tmp_path / "w", {"a": np.ones(1)}, {})
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "w")]
    assert modes[0] == modes[1]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("x")
    entries = [("a", "f4", (3,))]
    for path in ("folder", "absent/file", "text/file", "a\0b", "n" * 300):
        with pytest.raises(TraceError) as caught:
            create_tensors(tmp_path / path, entries, {})
        assert str(caught.value).startswith(printable(str(tmp_path / path)))
    with pytest.raises(TraceError, match=r"/dev/null.* device"):
        create_tensors("/dev/null", entries, {})
    assert sorted(os.listdir(tmp_path)) == ["folder", "text"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TraceError, match="Permission denied"):
        create_tensors(tmp_path / "t", [("a", "f4", (3,))], {})


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TraceError, match=r"big\.safetensors.* 4,000,000 bytes.*No space left"):
        create_tensors(tmp_path / "big.safetensors", [("a", "f4", (1_000_000,))], {})
    assert os.listdir(tmp_path) == []


def test_the_space_is_reserved_before_anything_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(TraceError, match="4,000,000 bytes of data: File too large"):
            create_tensors(tmp_path / "big", [("a", "f4", (1_000_000,))], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    with create_tensors(tmp_path / "big", [("a", "f4", (1_000_000,))], {}) as writer:
        held = writer.arrays["a"]
    assert (tmp_path / "big").stat().st_blocks * 512 >= held.nbytes


def test_without_a_way_to_reserve_it_writes_zeros(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    save_tensors(tmp_path / "w", {"a": np.arange(400_000.0)}, {})
    assert np.array_equal(open_tensors(tmp_path / "w")["a"], np.arange(400_000.0))


@pytest.mark.parametrize(
    ("entries", "metadata", "says"),
    [
        ([("a", "f4", (1,)), ("a", "f4", (1,))], {}, "'a'"),
        ([("__metadata__", "f4", (1,))], {}, "'__metadata__'"),
        ([("a", "f4", (-1,))], {}, "shape"),
        ([("a", "f4", (2**61,))], {}, "shape"),
        ([("a", "f4", (2**62, 2**62))], {}, "shape"),
        ([("a", "c16", (1,))], {}, "complex128"),
        ([("a", object, (1,))], {}, "object"),
        ([("a", "U3", (1,))], {}, "U3"),
        ([("a", "f4", (1,))], {"n": 1}, "metadata"),
        ([("\ud800", "f4", (1,))], {}, "surrogates"),
        ([("a", "f4", (1,))], {"text": "\ud800"}, "surrogates"),
    ],
)
def test_entries_that_no_file_can_hold(tmp_path, entries, metadata, says):
    with pytest.raises(TraceError, match=says):
        create_tensors(tmp_path / "t", entries, metadata)
    assert os.listdir(tmp_path) == []


def refused(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_disk_that_fails_is_told_and_leaves_nothing(tmp_path, monkeypatch, call):
    if not hasattr(os, call):
        pytest.skip(f"there is no os.{call} here")
    monkeypatch.setattr(outputs, "PENDING", 1000)
    monkeypatch.setattr(os, call, refused)
    (tmp_path / "w").write_text("old")
    arrays = {str(i): np.arange(500.0) + i for i in range(10)}
    with pytest.raises(TraceError, match=r"w: cannot write 40,000 bytes of data: Input/output error"):
        save_tensors(tmp_path / "w", arrays, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    save_tensors(tmp_path / "w", arrays, {}, sync=False)  # which asks nothing of the disk
    assert sorted(safetensors.numpy.load_file(tmp_path / "w")) == sorted(arrays)


@pytest.mark.parametrize("sync", [True, False])
def test_what_is_flushed_on_the_way_is_all_there(tmp_path, monkeypatch, sync):
    monkeypatch.setattr(outputs, "PENDING", 1)
    monkeypatch.setattr(tensorfile, "_BLOCK_BYTES", 4096)
    x = np.random.default_rng(0).normal(size=(40, 30, 20)).astype(np.float32)
    arrays = {"x": x, "turned": x.T, "part": x[:, ::2, 3:], "back": x[::-1], "one": x[0, 0, 0], "none": x[:0]}
    save_tensors(tmp_path / "w", arrays, {"a": "b"}, sync=sync)
    found = safetensors.numpy.load_file(tmp_path / "w")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert os.listdir(tmp_path) == ["w"]
