"""The residual stream of many prompts, float16 in files, at GPT-2 small's shape: gpt2np and others, in turn.

    python -m benchmarks.bench_capture [--rounds 3] [--prompts 800] [--threads 2] [--python ENGINE=PYTHON]

Prompts have 5 to 60 tokens. HF's hooks and TransformerLens' `run_with_cache` see them one by one, and in
padded batches: as they follow one another, and, which is faster, sorted by length. Nobody computes logits.
Beside gpt2np stand its passes with nothing kept, and the products of these passes alone, which is as fast as
NumPy's BLAS lets a capture be.

SAELens runs contexts of equal length, to which prompts are concatenated: here of 32 tokens, which see
tokens of other prompts, so that it stands beside gpt2np with the same contexts. `CacheActivationsRunner`
keeps one layer in a run, here the last one. `ActivationsStore` gives all layers, but has no files: they are
written as those of HF's hooks are. Making either (the runner loads its model then) is not in its time.

Whoever is asked for the same has the same numbers: some of all files are compared.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.__main__ import engine_python
from benchmarks.random_gpt2 import make
from benchmarks.turns import engines, in_turn, ratio

BATCH = 16  # prompts of a padded batch, contexts of SAELens'
CONTEXT = 32  # tokens of each of them
PROMPTS, CONTEXTS, LAST = "prompts", "contexts", "contexts, last layer"
# What is asked for, and gpt2np's way to do it, beside which the others stand.
OURS = {
    PROMPTS: "gpt2np capture",
    CONTEXTS: "gpt2np capture, contexts of 32",
    LAST: "gpt2np capture, contexts of 32, one layer",
}
NOTHING = "gpt2np, the same passes, nothing kept"
PRODUCTS = "NumPy, the products of these passes alone"


class Way(NamedTuple):
    """What somebody is asked for, who, by which method, with how many prompts at a time."""

    task: str
    engine: str
    method: str = "capture"
    batch: int = 1
    in_order: bool = False  # padded batches of prompts that follow one another, and not of like length
    before: str | None = None  # a method that prepares it, outside the clock


WAYS = {
    OURS[PROMPTS]: Way(PROMPTS, "gpt2np"),
    NOTHING: Way(PROMPTS, "gpt2np", "capture_nothing"),
    PRODUCTS: Way(PROMPTS, "gpt2np", "capture_products"),
    "HF, hooks, one by one": Way(PROMPTS, "hf_sdpa"),
    "HF, hooks, padded": Way(PROMPTS, "hf_sdpa", batch=BATCH, in_order=True),
    "HF, hooks, padded, sorted by length": Way(PROMPTS, "hf_sdpa", batch=BATCH),
    "TransformerLens, one by one": Way(PROMPTS, "transformer_lens"),
    "TransformerLens, padded": Way(PROMPTS, "transformer_lens", batch=BATCH, in_order=True),
    "TransformerLens, padded, sorted by length": Way(PROMPTS, "transformer_lens", batch=BATCH),
    OURS[CONTEXTS]: Way(CONTEXTS, "gpt2np"),
    "SAELens, ActivationsStore": Way(CONTEXTS, "sae_lens", batch=BATCH, before="prepare"),
    OURS[LAST]: Way(LAST, "gpt2np"),
    "SAELens, CacheActivationsRunner, one layer": Way(LAST, "sae_lens", batch=BATCH, before="prepare"),
}


def ragged(n: int) -> list[list[int]]:
    """Prompts of 5 to 60 tokens that share no beginnings."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50_000, rng.integers(5, 61)).tolist() for _ in range(n)]


def contexts(prompts: list[list[int]]) -> list[list[int]]:
    """The prompts concatenated and cut to contexts; what does not fill a batch is left out."""
    ids = list(itertools.chain.from_iterable(prompts))
    end = len(ids) - len(ids) % (CONTEXT * BATCH)
    return [ids[i : i + CONTEXT] for i in range(0, end, CONTEXT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", type=engine_python, action="append", default=[], metavar="ENGINE=PYTHON")
    args = parser.parse_args()
    pythons = {name: python for given in args.python for name, python in given.items()}
    given = {PROMPTS: {"prompts": ragged(args.prompts)}}
    given[CONTEXTS] = {"prompts": contexts(given[PROMPTS]["prompts"])}
    given[LAST] = given[CONTEXTS] | {"last_layer": True}
    tokens = {task: sum(map(len, what["prompts"])) for task, what in given.items()}
    if not tokens[CONTEXTS]:
        parser.error(f"--prompts: {tokens[PROMPTS]} tokens fill no batch of {CONTEXT * BATCH}")
    with tempfile.TemporaryDirectory() as temporary:
        taken, found = run(args, pythons, given, make(Path(temporary) / "gpt2"), Path(temporary))
    seconds = {way: [answer["seconds"] for answer in answers] for way, answers in taken.items()}
    differences = {
        way: float(np.abs(numbers - found[OURS[WAYS[way].task]]).max()) for way, numbers in found.items()
    }
    assert max(differences.values()) < 0.02, differences  # of numbers up to 16 in float16
    result = {
        "threads": args.threads,
        "prompts": args.prompts,
        "tokens": tokens,
        "tokens_a_second": {
            way: round(tokens[WAYS[way].task] / statistics.median(s)) for way, s in seconds.items()
        },
        "seconds_over_those_of_gpt2np_capture": {
            way: ratio(s, seconds[OURS[WAYS[way].task]]) for way, s in seconds.items()
        },
        "largest_difference": max(differences.values()),
    }
    print(json.dumps(result, indent=1))


def run(
    args: argparse.Namespace, pythons: dict[str, str], given: dict[str, dict], folder: Path, temporary: Path
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """What each way took in each round, and some numbers of its files."""
    names = list(dict.fromkeys(way.engine for way in WAYS.values()))
    with engines(names, folder, args.threads, pythons) as (started, absent):
        for name, why in absent.items():
            print(f"{name}: {why}", file=sys.stderr)
        jobs = {}
        for name, way in WAYS.items():
            if way.engine in started:
                arguments = given[way.task] | {"out": str(temporary / name), "batch": way.batch}
                arguments |= {"in_order": True} if way.in_order else {}
                job = {"work": way.method, "arguments": arguments, "before": way.before}
                jobs[name] = started[way.engine], job
        taken = in_turn(jobs, args.rounds)
        read = {"work": "captured", "report": True, "before": None}
        found = {
            name: np.array(engine.run(job | read)["value"])
            for name, (engine, job) in jobs.items()
            if name not in (NOTHING, PRODUCTS)
        }
    return taken, found


if __name__ == "__main__":
    main()
