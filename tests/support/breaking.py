"""Ways to break the checkpoint of `tiny_checkpoint`, and what every refusal must look like."""

import json
import os
import pickle
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from support import tiny_checkpoint as tiny
from support.tiny_checkpoint import CONFIG

from gpt2np.errors import Gpt2npError

WEIGHTS, BIN, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
ABSENT = object()


def message_of(error: Gpt2npError, kind: type[Gpt2npError], *parts: str) -> str:
    """The message, which must be one line of sane length and have these parts."""
    message = str(error)
    assert type(error) is kind, message
    assert "\n" not in message
    assert len(message) < 1000
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"
    return message


def assert_refused(out: str, err: str, message: str) -> None:
    """What the command line has said: nothing on stdout, one line on stderr besides which model ran."""
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("gpt2np: model ")]
    assert lines == [f"gpt2np: {message}"]


# Each gives a function of the folder that it breaks


def put(name, content):
    """A file with this content: bytes, text, something to dump as JSON, or ABSENT."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if content is not ABSENT:
            data = content if isinstance(content, bytes | str) else json.dumps(content)
            (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def folder_instead(name):
    return lambda folder: (folder / name).unlink() or (folder / name).mkdir()


def cut(name, keep):
    return lambda folder: put(name, (folder / name).read_bytes()[:keep])(folder)


def config(**changes):
    table = {key: value for key, value in {**CONFIG, **changes}.items() if value is not ABSENT}
    return put("config.json", table)


def tensors(**changes):
    """Arrays by name, `__` standing for a dot: another array, ABSENT, or a function of the right array."""

    def change(folder: Path) -> None:
        arrays = tiny.tensors()
        for key, value in changes.items():
            name = key.replace("__", ".")
            name = f"transformer.{name}" if f"transformer.{name}" in arrays else name
            arrays[name] = value(arrays[name]) if callable(value) else value
        arrays = {name: array for name, array in arrays.items() if array is not ABSENT}
        put(WEIGHTS, tiny.safetensors(arrays))(folder)

    return change


def header(name, **changes):
    """The header's entry of a tensor with some of its fields changed."""

    def change(folder: Path) -> None:
        entries, data = tiny.split((folder / WEIGHTS).read_bytes())
        entries[name] |= changes
        put(WEIGHTS, tiny.join(entries, data))(folder)

    return change


def torch(content):
    return lambda folder: put(WEIGHTS, ABSENT)(folder) or put(BIN, content)(folder)


def running(protocol):
    """A state dict whose pickle makes a folder "ran" when Python's own unpickler reads it."""

    class Runs:
        def __reduce__(self):
            return os.mkdir, (self.folder,)

    def change(folder: Path) -> None:
        Runs.folder = str(folder / "ran")
        torch(tiny.torch_zip(pickle.dumps({"wte.weight": Runs()}, protocol)))(folder)

    return change


def sharded(**changes):
    """Two shards; `name=file` changes the weight map, `then` is another way to break the folder."""
    then = changes.pop("then", None)

    def change(folder: Path) -> None:
        tiny.write_sharded(folder)
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= {f"transformer.{key.replace('__', '.')}": to for key, to in changes.items()}
        put(INDEX, index)(folder)
        if then:
            then(folder)

    return change


def vocab(**changes):
    ids = {key: id for key, id in {**tiny.vocabulary()[0], **changes}.items() if id is not ABSENT}
    return put("vocab.json", ids)


def merges(*lines):
    return put("merges.txt", "".join(f"{line}\n" for line in lines))


def signalling(array):
    array.view("<u4")[0] = 0x7F800001  # a NaN that NumPy warns of when it is converted
    return array


# Any damage at all, as bytes: often near the start, where headers are, or the end, where zip has its own
places = st.one_of(st.floats(0, 1, exclude_max=True), st.integers(-2000, 4000))
damage = st.one_of(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4), places)
several = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def damaged(file: bytes, how) -> bytes:
    """Bytes replaced, or the end cut off, at places that are bytes or a part of the length."""

    def at(place: float) -> int:
        return int(place * len(file)) if isinstance(place, float) else place % len(file)

    if not isinstance(how, list):
        return file[: at(how)]
    changed = bytearray(file)
    for place, byte in how:
        changed[at(place)] = byte
    return bytes(changed)
