"""Rows of results as Markdown tables."""

from benchmarks.checks import packed
from benchmarks.engines import LABELS
from benchmarks.results import Row, rows

PEERS = [name for name in LABELS if name != "gpt2np"]


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(value: float | None) -> str:
    """With three figures: 0.0612 s is 61.2 ms."""
    if value is None:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def times(found: dict[str, float] | None) -> str:
    """Median and spread of a ratio: 1.52 [1.44, 1.60]."""
    return f"{found['median']:.2f} [{found['min']:.2f}, {found['max']:.2f}]" if found else ""


def _peers(table: list[Row], key: str = "seconds") -> list[str]:
    return [name for name in PEERS if any(row.ratio(name, key) for row in table)]


def speed(results: dict) -> str:
    """Every row: gpt2np's time, the part of it that the limit takes, how many times as long others take."""
    table = list(rows(results).values())
    peers = _peers(table)
    body = []
    for row in table:
        least, ours = row.least(), row.median()
        part = f"{100 * least[0] / ours:.0f} % of {least[1]}" if least and ours else ""
        body.append([row.label, seconds(ours), part, *(times(row.ratio(name)) for name in peers)])
    return markdown(["work", "gpt2np", "limit", *(LABELS[name] for name in peers)], body)


def decoding(results: dict) -> str:
    """Tokens per second after the first new token, and how many times slower others are."""
    table = [row for row in rows(results).values() if row.median(key="step")]
    peers = _peers(table, "step")
    body = []
    for row in table:
        part = row.bandwidth_fraction()
        step = row.median(key="step")
        body.append(
            [
                row.label,
                f"{1 / step:.1f}",
                f"{100 * part:.0f} %" if part else "",
                *(times(row.ratio(name, "step")) for name in peers),
            ]
        )
    return markdown(["work", "gpt2np tokens/s", "of reading", *(LABELS[name] for name in peers)], body)


def packing(results: dict) -> str:
    """Tokens per second of packed prompts, and against one prompt at a time."""
    row, body = rows(results), []
    for name, one in row.items():
        ours = one.median()
        if name.startswith("packed-") and ours:
            lengths = one.values["lengths"]
            gain = packed(row, len(lengths))
            body.append([str(len(lengths)), f"{sum(lengths) / ours:.0f}", f"{gain:.2f}" if gain else ""])
    return markdown(["prompts of 8 tokens", "gpt2np tokens/s", "times one at a time"], body)


def memory(results: dict) -> str:
    """Peak memory of processes that did only that work; others as multiples of gpt2np."""
    table = [row for row in rows(results).values() if row.values["whole"]]
    peers = _peers(table)
    body = [
        [
            row.label,
            f"{row.median(key='peak_mib'):.0f} MiB" if row.median() else "",
            *(times(row.ratio(name, "peak_mib")) for name in peers),
        ]
        for row in table
    ]
    return markdown(["process", "gpt2np", *(LABELS[name] for name in peers)], body)


def machine_limits(results: dict) -> str:
    """The rates that were measured in the last run."""
    row = next((row for row in reversed(rows(results).values()) if row.limits), None)
    if row is None:
        return ""
    memory_rates = row.limits["memory"]
    body = [
        [f"{label} memory, GB/s", f"{memory_rates[key] / 1e9:.1f}", ""]
        for label, key in (
            ("reading", "read"),
            ("writing fresh", "first_touch"),
            ("writing touched", "touched"),
        )
    ]
    for n_embd, rates in row.limits["gemm"].items():
        for n_rows, rate in sorted(rates.items(), key=lambda item: int(item[0])):
            label = f"GEMM, {int(n_rows):,} rows, n_embd {n_embd}, GFLOP/s"
            body.append([label, f"{rate['block'] / 1e9:.0f}", f"{rate['unembed'] / 1e9:.0f}"])
    return markdown(["the machine", "blocks", "unembedding"], body)
