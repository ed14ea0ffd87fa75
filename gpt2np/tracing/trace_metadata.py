"""What a trace says of itself, in memory and in its file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.errors import TraceError, short
from gpt2np.tracing.metadata_fields import parse_metadata
from gpt2np.tracing.plan import Plan

SCHEMA = "gpt2np.trace/1"
DIALECT_SCHEMA = "gpt2np.dialect/1"  # of a trace in the names of another program

NO_OTHER = "a trace is a .safetensors file; `gpt2np export` makes others of it"


def run_metadata(
    plan: Plan, token_ids: Sequence[int], tokens: list[str] | None, **facts: Any
) -> dict[str, Any]:
    """What a trace says of itself: enough to run it again and to know that it is the same."""
    from gpt2np import __version__

    return {
        "schema": SCHEMA,
        "gpt2np": __version__,
        "numpy": np.__version__,
        **facts,
        "config": plan.config.to_dict(),
        "token_ids": [int(i) for i in token_ids],
        "tokens": tokens,
        "dtype": plan.dtype.name,
        "stored_dtype": plan.keep.dtype,
        "positions": [plan.keep.positions.start, plan.keep.positions.stop, plan.keep.positions.step],
        "stop_at_layer": plan.stop_at_layer,
    }


def of_another_model(metadata: Mapping[str, Any], model: str) -> str:
    """What to say of a trace that this model did not make: whose it is, and how to name that one."""
    theirs = metadata.get("model")
    what = f"this trace is of another model than {short(model)[1:-1]}"
    if not isinstance(theirs, str) or theirs == model:
        return f"{what}, whose weights or config are others today"
    name = short(theirs)[1:-1]
    return f"{what}, of {name}: give that one (--model {name})"


def file_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The same as safetensors wants it: strings to strings."""
    return {"gpt2np": json.dumps(metadata, ensure_ascii=False)}


def in_other_names(file: tensorfile.TensorFile) -> bool:
    """Whether a file says that it is a trace in the names of another program."""
    try:
        said = json.loads(file.metadata.get("gpt2np", "null"))
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("schema") == DIALECT_SCHEMA


def read_metadata(file: tensorfile.TensorFile) -> tuple[Plan, dict[str, Any]]:
    """Check a file's metadata against its own header."""
    where = file.path
    if "gpt2np" not in file.metadata:
        schema = file.metadata.get("schema")
        why = "no 'gpt2np' in its metadata" if schema is None else f"its schema is {short(schema)}"
        raise TraceError(f"{where}: is not a trace ({why})")
    metadata = parse_metadata(file.metadata["gpt2np"], where, SCHEMA)
    plan = Plan.from_metadata(where, metadata, file.names)
    for name in file.names:
        entry = plan.by_name.get(name)
        if entry is None:
            raise TraceError(f"{where}: {short(name)} is not a site of this model")
        if file.shape(name) != entry.shape:
            raise TraceError(f"{where}: {name} has shape {file.shape(name)}, expected {entry.shape}")
        if file[name].dtype != entry.dtype:
            raise TraceError(f"{where}: {name} is {file[name].dtype}, expected {entry.dtype}")
    return plan, metadata
