"""What a folder of captured prompts says of itself: `manifest.json`, and `shards.jsonl` of what is done."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.capture.shard_layout import SCHEMA
from gpt2np.errors import ConfigError, InputError, TraceError, UnknownSiteError, short
from gpt2np.files import read_bytes
from gpt2np.json_fields import (
    FLAG,
    OBJECT,
    TEXT,
    Kind,
    Table,
    check,
    fields_of,
    list_of,
    optional,
    parse_json,
    whole,
)
from gpt2np.tracing.contract import ModelConfig, parse_config

MANIFEST = "manifest.json"
FINISHED = "shards.jsonl"
MOST = 1 << 32  # bytes of a manifest
CURE = "run the capture again, which can write it anew, or put back a copy of it"


class DamagedManifest(TraceError):
    """Raised for a manifest that is malformed; its text ends with what to do, `CURE`."""


@dataclass(frozen=True)
class SiteFacts:
    """What a shard holds of one site: `row` is the shape of a row, unless the site is `ragged`."""

    axes: str
    row: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ragged(self) -> bool:
        """Whether a row has as many numbers as its prompt has tokens, so that prompts make no one array."""
        return "key" in self.axes.split()


@dataclass(frozen=True)
class ShardFacts:
    """One shard as it was planned; its prompts are `first_prompt` and those behind it."""

    file: str
    first_prompt: int
    prompts: int
    tokens: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class CapturedManifest:
    """What `manifest.json` says: model, config and options of the capture, its sites, its shards as planned.

    `texts` are numbers of prompts and tokens and a hash of all ids; `skipped` names prompts left out, and
    `version` is that of the gpt2np which began it.
    """

    folder: Path
    model: Mapping[str, Any]
    config: ModelConfig
    options: Mapping[str, Any]
    texts: Mapping[str, Any]
    sites: Mapping[str, SiteFacts]
    shards: Sequence[ShardFacts]
    skipped: Sequence[Mapping[str, Any]]
    version: str | None = None

    @property
    def prompts(self) -> int:
        """Number of prompts, finished or not."""
        return int(self.texts["prompts"])


def is_captured(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder says that it is a capture of many prompts."""
    try:
        return SCHEMA.partition("/")[0].encode() in read_bytes(Path(folder, MANIFEST), most=MOST)
    except InputError:
        return False


def read_captured(folder: str | os.PathLike[str]) -> CapturedManifest:
    """Read the manifest of a captured folder.

    Raises:
        TraceError: there is none, or it is malformed; names the field.
        InputError: `folder` is no path.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a capture is opened by the path of its folder, not {short(folder)}")
    path = Path(folder, MANIFEST)
    if not os.path.isdir(folder):
        what = "is no folder of captured prompts" if os.path.exists(folder) else "no such folder"
        raise TraceError(f"{folder}: {what}")
    if not path.is_file():
        raise TraceError(f"{folder}: is no folder of captured prompts (it has no {MANIFEST})")
    content = manifest_fields(path)
    with _curable():
        try:
            config, _ = parse_config(content["config"], f"{path}: config")
        except ConfigError as error:
            raise TraceError(str(error)) from None
        sites = {
            name: SiteFacts(site["axes"], tuple(site["row"]), np.dtype(site["dtype"]))
            for name, site in content["sites"].items()
        }
        _check_sites(config, sites, str(path))
        shards = [ShardFacts(**{key: row[key] for key in _SHARD}) for row in content["shards"]]
        _check_shards(shards, content["texts"], str(path))
    said = {key: content[key] for key in ("model", "options", "texts")}
    return CapturedManifest(
        Path(folder),
        **said,
        config=config,
        sites=sites,
        shards=shards,
        skipped=content.get("skipped") or [],
        version=content.get("gpt2np"),
    )


def manifest_fields(path: Path) -> dict[str, Any]:
    """Return what a `manifest.json` says, each field for itself checked.

    Raises:
        TraceError: it is malformed, or of another format; says what to do.
    """
    with _curable():
        content = parse_json(read_bytes(path, TraceError, MOST), str(path), TraceError)
    schema = content.get("schema") if isinstance(content, dict) else content
    if schema != SCHEMA:
        version = content.get("gpt2np") if isinstance(content, dict) else None
        by = "" if version is None else f"; gpt2np {short(version)[1:-1]} wrote it, which can read it"
        raise TraceError(f"{path}: schema is {short(schema)}, expected {SCHEMA!r}{by}")
    with _curable():
        check(content, _FIELDS, str(path), TraceError)
    found: dict[str, Any] = content
    return found


@contextlib.contextmanager
def _curable() -> Iterator[None]:
    """What is found in the block to be wrong with a manifest is said together with what to do."""
    try:
        yield
    except TraceError as error:
        raise DamagedManifest(f"{error}: {CURE}") from None


def read_finished(folder: Path, planned: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """Return the SHA-256 of each finished shard, by its file's name, and what is wrong with other lines.

    `planned` are the bytes of each shard of the manifest. A last line that does not end is not read.

    Raises:
        TraceError: the list cannot be read at all.
    """
    path = folder / FINISHED
    found, wrong = dict[str, str](), list[str]()
    lines = read_bytes(path, TraceError, MOST).split(b"\n")[:-1] if os.path.lexists(path) else []
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            row = parse_json(line, where, TraceError)
            check(row, _LINE, where, TraceError)
        except TraceError as error:
            wrong.append(str(error))
            continue
        if planned.get(row["file"]) != row["bytes"]:
            wrong.append(f"{where}: {short(row['file'])} is no shard of the manifest, or of another size")
        else:
            found[row["file"]] = row["sha256"]
    return found, wrong


def _check_sites(config: ModelConfig, sites: Mapping[str, SiteFacts], where: str) -> None:
    """Refuse names that are no sites of the model, or have other axes there."""
    table = config.architecture.sites
    for name, facts in sites.items():
        try:
            site, layer = table.resolve(name, None, config.n_layer)
        except UnknownSiteError as error:
            raise TraceError(f"{where}: sites: {error}") from None
        if site.full_name(layer) != name or site.axes != facts.axes:
            raise TraceError(f"{where}: sites: {short(name)} has axes {short(facts.axes)}, not as this model")


def _check_shards(shards: Sequence[ShardFacts], texts: Mapping[str, Any], where: str) -> None:
    """Refuse shards that leave out a prompt, or have one twice."""
    at = 0
    for shard in shards:
        if Path(shard.file).name != shard.file:
            raise TraceError(f"{where}: shards: {short(shard.file)} is no file in this folder")
        if shard.first_prompt != at:
            raise TraceError(f"{where}: {shard.file} begins at prompt {shard.first_prompt}, expected {at}")
        at += shard.prompts
    tokens = sum(shard.tokens for shard in shards)
    if at != texts["prompts"] or tokens != texts["tokens"]:
        counts = f"{at} prompts of {tokens} tokens"
        raise TraceError(f"{where}: shards hold {counts}, texts are {texts['prompts']} of {texts['tokens']}")
    if len({shard.file for shard in shards}) < len(shards):
        raise TraceError(f"{where}: shards: two have the same file")


_MANY = 1 << 48  # sums of so many fit into 64 bits
_DTYPES = ("float16", "float32", "float64", "int32", "int64")
_DTYPE = Kind(" or ".join(_DTYPES), lambda x: type(x) is str and x in _DTYPES)
_SITE: Table = {"axes": TEXT, "row": list_of(whole(1, _MANY)), "dtype": _DTYPE}
_SHARD: Table = {
    "file": TEXT,
    "first_prompt": whole(0, _MANY),
    "prompts": whole(1, _MANY),
    "tokens": whole(1, _MANY),
    "rows": whole(0, _MANY),
    "bytes": whole(1),
}
_MODEL: Table = {
    "name": optional(TEXT),
    "commit": optional(TEXT),
    "fingerprint": optional(TEXT),
    "dtype": Kind("float32 or float64", lambda x: x in ("float32", "float64")),
}
_OPTIONS: Table = {
    "positions": TEXT,
    "store": Kind("float16, float32 or float64", lambda x: x in ("float16", "float32", "float64")),
    "pack_tokens": optional(whole(1)),
    "shared_beginnings": optional(FLAG),
}
_LINE: Table = {"file": TEXT, "bytes": whole(), "sha256": TEXT}
_FIELDS: Table = {
    "model": fields_of(_MODEL, closed=False),
    "config": OBJECT,
    "options": fields_of(_OPTIONS, closed=False),
    "texts": fields_of({"prompts": whole(1), "tokens": whole(1), "sha256": TEXT}, closed=False),
    "sites": Kind(
        "an object of sites, each with axes, row and dtype",
        lambda x: type(x) is dict and len(x) > 0 and all(map(fields_of(_SITE, False).accepts, x.values())),
    ),
    "shards": list_of(fields_of(_SHARD, closed=False)),
    "skipped": optional(list_of(fields_of({"prompt": whole(), "reason": TEXT}, closed=False))),
    "gpt2np": optional(TEXT),
}
