"""Where the parameters are: how many each component has."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig

if TYPE_CHECKING:
    from gpt2np.model import Model


def parameter_shares(model: "Model | ModelConfig") -> NamedArray:
    """Return each component's parameters and share: [component, measure]; of a Model or a Config.

    `share` is of all parameters, `in blocks` of those of attention, MLPs and norms together: embeddings have
    none. A tied unembedding counts once, as the token embedding.

    Example:
        >>> parameter_shares(Config()).array[0].round(2)  # GPT-2 small: 31 % are its token embedding
        array([3.859738e+07, 3.100000e-01,          nan])
    """
    found: Any = model
    config: ModelConfig = getattr(found, "config", found)
    weights: Mapping[str, Array] = getattr(found, "weights", {})
    parts = config.parameters_by_component()
    unembedding = config.architecture.naming.tied[0]
    if unembedding in weights:
        parts["unembedding"] = int(weights[unembedding].size)
    counts = np.array(list(parts.values()), np.float64)
    inside = np.array(["embedding" not in name for name in parts])
    in_blocks = np.where(inside, counts / counts[inside].sum(), np.nan)
    return NamedArray(
        np.stack([counts, counts / counts.sum(), in_blocks], axis=1),
        ("component", "measure"),
        {"component": list(parts), "measure": ["parameters", "share", "in blocks"]},
        f"{int(counts.sum()):,} parameters",
    )
