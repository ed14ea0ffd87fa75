"""Texts that a command is given: on the command line, in a file, through a pipe or on stdin, as their bytes.

No reader here changes an end of a line, so a text has the tokens that its bytes have, wherever it comes from;
only a prompt on stdin loses the one end of line at its end, which `echo` and editors put there.
"""

import argparse
import sys

from gpt2np.errors import InputError
from gpt2np.files import MOST_TEXT, decoded, read_bytes
from gpt2np.text.prompt_lists import lines_of


def a_text(given: str) -> str:
    """A text among the arguments, as argparse's `type=`: says which byte is not UTF-8.

    Python hands over such bytes as halves of surrogate pairs; those of a path stay as they are.
    """
    try:
        return as_unicode(given)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def as_unicode(given: str) -> str:
    """An argument as a text.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return decoded(given.encode("utf-8", "surrogateescape"), "the text")
    except UnicodeEncodeError as error:  # of a program that calls `main`: no terminal makes such a text
        half = f"character {error.start} of the text is {given[error.start]!a}"
        raise InputError(f"{half}, half a surrogate pair, which UTF-8 cannot hold") from None


def read_text(path: str) -> str:
    """The text of a file or pipe, or of stdin (`-`), to 100 MB; a mark at its start is part of it.

    Raises:
        InputError: it cannot be read, is longer, or not UTF-8.
    """
    return decoded(_bytes(path), "stdin" if path == "-" else path)


def read_prompt_text() -> str:
    """The prompt on stdin, without the end of the last line.

    Raises:
        InputError: as `read_text`.
    """
    text = read_text("-")
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def read_lines(path: str) -> list[str]:
    r"""The lines of such a text as they are: they end in \n or \r\n and in nothing else; a mark is dropped.

    Raises:
        InputError: as `read_text`.
    """
    return lines_of(read_text(path))


def _bytes(path: str) -> bytes:
    if path != "-":
        return read_bytes(path, most=MOST_TEXT, pipes=True)
    if sys.stdin is None:
        raise InputError("stdin: there is none; give the text itself, or a file")
    try:
        reader = getattr(sys.stdin, "buffer", None)  # a program may have put something else in its place
        if reader is None:
            content = as_unicode(sys.stdin.read(MOST_TEXT + 1)).encode()
        else:
            content = reader.read(MOST_TEXT + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"stdin: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > MOST_TEXT:
        raise InputError(f"stdin: has more than {MOST_TEXT:,} bytes, which is too much for a text")
    return bytes(content)
