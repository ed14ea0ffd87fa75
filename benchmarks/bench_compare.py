"""How long does `gpt2np.compare` take to locate and name a mistake, beside one forward pass?

    python -m benchmarks.bench_compare [--tokens 64] [--rounds 3]

A random GPT-2 of small's shape; a full dump of the prompt, right or with a mistake in layer 5. Prints JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gpt2np
from benchmarks.random_gpt2 import make
from benchmarks.works import prompts
from gpt2np.ops import gelu_erf

LAYER = 5


def dumps(model, ids: list[int]) -> dict[str, tuple[str | None, dict]]:
    """Name: (slug that compare must say, the arrays)."""
    bias = model.weights[f"h.{LAYER}.attn.c_proj.bias"]

    def erf(x):
        out = np.empty_like(x)
        gelu_erf(x, out=out)
        return out

    plain = model.trace(ids)
    pre, mlp = plain[f"h.{LAYER}.mlp.pre"], plain[f"h.{LAYER}.mlp.out"]
    edits = {
        "right": (None, {}),
        "missing-bias": ("missing-bias", {f"h.{LAYER}.attn.out": lambda x: x - bias}),
        "gelu-erf": ("gelu-erf", {f"h.{LAYER}.mlp.post": lambda _: erf(pre)}),
        "residual-missing": ("residual-missing", {f"h.{LAYER}.resid_post": lambda _: mlp.copy()}),
        "unknown": (None, {f"h.{LAYER}.ln_2": lambda x: x * 1.01 + 0.02}),
    }
    found = {}
    for name, (slug, changes) in edits.items():
        trace = model.trace(ids, edits=changes)
        found[name] = (slug, {site: trace[site].copy() for site in trace.names()})
    return found


def seconds(work, rounds: int) -> float:
    """The median of some runs after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> int:
    """Measure, print; 1 if compare named another mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = gpt2np.load(make(Path(temporary) / "gpt2"))
        ids = prompts((args.tokens,), model.config.vocab_size)[0]
        one_pass = seconds(lambda: model(ids), args.rounds + 4)
        result = {"tokens": args.tokens, "forward_seconds": one_pass, "over_one_forward_pass": {}}
        wrong = []
        for name, (slug, dump) in dumps(model, ids).items():
            report = gpt2np.compare(dump, model, ids)
            if report.mistake != slug or (report.verdict == "within-noise") != (name == "right"):
                wrong.append(f"{name}: {report.verdict} {report.site} {report.mistake}")
            taken = seconds(lambda dump=dump: gpt2np.compare(dump, model, ids), args.rounds)
            result["over_one_forward_pass"][name] = round(taken / one_pass, 1)
    print(json.dumps(result, indent=1))
    for line in wrong:
        print(f"not as planted: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
