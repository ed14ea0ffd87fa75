"""Running the suite: engines started, checked against each other, called in turn, every row saved at once."""

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import limits, results
from benchmarks.counts import passes
from benchmarks.engines import BEFORE
from benchmarks.machine import commit, description
from benchmarks.random_gpt2 import make
from benchmarks.turns import Busy, Engine, EngineError, WholeProcess, engines, in_turn
from benchmarks.works import SHAPES, WEIGHTS, Work, prompts
from gpt2np.architectures.gpt2.config import Config

SAME = 1e-3  # logits of two engines may differ by so much, relative to the largest (at least 1)


@dataclass
class Options:
    """What the command line chose."""

    works: list[Work]
    engines: list[str]
    out: Path
    rounds: int = 5
    threads: int = 2
    shape: str = "gpt2"
    quick: bool = False
    pythons: dict[str, str] = field(default_factory=dict)
    merge: bool = False  # keep the rows that the results already have
    skip_done: bool = False  # and do not measure those again
    before: Path | None = None  # another checkout of gpt2np, which is then an engine, too

    def engines_of(self, work: Work) -> list[str]:
        """Who does a piece of work, in turn."""
        names = [name for name in work.engines if name in self.engines or name == "bare_loop"]
        return names[:1] + [BEFORE] * (self.before is not None) + names[1:]


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def start_results(options: Options) -> dict:
    """Those in the folder, to be added to, or new ones.

    Raises:
        ResultsError: the old ones are of another shape, or were made with another number of threads.
    """
    path = options.out / results.NAME
    found = results.new(options.shape, options.threads)
    if options.merge and path.exists():
        found = results.read(path)
        for key, ours in (("shape", options.shape), ("threads", options.threads)):
            if found[key] != ours:
                raise results.ResultsError(f"{path}: was measured with {key} {found[key]}, not {ours}")
    return found


def run(options: Options) -> dict:
    """Measure, saving after each row; the results."""
    path = options.out / results.NAME
    found = start_results(options)
    works = [w for w in options.works if not (options.skip_done and w.name in found["works"])]
    machine = description(options.threads)
    record = {"machine": machine, "quick": options.quick, "versions": {}, "absent": {}}
    begin = time.perf_counter()
    found["runs"].append(record)
    with tempfile.TemporaryDirectory(prefix="gpt2np-benchmarks-") as temporary:
        for model, config in SHAPES[options.shape].items():
            chosen = [work for work in works if work.model == model]
            if chosen:
                folder = WEIGHTS / model
                if not folder.exists():
                    note(f"{model}: random weights, then starting the engines")
                    folder = make(Path(temporary) / model, config)
                one_model(options, chosen, config, folder, found, begin)
                record["seconds"] = round(time.perf_counter() - begin, 1)
                results.write(path, found)
    return found


def save(options: Options, found: dict) -> None:
    """Write the results; the first row of a run that starts anew moves the former results aside."""
    path = options.out / results.NAME
    if not options.merge and len(found["works"]) == 1 and path.exists():
        path.replace(path.with_name(f"previous-{results.NAME}"))
    results.write(path, found)


def one_model(
    options: Options, works: list[Work], config: Config, folder: Path, found: dict, begin: float
) -> None:
    """All rows of one shape."""
    record = found["runs"][-1]
    used = list(dict.fromkeys(name for work in works for name in options.engines_of(work)))
    with engines([*used, "machine"], folder, options.threads, options.pythons) as (started, absent):
        for name, reason in absent.items():
            note(f"{name}: absent ({reason})")
        machine = started.pop("machine")
        record["absent"] |= absent
        record["versions"] |= {name: engine.versions for name, engine in started.items()}
        if options.before is not None:
            record["versions"][BEFORE]["gpt2np"] = commit(options.before)
        record["kept_bytes"] = agree(started, config)
        for work in works:
            row(options, work, config, folder, started, machine, found)
            save(options, found)
            note(f"{time.perf_counter() - begin:6.0f} s  {work.label}")


def row(
    options: Options,
    work: Work,
    config: Config,
    folder: Path,
    started: dict[str, Engine],
    machine: Engine,
    found: dict,
) -> None:
    """Measure one piece of work, and put it where it belongs in the results."""
    jobs: dict[str, tuple[Engine | WholeProcess | Busy, dict]] = {}
    for name in options.engines_of(work):
        if name in started:
            engine: Engine | WholeProcess = started[name]
            if work.whole:
                engine = WholeProcess(name, folder, options.threads, options.pythons.get(name))
            job = work.job(config, str(folder / f"{name}-{max(work.lengths, default=0)}.trace"))
            jobs[name] = (engine, job)
            if len(jobs) == 1 and (rates := rates_job(work, config, options.shape)) is not None:
                jobs[results.MACHINE] = (machine, rates)  # right after gpt2np
    if work.busy:
        jobs |= {f"{name}_busy": (Busy(engine), job) for name, (engine, job) in jobs.items()}
    taken = in_turn(jobs, min(options.rounds, work.most_rounds), warm=0 if work.whole else 1)
    if work.before:
        for name in taken.keys() & started.keys():
            started[name].run({"work": "release"})
    found["works"][work.name] = {
        "label": work.label,
        "model": work.model,
        "method": work.method,
        "lengths": list(work.lengths),
        "arguments": work.arguments,
        "whole": work.whole,
        "run": len(found["runs"]) - 1,
        "rounds": {name: [a | a.pop("value", {}) for a in answers] for name, answers in taken.items()},
    }


def agree(started: dict[str, Engine], config: Config) -> dict[str, int]:
    """Bytes that each engine's full trace of 8 tokens keeps, after checking that all see the same model.

    Raises:
        EngineError: an engine's logits are not those of the first.
    """
    job = {"work": "check", "arguments": {"prompts": prompts((8,), config.vocab_size)}, "report": True}
    answers = {name: engine.run(job)["value"] for name, engine in started.items()}
    first, expected = next((name, answer["last"]) for name, answer in answers.items())
    scale = max(1.0, *map(abs, expected))
    for name, answer in answers.items():
        off = max(abs(a - b) for a, b in zip(answer["last"], expected, strict=True)) / scale
        if not off <= SAME:
            raise EngineError(f"{name} and {first} do not compute the same: logits differ by {off:.2g}")
    return {name: answer["kept_bytes"] for name, answer in answers.items() if answer["kept_bytes"]}


def rates_job(work: Work, config: Config, shape: str) -> dict | None:
    """The machine's job beside a piece of work: the rates that it is held against; None if there are none."""
    counted = passes(config, work.method, list(work.lengths), work.arguments)
    saves = work.method == "save"
    if work.whole or work.busy or not (counted or saves):
        return None
    n_rows = {n for count in counted for n in (count.rows, count.unembed_rows) if n > 1}
    return limits.job(config, config.n_layer, n_rows, shape, disk=saves)
