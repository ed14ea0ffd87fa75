"""Which processors a thread runs on: those of a pass are kept apart, where the system lets them.

Linux wakes a thread on the processor of the one that wakes it, if no other seems to be idle. In a virtual
machine one that has slept does not seem so. After a pause the threads of a pass would then take turns on one
processor until the system notices, some 50 ms later: a trace of 5 tokens took 60 ms instead of 41.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable


def of_this_thread() -> list[int]:
    """Those that this thread may run on, from the one that it runs on now; none where nobody can tell."""
    if sys.platform != "linux" or (current := _current()) is None:
        return []
    try:
        now, allowed = current(), sorted(os.sched_getaffinity(0))
    except OSError:
        return []
    i = allowed.index(now) if now in allowed else 0
    return allowed[i:] + allowed[:i]


def keep(thread: int, processors: Iterable[int]) -> None:
    """Keep a thread, by its native id (0 is this one), to some processors; nothing where that is refused."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, processors)


@functools.cache
def _current() -> Callable[[], int] | None:
    """What says on which processor a thread runs: a function of the C library, which Python lacks."""
    import ctypes  # which threadpoolctl has loaded where there are threads of ours

    found: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return found
