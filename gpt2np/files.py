"""Reading a file that may be anything."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2np.errors import Gpt2npError, InputError, TraceError, short

MOST_TEXT = 100_000_000  # bytes of a config, vocabulary, index or the like: the largest known has 35 million
START = 512  # bytes at the start of a file, which say what it is
_KINDS = {
    b"PK\3\4": "a zip file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF file",
    b"\x93NUMPY": "a .npy file",
    b"\x1f\x8b": "a gzip file",
}
_JSON_KINDS = {  # by what our own files begin with
    '{"step": ': "the ledger of a generation",
    "kv": "a KV file in JSON",
    "trace": "a trace as JSON",
    "dialect": "a trace as JSON",
    "captured": "the manifest of captured prompts",
    "traces": "the index of a folder of traces",
    "kv_dataset": "the index of a folder of KV files",
}
MAX_BYTES = 1_000_000_000  # of memory that a file is read into, unless somebody says that it may be more


def read_bytes(
    path: str | os.PathLike[str],
    error: type[Gpt2npError] = InputError,
    most: int = MOST_TEXT,
    pipes: bool = False,
) -> bytes:
    """The bytes of a regular file: never of a pipe, which would wait, or of a device, which may not end.

    `pipes` takes them as well: for a text, which somebody may pipe in.

    Raises:
        error: it is missing, something else than a file, cannot be read, or has more than `most` bytes.
    """
    if not pipes:
        check_regular(path, error)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size  # of a pipe: 0
            content = b"" if size > most else file.read(most + 1)
    except (OSError, ValueError) as e:
        raise error(f"{path}: {_reason(e)}") from None
    if max(size, len(content)) > most:
        raise error(f"{path}: has more than {most:,} bytes, which is too much for such a file")
    return content


def read_lines(
    path: str | os.PathLike[str], error: type[Gpt2npError] = InputError, most: int = MOST_TEXT
) -> Iterator[bytes]:
    """The lines of a regular file one by one, without their ends; `most` is the limit of each.

    Raises:
        error: what `read_bytes` raises it for.
    """
    check_regular(path, error)
    try:
        with open(path, "rb") as file:
            while line := file.readline(most + 1):
                if len(line) > most:
                    raise error(f"{path}: a line has more than {most:,} bytes, which is too much")
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except OSError as e:
        raise error(f"{path}: {_reason(e)}") from None


def check_regular(path: str | os.PathLike[str], error: type[Gpt2npError] = InputError) -> None:
    """Refuse what is no regular file; to be asked before a file is opened: a pipe would wait for its writer.

    Raises:
        error: it is missing, or a folder, pipe or device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as e:
        raise error(f"{path}: {_reason(e)}") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
        found = next((name for is_kind, name in kinds.items() if is_kind(mode)), "device")
        raise error(f"{path}: expected a file, found a {found}")


def _reason(e: OSError | ValueError) -> str:
    """Why a file cannot be opened; a ValueError is raised where the path itself cannot be one."""
    if isinstance(e, FileNotFoundError):
        return "no such file"
    return f"cannot be read ({getattr(e, 'strerror', None) or e})"


def read_text(
    path: str | os.PathLike[str], error: type[Gpt2npError] = InputError, most: int = MOST_TEXT
) -> str:
    """The text of a regular file, without the mark that some editors put at the start of UTF-8.

    Raises:
        error: what `read_bytes` raises it for, or it is not UTF-8.
    """
    return decoded(read_bytes(path, error, most), str(path), error).removeprefix("\ufeff")


def decoded(content: bytes, where: str, error: type[Gpt2npError] = InputError, begin: int = 0) -> str:
    """Bytes as text; `begin` is where in a file they begin.

    Raises:
        error: they are not UTF-8; says which byte, and where it is.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as e:
        what = f"byte 0x{e.object[e.start]:02x} at {begin + e.start:,} is not UTF-8"
        raise error(f"{where}: {what}") from None


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
    except RecursionError:
        raise error(f"{path}: is not JSON to be read (lists or objects are nested too deeply)") from None
    except ValueError as e:
        raise error(f"{path}: is not JSON ({e})") from None


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file is, by how it begins; empty if that does not tell, or it cannot be read."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return kind_of_start(file.read(START))
    except (OSError, InputError):
        return ""


def kind_of_start(start: bytes) -> str:
    """What a file is that begins with these bytes, `START` or all that it has; empty if they do not tell.

    Example:
        >>> kind_of_start(b"<!DOCTYPE html><title>404</title>")
        'a web page'
    """
    for begin, kind in _KINDS.items():
        if start.startswith(begin):
            return kind
    text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\ufffd").lstrip()
    if not text or not all(c.isprintable() or c.isspace() for c in text) or "\ufffd" in text:
        return ""
    if text[0] in "{[":
        schema = re.search(r'"schema": ?"gpt2np\.(\w+)/', text)
        return _JSON_KINDS.get(schema[1] if schema else text[:9], "a JSON file")
    if text[0] == "<":
        return "a web page" if re.match(r"<(!doctype )?html", text, re.IGNORECASE) else "an XML file"
    return "a CSV file" if text.startswith("name,axis_") else "a text file"


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
            f"{path}: a text in it is not valid Unicode: it holds {short(half)}, half a surrogate pair"
        ) from None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a regular file.

    Raises:
        InputError: it is missing or something else.
    """
    import hashlib

    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
