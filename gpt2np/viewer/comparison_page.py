"""The report of `gpt2np compare` as a page of its own, in the same style as the view of a run."""

import re
from collections.abc import Mapping
from typing import Any

from gpt2np.tracing.sites import SITES
from gpt2np.viewer.packing import pack
from gpt2np.viewer.page import document
from gpt2np.viewer.parts_of_gpt2 import CODE_FILE, PARTS, code_lines

MODULES = ("run_data", "drawing", "comparison_report")
VERDICTS = {"within-noise": "within noise", "suspicious": "suspicious", "wrong": "wrong"}
IN_LAYER = re.compile(r"^h\.(\d+)\.(.+)$")


def comparison_page(report: Mapping[str, Any]) -> str:
    """One HTML page of the dictionary that `gpt2np compare --json` prints.

    It shows the verdict, the first step that is wrong with its line of code, the mistake that fits
    and its cure, and a map of every site, layers across and steps down, coloured by error over noise.
    """
    rows = [_row(site) for site in report.get("sites", ())]
    order = [site.name for site in SITES]
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
        "unknown": [str(name) for name in report.get("unknown") or ()],
        "refused": [f"{each['name']}: {each['reason']}" for each in report.get("refused") or ()],
        "rows": rows,
        "steps": [
            {"name": step, "layered": any(r["layer"] is not None for r in rows if r["step"] == step)}
            for step in steps
        ],
        "layers": 1 + max((row["layer"] for row in rows if row["layer"] is not None), default=-1),
        "line": _line(report.get("site")),
    }
    title = f"{facts['said']} · gpt2np compare"
    return document(title, pack(facts, {}), modules=MODULES)


def _row(site: Mapping[str, Any]) -> dict[str, Any]:
    """One site: its layer and step, and what was measured."""
    name = str(site["site"])
    inside = IN_LAYER.match(name)
    kept = ("verdict", "ratio", "error", "band", "position", "pattern", "name", "layout", "dtype")
    row: dict[str, Any] = {key: site.get(key) for key in kept}
    row |= {"heads": list(site.get("heads") or ()), "notes": [str(note) for note in site.get("notes") or ()]}
    layer, step = (int(inside[1]), inside[2]) if inside else (None, name)
    return row | {"site": name, "layer": layer, "step": step}


def _plain(candidate: Any) -> dict[str, Any]:
    """A candidate as a dictionary; one that is only a slug too."""
    return dict(candidate) if isinstance(candidate, Mapping) else {"mistake": str(candidate)}


def _line(site: Any) -> dict[str, Any] | None:
    """Title, formula and line of code of the step that computes a site, where it is one of the map's."""
    if not isinstance(site, str):
        return None
    inside = IN_LAYER.match(site)
    step = inside[2] if inside else site
    for part in PARTS:
        if part.site == step or (step == "attn.qkv" and part.site == "attn.q"):
            line, code = code_lines()[part.function, "qkv" if step == "attn.qkv" else part.step]
            title = "Queries, keys and values" if step == "attn.qkv" else part.title
            return {"title": title, "formula": part.formula, "file": CODE_FILE, "line": line, "code": code}
    return None
