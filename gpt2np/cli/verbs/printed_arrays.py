"""Arrays on a terminal: as many of their values as fit, and a note of what was left out."""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gpt2np.characters import joined
from gpt2np.cli.terminal import doing, tell
from gpt2np.errors import InputError, printable

LINES = 60  # of values; --json has all
BARS = 40  # tokens of the vocabulary that a picture has room for
DOWN = {"pos": "the last position,", "query": "the last query,"}
PLURALS = {"pos": "positions", "query": "queries", "key": "keys", "vocab": "tokens", "n_embd": "dimensions"}
TOP = "top_k_tokens"  # the site whose length --top says


class Shown(NamedTuple):
    """What a view has to say: on a terminal, as JSON, and as a picture."""

    text: str
    facts: dict[str, Any]
    picture: Any = None
    signed: bool = True
    quantity: str = "value"
    run: Any = None


def check_show(args: argparse.Namespace) -> None:
    """Refuse options of `gpt2np trace` that do not go together, before a model is loaded."""
    if not args.show:
        for option in ("head", "pos", "png"):
            if getattr(args, option) is not None and not (option == "pos" and args.against is not None):
                more = " or --against OTHER" if option == "pos" else ""
                raise InputError(f"--{option} goes with --show SITE{more}")
        return
    for option in ("keep", "out"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} does not go with --show")
    if args.top is not None and TOP not in args.show:
        raise InputError(f"--top does not go with --show, except with --show {TOP}")
    if args.png:
        from gpt2np.analysis.plot import check_picture

        check_picture(args.png)


def sites_to_show(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """The sites that `--show` names, by their full names."""
    from gpt2np.tracing.site_patterns import sites_named

    sites = {name: site for given in args.show for name, site, _ in sites_named(config, given)}
    if args.png and len(sites) > 1:
        raise InputError(f"--png draws one site: {len(sites)} are to be shown, such as {next(iter(sites))}")
    return sites


def show(args: argparse.Namespace, trace: Any, sites: dict[str, Any]) -> int:
    """`gpt2np trace TEXT --show SITE`: the values of sites."""
    from gpt2np.analysis.site_values import has_sign, likeliest, most_active, site_values
    from gpt2np.tables import strict_json

    names = list(sites)
    found = {name: site_values(trace, name, args.head, args.pos, args.top) for name in names}
    if args.png:
        from gpt2np.analysis.positions_and_tokens import positions_down

        picture = most_active(likeliest(found[names[0]], BARS), BARS)
        if picture.array.ndim not in (1, 2):
            less = "pick a --head" if picture.array.ndim > 2 else "leave out --pos"
            raise InputError(
                f"--png draws one or two axes, not {' '.join(picture.axes) or 'a number'}: {less}"
            )
        draw(positions_down(picture), args.png, signed=has_sign(sites[names[0]]), run=trace)
    if args.json:
        values = {name: named.to_json() for name, named in found.items()}
        name = getattr(trace.model, "name", None)
        print(strict_json({"model": name, "tokens": trace.tokens, "sites": values}))
    else:
        pictures = len(found) == 1 and args.png is None
        texts = (excerpt(named, picture=pictures and named.array.ndim in (1, 2)) for named in found.values())
        print("\n\n".join(texts))
    return 0


def draw(
    named: Any,
    path: str,
    *,
    signed: bool,
    run: Any = None,
    quantity: str = "value",
    texts: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw a picture whose title stands alone: of a trace, with the model and the text that ran."""
    from gpt2np.analysis.plot import heatmap

    doing("drawing")
    if run is not None:
        text = joined(run.tokens) if run.prompt is None else run.prompt
        text = " ".join(text.split())
        told = f"{run.metadata.get('model')}: {text if len(text) <= 60 else text[:59] + '…'}"
        named = replace(named, title=f"{named.title}\n{told}")
    heatmap(named, path, signed=signed, quantity=quantity, texts=texts)
    tell(f"wrote {path}: {named.title.partition(chr(10))[0]}")


def excerpt(named: Any, lines: int = LINES, picture: bool = False) -> str:
    """A NamedArray in about so many lines of a terminal: grids of two axes, one for each head."""
    import numpy as np

    from gpt2np.tables import wrapped

    axes, left_out = list(named.axes), dict[str, str]()
    if len(axes) < 2:
        body = _numbers(named, lines, left_out)
    elif len(axes) == 2:
        body = _grid(named, lines, left_out)[0]
    else:
        first = next((axes.index(axis) for axis in ("head", "kv_head") if axis in axes), 0)
        axis = axes.pop(first)
        labels = {name: entries for name, entries in named.labels.items() if name != axis}
        blocks = [type(named)(part, tuple(axes), labels) for part in np.moveaxis(named.array, first, 0)]
        shown = max(1, lines // (min(lines, len(blocks[0].array)) + 2))
        if shown < len(blocks):
            left_out[axis] = f"{shown} of {len(blocks)} {axis}s"
            blocks = blocks[:shown]
        columns = min(_grid(block, lines, left_out)[1] for block in blocks)  # the same in each
        grids = [_grid(block, lines, left_out, columns)[0] for block in blocks]
        body = "\n\n".join(f"{axis} {named.label(axis, i)}\n{grid}" for i, grid in enumerate(grids))
    all_of_it = "--json gives all" + (", --png FILE draws it" if picture else "")
    note = "\n" + wrapped(f"shown: {', '.join(left_out.values())}; {all_of_it}") if left_out else ""
    return f"{wrapped(named.title)}\n{body}{note}"


def _numbers(named: Any, lines: int, left_out: dict[str, str]) -> str:
    """One axis, or a single number: a line for each entry that has a name, else several to a line."""
    from gpt2np.analysis.named_array import POSITIONS
    from gpt2np.tables import cell_width, screen_width, table

    if not named.axes:
        return f"  {_cell(named.array.item())}"
    (axis,), n = named.axes, len(named.array)
    if axis in named.labels:
        shown = _chosen(named.array, axis, lines if axis in POSITIONS else min(lines, 20), left_out)
        rows = [[_name(named, axis, i), _cell(named.array[i].item())] if i >= 0 else ["…", ""] for i in shown]
        return table([[axis, "value"], *rows], "<>")
    text = ""
    for many in (8, 6, 4):  # to a line
        shown = _ends(-(-n // many), lines)
        rows = [[axis]]
        for i in shown:
            cells = [_cell(x.item()) for x in named.array[many * i : many * (i + 1)]]
            rows.append([str(many * i), *cells] if i >= 0 else ["…"])
        text = table([row + [""] * (many + 1 - len(row)) for row in rows], ">" * (many + 1))
        if max(map(cell_width, text.splitlines())) <= screen_width():
            break
    if -1 in shown:
        left_out[axis] = f"{many * (len(shown) - 1)} of {_many(axis, n)}"
    return text


def _grid(named: Any, lines: int, left_out: dict[str, str], most: int = 64) -> tuple[str, int]:
    """Two axes, positions down: whole, or what fits; and the number of its columns."""
    from gpt2np.analysis.positions_and_tokens import positions_down
    from gpt2np.tables import cell_width, table, whole_width

    named = positions_down(named)
    (down, across), n_columns = named.axes, named.array.shape[1]
    rows = _chosen(named.array, down, lines, left_out)

    def column(j: int) -> list[str]:
        return [("…" if j < 0 else _cell(named.array[i, j].item())) if i >= 0 else "" for i in rows]

    most = min(n_columns, most)
    cells = {j: column(j) for j in [-1, *_chosen(named.array[-1], across, most, {})]}  # all that may be shown
    widths = {j: max(map(cell_width, texts)) for j, texts in cells.items()}
    first = [f"{down}\\{across}", *(_name(named, down, i) if i >= 0 else "…" for i in rows)]
    for n, short in itertools.product(range(most, 0, -1), (False, True)):
        ignored: dict[str, str] = {}
        columns = _chosen(named.array[-1], across, n, ignored)
        head = [_name(named, across, j, short) if j >= 0 else "…" for j in columns]
        wide = sum(2 + max(cell_width(printable(x)), widths[j]) for x, j in zip(head, columns, strict=True))
        if 2 + max(map(cell_width, first)) + wide <= whole_width():
            break
    if "vocab" in ignored and rows[-1] > 0:
        ignored["vocab"] += f" at {DOWN.get(down, down)} {_name(named, down, rows[-1])}"
    left_out.update(ignored)
    body = [first, *([x, *cells[j]] for x, j in zip(head, columns, strict=True))]
    return table(list(zip(*body, strict=True)), "<" + ">" * len(columns)), n


def _chosen(array: Any, axis: str, most: int, left_out: dict[str, str]) -> list[int]:
    """Indices to show, -1 for a gap: the first and last; of the vocabulary the largest, downwards."""
    import numpy as np

    n = array.shape[0]
    if axis == "vocab" and array.ndim == 1:
        order = np.argsort(-array, kind="stable")[:most].tolist()
        if n > most:
            left_out[axis] = f"the {most} largest of {_many(axis, n)}"
        return [int(i) for i in order]
    if n > most:
        left_out[axis] = f"{most} of {_many(axis, n)}"
    return _ends(n, most)


def _many(axis: str, n: int) -> str:
    """So many entries along an axis, in words."""
    return f"{n:,} {PLURALS.get(axis, axis)}"


def _ends(n: int, most: int) -> list[int]:
    """0 to n - 1, or the first and last of them with -1 in between."""
    if n <= most:
        return list(range(n))
    return [*range((most + 1) // 2), -1, *range(n - most // 2, n)]


def _name(named: Any, axis: str, index: int, short: bool = False) -> str:
    """The name of an entry; a short one of a position is its number."""
    from gpt2np.analysis.named_array import POSITIONS
    from gpt2np.tables import quoted

    label: str = named.label(axis, index)
    if axis == "vocab" and axis in named.labels:
        return quoted(label, 10 if short else 20)
    return label.split(" ")[0] if short and axis in POSITIONS else label


def _cell(value: float) -> str:
    from gpt2np.tables import number

    return str(value) if isinstance(value, int) else number(value)
