"""The JSON of a run: raw rounds of each piece of work, and what is computed from them."""

import json
import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import counts, limits
from benchmarks.turns import ratio
from benchmarks.works import SHAPES, all_works
from gpt2np.architectures.gpt2.config import Config
from gpt2np.tracing.plan import Plan

FORMAT = 1
NAME = "RESULTS.json"
MACHINE = "machine"  # who measured the limits of a row, in turn with it
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
    def rates(self) -> list[limits.Limits]:
        """What the machine could do in each round, or in every round what it could before and after them."""
        rounds, run = self.values["rounds"], self.results["runs"][self.values["run"]]
        if MACHINE in rounds:
            return rounds[MACHINE]
        samples = run.get("limits")
        return [limits.pooled(samples)] * len(rounds["gpt2np"]) if samples else []

    def part(self, seconds: Callable[[limits.Limits], float], key: str = "seconds") -> float | None:
        """What a limit would take, as a part of what gpt2np took: the median of the rounds."""
        taken = self.taken("gpt2np", key)
        if self.values["whole"] or not taken or not self.rates:
            return None
        return statistics.median(seconds(one) / s for one, s in zip(self.rates, taken, strict=True))

    @property
    def passes(self) -> list[counts.Count]:
        """What it takes at least."""
        values = self.values
        return counts.passes(self.config, values["method"], values["lengths"], values["arguments"])

    def least(self) -> tuple[float, str] | None:
        """The part that the limit takes, and what binds: GEMM, memory or disk; None where none is known."""
        if self.values["method"] == "save":
            nbytes = Plan(self.config, self.values["lengths"][0]).nbytes
            sync = self.values["arguments"].get("sync", True)
            part = self.part(lambda one: limits.saving_seconds(nbytes, sync, one))
            return None if part is None else (part, "disk")
        part = self.part(lambda one: self._least(one)[0])
        return (part, self._least(limits.pooled(self.rates))[1]) if part and self.passes else None

    def _least(self, one: limits.Limits) -> tuple[float, str]:
        return limits.least_seconds(self.passes, self.config.n_embd, one)

    def with_writing(self) -> float | None:
        """The part that GEMM and then writing the trace would take; None if it is no trace."""
        if self.values["method"] != "trace":
            return None
        return self.part(
            lambda one: self._gemm(one) + sum(limits.writing_seconds(c, one) for c in self.passes)
        )

    def gemm_fraction(self) -> float | None:
        """The part that GEMM alone would take."""
        return self.part(self._gemm)

    def _gemm(self, one: limits.Limits) -> float:
        return sum(limits.gemm_seconds(c, self.config.n_embd, one) for c in self.passes)

    def bandwidth_fraction(self) -> float | None:
        """The part of one decoding step that reading alone would take."""
        steps = self.passes[1:]
        if not steps:
            return None
        return self.part(lambda one: statistics.mean(limits.memory_seconds(c, one) for c in steps), "step")


def rows(results: dict) -> dict[str, Row]:
    """Every row by name, in the order of the table."""
    order = [work.name for work in all_works() if work.name in results["works"]]
    return {name: Row(results, name) for name in order}
