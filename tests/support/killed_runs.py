"""Runs that are killed with -9 at some moment, and what is in a folder."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_at(script: str, line: str) -> None:
    """Run a script, and kill it as soon as it has printed a line."""
    elsewhere = tempfile.gettempdir()  # so that it imports the package that the tests do
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=elsewhere
    ) as run:
        assert run.stdout is not None
        for printed in run.stdout:
            if printed.strip() == line:
                break
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL
