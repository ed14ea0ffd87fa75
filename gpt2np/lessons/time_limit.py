"""A limit to the time that a learner's function takes: a loop without an end is stopped, and it says where.

What counts is the CPU's time, so that a busy machine stops nobody. A second thread watches, and has Python
raise an exception in the first one, which is still that of Ctrl-C: the same on every system and in notebooks.
"""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 10.0  # of the CPU: a right function takes less than a tenth of one
WAITING = 12.0  # times as long by the clock, for what waits and computes nothing
_LOOKS = 0.1  # seconds between two looks of the watcher


class TooLongError(BaseException):
    """Raised in a function that takes too long; a learner's `except Exception` does not catch it."""

    def __str__(self) -> str:
        return f"it had not ended after {SECONDS:g} seconds"


@contextmanager
def time_limit() -> Iterator[None]:
    """Stop the block after `SECONDS`.

    Raises:
        TooLongError: it was stopped.
    """
    watcher = _Watcher(threading.get_ident())
    try:
        try:
            watcher.start()
            yield
        finally:
            watcher.leave()
    except TooLongError:
        watcher.leave()  # the exception may have come while the watcher was told to go
        raise


class _Watcher(threading.Thread):
    """Raises TooLongError in a thread when its time is over; again, if a bare `except` swallows it."""

    def __init__(self, watched: int) -> None:
        super().__init__(daemon=True, name="gpt2np time limit")
        self._watched = ctypes.c_ulong(watched)
        self._over, self._lock = threading.Event(), threading.Lock()
        self._cpu, self._clock = time.process_time(), time.monotonic()

    def run(self) -> None:
        while not self._over.wait(_LOOKS):
            cpu, clock = time.process_time() - self._cpu, time.monotonic() - self._clock
            if cpu > SECONDS or clock > WAITING * SECONDS:
                self._raise(ctypes.py_object(TooLongError))

    def leave(self) -> None:
        """Go, and take back what has not been raised yet."""
        self._over.set()
        self._raise(None)

    def _raise(self, error: "ctypes.py_object[type[TooLongError]] | None") -> None:
        with self._lock:
            if error is None or not self._over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._watched, error)
