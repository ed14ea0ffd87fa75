"""The goals, beside what was seen: the only list of them."""

from dataclasses import dataclass

from benchmarks import counts
from benchmarks.results import Row, machine_of, rows
from gpt2np.tracing.plan import Plan


@dataclass(frozen=True)
class Check:
    """One line: `seen` must be at least (with `most`: at most) `wanted`; None if it was not measured."""

    label: str
    wanted: float
    seen: float | None
    most: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether it does."""
        if self.seen is None:
            return None
        return self.seen <= self.wanted if self.most else self.seen >= self.wanted

    def __str__(self) -> str:
        seen = "not measured" if self.seen is None else f"seen {self.seen:.{0 if self.wanted > 99 else 2}f}"
        verdict = {True: "  holds", False: "  DOES NOT HOLD", None: ""}[self.holds]
        bound = "at most" if self.most else "at least"
        return f"{self.label}: wanted {bound} {self.wanted:g}, {seen}{verdict}"


def _median(row: Row | None, engine: str, key: str = "seconds") -> float | None:
    found = row.ratio(engine, key) if row else None
    return found["median"] if found else None


def mkl_is_home(results: dict) -> bool:
    """Whether the processor is one that torch's MKL was made for."""
    machine = machine_of(results) or {}
    return machine.get("vendor") == "GenuineIntel" or "Intel" in (machine.get("cpu") or "")


def checks(results: dict) -> list[Check]:
    """Every goal beside what was seen, as medians of ratios; those that were not measured say so."""
    row = rows(results)
    return [*_traces(row, mkl_is_home(results)), *_generation(row), *_small(row), *_processes(row)]


def _traces(row: dict[str, Row], home: bool) -> list[Check]:
    where = "where MKL is torch's GEMM" if home else "where MKL is not at home"
    wanted = dict.fromkeys((2, 5, 8), 1.25 if home else 1.5)
    wanted |= dict.fromkeys((16, 32, 64, 100, 128), 1.0 if home else 1.3) | {512: 1.3, 1024: 1.5}
    found = []
    for n, times in wanted.items():
        label = f"full trace of {n:,} tokens, times as fast as HF with hooks" + f" ({where})" * (n <= 128)
        found.append(Check(label, times, _median(row.get(f"trace-{n}"), "hf_eager")))
    for n in (16, 32, 64, 100, 128):
        trace = row.get(f"trace-{n}")
        label = f"full trace of {n} tokens, part that NumPy's GEMM at those rows would take"
        found.append(Check(label, 0.9, trace and trace.gemm_fraction()))
    steps = row["steps-5"].median(key="rest") if "steps-5" in row else None
    label = "all but the products of a full trace of 5 tokens, ms"
    found.append(Check(label, 4, None if steps is None else 1000 * steps, most=True))
    lens = [x for n in wanted if (x := _median(row.get(f"trace-{n}"), "transformer_lens")) is not None]
    label = "full traces, times as fast as TransformerLens, at the length where that is least"
    found.append(Check(label, 1.0, min(lens, default=None)))
    for n in (512, 1024):
        label = f"logits of the last position after {n:,} tokens, times as fast as HF sdpa"
        found.append(Check(label, 1.0, _median(row.get(f"last-{n}"), "hf_sdpa")))
    return found


def _generation(row: dict[str, Row]) -> list[Check]:
    found = []
    for n in (32, 900):
        label, decode = f"decoding after {n} tokens", row.get(f"decode-{n}")
        part = "part that reading all weights, keys and values once would take"
        found.append(Check(f"{label}, {part}", 0.8, decode and decode.bandwidth_fraction()))
        speed = _median(decode, "ctranslate2", "step")
        found.append(Check(f"{label}, times as fast as CTranslate2 float32", 1.0, speed))
    for n in (4, 8, 12):
        label = f"{n} prompts decoded together, times as fast as HF's padded batch"
        found.append(Check(label, 1.5, _median(row.get(f"batch-{n}"), "hf_sdpa")))
    label = "64 prompts of 8 tokens, times as fast as HF's padded batch"
    return [*found, Check(label, 1.2, _median(row.get("packed-64"), "hf_eager"))]


def _small(row: dict[str, Row]) -> list[Check]:
    found = []
    for name in ("busy-traces", "busy-decode"):
        busy = row.get(name)
        label = f"{busy.label if busy else name}, both cores loaded"
        cpu, wall = _median(busy, "gpt2np_busy", "cpu"), _median(busy, "gpt2np_busy")
        found.append(Check(f"{label}, times its idle CPU time", 1.3, cpu, most=True))
        found.append(Check(f"{label}, times its idle wall time", 2.2, wall, most=True))
    alone = row.get("tiny-decode")
    step, loop = (alone.median(key="step"), _median(alone, "bare_loop", "step")) if alone else (None, None)
    label = "tiny on one thread"
    return [
        *found,
        Check(f"{label}, tokens a second", 1050, step and 1 / step),
        Check(f"{label}, times as long as a bare loop of its operations", 1.5, loop and 1 / loop, most=True),
    ]


def _processes(row: dict[str, Row]) -> list[Check]:
    cold = row.get("cold")
    theirs = _median(cold, "hf_eager", "peak_mib")
    label = "peak memory of a full trace of 1,024 tokens, as a part of weights and plan"
    return [
        Check("cold process to full trace of 5 tokens, times as fast as HF", 20, _median(cold, "hf_eager")),
        Check("its peak memory, as a part of HF's", 0.65, 1 / theirs if theirs else None, most=True),
        Check(label, 1.05, memory_part(row.get("alone-1024")), most=True),
    ]


def packed(row: dict[str, Row], n: int) -> float | None:
    """Tokens per second of n packed prompts, over those of one at a time."""
    one, many = row.get("packed-1"), row.get(f"packed-{n}")
    if one is None or many is None:
        return None
    alone, together = one.median(), many.median()
    return None if alone is None or together is None else n * alone / together


def memory_part(row: Row | None) -> float | None:
    """Peak memory of gpt2np over the bytes of its weights and of its plan."""
    peak = row.median(key="peak_mib") if row else None
    if row is None or peak is None:
        return None
    planned = Plan(row.config, row.values["lengths"][0]).nbytes
    return peak * 2**20 / (counts.weight_bytes(row.config) + planned)
