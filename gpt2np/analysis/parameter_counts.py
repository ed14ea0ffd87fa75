"""Where the parameters are: how many each component has."""

from typing import Any

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.tracing.contract import ModelConfig


def parameter_shares(model: Any) -> NamedArray:
    """Number of parameters of each component, and its share: [component, measure]. Takes a Model or a Config.

    `share` is of all parameters, `in blocks` of those of attention, MLPs and norms together: embeddings have
    none. A tied unembedding counts once, as the token embedding.

    Example:
        >>> parameter_shares(Config()).array[0].round(2)  # GPT-2 small: 31 % are its token embedding
        array([3.859738e+07, 3.100000e-01,          nan])
    """
    config: ModelConfig = getattr(model, "config", model)
    parts = config.parameters_by_component()
    unembedding = config.architecture.naming.tied[0]
    if unembedding in getattr(model, "weights", {}):
        parts["unembedding"] = int(model.weights[unembedding].size)
    counts = np.array(list(parts.values()), np.float64)
    inside = np.array(["embedding" not in name for name in parts])
    in_blocks = np.where(inside, counts / counts[inside].sum(), np.nan)
    return NamedArray(
        np.stack([counts, counts / counts.sum(), in_blocks], axis=1),
        ("component", "measure"),
        {"component": list(parts), "measure": ["parameters", "share", "in blocks"]},
        f"{int(counts.sum()):,} parameters",
    )
