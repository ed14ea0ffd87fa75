"""Many KV files in a folder: one for each prompt, and an index that lists only finished files.

`index.jsonl` holds a line of JSON for the model and one for each file, in the order of writing. A run that
was interrupted, even killed, goes on where it stopped when it is started again; other prompts get the next
numbers. All `*.json` are KV files.
"""

import contextlib
import filecmp
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.errors import InputError, short, whole_number
from gpt2np.files import read_bytes, sha256_of
from gpt2np.json_fields import FLAG, TEXT, Kind, Table, check, fields_of, optional, or_null, parse_json, whole
from gpt2np.kv.extraction import extract_to_file
from gpt2np.model import Model
from gpt2np.outputs import Unfinished, remove_leftovers
from gpt2np.text.prompts import Prompt, of_prompt

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing stops a second run
    fcntl = None  # type: ignore[assignment]

SCHEMA = "gpt2np.kv_dataset/1"
INDEX = "index.jsonl"


@dataclass(frozen=True)
class Source:
    """Where a prompt comes from: a text, or chance, number `number` of a seed."""

    text: str | None = None
    number: int = 0
    seed: int = 0
    random_tokens: bool = False
    special: bool = False  # that of `Model.token_ids`
    chat: bool = False  # the text is a message to the model

    def facts(self) -> dict[str, Any]:
        """Return what the index says about it, and recognises it by."""
        if self.text is not None:
            read = {"special": self.special, "chat": self.chat}
            return {"text": self.text} | {how: True for how, is_so in read.items() if is_so}
        return {"random": self.number, "seed": self.seed, "random_tokens": self.random_tokens}

    def prompt(self, model: Model) -> Prompt:
        """Make the prompt; it depends on number and seed only, not on the order in which prompts are made."""
        if self.text is not None:
            return model.chat_prompt(self.text) if self.chat else self.text
        make = _random_ids if self.random_tokens else _sampled
        return make(model, np.random.default_rng([self.seed, self.number]))


def texts(
    given: Iterable[str],
    model: Model,
    special: bool = False,
    places: Sequence[str] = (),
    chat: bool = False,
) -> list[Source]:
    """Return a prompt for each text that is not blank; `special` is that of `Model.token_ids`.

    With `chat`, each text is a message to the model. `places` are where the texts stand in a file, for
    what is said when one is refused.

    Raises:
        InputError: there are none, or one is longer than the context.
    """
    given = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(text, str) for text in given):
        raise InputError("the prompts of a dataset must be texts")
    kept = [text for text in given if text.strip()]
    if not kept:
        raise InputError("there are no prompts: give one on each line")
    for number, text in enumerate(given, 1):
        try:
            model.token_ids(model.chat_prompt(text) if chat else text or " ", special=special)
        except InputError as error:
            raise of_prompt(places[number - 1] if places else f"prompt {number}", error) from None
    return [Source(text, special=special, chat=chat) for text in kept]


def randoms(n: int, seed: int = 0, random_tokens: bool = False) -> list[Source]:
    """Return n random prompts: sampled from the model, or of uniformly random tokens."""
    seed = whole_number("seed", seed, 0)
    return [Source(None, number, seed, random_tokens) for number in range(whole_number("n", n, 1))]


def write_dataset(
    model: Model, sources: list[Source], folder: Path, suffix: str = ".json", top_k: int = 5
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Write the missing files; yield each file's line of the index, and whether it was written now.

    Prompts that the folder lists already keep their files; the others get the next numbers.

    Raises:
        InputError: the folder cannot be written to, holds files of another model, format or `top_k`, or
            another run is writing to it.
        TraceError: a `.safetensors` file cannot be written.
    """
    header = {
        "schema": SCHEMA,
        "model": model.name,
        "fingerprint": model.checkpoint.fingerprint,
        "format": suffix.removeprefix("."),
        "top_k": whole_number("top_k", top_k, 1),
    }
    if "\0" in str(folder):
        raise InputError(f"{folder}: cannot be written (embedded null byte)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            yield from _write_missing(model, sources, folder, header)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, until the block or the process ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is writing to this folder") from None
        yield
    finally:
        os.close(handle)


def _write_missing(
    model: Model, sources: list[Source], folder: Path, header: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], bool]]:
    listed = _read_index(folder, header, len(sources))
    names = _names(listed, sources, header["format"])
    for name, source in zip(names, sources, strict=True):
        path, entry = folder / name, listed.get(name)
        if path.is_symlink():
            raise InputError(f"{path}: is a link, and no file of this dataset: move it away")
        if entry is not None and path.is_file() and path.stat().st_size == entry["bytes"]:
            if entry.get("sha256") not in (None, sha256_of(path)):
                changed = "has been changed since it was written; delete it, and it is made again"
                raise InputError(f"{path}: {changed}")
            yield entry, False
            continue
        facts = _extract(model, source, path, header["top_k"], listed=entry is not None)
        entry = {
            "file": name,
            "source": source.facts(),
            "input_text": facts["input_text"],
            "tokens": len(facts["input_tokens"]),
            "predicted_next_token": facts["predicted_next_token"]["token"],
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        _append(folder / INDEX, entry)
        yield entry, True


def _names(listed: dict[str, dict[str, Any]], sources: list[Source], suffix: str) -> list[str]:
    """The file of each prompt: that which is listed for it, else the next number."""
    numbers = [int(found[1]) for name in listed if (found := _NAME.fullmatch(name))]
    following = itertools.count(max(numbers, default=-1) + 1)
    own: dict[str, list[str]] = {}
    for name, entry in listed.items():
        own.setdefault(json.dumps(entry["source"], sort_keys=True), []).append(name)
    names = []
    for source in sources:
        same = own.get(json.dumps(source.facts(), sort_keys=True))
        names.append(same.pop(0) if same else _name(next(following), suffix))
    return names


def _name(number: int, suffix: str) -> str:
    return f"kv_{number:05}.{suffix}"


def _extract(model: Model, source: Source, path: Path, top_k: int, listed: bool) -> dict[str, Any]:
    """Write a file; one that is there unlisted must be this very one, of a run killed before listing it."""
    prompt = source.prompt(model)
    if listed or not os.path.lexists(path):
        return extract_to_file(model, prompt, path, top_k, special=source.special)
    copy = Unfinished(path.parent, of_files=True)
    try:
        facts = extract_to_file(model, prompt, copy.path / path.name, top_k, special=source.special)
        if not (path.is_file() and filecmp.cmp(path, copy.path / path.name, shallow=False)):
            raise InputError(f"{path}: is there unlisted, and of something else: move it away")
    finally:
        copy.discard()
    return facts


def _read_index(folder: Path, header: dict[str, Any], n: int) -> dict[str, dict[str, Any]]:
    """The files that are listed already, by name; starts the index, for n files, if there is none."""
    path = folder / INDEX
    content = read_bytes(path) if os.path.lexists(path) else b""
    whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut by an interruption
    if not whole and _line(header).startswith(content):
        names = (_name(number, header["format"]) for number in range(n))
        taken = next((name for name in names if (folder / name).exists()), None)
        if taken is not None:
            raise InputError(f"{folder / taken} is not from this dataset: choose another folder")
        path.write_bytes(_line(header))
        return {}
    foreign = f"{path}: is not the index of a KV dataset (choose another folder)"
    rows = [
        parse_json(line, f"{foreign}: line {number}")
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1)
    ]
    first: Any = rows[0] if rows else None
    check(first, _HEADER, f"{foreign}: line 1", InputError)
    if first.get("fingerprint") != header["fingerprint"]:  # it tells models apart; a name may be another path
        models = [f"{short(of['model'])} ({short(of.get('fingerprint'))})" for of in (first, header)]
        raise InputError(f"{path}: model is {models[0]}, not {models[1]}: choose another folder")
    for key, value in header.items():
        if key != "model" and first.get(key) != value:
            raise InputError(
                f"{path}: {key} is {short(first.get(key))}, not {short(value)}: choose another folder"
            )
    for number, entry in enumerate(rows[1:], start=2):
        check(entry, _ENTRY, f"{foreign}: line {number}", InputError, closed=True)
    listed = {entry["file"]: entry for entry in rows[1:]}
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    remove_leftovers(folder)
    return listed


_HEADER: Table = {
    "schema": TEXT,
    "model": TEXT,
    "fingerprint": optional(TEXT),
    "format": TEXT,
    "top_k": whole(1),
}
_SOURCE: Table = {
    "text": optional(TEXT),
    "random": optional(whole()),
    "seed": optional(Kind("a whole number from 0", lambda x: type(x) is int and x >= 0)),
    "special": optional(FLAG),
    "chat": optional(FLAG),
    "random_tokens": optional(FLAG),
}
_NAME = re.compile(r"kv_([0-9]{5,9})\.(?:json|safetensors)")  # what may be read and written again
_ENTRY: Table = {
    "file": Kind("a name such as kv_00000.json", lambda x: type(x) is str and bool(_NAME.fullmatch(x))),
    "source": fields_of(_SOURCE),
    "input_text": or_null(TEXT),
    "tokens": whole(1),
    "predicted_next_token": TEXT,
    "sha256": optional(TEXT),
    "bytes": whole(),
}


def _append(path: Path, facts: dict[str, Any]) -> None:
    with path.open("ab") as file:  # one write: all of the line, or a beginning that the next run cuts off
        file.write(_line(facts))


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False).encode("utf-8") + b"\n"


def _random_ids(model: Model, rng: np.random.Generator) -> list[int]:
    n = int(rng.integers(4, 21))
    ids: list[int] = rng.integers(0, model.config.vocab_size, min(n, model.config.n_positions)).tolist()
    return ids


def _sampled(model: Model, rng: np.random.Generator) -> Prompt:
    """What the model writes at the start of a text, some 4 to 20 tokens."""
    config, tokenizer = model.config, model.usable_tokenizer
    begin = None if tokenizer is None else tokenizer.begin_id
    for _ in range(20):
        start = _random_ids(model, rng)[:1]  # drawn even where it is not used: a seed means the same texts
        start = [*config.eos_ids[:1]] or start
        start = start if begin is None else [begin]
        n = min(int(rng.integers(4, 21)), config.n_positions)
        seed = int(rng.integers(2**31))
        response = model.generate(start, max_new_tokens=n, temperature=1.0, seed=seed).finish().response
        text = str(response.text).strip()
        if model.tokenizer is None:
            return [int(i) for i in response.token_ids]
        if text and len(model.tokenizer.encode(text)) <= config.n_positions:
            return text
    return _random_ids(model, rng)  # a model that only ever ends the text, or writes spaces
