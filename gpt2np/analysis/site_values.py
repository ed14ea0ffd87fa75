"""The values of one site of a run, every entry under its name."""

import numpy as np

from gpt2np.analysis.circuits import check_index
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import pos_labels, row_of, rows_of
from gpt2np.analysis.subjects import of_trace
from gpt2np.characters import readable
from gpt2np.errors import InputError
from gpt2np.tables import quoted
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace


@np.errstate(under="ignore")
@of_trace
def site_values(
    trace: Trace, name: str, head: int | None = None, pos: int | None = None, k: int | None = None
) -> NamedArray:
    """Return an array of a trace under any name that `trace[name]` takes, its axes and entries named.

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
    axes, title = list(site.axis_names), full_name
    array = trace.top_k_tokens(k) if k is not None and "k" in axes else trace[full_name]
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
    """Return the k largest values at the last position over the vocabulary, largest first."""
    if named.axes[-1:] != ("vocab",):
        return named
    best = top_k_tokens(named.array, k).reshape(-1, min(k, named.array.shape[-1]))[-1]
    labels = dict(named.labels)
    if "vocab" in labels:
        labels["vocab"] = [labels["vocab"][i] for i in best]
    title = f"{named.title}\nthe {len(best)} largest of {named.array.shape[-1]}"
    return NamedArray(named.array[..., best], named.axes, labels, title)


def most_active(named: NamedArray, k: int) -> NamedArray:
    """Of a long last axis without names, the k entries of the largest magnitude, in their order."""
    axis, n = named.axes[-1:], named.array.shape[-1:]
    if not n or n[0] <= max(k, 128) or axis[0] in named.labels or axis[0] in ("pos", "query", "key", "vocab"):
        return named
    size = np.nan_to_num(np.abs(named.array.astype(np.float64)), posinf=0.0).reshape(-1, n[0]).max(axis=0)
    best = np.sort(np.argsort(-size, kind="stable")[:k])
    title = f"{named.title}\nthe {k} of the largest magnitude, of {n[0]}"
    labels = {**named.labels, axis[0]: [str(i) for i in best]}
    return NamedArray(named.array[..., best], named.axes, labels, title)


def has_sign(site: Site) -> bool:
    """Return whether zero lies inside the range of a site, rather than at its lower end."""
    return not (
        site.name in ("attn.pattern", "probabilities", "loss") or site.name.endswith((".rstd", ".rms"))
    )


def _labels(trace: Trace, axis: str) -> list[str] | None:
    """The names of the entries along an axis; None where they only have numbers."""
    if axis in ("pos", "query"):
        return pos_labels(trace, rows_of(trace, None))
    if axis == "key":
        return [f"{i} {quoted(token)}" for i, token in enumerate(readable(trace.tokens))]
    if axis == "vocab" and trace.model is not None:
        names: list[str] = trace.model.tokens(list(range(trace.config.vocab_size)))
        return names
    return None
