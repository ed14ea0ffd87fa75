"""Writing a file whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gpt2np.errors import InputError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text file to write to: it appears under its name when the block ends, and not if the block fails.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    target = Path(path)
    temporary = target.with_name(f".gpt2np-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
