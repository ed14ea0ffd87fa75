"""Writing a file whole or not at all."""

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gpt2np.errors import InputError


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
