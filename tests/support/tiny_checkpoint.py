"""A whole checkpoint of 30 kB, written by hand with NumPy: nothing of gpt2np, torch or tokenizers in it."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 300,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "eos_token_id": 299,
}  # fmt: skip
DTYPES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "|i1": "I8", "<i8": "I64", "<c8": "C64"}
IDS = [41, 256, 275, 7, 299]  # a prompt

Tensors = Mapping[str, NDArray[Any]]


def tensors(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Every parameter, all random, under HF's own names."""
    rng, d = np.random.default_rng(seed), CONFIG["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (300, d), "wpe.weight": (16, d)}
    for i in range(CONFIG["n_layer"]):
        for name, n_in, n_out in (("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, 4 * d),
                                  ("mlp.c_proj", 4 * d, d)):  # fmt: skip
            shapes |= {f"h.{i}.{name}.weight": (n_in, n_out), f"h.{i}.{name}.bias": (n_out,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (d,), f"h.{i}.{norm}.bias": (d,)}
    shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    return {f"transformer.{name}": rng.normal(0, 0.5, s).astype("<f4") for name, s in shapes.items()}


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """256 bytes, 43 merges and `<|endoftext|>`: what vocab.json and merges.txt say."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    pieces = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
    merges = [f"Ġ {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    merges += "t h,h e,i n,e r,a n,r e,o n,a t,e n,n d,t i,e s,o r,th e,o f,Ġt he,Ġi n".split(",")
    pieces += [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>"]
    return {piece: id for id, piece in enumerate(pieces)}, merges


def header_of(arrays: Tensors) -> dict[str, Any]:
    """The header of a `.safetensors` file that holds these arrays one behind the other."""
    header, at = {}, 0
    for name, array in arrays.items():
        end = at + array.nbytes
        dtype = DTYPES[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    return header


def safetensors(arrays: Tensors, header: Any = None, metadata: Mapping[str, str] | None = None) -> bytes:
    """Such a file, with a header of one's own where one is given."""
    header = header_of(arrays) if header is None else header
    text = json.dumps({"__metadata__": dict(metadata)} | header if metadata else header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values())


def split(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a `.safetensors` file."""
    end = 8 + struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8:end]), file[end:]


def join(header: Any, data: bytes) -> bytes:
    """The file that has them."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def torch_zip(pickle: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """The zip archive that `torch.save` makes around a pickle and its storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def torch_file(arrays: Tensors, legacy: bool = False) -> bytes:
    """`pytorch_model.bin` with these float32 arrays, its pickle written opcode by opcode.

    `legacy` is the container of torch before 1.6: pickles one after another, then the numbers.
    """

    def text(s: str) -> bytes:
        return b"X" + struct.pack("<I", len(s.encode())) + s.encode()

    def whole(*numbers: int) -> bytes:
        return b"".join(b"J" + struct.pack("<i", n) for n in numbers)

    body = b"\x80\x02ccollections\nOrderedDict\n)R("
    for key, (name, array) in enumerate(arrays.items()):
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
        body += (
            b"ctorch\nFloatStorage\n"
            + text(str(key))
            + text("cpu")
            + whole(array.size)
            + b"N" * legacy
            + b"tQ"
            + whole(0)
        )
        strides = [stride // array.itemsize for stride in array.strides]
        body += b"(" + whole(*array.shape) + b"t(" + whole(*strides) + b"t\x89ccollections\nOrderedDict\n)RtR"
    storages = {str(key): a for key, a in enumerate(arrays.values())}
    if not legacy:
        return torch_zip(body + b"u.", {key: a.tobytes() for key, a in storages.items()})
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    rows = [struct.pack("<q", a.size) + a.tobytes() for a in storages.values()]
    return (
        b"".join(pickle.dumps(x, 2) for x in head)
        + body
        + b"u."
        + pickle.dumps(list(storages), 2)
        + b"".join(rows)
    )


def write(folder: Path, weights: str = "model.safetensors") -> Path:
    """The whole checkpoint: config.json, weights, vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = vocabulary()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / weights).write_bytes(
        (safetensors if weights.endswith(".safetensors") else torch_file)(tensors())
    )
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{m}\n" for m in merges), "utf-8")
    return folder


def write_sharded(folder: Path) -> Path:
    """The same with its weights in two shards and an index."""
    write(folder)
    (folder / "model.safetensors").unlink()
    every = tensors()
    names, half = list(every), len(every) // 2
    shards = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for shard, own in shards.items():
        (folder / shard).write_bytes(safetensors({name: every[name] for name in own}))
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
