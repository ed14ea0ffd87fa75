"""What the page says beside each part of a model, and the line of its forward pass that computes it.

A model may have a module of such texts here (`_MODULES`); of one that has none the page shows what its table
of sites says.
"""

import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import block_input
from gpt2np.tracing.lines import Line, lines
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import OUTPUTS, Sizes

# Modules with `parts(config)`, `UNSHOWN` for what only a comparison names, and `LAYERS` if layers are of two
# kinds: what those are called that look only so far back, and the others. By model_type.
_MODULES = {
    "gpt2": "gpt2np.viewer.parts_of_gpt2",
    "gpt_neo": "gpt2np.viewer.parts_of_gpt_neo",
    "gemma2": "gpt2np.viewer.parts_of_gemma2",
}


@dataclass(frozen=True)
class Part:
    """One part: its site, a title, how it is computed, and what it is for.

    `brief` is the formula as it stands beside the vector in the map. `computed_by` is the site whose line
    computes it, if that is another one.
    """

    site: str
    title: str
    brief: str
    formula: str
    text: str
    computed_by: str = ""


class CodeLine(NamedTuple):
    """A line of a forward pass: its file from the package's parent on, its function, number and text."""

    file: str
    function: str
    number: int
    text: str


def parts_of(config: ModelConfig) -> tuple[Part, ...]:
    """The parts of a model that its page shows, in the order of execution."""
    module = _MODULES.get(config.architecture.model_type)
    if module is not None:
        parts: tuple[Part, ...] = importlib.import_module(module).parts(config)
        return parts
    table, derived, every = config.architecture.sites, config.architecture.derived, lines(config)
    shown = [
        site
        for site in table
        if not site.derived or derived[site.name].view is not None or site.name == OUTPUTS
    ]
    return tuple(_part_of_table(site, every.get(site.full_name(0))) for site in shown)


def kinds_of_layers(config: ModelConfig) -> tuple[str, str]:
    """What a model's layers are called that look only so far back, and what the others are."""
    module = _MODULES.get(config.architecture.model_type)
    kinds: tuple[str, str] = ("local", "global")
    return kinds if module is None else getattr(importlib.import_module(module), "LAYERS", kinds)


def _part_of_table(site: Site, line: Line | None) -> Part:
    """What the table of sites and the forward pass say of a site: its name, operation and sentence."""
    formula = "" if line is None else _formula(line, site.layered)
    return Part(site.name, site.name, formula, formula, site.doc, "attn.out" if site.name == OUTPUTS else "")


def part_named(config: ModelConfig, site: str) -> Part | None:
    """The part of a site, be it shown on a page or not; None where there is none."""
    module = _MODULES.get(config.architecture.model_type)
    unshown: tuple[Part, ...] = () if module is None else importlib.import_module(module).UNSHOWN
    return next((part for part in (*parts_of(config), *unshown) if part.site == site), None)


def part_table(trace: Trace, sizes: Sizes) -> list[dict[str, Any]]:
    """Every part for the page: texts, shape in names and numbers, and the line of code."""
    numbers = trace.plan.sizes() | dict.fromkeys(("pos", "query", "key"), sizes.tokens)
    found, table = code_lines(trace.config), []
    for part in parts_of(trace.config):
        site, code = trace.config.architecture.sites[part.site], found[part.computed_by or part.site]
        table.append(
            {
                "site": part.site,
                "layered": site.layered,
                "title": part.title,
                "brief": part.brief,
                "formula": part.formula,
                "text": part.text,
                "axes": site.axis_names,
                "shape": [numbers[axis] for axis in site.axis_names],
                "file": code.file,
                "line": code.number,
                "function": code.function,
                "code": code.text,
            }
        )
    return table


def code_lines(config: ModelConfig) -> dict[str, CodeLine]:
    """The line of the forward pass that computes each site, by the site's name."""
    names = {site.full_name(0): site.name for site in config.architecture.sites}
    sources: dict[str, list[str]] = {}
    found = {}
    for full_name, line in lines(config).items():
        if full_name not in names:
            continue  # of a later layer
        module, function, number = line.code
        if module not in sources:
            sources[module] = inspect.getsource(sys.modules[module]).splitlines()
        file = module.replace(".", "/") + ".py"
        found[names[full_name]] = CodeLine(file, function, number, sources[module][number - 1].strip())
    return found


def _formula(line: Line, layered: bool) -> str:
    """A line as a formula: its operation, of what, as in any layer."""
    names = [name for name in line.reads if name is not None]
    names = ["resid_pre" if layered and name == block_input(0, 0) else name for name in names]
    given = ", ".join(re.sub(r"^h\.\d+\.", "", name) for name in names)
    operation = getattr(line.op, "__name__", "")
    return f"{operation}({given})" if given else operation
