"""What arrays of unknown names may be: a site with their values, or the sites of their shape."""

from typing import NamedTuple

from gpt2np.errors import Gpt2npError
from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import Layout, layouts
from gpt2np.reference.dump_names import Names
from gpt2np.reference.layout_choice import AGREES, likeness
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

_MOST = 3  # sites that are named where only the shape tells


class Unknown(NamedTuple):
    """An array whose name is known to no program: the sites that it may be, the likeliest first.

    `by_values` if it has the values of the first of them; else they are those of its shape. `nearest` is the
    known name of which its own may be a misspelling.
    """

    name: str
    shape: tuple[int, ...]
    sites: tuple[str, ...] = ()
    by_values: bool = False
    nearest: str = ""

    def __str__(self) -> str:
        shown = f"{self.name} {list(self.shape)}"
        if self.by_values:
            return f"{shown} has the values of {self.sites[0]}"
        if self.nearest:
            return f"{shown}, nearly {self.nearest}"
        some = ", ".join(self.sites[:_MOST]) + (", ..." if len(self.sites) > _MOST else "")
        return f"{shown}, by its shape {some}" if self.sites else shown


def unknown(name: str, array: Array, truth: Trace, config: ModelConfig, names: Names) -> Unknown:
    """What an array may be, by its values, by its name or by its shape."""
    length = len(truth["embed"])
    of_shape: list[str] = []
    nearest, least = "", AGREES
    if array.dtype.kind != "f" or array.ndim < 2:
        return Unknown(name, array.shape, nearest=names.nearest(name))
    for full_name, site, layer in config.architecture.sites.expand(config.n_layer):
        able = [x for x in layouts(site, array.shape, config, length) if _is_plain(x, length)]
        if not able or site.dtype is not None:
            continue
        if layer in (None, 0):
            of_shape.append(full_name)
        try:
            right = truth[full_name]
        except Gpt2npError:
            continue
        window = None if layer is None else config.window(layer)
        for layout in able:
            error = likeness(site, layout.undo(array, config.vocab_size), right, window).error
            if error < least:
                nearest, least = full_name, error
    sites = (nearest,) if nearest else tuple(of_shape)
    return Unknown(name, array.shape, sites, bool(nearest), names.nearest(name))


def _is_plain(layout: Layout, length: int) -> bool:
    return layout.rows == length and ("batch",) not in layout.groups
