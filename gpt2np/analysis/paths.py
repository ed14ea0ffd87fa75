"""Paths of two steps to a logit: what a component wrote somewhere, and a later head carried over.

With attention patterns and the scales of norms held as they were in a run, what a head adds to a logit is a
sum over everything that was written before it, at every position that it looks at (the "virtual heads" and
paths of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

import numpy as np

from gpt2np.analysis.attribution import components, logit_direction
from gpt2np.analysis.circuits import head_labels, head_weights
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import parameters_of_the_end, recorded, row_of
from gpt2np.analysis.subjects import of_trace
from gpt2np.errors import TraceError
from gpt2np.ops import Array
from gpt2np.ops.norms import factor, folded
from gpt2np.tracing.lines import final_norm, norms
from gpt2np.tracing.trace import Trace


@np.errstate(under="ignore")
@of_trace
def paths_through_heads(
    trace: Trace, token: str | int | tuple[str | int, str | int], pos: int = -1
) -> NamedArray:
    """Return what each component adds to a logit by way of each later head: [writer, pos, head].

    The entry is what `writer` wrote at `pos`, through ln_1 with the scale that it had in the run, the head's
    W_V, its attention from the asked position to `pos`, its W_O, and ln_f and the unembedding as in
    `attribution`. Writers and positions add up to what `attribution` says of the head, but for what the
    biases of ln_1 and of the values add. 0 behind the asked position, NaN where the writer comes no earlier
    than the head. A pair of tokens is the difference of two logits.

    Raises:
        InputError: no such token or position, or a model whose heads' matrices are not known.
        TraceError: the run was edited, kept only some positions or not what `attribution` and this need
            (`attn.pattern`), or there are no weights.

    Example:
        >>> print(paths_through_heads(trace, " the").largest(5))
    """
    direction, of_what = logit_direction(trace, token)
    row = row_of(trace, pos)
    parts = components(trace)
    found = np.zeros((*parts.array.shape[:2], trace.config.n_layer * trace.config.n_head))
    found[:, : row + 1] = every_path(trace, parts, direction[None], row)[0]
    found[:, row + 1 :] = np.where(np.isnan(found[:, :1]), np.nan, 0)
    labels = {
        "writer": parts.labels["component"],
        "pos": parts.labels["pos"],
        "head": head_labels(trace.config),
    }
    title = f"{of_what}, by what wrote and which head carried it"
    return NamedArray(found, ("writer", "pos", "head"), labels, title)


@np.errstate(under="ignore")
@of_trace
def every_path(trace: Trace, parts: NamedArray, directions: Array, row: int) -> Array:
    """Return `paths_through_heads` to several directions at once: [direction, writer, pos, head].

    `parts` are the components of the trace, `directions` [direction, n_embd] are those of `logit_direction`.
    Positions end with the asked one.

    Raises:
        InputError: a model whose heads' matrices are not known.
        TraceError: as `paths_through_heads`.
    """
    n_head, n_layer = trace.config.n_head, trace.config.n_layer
    found = np.full((len(directions), len(parts.array), row + 1, n_layer * n_head), np.nan)
    for layer, carried in enumerate(paths_of_layers(trace, parts, directions[None], [row])[0]):
        found[:, : carried.shape[1], :, layer * n_head : (layer + 1) * n_head] = carried
    return found


@np.errstate(under="ignore")
@of_trace
def paths_of_layers(trace: Trace, parts: NamedArray, directions: Array, rows: list[int]) -> list[list[Array]]:
    """Return these for several positions, of each for the heads of each layer, of the writers before it.

    `directions` are [row, direction, n_embd]; what is returned are [direction, writer, pos, head].

    Raises:
        InputError: a model whose heads' matrices are not known.
        TraceError: as `paths_through_heads`.
    """
    config, parameters = trace.config, parameters_of_the_end(trace, "the paths")
    if trace.metadata.get("edits"):
        raise TraceError("this run was edited: what its heads wrote is not a sum of what they read")
    if len(trace.positions) != len(trace.token_ids):
        raise TraceError("paths need a trace of every position")
    model, n_head, end = trace.model_for("the paths"), config.n_head, max(rows) + 1
    norm, every = final_norm(config, parameters), norms(config, parameters)
    by_row = factor(recorded(trace, f"h.{config.n_layer - 1}.resid_post", rows), norm)[..., None]
    reader = folded(norm, (directions * by_row).reshape(-1, config.n_embd).T).astype(parts.array.dtype)
    before, found = (
        np.array([_layer(name) for name in parts.labels["component"]]),
        [list[Array]() for _ in rows],
    )
    for layer in range(config.n_layer):
        ln_1 = every[f"h.{layer}.ln_1"]
        heads = [head_weights(model, layer, head) for head in range(n_head)]
        readers = folded(ln_1, np.concatenate([w.W_V @ (w.W_O @ reader) for w in heads], axis=1))
        scale = factor(recorded(trace, f"h.{layer}.resid_pre", list(range(end))), ln_1)  # [pos, 1]
        looks = trace[f"h.{layer}.attn.pattern"][:, rows, :end].T * scale[..., None]  # [pos, row, head]
        n = np.count_nonzero(before < layer)  # which come first
        carried = parts.array[:n, :end].reshape(-1, config.n_embd) @ readers.astype(reader.dtype, copy=False)
        carried = carried.reshape(n, end, n_head, len(rows), -1) * looks.swapaxes(1, 2)[..., None]
        for i, row in enumerate(rows):
            found[i].append(np.moveaxis(carried[:, : row + 1, :, i], -1, 0))
    return found


def _layer(component: str) -> int:
    """The layer in which a component writes; embeddings are before all."""
    return int(component.split(".")[1]) if component.startswith("h.") else -1
