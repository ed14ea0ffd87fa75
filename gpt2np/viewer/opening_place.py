"""Where a page opens: its panel, and the layer, head and position that are chosen there."""

from collections.abc import Mapping
from urllib.parse import urlencode

from gpt2np.errors import InputError, nearest, short, whole_number
from gpt2np.generation.generated import Generated
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.page_data import sizes_of
from gpt2np.viewer.page_facts import has_choices

PANELS = tuple("map attention lens contributions mlp residual weights against generation glossary".split())
COMPACT = ("map", "attention", "glossary")  # of a compact page
LIVE_PANELS = tuple(
    "map attention lens contributions mlp residual changes glossary".split()
)  # of a live page

# Why a page lacks a panel that others have, and what to do.
LACKS = {
    "generation": "nothing was generated, which generate(..., max_new_tokens=30) does",
    "against": "there is no second run, which against=OTHER adds",
    "changes": "the live page has it, `gpt2np view --live`",
}
LIVE_LACKS = {
    "generation": "the page has it once something was generated there, by its button Generate",
    "weights": "the page of a run has it, `gpt2np view TEXT`",
    "against": "type or swap on the page, and the panel 'changes' holds both texts against each other",
}


def panels_of(run: Trace | Generated, compact: bool, two: bool) -> tuple[str, ...]:
    """The panels that the page of a run has; with `two` it is held against another."""
    if compact:
        return COMPACT
    lacks = {"against": not two, "generation": not has_choices(run)}
    return tuple(panel for panel in PANELS if not lacks.get(panel))


def opening_place(
    trace: Trace,
    panels: tuple[str, ...],
    show: str | None,
    layer: int | None,
    head: int | None,
    pos: int | None,
    big: bool = False,
    *,
    lacks: Mapping[str, str] = LACKS,
) -> str:
    """Return the state that a page of a trace begins with, as its address has it; empty where none is given.

    Negative numbers count from the end; `big` is the size for a projector. `lacks` says of panels that are
    none of `panels` why.

    Raises:
        InputError: there is no such panel, layer, head or position.
    """
    chosen: dict[str, str | int] = {}
    if show is not None:
        chosen["panel"] = _panel(show, panels, lacks)
    sizes = sizes_of(trace)
    numbers = {
        "layer": (layer, sizes.layers),
        "head": (head, trace.config.n_head),
        "pos": (pos, sizes.tokens),
    }
    for name, (given, n) in numbers.items():
        if given is not None:
            number = whole_number(name, given, -n, n - 1)
            chosen[name] = number % n
    if big:
        chosen["big"] = 1
    return urlencode(chosen)


def _panel(show: str, panels: tuple[str, ...], lacks: Mapping[str, str]) -> str:
    """A panel by its name."""
    if show in panels:
        return show
    there_are = f"there are {', '.join(panels)}"
    if isinstance(show, str) and show in lacks and panels != COMPACT:
        raise InputError(f"show={short(show)}: this page has no such panel: {lacks[show]}; {there_are}")
    meant = nearest(show, panels) if isinstance(show, str) else None
    told = f"did you mean {meant!r}?" if meant else there_are
    raise InputError(f"show={short(show)}: this page has no such panel; {told}")
