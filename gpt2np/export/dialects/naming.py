"""How other programs name and lay out what a trace holds: each dialect, derived from the table of sites.

Every dialect is a `Naming`: its arrays one by one (`items`), and its names for several of them (`groups`), as
HF's `attentions` is a tuple of one array a layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.config import Config
from gpt2np.errors import InputError
from gpt2np.ops import Array
from gpt2np.plan import Plan
from gpt2np.sites import BY_NAME, SITES, Site, expand


@dataclass(frozen=True)
class Form:
    """How a dialect lays out the array of a site; `back` undoes it exactly, or is None.

    Both work on the last axes, so that an axis of layers may stand in front of them.
    """

    to: Callable[[Array, Plan], Array]
    back: Callable[[Array, Plan], Array] | None
    axes: tuple[str, ...] | None = None  # None: those of the site


def future(plan: Plan) -> Array:
    """Where the key comes after the query: bool [query, key]."""
    return np.asarray(np.arange(plan.length) > np.array(plan.positions)[:, None])


def _split_heads(x: Array, plan: Plan) -> Array:
    return x.reshape(*x.shape[:-1], plan.config.n_head, plan.config.d_head)


SAME = Form(lambda x, _: x, lambda x, _: x)
HEADS_FIRST = Form(
    lambda x, _: x.swapaxes(-3, -2), lambda x, _: x.swapaxes(-3, -2), ("head", "pos", "d_head")
)
MERGED_HEADS = Form(lambda x, _: x.reshape(*x.shape[:-2], -1), _split_heads, ("pos", "n_embd"))
STANDARD_DEVIATION = Form(lambda x, _: 1 / x[..., None], None, ("pos", "1"))  # of 1 / deviation
ZERO_FUTURE = Form(
    lambda x, plan: np.where(future(plan), x.dtype.type(0), x),
    lambda x, plan: np.where(future(plan), x.dtype.type(-np.inf), x),
)


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
        return lead + (self.form.axes or self.site.axis_names)

    def shape(self, plan: Plan) -> tuple[int, ...]:
        """Its shape in a trace of this plan."""
        sizes = plan.sizes() | {"layer": plan.config.n_layer, "batch": 1, "1": 1}
        return tuple(sizes[axis] for axis in self.axes())

    def sources(self, config: Config) -> list[tuple[str, Site, int | None]]:
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


def _own(config: Config) -> Naming:
    """The names of the table itself."""
    naming = Naming()
    naming.add(*(Item(name, site, layer) for name, site, layer in expand(config.n_layer)))
    return naming


def _guide(config: Config) -> Naming:
    """The extraction guide: the names of its summary table, and those that its hooks give to one layer."""
    naming = Naming(
        facts={
            "token_ids": lambda trace: np.array(trace.token_ids, np.int64),
            "tokens": lambda trace: trace.tokens,
            "attention_mask": lambda trace: np.ones(trace.plan.length, np.int64),
            "position_ids": lambda trace: np.arange(trace.plan.length),
        }
    )
    layers = range(config.n_layer)
    for site in SITES:
        names = site.names.get("guide", ())
        hook = next((name for name in names if "{i}" in name), None)
        if hook is not None:  # `layer_3_Q`, and `Q` for a tuple of them
            one_a_layer = naming.add(*(Item(hook.replace("{i}", str(i)), site, i) for i in layers))
            naming.groups |= {name: one_a_layer for name in names if "{i}" not in name}
        elif names:
            naming.add(Item(names[0], site))
            naming.aliases |= dict.fromkeys(names[1:], names[0])
    states = [("embed", None), *(("resid_post", i) for i in layers)]  # the last one before ln_f
    naming.groups["hidden_states"] = naming.add(
        *(Item(f"hidden_states[{n}]", BY_NAME[s], i, again=True) for n, (s, i) in enumerate(states))
    )
    return naming


def _hf(config: Config) -> Naming:
    """HF's output object. An item is named by the expression that gives it: `attentions[3]`."""
    naming, layers = Naming(), range(config.n_layer)

    def item(name: str, site: str, layer: int | None = None, form: Form = SAME) -> Item:
        return Item(name, BY_NAME[site], layer, form, batch=True)

    naming.add(item("logits", "logits"))
    naming.groups["past_key_values"] = tuple(
        naming.add(
            item(f"past_key_values[{i}][0]", "attn.k", i, HEADS_FIRST),
            item(f"past_key_values[{i}][1]", "attn.v", i, HEADS_FIRST),
        )
        for i in layers
    )
    states = [("embed", None), *(("resid_post", i) for i in layers[:-1]), ("ln_f", None)]
    naming.groups["hidden_states"] = naming.add(
        *(item(f"hidden_states[{n}]", site, layer) for n, (site, layer) in enumerate(states))
    )
    naming.groups["attentions"] = naming.add(*(item(f"attentions[{i}]", "attn.pattern", i) for i in layers))
    return naming


def _transformer_lens(config: Config) -> Naming:
    """The hooks of a HookedTransformer loaded without processing, in their order, without a batch axis."""
    naming = Naming()
    for _, site, layer in expand(config.n_layer):
        name = site.dialect_name("transformer_lens", layer)
        if name is not None and "hook_" in name:
            naming.add(Item(name, site, layer))
        norm, _, statistic = site.name.rpartition(".")
        if statistic == "rstd":  # its inverse is the scale that stands beside hook_normalized
            beside = BY_NAME[f"{norm}.normalized"].dialect_name("transformer_lens", layer) or ""
            scale = beside.replace("hook_normalized", "hook_scale")
            naming.add(Item(scale, site, layer, STANDARD_DEVIATION))
    return naming


# The order of llm.c's ActivationTensors, which is not that of execution: means follow what they belong to.
LLMC_ORDER = """encoded ln1 ln1_mean ln1_rstd qkv atty preatt att attproj residual2 ln2 ln2_mean ln2_rstd
fch fch_gelu fcproj residual3 lnf lnf_mean lnf_rstd logits probs losses""".split()


def _llmc(config: Config) -> Naming:
    """llm.c's ActivationTensors, stacked over layers, with a batch of 1 behind the layers."""
    sites = {site.names["llm.c"][0]: site for site in SITES if "llm.c" in site.names}
    forms = {"atty": MERGED_HEADS, "preatt": ZERO_FUTURE}
    naming = Naming()
    for name in LLMC_ORDER:
        site = sites[name]
        naming.add(Item(name, site, None, forms.get(name, SAME), batch=True, stacked=site.layered))
    return naming


_NAMINGS = {
    "gpt2np": _own,
    "guide": _guide,
    "hf": _hf,
    "transformer_lens": _transformer_lens,
    "llm.c": _llmc,
}
NAMES = tuple(_NAMINGS)


def naming_of(dialect: str, config: Config) -> Naming:
    """The names of a dialect for a model.

    Raises:
        InputError: no such dialect.
    """
    if dialect not in NAMES:
        raise InputError(f"there is no dialect {dialect!r}; known are {', '.join(NAMES)}")
    return _NAMINGS[dialect](config)
