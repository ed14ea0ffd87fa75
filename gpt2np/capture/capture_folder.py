"""The folder of a capture: its manifest, which shards are finished, its lock and its log.

`manifest.json` says what is captured and never changes. `shards.jsonl` has a line for each finished shard: in
the order of finishing, and once all are there in the order of shards, so that a finished folder has the same
bytes however it came about. `run.log` is about the runs alone: times, rates, workers.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from gpt2np.capture.captured_manifest import FINISHED, MANIFEST, MOST
from gpt2np.capture.shard_layout import SCHEMA
from gpt2np.capture.shard_making import MadeShard
from gpt2np.capture.shard_plan import Shard
from gpt2np.errors import InputError, TraceError, short
from gpt2np.files import read_bytes, sha256_of
from gpt2np.json_fields import parse_json
from gpt2np.outputs import PathLike, remove_leftovers, whole_binary_file

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing stops a second run
    fcntl = None  # type: ignore[assignment]

LOG = "run.log"


class CaptureFolder:
    """A capture's folder, open for adding shards; as a context manager, closed at the end of the block.

    While it is open, no other run can open it.
    """

    def __init__(self, folder: PathLike, manifest: dict[str, Any]) -> None:
        """Open the folder of the capture that a manifest describes: a new one, or one to go on with.

        Raises:
            InputError: it has another capture, or other files, cannot be written, or another run has it open.
        """
        self.path = Path(folder)
        self.manifest = self._same(manifest)  # before anything is touched
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._log = os.open(self.path / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except (OSError, ValueError) as error:  # the second for a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be written ({reason})") from None
        try:
            if fcntl is not None:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
            remove_leftovers(self.path)
            self.manifest = self._same(manifest)  # another run may have begun one meanwhile
            if not (self.path / MANIFEST).exists():
                with whole_binary_file(self.path / MANIFEST) as file:
                    file.write(_bytes(self.manifest))
        except BaseException as error:
            os.close(self._log)
            if isinstance(error, BlockingIOError):
                raise InputError(f"{self.path}: another capture is writing to this folder") from None
            raise

    def _same(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The manifest that is there, else this one.

        Raises:
            InputError: another is there, or other files.
        """
        there = self.path / MANIFEST
        if not there.exists():
            self._check_free()
            return manifest
        found = parse_json(read_bytes(there, most=MOST), str(there))
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise InputError(f"{there}: is not the manifest of a capture: choose another folder")
        what = difference(found, json.loads(_bytes(manifest)))
        if what is not None:
            raise InputError(f"{self.path}: holds another capture ({what}): choose another folder")
        return found

    def _check_free(self) -> None:
        """Refuse a folder with files of somebody else's, or what is no folder."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be made a folder ({reason})") from None
        others = sorted(name for name in names if name != LOG and not name.startswith(".gpt2np-"))
        if others:
            raise InputError(
                f"{self.path}: holds {short(others[0])} and no {MANIFEST}: choose another folder"
            )

    def finished(self, shards: Iterable[Shard]) -> tuple[dict[str, MadeShard], list[str]]:
        """Return the shards that are there and whole, by file, and what is wrong with others.

        What was listed, and is not whole, is no longer listed afterwards.
        """
        listed = read_finished(self.path)
        good, wrong = {}, []
        for shard in shards:
            made, path = listed.get(shard.file), self.path / shard.file
            if made is None:
                continue
            try:
                size = path.stat().st_size
                if size != made.bytes:
                    wrong.append(f"{path}: has {size:,} bytes instead of {made.bytes:,}; it is made again")
                elif sha256_of(path) != made.sha256:
                    wrong.append(f"{path}: has been changed since it was made; it is made again")
                else:
                    good[shard.file] = made
            except FileNotFoundError:
                wrong.append(f"{path}: is missing; it is made again")
            except OSError as error:
                raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
        self._write([good[shard.file] for shard in shards if shard.file in good])
        return good, wrong

    def add(self, made: MadeShard) -> None:
        """List a shard that is finished.

        Raises:
            TraceError: its file is not to be seen from here.
            InputError: the line cannot be written.
        """
        path = self.path / made.file
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        if size != made.bytes:
            raise TraceError(f"{path}: a worker made it, and it is not here: workers need this very folder")
        try:
            with open(self.path / FINISHED, "ab", buffering=0) as file:
                end = file.tell()
                try:
                    file.write(_line(made))
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            raise InputError(f"{self.path / FINISHED}: cannot be written ({error.strerror})") from None

    def complete(self, shards: Iterable[Shard]) -> None:
        """List the shards in their order; all are finished."""
        listed = read_finished(self.path)
        self._write([listed[shard.file] for shard in shards])

    def _write(self, made: list[MadeShard]) -> None:
        """Have exactly these listed."""
        content, path = b"".join(map(_line, made)), self.path / FINISHED
        if (read_bytes(path, most=MOST) if path.exists() else b"") != content:
            with whole_binary_file(path) as file:
                file.write(content)

    def log(self, text: str) -> None:
        """Add a line to the log, with the time."""
        with contextlib.suppress(OSError):  # a full disk must not end the run for this
            os.write(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())

    def close(self) -> None:
        """Let go of the folder; what killed workers have left half-done goes."""
        remove_leftovers(self.path)
        os.close(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_finished(folder: Path) -> dict[str, MadeShard]:
    """Return the finished shards of a folder by file; the last line may be the beginning of one."""
    path = folder / FINISHED
    lines = read_bytes(path, most=MOST).split(b"\n")[:-1] if path.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        row = parse_json(line, f"{path}: line {number}", TraceError)
        try:
            made = MadeShard(str(row["file"]), int(row["bytes"]), str(row["sha256"]), 0)
        except (TypeError, KeyError, ValueError):
            raise TraceError(f"{path}: line {number} is malformed: {short(row)}") from None
        found[made.file] = made
    return found


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What tells the capture of one manifest from that of another; None: they are of the same."""
    theirs, ours = found.get("model"), wanted["model"]
    if not isinstance(theirs, dict):
        return "of no model"
    same = theirs.get("commit") is not None and theirs.get("commit") == ours["commit"]
    keys = [key for key in ours if key != "name" and not (same and key == "fingerprint")]
    if theirs.get("dtype") != ours["dtype"]:
        return f"in {short(theirs.get('dtype'))[1:-1]}, not {ours['dtype']}"
    if any(theirs.get(key) != ours[key] for key in keys) or found.get("config") != wanted["config"]:
        return f"of the model {short(theirs.get('name'))[1:-1]}, or of one whose weights have changed"
    if found.get("texts") != wanted["texts"] or found.get("skipped") != wanted["skipped"]:
        return "of other texts"
    if list(found.get("sites", ())) != list(wanted["sites"]):
        return "of other sites"
    options = found.get("options")
    for key, value in wanted["options"].items():
        if not isinstance(options, dict) or options.get(key) != value:
            was = options.get(key) if isinstance(options, dict) else None
            return f"with {key.replace('_', ' ')} {short(was)}, not {short(value)}"
    rest = ("schema", "sites", "shards")
    return next((f"its {key} are others" for key in rest if found.get(key) != wanted[key]), None)


def free_bytes(folder: PathLike) -> int:
    """Return the bytes that the disk of a folder has left, which need not be there yet.

    Raises:
        InputError: that cannot be told.
    """
    place = Path(os.path.realpath(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _bytes(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace") + b"\n"


def _line(made: MadeShard) -> bytes:
    return json.dumps({"file": made.file, "bytes": made.bytes, "sha256": made.sha256}).encode() + b"\n"
