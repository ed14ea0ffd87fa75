"""Writing a KV cache as JSON: gpt2np against document 003's dict and json.dump, in turn, and its memory.

    python benchmarks/bench_kv_json.py [--tokens 1024] [--rounds 3]

Random keys and values of GPT-2 small's shape. Each writer runs in a process of its own; memory is what the
process's peak grew by while it wrote. The last lines ask each file for one coordinate, as whole processes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = """
import resource, sys, time
import numpy as np
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.kv.queries import KV
n, path = int(sys.argv[1]), sys.argv[2]
c = RELEASED["gpt2"]
shape = (c.n_layer, n, 3, c.n_head, c.n_embd // c.n_head)  # attn.qkv of every layer, as in a trace
qkv = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
layers = [(x[:, 1], x[:, 2]) for x in qkv]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
END = "print(time.perf_counter() - start, peak() - before)"

OURS = f"""{START}
from gpt2np.kv.extraction import document, write_json
kv = KV("gpt2", ["a"] * n, layers, "a" * n, [64] * n)
before, start = peak(), time.perf_counter()
write_json(document(kv, kv.text), path)
{END}
"""

THEIRS = f"""{START}
import json
before, start = peak(), time.perf_counter()
cache = {{}}
for layer, (keys, values) in enumerate(layers):
    heads = cache[f"layer_{{layer}}"] = {{}}
    for head in range(keys.shape[1]):
        heads[f"head_{{head}}"] = {{"tokens": [
            {{"token_idx": i, "key": keys[i, head].tolist(), "value": values[i, head].tolist()}}
            for i in range(n)
        ]}}
with open(path, "w") as file:
    json.dump({{"model": "gpt2", "input_tokens": ["a"] * n, "kv_cache": cache}}, file)
{END}
"""

SAFETENSORS = f"""{START}
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace import Trace, run_metadata
plan = Plan(c, n, ["attn.k", "attn.v"])
arrays = {{f"h.{{i}}.attn.{{part}}": x for i, pair in enumerate(layers) for part, x in zip("kv", pair)}}
trace = Trace(plan, arrays, [64] * n, run_metadata(plan, [64] * n, ["a"] * n, prompt="a" * n, model="gpt2"))
before, start = peak(), time.perf_counter()
trace.save(path)
{END}
"""


def write(code: str, tokens: int, path: Path) -> tuple[float, float]:
    """Seconds to write, and MiB that it took."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tokens), str(path)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


def ask(path: Path) -> float:
    """Seconds of a whole `kv query`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "gpt2np", "kv", "query", str(path), "--coordinate", "5", "3", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / name for name in ("ours.json", "theirs.json", "ours.safetensors")]
        found: list[list[tuple[float, float]]] = [[], [], []]
        asked: list[list[float]] = [[], [], []]
        for _ in range(args.rounds):
            for code, path, results in zip((OURS, THEIRS, SAFETENSORS), paths, found, strict=True):
                results.append(write(code, args.tokens, path))
            for i in (0, 2):
                asked[i].append(ask(paths[i]))
        sizes = [path.stat().st_size for path in paths]
    ours, theirs, binary = ([seconds for seconds, _ in results] for results in found)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    result = {
        "tokens": args.tokens,
        "seconds": {
            "gpt2np_json": statistics.median(ours),
            "dict_and_json_dump": statistics.median(theirs),
            "gpt2np_safetensors": statistics.median(binary),
        },
        "json_dump_over_gpt2np": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "mib_above_the_trace": {
            "gpt2np_json": max(mib for _, mib in found[0]),
            "dict_and_json_dump": max(mib for _, mib in found[1]),
            "gpt2np_safetensors": max(mib for _, mib in found[2]),
        },
        "bytes": dict(zip(("gpt2np_json", "json_dump", "gpt2np_safetensors"), sizes, strict=True)),
        "query_seconds": {"json": statistics.median(asked[0]), "safetensors": statistics.median(asked[2])},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
