"""What neurons add to the logits of the likeliest tokens, at many positions: the arrays of a panel.

`gpt2np.analysis.neurons.neuron_attribution` answers for one token; here the same is computed for several.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.analysis.neurons import written_by_mlp
from gpt2np.analysis.positions_and_tokens import parameters_of_the_end, recorded
from gpt2np.ops import Array
from gpt2np.ops.norms import factor, folded
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import final_norm, unembedding_table
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import Layout

STRONGEST = 10  # neurons of all layers that push a logit up, and as many down


def pushes_layout(shape: tuple[int, int, int, int], d_mlp: int) -> Layout:
    """The arrays of `neuron_pushes`; the shape is that of layers, positions, tokens, and neurons named."""
    layers, rows, targets, _ = shape
    strongest = (rows, targets, 2 * min(STRONGEST, layers * d_mlp))
    return {
        "neuron:push": ("f2", shape),
        "pusher:layer": ("u2", strongest),
        "pusher:id": ("u4", strongest),
        "pusher:push": ("f4", strongest),
    }


def neuron_pushes(trace: Trace, rows: list[int], targets: Array, named: Array) -> dict[str, Array]:
    """What `named` neurons [layer, row, k] add to the logits of `targets` [row, target], and the strongest.

    The strongest of all layers are those that push up most, and behind them those that push down most.
    """
    named_pushes, candidates = [], []
    for layer, pushes in enumerate(_of_layers(trace, rows, targets)):  # [row, target, d_mlp]
        at = np.repeat(named[layer][:, None], targets.shape[1], axis=1).astype(np.int64)
        named_pushes.append(np.clip(np.take_along_axis(pushes, at, -1), -65504, 65504).astype(np.float16))
        n = min(STRONGEST, pushes.shape[-1])
        ids = np.concatenate([top_k_tokens(pushes, n), top_k_tokens(-pushes, n)], axis=-1)
        candidates.append((np.full(ids.shape, layer), ids, np.take_along_axis(pushes, ids, -1)))
    layers, ids, pushes = (np.concatenate(part, axis=-1) for part in zip(*candidates, strict=True))
    order = np.argsort(-pushes, axis=-1, kind="stable")
    n = min(STRONGEST, len(candidates) * trace.config.d_mlp)
    best = np.concatenate([order[..., :n], order[..., : -n - 1 : -1]], axis=-1)
    return {
        "neuron:push": np.stack(named_pushes),
        "pusher:layer": np.take_along_axis(layers, best, -1).astype(np.uint16),
        "pusher:id": np.take_along_axis(ids, best, -1).astype(np.uint32),
        "pusher:push": np.take_along_axis(pushes, best, -1),
    }


def _of_layers(trace: Trace, rows: list[int], targets: Array) -> Iterator[Any]:
    """What every neuron of each layer adds to the logits of the targets: [row, target, d_mlp]."""
    config, parameters = trace.config, parameters_of_the_end(trace, "the attribution")
    norm = final_norm(config, parameters)
    final = recorded(trace, f"h.{config.n_layer - 1}.resid_post", rows)
    by_row = factor(final, norm)[:, 0]
    ids, places = np.unique(targets, return_inverse=True)  # several positions have targets in common
    readers = folded(norm, unembedding_table(config, parameters, ids).T)
    for layer in range(config.n_layer):
        writer, behind = written_by_mlp(trace, layer, rows)
        by, read = by_row, readers
        if behind is not None:
            by, read = by * behind.by[:, 0], folded(behind.norm, readers)
        through = (read.T @ writer.weight.T)[places.reshape(targets.shape)]  # [row, target, d_mlp]
        yield (recorded(trace, f"h.{layer}.mlp.post", rows) * by[:, None])[:, None] * through
