"""RESULTS.md from the JSON: machine, versions, date, tables, promises, scaling."""

from pathlib import Path

from benchmarks import scaling, table
from benchmarks.checks import checks
from benchmarks.engines import LABELS

HOW = """Each engine runs in a process of its own; all are started before, and called in turn with half a
second between. A ratio says how many times longer the other program takes, round by round: median
[smallest, largest]. "Limit" is the least time that arithmetic (at the GEMM rate measured with as many rows)
or memory (at the measured reading rate) allows, as a part of what gpt2np took; `counts.py` says what is
counted; gpt2np multiplies few rows one by one, which can be faster than GEMM. Weights are random. Logits of
all engines were compared before anything was measured. Saving includes, for gpt2np only, waiting until the
file is on the disk."""


def report(results: dict) -> str:
    """The whole page."""
    parts = ["# Results", "Made by `python -m benchmarks report RESULTS.json`; not written by hand.", HOW]
    if results["shape"] != "gpt2":
        parts.append(f"**A trial of the suite at shape `{results['shape']}`: the figures mean nothing.**")
    parts += [machine(results)]
    if results["works"]:
        parts += ["## Speed", table.speed(results)]
        parts += _if_rows("## Decoding, after the first new token", table.decoding(results))
        parts += _if_rows("## Packing", table.packing(results))
        parts += _if_rows("## Peak memory of whole processes", table.memory(results))
        parts += ["## The machine's limits", table.machine_limits(results)]
        parts += ["## Wanted and seen", "\n".join(f"- {check}" for check in checks(results))]
        parts.append("![ratios](RESULTS.png)")
    if "scaling" in results:
        parts += scaling_part(results)
    return "\n\n".join(part for part in parts if part) + "\n"


def _if_rows(title: str, text: str) -> list[str]:
    return [title, text] if text.count("\n") > 1 else []


def machine(results: dict) -> str:
    """Where and when."""
    runs = [
        run for i, run in enumerate(results["runs"]) if any(w["run"] == i for w in results["works"].values())
    ]
    last = runs[-1]["machine"] if runs else results.get("scaling", {}).get("machine")
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
    lines += [f"- {LABELS[name]}: {text}" for name, text in versions.items()]
    lines += [f"- {LABELS[name]}: absent" for name in absent]
    dates = ", ".join(dict.fromkeys(run["machine"]["date"] for run in runs)) or last["date"]
    return "\n".join([*lines, f"- {dates}"])


def scaling_part(results: dict) -> list[str]:
    """Tables of the three series."""
    found = scaling.summary(results["scaling"], results["shape"])
    parts = [
        "## Scaling",
        " ".join((scaling.__doc__ or "").split("\n\n", 1)[1].split()),
        "![scaling](SCALING.png)",
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


def write_report(results: dict, folder: Path) -> list[Path]:
    """RESULTS.md and, with matplotlib, the pictures; the files that were written."""
    from benchmarks import plot

    page = folder / "RESULTS.md"
    page.write_text(report(results), "utf-8")
    return [page, *plot.pictures(results, folder)]
