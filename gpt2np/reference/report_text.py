"""A comparison as text for people: the verdict, where it parts, why, and a map of all sites."""

import math
import textwrap
from collections.abc import Iterable

from gpt2np.errors import printable
from gpt2np.reference.comparison import Comparison, SiteReport
from gpt2np.reference.mistakes import KNOWN
from gpt2np.tables import WIDTH, number, table
from gpt2np.tracing.contract import find
from gpt2np.tracing.sites import SiteTable

_MARKS = {"within-noise": ".", "suspicious": "?", "wrong": "X"}


def text(found: Comparison) -> str:
    """The report of `gpt2np compare`."""
    parts = [_headline(found)]
    if found.first is not None:
        parts.append(_where(found, found.first))
        if find(found.model_type).catalogue:
            parts.append(_why(found))
    parts.append(_map(found.sites, find(found.model_type).sites))
    parts += _remarks(found)
    lines = "\n\n".join(parts).split("\n")
    return "\n".join(map(printable, lines))  # names are those of a file, which may hold anything


def catalogue() -> str:
    """Every known mistake, one a paragraph: its slug, what it is, its cure."""
    return "\n".join(f"{m.slug}\n{_wrapped(m.explanation)}\n{_wrapped(m.cure)}" for m in KNOWN)


def catalogue_markdown() -> str:
    """The same as a table for the documentation."""
    rows = ["| slug | steps | what it is | cure |", "| --- | --- | --- | --- |"]
    for m in KNOWN:
        steps = ", ".join(f"`{step}`" for step in m.steps)
        rows.append(f"| `{m.slug}` | {steps} | {_cell(m.explanation)} | {_cell(m.cure)} |")
    return "\n".join(rows)


def _cell(sentence: str) -> str:
    return sentence.replace("|", "\\|")


def _headline(found: Comparison) -> str:
    n = len(found.sites)
    arrays = f"{n} site{'s' if n > 1 else ''}"
    tokens = f"{len(found.token_ids)} token{'s' if len(found.token_ids) > 1 else ''}"
    verdict = "within noise" if found.verdict == "within-noise" else found.verdict
    line = f"{verdict}: {arrays} of {tokens} against {found.model}"
    if found.first is not None:
        return line
    worst = max(found.sites, key=lambda report: report.measure.ratio)
    return f"{line}\nthe largest error, in {worst.site}, takes {worst.measure.ratio:.0%} of its noise band"


def _where(found: Comparison, first: SiteReport) -> str:
    m = first.measure
    rows = [["first outside", f"{first.site}, yours is {first.name} {first.layout}".rstrip()]]
    kind = first.site.split(".", 2)[2] if first.layer is not None else first.site
    rows.append(["what it is", find(found.model_type).sites[kind].doc])
    if m.position is not None:
        head = "" if found.head is None else f", head {found.head}"
        rows.append(["from", f"position {m.position}{head}"])
    if math.isfinite(m.error):
        error = f"{m.error:.3g}; noise explains {m.band:.3g}: {number(m.ratio)} times that"
        rows.append(["error", error])
    rows.append(["pattern", m.pattern])
    return "\n".join(f"{name:<15}{_wrapped(line, 15).lstrip()}" for name, line in rows)


def _why(found: Comparison) -> str:
    if not found.candidates:
        return "mistake        none of the catalogue explains it (gpt2np compare --mistakes lists them)"
    best, others = found.candidates[0], found.candidates[1:]
    explanation = best.explanation + (f" Here: {best.detail}." if best.detail else "")
    rows = [["mistake", best.slug], ["", explanation], ["cure", best.cure]]
    if others:
        rows.append(["fits as well", ", ".join(c.slug for c in others)])
    return "\n".join(f"{name:<15}{_wrapped(line, 15).lstrip()}" for name, line in rows)


def _map(sites: Iterable[SiteReport], table_of_model: SiteTable) -> str:
    """Layers down, sites across, in the order of execution: a mark for each array of the dump."""
    layered: dict[str, dict[int, str]] = {}
    single, n_layer = [], 0
    for report in sites:
        mark = _MARKS[report.verdict]
        if report.layer is None:
            single.append(f"{report.site} {mark}")
        else:
            layered.setdefault(report.site.split(".", 2)[2], {})[report.layer] = mark
            n_layer = max(n_layer, report.layer + 1)
    lines = []
    if single:
        lines.append(_wrapped("  ".join(single), 2))
    if layered:
        kinds = [kind for kind in table_of_model.by_name if kind in layered]
        head = ["layer", *(str(layer) for layer in range(n_layer))]
        rows = [[kind, *(layered[kind].get(layer, " ") for layer in range(n_layer))] for kind in kinds]
        lines.append(table([head, *rows], "<" + ">" * n_layer))
    return "\n".join([". within noise  ? suspicious  X wrong", *lines])


def _remarks(found: Comparison) -> list[str]:
    """What was undone or left out when the dump was laid out."""
    parts = []
    laid_out: dict[str, list[str]] = {}
    for report in found.sites:
        for note in report.notes:
            laid_out.setdefault(note, []).append(report.name)
    notes = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in laid_out.items()
    ]
    notes += found.notes
    if notes:
        parts.append("notes\n" + "\n".join(_wrapped(note) for note in notes))
    if found.refused:
        lines = (_wrapped(f"{name}: {reason}") for name, reason in found.refused)
        parts.append("not compared\n" + "\n".join(lines))
    if found.unknown:
        names = ", ".join(found.unknown[:12]) + (" ..." if len(found.unknown) > 12 else "")
        parts.append(f"names of no site ({len(found.unknown)}; --map THEIRS=OURS)\n{_wrapped(names)}")
    return parts


def _wrapped(line: str, indent: int = 2) -> str:
    space = " " * indent
    return textwrap.fill(line, WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False)
