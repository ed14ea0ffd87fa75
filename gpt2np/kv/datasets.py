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
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2np.capture.worker_model import ModelSource, executor_for, given_to, is_same_model, model_facts
from gpt2np.capture.workers import Here, Submits, in_order
from gpt2np.errors import Gpt2npError, InputError, short, whole_number
from gpt2np.files import read_bytes, sha256_of
from gpt2np.json_fields import (
    FLAG,
    TEXT,
    Kind,
    Table,
    check,
    fields_of,
    list_of,
    optional,
    or_null,
    parse_json,
    whole,
)
from gpt2np.kv.dataset_packs import lengths_of, packs_of, seconds_of, write_pack
from gpt2np.kv.dataset_prompts import Source, randoms, texts
from gpt2np.kv.extraction import check_suffix
from gpt2np.kv.reading import read_kv
from gpt2np.model import Model
from gpt2np.outputs import Unfinished, remove_leftovers, sync_folder

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing stops a second run
    fcntl = None  # type: ignore[assignment]

__all__ = ["INDEX", "Source", "randoms", "texts", "write_dataset"]

SCHEMA = "gpt2np.kv_dataset/1"
INDEX = "index.jsonl"
_OF_MODEL = ("commit", "fingerprint", "weights", "replaced_weights")  # which model the index is of


def write_dataset(
    model: Model,
    sources: list[Source],
    folder: Path,
    suffix: str = ".json",
    top_k: int = 5,
    *,
    workers: int | None = None,
    executor: Submits | None = None,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Write the missing files; yield each file's line of the index, and whether it was written now.

    Prompts that the folder lists already keep their files; the others get the next numbers. Prompts run
    packed. `workers` processes share the packs, as many as pay off if that is not given; or `executor` runs
    them: anything with `submit` whose tasks see the same folders. For the same prompts, files and index are
    the same, byte for byte, however many workers there are, and however often the run was interrupted.

    Raises:
        InputError: the folder cannot be written to, holds files of another model, format or `top_k`, or
            another run is writing to it; or `workers` is no number from 1 to 256.
        TraceError: a `.safetensors` file cannot be written, or every worker that tries to dies.
    """
    check_suffix(f"{folder}{os.sep}{_name(0, suffix.removeprefix('.'))}")
    header = {
        "schema": SCHEMA,
        "model": model.name,
        **{key: value for key, value in model_facts(model).items() if key in _OF_MODEL and value is not None},
        "format": suffix.removeprefix("."),
        "top_k": whole_number("top_k", top_k, 1),
    }
    if "\0" in str(folder):
        raise InputError(f"{folder}: cannot be written (embedded null byte)")
    lengths = lengths_of(model, sources)
    packs = packs_of(sources, lengths)
    with contextlib.ExitStack() as own:
        if executor is None:
            seconds = seconds_of(model, sum(lengths), suffix)
            executor = chosen = executor_for(model, workers, len(packs), seconds)
            own.enter_context(chosen)
        given: Model | ModelSource = model
        if len(packs) > 1:
            given = given_to(executor, model)
        else:  # whoever else is there, it runs here, on as many threads as the model has
            executor = Here()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                run = _Run(sources, folder, header)
                yield from run.write(packs, given, executor)
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


class _Run:
    """One call of `write_dataset`, while nobody else is at the folder."""

    def __init__(self, sources: list[Source], folder: Path, header: dict[str, Any]) -> None:
        self._sources, self._folder, self._header = sources, folder, header
        self._listed = _read_index(folder, header, len(sources))
        self._names = _names(self._listed, sources, header["format"])

    def write(
        self, packs: list[range], model: Model | ModelSource, executor: Submits
    ) -> Iterator[tuple[dict[str, Any], bool]]:
        """Have those packs run of which a file is missing; yield all entries in the order of the prompts."""
        looked_at: deque[tuple[range, set[int]]] = deque()  # packs, and which of their files are missing
        staging = Unfinished(self._folder, of_files=True)  # where files wait until it is their turn

        def tasks() -> Iterator[tuple[str, tuple[Any, ...]]]:
            for pack in packs:
                missing = {number for number in pack if self._is_missing(number)}
                looked_at.append((pack, missing))
                if missing:
                    names = [self._names[number] if number in missing else None for number in pack]
                    key = str(self._folder / self._names[min(missing)])
                    own = self._sources[pack.start : pack.stop]
                    yield key, (model, own, names, str(staging.path), self._header["top_k"])

        made_of_packs = in_order(executor, write_pack, tasks())
        try:
            for entries, error in itertools.chain(made_of_packs, [([], None)]):
                while looked_at:  # those before it lack nothing
                    pack, missing = looked_at.popleft()
                    made = iter(entries if missing else ())
                    for number in pack:
                        if number not in missing:
                            yield self._listed[self._names[number]], False
                        elif (entry := next(made, None)) is not None:
                            yield self._published(entry, staging.path), True
                        elif error is not None:
                            raise error
                    if missing:
                        break
                sync_folder(self._folder)
        except Gpt2npError as error:  # about a file that would have got another name
            raise type(error)(str(error).replace(str(staging.path), str(self._folder))) from None
        finally:
            made_of_packs.close()
            staging.discard()

    def _is_missing(self, number: int) -> bool:
        """Whether a file is not listed, or not there any more."""
        path, entry = self._folder / self._names[number], self._listed.get(self._names[number])
        if path.is_symlink():
            raise InputError(f"{path}: is a link, and no file of this dataset: move it away")
        if entry is None or not path.is_file() or path.stat().st_size != entry["bytes"]:
            return True
        if entry.get("sha256") not in (None, sha256_of(path)):
            changed = "has been changed since it was written; delete it, and it is made again"
            raise InputError(f"{path}: {changed}")
        return False

    def _published(self, entry: dict[str, Any], staging: Path) -> dict[str, Any]:
        """Give a file its name, and list it."""
        path, made = self._folder / entry["file"], staging / entry["file"]
        before = self._listed.get(entry["file"])
        if before is not None or not os.path.lexists(path) or _is_of_other_company(path, made):
            os.replace(made, path)
        if entry != before:
            _append(self._folder / INDEX, entry)
        return entry


def _is_of_other_company(path: Path, made: Path) -> bool:
    """Whether a file that a killed run has left unlisted has other bits than this one of the same prompt.

    Raises:
        InputError: it is something else.
    """
    if path.is_file() and filecmp.cmp(path, made, shallow=False):
        return False
    try:
        there, now = read_kv(path), read_kv(made)
        if (there.token_ids, there.fingerprint, there.text) == (now.token_ids, now.fingerprint, now.text):
            return True
    except Gpt2npError:  # no KV file
        pass
    raise InputError(f"{path}: is there unlisted, and of something else: move it away")


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
    if not is_same_model(first, header):  # a name may be another path
        models = [f"{short(of['model'])} ({short(of.get('fingerprint'))})" for of in (first, header)]
        raise InputError(f"{path}: model is {models[0]}, not {models[1]}: choose another folder")
    for key, value in header.items():
        if key not in ("model", *_OF_MODEL) and first.get(key) != value:
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
    "commit": optional(TEXT),
    "fingerprint": optional(TEXT),
    "weights": optional(TEXT),
    "replaced_weights": optional(list_of(TEXT)),
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
