"""A comparison as text for people: the verdict, where it parts, why, and a map of all sites."""

import math
import textwrap
from collections.abc import Iterable

from gpt2np.errors import printable
from gpt2np.reference.comparison import Comparison
from gpt2np.reference.judgement import SiteReport
from gpt2np.reference.mistakes import KNOWN
from gpt2np.reference.placement import ALSO
from gpt2np.tables import fitted, number, screen_width
from gpt2np.tracing.contract import find
from gpt2np.tracing.sites import SiteTable

_SHOWN = 12  # names of no site
_AGAIN = 4  # arrays that are there twice, until they are only counted
_MARKS = {"within-noise": ".", "suspicious": "?", "wrong": "X"}


def text(found: Comparison) -> str:
    """The report of `gpt2np compare`."""
    parts = [_headline(found)]
    if found.first is not None:
        parts.append(_where(found, found.first))
        if not found.first.excused:
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
    verdict = {"within-noise": "within noise", "incomplete": "not all compared"}.get(
        found.verdict, found.verdict
    )
    line = f"{verdict}: {_extent(found)} {_counted(len(found.token_ids), 'token')} against {found.model}"
    line = _wrapped(line, 0)
    if found.first is not None:
        return line
    worst = max(found.sites, key=lambda report: report.measure.ratio)
    rest = "all others are within noise: " if found.unusable else ""
    error = f"{rest}the largest error, in {worst.site}, takes {worst.measure.ratio:.0%} of its noise band"
    return f"{line}\n{_wrapped(error, 0)}"


def _extent(found: Comparison) -> str:
    """How much of the dump the verdict is about."""
    there = [report.name for report in found.sites]
    refused = {name for name, _ in found.refused}
    refused -= {name for name in refused if any(n == name or n.startswith(f"{name}[") for n in there)}
    unusable = refused.intersection(found.unusable)
    if not found.unknown and not refused:
        return f"{_counted(len(found.sites), 'site')} of"
    left = [
        f"{len(unusable)} not usable" if unusable else "",
        f"{len(refused - unusable)} not compared" if refused - unusable else "",
        _counted(len(found.unknown), "unknown name") if found.unknown else "",
    ]
    used = found.n_arrays - len(refused) - len(found.unknown)
    return f"{used} of {_counted(found.n_arrays, 'array')}, {', '.join(filter(None, left))};"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


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
    return "\n".join(_row(*row) for row in rows)


def _why(found: Comparison) -> str:
    ended = "" if found.searched is None else f"{found.searched:g} s"
    if ended and not found.candidates:
        return _row("mistake", f"no mistake found in {ended} (--search 0 tries all, however long)")
    if not found.candidates and found.first is not None and found.first.unused:
        return _row("mistake", "what follows is right: this array was recorded wrongly, or changed after use")
    if not found.candidates:
        lists = "gpt2np compare --mistakes lists them"
        return _row("mistake", f"none of the catalogue explains it ({lists})")
    best, others = found.candidates[0], found.candidates[1:]
    explanation = best.explanation + (f" Here: {best.detail}." if best.detail else "")
    rows = [["mistake", best.slug], ["", explanation], ["cure", best.cure]]
    if others:
        rows.append(["fits as well", ", ".join(c.slug for c in others)])
    if ended:
        rows.append(["search", f"ended after {ended}, before all had been tried: another may fit as well"])
    return "\n".join(_row(*row) for row in rows)


def _row(name: str, line: str) -> str:
    """What a line is about, and beside it what is said, as wide as the screen."""
    return f"{name:<15}{_wrapped(line, 15).lstrip()}"


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
    lines, blank = [], ""
    if single:
        lines.append(_wrapped("  ".join(single), 2))
    if layered:
        kinds = [kind for kind in table_of_model.by_name if kind in layered]
        head = ["layer", *(str(layer) for layer in range(n_layer))]
        rows = [[kind, *(layered[kind].get(layer, " ") for layer in range(n_layer))] for kind in kinds]
        lines.append(fitted([head, *rows], "<" + ">" * n_layer))
        blank = "  (blank: not compared)" if any(" " in row for row in rows) else ""
    return "\n".join([f". within noise  ? suspicious  X wrong{blank}", *lines])


def _remarks(found: Comparison) -> list[str]:
    """What was undone or left out when the dump was laid out."""
    parts = []
    if notes := [*_notes(found), *found.notes]:
        parts.append("notes\n" + "\n".join(_wrapped(note) for note in notes))
    if found.refused:
        lines = (_wrapped(f"{name}: {reason}") for name, reason in found.refused)
        parts.append("not compared\n" + "\n".join(lines))
    if found.unknown:
        shown = found.offers[:_SHOWN] or found.unknown[:_SHOWN]
        names = [_wrapped(line) for line in shown] + ["  ..."] * (len(found.unknown) > len(shown))
        parts.append(f"names of no site ({len(found.unknown)}; --map THEIRS=OURS)\n" + "\n".join(names))
    return parts


def _notes(found: Comparison) -> list[str]:
    """The notes of the arrays, each once, with the names that it is about."""
    about: dict[str, list[str]] = {}
    for report in found.sites:
        for note in report.notes:
            about.setdefault(note, []).append(report.name)
    again = [note for note in about if note.startswith(ALSO)]
    lines = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in about.items()
        if len(again) <= _AGAIN or note not in again
    ]
    if len(again) > _AGAIN:
        first = again[0].removeprefix(ALSO)
        lines.append(
            f"{len(again)} arrays are there twice: {about[again[0]][0]} is {first.strip()}, and so on"
        )
    return lines


def _wrapped(line: str, indent: int = 2) -> str:
    space = " " * indent
    return textwrap.fill(
        line,
        screen_width(),
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )
