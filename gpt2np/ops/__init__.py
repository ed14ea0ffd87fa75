"""The operations that a GPT-2 is made of, in NumPy: each writes its result into `out`.

Every operation takes its inputs first and `out=` last, never changes an input, and works in the
precision of what it is given. Scalars are Python floats, so that float32 stays float32. Large results are
computed in pieces, most of them several at a time (`threads.each`); what a piece is depends on shapes and on
the number of threads only.
"""

from gpt2np.ops.activations import ACTIVATIONS, erf, gelu_erf, gelu_tanh, relu, silu, tanh
from gpt2np.ops.attention import dot_scores, mix, scaled_scores, softmax
from gpt2np.ops.blocks import Array
from gpt2np.ops.causal_mask import causal_blocks, unseen
from gpt2np.ops.embedding import add, lookup, unembedding
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

__all__ = [
    "ACTIVATIONS",
    "Array",
    "LayerNorm",
    "Linear",
    "Norm",
    "RMSNorm",
    "add",
    "causal_blocks",
    "dot_scores",
    "erf",
    "gelu_erf",
    "gelu_tanh",
    "layer_norm",
    "layer_norm_statistics",
    "linear",
    "lookup",
    "mix",
    "product",
    "project",
    "relu",
    "rms_norm",
    "root_mean_square",
    "scaled_scores",
    "silu",
    "softmax",
    "tanh",
    "unembedding",
    "unseen",
]
