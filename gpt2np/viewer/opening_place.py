"""Where a page opens: its panel, and the layer, head and position that are chosen there."""

from urllib.parse import urlencode

from gpt2np.errors import InputError, nearest, short, whole_number
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.page_data import sizes_of

PANELS = tuple("map attention lens contributions mlp residual weights against generation glossary".split())
COMPACT = ("map", "attention", "glossary")  # of a compact page
LIVE_PANELS = tuple(
    "map attention lens contributions mlp residual generation changes glossary".split()
)  # of a live page


def opening_place(
    trace: Trace,
    panels: tuple[str, ...],
    show: str | None,
    layer: int | None,
    head: int | None,
    pos: int | None,
    big: bool = False,
) -> str:
    """Return the state that a page of a trace begins with, as its address has it; empty where none is given.

    Negative numbers count from the end; `big` is the size for a projector.

    Raises:
        InputError: there is no such panel, layer, head or position.
    """
    chosen: dict[str, str | int] = {}
    if show is not None:
        chosen["panel"] = _panel(show, panels)
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


def _panel(show: str, panels: tuple[str, ...]) -> str:
    """A panel by its name."""
    if show in panels:
        return show
    meant = nearest(show, panels) if isinstance(show, str) else None
    told = f"did you mean {meant!r}?" if meant else f"there are {', '.join(panels)}"
    raise InputError(f"show={short(show)}: this page has no such panel; {told}")
