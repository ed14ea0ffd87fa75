"""Broken dumps: each ends in one line that says which file, which array, and what is wrong."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from support import tiny_checkpoint as tiny
from support.breaking import damage, damaged, message_of, put, several
from support.random_model import random_model

from gpt2np.architectures.gpt2.config import Config
from gpt2np.errors import Gpt2npError, InputError, TraceError
from gpt2np.reference.dumps import dump_of, read_dump
from gpt2np.reference.placement import place

pytestmark = pytest.mark.filterwarnings("error")
X = np.arange(80, dtype="<f4").reshape(5, 16)
CONFIG = Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, vocab_size=60, eos_token_id=None)


def npy(array, **kwargs):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **kwargs)
    return file.getvalue()


def header(text, version=1):
    """The start of a `.npy` with this header, whatever it says."""
    raw = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw


def says(shape="(5, 16)", descr="'<f4'", order="False", version=1):
    return (
        header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}", version) + X.tobytes()
    )


def npz(compression=zipfile.ZIP_STORED, **entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def debug(*numbers, body=b""):
    return np.array([20240327, *numbers] + [0] * (255 - len(numbers)), "<i4").tobytes() + body


def header_of(**changes):
    """A `.safetensors` of `wte` whose entry is changed."""
    entry = {"dtype": "F32", "shape": [5, 16], "data_offsets": [0, 320]} | changes
    return tiny.join({"wte": entry}, X.tobytes())


PYTHON = np.array([{"a": 1}, None], dtype=object)
GIGANTIC = "(1000000000000, 1000000)"

# name of the file, its bytes, and what the message must say besides the path
FILES = {
    "empty": ("x.npz", b"", "empty"),
    "empty .bin": ("x.bin", b"", "empty"),
    "empty .safetensors": ("x.safetensors", b"", "empty"),
    "Git LFS pointer": ("x.npz", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "npz that is none": ("x.npz", b"hello, here are my tensors", ".npz", "no zip"),
    "npz cut short": ("x.npz", npz(wte__npy=npy(X))[:200], "zip"),
    "npz of text": ("x.npz", npz(readme__txt="hello"), "neither .npy arrays"),
    "npz with a stray file": ("x.npz", npz(wte__npy=npy(X), readme__txt="hello"), "'readme.txt'"),
    "npz without arrays": ("x.npz", b"PK\x05\x06" + bytes(18), "zip"),
    "npz of Python objects": ("x.npz", npz(a__npy=npy(PYTHON, allow_pickle=True)), "'a'", "Python objects"),
    "npz whose header is larger than its data": (
        "x.npz",
        npz(wte__npy=says("(6, 16)")),
        "'wte'",
        "384",
        "320",
    ),
    "npz whose header is smaller": ("x.npz", npz(wte__npy=says("(4, 16)")), "'wte'", "256", "320"),
    "npz of gigantic shape": ("x.npz", npz(wte__npy=says(GIGANTIC)), "'wte'", "needs"),
    "npz entry of no npy": ("x.npz", npz(wte__npy=b"hello"), "'wte'", "cannot be read"),
    "npz of an empty array": ("x.npz", npz(wte__npy=npy(np.empty((0, 16)))), "'wte'", "empty", "(0, 16)"),
    "npz with a broken checksum": (
        "x.npz",
        npz(wte__npy=npy(X)).replace(X.tobytes()[40:80], bytes(40), 1),
        "'wte'",
        "CRC",
    ),
    "npy cut short": ("x.npy", npy(X)[:-1], "'x'", "320", "319"),
    "npy with more behind it": ("x.npy", npy(X) + b"more", "'x'", "320", "324"),
    "npy without a header": ("x.npy", b"\x93NUMPY\x01\x00", "'x'", "cannot be read"),
    "npy that is none": ("x.npy", X.tobytes(), "'x'", "cannot be read"),
    "npy of version 3": ("x.npy", b"\x93NUMPY\x03\x00" + npy(X)[8:], "'x'", "(3, 0)"),
    "npy of version 9": ("x.npy", b"\x93NUMPY\x09\x00" + npy(X)[8:], "'x'", "(9, 0)"),
    "npy of gigantic shape": ("x.npy", says(GIGANTIC), "'x'", "needs"),
    "npy of negative shape": ("x.npy", says("(-5, -16)"), "'x'", "(-5, -16)"),
    "npy of a shape of text": ("x.npy", says("('a',)"), "'x'", "cannot be read"),
    "npy of unknown dtype": ("x.npy", says(descr="'<q9'"), "'x'", "cannot be read"),
    "npy of records": ("x.npy", says(descr="[('a', '<f4')]"), "'x'", "records"),
    "npy of Python objects": ("x.npy", npy(PYTHON, allow_pickle=True), "'x'", "Python objects"),
    "npy with code for a header": (
        "x.npy",
        header("__import__('os').abort()") + X.tobytes(),
        "cannot be read",
    ),
    "npy with a deep header": ("x.npy", header("(" * 5000) + X.tobytes(), "'x'", "cannot be read"),
    "npy with a long header": ("x.npy", header("{" + " " * 60000 + "}"), "'x'", "cannot be read"),
    "npy of an empty array": ("x.npy", npy(np.empty((5, 0))), "'x'", "empty", "(5, 0)"),
    "safetensors cut short": ("x.safetensors", header_of()[:-1], "data_offsets end"),
    "safetensors of another shape": ("x.safetensors", header_of(shape=[6, 16]), "'wte'", "384", "320"),
    "safetensors of another dtype": ("x.safetensors", header_of(dtype="F64"), "'wte'", "F64"),
    "safetensors of unknown dtype": ("x.safetensors", header_of(dtype="Q8"), "'wte'", "'Q8'"),
    "safetensors of float8": (
        "x.safetensors",
        header_of(dtype="F8_E4M3", shape=[5, 64]),
        "'wte'",
        "F8_E4M3, which NumPy does not have",
    ),
    "safetensors of nothing": ("x.safetensors", tiny.join({}, b""), "holds no arrays"),
    "safetensors of an empty array": (
        "x.safetensors",
        tiny.join({"wte": {"dtype": "F32", "shape": [0, 16], "data_offsets": [0, 0]}}, b""),
        "'wte'",
        "empty",
    ),
    "safetensors that lies about itself": (
        "x.safetensors",
        tiny.safetensors({"wte": X}, metadata={"gpt2np": "{"}),
        "'gpt2np'",
        "JSON",
    ),
    "pickle": ("x.pkl", b"\x80\x04}.", "a pickle, but none that torch.save wrote"),
    "torch cut short": ("x.pt", tiny.torch_file(tiny.tensors())[:-100], "zip"),
    "torch of nothing": ("x.pt", tiny.torch_zip(b"\x80\x02}."), "no tensors"),
    "torch list that holds itself": (
        "x.pt",
        tiny.torch_zip(b"\x80\x02]q\x00(h\x00h\x00e."),
        "more than 8 deep",
    ),
    "torch that runs code": (
        "x.pt",
        tiny.torch_zip(b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R."),
        "os.system",
        "torch.save(dict(output), FILE)",
    ),
    "torch of an output object": (
        "x.pt",
        tiny.torch_zip(b"\x80\x02ctransformers.modeling_outputs\nCausalLMOutput\n)R."),
        "torch.save(dict(output), FILE)",
    ),
    "debug state cut short": ("x.bin", debug(2, 1, 5, body=bytes(1000)), "2,268", "2,024"),
    "debug state of no tokens": ("x.bin", debug(2, 1, 0), "T 0"),
    "debug state of absurd size": ("x.bin", debug(2, 2**30, 2**30), "B 1073741824"),
    "debug state of another version": ("x.bin", debug(9, 1, 5, body=bytes(2000)), "version 9"),
    "debug state of its magic alone": ("x.bin", debug(2, 1, 5)[:16], "16 bytes"),
    "debug state of foreign ids": ("x.bin", debug(2, 1, 1, body=b"\xff" * 8 + bytes(244)), "0 to 59"),
    "bare numbers": ("x.bin", bytes(100), "100 bytes", "give a list of shapes"),
    "bare bytes": ("x.bin", b"\x01\x02\x03", "3 bytes", "shapes"),
    "JSON": ("x.json", b'{"wte": [1]}', "not .json"),
}


@pytest.mark.parametrize(("name", "content", "parts"), [(n, c, p) for n, c, *p in FILES.values()], ids=FILES)
def test_a_broken_file_is_refused_in_one_line(tmp_path, name, content, parts):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Gpt2npError) as caught:
        read_dump(path, config=CONFIG)
    message_of(caught.value, InputError, str(path), *parts)
    assert os.listdir(tmp_path) == [name]


def test_what_is_not_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "wte.npy").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, part in (
        ("none.npz", "No such file"),
        ("pipe", "device"),
        ("folder", "without .npy"),
        ("links", "link to nothing"),
        ("loop", "cannot be read"),
        ("a\0b", "null"),
    ):
        with pytest.raises(InputError) as caught:
            read_dump(tmp_path / name, config=CONFIG)
        message = message_of(caught.value, InputError, part)
        assert str(tmp_path) in message


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "wte.npy")
    with pytest.raises(InputError, match=r"wte\.npy: is no file"):
        read_dump(tmp_path)


def test_names_that_meet(tmp_path):
    (tmp_path / "h").mkdir()
    np.save(tmp_path / "h.wte.npy", X)
    np.save(tmp_path / "h" / "wte.npy", X)
    with pytest.raises(InputError, match=r"two files are called 'h\.wte'"):
        read_dump(tmp_path)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy(X))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(X))
    put("x.npz", file.getvalue())(tmp_path)
    with pytest.raises(InputError, match="'a' appears twice"):
        read_dump(tmp_path / "x.npz")


SHAPES = {
    "none": ("", "expected names with shapes"),
    "empty": ({}, "expected names with shapes"),
    "JSON cut short": ('{"a": [1', "JSON"),
    "JSON nested without end": ("[" * 100_000, "JSON"),
    "a number": (5, "expected names with shapes"),
    "of text": ({"a": "5"}, "'a'"),
    "negative": ({"a": [-5]}, "-5"),
    "zero": ({"a": [0]}, "above 0"),
    "fractions": ({"a": [2.5]}, "2.5"),
    "booleans": ({"a": [True]}, "True"),
    "absurd": ({"a": [2**50]}, "whole numbers"),
    "too many bytes": ({"a": [2**39, 2**39, 2**39]}, "bytes"),
    "an unknown dtype": ("a int8 100", "int8"),
    "a line of words": ("a float32 five", "line 1"),
    "the same name twice": ("a 1\na 2", "'a' appears twice"),
    "the same name twice in JSON": ('{"a": [1], "a": [2]}', "'a' appears twice"),
    "a file that is not there": ("shapes.json", "shapes.json: no such file"),
    "a name that is no text": ([[5, [5]]], "[5, [5]]"),
    "a list of three": ([["a", [5], "float32"]], "['a', [5], 'float32']"),
}


@pytest.mark.parametrize(("shapes", "part"), SHAPES.values(), ids=SHAPES)
def test_malformed_shapes(tmp_path, shapes, part):
    path = tmp_path / "dump.bin"
    path.write_bytes(bytes(100))
    with pytest.raises(InputError) as caught:
        read_dump(path, shapes=shapes)
    message_of(caught.value, InputError, part)


def test_shapes_for_a_file_that_says_its_own(tmp_path):
    np.save(tmp_path / "wte.npy", X)
    for path, kind in ((tmp_path / "wte.npy", "npy"), (tmp_path, "npy folder")):
        with pytest.raises(InputError, match=f"this is a {kind}"):
            read_dump(path, shapes={"wte": [5, 16]})


@pytest.mark.parametrize(
    "given_dump",
    [
        5,
        None,
        [],
        {},
        {"wte": PYTHON},
        {"wte": "text"},
        {"wte": object()},
        {"a": {"b": {}}},
        {"wte": np.empty((0, 3))},
    ],
    ids=["number", "none", "list", "nothing", "python", "text", "object", "nested", "empty"],
)
def test_what_is_no_dump(given_dump):
    with pytest.raises(InputError) as caught:
        dump_of(given_dump)
    message_of(caught.value, InputError)


def test_a_mapping_that_holds_itself():
    given_dump = {"wte": X}
    given_dump["again"] = given_dump
    with pytest.raises(InputError, match="6 deep"):
        dump_of(given_dump)


def test_arrays_of_other_kinds_are_told_not_placed(tmp_path):
    model = random_model(0)
    trace = model.trace([1, 2, 3, 4, 5])
    arrays = {
        "wte": trace["wte"],
        "ln_f": X.astype("i4"),
        "embed": X.astype("c8"),
        "wpe": X.astype(bool),
        "logits": np.array("text"),
        "h.0.ln_1": X.astype("g"),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    placement = place(read_dump(tmp_path / "x.npz"), trace, model.config)
    assert [p.site for p in placement.placed] == ["wte"]
    assert {r.name for r in placement.refused} == arrays.keys() - {"wte"}
    for refused in placement.refused:
        assert "only float16, bfloat16, float32 and float64" in refused.reason


@pytest.mark.parametrize("values", [np.nan, np.inf, -np.inf, 3e38, 0.0, 1e-45])
def test_any_values_are_values(values):
    model = random_model(0)
    trace = model.trace([1, 2, 3, 4, 5])
    arrays = {name: np.full_like(trace[name], values, dtype="f4") for name in trace.names()}
    placement = place(dump_of(arrays), trace, model.config)
    assert not placement.refused
    assert {p.site for p in placement.placed} == set(arrays)


@pytest.fixture(scope="module")
def whole():
    """A good file of every kind, by its name."""
    model = random_model(0)
    trace = model.trace([1, 2, 3, 4, 5])
    arrays = {name: trace[name].astype("<f4") for name in ("wte", "h.0.attn.pattern", "ln_f", "logits")}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    logits = b"".join(
        np.asarray(x).tobytes() for x in (np.arange(10, dtype="<i4"), arrays["logits"], np.float32(1))
    )
    activations = b"".join(np.asarray(array, "<f4").tobytes() for array in trace.to("llm.c").values())
    files = {
        "x.npz": file.getvalue(),
        "y.npz": npz(**{f"{name.replace('.', '__')}__npy": npy(array) for name, array in arrays.items()}),
        "wte.npy": npy(arrays["wte"]),
        "x.safetensors": tiny.safetensors(arrays),
        "x.pt": tiny.torch_file(arrays),
        "debug_state.bin": debug(2, 1, 5, body=logits),
        "activations.bin": activations,
    }
    return model, trace, files


NAMES = ("x.npz", "y.npz", "wte.npy", "x.safetensors", "x.pt", "debug_state.bin", "activations.bin")


@pytest.mark.parametrize("name", NAMES)
def test_any_damage_is_refused_or_read(tmp_path, whole, name):
    model, trace, files = whole
    good = read_dump(put_file(tmp_path, name, files[name]), config=model.config)
    assert place(good, trace, model.config).placed

    @settings(several, max_examples=100)
    @example(0.0)
    @example([(0, 0)])
    @given(damage)
    def check(how):
        path = put_file(tmp_path, name, damaged(files[name], how))
        try:
            dump = read_dump(path, config=model.config)
            for array in dump.arrays.values():
                assert array.size
            place(dump, trace, model.config)
        except (InputError, TraceError) as error:
            message_of(error, type(error))

    check()


def put_file(folder, name, content):
    put(name, content)(folder)
    return folder / name
