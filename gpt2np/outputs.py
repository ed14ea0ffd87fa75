"""Writing a file, or a folder of files, whole or not at all.

What is being written has a temporary name beside its target, and its writer holds a lock on it. A killed
writer's lock is gone, so the next one in that folder can tell what nobody will finish, and removes it.
"""

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from gpt2np.errors import Gpt2npError, InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, age tells
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
KINDS = (".safetensors", ".npz", ".npy", ".json", ".jsonl", ".csv", ".pt", ".pth", ".bin", ".html", ".ts")
DAY = 86_400  # seconds
PENDING = 1 << 26  # bytes that may wait for the disk before it is told to begin

_next_look: dict[Path, float] = {}  # when a large folder may be looked through again


def target_of(path: PathLike, error: type[Gpt2npError] = InputError) -> Path:
    """The file that a name stands for, existing or not: links are followed, so that they stay.

    Raises:
        error: a folder or device has the name, a link leads to itself, or it cannot be a name.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            reason = "a link that leads to itself"
        elif target.exists() and not target.is_file():
            reason = "a folder or a device has this name"
        else:
            return target
    except (OSError, ValueError) as problem:  # the second for a NUL, and for half a surrogate pair
        reason = getattr(problem, "strerror", None) or str(problem)
    raise error(f"{os.fspath(path)}: cannot be written ({reason})")


def check_destinations(
    *paths: PathLike | None, inputs: Iterable[PathLike] = (), overwrite: bool = True
) -> None:
    """Refuse, before a long run, files that cannot or must not be written after it; None is no file.

    Raises:
        InputError: a folder or device has the name, its folder is missing or read-only, two are the same, it
            is one of the `inputs` under whatever name, or without `overwrite` it is there.
    """
    given = [path for path in paths if path is not None]
    targets, inputs = [target_of(path) for path in given], list(inputs)
    for path, target in zip(given, targets, strict=True):
        if not target.parent.is_dir():
            raise InputError(f"{path}: cannot be written (no folder {target.parent})")
        if not os.access(target.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written (the folder is read-only)")
        check_not_read(path, inputs)
        if target.exists() and not overwrite:
            raise InputError(f"{path}: is there already; --force overwrites it")
    if len(set(targets)) < len(given):
        raise InputError(f"{given[0]}: is given for two different files")


def make_parents(*paths: PathLike | None) -> list[Path]:
    """Make the folders that files are to be written into; returns the new ones, the innermost first.

    Raises:
        InputError: one cannot be made; none of them stays.
    """
    new: list[Path] = []
    for path in [path for path in paths if path is not None]:
        try:
            for parent in reversed(target_of(path).parents):
                if not parent.is_dir():
                    parent.mkdir()
                    new.insert(0, parent)
        except OSError as error:
            remove_empty(new)
            raise InputError(f"{path}: cannot be written (folder {parent}: {error.strerror})") from None
    return new


def check_kind(path: PathLike, ending: str, says: str, error: type[Gpt2npError] = InputError) -> None:
    """Refuse a name with the ending of another kind of file than is written; `says` is what to say of it.

    Raises:
        error: it has one.
    """
    suffix = Path(path).suffix.lower()
    if suffix in KINDS and suffix != ending:
        raise error(f"{os.fspath(path)}: {says}")


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_not_read(path: PathLike, inputs: Iterable[PathLike]) -> None:
    """Refuse to write over a file that the run reads, under whatever name.

    Raises:
        InputError: it is one of the `inputs`.
    """
    if any(_same(path, file) for file in inputs):
        raise InputError(f"{path}: is read by this very run; write to another file")


def _same(path: PathLike, other: PathLike) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there
        return False


class Unfinished:
    """A file or folder in the making: at `path`, under a temporary name inside `folder`."""

    def __init__(self, folder: Path, *, of_files: bool = False) -> None:
        """Make it, empty: a file, or with `of_files` a folder; raises OSError where that is not possible."""
        remove_leftovers(folder)
        while True:
            self.path = folder / f".gpt2np-{os.urandom(8).hex()}.tmp"
            if of_files:
                self.path.mkdir()
            else:
                self.path.open("xb").close()
            self._lock = _lock(self.path)
            if os.path.lexists(self.path):  # not so if another run took it for a leftover before the lock
                return
            self._unlock()

    def finish(self, target: Path) -> None:
        """Give it its name, in one step; raises OSError and removes it where that is not possible."""
        try:
            os.replace(self.path, target)
        finally:
            self.discard()  # after a success, nothing has the temporary name any more

    def discard(self) -> None:
        """Remove what was made; does nothing after `finish`."""
        _remove(self.path)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None


def _lock(path: Path) -> int | None:
    """What holds the lock of a file or folder; None where it is taken, gone, or has no locks."""
    if fcntl is None:
        return None
    handle = None
    try:
        is_folder = path.is_dir() and not path.is_symlink()
        how = os.O_RDONLY if is_folder else os.O_RDWR  # NFS locks only what is open for writing
        handle = os.open(path, how | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            import shutil

            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left half-done in a folder, and nothing of a run that is alive.

    A large folder is not looked through for every file that is written to it.
    """
    if time.monotonic() < _next_look.get(folder, 0):
        return
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        _next_look[folder] = time.monotonic() + 1e-4 * len(names)
        for path in [folder / name for name in names if _is_temporary(name)]:
            if fcntl is None:
                if time.time() - path.lstat().st_mtime > DAY:
                    _remove(path)
            elif (lock := _lock(path)) is not None:
                _remove(path)
                os.close(lock)


def _is_temporary(name: str) -> bool:
    return name.startswith(".gpt2np-") and name.endswith(".tmp")


@contextlib.contextmanager
def whole_binary_file(path: PathLike) -> Iterator[IO[bytes]]:
    """A file to write to: it appears under its name when the block ends, and not if the block fails.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    target = target_of(path)
    try:
        making = Unfinished(target.parent)
        try:
            with making.path.open("wb") as file:
                yield file
            making.finish(target)
        finally:
            making.discard()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def to_disk(file: IO[bytes], sync: bool = True) -> Iterator[Callable[[int], None]]:
    """What is to be told how many bytes were written: the disk writes them while the next ones are made.

    With `sync` everything has reached the disk when the block ends; without, the system sees to that later.
    """
    errors: list[OSError] = []
    pending, thread = 0, threading.Thread()

    def flush() -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(file.fileno())
        except OSError as error:  # the system tells this only once
            errors.append(error)

    def written(n: int) -> None:
        nonlocal pending, thread
        pending += n
        if sync and pending >= PENDING and not thread.is_alive():
            pending, thread = 0, threading.Thread(target=flush, daemon=True)
            thread.start()

    try:
        yield written
        file.flush()
        if sync:
            os.fsync(file.fileno())
    finally:
        if thread.ident is not None:
            thread.join()  # before the file is closed
    if errors:
        raise errors[0]


def sync_folder(folder: Path) -> None:
    """Have a new name in a folder reach the disk, where the system knows how to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def whole_file(path: PathLike) -> Iterator[IO[str]]:
    """The same for text.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    with whole_binary_file(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


@contextlib.contextmanager
def whole_folder(folder: PathLike, mark: str, error: type[Gpt2npError] = InputError) -> Iterator[Path]:
    """A folder to write files into: when the block ends they appear in `folder`, and not if the block fails.

    A new folder appears in one step, with parents as needed. In one that is there, files of the same names
    are replaced, others are left alone; if that is killed, some may be missing, but none is an older one.
    `mark` is one of the files: a folder that has others of them without it is somebody else's.

    Raises:
        error: it cannot be written, or is somebody else's; nothing is left behind.
    """
    target = _folder_of(folder, error)
    with _parents(target, folder, error):
        try:
            there = target.is_dir()
            making = Unfinished(target if there else target.parent, of_files=True)
            try:
                yield making.path
                if there:
                    _move(making.path, target, mark, error)
                else:
                    making.finish(target)
            finally:
                making.discard()
        except OSError as problem:
            raise error(f"{folder}: cannot be written ({problem.strerror})") from None
        except Gpt2npError as problem:  # about a file in it, which has another name by now
            raise type(problem)(str(problem).replace(str(making.path), str(folder))) from None


def _folder_of(folder: PathLike, error: type[Gpt2npError]) -> Path:
    """The folder that a name stands for, existing or not."""
    if not os.fspath(folder):
        raise error("the name of the folder to write is empty")
    try:
        target = Path(os.path.realpath(folder))
        target.lstat()
        if target.is_dir():
            return target
        reason = "a link that leads to itself" if target.is_symlink() else "a file has this name"
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
    raise error(f"{os.fspath(folder)}: cannot be made a folder ({reason})")


def _move(source: Path, target: Path, mark: str, error: type[Gpt2npError]) -> None:
    names = [name for name in sorted(os.listdir(source)) if name != mark]
    if not (target / mark).exists():
        for name in names:
            if os.path.lexists(target / name):
                raise error(
                    f"{target / name}: is there, without the {mark} of files written here: "
                    "choose another folder"
                )
    for name in names:
        (target / name).unlink(missing_ok=True)
    for name in [mark, *names]:
        os.replace(source / name, target / name)


@contextlib.contextmanager
def _parents(target: Path, folder: PathLike, error: type[Gpt2npError]) -> Iterator[None]:
    """Makes the parents of a folder; if the block fails, those that are new and empty go away again."""
    new: list[Path] = []
    try:
        for parent in reversed(target.parents):
            if not parent.is_dir():
                parent.mkdir()
                new.append(parent)
        yield
    except BaseException as problem:
        remove_empty(reversed(new))
        if isinstance(problem, OSError):
            raise error(f"{os.fspath(folder)}: cannot be made a folder ({problem.strerror})") from None
        raise
