"""Activation patching of attn.z, every layer and head, at GPT-2 small's shape: gpt2np and HF, in turn.

    python -m benchmarks.bench_sweep [--rounds 3] [--threads 2] [--tokens 15]

HF runs the same loop with forward hooks: one run keeps every z of the clean prompt, and one run for each of
the 12 x 12 heads puts one of them into the corrupt prompt. The maps of both must agree.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.random_gpt2 import make
from benchmarks.turns import engines, in_turn, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=15)
    args = parser.parse_args()
    clean = [(37 * i) % 50000 for i in range(args.tokens)]
    corrupt = [*clean[:3], 4242, *clean[4:]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "gpt2")
        maps = {name: Path(temporary) / f"{name}.json" for name in ("gpt2np", "hf_sdpa")}
        arguments = {"clean": clean, "corrupt": corrupt, "answer": 5, "wrong": 11}
        with engines(["gpt2np", "hf_sdpa"], folder, args.threads) as (started, absent):
            if absent:
                sys.exit(f"hf: {absent['hf_sdpa']}")
            jobs = {
                name: (engine, {"work": "sweep", "arguments": arguments | {"out": str(maps[name])}})
                for name, engine in started.items()
            }
            taken = in_turn(jobs, args.rounds)
        seconds = {name: [answer["seconds"] for answer in answers] for name, answers in taken.items()}
        found = {name: np.array(json.loads(path.read_text())) for name, path in maps.items()}
    difference = np.abs(found["gpt2np"] - found["hf_sdpa"]).max()
    assert found["gpt2np"].shape == (12, 12)
    assert difference < 1e-4, difference
    result = {
        "threads": args.threads,
        "tokens": args.tokens,
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "hf_seconds_over_gpt2np": ratio(seconds["hf_sdpa"], seconds["gpt2np"]),
        "largest_difference_of_the_maps": float(difference),
        "largest_effect": float(np.ptp(found["hf_sdpa"])),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
