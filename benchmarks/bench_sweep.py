"""Activation patching of attn.z, every layer and head, at GPT-2 small's shape: gpt2np and HF, in turn.

    python benchmarks/bench_sweep.py [--rounds 3] [--threads 2] [--tokens 15]

HF runs the same loop with forward hooks: one run keeps every z of the clean prompt, and one run for each of
the 12 x 12 heads puts one of them into the corrupt prompt. The maps of both must agree.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from random_gpt2 import make
from turns import Engine, in_turn, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=15)
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    clean = [(37 * i) % 50000 for i in range(args.tokens)]
    corrupt = [*clean[:3], 4242, *clean[4:]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "gpt2")
        maps = {name: Path(temporary) / f"{name}.json" for name in ("gpt2np", "hf")}
        engines = {name: Engine(name, folder) for name in maps}
        job = {"work": "sweep", "clean": clean, "corrupt": corrupt, "answer": 5, "wrong": 11}
        seconds = in_turn(
            {name: (engine, job | {"out": str(maps[name])}) for name, engine in engines.items()}, args.rounds
        )
        for engine in engines.values():
            engine.close()
        found = {name: np.array(json.loads(path.read_text())) for name, path in maps.items()}
    difference = np.abs(found["gpt2np"] - found["hf"]).max()
    assert found["gpt2np"].shape == (12, 12)
    assert difference < 1e-4, difference
    result = {
        "threads": args.threads,
        "tokens": args.tokens,
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "hf_seconds_over_gpt2np": ratio(seconds["hf"], seconds["gpt2np"]),
        "largest_difference_of_the_maps": float(difference),
        "largest_effect": float(np.ptp(found["hf"])),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
