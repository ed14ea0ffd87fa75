"""The JSON of a run: raw rounds of each piece of work, and what is computed from them."""

import json
import os
import re
import statistics
from pathlib import Path

from benchmarks import counts, limits
from benchmarks.turns import ratio
from benchmarks.works import SHAPES, all_works
from gpt2np.architectures.gpt2.config import Config
from gpt2np.tracing.plan import Plan

FORMAT = 1
NAME = "RESULTS.json"
PUBLISHED = Path(__file__).parent / "results"  # one file for each kind of processor


class ResultsError(Exception):
    """A results file that cannot be used."""


def new(shape: str, threads: int) -> dict:
    """Results without a row."""
    return {"format": FORMAT, "shape": shape, "threads": threads, "runs": [], "works": {}}


def read(path: Path) -> dict:
    """The results in a file.

    Raises:
        ResultsError: it is missing, or is not one of ours.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ResultsError(f"{path}: is not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("shape") not in SHAPES:
        raise ResultsError(f"{path}: is not a results file of format {FORMAT}")
    return found


def write(path: Path, results: dict) -> None:
    """Write under another name, then rename: whoever interrupts finds the rows before or after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    os.replace(temporary, path)


def machine_of(results: dict) -> dict | None:
    """The machine of the last run that measured something."""
    used = [results["runs"][work["run"]]["machine"] for work in results["works"].values()]
    scaling = results.get("scaling", {}).get("machine")
    return max(used, key=lambda machine: machine["date"]) if used else scaling


def processor(results: dict) -> str:
    """Its processor, without what every name says: `AMD EPYC`, `Intel Xeon`."""
    machine = machine_of(results)
    if machine is None:
        raise ResultsError("the results have no row")
    name = re.sub(r"\((R|TM)\)| @ .*", "", machine["cpu"], flags=re.IGNORECASE)
    return " ".join(word for word in name.split() if word not in ("CPU", "Processor"))


def publish(path: Path) -> Path:
    """Copy a run's results to where those of its processor stand; the file that was written.

    A run that has not measured how costs scale keeps what the one before it has of that.

    Raises:
        ResultsError: they cannot be used, or mean nothing.
    """
    found = read(path)
    if found["shape"] != "gpt2":
        raise ResultsError(f"{path}: is a trial at shape {found['shape']}, which means nothing")
    slug = re.sub(r"[^a-z0-9]+", "-", processor(found).lower()).strip("-")
    target = PUBLISHED / f"{slug}.json"
    if "scaling" not in found and target.exists() and "scaling" in (before := read(target)):
        found["scaling"] = before["scaling"]
    write(target, found)
    return target


def published() -> dict[str, dict]:
    """The results of every kind of processor, by the names of their files."""
    return {path.stem: read(path) for path in sorted(PUBLISHED.glob("*.json"))}


class Row:
    """One piece of work in the results."""

    def __init__(self, results: dict, name: str) -> None:
        self.results, self.name, self.values = results, name, results["works"][name]

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.values["label"]

    @property
    def config(self) -> Config:
        """The shape that it ran at."""
        return SHAPES[self.results["shape"]][self.values["model"]]

    @property
    def engines(self) -> list[str]:
        """Who was measured."""
        return [name for name, rounds in self.values["rounds"].items() if rounds]

    def taken(self, engine: str, key: str = "seconds") -> list[float] | None:
        """Seconds (or cpu, peak_mib, or `step`: those of one token after the first) of each round."""
        rounds = self.values["rounds"].get(engine)
        if not rounds:
            return None
        if key != "step":
            return [answer[key] for answer in rounds]
        if not all("first" in answer for answer in rounds):
            return None
        steps = self.values["arguments"]["new"] - 1
        return [(answer["seconds"] - answer["first"]) / steps for answer in rounds]

    def median(self, engine: str = "gpt2np", key: str = "seconds") -> float | None:
        """The median round."""
        taken = self.taken(engine, key)
        return None if taken is None else statistics.median(taken)

    def ratio(self, engine: str, key: str = "seconds", beside: str = "gpt2np") -> dict[str, float] | None:
        """How many times as much an engine takes as gpt2np or another: median and spread of the rounds."""
        theirs, ours = self.taken(engine, key), self.taken(beside, key)
        return None if theirs is None or ours is None else ratio(theirs, ours)

    @property
    def limits(self) -> dict | None:
        """What the machine could do in the run that measured this row."""
        samples = self.results["runs"][self.values["run"]]["limits"]
        return limits.pooled(samples) if samples else None

    @property
    def passes(self) -> list[counts.Count]:
        """What it takes at least."""
        values = self.values
        return counts.passes(self.config, values["method"], values["lengths"], values["arguments"])

    def least(self) -> tuple[float, str] | None:
        """The limit in seconds, and what binds: GEMM, memory or disk; None for whole processes, loading."""
        if self.values["whole"] or self.limits is None:
            return None
        if self.values["method"] == "save":
            nbytes = Plan(self.config, self.values["lengths"][0]).nbytes
            seconds = limits.saving_seconds(nbytes, self.values["arguments"].get("sync", True), self.limits)
            return None if seconds is None else (seconds, "disk")
        return limits.least_seconds(self.passes, self.config.n_embd, self.limits) if self.passes else None

    def with_writing(self) -> float | None:
        """What GEMM and then writing the trace would take, as a part of what gpt2np took; None: no trace."""
        gemm, ours = self.gemm_fraction(), self.median()
        if gemm is None or self.values["method"] != "trace" or self.values["whole"]:
            return None
        return gemm + sum(limits.writing_seconds(c, self.limits) for c in self.passes) / ours

    def gemm_fraction(self) -> float | None:
        """What GEMM alone would take, as a part of what gpt2np took."""
        ours = self.median()
        if ours is None or self.limits is None:
            return None
        return sum(limits.gemm_seconds(c, self.config.n_embd, self.limits) for c in self.passes) / ours

    def bandwidth_fraction(self) -> float | None:
        """What reading alone would take of one decoding step, as a part of what gpt2np took."""
        ours = self.median(key="step")
        if ours is None or self.limits is None or not self.passes:
            return None
        least = [limits.memory_seconds(count, self.limits) for count in self.passes[1:]]
        return statistics.mean(least) / ours


def rows(results: dict) -> dict[str, Row]:
    """Every row by name, in the order of the table."""
    order = [work.name for work in all_works() if work.name in results["works"]]
    return {name: Row(results, name) for name in order}
