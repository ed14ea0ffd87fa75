"""What `gpt2np info FILE` says of a file: what it is, what ran, and which arrays it holds."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2np.capture.captured_manifest import is_captured
from gpt2np.cli.verbs.captured_facts import captured_facts
from gpt2np.errors import Gpt2npError, InputError, TraceError, short
from gpt2np.files import kind_of, read_text
from gpt2np.npzfile import NpzFile
from gpt2np.tables import counted, fitted, quoted, screen_width, table
from gpt2np.tensorfile import TensorFile, open_tensors
from gpt2np.tracing.plan import human_bytes

MOST = 40  # arrays in the text; --json lists all
TORCH = (".pt", ".pth", ".bin", ".ckpt")
LISTS = {"manifest.jsonl": "an experiment of captures", "index.jsonl": "a folder with an index"}
INDEXES = {"gpt2np.traces/1": "a folder of traces", "gpt2np.kv_dataset/1": "a folder of KV files"}
SCHEMAS = {
    "gpt2np.trace": "a trace",
    "gpt2np.dialect": "a trace in other names",
    "gpt2np.capture": "a capture",
    "gpt2np.captured": "a shard of captured prompts",
}
OF_TRACE = (
    "--trace takes it: trace and view, and lens, heads, stats, circuits and patch if all they read is in it"
)


def file_facts(path: str) -> dict[str, Any]:
    """A file or folder in plain data: `kind`, what it says of itself, and `arrays`.

    Raises:
        InputError, TraceError: it is missing, damaged, or nothing that gpt2np reads.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or folder")
    return _reader_of(path)(path)


def _reader_of(path: str) -> Callable[[str], dict[str, Any]]:
    """The function that reads a file, by its name and by the schema that it says it has."""
    suffix = Path(path).suffix.lower()
    if is_captured(path):
        return captured_facts
    if os.path.isdir(path) or suffix == ".jsonl":
        return _list
    if suffix == ".json":
        return _json
    schema = _said_by(_opened(path)).get("schema")
    if not isinstance(schema, str):
        return _torch if suffix in TORCH else _dump
    if schema.startswith("gpt2np.captured/"):
        return _shard
    return _capture if schema.startswith("gpt2np.capture/") else _trace


def _opened(path: str) -> TensorFile | NpzFile | None:
    """A file whose name says that it may be of ours."""
    if Path(path).suffix == ".safetensors":
        return open_tensors(path, error=InputError)
    return NpzFile(path) if Path(path).suffix == ".npz" else None


def _said_by(file: TensorFile | NpzFile | None) -> Mapping[str, Any]:
    """What a file of ours says of itself; empty where it is none."""
    metadata: Mapping[str, Any] = getattr(file, "metadata", {})
    if isinstance(file, NpzFile) and "gpt2np" in file:
        metadata = {"gpt2np": str(file["gpt2np"])}
    try:
        facts = json.loads(metadata["gpt2np"]) if "gpt2np" in metadata else metadata
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, Mapping) else {}


def _trace(path: str) -> dict[str, Any]:
    """A saved trace in any dialect: of a text, of a generation, or of keys and values alone."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.generation.saved_generation import is_whole_generation
    from gpt2np.kv.queries import KV

    trace = read_dialect(path)
    said = trace.metadata
    kind = "the trace of a text" if said.get("n_prompt") is None else "the trace of a generation"
    if said.get("predicted_next_token") is not None:
        kind = "a KV file"
        KV.of(trace).check_digest(path)
    facts: dict[str, Any] = {"file": path, "kind": kind, "bytes": os.path.getsize(path)}
    facts |= {key: said.get(key) for key in ("model", "commit", "fingerprint", "dtype")}
    facts["edited"] = trace.edited or None
    facts |= {"prompt": trace.prompt, "tokens": trace.tokens, "token_ids": list(trace.token_ids)}
    if len(trace.positions) < len(trace.token_ids):
        facts["positions"] = f"{len(trace.positions)} of {len(trace.token_ids)} are kept"
    if said.get("n_prompt") is not None:
        facts["prompt_tokens"] = said["n_prompt"]
    if is_whole_generation(trace):
        facts |= {key: said["generation"].get(key) for key in ("text", "stopped_by")}
    facts["predicted_next_token"] = said.get("predicted_next_token")
    facts |= _as_written(path)
    facts["next"] = "gpt2np kv query looks into it" if kind == "a KV file" else OF_TRACE
    return facts


def _as_written(path: str) -> dict[str, Any]:
    """Whose names a file of ours has, if they are not our own; and its arrays under the names that it has."""
    file = _opened(path)
    assert file is not None
    dialect = _said_by(file).get("dialect")
    names = [name for name in file.names if name != "gpt2np"]  # an npz says there what it is
    arrays = [_array(name, file.numpy_dtype(name), file.shape(name)) for name in names]
    return ({} if dialect is None else {"names_of": dialect}) | {"arrays": arrays}


def _capture(path: str) -> dict[str, Any]:
    """A capture file: prompt and response with their activations."""
    from gpt2np.capture.after_attention import after_attention
    from gpt2np.capture.capture_files import check_capture, load_capture

    capture = load_capture(path)
    facts: dict[str, Any] = {"file": path, "kind": "a capture", "bytes": os.path.getsize(path)}
    for phase in ("prompt", "response"):
        facts[phase] = capture[phase]["text"]
        facts[f"{phase}_tokens"] = len(capture[phase]["token_ids"])
    arrays = check_capture(capture, path)
    what = after_attention(capture)
    facts["after_attn"] = "not told by the file" if what is None else _AFTER_ATTENTION[what]
    facts["arrays"] = [_array(name, array.dtype, array.shape) for name, array in arrays.items()]
    facts["next"] = "gpt2np.capture.capture_files.load_capture reads it"
    return facts


_AFTER_ATTENTION = {
    "resid_mid": "resid_mid, the residual stream between attention and MLP",
    "ln_2": "ln_2, what the MLP reads: the residual stream behind a norm",
}


def _shard(path: str) -> dict[str, Any]:
    """One shard of a capture of many prompts."""
    facts: dict[str, Any] = {"file": path, "kind": SCHEMAS["gpt2np.captured"], "bytes": os.path.getsize(path)}
    return facts | _as_written(path) | {"next": f"gpt2np info {Path(path).parent} tells of the capture"}


def _torch(path: str) -> dict[str, Any]:
    """What torch.save wrote: a capture, or else the tensors of another program."""
    try:
        return _capture(path) if Path(path).suffix == ".pt" else _dump(path)
    except TraceError:
        return _dump(path)


def _dump(path: str) -> dict[str, Any]:
    """Arrays of another program, or the weights of a model."""
    from gpt2np.reference.dumps import read_dump

    dump = read_dump(path)
    weights = any(name.removeprefix("transformer.") == "wte.weight" for name in dump.arrays)
    size = os.path.getsize(path) if os.path.isfile(path) else sum(a.nbytes for a in dump.arrays.values())
    facts: dict[str, Any] = {
        "file": path,
        "kind": "the weights of a model" if weights else f"arrays of another program ({dump.kind})",
        "bytes": size,
    }
    if dump.token_ids is not None:
        facts["token_ids"] = dump.token_ids
    facts["arrays"] = [
        _array(name, array.dtype, array.shape) | {"dtype": dump.dtypes[name]}
        for name, array in dump.arrays.items()
    ]
    compare = f"gpt2np compare {path} --prompt TEXT holds them against ours"
    facts["next"] = f"gpt2np info --model {Path(path).parent} tells of the model" if weights else compare
    return facts


def _json(path: str) -> dict[str, Any]:
    """A KV file in JSON."""
    from gpt2np.kv.extraction import said_by
    from gpt2np.kv.reading import read_kv

    if Path(path).name == "config.json":
        raise InputError(f"{path}: belongs to a model: gpt2np info --model {Path(path).parent}")
    if is_captured(Path(path).parent):
        raise InputError(f"{path}: belongs to captured prompts: gpt2np info {Path(path).parent}")
    facts = {"file": path, "kind": "a KV file", "bytes": os.path.getsize(path)} | said_by(read_kv(path))
    return facts | {"next": "gpt2np kv query looks into it"}


def _list(path: str) -> dict[str, Any]:
    """A folder that gpt2np wrote many files into, or the list in it, or a ledger; else a folder of .npy."""
    found = [name for name in LISTS if os.path.isfile(os.path.join(path, name))]
    file = os.path.join(path, found[0]) if found else path
    if os.path.isdir(file):
        return _dump(path) if list(Path(path).glob("*.npy")) else _folder(path)
    kind = LISTS.get(Path(file).name, "lines of JSON")
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    try:
        rows = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        raise InputError(f"{file}: holds a line that is not JSON") from None
    listed = [row for row in rows if isinstance(row, dict) and "schema" not in row]
    if rows and isinstance(rows[0], dict) and rows[0].get("schema") in INDEXES:
        kind = INDEXES[rows[0]["schema"]]
    if listed and all({"step", "token_id", "probability"} <= row.keys() for row in listed):
        kind = "the ledger of a generation"
    return {"file": path, "kind": kind, "bytes": os.path.getsize(file), "entries": len(listed)}


def _folder(path: str) -> dict[str, Any]:
    """Any other folder: what is in it, by name and by how each file begins."""
    rows: list[dict[str, Any]] = []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        kind = "a folder" if entry.is_dir() else "a model" if entry.name == "config.json" else ""
        kind = kind or _kind_of_arrays(entry.path) or kind_of(entry.path)
        rows.append(
            {"name": entry.name, "kind": kind, "bytes": 0 if entry.is_dir() else entry.stat().st_size}
        )
    if not rows:
        raise InputError(f"{path}: is an empty folder")
    size = sum(row["bytes"] for row in rows)
    facts: dict[str, Any] = {"file": path, "kind": "a folder", "bytes": size, "entries": len(rows)}
    return facts | {"files": rows, "next": f"gpt2np info {os.path.join(path, 'FILE')} says more of one"}


def _kind_of_arrays(path: str) -> str:
    """What a file in a folder is by what it says of itself; empty if it says nothing."""
    try:
        file = _opened(path)
    except Gpt2npError:
        return ""
    schema = str(_said_by(file).get("schema"))
    return SCHEMAS.get(schema.partition("/")[0], "" if file is None else "arrays")


def _array(name: str, dtype: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    n_bytes = math.prod(shape) * dtype.itemsize
    return {"name": name, "dtype": dtype.name, "shape": list(shape), "bytes": n_bytes}


_ELSEWHERE = ("file", "bytes", "kind", "arrays", "files", "check", "next")  # of what is said of a file


def file_text(facts: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = [["file", f"{facts['file']}, {facts['bytes']:,} bytes"], ["is", facts["kind"]]]
    for key, value in facts.items():
        if key not in _ELSEWHERE and value is not None:
            rows.append([key.replace("_", " "), _shown(key, value)])
    parts = [table(rows, "<<", indent=0)]
    if arrays := facts.get("arrays"):
        cells = [
            [a["name"], a["dtype"], " ".join(map(str, a["shape"])), human_bytes(a["bytes"])] for a in arrays
        ]
        if len(cells) > MOST:
            rest = f"... {len(cells) - MOST} more"
            cells = [*cells[: MOST // 2], [rest, "", "", ""], *cells[-MOST // 2 :]]
        total = human_bytes(sum(a["bytes"] for a in arrays))
        title = f"{counted(len(arrays), 'array')}, {total}"
        parts.append(f"{title}\n" + fitted([["array", "dtype", "shape", "bytes"], *cells], "<<<>"))
    if files := facts.get("files"):
        listed = [[f["name"], f["kind"], human_bytes(f["bytes"])] for f in files[:MOST]]
        more = [[f"... {len(files) - MOST} more", "", ""]] if len(files) > MOST else []
        parts.append(fitted([["name", "kind", "bytes"], *listed, *more], "<<>"))
    return "\n\n".join([*parts, *([facts["next"]] if "next" in facts else [])])


def _shown(key: str, value: Any) -> str:
    """A fact in what is left of a line."""
    room = screen_width() - 24
    if isinstance(value, str):
        return quoted(value, room) if key in ("prompt", "text", "response", "input_text") else value
    if key in ("tokens", "input_tokens"):
        shown = " ".join(quoted(token) for token in value[:4]) + (" ..." if len(value) > 4 else "")
        return f"{len(value)}: {shown}"
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, dict):
        if "token" in value:
            return quoted(value["token"])
        return ", ".join(f"{name} {x}" for name, x in value.items() if isinstance(x, int | str))
    shown = short(value)
    return shown if len(shown) <= room else shown[: room - 1] + "…"
