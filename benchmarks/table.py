"""Rows of results as Markdown tables."""

from collections.abc import Sequence

from benchmarks import limits
from benchmarks.checks import packed
from benchmarks.engines import BEFORE, LABELS
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


def limit_of(row: Row) -> str:
    """What part of our time the machine's limit takes; where much is written, that part with writing, too."""
    least, both = row.least(), row.with_writing()
    if not least:
        return ""
    part, binds = least
    with_writing = f", {100 * both:.0f} % with writing" if both and both > part + 0.02 else ""
    return f"{100 * part:.0f} % of {binds}{with_writing}"


def speed(results: dict, names: Sequence[str] = ()) -> str:
    """Every row: gpt2np's time, limit, how many times as long others take; or only these, without BEFORE."""
    table = [row for name, row in rows(results).items() if name in names or not names]
    peers = [name for name in _peers(table) if name != BEFORE or not names]
    body = [
        [row.label, seconds(row.median()), limit_of(row), *(times(row.ratio(name)) for name in peers)]
        for row in table
    ]
    return markdown(["work", "gpt2np", "limit", *(LABELS[name] for name in peers)], body)


def decoding(results: dict) -> str:
    """Tokens per second after the first new token, the part that reading takes, how others compare."""
    table = [row for row in rows(results).values() if row.median(key="step")]
    peers = _peers(table, "step")
    body = []
    for row in table:
        part = row.bandwidth_fraction()
        step = row.median(key="step")
        body.append(
            [
                row.label,
                f"{len(row.values['lengths']) / step:.1f}",
                f"{100 * part:.0f} %" if part else "",
                *(times(row.ratio(name, "step")) for name in peers),
            ]
        )
    part = "of reading weights, keys, values"
    return markdown(["work", "gpt2np tokens/s", part, *(LABELS[name] for name in peers)], body)


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


def busy(results: dict) -> str:
    """The small model, idle and while every core is loaded."""
    body = []
    for row in rows(results).values():
        if row.taken("gpt2np_busy"):
            slower = (
                times(row.ratio(f"{name}_busy", key, name))
                for name in ("gpt2np", "bare_loop")
                for key in ("cpu", "seconds")
            )
            body.append([row.label, seconds(row.median(key="cpu")), seconds(row.median()), *slower])
    head = [f"{what} when busy, times" for what in ("CPU", "wall", "CPU of a bare loop", "its wall")]
    return markdown(["work", "CPU", "wall", *head], body)


def python(results: dict) -> str:
    """What is not arithmetic: a short trace step by step, and a small model beside a bare loop."""
    row, body = rows(results), []
    if "steps-5" in row:
        parts = {key: seconds(row["steps-5"].median(key=key)) for key in ("products", "others", "rest")}
        seen = (
            f"products {parts['products']}, other steps {parts['others']}, all but products {parts['rest']}"
        )
        body.append([row["steps-5"].label, seen])
    if "tiny-decode" in row:
        ours, loop = (row["tiny-decode"].median(name, "step") for name in ("gpt2np", "bare_loop"))
        seen = f"{1 / ours:.0f} tokens/s" + (f", a bare loop {1 / loop:.0f}" if loop else "")
        body.append([row["tiny-decode"].label, seen])
    return markdown(["work", "seen"], body)


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
    """The rates that were measured, as medians over all rows."""
    samples = [sample for row in rows(results).values() for sample in row.rates]
    if not samples:
        return ""
    pooled = limits.pooled(samples)
    memory_rates = pooled["memory"]
    body = [
        [f"{label} memory, GB/s", f"{memory_rates[key] / 1e9:.1f}", ""]
        for label, key in (
            ("reading", "read"),
            ("writing fresh", "first_touch"),
            ("writing touched", "touched"),
        )
    ]
    for kind, rate in pooled.get("disk", {}).items():
        body.append([f"a file, {kind}, GB/s", f"{rate / 1e9:.2f}", ""])
    for n_embd, rates in pooled["gemm"].items():
        for n_rows, rate in sorted(rates.items(), key=lambda item: int(item[0])):
            label = f"GEMM, {int(n_rows):,} rows, n_embd {n_embd}, GFLOP/s"
            body.append([label, f"{rate['block'] / 1e9:.0f}", f"{rate['unembed'] / 1e9:.0f}"])
    return markdown(["the machine", "blocks", "unembedding"], body)
