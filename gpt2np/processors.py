"""Which processors a thread runs on: those of a pass are kept apart, where the system lets them.

Linux wakes a thread on the processor of the one that wakes it, if no other seems to be idle. In a virtual
machine one that has slept does not seem so. After a pause the threads of a pass would then take turns on one
processor until the system notices, some 50 ms later: a trace of 5 tokens took 60 ms instead of 41.
"""

import contextlib
import os
import sys
from collections.abc import Iterable


def of_this_thread() -> list[int]:
    """Those that this thread may run on, from the one that it runs on now; none where nobody can tell."""
    if sys.platform != "linux":
        return []
    try:
        with open("/proc/thread-self/stat") as file:
            now = int(file.read().rpartition(")")[2].split()[36])  # proc(5): field 39, "processor"
        allowed = sorted(os.sched_getaffinity(0))
    except (OSError, ValueError, IndexError):
        return []
    i = allowed.index(now) if now in allowed else 0
    return allowed[i:] + allowed[:i]


def keep(thread: int, processors: Iterable[int]) -> None:
    """Keep a thread, by its native id (0 is this one), to some processors; nothing where that is refused."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, processors)
