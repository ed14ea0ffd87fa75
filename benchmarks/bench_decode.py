"""Decoding at GPT-2 small's shape: 128 tokens after a prompt of 32, against HF generate, in turn.

python benchmarks/bench_decode.py [--rounds 5] [--threads 2]
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from random_gpt2 import make
from turns import Engine, in_turn, ratio

PROMPT, NEW, PACKED = 32, 128, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    prompt = [(37 * i) % 50000 for i in range(PROMPT)]
    job = {"work": "decode", "prompts": [prompt], "new": NEW}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "gpt2")
        ours, theirs = Engine("gpt2np", folder), Engine("hf", folder)
        seconds = in_turn(
            {
                "hf": (theirs, job),
                "gpt2np": (ours, job),
                "gpt2np traced": (ours, job | {"keep": "*"}),
                "gpt2np packed": (ours, job | {"prompts": [prompt[i:] + prompt[:i] for i in range(PACKED)]}),
            },
            args.rounds,
        )
        ours.close()
        theirs.close()
    tokens = {name: NEW / statistics.median(s) for name, s in seconds.items()}
    tokens["gpt2np packed"] *= PACKED
    packed = ratio([PACKED * s for s in seconds["gpt2np"]], seconds["gpt2np packed"])
    result = {
        "threads": args.threads,
        "tokens_per_second": tokens,
        "hf_seconds_over_gpt2np": ratio(seconds["hf"], seconds["gpt2np"]),
        "traced_over_untraced": ratio(seconds["gpt2np traced"], seconds["gpt2np"]),
        "packed_16_tokens_per_second_over_one": packed,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
