"""Engines in processes of their own, called in turn: the ratio is taken round by round."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")


class Engine:
    """A worker that has loaded its model and waits."""

    def __init__(self, name: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker died; run it by hand: python benchmarks/worker.py ENGINE FOLDER")
        return json.loads(line)

    def run(self, job: dict) -> float:
        """Seconds of one job, after half a second in which idle threads of the others go to sleep."""
        time.sleep(0.5)
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def in_turn(jobs: dict[str, tuple[Engine, dict]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, (engine, job) in jobs.items():
            spent = engine.run(job)
            if i:
                seconds[name].append(spent)
    return seconds


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
