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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gpt2np.capture.captured_manifest import (
    CURE,
    FINISHED,
    MANIFEST,
    MOST,
    DamagedManifest,
    is_captured,
    manifest_fields,
    read_finished,
)
from gpt2np.capture.shard_making import MadeShard
from gpt2np.capture.shard_plan import Shard
from gpt2np.capture.worker_model import is_same_model
from gpt2np.errors import InputError, TraceError, short
from gpt2np.files import read_bytes, sha256_of
from gpt2np.outputs import PathLike, remove_leftovers, whole_binary_file
from gpt2np.tables import counted

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nothing stops a second run
    fcntl = None  # type: ignore[assignment]

LOG = "run.log"
WhyNot = Callable[[Path], str | None]  # why the shards of a folder are not known to be of a capture


class CaptureFolder:
    """A capture's folder, open for adding shards; as a context manager, closed at the end of the block.

    While it is open, no other run can open it. `anew`: it has shards, and had lost its manifest.
    """

    def __init__(self, folder: PathLike, manifest: dict[str, Any], why_not: WhyNot | None = None) -> None:
        """Open the folder of the capture that a manifest describes: a new one, or one to go on with.

        `why_not` tells why shards there are not known to be of this capture, where the manifest is lost.

        Raises:
            InputError: it has another capture, or other files, cannot be written, or another run has it open.
            TraceError: its manifest is damaged.
        """
        self.path = Path(folder)
        manifest_there(self.path, lambda: manifest, why_not)  # before anything is touched
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
            # another run may have begun one meanwhile
            found = manifest_there(self.path, lambda: manifest, why_not)
            self.manifest = found or manifest
            self.anew = found is None and bool(shards_in(self.path))
            if found is None:
                with whole_binary_file(self.path / MANIFEST) as file:
                    file.write(_bytes(self.manifest))
        except BaseException as error:
            os.close(self._log)
            if isinstance(error, BlockingIOError):
                raise InputError(f"{self.path}: another capture is writing to this folder") from None
            raise

    def finished(self, shards: Sequence[Shard]) -> tuple[set[str], list[str]]:
        """Return the files of the shards that are there and whole, and what is wrong with others.

        What was listed, and is not whole, is no longer listed afterwards.
        """
        listed, malformed = read_finished(self.path, _sizes(shards))
        lost = any(shard.file not in listed for shard in shards)
        then = "its shard is made again" if lost else "it is left out, and all shards are listed without it"
        wrong = [f"{text}; {then}" for text in malformed]
        if not os.path.lexists(self.path / FINISHED) and (there := shards_in(self.path)):
            why = "without the hashes in it nobody knows whether they are whole"
            what = f"{counted(len(there), 'shard')} that {'is' if len(there) == 1 else 'are'} there"
            wrong.append(f"{self.path / FINISHED}: is missing; {what}, made again: {why}")
        good = dict[str, str]()
        for shard in shards:
            if shard.file not in listed:
                continue
            path = self.path / shard.file
            try:
                size = path.stat().st_size
                if size != shard.bytes:
                    wrong.append(f"{path}: has {size:,} bytes instead of {shard.bytes:,}; it is made again")
                elif sha256_of(path) != listed[shard.file]:
                    wrong.append(f"{path}: has been changed since it was made; it is made again")
                else:
                    good[shard.file] = listed[shard.file]
            except FileNotFoundError:
                wrong.append(f"{path}: is missing; it is made again")
            except OSError as error:
                raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
        self._write(shards, good)
        return set(good), wrong

    def add(self, made: MadeShard) -> None:
        """List a shard that is finished.

        Raises:
            TraceError: its file is not to be seen from here.
            InputError: the line cannot be written.
        """
        path = self.path / made.file
        if _size(path) != made.bytes:
            raise TraceError(f"{path}: a worker made it, and it is not here: workers need this very folder")
        try:
            with open(self.path / FINISHED, "ab", buffering=0) as file:
                end = file.tell()
                try:
                    file.write(_line(made.file, made.bytes, made.sha256))
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            raise InputError(f"{self.path / FINISHED}: cannot be written ({error.strerror})") from None

    def complete(self, shards: Sequence[Shard]) -> None:
        """List the shards in their order; all are finished."""
        listed, _ = read_finished(self.path, _sizes(shards))
        self._write(shards, listed)

    def _write(self, shards: Sequence[Shard], listed: Mapping[str, str]) -> None:
        """Have exactly these listed, in the order of the shards."""
        content = b"".join(_line(s.file, s.bytes, listed[s.file]) for s in shards if s.file in listed)
        path = self.path / FINISHED
        if not path.exists() or read_bytes(path, most=MOST) != content:
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


def manifest_there(
    folder: Path, wanted: Callable[[], dict[str, Any]], why_not: WhyNot | None = None
) -> dict[str, Any] | None:
    """Return the manifest that a folder has, of the capture of the manifest `wanted`.

    None: it is to be written. It is not there yet, or of a capture of which nothing is finished, or it is
    lost and the shards are of this capture, which `why_not` says.

    Raises:
        InputError: it is of another capture, or other files are there, or it is no folder.
        TraceError: the manifest is damaged, and cannot be written anew.
    """
    try:
        found = _manifest_in(folder)
    except (InputError, DamagedManifest) as error:
        if not shards_in(folder):
            if isinstance(error, DamagedManifest) and not _is_begun(folder):
                return None
            raise
        reason = "nothing says that the shards are of this capture" if why_not is None else why_not(folder)
        if reason is None:
            return None
        said = str(error).removesuffix(f": {CURE}").removesuffix(": choose another folder")
        cure = "put back a copy of it, or choose another folder"
        raise type(error)(f"{said}; it cannot be written anew, as {reason}: {cure}") from None
    if found is None:
        return None
    what = difference(found, json.loads(_bytes(wanted())))
    if what is None:
        return found
    if not _is_begun(folder):
        return None
    raise InputError(f"{folder}: holds another capture ({what}): choose another folder")


def _manifest_in(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, whatever it is of; None: the folder is empty, or not there."""
    there = folder / MANIFEST
    if not there.exists():
        _check_free(folder)
        return None
    if not is_captured(folder):
        raise InputError(f"{there}: is not the manifest of a capture: choose another folder")
    return manifest_fields(there)


def shards_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are shards by their names."""
    with contextlib.suppress(OSError, ValueError):
        return sorted(path.name for path in folder.glob("shard_*.safetensors"))
    return []


def _is_begun(folder: Path) -> bool:
    """Whether a capture has anything that would be lost."""
    return bool(shards_in(folder)) or _size(folder / FINISHED) > 0


def shards_there(
    folder: PathLike,
    wanted: Callable[[], dict[str, Any]],
    shards: Sequence[Shard],
    why_not: WhyNot | None = None,
) -> set[str]:
    """Return the files of the shards that a folder has already, by its list and their sizes.

    Nothing is written, and no hash is looked at: this is for a plan.

    Raises:
        InputError, TraceError: as `manifest_there`.
    """
    place = Path(folder)
    manifest_there(place, wanted, why_not)
    listed, _ = read_finished(place, _sizes(shards))
    return {s.file for s in shards if s.file in listed and _size(place / s.file) == s.bytes}


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sizes(shards: Iterable[Shard]) -> dict[str, int]:
    return {shard.file: shard.bytes for shard in shards}


def _check_free(folder: Path) -> None:
    """Refuse a folder with files of somebody else's, or what is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: cannot be made a folder ({reason})") from None
    others = sorted(name for name in names if name != LOG and not name.startswith(".gpt2np-"))
    if others:
        raise InputError(f"{folder}: holds {short(others[0])} and no {MANIFEST}: choose another folder")


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What tells the capture of one manifest from that of another; None: they are of the same."""
    theirs, ours = found["model"], wanted["model"]
    if theirs.get("dtype") != ours["dtype"]:
        return f"in {short(theirs.get('dtype'))[1:-1]}, not {ours['dtype']}"
    if not is_same_model(theirs, ours) or found["config"] != wanted["config"]:
        return f"of the model {short(theirs.get('name'))[1:-1]}, or of one whose weights have changed"
    if found["texts"] != wanted["texts"] or _skipped(found) != _skipped(wanted):
        return "of other texts"
    if list(found["sites"]) != list(wanted["sites"]):
        return "of other sites"
    for key, value in wanted["options"].items():
        if found["options"].get(key) != value:
            was = found["options"].get(key)
            return f"with {key.replace('_', ' ')} {_said(was)}, not {_said(value)}"
    rest = ("schema", "sites", "shards")
    return next((f"its {key} are others" for key in rest if found.get(key) != wanted[key]), None)


def _skipped(manifest: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The prompts that were left out, and why; the same texts may stand in another file."""
    return [(bad["prompt"], bad["reason"]) for bad in manifest.get("skipped") or ()]


def _said(option: Any) -> str:
    return "by default" if option is None else short(option)


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


def _line(file: str, size: int, sha256: str) -> bytes:
    return json.dumps({"file": file, "bytes": size, "sha256": sha256}).encode() + b"\n"
