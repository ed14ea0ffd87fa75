"""Files are built by hand here, opcode by opcode; where torch is installed, it is asked as well."""

import contextlib
import io
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2np.checkpoints import torchfile
from gpt2np.checkpoints.torchfile import read_torch_tree
from gpt2np.errors import CheckpointError
from gpt2np.ops.narrow_weights import BFLOAT16, widened

pytestmark = pytest.mark.filterwarnings("error")


def read_torch(path):
    """The tensors of the only dict of a file that has some."""
    file = torchfile.read_torch(path)
    (keys,) = file.tables
    arrays = file.arrays(keys)
    return {name: widened(a) if a.dtype == BFLOAT16 else a for name, a in arrays.items()}


MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
TORCH_NAMES = {"f4": "Float", "f2": "Half", "f8": "Double", "i8": "Long", "i4": "Int", "i2": "Short",
               "i1": "Char", "u1": "Byte", "b1": "Bool", "bf16": "BFloat16"}  # fmt: skip


# A small writer of pickles: each function gives the opcodes that leave its value on the stack


def num(n):
    return b"J" + struct.pack("<i", n) if abs(n) < 2**31 else pickle.dumps(n, 2)[2:-1]


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(function, *args):
    return function + tup(*args) + b"R"


def table(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def reference(*items):
    return tup(text("storage"), *items) + b"Q"


def storage(key, kind, length, *view):
    kind = name("torch", TORCH_NAMES[kind] + "Storage")
    return reference(kind, text(key), text("cpu"), num(length), *view)


ORDERED = name("collections", "OrderedDict") + b")R"
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
OLD_REBUILD = name("torch._utils", "_rebuild_tensor")
PARAMETER = name("torch._utils", "_rebuild_parameter")


def tensor(key, kind, length, offset, shape, stride, view=()):
    return call(REBUILD, storage(key, kind, length, *view), num(offset),
                tup(*map(num, shape)), tup(*map(num, stride)), b"\x89", ORDERED)  # fmt: skip


def program(body):
    return b"\x80\x02" + body + b"."


def zipped(body, storages=None, root="archive", byteorder="little", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", program(body))
        if byteorder:
            archive.writestr(f"{root}/byteorder", byteorder)
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}/data/{key}", data, compression)
        archive.writestr(f"{root}/version", "3\n")
    return file.getvalue()


def legacy(body, storages=None, lengths=None):
    storages = storages or {}
    head = pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL, 2) + pickle.dumps({"little_endian": True}, 2)
    rows = (struct.pack("<q", (lengths or {}).get(key, 0)) + data for key, data in storages.items())
    return head + program(body) + pickle.dumps(list(storages), 2) + b"".join(rows)


def write(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    return path


SIX = np.arange(6, dtype="<f4")
W = tensor("0", "f4", 6, 0, (2, 3), (3, 1))


# What is read


@pytest.mark.parametrize("container", ["zip", "zip of another name", "zip without byteorder", "legacy"])
def test_a_hand_made_state_dict(tmp_path, container):
    body = ORDERED + b"(" + b"".join(
        (
            text("w") + W,
            text("transposed") + tensor("0", "f4", 6, 0, (3, 2), (1, 3)),
            text("part") + tensor("0", "f4", 6, 1, (2,), (2,)),
            text("repeated") + tensor("0", "f4", 6, 4, (2, 2), (0, 1)),
            text("scalar") + tensor("0", "f4", 6, 5, (), ()),
            text("empty") + tensor("1", "f8", 0, 0, (0, 3), (3, 1)),
            text("mask") + tensor("2", "b1", 2, 0, (2,), (1,)),
            text("p") + call(PARAMETER, W, b"\x88", ORDERED),
            text("q") + call(PARAMETER[:-1] + b"_with_state\n", W, b"\x88", ORDERED, b"}"),
            text("old") + call(OLD_REBUILD, storage("0", "f4", 6), num(0), tup(num(6)), tup(num(1))),
            text("bf16") + tensor("3", "bf16", 2, 0, (2,), (1,)),
            text("step") + num(7),
            text("note") + text("words"),
            text("size") + call(name("torch", "Size"), tup(num(1))),
            text("dtype") + name("torch", "float32"),
        )
    ) + b"u" + table(_metadata=ORDERED) + b"b"  # fmt: skip
    storages = {
        "0": SIX.tobytes(),
        "1": b"",
        "2": b"\1\0",
        "3": np.array([0x3F80, 0xC020], "<u2").tobytes(),
    }
    content = {
        "zip": lambda: zipped(body, storages),
        "zip of another name": lambda: zipped(body, storages, root="gpt2/x"),
        "zip without byteorder": lambda: zipped(body, storages, byteorder=None),
        "legacy": lambda: legacy(body, storages, {"0": 6, "2": 2, "3": 2}),
    }[container]()
    path = write(tmp_path, content)
    arrays = read_torch(path)
    path.unlink()
    expected = {
        "w": SIX.reshape(2, 3),
        "transposed": SIX.reshape(2, 3).T,
        "part": SIX[1:4:2],
        "repeated": np.float32([[4, 5], [4, 5]]),
        "scalar": np.float32(5),
        "empty": np.zeros((0, 3)),
        "mask": np.array([True, False]),
        "p": SIX.reshape(2, 3),
        "q": SIX.reshape(2, 3),
        "old": SIX,
        "bf16": np.float32([1, -2.5]),
    }
    assert list(arrays) == list(expected)
    for key, array in expected.items():
        assert isinstance(arrays[key], np.ndarray), key
        assert arrays[key].dtype == array.dtype, key
        assert arrays[key].shape == array.shape, key
        assert np.array_equal(arrays[key], array), key
        assert not arrays[key].flags.writeable, key
        assert arrays[key].flags.aligned, key


@pytest.mark.parametrize("kind", TORCH_NAMES)
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_every_dtype_in_both_byte_orders(tmp_path, kind, byteorder):
    dtype = np.dtype("u2" if kind == "bf16" else kind)
    values = np.array([1, 0], dtype) if kind != "bf16" else np.array([0x3F80, 0], dtype)
    stored = values.astype(dtype.newbyteorder("<" if byteorder == "little" else ">"))
    body = table(x=tensor("k", kind, 2, 0, (2,), (1,)))
    (array,) = read_torch(
        write(tmp_path, zipped(body, {"k": stored.tobytes()}, byteorder=byteorder))
    ).values()
    assert array.tolist() == [1, 0]
    assert array.dtype == (np.float32 if kind == "bf16" else dtype)
    assert array.dtype.isnative


def test_tensors_of_one_storage_share_their_memory(tmp_path):
    body = table(wte=W, lm_head=W, part=tensor("0", "f4", 6, 3, (3,), (1,)))
    arrays = read_torch(write(tmp_path, zipped(body, {"0": SIX.tobytes()})))
    assert np.shares_memory(arrays["wte"], arrays["lm_head"])
    assert np.shares_memory(arrays["wte"], arrays["part"])


def test_every_dict_with_tensors_is_found_and_its_settings_beside_it(tmp_path):
    inner = table(state_dict=table(w=W), name=text("gpt"))
    namespace = name("argparse", "Namespace") + b")\x81" + table(n_head=num(2)) + b"b"
    body = table(epoch=num(3), model=inner, loss=W, args=namespace, other=table(a=num(1), b=b"N", c=b"]"))
    file = torchfile.read_torch(write(tmp_path, zipped(body, {"0": SIX.tobytes()})))
    assert {keys: list(tensors) for keys, tensors in file.tables.items()} == {
        (): ["loss"],
        ("model", "state_dict"): ["w"],
    }
    assert file.settings == {
        (): {"epoch": 3},
        ("model",): {"name": "gpt"},
        ("args",): {"n_head": 2},
        ("other",): {"a": 1, "b": None},
    }
    assert np.array_equal(file.arrays(("model", "state_dict"))["w"], SIX.reshape(2, 3))


def test_what_nobody_asks_for_may_lie_outside_its_storage(tmp_path):
    body = table(model=table(w=W), optimizer=table(x=tensor("0", "f4", 6, 7, (1,), (1,))))
    file = torchfile.read_torch(write(tmp_path, zipped(body, {"0": SIX.tobytes()})))
    assert list(file.arrays(("model",))) == ["w"]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: tensor 'x': reaches element 7"):
        file.arrays(("optimizer",))


def new(kind):
    """An object as protocol 2 makes it: without a call."""
    return kind + b")\x81"


HARMLESS = {
    "options": new(name("argparse", "Namespace")) + table(lr=num(1), n=num(3)) + b"b",
    "config of the script": new(name("__main__", "GPTConfig")) + table(n=num(3)) + b"b",
    "config of its module": new(name("model", "GPTConfig")) + tup(b"N", table(n=num(3))) + b"b",
    "class of the script": name("__main__", "GPT"),
    "dict with a default": call(name("collections", "defaultdict"), name("builtins", "dict"))
    + b"(" + text("a") + num(1) + b"u",
    "set": call(name("builtins", "set"), b"](" + num(1) + b"e"),
    "path": call(name("pathlib", "PosixPath"), text("/"), text("data")),
    "device": call(name("torch", "device"), text("cuda"), num(0)),
    "list's subclass": new(name("omegaconf.listconfig", "ListConfig")) + b"(" + num(1) + b"e",
    "number of NumPy": call(
        name("numpy.core.multiarray", "scalar"),
        call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88") + tup(num(3), text("<"), b"N") + b"b",
        call(name("_codecs", "encode"), text("abcdefgh"), text("latin1")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_objects_beside_the_weights_do_no_harm(tmp_path, kind, container):
    body, data = table(model=table(w=W), other=HARMLESS[kind]), {"0": SIX.tobytes()}
    content = zipped(body, data) if container == "zip" else legacy(body, data, {"0": 6})
    assert list(read_torch(write(tmp_path, content))) == ["w"]


def test_an_object_with_the_same_state_many_times_takes_no_memory(tmp_path):
    import tracemalloc

    state = b"}q\1(" + b"".join(text(f"{i}") + b"N" for i in range(20_000)) + b"u"
    many = b"](" + state + (new(name("__main__", "C")) + b"h\1b") * 20_000 + b"e"
    tracemalloc.start()
    assert list(read_torch(write(tmp_path, zipped(table(model=table(w=W), x=many), {"0": BYTES})))) == ["w"]
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_a_bare_tensor(tmp_path):
    path = write(tmp_path, zipped(W, {"0": SIX.tobytes()}))
    assert list(read_torch(path)) == list(read_torch_tree(path)) == ["tensor"]
    assert np.array_equal(read_torch(path)["tensor"], SIX.reshape(2, 3))


def test_an_ordered_dict_as_python_2_wrote_it(tmp_path):
    pairs = b"](](U\x01w" + W + b"ee"
    body = call(name("collections", "OrderedDict"), pairs)
    assert list(read_torch(write(tmp_path, legacy(body, {"0": SIX.tobytes()}, {"0": 6})))) == ["w"]


# What is refused


class Hostile:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def attack(proof):
    command = f"touch {proof}"
    path = text(command)
    return {
        "os.system": (call(name("os", "system"), path), "os.system"),
        "posix.system": (call(name("posix", "system"), path), "posix.system"),
        "eval": (call(name("builtins", "eval"), text(f"open({str(proof)!r}, 'w')")), "builtins.eval"),
        "eval of Python 2": (call(name("__builtin__", "eval"), text("1")), "__builtin__.eval"),
        "by stack": (text("os") + text("system") + b"\x93" + tup(path) + b"R", "os.system"),
        "by old instruction": (b"(" + path + b"ios\nsystem\n", "os.system"),
        "by object": (b"(" + name("os", "system") + path + b"o", "os.system"),
        "by newobj": (name("subprocess", "Popen") + tup(path) + b"\x81", "subprocess.Popen"),
        "named, not called": (table(w=W, x=name("os", "system")), "os.system"),
        "via getattr": (call(name("builtins", "getattr"), REBUILD, text("x")), "builtins.getattr"),
        "attribute of torch": (call(name("torch", "load"), path), "torch.load"),
        "dotted attribute": (call(name("torch._utils", "os.system"), path), "torch._utils.os.system"),
        "module of ours": (call(name("gpt2np.files", "os.system"), path), "gpt2np.files.os.system"),
        "numpy": (call(name("numpy", "load"), path), "numpy.load"),
        "extension": (b"\x82\x01" + tup(path) + b"R", "EXT1"),
        "state of a function": (REBUILD + b"}" + text("__code__") + num(1) + b"sb" + tup(path) + b"R", ""),
        "__reduce__": (pickle.dumps(Hostile(os.system, command), 2)[2:-1], "posix.system"),
        "__reduce__, protocol 4": (pickle.dumps(Hostile(os.system, command), 4)[2:-1], "posix.system"),
        "shell by newobj": (new(name("os", "system")), "os.system"),
        "state set in a class": (name("__main__", "C") + table(x=num(1)) + b"b" + tup() + b"R", "__main__.C"),
        "object called": (call(name("__main__", "run"), path), "__main__.run"),
        "object's method called": (new(name("argparse", "Namespace")) + tup(path) + b"R", "global"),
        "options that are a class": (new(name("argparse", "os.system")), "argparse.os.system"),
        "set of a hostile kind": (call(name("builtins", "exec"), path), "builtins.exec"),
        "whole model": (call(name("transformers", "GPT2LMHeadModel")), "transformers.GPT2LMHeadModel"),
    }  # fmt: skip


@pytest.mark.parametrize("container", [zipped, legacy, program])
@pytest.mark.parametrize("kind", attack("x"))
def test_a_pickle_that_would_run_something_is_refused(tmp_path, kind, container):
    proof = tmp_path / "proof"
    body, says = attack(proof)[kind]
    path = write(tmp_path, container(body))
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert not proof.exists()
    assert os.listdir(tmp_path) == [path.name]


def test_the_attacks_are_real(tmp_path):
    body, _ = attack(tmp_path / "proof")["posix.system"]
    pickle.loads(program(body))
    assert (tmp_path / "proof").exists()


BYTES = SIX.tobytes()


def reaching(*args, length=6, data=BYTES):
    return zipped(table(w=tensor("0", "f4", length, *args)), {"0": data})


def shaped(shape, stride):
    return zipped(table(w=call(REBUILD, storage("0", "f4", 6), num(0), shape, stride)), {"0": BYTES})


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return file.getvalue()


def nested_tuples(depth):
    """A value of 2**depth leaves in a few hundred bytes: to print, compare or hash it would take for ever."""
    return b")q\0" + b"h\0\x86q\0" * depth


def lies_in_directory(content, at, value):
    """Change a number in the zip directory's entry for the storage."""
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0")) + at
    return content[:place] + struct.pack("<I", value) + content[place + 4 :]


GOOD = zipped(table(w=W), {"0": BYTES})
GOOD_LEGACY = legacy(table(w=W), {"0": BYTES}, {"0": 6})

MALFORMED = {
    "empty": (b"", "empty"),
    "plain text": (b"hello, this is no model\n", "begins with b'hello, t'"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS"),
    "tar file": (tar(), "tar file"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "no torch file"),
    "only PK": (b"PK\x03\x04", "BadZipFile"),
    "zip cut in half": (GOOD[: len(GOOD) // 2], "BadZipFile"),
    "zip without its last byte": (GOOD[:-1], "BadZipFile"),
    "zip of something else": (zipped(b"N").replace(b"data.pkl", b"date.pkl"), "one data.pkl, found 0"),
    "zip with two pickles": (zipped(b"N", {"data.pkl": b""}), "one data.pkl, found 2"),
    "compressed storage": (zipped(table(w=W), {"0": BYTES}, compression=8), "archive/data/0: compressed"),
    "storage missing": (zipped(table(w=W), {"1": BYTES}), "archive/data/0: missing"),
    "storage short": (zipped(table(w=W), {"0": BYTES[:-1]}), "storage '0': expected 6 x 4 bytes, found 23"),
    "storage long": (zipped(table(w=W), {"0": BYTES + b"1"}), "storage '0': expected 6 x 4 bytes, found 25"),
    "storage elsewhere": (lies_in_directory(GOOD, 42, 3), "archive/data/0: not where"),
    "storage past the end": (lies_in_directory(GOOD, 42, 1 << 30), "archive/data/0: not where"),
    "storage of 4 GB": (lies_in_directory(GOOD, 24, 2**32 - 2), "archive/data/0: not where"),
    "length huge": (reaching(0, (1,), (1,), length=2**62), "found 24"),
    "length negative": (reaching(0, (0,), (1,), length=-1, data=b""), "storage '0'"),
    "offset too large": (reaching(6, (1,), (1,)), "tensor 'w': reaches element 6"),
    "offset negative": (reaching(-1, (1,), (1,)), "whole numbers"),
    "offset huge": (reaching(2**62, (1,), (1,)), "tensor 'w': reaches"),
    "shape too large": (reaching(0, (7,), (1,)), "tensor 'w': reaches element 6"),
    "shape negative": (reaching(0, (-1,), (1,)), "whole numbers"),
    "shape with too few strides": (reaching(0, (2, 3), (1,)), "2 axes and 1 strides"),
    "shape of 65 axes": (reaching(0, (1,) * 65, (1,) * 65), "65 axes"),
    "shape repeated without end": (reaching(0, (2**40, 6), (0, 1)), "repeats a storage"),
    "shape absurd but empty": (reaching(0, (2**62, 2**62, 0), (1, 1, 1)), "damaged"),
    "stride too large": (reaching(0, (2, 3), (4, 1)), "tensor 'w': reaches element 6"),
    "stride negative": (reaching(5, (3,), (-1,)), "whole numbers"),
    "stride huge": (reaching(0, (2,), (2**62,)), "tensor 'w': reaches"),
    "stride huge and unused": (reaching(0, (1,), (2**63,)), "damaged"),
    "shape a list": (shaped(b"]", tup()), "expected a tuple"),
    "shape of text": (shaped(tup(text("1")), tup(num(1))), "whole numbers"),
    "shape a bomb": (shaped(nested_tuples(60), tup(num(1), num(1))), "whole numbers"),
    "tensor without arguments": (zipped(table(w=call(REBUILD))), "damaged"),
    "tensor on no storage": (zipped(table(w=call(REBUILD, b"N", num(0), tup(), tup()))), "storage"),
    "parameter of no tensor": (zipped(table(w=call(PARAMETER, num(1)))), "expected a tensor"),
    "storage reference is text": (zipped(text("0") + b"Q"), "reference to a storage"),
    "storage of no type": (zipped(reference(num(1), text("0"), text(""), num(1))), "reference to a storage"),
    "storage a function": (zipped(reference(REBUILD, text("0"), text(""), num(1))), "reference to a storage"),
    "storage view": (legacy(storage("0", "f4", 6, tup())), "reference to a storage"),
    "dtype called": (zipped(call(name("torch", "float32"))), "refuses to call torch.float32"),
    "number called": (zipped(num(1) + b")R"), "expected a global"),
    "a list on top": (zipped(b"]"), "expected a dict"),
    "nothing on top": (zipped(b"N"), "expected a dict"),
    "no tensors": (zipped(table(a=num(1))), "no tensors"),
    "empty dict": (zipped(b"}"), "no tensors"),
    "a number for a name": (zipped(b"}" + num(3) + W + b"s", {"0": BYTES}), "no tensors"),
    "a bomb for a name": (zipped(b"}" + nested_tuples(60) + W + b"s", {"0": BYTES}), "no tensors"),
    "dicts 10,000 deep": (zipped((b"}" + text("a")) * 10_000 + b"N" + b"s" * 10_000), "no tensors"),
    "empty pickle": (zipped(b""), "damaged"),
    "pickle cut short": (zipped(table(w=W)[:-5]), ""),
    "pickle of garbage": (zipped(b"\xff\xfe\xfd"), "damaged"),
    "stack underflow": (zipped(b"\x86\x86\x86R"), ""),
    "mark underflow": (zipped(b"t"), "damaged"),
    "memo of nothing": (zipped(b"h\x07"), "damaged"),
    "odd items": (zipped(b"}(" + num(1) + b"u"), "damaged"),
    "append to a dict": (zipped(b"}" + num(1) + b"a"), "expected a list"),
    "a bomb for a key": (zipped(b"}" + nested_tuples(60) + num(1) + b"s"), "no tensors"),
    "deep nesting": (zipped(b"]" * 50_000 + b"a" * 49_999), "expected a dict"),
    "deep tuples": (zipped(b")" + b"\x85" * 50_000), "expected a dict"),
    "marks without end": (zipped(b"(" * 50_000), "damaged"),
    "text that lies about its length": (zipped(b"X\xff\xff\xff\x7fabc"), "damaged"),
    "long pickle": (zipped(b"N" * 4_000_001), "archive/data.pkl: 4,000,004 bytes"),
    "an ordinary pickle": (pickle.dumps({"w": 1}, 2), "none that torch.save wrote"),
    "a pickle cut short": (pickle.dumps({"w": 1}, 2)[:-1], "damaged"),
    "legacy: only the magic number": (pickle.dumps(MAGIC, 2), "damaged"),
    "legacy: cut in the pickle": (GOOD_LEGACY[:100], "damaged"),
    "legacy: cut in a storage": (GOOD_LEGACY[:-1], "storage '0': ends at byte"),
    "legacy: storage too short": (legacy(table(w=W), {"0": BYTES}, {"0": 5}), "storage '0': expected 6 x 4"),
    "legacy: storage far too long": (legacy(table(w=W), {"0": BYTES}, {"0": 2**62}), "storage '0': ends"),
    "legacy: storage negative": (legacy(table(w=W), {"0": BYTES}, {"0": -1}), "storage '0'"),
    "legacy: storage missing": (legacy(table(w=W)), "storage '0': missing"),
    "legacy: storage unknown": (legacy(table(w=W), {"1": BYTES}, {"1": 6}), "storage '1'"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused_in_one_sentence(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert says in message
    assert len(message) < len(str(path)) + 510


def test_places_that_are_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent", "/dev/zero"):
        with pytest.raises(CheckpointError, match=str(path)):
            read_torch(path)


@pytest.mark.parametrize("good", [GOOD, GOOD_LEGACY], ids=["zip", "legacy"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_do_worse_than_an_error(tmp_path, good, data):
    content = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    read_everything(write(tmp_path, bytes(content[:end])))


def read_everything(path):
    """Touch all of a file: that works or is an error of ours, and anything else fails the test."""
    with contextlib.suppress(CheckpointError):
        for array in read_torch(path).values():
            if array.size < 10_000:
                array.tobytes()


PIECES = [bytes([opcode]) for opcode in b"()]}tusaebRQN02\x85\x86"]
PIECES += [b"K\x01", b"q\0", b"h\0", text("w"), W, ORDERED, REBUILD, tup(num(2)), storage("0", "f4", 6)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(body=table(w=W))
def test_any_row_of_instructions(tmp_path, body):
    read_everything(write(tmp_path, zipped(body, {"0": BYTES})))


# torch itself


def torch_state_dict(torch):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    module = torch.nn.Linear(3, 2)
    values = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "expanded": base[:1].expand(5, 6),
        "permuted": torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "mask": torch.tril(torch.ones(4, 4, dtype=torch.bool)),
        "half": base.half(),
        "bf16": base.bfloat16(),
        "double": base.double(),
        "parameter": torch.nn.Parameter(base.clone()),
        **{
            kind: torch.tensor([-1, 2]).to(getattr(torch, kind))
            for kind in ("int64", "int32", "int16", "int8")
        },
        "uint8": torch.tensor([1, 255], dtype=torch.uint8),
    }
    state_dict = module.state_dict()
    state_dict.update(values, step=3, dtype=torch.float16, size=base.shape)
    return values, state_dict


@pytest.mark.needs("torch")
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves(tmp_path, zip_format, protocol):
    import torch

    values, state_dict = torch_state_dict(torch)
    path = tmp_path / "pytorch_model.bin"
    torch.save(state_dict, path, _use_new_zipfile_serialization=zip_format, pickle_protocol=protocol)
    arrays = read_torch(path)
    assert list(arrays) == ["weight", "bias", *values]
    for key, value in values.items():
        expected = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        assert arrays[key].dtype == expected.dtype, key
        assert arrays[key].shape == expected.shape, key
        assert np.array_equal(arrays[key], expected), key
        assert not arrays[key].flags.writeable, key


@pytest.mark.needs("torch")
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_other_things_that_torch_saves(tmp_path, zip_format):
    import torch

    path = tmp_path / "saved.bin"
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()

    def read(value):
        torch.save(value, path, _use_new_zipfile_serialization=zip_format)
        return read_torch(path)

    checkpoint = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1, "loss": 0.5}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zip_format)
    assert list(torchfile.read_torch(path).arrays(("model",))) == ["weight", "bias"]
    assert read(torch.arange(3))["tensor"].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match=r"refuses to load torch\.nn\.modules\.linear\.Linear"):
        read(module)
    with pytest.raises(CheckpointError, match="expected a dict"):
        read([torch.ones(1)])
