"""The ratios as dots beside the line of 1, and the scaling law; needs matplotlib."""

import sys
from pathlib import Path

from benchmarks import scaling
from benchmarks.engines import LABELS
from benchmarks.results import rows
from benchmarks.table import PEERS


def pictures(results: dict, path: Path) -> list[Path]:
    """STEM.png and STEM-scaling.png beside the results, as far as there is something to draw."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no pictures: matplotlib is not installed (pip install '.[plot]')", file=sys.stderr)
        return []
    mpl.use("Agg")
    written = []
    if any(row.ratio(name) for row in rows(results).values() for name in PEERS):
        written.append(ratios(results, path.with_suffix(".png")))
    if "scaling" in results:
        written.append(scaling_law(results, path.with_name(f"{path.stem}-scaling.png")))
    return written


def ratios(results: dict, path: Path) -> Path:
    """A line for each row of the table, a dot for each engine: how many times as long it takes as gpt2np."""
    import matplotlib.pyplot as plt

    table = [row for row in rows(results).values() if any(row.ratio(name) for name in PEERS)]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.3 * len(table)), layout="constrained")
    colours = dict(zip(PEERS, ("#7f8c8d", "#c0392b", "#e08e0b", "#2471a3", "#239b56"), strict=True))
    marks = dict(zip(PEERS, "vosD^", strict=True))
    for name in PEERS:
        found = [(y, row.ratio(name)) for y, row in enumerate(table)]
        points = [(y, r) for y, r in found if r]
        if points:
            middle = [r["median"] for _, r in points]
            below, above = ([abs(r[end] - r["median"]) for _, r in points] for end in ("min", "max"))
            offset = 0.16 * (PEERS.index(name) - 2)
            axes.errorbar(
                middle,
                [y + offset for y, _ in points],
                xerr=[below, above],
                fmt=marks[name],
                color=colours[name],
                markersize=5,
                linewidth=1,
                label=LABELS[name],
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [
        t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(table)), [row.label for row in table])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("times as long as gpt2np (right of the line: gpt2np is faster)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def scaling_law(results: dict, path: Path) -> Path:
    """Three panels: tokens with the fitted parts, layers, width; the theoretical limits dashed."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    found = scaling.summary(results["scaling"], results["shape"])
    trace, last = found["trace"], found["last"]
    figure, (tokens, layers, width) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    n = trace["tokens"]
    tokens.loglog(n, trace["seconds"], "o", color="#2471a3", label="full trace")
    tokens.loglog(n, last["seconds"], "s", color="#e08e0b", label="last position")
    parts = trace["fit"]["coefficients"]
    many = [x for x in n if x >= scaling.FITTED_FROM]
    lines = {
        "constant": [parts["constant"] for _ in many],
        "linear": [parts["linear"] * x for x in many],
        "quadratic": [parts["quadratic"] * x * x for x in many],
    }
    fitted = [sum(column) for column in zip(*lines.values(), strict=True)]
    tokens.loglog(many, fitted, color="#2471a3", label="fit")
    for (name, line), dash in zip(lines.items(), (":", "-.", (0, (5, 1))), strict=True):
        if any(line):
            tokens.loglog(many, line, linestyle=dash, color="grey", linewidth=1, label=f"its {name} part")
    tokens.loglog(n, trace["limit"], "--", color="black", linewidth=1, label="limit, full trace")
    tokens.set_ylim(bottom=min(trace["limit"]) / 3)
    tokens.set_xlabel("tokens")
    tokens.set_ylabel("seconds")
    for one, colour, label in ((trace, "#2471a3", "full trace"), (last, "#e08e0b", "last position")):
        parts = one["layer_fit"]["coefficients"]
        layers.plot(one["layers"], one["layer_seconds"], "o", color=colour, label=label)
        ends = [0, one["layers"][-1]]
        layers.plot(ends, [parts["constant"] + parts["linear"] * x for x in ends], color=colour, linewidth=1)
        layers.plot(
            one["layers"], one["layer_limit"], "--", color=colour, linewidth=1, label=f"limit, {label}"
        )
        sizes = one["sizes"]
        x = [size["n_embd"] for size in sizes.values()]
        width.loglog(x, [size["extrapolated"] for size in sizes.values()], "o-", color=colour, label=label)
        width.loglog(
            x, [size["limit"] for size in sizes.values()], "--", color=colour, label=f"limit, {label}"
        )
    layers.set_xlabel(f"layers ({scaling.AT} tokens)")
    layers.set_ylim(bottom=0)
    width.set_xlabel(f"n_embd of the whole size, extrapolated from 2 layers ({scaling.AT} tokens)")
    width.set_xticks(x, [f"{name}\n{size['n_embd']}" for name, size in sizes.items()])
    width.minorticks_off()
    width.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    width.yaxis.set_major_formatter("{x:g}")
    for axes in (tokens, layers, width):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
