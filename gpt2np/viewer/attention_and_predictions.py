"""Where every head looks, and what every position predicts: arrays of each run that a page shows."""

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import Detail
from gpt2np.viewer.packing import quantise_weights


def attention_arrays(trace: Trace, layers: int, detail: Detail, scores: bool) -> dict[str, Array]:
    """Patterns of so many layers as the level stores them; with `scores` also what they are made of."""
    if detail.attention == "top":
        return _top_weights(trace, layers, detail.top)
    lower = np.tril_indices(len(trace.token_ids))

    def triangles(site: str) -> Array:
        found = [trace[f"h.{i}.attn.{site}"][:, lower[0], lower[1]] for i in range(layers)]
        return np.stack([np.asarray(array, np.float32) for array in found])

    found = {"pattern": quantise_weights(triangles("pattern"), detail.attention)}
    return found | ({"scores": triangles("scores")} if scores else {})


def _top_weights(trace: Trace, layers: int, most: int) -> dict[str, Array]:
    keys, kept = [], []
    for i in range(layers):
        pattern = trace[f"h.{i}.attn.pattern"]  # [head, query, key]
        k = min(most, pattern.shape[-1])
        best = np.argpartition(-pattern, k - 1, axis=-1)[..., :k]
        values = np.take_along_axis(pattern, best, -1)
        order = np.argsort(-values, axis=-1, kind="stable")
        keys.append(np.take_along_axis(best, order, -1).astype(np.uint16))
        kept.append(quantise_weights(np.take_along_axis(values, order, -1), "u2"))
    return {"pattern:key": np.stack(keys), "pattern:weight": np.stack(kept)}


def next_arrays(trace: Trace, k: int) -> dict[str, Array]:
    """The k likeliest next tokens of every position."""
    tops = [trace.top(k, pos) for pos in range(len(trace.token_ids))]
    ids = np.array([[i for _, i, _ in top] for top in tops], np.uint32)
    return {"next:id": ids, "next:p": np.array([[p for _, _, p in top] for top in tops])}


def chance_arrays(trace: Trace) -> dict[str, Array]:
    """The probability that each token had before it was read; nothing where the logits were not kept."""
    if "logits" not in trace:
        return {}
    return {"token:p": np.exp(-np.append(np.nan, trace["loss"][:-1].astype(np.float64)))}
