"""Cold process to a full trace of 5 tokens at GPT-2 small's shape: gpt2np and HF, whole processes, in turn.

    python benchmarks/bench_cold.py [--rounds 7]

HF does the same work: load the checkpoint, run with eager attention, keep every site by hooks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_gpt2 import make

IDS = [464, 3139, 286, 4881, 318]
PEAK = "import resource; print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"

GPT2NP = f"""
import gpt2np, sys
trace = gpt2np.load(sys.argv[1]).trace({IDS})
n = trace.nbytes
{PEAK}
"""

HF = f"""
import sys, torch
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
found = {{}}
def keep(name):
    return lambda module, inputs, output: found.update({{name: (inputs[0], output)}})
for name, module in model.named_modules():
    if name and not isinstance(module, torch.nn.ModuleList):
        module.register_forward_hook(keep(name))
with torch.no_grad():
    out = model(torch.tensor([{IDS}]), output_attentions=True, output_hidden_states=True, use_cache=True)
n = len(found) + len(out.attentions)
{PEAK}
"""


def once(code: str, folder: Path) -> tuple[float, int]:
    """Seconds of a whole process, and its peak memory in MiB."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "gpt2")
        for code in (GPT2NP, HF):  # once for the disk cache and the byte code
            once(code, folder)
        ours, theirs = [], []
        for _ in range(rounds):
            time.sleep(0.5)
            ours.append(once(GPT2NP, folder))
            time.sleep(0.5)
            theirs.append(once(HF, folder))
    ratios = [b[0] / a[0] for a, b in zip(ours, theirs, strict=True)]
    result = {
        "gpt2np_seconds": statistics.median(s for s, _ in ours),
        "hf_seconds": statistics.median(s for s, _ in theirs),
        "hf_over_gpt2np": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "gpt2np_peak_mib": statistics.median(m for _, m in ours),
        "hf_peak_mib": statistics.median(m for _, m in theirs),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
