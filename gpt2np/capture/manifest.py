"""The manifest of an experiment: a JSON line for each file that is whole, and what the file was made from."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from gpt2np.errors import InputError, TraceError, short
from gpt2np.files import read_bytes, sha256_of
from gpt2np.json_fields import OBJECT, TEXT, Kind, Table, check, optional, or_null, parse_json, whole
from gpt2np.outputs import remove_leftovers

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing stops a second run
    fcntl = None  # type: ignore[assignment]

NAME = "manifest.jsonl"
START = b'{"path": "'  # of every line


@dataclass(frozen=True)
class Entry:
    """One file: `path` relative to the experiment's folder, and everything that decided what is in it.

    `generation` is the SHA-256 of the ids of prompt and response, where those were saved before the capture.
    `sites` says what is at each place in the file, as `captured_sites` does; None: an older version wrote it.
    """

    path: str
    bytes: int
    sha256: str
    prompt_set: str
    id: int | str
    text: str  # of the prompt
    layer: int | None  # None: all layers
    prompt_tokens: int
    response_tokens: int
    model: dict[str, Any]
    options: dict[str, Any]
    generation: str | None = None
    sites: dict[str, str] | None = None

    def row(self) -> dict[str, Any]:
        """Return its line of the manifest."""
        unsaid = [("generation", None), ("sites", None)]
        return {key: value for key, value in asdict(self).items() if (key, value) not in unsaid}


class Manifest:
    """An experiment's manifest, open for adding to it; as a context manager, closed at the end of the block.

    While it is open no other run can open it. Opening removes what a killed run left half-done: the beginning
    of a line, and files under temporary names.
    """

    def __init__(self, folder: Path) -> None:
        """Open the manifest of a folder, which is made if need be.

        Raises:
            InputError: the folder cannot be written to, or another run has it open.
            TraceError: a line is malformed, or the file is something else.
        """
        self.folder, self.path = folder, folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except (OSError, ValueError) as error:  # the second for a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be written ({reason})") from None
        try:
            if fcntl is not None:
                fcntl.flock(
                    self._file, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # ends with the process, however it ends
            lines = read_bytes(self.path)
            self.entries = _read(self.path, lines)
            whole = lines.rfind(b"\n") + 1
            if not lines[whole:].startswith(START) and not START.startswith(lines[whole:]):
                raise TraceError(f"{self.path}: its last line is not of a manifest: {short(lines[whole:])}")
            if whole < len(lines):
                os.ftruncate(self._file, whole)
            for place in (folder, *folder.glob("inference/raw/*/*")):  # the latter an older version's
                remove_leftovers(place)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise InputError(f"{folder}: another capture is writing to this experiment") from None
            if isinstance(error, OSError):
                raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
            raise

    def add(self, entry: Entry) -> None:
        """List a file.

        Raises:
            InputError: the line cannot be written; none of it stays.
        """
        line = json.dumps(entry.row(), ensure_ascii=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None
        self.entries[entry.path] = entry

    def has(self, path: str) -> bool:
        """Return whether a file is listed and there; one that was deleted is not, and may be made again.

        Raises:
            TraceError: it is there, but is not what was listed.
        """
        if path not in self.entries:
            return False
        captured, file = self.entries[path], self.folder / path
        try:
            size = file.stat().st_size
            same = size == captured.bytes and file.is_file() and sha256_of(file) == captured.sha256
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TraceError(f"{file}: cannot be read ({error.strerror})") from None
        if not same:
            what = f"has {size:,} bytes, and had {captured.bytes:,} when it was captured"
            if size == captured.bytes:
                what = "has been changed since it was captured"
            raise TraceError(f"{file}: {what}; delete it, and it is captured again")
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def read_manifest(folder: Path) -> list[Entry]:
    """Read what the manifest of an experiment lists, without waiting for a run that writes it.

    Raises:
        TraceError: there is none, or a line is malformed.
    """
    path = folder / NAME
    return list(_read(path, read_bytes(path, TraceError)).values())


def _read(path: Path, lines: bytes) -> dict[str, Entry]:
    """The entries by path; a last line that does not end was never finished, and does not count."""
    entries = {}
    for number, line in enumerate(lines.split(b"\n")[:-1], 1):
        where = f"{path}: line {number}"
        row = parse_json(line, where, TraceError)
        check(row, _FIELDS, where, TraceError, closed=True)
        entries[row["path"]] = Entry(**row)
    return entries


_FIELDS: Table = {
    "path": TEXT,
    "bytes": whole(),
    "sha256": TEXT,
    "prompt_set": TEXT,
    "id": Kind("a whole number or a text", lambda x: type(x) in (int, str)),
    "text": TEXT,
    "layer": or_null(whole()),
    "prompt_tokens": whole(1),
    "response_tokens": whole(),
    "model": OBJECT,
    "options": OBJECT,
    "generation": optional(TEXT),
    "sites": optional(OBJECT),
}
