"""The page of a run, from its JSON: machine, versions, date, tables, goals, scaling."""

from pathlib import Path

from benchmarks import scaling, table
from benchmarks.checks import checks
from benchmarks.engines import LABELS
from benchmarks.results import machine_of

HOW = """Each engine runs in a process of its own; all are started before, and called in turn with half a
second between. A ratio says how many times longer the other program takes, round by round: median
[smallest, largest]. "Limit" is the least time that arithmetic (GEMM, at the rate of the fastest of NumPy's
ways with as many rows) or memory (reading, and writing what is kept, at the measured rates) allows, as a part
of what gpt2np took; "with writing" is GEMM and then writing, one after the other. A machine is not always as
fast: its rates are measured in turn, too, and the part is the median of the rounds (until November 2026 they
were measured before and after all rows). `counts.py` says what is counted. Weights are random, but for
`tiny`'s. Logits of all engines were compared before anything was measured."""


def report(results: dict, stem: str = "RESULTS") -> str:
    """The whole page, which goes with pictures of the same stem."""
    parts = ["# Results", f"Made by `python -m benchmarks report {stem}.json`; not written by hand.", HOW]
    parts.append(results.get("note", ""))
    if results["shape"] != "gpt2":
        parts.append(f"**A trial of the suite at shape `{results['shape']}`: the figures mean nothing.**")
    parts += [machine(results)]
    if results["works"]:
        parts += ["## Speed", table.speed(results)]
        parts += _if_rows("## Decoding, after the first new token", table.decoding(results))
        parts += _if_rows("## Packing", table.packing(results))
        parts += _if_rows("## On a busy machine", table.busy(results))
        parts += _if_rows("## Besides arithmetic", table.python(results))
        parts += _if_rows("## Peak memory of whole processes", table.memory(results))
        parts += ["## The machine's limits", table.machine_limits(results)]
        parts += ["## Wanted and seen", "\n".join(f"- {check}" for check in checks(results))]
        parts.append(f"![ratios]({stem}.png)")
    if "scaling" in results:
        parts += scaling_part(results, stem)
    return "\n\n".join(part for part in parts if part) + "\n"


def _if_rows(title: str, text: str) -> list[str]:
    return [title, text] if text.count("\n") > 1 else []


def machine(results: dict) -> str:
    """Where and when."""
    used = {work["run"] for work in results["works"].values()}
    runs = [run for i, run in enumerate(results["runs"]) if i in used]
    last = machine_of(results)
    if last is None:
        return ""
    memory = f", {int(last['memory'].split()[0]) / 2**20:.0f} GiB" if last["memory"] else ""
    lines = [
        f"- {last['cpu']}, {last['available_cores']} of {last['cores']} cores{memory}, {last['system']}",
        f"- {results['threads']} threads for every engine",
        f"- gpt2np {last['gpt2np']}, Python {last['python']}, NumPy {last['numpy']}, {last['blas']}",
    ]
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    for run in runs:
        absent |= run["absent"]
        for name, found in run["versions"].items():
            absent.pop(name, None)
            versions[name] = ", ".join(f"{package} {v}" for package, v in found.items())
    lines += [f"- {LABELS[name]}: {text}" for name, text in versions.items() if name in LABELS]
    lines += [f"- {LABELS[name]}: absent" for name in absent if name in LABELS]
    dates = ", ".join(dict.fromkeys(run["machine"]["date"] for run in runs)) or last["date"]
    return "\n".join([*lines, f"- {dates}"])


def scaling_part(results: dict, stem: str) -> list[str]:
    """Tables of the three series."""
    found = scaling.summary(results["scaling"], results["shape"])
    machine = results["scaling"]["machine"]
    parts = [
        "## Scaling",
        f"Measured on {machine['date'][:10]} with gpt2np {machine['gpt2np']}.",
        " ".join((scaling.__doc__ or "").split("\n\n", 1)[1].split()),
        f"![scaling]({stem}-scaling.png)",
    ]
    for method, label in (("trace", "Full trace"), ("last", "Logits of the last position")):
        one = found[method]
        body = [
            [f"{n:,}", table.seconds(spent), f"{100 * least / spent:.0f} %"]
            for n, spent, least in zip(one["tokens"], one["seconds"], one["limit"], strict=True)
        ]
        parts += [f"### {label}", table.markdown(["tokens", "gpt2np", "limit"], body)]
        fitted, theory = one["fit"]["coefficients"], one["theory"]
        rows = [
            [f"{part}, {unit}", f"{1e6 * fitted[part]:.4g}", f"{1e6 * theory[part]:.4g}"]
            for part, unit in (
                ("constant", "µs"),
                ("linear", "µs a token"),
                ("quadratic", "µs a token squared"),
            )
        ]
        parts.append(table.markdown(["part", "fitted", "counted, at the limits"], rows))
        error = 100 * one["fit"]["largest_relative_error"]
        layer = one["layer_fit"]["coefficients"]
        parts.append(
            f"Fitted from {scaling.FITTED_FROM} tokens on, with an error of at most {error:.0f} %. "
            f"At {scaling.AT} tokens {table.seconds(layer['linear'])} a layer "
            f"and {table.seconds(layer['constant'])} besides ({', '.join(map(str, one['layers']))} layers)."
        )
        body = [
            [
                name,
                str(size["n_embd"]),
                table.seconds(size["layer"]),
                table.seconds(size["extrapolated"]),
                table.seconds(size["limit"]),
                f"{size['flops'] / 1e9:.3g}",
            ]
            for name, size in one["sizes"].items()
        ]
        header = ["size", "n_embd", "a layer", f"{scaling.AT} tokens, extrapolated", "limit", "GFLOP"]
        parts.append(table.markdown(header, body))
    return parts


def write_report(results: dict, path: Path) -> list[Path]:
    """The page and, with matplotlib, the pictures beside a results file; the files that were written."""
    from benchmarks import plot

    page = path.with_suffix(".md")
    page.write_text(report(results, path.stem), "utf-8")
    return [page, *plot.pictures(results, path)]
