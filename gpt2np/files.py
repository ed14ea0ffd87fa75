"""Reading a file that may be anything, and writing one whole or not at all."""

import contextlib
import io
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gpt2np.errors import Gpt2npError, InputError, TraceError

MOST_TEXT = 100_000_000  # bytes of a config, vocabulary, index or the like: the largest known has 35 million
MAX_BYTES = 1_000_000_000  # of memory that a file is read into, unless somebody says that it may be more


def read_bytes(
    path: str | os.PathLike[str], error: type[Gpt2npError] = InputError, most: int = MOST_TEXT
) -> bytes:
    """The bytes of a regular file: never of a pipe, which would wait, or of a device, which may not end.

    Raises:
        error: it is missing, something else than a file, cannot be read, or has more than `most` bytes.
    """
    try:
        mode = os.stat(path).st_mode  # looked at first: opening a pipe would wait for its writer
        if not stat.S_ISREG(mode):
            raise error(f"{path}: expected a file, found a {'folder' if stat.S_ISDIR(mode) else 'device'}")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as e:  # the second where the path itself cannot be one
        if isinstance(e, Gpt2npError):
            raise
        raise error(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from None
    if len(content) > most:
        raise error(f"{path}: has more than {most:,} bytes, which is too much for such a file")
    return content


def read_text(
    path: str | os.PathLike[str], error: type[Gpt2npError] = InputError, most: int = MOST_TEXT
) -> str:
    """The text of a regular file, without the mark that some editors put at the start of UTF-8.

    Raises:
        error: what `read_bytes` raises it for, or it is not UTF-8.
    """
    try:
        return read_bytes(path, error, most).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        what = f"byte 0x{e.object[e.start]:02x} at {e.start:,} is not UTF-8"
        raise error(f"{path}: {what}") from None


def read_json(
    path: str | os.PathLike[str], error: type[Gpt2npError] = InputError, most: int = MOST_TEXT
) -> Any:
    """The content of a regular JSON file; NaN and infinities are taken, as Python writes them.

    Raises:
        error: what `read_text` raises it for, or it is not JSON.
    """
    text = read_text(path, error, most)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # RecursionError: thousands of lists in lists
        raise error(f"{path}: is not JSON ({e})") from None


def check_destinations(*paths: str | None) -> None:
    """Refuse, before a long run, files that cannot be written after it; None is no file.

    Raises:
        InputError: a folder or device has the name, its folder is missing or read-only, or two are the same.
    """
    given = [Path(path) for path in paths if path is not None]
    for path in given:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: cannot be written (a folder or a device has this name)")
        if not path.parent.is_dir():
            raise InputError(f"{path}: cannot be written (no folder {path.parent})")
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written (the folder is read-only)")
    if len({path.resolve() for path in given}) < len(given):
        raise InputError(f"{given[0]}: is given for two different files")


@contextlib.contextmanager
def whole_binary_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to: it appears under its name when the block ends, and not if the block fails.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    target = Path(path)
    temporary = target.parent / f".gpt2np-{secrets.token_hex(8)}.tmp"
    try:
        if target.exists() and not target.is_file():
            raise InputError(f"{target}: cannot be written (a folder or a device has this name)")
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """The same for text.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    with whole_binary_file(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


@contextlib.contextmanager
def made_folder(target: Path) -> Iterator[None]:
    """Makes a folder and its parents; if the block fails, those that are new and empty go away again.

    Raises:
        InputError: it cannot be made.
    """
    new: list[Path] = []
    try:
        for folder in (*reversed(target.parents), target):
            if not folder.is_dir():
                folder.mkdir()
                new.append(folder)
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            for folder in reversed(new):
                folder.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"{target}: cannot be made ({error.strerror})") from None
        raise


def output_paths(out: Path, n: int | None) -> list[Path]:
    """The file of each trace: `out` itself, or n numbered files in the folder `out`.

    Raises:
        TraceError: the folder cannot be made, or the name is that of another kind of file.
    """
    if n is None:
        if out.suffix in (".npz", ".npy", ".json", ".csv", ".pt", ".bin"):
            raise TraceError(f"{out}: a trace is a .safetensors file; `gpt2np export` makes others of it")
        return [out]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{out}: cannot be made a folder for several traces ({reason})") from None
    return [out / f"{i:0{len(str(n - 1))}}.safetensors" for i in range(n)]


def text_kind(path: str | os.PathLike[str]) -> str:
    """`a JSON file` or `a CSV file`, by how a file begins; empty if it is neither, or cannot be read."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return ""
    if start.startswith(b"name,axis_"):
        return "a CSV file"
    is_json = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") and b"\0" not in start
    return "a JSON file" if is_json else ""


def check_unicode(path: str | os.PathLike[str], content: Any) -> None:
    """Refuse texts that no file and no terminal could show.

    Raises:
        TraceError: half a surrogate pair is in them.
    """
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise TraceError(
            f"{path}: a text in it is not valid Unicode: it holds {half!r}, half a surrogate pair"
        ) from None
