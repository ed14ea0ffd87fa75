"""Engines in processes of their own, called in turn: the ratio is taken round by round."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAUSE = 0.5  # seconds before each job, in which idle threads of the others go to sleep
LAST_LINES = 15
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))"
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class EngineError(Exception):
    """An engine died."""


class EngineAbsent(Exception):
    """An engine is not installed."""


class EngineCannot(EngineError):
    """An earlier gpt2np does not have what a job asks for."""


def environment(threads: int) -> dict[str, str]:
    """What a worker finds: so many threads for every BLAS, this checkout first, no network.

    Modules may be kept compiled, as those that pip installs are.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    mine = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return mine | dict.fromkeys(THREADS, str(threads)) | offline | {"PYTHONPATH": path}


def command(name: str, folder: Path, threads: int, python: str | None, *jobs: dict) -> list[str]:
    """The command line of a worker."""
    words = [python or sys.executable, "-m", "benchmarks.worker", name, str(folder.resolve()), str(threads)]
    return words + [json.dumps(job) for job in jobs]


def died(name: str, returncode: int | None, stderr: str) -> EngineError:
    """What to say about a worker that is gone."""
    tail = "\n".join(f"  {line}" for line in stderr.rstrip().splitlines()[-LAST_LINES:])
    return EngineError(f"the worker of {name} ended with code {returncode}; its last lines:\n{tail}")


class Engine:
    """A worker that has loaded its model and waits."""

    def __init__(self, name: str, folder: Path, threads: int = 2, python: str | None = None) -> None:
        self.name = name
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() closes it
        try:
            self.process = subprocess.Popen(
                command(name, folder, threads, python),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr,
                text=True,
                env=environment(threads),
                cwd=ROOT,
            )
        except OSError as error:
            self.stderr.close()
            raise EngineError(f"{name}: {python}: {error.strerror}") from None
        try:
            first = self._answer()
        except BaseException:
            self.close()
            raise
        if "absent" in first:
            self.close()
            raise EngineAbsent(first["absent"])
        self.versions = first["versions"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.stderr.seek(0)
            raise died(self.name, code, self.stderr.read())
        return json.loads(line)

    def run(self, job: dict) -> dict:
        """What one job took, after half a second."""
        time.sleep(PAUSE)
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either, and that is told
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        return possible(self._answer())

    def close(self) -> None:
        """End the worker, at once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class WholeProcess:
    """An engine that is started anew for each job: seconds from start to end."""

    def __init__(self, name: str, folder: Path, threads: int = 2, python: str | None = None) -> None:
        self.name, self.folder, self.threads, self.python = name, folder, threads, python

    def run(self, job: dict) -> dict:
        """What the whole process took, after half a second."""
        time.sleep(PAUSE)
        words = command(self.name, self.folder, self.threads, self.python, job)
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, env=environment(self.threads), cwd=ROOT)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise died(self.name, done.returncode, done.stderr)
        answer = possible(json.loads(done.stdout.splitlines()[-1]))
        return {"seconds": seconds, "inside": answer["seconds"], "peak_mib": answer["peak_mib"]}


class Busy:
    """An engine while every core has something else to do, too."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.engine = engine.name, engine

    def run(self, job: dict) -> dict:
        """What one job took."""
        with spinning(cores()):
            return self.engine.run(job)


@contextlib.contextmanager
def spinning(n: int) -> Iterator[list[subprocess.Popen]]:
    """Processes that compute nothing, as fast as they can; they end with this one, however it ends."""
    spinners: list[subprocess.Popen] = []
    try:
        for _ in range(n):
            spinners.append(subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())]))
        yield spinners
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def possible(answer: dict) -> dict:
    """An answer that says what a job took.

    Raises:
        EngineCannot: it says that it cannot be done.
    """
    if "cannot" in answer:
        raise EngineCannot(answer["cannot"])
    return answer


@contextlib.contextmanager
def engines(
    names: list[str], folder: Path, threads: int, pythons: dict[str, str] | None = None
) -> Iterator[tuple[dict[str, Engine], dict[str, str]]]:
    """Started workers by name, and why others are absent; all of them are ended at the end."""
    started: dict[str, Engine] = {}
    absent: dict[str, str] = {}
    try:
        for name in names:
            try:
                started[name] = Engine(name, folder, threads, (pythons or {}).get(name))
            except EngineAbsent as reason:
                absent[name] = str(reason)
        yield started, absent
    finally:
        for engine in started.values():
            engine.close()


def in_turn(
    jobs: dict[str, tuple[Engine | WholeProcess | Busy, dict]], rounds: int, warm: int = 1
) -> dict[str, list]:
    """What each job took in each round, after `warm` rounds that do not count; not of those that cannot."""
    taken: dict[str, list] = {name: [] for name in jobs}
    for i in range(warm + rounds):
        for name in list(taken):
            engine, job = jobs[name]
            try:
                answer = engine.run(job)
            except EngineCannot as reason:
                print(f"{name} cannot do this: {reason}", file=sys.stderr)
                del taken[name]
                continue
            if i >= warm:
                taken[name].append(answer)
    return taken


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
