"""Views of `gpt2np circuits` on what was learned, without any text: a head's matrices, norms, parameters."""

import argparse
from typing import Any

from gpt2np.cli.verbs.printed_arrays import Shown, excerpt
from gpt2np.errors import InputError, short
from gpt2np.tables import screen_width, wrapped

OF_INTERFERENCE = """\
rms cosine: of all pairs, by chance n_embd ** -0.5; nearest: the largest with another direction, mean of a \
sample; chance: of independent directions.
probes and writes: what the neurons of a layer look for, and what they add"""


def head_weights(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """One head's own matrices and biases."""
    from gpt2np.analysis import circuits
    from gpt2np.analysis.named_array import NamedArray

    parts = {}
    for name, array in circuits.head_weights(model, *map(int, args.head.split(".")))._asdict().items():
        axes = ("d_head",) if array.ndim == 1 else ("n_embd", "d_head")
        axes = axes[::-1] if name == "W_O" else axes
        parts[name] = NamedArray(array, axes, {}, f"{name} of head {args.head} [{', '.join(axes)}]")
    facts = {name: part.to_json() for name, part in parts.items()}
    text = "\n\n".join(excerpt(part, lines=8) for part in parts.values())
    return Shown(text, {"model": model.name, "head": args.head} | facts)


def parameters(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Where the parameters are: of a Model, or of a Config."""
    from gpt2np.analysis.named_array import NamedArray
    from gpt2np.analysis.parameter_counts import parameter_shares
    from gpt2np.checkpoints.checkpoint import default_name
    from gpt2np.tables import fitted

    found = parameter_shares(model)
    rows = []
    for name, (n, share, inside) in zip(found.labels["component"], found.array.tolist(), strict=True):
        rows.append([name, f"{int(n):,}", f"{share:.1%}", f"{inside:.1%}" if inside == inside else ""])
    text = f"{wrapped(found.title)}\n" + fitted(
        [["component", "parameters", "share", "in blocks"], *rows], "<>>>"
    )
    bars = NamedArray(
        found.array[:, 0], ("component",), {"component": found.labels["component"]}, found.title
    )
    name = getattr(model, "name", args.model or default_name())
    facts = {"model": name, "parameters": found.to_json()}
    return Shown(text, facts, bars, signed=False, quantity="parameters")


def interference(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Directions of the residual stream against random ones."""
    from gpt2np.analysis.directions import INTERFERENCE
    from gpt2np.analysis.directions import interference as measured
    from gpt2np.analysis.named_array import NamedArray
    from gpt2np.tables import fitted

    found = measured(model)
    rows = [
        [name, f"{int(n):,}", *(f"{x:.4f}" for x in cosines)]
        for name, (n, *cosines) in zip(found.labels["set"], found.array.tolist(), strict=True)
    ]
    text = f"{wrapped(found.title)}\n" + fitted(
        [["set", *INTERFERENCE], *rows], "<" + ">" * len(INTERFERENCE)
    )
    text += f"\n{wrapped(OF_INTERFERENCE)}"
    labels = {"set": found.labels["set"], "measure": INTERFERENCE[1:]}
    picture = NamedArray(found.array[:, 1:], found.axes, labels, found.title)
    return Shown(text, {"model": model.name, "interference": found.to_json()}, picture, signed=False)


def norms(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Scale and shift of all norms, or of one."""
    from gpt2np.analysis.layer_norms import MEASURES, norm_parameters, norm_statistics
    from gpt2np.analysis.named_array import NamedArray
    from gpt2np.tables import fitted, number

    found, facts = norm_parameters(model), {"model": model.name}
    names, what = list(found.labels["norm"]), found.title.partition(" of each ")
    kind_of_norm = what[2].partition(":")[0]  # LayerNorm
    if args.norms != "all":
        if args.norms not in names:
            raise InputError(
                f"--norms: no {kind_of_norm} is called {short(args.norms)}; they are {', '.join(names)}"
            )
        values, kinds = found.array[names.index(args.norms)], found.labels["parameter"]
        title = f"{what[0]} of {args.norms}"
        one = NamedArray(values, ("parameter", "n_embd"), {"parameter": kinds}, title)
        each = [
            NamedArray(v, ("n_embd",), {}, f"{k} of {args.norms}") for k, v in zip(kinds, values, strict=True)
        ]
        parts = [f"{excerpt(part)}\n{_wrapped('largest: ' + _dimensions(part, args.top))}" for part in each]
        return Shown("\n\n".join(parts), facts | {"norm": one.to_json()}, one)
    statistics, parts = norm_statistics(model), []
    for i, kind in enumerate(statistics.labels["parameter"]):
        rows = []
        for j, name in enumerate(names):
            spread = [number(x) for x in statistics.array[i, j, :-1].tolist()]
            rows.append(
                [name, *spread, _dimensions(NamedArray(found.array[j, i], ("n_embd",)), args.top or 2)]
            )
        head = [kind, *MEASURES]
        parts.append(fitted([head, *rows], "<" + ">" * (len(head) - 2) + "<"))
    text = f"{wrapped(found.title)}\n" + "\n\n".join(parts)
    scale = NamedArray(
        found.array[:, 0], ("norm", "n_embd"), {"norm": names}, f"scale of each {kind_of_norm}"
    )
    facts |= {"norms": found.to_json(), "statistics": statistics.to_json()}
    return Shown(text, facts, scale, signed=bool((scale.array < 0).any()))


def _dimensions(named: Any, k: int | None) -> str:
    """The dimensions of the largest magnitude, with their values."""
    from gpt2np.tables import number

    return ", ".join(f"{name} ({number(value)})" for (name,), value in named.largest(k or 5))


def _wrapped(text: str) -> str:
    """Indented lines of a table's width, cut between entries only."""
    entries, lines = text.split(", "), [" "]
    for i, entry in enumerate(entries):
        piece = " " + entry + "," * (i < len(entries) - 1)
        if len(lines[-1] + piece) > screen_width():
            lines.append(" ")
        lines[-1] += piece
    return "\n".join(lines)
