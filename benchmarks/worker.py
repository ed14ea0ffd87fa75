"""One engine in a process of its own: reads a job a line (JSON) from stdin, answers with what it took.

    python -m benchmarks.worker ENGINE FOLDER THREADS [JOB]

A job is `{"work": method, "arguments": {...}, "calls": n, "before": method, "report": bool}`. With JOB it
runs only that and ends: a whole process.
"""

import json
import os
import sys
import time

from benchmarks.engines import make_engine, missing, versions


def peak_mib() -> int:
    """Largest resident memory of this process so far.

    Linux hands ru_maxrss of the process that started this one on to it; VmHWM starts anew.
    """
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def run(engine, job: dict) -> dict:
    """One round of a job: the median call."""
    arguments = job.get("arguments", {})
    method = getattr(engine, job["work"])
    taken, value = [], None
    for _ in range(job.get("calls", 1)):
        if job.get("before"):
            getattr(engine, job["before"])(**arguments)
        engine.first_token = None
        start = time.perf_counter()
        result = method(**arguments)
        seconds = time.perf_counter() - start
        first = engine.first_token
        taken.append((seconds, None if first is None else first - start))
        if job.get("report"):
            value = result
        del result  # outside the clock, for everybody
    seconds, first = sorted(taken, key=lambda pair: pair[0])[len(taken) // 2]
    answer = {"seconds": seconds, "peak_mib": peak_mib()}
    if first is not None:
        answer["first"] = first
    return answer | ({"value": value} if job.get("report") else {})


def main() -> None:
    name, folder, threads, *jobs = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get in between the answers

    def answer(values: dict) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    package = missing(name)
    if package is not None:
        answer({"absent": f"{package} is not installed in {sys.executable}"})
        return
    engine = make_engine(name, folder, int(threads))
    for job in jobs:
        answer(run(engine, json.loads(job)))
    if jobs:
        return
    answer({"ready": True, "versions": {"python": sys.version.split()[0], **versions(name)}})
    for line in sys.stdin:
        answer(run(engine, json.loads(line)))


if __name__ == "__main__":
    main()
