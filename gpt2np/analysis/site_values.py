"""The values of one site of a run, every entry under its name."""

from typing import Any

import numpy as np

from gpt2np.analysis.circuits import check_index
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import pos_labels, row_of, rows_of
from gpt2np.errors import InputError
from gpt2np.tables import quoted
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.sites import Site


@np.errstate(under="ignore")
def site_values(
    trace: Any, name: str, head: int | None = None, pos: int | None = None, k: int | None = None
) -> NamedArray:
    """An array of a trace under any name that `trace[name]` takes, its axes and entries named.

    Positions are labelled with their tokens (`2 | was|`), the vocabulary with its own. `head` and `pos` pick
    one head (of keys and values: one group of heads, where heads share them) and one position (of the
    queries, in attention) and take the axis away. `k` is the length of `top_k_tokens`, 10 if not given. A
    site that was stored in float16 comes in float32.

    Raises:
        UnknownSiteError: no site has this name.
        InputError: no such head or position, or a site without heads.
        TraceError: the site, or that position of it, was not kept.

    Example:
        >>> site_values(model.trace("Elizabeth was"), "h.1.attn.pattern", head=0, pos=-1).axes
        ('key',)
    """
    site, layer = trace.config.architecture.sites.resolve(name, None, trace.config.n_layer)
    full_name = site.full_name(layer)
    of_k = k is not None and "k" in site.axis_names
    array, axes, title = trace.top_k_tokens(k) if of_k else trace[full_name], list(site.axis_names), full_name
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    labels = {axis: found for axis in axes if (found := _labels(trace, axis)) is not None}
    if head is not None:
        if site.head_axis is None:
            raise InputError(f"{full_name} has no heads: its axes are {site.axes}")
        head = check_index(site.head_axis, head, trace.config.dims[site.head_axis])
        array = np.take(array, head, axes.index(site.head_axis))
        axes.remove(site.head_axis)
        title += f", {site.head_axis} {head}"
    if pos is not None:
        rows = "query" if "query" in axes else "pos"
        row = row_of(trace, pos)
        array = np.take(array, row, axes.index(rows))
        axes.remove(rows)
        title += f", {rows} {labels.pop(rows)[row]}"
    return NamedArray(np.asarray(array), tuple(axes), labels, f"{title}\n{site.doc}")


def likeliest(named: NamedArray, k: int) -> NamedArray:
    """Of the vocabulary, the last axis, the k largest values at the last position, downwards."""
    if named.axes[-1:] != ("vocab",):
        return named
    best = top_k_tokens(named.array, k).reshape(-1, min(k, named.array.shape[-1]))[-1]
    labels = dict(named.labels)
    if "vocab" in labels:
        labels["vocab"] = [labels["vocab"][i] for i in best]
    title = f"{named.title} (the {len(best)} largest of {named.array.shape[-1]})"
    return NamedArray(named.array[..., best], named.axes, labels, title)


def has_sign(site: Site) -> bool:
    """Whether zero lies inside the range of a site, rather than at its lower end."""
    return not (
        site.name in ("attn.pattern", "probabilities", "loss") or site.name.endswith((".rstd", ".rms"))
    )


def _labels(trace: Any, axis: str) -> list[str] | None:
    """The names of the entries along an axis; None where they only have numbers."""
    if axis in ("pos", "query"):
        return pos_labels(trace, rows_of(trace, None))
    if axis == "key":
        return [f"{i} {quoted(token)}" for i, token in enumerate(trace.tokens)]
    if axis == "vocab" and trace.model is not None:
        names: list[str] = trace.model.tokens(list(range(trace.config.vocab_size)))
        return names
    return None
