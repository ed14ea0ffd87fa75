"""Reads a `.npz` or `.safetensors` file in any dialect back as a trace."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.errors import TraceError, short
from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.naming import Item, Naming
from gpt2np.export.dialects.registry import naming_of
from gpt2np.files import MAX_BYTES, kind_of
from gpt2np.model import Model
from gpt2np.npzfile import NpzFile
from gpt2np.ops import Array
from gpt2np.tracing.derived import bases, views_of
from gpt2np.tracing.metadata_fields import parse_metadata
from gpt2np.tracing.plan import Plan, human_bytes
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import DIALECT_SCHEMA, SCHEMA, of_another_model

METADATA = "gpt2np"  # the entry of a file that says what it is
_MOST_METADATA = 1 << 24  # bytes of that entry, which has four of them for a character


def read_dialect(path: str | Path, model: Model | None = None, *, max_bytes: int | None = MAX_BYTES) -> Trace:
    """Read a trace from a `.npz` or `.safetensors` file that `gpt2np export` wrote, in any dialect.

    It holds whatever the file's names can be turned back into: queries, keys and values that stand alone
    become `attn.qkv` again. What cannot be turned back exactly (TransformerLens' `hook_scale`) is computed
    anew from the rest. A `.npz` is read into memory, a `.safetensors` file is mapped: `max_bytes` is how much
    the arrays of a `.npz` may take; None: whatever they do.

    Raises:
        TraceError: the file is missing, damaged, foreign or too large, or an array has the wrong shape or
            precision.
    """
    arrays, metadata = _open(os.fspath(path))
    if metadata["schema"] == SCHEMA and isinstance(arrays, tensorfile.TensorFile):
        return Trace.open(path, model)
    dialect = metadata.pop("dialect", "gpt2np")
    metadata["schema"] = SCHEMA
    if dialect not in NAMES:
        raise TraceError(f"{path}: dialect is {short(dialect)}, expected one of {', '.join(NAMES)}")
    plan = Plan.from_metadata(str(path), metadata, ())
    if model is not None and model.config.to_dict() != plan.config.to_dict():
        raise TraceError(f"{path}: {of_another_model(metadata, model.name)}")
    naming = naming_of(dialect, plan.config)
    for name in arrays.names:
        if name not in naming.items and name not in naming.facts and name != METADATA:
            raise TraceError(f"{path}: {short(name)} is no name of the dialect {dialect}")
    items = [naming.items[name] for name in arrays.names if name in naming.items]
    for item in items:
        _check(path, arrays, item, plan)
    if isinstance(arrays, NpzFile) and max_bytes is not None:
        _check_total(arrays, items, max_bytes)
    found: dict[str, Array] = {}
    for item in items:
        found |= item.to_trace(arrays[item.name], plan)
    own = naming_of("gpt2np", plan.config)
    sites = found if dialect == "gpt2np" else _recorded(found, own, plan)
    if not sites:
        raise TraceError(f"{path}: holds no array that a trace is made of")
    plan = Plan.from_metadata(str(path), metadata, sites)
    kept = {entry.name: sites[entry.name].astype(entry.dtype, copy=False) for entry in plan.entries}
    return Trace(plan, kept, metadata["token_ids"], metadata, model)


def _check(path: str | Path, arrays: Any, item: Item, plan: Plan) -> None:
    """Refuse an array whose header says another shape or precision than it must have."""
    shape, dtype = item.shape(plan), np.dtype(arrays.numpy_dtype(item.name))
    if arrays.shape(item.name) != shape:
        raise TraceError(f"{path}: {item.name} has shape {arrays.shape(item.name)}, expected {shape}")
    stored = np.dtype(item.site.dtype or plan.keep.dtype or plan.dtype)
    computed = np.dtype(np.float32) if stored == np.float16 else stored  # where it is a derived one
    if dtype not in (stored, computed):
        raise TraceError(f"{path}: {item.name} is {dtype}, expected {stored}")


def _check_total(file: NpzFile, items: Iterable[Item], most: int) -> None:
    """Refuse, before anything is inflated, more than the caller will have: a config may lie as well."""
    total = sum(file.nbytes(item.name) for item in items)
    if total > most:
        raise TraceError(
            f"{file.path}: its arrays take {human_bytes(total)} of memory, the limit is {human_bytes(most)}: "
            "--force (in Python max_bytes=None) reads them; a .safetensors file needs none"
        )


def _recorded(found: dict[str, Array], own: Naming, plan: Plan) -> dict[str, Array]:
    """Sites as a run would have stored them: derived ones only where what they come from is not there."""
    config = plan.config
    for name in [n for n in found if own.items[n].site.name == "resid_pre"]:
        found.setdefault(bases(config, "resid_pre", own.items[name].layer)[0], found[name])  # it is the same
    for site in config.architecture.sites:
        views = views_of(config, site.name)
        for layer in range(config.n_layer) if views else ():
            whole = site.full_name(layer)
            parts = {name: found.get(f"h.{layer}.{name}") for name in views}
            if whole not in found and all(part is not None for part in parts.values()):
                found[whole] = _joined(parts, plan, site)
    kept = {}
    for name, array in found.items():
        item = own.items[name]
        derivable = item.site.derived and all(b in found for b in bases(config, item.site.name, item.layer))
        if not derivable:
            kept[name] = array
    return kept


def _joined(parts: Mapping[str, Any], plan: Plan, site: Site) -> Array:
    """The array of a site of which all parts are there."""
    dtype = next(iter(parts.values())).dtype
    whole = np.empty(plan.shape_of(site), dtype)
    for name, view in views_of(plan.config, site.name).items():
        view(whole, plan.config)[...] = parts[name]
    return whole


def _open(path: str) -> tuple[NpzFile | tensorfile.TensorFile, dict[str, Any]]:
    """A file and what it says of itself."""
    kind = kind_of(path)
    if kind in ("a JSON file", "a CSV file", "a trace as JSON"):
        raise TraceError(f"{path}: is {kind}, and those are not read back: take npz or safetensors")
    file: NpzFile | tensorfile.TensorFile
    if kind == "a zip file":
        file = NpzFile(path)
        text = file.text(METADATA, _MOST_METADATA) if METADATA in file else None
    else:
        file = tensorfile.open_tensors(path, error=TraceError)
        text = file.metadata.get(METADATA)
    if text is None:
        raise TraceError(f"{path}: is not a trace (no {short(METADATA)} in its metadata)")
    return file, parse_metadata(text, path, SCHEMA, DIALECT_SCHEMA)
