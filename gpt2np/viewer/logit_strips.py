"""The logits of the last positions as strips, less the mean of each row: the arrays of a row of the map."""

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import Detail, Layout, Sizes, strip_layout
from gpt2np.viewer.packing import strip_of

LOGITS = "logits"


def logit_layout(sizes: Sizes, d: Detail) -> Layout:
    """The arrays of `logit_strips`."""
    return strip_layout(LOGITS, (min(sizes.tokens, d.recent),), sizes.config.vocab_size, d.cells, d.floats)


def logit_strips(trace: Trace, d: Detail) -> dict[str, Array]:
    """Every cell has of neighbouring tokens the logit that is furthest from the mean of all, less that mean.

    Softmax does not see the mean. Norm, smallest and largest are those of the logits as they are.

    Raises:
        TraceError: the logits were not kept.
    """
    logits = trace[LOGITS][-d.recent :]
    mean = logits.mean(axis=-1, keepdims=True, dtype=np.float64).astype(logits.dtype)
    found = strip_of(logits - mean, d.cells, d.floats)
    wide = logits.astype(np.float64)
    stats = [np.sqrt((wide * wide).sum(axis=-1)), logits.min(axis=-1), logits.max(axis=-1)]
    return {LOGITS + key: array for key, array in found.items()} | {
        f"{LOGITS}:stats": np.stack(stats, axis=-1)
    }
