"""The residual stream of many prompts, float16 in files, at GPT-2 small's shape: gpt2np and others, in turn.

    python -m benchmarks.bench_capture [--rounds 3] [--prompts 800] [--threads 2] [--python ENGINE=PYTHON]

Prompts have 5 to 60 tokens. HF's hooks and TransformerLens' `run_with_cache` see them one by one, and in
padded batches of prompts of like length, the more usual way and the faster one. Nobody computes logits.
Some numbers of all files are compared.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.__main__ import engine_python
from benchmarks.random_gpt2 import make
from benchmarks.turns import engines, in_turn, ratio

BATCH = 16  # prompts of a padded batch
OURS, NOTHING = "gpt2np capture", "gpt2np, the same passes, nothing kept"
# Who does it, how, and how many prompts at a time.
WAYS = {
    OURS: ("gpt2np", "capture", 1),
    NOTHING: ("gpt2np", "capture_nothing", 1),
    "HF, hooks, one by one": ("hf_sdpa", "capture", 1),
    "HF, hooks, padded": ("hf_sdpa", "capture", BATCH),
    "TransformerLens, one by one": ("transformer_lens", "capture", 1),
    "TransformerLens, padded": ("transformer_lens", "capture", BATCH),
}


def ragged(n: int) -> list[list[int]]:
    """Prompts of 5 to 60 tokens that share no beginnings."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50_000, rng.integers(5, 61)).tolist() for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", type=engine_python, action="append", default=[], metavar="ENGINE=PYTHON")
    args = parser.parse_args()
    pythons = {name: python for given in args.python for name, python in given.items()}
    prompts = ragged(args.prompts)
    tokens = sum(map(len, prompts))
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "gpt2")
        names = list(dict.fromkeys(name for name, *_ in WAYS.values()))
        with engines(names, folder, args.threads, pythons) as (started, absent):
            for name, why in absent.items():
                print(f"{name}: {why}", file=sys.stderr)
            jobs = {}
            for way, (name, work, batch) in WAYS.items():
                arguments = {"prompts": prompts, "out": str(Path(temporary) / way), "batch": batch}
                if name in started:
                    jobs[way] = started[name], {"work": work, "arguments": arguments}
            taken = in_turn(jobs, args.rounds)
            found = {
                way: np.array(engine.run(job | {"work": "captured", "report": True})["value"])
                for way, (engine, job) in jobs.items()
                if way != NOTHING
            }
    seconds = {way: [answer["seconds"] for answer in answers] for way, answers in taken.items()}
    difference = max(float(np.abs(numbers - found[OURS]).max()) for numbers in found.values())
    assert difference < 0.02, difference  # of numbers up to 16 in float16
    result = {
        "threads": args.threads,
        "prompts": len(prompts),
        "tokens": tokens,
        "tokens_a_second": {way: round(tokens / statistics.median(s)) for way, s in seconds.items()},
        "seconds_over_those_of_gpt2np_capture": {way: ratio(s, seconds[OURS]) for way, s in seconds.items()},
        "largest_difference": difference,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
