"""Reading a file that may be anything."""

import json
import os
import stat
from typing import Any

from gpt2np.errors import Gpt2npError, InputError, TraceError

MOST_TEXT = 100_000_000  # bytes of a config, vocabulary, index or the like: the largest known has 35 million


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
