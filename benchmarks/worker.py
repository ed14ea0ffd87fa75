"""One engine in a process of its own: reads a job a line (JSON) from stdin, answers with what it took.

    python -m benchmarks.worker ENGINE FOLDER THREADS [JOB]

A job is `{"work": method, "arguments": {...}, "calls": n, "before": method, "report": bool}`. With JOB it
runs only that and ends: a whole process.
"""

import json
import os
import sys
import time

from benchmarks.engines import BEFORE, make_engine, missing, versions


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
    taken = []
    for _ in range(job.get("calls", 1)):
        if job.get("before"):
            getattr(engine, job["before"])(**arguments)
        engine.first_token = None
        cpu, start = time.process_time(), time.perf_counter()
        result = method(**arguments)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        call = {"seconds": seconds, "cpu": cpu}
        if engine.first_token is not None:
            call["first"] = engine.first_token - start
        if job.get("report"):
            call["value"] = result
        del result  # outside the clock, for everybody
        taken.append(call)
    return sorted(taken, key=lambda call: call["seconds"])[len(taken) // 2] | {"peak_mib": peak_mib()}


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

    def do(job: str) -> None:
        try:
            answer(run(engine, json.loads(job)))
        except Exception as error:
            if name != BEFORE:
                raise
            answer({"cannot": f"{type(error).__name__}: {error}"})

    for job in jobs:
        do(job)
    if jobs:
        return
    answer({"ready": True, "versions": {"python": sys.version.split()[0], **versions(name)}})
    for line in sys.stdin:
        do(line)


if __name__ == "__main__":
    main()
