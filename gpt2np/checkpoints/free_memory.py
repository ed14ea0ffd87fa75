"""How much memory this machine has left."""

import os
from pathlib import Path


def free_memory() -> int | None:
    """Return the bytes that this machine or container has left for a process; None if that is unknown."""
    found = [n for n in (_available(), _limit_of_container()) if n is not None]
    return min(found) if found else None


def _available() -> int | None:
    """Without swapping, as Linux estimates it; else all of the machine's memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _limit_of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What its limit leaves; pages of files that are not in use give way."""
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(facts["inactive_file"]))
    except (OSError, ValueError, KeyError):  # "max" where there is none
        return None
