"""What a dialect is made of: names of arrays and of groups of them, and forms in which arrays are laid out.

Every dialect is a `Naming`: its arrays one by one (`items`), and its names for several of them (`groups`), as
HF's `attentions` is a tuple of one array a layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.sites import Site


@dataclass(frozen=True)
class Form:
    """How a dialect lays out the array of a site; `back` undoes it exactly, or is None.

    Both work on the last axes, so that an axis of layers may stand in front of them.
    """

    to: Callable[[Array, Plan], Array]
    back: Callable[[Array, Plan], Array] | None
    axes: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda of_site: of_site
    first: Callable[[Plan], int] = lambda plan: 0  # the first position of the text that there is


SAME = Form(lambda x, _: x, lambda x, _: x)
HEADS_FIRST = Form(  # those of keys and values, which may be fewer than those of queries
    lambda x, _: x.swapaxes(-3, -2),
    lambda x, _: x.swapaxes(-3, -2),
    lambda of_site: (*of_site[1::-1], *of_site[2:]),
)
MERGED_HEADS = Form(  # all heads side by side, as the output matrix reads them
    lambda x, _: x.reshape(*x.shape[:-2], -1),
    lambda x, plan: x.reshape(*x.shape[:-1], plan.config.n_head, plan.config.d_head),
    lambda _: ("pos", "n_embd"),
)
COLUMN = Form(lambda x, _: x[..., None], lambda x, _: x[..., 0], lambda of_site: (*of_site, "1"))
STANDARD_DEVIATION = Form(lambda x, _: 1 / x[..., None], None, COLUMN.axes)  # of 1 / deviation


@dataclass(frozen=True)
class Item:
    """One array of a dialect: the site that it shows, of one layer or stacked over all of them, and how."""

    name: str
    site: Site
    layer: int | None = None
    form: Form = SAME
    batch: bool = False  # whether an axis of length 1 stands for the batch
    stacked: bool = False
    again: bool = False  # whether the dialect has the same array under another name, which is listed

    def axes(self) -> tuple[str, ...]:
        """Names of its axes: `("layer", "batch", "pos", "n_embd")`."""
        lead = ("layer",) * self.stacked + ("batch",) * self.batch
        return lead + self.form.axes(self.site.axis_names)

    def shape(self, plan: Plan) -> tuple[int, ...]:
        """Its shape in a trace of this plan."""
        sizes = plan.sizes() | {"layer": plan.config.n_layer, "batch": 1, "1": 1}
        sizes["pos"] = len(self._positions(plan))
        return tuple(sizes[axis] for axis in self.axes())

    def _positions(self, plan: Plan) -> list[int]:
        """Those of a plan that it shows."""
        return [position for position in plan.positions if position >= self.form.first(plan)]

    def sources(self, config: ModelConfig) -> list[tuple[str, Site, int | None]]:
        """The sites that it shows: (full name, site, layer), several if it is stacked."""
        layers = range(config.n_layer) if self.stacked else [self.layer]
        return [(self.site.full_name(layer), self.site, layer) for layer in layers]

    def from_trace(self, x: Array, plan: Plan) -> Array:
        """The array in the dialect's form, from a site or from a stack of it."""
        x = self.form.to(x, plan)
        return np.expand_dims(x, int(self.stacked)) if self.batch else x

    def to_trace(self, x: Array, plan: Plan) -> Iterator[tuple[str, Array]]:
        """Full name and array of the sites that it shows; none where the form cannot be undone."""
        if self.form.back is not None:
            if len(self._positions(plan)) < len(plan.positions):
                return  # what was before is not there
            x = self.form.back(x[:, 0] if self.batch and self.stacked else x[0] if self.batch else x, plan)
            for i, (name, _, _) in enumerate(self.sources(plan.config)):
                yield name, x[i] if self.stacked else x


@dataclass
class Naming:
    """The names of a dialect for one model.

    A group is a tuple of item names, or of tuples of them. `aliases` are further names of items, `facts` what
    comes from the tokens alone.
    """

    items: dict[str, Item] = field(default_factory=dict)
    groups: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def add(self, *items: Item) -> tuple[str, ...]:
        """Add items; returns their names, ready to be a group."""
        self.items |= {item.name: item for item in items}
        return tuple(item.name for item in items)
