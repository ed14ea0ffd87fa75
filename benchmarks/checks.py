"""What was promised, beside what was seen."""

from dataclasses import dataclass

from benchmarks import counts
from benchmarks.engines import LABELS
from benchmarks.results import Row, rows
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
        seen = "not measured" if self.seen is None else f"{self.seen:.2f}"
        verdict = {True: "  holds", False: "  DOES NOT HOLD", None: ""}[self.holds]
        bound = "at most" if self.most else "at least"
        return f"{self.label}: wanted {bound} {self.wanted:g}, seen {seen}{verdict}"


def _median(row: Row | None, engine: str, key: str = "seconds") -> float | None:
    found = row.ratio(engine, key) if row else None
    return found["median"] if found else None


def checks(results: dict) -> list[Check]:
    """Every line of the table of promises; those that were not measured say so."""
    row = rows(results)
    get = row.get
    cold = get("cold")
    theirs = _median(cold, "hf_eager", "peak_mib")
    found = [
        Check("cold process to full trace of 5 tokens, times as fast as HF", 20, _median(cold, "hf_eager")),
        Check("its peak memory, as a part of HF's", 0.65, 1 / theirs if theirs else None, most=True),
    ]
    for n in (5, 32, 100, 512, 1024):
        for engine in ("hf_eager", "transformer_lens"):
            label = f"full trace of {n:,} tokens, times as fast as {LABELS[engine]}"
            found.append(Check(label, 1.5 if n == 1024 else 1.3, _median(get(f"trace-{n}"), engine)))
    for n in (512, 1024):
        label, last = f"logits of the last position after {n:,} tokens", get(f"last-{n}")
        found.append(Check(f"{label}, part that GEMM alone would take", 0.8, last and last.gemm_fraction()))
        found.append(Check(f"{label}, times as fast as HF sdpa", 1.0, _median(last, "hf_sdpa")))
    for n in (32, 900):
        label, decode = f"decoding after {n} tokens", get(f"decode-{n}")
        found.append(Check(f"{label}, times as fast as HF generate", 1.8, _median(decode, "hf_sdpa", "step")))
        found.append(
            Check(f"{label}, part of the reading limit", 0.8, decode and decode.bandwidth_fraction())
        )
        speed = _median(decode, "ctranslate2", "step")
        found.append(Check(f"{label}, times as fast as CTranslate2 float32", 1.0, speed))
    found.append(
        Check("64 packed prompts of 8 tokens, tokens per second against one at a time", 5, packed(row, 64))
    )
    label = "peak memory of a full trace of 1,024 tokens, as a part of weights and plan"
    return [*found, Check(label, 1.05, memory_part(get("alone-1024")), most=True)]


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
