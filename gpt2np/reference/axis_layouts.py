"""The ways to read an array as a site: which of its axes are which, by its shape alone."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2np.errors import InputError
from gpt2np.ops import Array, unseen
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import TOP_K, Site

_Group = tuple[str, ...]  # axes that are merged into one, the last one fastest
_MergedNames = tuple[tuple[_Group, str], ...]  # groups of axes that have a name of their own
HEAD_AXES = ("head", "kv_head")
_OF_HEADS = tuple(("pos", axis, "d_head") for axis in HEAD_AXES)
_QKV = ("pos", "3", "head", "d_head")


@dataclass(frozen=True)
class Layout:
    """One way to read an array of a shape.

    `groups` says for every axis of their array which of `sizes` are merged in it: () for an axis of length 1,
    ("batch",) for one of several sequences. `order` is the site's own order of axes, `shape` its own shape.
    `merged` are names for several axes in one: where heads fill the stream, `n_embd` is all of them.
    """

    groups: tuple[_Group, ...]
    sizes: tuple[tuple[str, int], ...]
    order: _Group
    shape: tuple[int, ...]
    declared: bool = False
    merged: _MergedNames = ()

    @property
    def flat_order(self) -> _Group:
        """The axes as they lie in memory, the last one fastest."""
        return tuple(axis for group in self.groups for axis in group if axis != "batch")

    @property
    def natural(self) -> bool:
        """Whether they lie as the site has them."""
        return self.flat_order == tuple(axis for axis in self.order if axis in self.flat_order)

    @property
    def rows(self) -> int:
        """Positions (or queries) in it."""
        return self._size(self.order[0] if self.order[0] == "pos" else "query")

    def _size(self, axis: str) -> int:
        return dict(self.sizes)[axis]

    def undo(self, array: Array, vocab_size: int) -> Array:
        """The array as the site has it; of several sequences the first, of a padded vocabulary the start."""
        if ("batch",) in self.groups:
            array = array[(slice(None),) * self.groups.index(("batch",)) + (0,)]
        there = self.flat_order
        split = array.reshape([self._size(axis) for axis in there])
        own = [axis for axis in self.order if axis in there]
        x = split.transpose([there.index(axis) for axis in own]).reshape(self.shape)
        return x[:, :vocab_size] if "vocab" in self.order else x

    def __str__(self) -> str:
        merged = dict(self.merged)
        names = [merged.get(group) or "*".join(group) or "1" for group in self.groups]
        return f"[{', '.join(names)}]"

    def notes(self, vocab_size: int) -> Iterator[str]:
        """What has to be undone, in words."""
        if ("batch",) in self.groups:
            yield "batch of several sequences: the first one is taken"
        ones = len([axis for axis in self.order if axis not in self.flat_order])
        if self.groups.count(()) > ones:
            yield "batch axis of one" if self.groups[0] == () else "an axis of one"
        there = self.flat_order
        widest = max((len(group) for group in self.groups), default=0)
        if widest == len(there) > 1:
            yield "flattened"
        if not self.natural:
            head = next((axis for axis in HEAD_AXES if axis in there), None)
            first = head is not None and "pos" in there and there.index(head) < there.index("pos")
            heads_only = first and [a for a in there if a != head] == [
                a for a in self.order if a in there and a != head
            ]
            yield "heads first" if heads_only else "axes in another order"
        fused = tuple(axis for axis in self.order[1:] if axis in there)
        if "3" in there and not any(set(fused) <= set(group) for group in self.groups):
            yield "queries, keys and values on an axis of their own"
        elif self.order in _OF_HEADS and self.order[1:] in self.groups:
            yield "heads merged"
        if "vocab" in self.order and self._size("vocab") > vocab_size:
            yield f"vocabulary padded to {self._size('vocab')}"


def layouts(site: Site, shape: Sequence[int], config: ModelConfig, length: int) -> list[Layout]:
    """Every way to read an array of this shape as a site, its own first; for `length` tokens if possible.

    Else several sequences of that length, else another number of tokens, in this order.
    """
    shape = tuple(shape)
    squeezed = tuple(n for n in shape if n != 1)
    size = math.prod(squeezed)
    order = _order(site)
    rest = _sizes(order, config)
    found = _fitting(order, shape, squeezed, _with_length(order, rest, length, size), config, True)
    if not found and len(squeezed) > 1:
        batch = squeezed[0]
        sizes = _with_length(order, rest, length, size // batch)
        axis = shape.index(batch)
        inner = _fitting(order, shape[axis + 1 :], squeezed[1:], sizes, config, True)
        lead: tuple[_Group, ...] = ((),) * axis + (("batch",),)
        found = [replace(x, groups=lead + x.groups) for x in inner]
    if not found:
        for sizes in _other_lengths(order, rest, squeezed, config, length):
            found += _fitting(order, shape, squeezed, sizes, config, False)
    return found


def declared_layout(
    site: Site, shape: Sequence[int], config: ModelConfig, axes: Sequence[str], length: int
) -> Layout | None:
    """The layout that a user's axes declare, or None if the shape is not of that form.

    Raises:
        InputError: an axis is unknown, missing, or there twice.
    """
    order = _order(site)
    merged = {name: group for group, name in _merged_names(config)} if "d_head" in order else {}
    groups: list[_Group] = []
    for axis in axes:
        parts: _Group = merged.get(axis, tuple(axis.split("*")))
        parts = tuple(inner for part in parts for inner in merged.get(part, (part,)))
        groups.append(() if parts in (("1",), ("batch",)) else parts)
    flat = [axis for group in groups for axis in group]
    if sorted(flat) != sorted(order):
        raise InputError(
            f"a layout of {site.name} names each of {' '.join(order)} once (and 1, batch or layer), "
            f"not [{' '.join(axes)}]"
        )
    if len(groups) != len(shape):
        return None
    sizes = _sizes(order, config)
    for group, n in zip(groups, shape, strict=True):
        known = math.prod(sizes.get(axis, 1) for axis in group)
        open_axes = [axis for axis in group if axis not in sizes]
        if len(open_axes) > 1:
            sizes |= dict.fromkeys(open_axes, length)
            known *= length ** len(open_axes)
        elif open_axes:
            sizes[open_axes[0]] = n // known
            known *= n // known
        if known != n:
            return None
    if "vocab" in sizes and sizes["vocab"] < config.vocab_size:
        return None
    kept = tuple(tuple(axis for axis in group if sizes[axis] != 1) for group in groups)
    return Layout(kept, tuple(sizes.items()), order, _own_shape(order, sizes), True, _merged_names(config))


def expected(site: Site, config: ModelConfig, length: int) -> str:
    """Axes and sizes of a site, for a message."""
    sizes = {
        **config.dims,
        **dict.fromkeys(("pos", "query", "key"), length),
        "k": min(TOP_K, config.vocab_size),
    }
    return f"[{', '.join(site.axis_names)}] = {tuple(sizes[axis] for axis in site.axis_names)}"


def _merged_names(config: ModelConfig) -> _MergedNames:
    """What people call the heads side by side, where they are as wide as the residual stream."""
    if config.n_head * config.d_head != config.n_embd:
        return ()
    return ((("head", "d_head"), "n_embd"), (("3", "head", "d_head"), "3*n_embd"))


def _order(site: Site) -> _Group:
    """The axes of a site, taken apart as far as they go."""
    return _QKV if site.axes == "pos 3*n_embd" else site.axis_names


def _sizes(order: _Group, config: ModelConfig) -> dict[str, int]:
    """Sizes of the axes that depend neither on the text nor on how somebody pads the vocabulary."""
    known = {**config.dims, "3": 3, "k": min(TOP_K, config.vocab_size)}
    return {axis: known[axis] for axis in order if axis in known and axis != "vocab"}


def _with_length(order: _Group, rest: dict[str, int], length: int, size: int) -> dict[str, int]:
    """All sizes for this many tokens; a vocabulary is as wide as it comes out."""
    sizes = rest | {axis: length for axis in ("pos", "query", "key") if axis in order}
    return sizes | {"vocab": size // length} if "vocab" in order else sizes


def _other_lengths(
    order: _Group, rest: dict[str, int], squeezed: tuple[int, ...], config: ModelConfig, length: int
) -> Iterator[dict[str, int]]:
    """Sizes for other numbers of tokens that the number of elements allows."""
    size = math.prod(squeezed)
    most = max(config.n_positions, length) + 1
    found: list[dict[str, int]] = []
    if "key" in order:
        n = size // rest["head"]
        pairs = {(math.isqrt(n), math.isqrt(n)), *((n // k, k) for k in squeezed if n // k < k)}
        found = [rest | {"query": q, "key": k} for q, k in sorted(pairs, reverse=True) if k <= most]
    elif "vocab" in order:
        widths = {config.vocab_size, *(n for n in squeezed if n > config.vocab_size)}
        found = [rest | {"pos": size // v, "vocab": v} for v in sorted(widths)]
    else:
        found = [rest | {"pos": size // math.prod(rest.values())}]
    yield from (sizes for sizes in found if 1 <= sizes.get("pos", 1) <= most and sizes.get("query", 1) >= 1)


def _arrangements(order: _Group, flattened: bool) -> Iterator[tuple[_Group, ...]]:
    """Orders and mergings of a site's axes that people use, the site's own first."""
    single = tuple((axis,) for axis in order)
    groupings: list[tuple[_Group, ...]] = [single]
    if order == _QKV:
        groupings = [
            (order[:1], order[1:]),
            (*single[:2], order[2:]),
            (single[0], order[1:3], single[3]),
            single,
        ]
    elif order in _OF_HEADS or order == ("pos", "head", "n_embd"):
        groupings = [single, (single[0], order[1:])]
    for grouping in groupings:
        yield from itertools.permutations(grouping)
    heads_first = (*order[1::-1], *order[2:])
    if order in _OF_HEADS:
        yield from ((order[:2], single[2]), (heads_first[:2], single[2]))
    if order == ("head", "query", "key"):
        yield from ((order[:2], single[2]), (single[0], order[1:]))
    if flattened:
        yield (order,)
        if order in _OF_HEADS:
            yield (heads_first,)


def _fitting(
    order: _Group,
    shape: tuple[int, ...],
    squeezed: tuple[int, ...],
    sizes: dict[str, int],
    config: ModelConfig,
    flattened: bool,
) -> list[Layout]:
    """The arrangements that have this shape, each order of the elements once, the site's own first."""
    if "vocab" in sizes and not config.vocab_size <= sizes["vocab"] <= 1.5 * config.vocab_size + 1024:
        return []
    if math.prod(sizes.values()) != math.prod(squeezed):
        return []
    found: dict[_Group, Layout] = {}
    for arrangement in _arrangements(order, flattened):
        groups = [tuple(axis for axis in group if sizes[axis] != 1) for group in arrangement]
        groups = [group for group in groups if group]
        if tuple(math.prod(sizes[axis] for axis in group) for group in groups) != squeezed:
            continue
        left = iter(groups)
        of_axes = tuple(() if n == 1 else next(left) for n in shape)
        shown = _merged_names(config)
        layout = Layout(of_axes, tuple(sizes.items()), order, _own_shape(order, sizes), merged=shown)
        found.setdefault(layout.flat_order, layout)
    return sorted(found.values(), key=lambda layout: not layout.natural)


def _own_shape(order: _Group, sizes: dict[str, int]) -> tuple[int, ...]:
    if order == _QKV:
        return sizes["pos"], math.prod(sizes[axis] for axis in order[1:])
    return tuple(sizes[axis] for axis in order)


def seen(shape: Sequence[int], window: int | None) -> Array:
    """Where the queries of a [head, query, key] look: [query, key]; the last query looks at the last key."""
    query, key = shape[-2:]
    return np.asarray(~unseen(range(key - query, key), key, window))
