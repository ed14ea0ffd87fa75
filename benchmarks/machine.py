"""What a run says about the machine that it ran on."""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.turns import cores


def description(threads: int) -> dict:
    """Processor, cores, memory, versions of Python and NumPy, BLAS, date."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "vendor": _field("/proc/cpuinfo", "vendor_id"),
        "cores": os.cpu_count(),
        "available_cores": cores(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "threads": threads,
        "gpt2np": commit(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "blas": " ".join(str(blas.get(key, "")) for key in ("name", "version")).strip(),
        "blas_configuration": blas.get("openblas configuration", ""),
    }


def commit(folder: Path = Path(__file__).parents[1]) -> str:
    """Version of the package, and the commit of a checkout, marked where files differ from it."""
    text = (folder / "gpt2np" / "__init__.py").read_text("utf-8")
    version = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)[1]
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
        ).stdout.strip()
    except OSError:
        found = ""
    return f"{version} ({found})" if found else version


def _field(path: str, name: str) -> str | None:
    """The value of `name : value` in a file of /proc."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
