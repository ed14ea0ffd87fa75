"""The machine's own limits, measured in the same run, and the least time that a piece of work could take."""

import statistics
from collections.abc import Iterable

from benchmarks.counts import Count

Limits = dict  # {"gemm": {"768": {"512": {"block": FLOP/s, "unembed": FLOP/s}}}, "memory": {"read": bytes/s}}


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


def memory_seconds(count: Count, limits: Limits) -> float:
    """What moving the bytes of a pass alone would take, at the reading rate."""
    return count.nbytes / limits["memory"]["read"]


def least_seconds(counts: Iterable[Count], n_embd: int, limits: Limits) -> tuple[float, str]:
    """The limit of a job, of each pass the longer of arithmetic and memory; and which binds more of it."""
    total = {"GEMM": 0.0, "memory": 0.0}
    for count in counts:
        gemm, memory = gemm_seconds(count, n_embd, limits), memory_seconds(count, limits)
        total["GEMM" if gemm >= memory else "memory"] += max(gemm, memory)
    return sum(total.values()), max(total, key=total.get)


def gemm_job(n_embd: int, d_mlp: int, vocab: int, n_layer: int, rows: int) -> dict:
    """The machine worker's job for one number of rows."""
    arguments = {"rows": rows, "n_embd": n_embd, "n_mid": d_mlp, "vocab": vocab, "copies": n_layer}
    return {"work": "gemm", "arguments": arguments, "report": True}


def pooled(samples: list[Limits]) -> Limits:
    """The medians of several measurements, rate by rate."""
    if not isinstance(samples[0], dict):
        return statistics.median(samples)
    keys = {key: None for sample in samples for key in sample}
    return {key: pooled([sample[key] for sample in samples if key in sample]) for key in keys}
