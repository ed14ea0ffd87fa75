"""Folders of captured prompts, written from traces in the plainest way: what the readers must read."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gpt2np.capture.worker_model import fingerprint_of


def write_captured(
    model, texts, folder, keep, positions=slice(None), store="float32", per_shard=3, finish=None
):
    """A captured folder of these prompts, `per_shard` to a shard; `finish` are numbers of finished shards."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    traces = [model.trace(text, keep=keep) for text in texts]
    entries = traces[0].plan.entries
    groups = [range(i, min(i + per_shard, len(traces))) for i in range(0, len(traces), per_shard)]
    shards, lines = [], []
    for number, group in enumerate(groups):
        arrays = shard_arrays([traces[i] for i in group], positions, store)
        path = folder / f"shard_{number:05}.safetensors"
        metadata = {"schema": "gpt2np.captured/1", "fingerprint": fingerprint_of(model.checkpoint)}
        save_file(arrays, path, metadata | {"shard": str(number)})
        row = {"file": path.name, "first_prompt": group[0], "prompts": len(group)}
        row |= {"tokens": len(arrays["token_ids"]), "rows": len(arrays["positions"])}
        shards.append(row | {"bytes": path.stat().st_size})
        if finish is None or number in finish:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(
                json.dumps({"file": path.name, "bytes": path.stat().st_size, "sha256": sha256}) + "\n"
            )
        else:
            path.unlink()
    origin = {key: value for key, value in model.checkpoint.origin().items() if key != "model"}
    origin["fingerprint"] = fingerprint_of(model.checkpoint)
    ids = np.concatenate([t.token_ids for t in traces]).astype(np.int32)
    sites = {}
    for e in entries:
        ragged = "key" in e.site.axes.split()
        row = [model.config.n_head] if ragged else list(e.shape[1:])
        sites[e.name] = {"axes": e.site.axes, "row": row, "dtype": e.site.dtype or store}
    manifest = {
        "schema": "gpt2np.captured/1",
        "model": {"name": model.name, **origin, "dtype": model.dtype.name},
        "config": model.config.to_dict(),
        "options": {"positions": "all", "store": store, "special": False},
        "texts": {
            "prompts": len(traces),
            "tokens": len(ids),
            "sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        },
        "sites": sites,
        "shards": shards,
        "skipped": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "shards.jsonl").write_text("".join(lines))
    return traces


def bytes_of(folder):
    """All files of a capture but its log."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "run.log"}


def shard_arrays(traces, positions, store):
    """The arrays of one shard."""
    kept = [np.arange(len(t.token_ids))[positions] for t in traces]
    arrays = {}
    for name in traces[0].names():
        parts = []
        for trace, rows in zip(traces, kept, strict=True):
            if "key" in trace.dims[name].split():
                parts.append(trace[name][:, rows].transpose(1, 0, 2).reshape(-1))
            else:
                parts.append(trace[name][rows])
        dtype = parts[0].dtype if parts[0].dtype.kind == "i" else store
        arrays[name] = np.ascontiguousarray(np.concatenate(parts).astype(dtype))
    arrays["row_offsets"] = np.cumsum([0, *map(len, kept)])
    arrays["token_offsets"] = np.cumsum([0, *(len(t.token_ids) for t in traces)])
    arrays["token_ids"] = np.concatenate([t.token_ids for t in traces]).astype(np.int32)
    arrays["positions"] = np.concatenate(kept).astype(np.int32)
    return arrays
