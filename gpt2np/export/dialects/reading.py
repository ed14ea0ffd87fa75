"""Reads a `.npz` or `.safetensors` file in any dialect back as a trace."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.errors import TraceError, short
from gpt2np.export.dialects.naming import Item, Naming
from gpt2np.export.dialects.registry import NAMES, naming_of
from gpt2np.files import check_unicode, text_kind
from gpt2np.ops import Array
from gpt2np.tracing.derived import bases, views_of
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import SCHEMA, Trace

DIALECT_SCHEMA = "gpt2np.dialect/1"
METADATA = "gpt2np"  # the entry of a file that says what it is


def read_dialect(path: str | Path, model: Any = None) -> Trace:
    """A trace from a `.npz` or `.safetensors` file that `gpt2np export` wrote, in any dialect.

    It holds whatever the file's names can be turned back into: queries, keys and values that stand alone
    become `attn.qkv` again. What cannot be turned back exactly (TransformerLens' `hook_scale`) is computed
    anew from the rest.

    Raises:
        TraceError: the file is missing, damaged or foreign, or an array has the wrong shape or precision.
    """
    arrays, metadata = _open(os.fspath(path))
    if metadata.get("schema") == SCHEMA and isinstance(arrays, tensorfile.TensorFile):
        return Trace.open(path, model)
    dialect = metadata.pop("dialect", "gpt2np")
    metadata["schema"] = SCHEMA
    if dialect not in NAMES:
        raise TraceError(f"{path}: dialect is {dialect!r}, expected one of {', '.join(NAMES)}")
    plan = Plan.from_metadata(str(path), metadata, ())
    if model is not None and model.config.to_dict() != plan.config.to_dict():
        raise TraceError(f"{path}: this trace is of another model than {model.name}")
    naming = naming_of(dialect, plan.config)
    found: dict[str, Array] = {}
    for name in arrays.names:
        if name not in naming.items and name not in naming.facts:
            raise TraceError(f"{path}: {name!r} is no name of the dialect {dialect}")
        if name in naming.items:
            found |= naming.items[name].to_trace(_checked(path, arrays, naming.items[name], plan), plan)
    own = naming_of("gpt2np", plan.config)
    sites = found if dialect == "gpt2np" else _recorded(found, own, plan)
    if not sites:
        raise TraceError(f"{path}: holds no array that a trace is made of")
    plan = Plan.from_metadata(str(path), metadata, sites)
    kept = {entry.name: sites[entry.name].astype(entry.dtype, copy=False) for entry in plan.entries}
    return Trace(plan, kept, metadata["token_ids"], metadata, model)


def _checked(path: str | Path, arrays: Any, item: Item, plan: Plan) -> Array:
    """An array of a file, of the shape and precision that it must have."""
    array: Array = arrays[item.name]
    shape = item.shape(plan)
    if array.shape != shape:
        raise TraceError(f"{path}: {item.name} has shape {array.shape}, expected {shape}")
    stored = np.dtype(item.site.dtype or plan.keep.dtype or plan.dtype)
    wide = (
        {stored, np.dtype(np.float32)} if stored == np.float16 else {stored}
    )  # derived ones are computed in float32
    if array.dtype not in wide:
        raise TraceError(f"{path}: {item.name} is {array.dtype}, expected {stored}")
    return array


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


class _NpzFile:
    """An open `.npz` file: arrays by name, each read when it is asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = self._try(lambda: np.load(path, allow_pickle=False), "file")
        self.names = [name for name in self._file.files if name != METADATA]
        text = self[METADATA] if METADATA in self._file.files else None
        self.metadata = {} if text is None else {METADATA: str(text)}

    def __getitem__(self, name: str) -> Array:
        array = self._try(lambda: self._file[name], name)
        if not isinstance(array, np.ndarray):
            raise TraceError(f"{self.path}: {short(name)} is no array")
        return array

    def _try(self, read: Any, name: str) -> Any:
        try:
            return read()
        except _DAMAGE as error:
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            raise TraceError(f"{self.path}: {short(name)} is damaged ({reason})") from None


# What zipfile and NumPy raise for a damaged file.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)


def _open(path: str) -> tuple[Any, dict[str, Any]]:
    """A file and what it says of itself."""
    kind = text_kind(path)
    if kind:
        raise TraceError(f"{path}: is {kind}, and those are not read back: take npz or safetensors")
    zipped = os.path.isfile(path) and zipfile.is_zipfile(path)
    file = _NpzFile(path) if zipped else tensorfile.open_tensors(path, error=TraceError)
    if METADATA not in file.metadata:
        raise TraceError(f"{path}: is not a trace (no {METADATA!r} in its metadata)")
    try:
        metadata = json.loads(file.metadata[METADATA])
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: metadata {METADATA!r} is not JSON ({error})") from None
    check_unicode(path, metadata)
    schema = metadata.get("schema") if isinstance(metadata, dict) else metadata
    if schema not in (SCHEMA, DIALECT_SCHEMA):
        raise TraceError(f"{path}: schema is {short(schema)}, expected {SCHEMA!r} or {DIALECT_SCHEMA!r}")
    return file, metadata
