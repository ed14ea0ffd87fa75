"""What a run says about the machine that it ran on."""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np


def description(threads: int) -> dict:
    """Processor, cores, memory, versions of Python and NumPy, BLAS, date."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "available_cores": available,
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "threads": threads,
        "gpt2np": commit(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "blas": " ".join(str(blas.get(key, "")) for key in ("name", "version")).strip(),
        "blas_configuration": blas.get("openblas configuration", ""),
    }


def commit() -> str:
    """Version of the package, and the commit of this checkout, marked where files differ from it."""
    from gpt2np import __version__

    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
        ).stdout.strip()
    except OSError:
        found = ""
    return f"{__version__} ({found})" if found else __version__


def _field(path: str, name: str) -> str | None:
    """The value of `name : value` in a file of /proc."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
