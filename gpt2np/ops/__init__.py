"""The operations that models are made of, in NumPy: each writes its result into `out`.

Every operation takes its inputs first and `out=` last, never changes an input, and works in the
precision of what it is given. Scalars are Python floats, so that float32 stays float32. Large results are
computed in pieces, most of them several at a time (`threads.each`); what a piece is depends on shapes and on
the number of threads only.
"""

from gpt2np.ops.activations import ACTIVATIONS, erf, gelu_erf, gelu_tanh, relu, silu, tanh, times
from gpt2np.ops.attention import capped_scores, dot_scores, mix, scaled_scores, softmax
from gpt2np.ops.blocks import Array
from gpt2np.ops.caps import bend, capped
from gpt2np.ops.causal_mask import causal_blocks, fill_beside, prompts_at_once, unseen
from gpt2np.ops.embedding import add, capped_unembedding, lookup, scaled, unembedding
from gpt2np.ops.norms import (
    LayerNorm,
    Norm,
    RMSNorm,
    layer_norm,
    layer_norm_statistics,
    rms_norm,
    root_mean_square,
)
from gpt2np.ops.products import Linear, linear, product, project
from gpt2np.ops.rotation import Turn, rotate, turn_of

__all__ = [
    "ACTIVATIONS",
    "Array",
    "LayerNorm",
    "Linear",
    "Norm",
    "RMSNorm",
    "Turn",
    "add",
    "bend",
    "capped",
    "capped_scores",
    "capped_unembedding",
    "causal_blocks",
    "dot_scores",
    "erf",
    "fill_beside",
    "gelu_erf",
    "gelu_tanh",
    "layer_norm",
    "layer_norm_statistics",
    "linear",
    "lookup",
    "mix",
    "product",
    "project",
    "prompts_at_once",
    "relu",
    "rms_norm",
    "root_mean_square",
    "rotate",
    "scaled",
    "scaled_scores",
    "silu",
    "softmax",
    "tanh",
    "times",
    "turn_of",
    "unembedding",
    "unseen",
]
