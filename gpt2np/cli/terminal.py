"""What a terminal is given: text, never the control characters that a file has put into it.

While a command runs, stdout and stderr are `Screen`s: whatever a verb prints, control characters and those
that change the direction of writing are shown as escapes, and so is what the terminal's encoding lacks. Where
there is no stdout or stderr (a closed one, a service, pythonw), what is printed goes nowhere.
"""

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from gpt2np.errors import printable
from gpt2np.tables import WIDTH

# All but tab and newline; half surrogate pairs; what turns the direction of writing, or breaks a line.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OF_BARS = re.compile("(\r|\x1b\\[A)")  # with which a progress bar writes over itself


SECOND = 1.0  # after which a command says what it does, and then again


class Ticker:
    """On a terminal, a line that says what a command does and for how long, from its first second on.

    A line on stderr takes its place and lets it come back; it ends with the first text on stdout, whose line
    it would break, and with the first progress bar.
    """

    def __init__(self, stream: Any, what: str) -> None:
        """`stream` is stderr; `what` is being done."""
        self.what = what
        self._stream, self._shown, self._start = stream, 0, time.monotonic()
        self._over, self._lock = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Begin to count, where the stream is a terminal."""
        if self._stream is not None and self._stream.isatty():
            threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._over.wait(SECOND):
            with self._lock, contextlib.suppress(OSError, ValueError):
                if not self._over.is_set():
                    text = f"gpt2np: {printable(self.what)}, {time.monotonic() - self._start:.0f} s"
                    self._stream.write(f"\r{text:<{self._shown}}")
                    self._stream.flush()
                    self._shown = len(text)

    @contextlib.contextmanager
    def away(self, for_good: bool) -> Iterator[None]:
        """While the block runs, the line is gone and does not come back; `for_good`: nor after it."""
        with self._lock:
            if for_good:
                self._over.set()
            if self._shown:
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write(f"\r{'':<{self._shown}}\r")
                    self._stream.flush()
                self._shown = 0
            yield

    def stop(self) -> None:
        """Take it away for good."""
        with self.away(for_good=True):
            pass


_ticker: Ticker | None = None  # of the command that runs


class Screen(io.TextIOBase):
    """A text stream that gives its text to another one, with escapes; where that is None, to nobody."""

    def __init__(self, stream: Any, *, optional: bool = False, bars: bool = False) -> None:
        """`optional` text may be lost where it cannot be written; `bars` lets progress bars move."""
        self._stream, self._optional, self._bars = stream, optional, bars

    def write(self, text: str) -> int:
        """Write a text, escaped; returns its length."""
        is_note = self._optional and not self._bars
        with contextlib.nullcontext() if _ticker is None else _ticker.away(for_good=not is_note):
            if self._is_open():
                with self._forgiving():
                    self._stream.write(shown(text, self.encoding, self._bars))
        return len(text)

    def flush(self) -> None:
        """Hand over what is still held back."""
        if self._is_open():
            with self._forgiving():
                self._stream.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._is_open() and hasattr(self._stream, "isatty") and bool(self._stream.isatty())

    def fileno(self) -> int:
        """The number of the file behind it; raises OSError where there is none."""
        if self._stream is None or not hasattr(self._stream, "fileno"):
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What the other stream says, else UTF-8."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def for_bars(self) -> Self:
        """The same stream as a progress bar needs it."""
        return type(self)(self._stream, optional=self._optional, bars=True)

    def _is_open(self) -> bool:
        return self._stream is not None and not getattr(self._stream, "closed", False)

    def _forgiving(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.suppress(OSError) if self._optional else contextlib.nullcontext()


def shown(text: str, encoding: str, bars: bool = False) -> str:
    r"""A text as a terminal of this encoding can be given it: `\x1b` and the like for all else."""
    if bars:
        parts = OF_BARS.split(text)  # every second is one of a bar's own
        return "".join(part if i % 2 else shown(part, encoding) for i, part in enumerate(parts))
    text = CONTROL.sub(lambda found: _escape(found[0]), text)
    try:
        text.encode(encoding)
    except UnicodeError:
        return "".join(c if _has(encoding, c) else _escape(c) for c in text)
    except LookupError:  # a stream of somebody's own, whose encoding is no codec's name
        pass
    return text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _has(encoding: str, character: str) -> bool:
    try:
        return bool(character.encode(encoding))
    except UnicodeError:
        return False


@contextlib.contextmanager
def screens() -> Iterator[None]:
    """While the block runs, stdout and stderr are screens; then they are what they were."""
    before = sys.stdout, sys.stderr
    if None in before:
        _fill_closed()
    sys.stdout, sys.stderr = Screen(before[0]), Screen(before[1], optional=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open /dev/null where a standard stream is closed: else the next file that is opened would be stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one


@contextlib.contextmanager
def ticking(what: str) -> Iterator[None]:
    """While the block runs, which is inside `screens`, a terminal shows what is done and for how long."""
    global _ticker
    stream = sys.stderr
    _ticker = Ticker(stream._stream if isinstance(stream, Screen) and stream.isatty() else None, what)
    _ticker.start()
    try:
        yield
    finally:
        _ticker.stop()
        _ticker = None


def doing(what: str) -> None:
    """What the terminal shows from now on, if the command takes longer than a second."""
    if _ticker is not None:
        _ticker.what = what


@contextlib.contextmanager
def moving_bars() -> Iterator[None]:
    """While the block runs, progress bars that others draw on stderr may move."""
    before = sys.stderr
    sys.stderr = getattr(before, "for_bars", before)
    try:
        yield
    finally:
        sys.stderr = before


def tell(text: str) -> None:
    """A note on stderr, always one line."""
    print(f"gpt2np: {printable(text)}", file=sys.stderr)


def write_over(text: str = "") -> None:
    """A line on stderr, where that is a terminal, whose place the next one takes; without a text, none."""
    if sys.stderr.isatty():
        stream = getattr(sys.stderr, "for_bars", sys.stderr)
        print(f"\r{printable(text):<{WIDTH - 1}}\r{printable(text)}", end="", file=stream, flush=True)


def give_up_stdout() -> None:
    """What was not written yet is not written at exit either, where the error would come again."""
    with contextlib.suppress(OSError, ValueError):  # where no file is behind it, nothing is written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
