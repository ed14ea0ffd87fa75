"""What `gpt2np info FILE` says of a file: what it is, what ran, and which arrays it holds."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2np.errors import InputError, TraceError, short
from gpt2np.tables import counted, fitted, quoted, screen_width, table
from gpt2np.tracing.plan import human_bytes

MOST = 40  # arrays in the text; --json lists all
TORCH = (".pt", ".pth", ".bin", ".ckpt")
LISTS = {"manifest.jsonl": "an experiment of captures", "index.jsonl": "a folder of KV files"}


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
    if os.path.isdir(path) or suffix == ".jsonl":
        return _list
    if suffix == ".json":
        return _json
    schema = _schema_of(path)
    if schema is None:
        return _torch if suffix in TORCH else _dump
    return _capture if schema.startswith("gpt2np.capture/") else _trace


def _schema_of(path: str) -> str | None:
    """The schema in the metadata of a file of ours; None where it has none."""
    from gpt2np import tensorfile
    from gpt2np.npzfile import NpzFile

    metadata: Mapping[str, Any] = {}
    if Path(path).suffix == ".safetensors":
        metadata = tensorfile.open_tensors(path, error=InputError).metadata
    elif Path(path).suffix == ".npz":
        file = NpzFile(path)
        metadata = {"gpt2np": str(file["gpt2np"])} if "gpt2np" in file.names else {}
    try:
        facts = json.loads(metadata["gpt2np"]) if "gpt2np" in metadata else metadata
    except (ValueError, RecursionError):
        return None
    schema = facts.get("schema") if isinstance(facts, Mapping) else None
    return schema if isinstance(schema, str) else None


def _trace(path: str) -> dict[str, Any]:
    """A saved trace in any dialect: of a text, of a generation, or of keys and values alone."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.generation.saved_generation import is_whole_generation

    trace = read_dialect(path)
    said = trace.metadata
    kind = "the trace of a text" if said.get("n_prompt") is None else "the trace of a generation"
    if said.get("predicted_next_token") is not None:
        kind = "a KV file"
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
    facts["arrays"] = [_array(name, trace[name]) for name in trace.names()]
    verbs = "trace, lens, heads, stats and view take it by --trace"
    facts["next"] = "gpt2np kv query looks into it" if kind == "a KV file" else verbs
    return facts


def _capture(path: str) -> dict[str, Any]:
    """A capture file: prompt and response with their activations."""
    from gpt2np.capture.capture_files import check_capture, load_capture

    capture = load_capture(path)
    facts: dict[str, Any] = {"file": path, "kind": "a capture", "bytes": os.path.getsize(path)}
    for phase in ("prompt", "response"):
        facts[phase] = capture[phase]["text"]
        facts[f"{phase}_tokens"] = len(capture[phase]["token_ids"])
    facts["arrays"] = [_array(name, array) for name, array in check_capture(capture, path).items()]
    facts["next"] = "gpt2np.capture.load_capture reads it"
    return facts


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
        _array(name, array) | {"dtype": dump.dtypes[name]} for name, array in dump.arrays.items()
    ]
    compare = f"gpt2np compare {path} --prompt TEXT holds them against ours"
    facts["next"] = f"gpt2np info --model {Path(path).parent} tells of the model" if weights else compare
    return facts


def _json(path: str) -> dict[str, Any]:
    """A KV file in JSON."""
    from gpt2np.kv.extraction import document
    from gpt2np.kv.reading import read_kv

    if Path(path).name == "config.json":
        raise InputError(f"{path}: belongs to a model: gpt2np info --model {Path(path).parent}")
    kv = read_kv(path)
    facts = document(kv, kv.text)
    del facts["kv_cache"]
    facts = {"file": path, "kind": "a KV file", "bytes": os.path.getsize(path)} | facts
    return facts | {"next": "gpt2np kv query looks into it"}


def _list(path: str) -> dict[str, Any]:
    """A folder that gpt2np wrote many files into, or the list in it, or a ledger; else a folder of .npy."""
    from gpt2np.files import read_text

    found = [name for name in LISTS if os.path.isfile(os.path.join(path, name))]
    file = os.path.join(path, found[0]) if found else path
    if os.path.isdir(file):
        return _dump(path)
    kind = LISTS.get(Path(file).name, "lines of JSON")
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    try:
        rows = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        raise InputError(f"{file}: holds a line that is not JSON") from None
    listed = [row for row in rows if isinstance(row, dict) and "schema" not in row]
    if listed and all({"step", "token_id", "probability"} <= row.keys() for row in listed):
        kind = "the ledger of a generation"
    return {"file": path, "kind": kind, "bytes": os.path.getsize(file), "entries": len(listed)}


def _array(name: str, array: Any) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "bytes": array.nbytes}


def file_text(facts: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = [["file", f"{facts['file']}, {facts['bytes']:,} bytes"], ["is", facts["kind"]]]
    for key, value in facts.items():
        if key not in ("file", "bytes", "kind", "arrays", "next") and value is not None:
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
    return "\n\n".join([*parts, *([facts["next"]] if "next" in facts else [])])


def _shown(key: str, value: Any) -> str:
    """A fact in what is left of a line."""
    room = screen_width() - 24
    if isinstance(value, str):
        return quoted(value, room) if key in ("prompt", "text", "response", "input_text") else value
    if key in ("tokens", "input_tokens"):
        shown = " ".join(quoted(token) for token in value[:4]) + (" ..." if len(value) > 4 else "")
        return f"{len(value)}: {shown}"
    if isinstance(value, dict):
        if "token" in value:
            return quoted(value["token"])
        return ", ".join(f"{name} {x}" for name, x in value.items() if isinstance(x, int | str))
    shown = short(value)
    return shown if len(shown) <= room else shown[: room - 1] + "…"
