"""The machine's own limits, measured in turn with the work, and the least time that it could take."""

import statistics
from collections.abc import Iterable

from benchmarks.counts import Count
from gpt2np.architectures.gpt2.config import Config

# {"gemm": {"768": {"512": {"block": FLOP/s, "unembed": FLOP/s}}},
#  "memory": {"read": bytes/s, "touched": ...}, "disk": {"synced": ..., "unsynced": ...}}
Limits = dict


def gemm_seconds(count: Count, n_embd: int, limits: Limits) -> float:
    """What BLAS alone would take for the matrix products of a pass, at the rates measured with as many rows.

    Attention is counted at the rate of the blocks. A pass of one row is bound by reading: 0.
    """
    rates = limits["gemm"].get(str(n_embd), {})
    if count.rows == 1:
        return 0.0
    seconds = (count.block_flops + count.attention_flops) / nearest(rates, count.rows, "block")
    if count.unembed_rows > 1:
        seconds += count.unembed_flops / nearest(rates, count.unembed_rows, "unembed")
    return seconds


def nearest(rates: dict, rows: int, part: str) -> float:
    """The rate measured with so many rows, or with the nearest number of them."""
    return rates[min(rates, key=lambda measured: abs(int(measured) - rows))][part]


def writing_seconds(count: Count, limits: Limits) -> float:
    """What writing the arrays that a pass keeps would take, to memory that has been written before."""
    return count.written_bytes / limits["memory"]["touched"]


def memory_seconds(count: Count, limits: Limits) -> float:
    """What moving the bytes of a pass alone would take: read, and then written."""
    return count.read_bytes / limits["memory"]["read"] + writing_seconds(count, limits)


def least_seconds(counts: Iterable[Count], n_embd: int, limits: Limits) -> tuple[float, str]:
    """The limit of a job, of each pass the longer of arithmetic and memory; and which binds more of it."""
    total = {"GEMM": 0.0, "memory": 0.0}
    for count in counts:
        gemm, memory = gemm_seconds(count, n_embd, limits), memory_seconds(count, limits)
        total["GEMM" if gemm >= memory else "memory"] += max(gemm, memory)
    return sum(total.values()), max(total, key=total.get)


def saving_seconds(nbytes: int, sync: bool, limits: Limits) -> float:
    """What writing a file of so many bytes would take, until it is on the disk or until the system has it."""
    return nbytes / limits["disk"]["synced" if sync else "unsynced"]


def job(config: Config, n_layer: int, rows: Iterable[int], shape: str, disk: bool = False) -> dict:
    """The machine worker's job: GEMM at these numbers of rows, the memory, and the disk if it matters.

    Many rows are not bound by what is in the cache. Memory and disk move as many bytes as GPT-2 small's
    weights, of which no cache holds much; few where figures mean nothing.
    """
    sizes = {"n_embd": config.n_embd, "n_mid": config.d_mlp, "vocab": config.vocab_size}
    copies = {n: min(n_layer, 12) if n < 128 else 2 for n in sorted(set(rows))}
    gemm = [sizes | {"rows": n, "copies": copies[n]} for n in copies]
    nbytes = 1 << (29 if shape == "gpt2" else 22)
    return {"work": "rates", "arguments": {"gemm": gemm, "nbytes": nbytes, "disk": disk}, "report": True}


def pooled(samples: list[Limits]) -> Limits:
    """The medians of several measurements, rate by rate."""
    if not isinstance(samples[0], dict):
        return statistics.median(samples)
    keys = {key: None for sample in samples for key in sample}
    return {key: pooled([sample[key] for sample in samples if key in sample]) for key in keys}
