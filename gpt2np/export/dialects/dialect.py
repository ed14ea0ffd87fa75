"""A trace under the names and in the shapes of another program: lazy mappings, and files read back as traces.

- `gpt2np`: our own names, as `gpt2np sites` lists them.
- `guide`: the extraction guide's summary table, `Q` being a tuple over the layers; `layer_3_Q` as its hooks
  have it, and `weighted_values`, `attn.z` with its heads merged. No batch axis (`batch.Batch` has one); the
  last of `hidden_states` is before ln_f.
- `hf`: `logits`, `past_key_values`, `hidden_states` (the last one after ln_f) and `attentions`, with a batch
  axis of 1 in front.
- `transformer_lens`: the hooks of a HookedTransformer loaded without processing, in their order, shaped as
  after `cache.remove_batch_dim()`.
- `llm.c`: ActivationTensors, each stacked over the layers, with a batch axis of 1 behind them.

Where llm.c pads its vocabulary, `logits` and `probs` end at the last real token; `preatt` is 0 in the future,
which llm.c never writes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpt2np.errors import TraceError, UnknownSiteError, nearest, short
from gpt2np.export.dialects.naming import Item, Naming
from gpt2np.export.dialects.reading import read_dialect as read_dialect
from gpt2np.export.dialects.registry import naming_of
from gpt2np.ops import Array
from gpt2np.tracing.derived import bases
from gpt2np.tracing.site_patterns import layer_out_of_range
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace


class NotKeptError(TraceError, KeyError):
    """Raised for a name of the dialect whose site this trace does not hold."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class Dialect(Mapping[str, Any]):
    """A trace in another program's names and shapes; make one with `trace.to(name)`.

    Nothing is computed or copied before it is looked up, and views of the trace are handed out wherever the
    numbers are the same. Iterating lists each thing that is there once: `Q` where all layers of it were kept,
    else `layer_3_Q` alone. Other names of the same things are found all the same.

    Example:
        >>> trace.to("hf")["attentions"][3].shape            # [1, head, query, key]
        >>> trace.to("guide")["attention_weights"][3].shape  # [head, query, key]
        >>> trace.to("hf").logits.shape                      # attributes are the same
    """

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace, self.name = trace, name
        self._naming = naming_of(name, trace.config)
        self._stored = frozenset(trace.names())

    def __reduce__(self) -> Any:
        return Dialect, (self.trace, self.name)  # its table of names holds functions, which no pickle takes

    def __getitem__(self, key: str) -> Any:
        """An array, a tuple of arrays, or what is known of the tokens.

        Raises:
            UnknownSiteError: the dialect has no such name.
            TraceError: it was not kept.
        """
        naming = self._naming
        key = naming.aliases.get(key, key)
        if key in naming.facts:
            return naming.facts[key](self.trace)
        if key in naming.groups:
            return self._group(naming.groups[key])
        if key not in naming.items:
            raise UnknownSiteError(f"the dialect {self.name} has no {short(key)}; {self._hint(str(key))}")
        return self._array(naming.items[key])

    def __getattr__(self, name: str) -> Any:
        """The same as an attribute, as Hugging Face's outputs have it: `trace.to("hf").logits`.

        Raises:
            AttributeError: the dialect has no such name, or it was not kept.
        """
        if name.startswith("_"):  # what copy, pickle and notebooks ask for
            raise AttributeError(name)
        try:
            return self[name]
        except (UnknownSiteError, TraceError) as error:
            raise AttributeError(str(error)) from None

    def __contains__(self, key: object) -> bool:
        """Whether it is there, without computing it."""
        naming = self._naming
        key = naming.aliases.get(str(key), key)
        if key in naming.groups:
            return self._whole(naming.groups[str(key)])
        return key in naming.facts or (key in naming.items and not self._missing(naming.items[str(key)]))

    def __iter__(self) -> Iterator[str]:
        """Names of what is there, in the dialect's order."""
        yield from self._naming.facts
        whole = {name: g for name, g in self._naming.groups.items() if self._whole(g)}
        group_of = {item: name for name, group in whole.items() for item in _flat(group)}
        listed = set()
        for item in self._naming.items.values():
            name = group_of.get(item.name, item.name)
            single = name == item.name
            if name not in listed and not (single and (item.again or self._missing(item))):
                listed.add(name)
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after the bracket."""
        return list(self)

    def __repr__(self) -> str:
        return f"<{self.name} names of {self.trace!r}>"

    @property
    def arrays(self) -> "Arrays":
        """The arrays of this trace one by one, each once: what a file holds."""
        return Arrays(self)

    def batch_axis(self, key: str) -> int | None:
        """Return which axis of an array, or of a group's arrays, is the batch; None if there is none."""
        naming = self._naming
        key = naming.aliases.get(key, key)
        key = next(_flat(naming.groups[key])) if key in naming.groups else key
        item = naming.items.get(key)
        return int(item.stacked) if item is not None and item.batch else None

    def _hint(self, key: str) -> str:
        """What was probably meant by a name that the dialect does not have."""
        near = nearest(key, _all_names(self._naming))
        if wrong := layer_out_of_range(key, self.trace.config.n_layer):
            return wrong
        return f"the nearest is {short(near)}" if near else f"it has {_some(self._naming)}"

    def _group(self, group: tuple[Any, ...]) -> tuple[Any, ...]:
        items = self._naming.items
        return tuple(self._array(items[n]) if isinstance(n, str) else self._group(n) for n in group)

    def _whole(self, group: tuple[Any, ...]) -> bool:
        return not any(self._missing(self._naming.items[name]) for name in _flat(group))

    def _array(self, item: Item) -> Array:
        missing = self._missing(item)
        if missing:
            raise NotKeptError(
                f"{short(item.name)} of the dialect {self.name} is not in this trace: {missing}"
            )
        trace = self.trace
        whole = trace.stack(item.site.name) if item.stacked else trace[item.site.full_name(item.layer)]
        array = item.from_trace(whole, trace.plan).view()
        array.flags.writeable = False
        return array

    def _missing(self, item: Item) -> str:
        """Why an item cannot be had; empty if it can."""
        for source in item.sources(self.trace.config):
            if reason := self._missing_site(*source):
                return reason
        return ""

    def _missing_site(self, name: str, site: Site, layer: int | None) -> str:
        stop = self.trace.plan.stop_at_layer
        if layer is not None and stop is not None and layer >= stop:
            return f"{name} was not run, which stopped at layer {stop}"
        if name in self._stored:
            return ""
        if not site.derived:
            return f"{name} was not kept"
        derived = self.trace.config.architecture.derived[site.name]
        if derived.needs_weights and self.trace.model is None:
            return f"{name} needs the model's weights (open the trace with model=)"
        needed = [base for base in bases(self.trace.config, site.name, layer) if base not in self._stored]
        return f"{name} is derived from {needed[0]}, which was not kept" if needed else ""


class Arrays(Mapping[str, Any]):
    """The arrays of a dialect one by one, each computed when it is looked up."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect, naming = dialect, dialect._naming
        self.axes = {name: item.axes() for name, item in naming.items.items() if not item.again}
        self._names = [name for name in self.axes if name in dialect]
        if dialect.name == "gpt2np":  # a file of our own is what `Trace.save` writes
            self._names = dialect.trace.names()
        facts = {name: np.array(dialect[name]) for name in naming.facts}
        self._facts = {name: fact for name, fact in facts.items() if fact.dtype.kind == "i"}

    def __getitem__(self, name: str) -> Array:
        return self._facts[name] if name in self._facts else np.asarray(self._dialect[name])

    def __iter__(self) -> Iterator[str]:
        yield from self._facts
        yield from self._names

    def __len__(self) -> int:
        return len(self._facts) + len(self._names)


def _flat(group: tuple[Any, ...]) -> Iterator[str]:
    for name in group:
        yield from _flat(name) if isinstance(name, tuple) else (name,)


def _all_names(naming: Naming) -> list[str]:
    return [*naming.facts, *naming.groups, *naming.aliases, *naming.items]


def _some(naming: Naming) -> str:
    names = [*naming.facts, *naming.groups, *(n for n in naming.items if "[" not in n)]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
