"""The report of `gpt2np compare` as a page of its own, in the same style as the view of a run."""

import re
from collections.abc import Mapping
from typing import Any

from gpt2np.tracing.contract import ModelConfig, find
from gpt2np.viewer.model_parts import code_lines, part_named
from gpt2np.viewer.packing import pack
from gpt2np.viewer.page import document

MODULES = ("run_data", "drawing", "comparison_report")
VERDICTS = {
    "within-noise": "within noise",
    "incomplete": "not all compared",
    "suspicious": "suspicious",
    "wrong": "wrong",
}
IN_LAYER = re.compile(r"^h\.(\d+)\.(.+)$")


def comparison_page(report: Mapping[str, Any]) -> str:
    """Return the HTML page for the dictionary that `gpt2np compare --json` prints.

    It shows the verdict, the first step that is wrong with its line of code, the mistake that fits
    and its cure, and a map of every site, layers across and steps down, coloured by error over noise.
    """
    rows = [_row(site) for site in report.get("sites", ())]
    architecture = find(report.get("model_type", "gpt2"))
    order = [site.name for site in architecture.sites]
    steps = sorted({row["step"] for row in rows}, key=lambda s: order.index(s) if s in order else len(order))
    facts = {
        key: report.get(key)
        for key in (
            "verdict",
            "site",
            "layer",
            "head",
            "position",
            "mistake",
            "explanation",
            "cure",
            "detail",
        )
    }
    facts |= {key: report.get(key) for key in ("pattern", "model", "source")}
    facts |= {
        "said": VERDICTS.get(str(report.get("verdict")), str(report.get("verdict"))),
        "candidates": [_plain(candidate) for candidate in report.get("candidates") or ()],
        "notes": [str(note) for note in report.get("notes") or ()],
        "unknown": [str(name) for name in report.get("offers") or report.get("unknown") or ()],
        "refused": [f"{each['name']}: {each['reason']}" for each in report.get("refused") or ()],
        "rows": rows,
        "steps": [
            {"name": step, "layered": any(r["layer"] is not None for r in rows if r["step"] == step)}
            for step in steps
        ],
        "layers": 1 + max((row["layer"] for row in rows if row["layer"] is not None), default=-1),
        "excused": bool(report.get("excused")),
        "unused": bool(report.get("unused")),
        "ended": report.get("search_ended_after"),
        "line": _line(report.get("site"), architecture.config()),
    }
    title = f"{facts['said']} · gpt2np compare"
    return document(title, pack(facts, {}), modules=MODULES)


def _row(site: Mapping[str, Any]) -> dict[str, Any]:
    """One site: its layer and step, and what was measured."""
    name = str(site["site"])
    inside = IN_LAYER.match(name)
    kept = ("verdict", "ratio", "error", "band", "position", "pattern", "name", "layout", "dtype", "excused")
    row: dict[str, Any] = {key: site.get(key) for key in kept}
    row |= {"heads": list(site.get("heads") or ()), "notes": [str(note) for note in site.get("notes") or ()]}
    layer, step = (int(inside[1]), inside[2]) if inside else (None, name)
    return row | {"site": name, "layer": layer, "step": step}


def _plain(candidate: Any) -> dict[str, Any]:
    """A candidate as a dictionary; one that is only a slug too."""
    return dict(candidate) if isinstance(candidate, Mapping) else {"mistake": str(candidate)}


def _line(site: Any, config: ModelConfig) -> dict[str, Any] | None:
    """Title, formula and line of code of the step that computes a site, where it is a part of the model."""
    if not isinstance(site, str):
        return None
    inside = IN_LAYER.match(site)
    step = inside[2] if inside else site
    part = part_named(config, step)
    if part is None:
        return None
    code = code_lines(config)[part.computed_by or part.site]
    told = {"title": part.title, "formula": part.formula}
    return told | {"file": code.file, "line": code.number, "code": code.text}
