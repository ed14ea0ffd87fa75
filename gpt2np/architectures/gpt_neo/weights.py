"""The parameters of a GPT-Neo: names and shapes in a checkpoint, and the tuples that `forward` reads."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt2np.architectures.gpt_neo.config import Config
from gpt2np.ops import Array, LayerNorm, Linear
from gpt2np.tables import by_shape
from gpt2np.tracing.contract import CheckpointNaming

# Names stand behind `transformer.` or alone; buffers are the masks of HF's attention.
NAMING = CheckpointNaming(
    prefix="transformer.",
    layers="h",
    buffers=r"h\.\d+\.attn\.attention\.(bias|masked_bias)$",
    tied=("lm_head.weight", "wte.weight"),
    layout="GPT-Neo's Linear stores [n_out, n_in]",
)


class Attention(NamedTuple):
    """q_proj, k_proj, v_proj [n_embd, n_embd] make queries, keys, values; out_proj mixes the heads."""

    q_proj: Array
    k_proj: Array
    v_proj: Array
    out_proj: Linear

    def __repr__(self) -> str:
        return by_shape(self)


class MLP(NamedTuple):
    """c_fc [n_embd, d_mlp] reads, c_proj [d_mlp, n_embd] writes."""

    c_fc: Linear
    c_proj: Linear


class Block(NamedTuple):
    """One layer."""

    ln_1: LayerNorm
    attn: Attention
    ln_2: LayerNorm
    mlp: MLP

    def __repr__(self) -> str:
        return by_shape(self)


class GPTNeo(NamedTuple):
    """All parameters; lm_head [vocab, n_embd] is wte itself unless the checkpoint has one of its own."""

    wte: Array
    wpe: Array
    h: Sequence[Block]
    ln_f: LayerNorm
    lm_head: Array

    def __repr__(self) -> str:
        return by_shape(self)


def parameters(weights: Mapping[str, Array], cfg: Config) -> GPTNeo:
    """The parameters from arrays under their checkpoint names, such as `h.0.attn.attention.q_proj.weight`.

    The matrices of a block are stored as [n_out, n_in]; `forward` reads views of them the other way round.
    """

    def matrix_at(name: str) -> Array:
        return weights[f"{name}.weight"].T

    def linear_at(name: str) -> Linear:
        return Linear(matrix_at(name), weights[f"{name}.bias"])

    def norm_at(name: str) -> LayerNorm:
        return LayerNorm(weights[f"{name}.weight"], weights[f"{name}.bias"], cfg.layer_norm_epsilon)

    def attention_at(name: str) -> Attention:
        q, k, v = (matrix_at(f"{name}.{which}_proj") for which in "qkv")
        return Attention(q, k, v, linear_at(f"{name}.out_proj"))

    blocks = tuple(
        Block(
            norm_at(f"h.{i}.ln_1"),
            attention_at(f"h.{i}.attn.attention"),
            norm_at(f"h.{i}.ln_2"),
            MLP(linear_at(f"h.{i}.mlp.c_fc"), linear_at(f"h.{i}.mlp.c_proj")),
        )
        for i in range(cfg.n_layer)
    )
    wte = weights["wte.weight"]
    return GPTNeo(wte, weights["wpe.weight"], blocks, norm_at("ln_f"), weights.get("lm_head.weight", wte))


def parameter_shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter that a checkpoint must have (lm_head.weight is optional)."""
    d, m = cfg.n_embd, cfg.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (cfg.vocab_size, d),
        "wpe.weight": (cfg.n_positions, d),
    }
    for i in range(cfg.n_layer):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (d,), f"h.{i}.{norm}.bias": (d,)}
        shapes |= {f"h.{i}.attn.attention.{which}_proj.weight": (d, d) for which in "qkv"}
        for name, n_in, n_out in (
            ("attn.attention.out_proj", d, d),
            ("mlp.c_fc", d, m),
            ("mlp.c_proj", m, d),
        ):
            shapes |= {f"h.{i}.{name}.weight": (n_out, n_in), f"h.{i}.{name}.bias": (n_out,)}
    return shapes | {"ln_f.weight": (d,), "ln_f.bias": (d,)}


def head_matrices(p: GPTNeo, cfg: Config, layer: int, head: int) -> tuple[Array, ...]:
    """W_Q, W_K, W_V [n_embd, d_head], W_O [d_head, n_embd] of a head: views; its biases [d_head] are 0."""
    attn, own = p.h[layer].attn, slice(head * cfg.d_head, (head + 1) * cfg.d_head)
    none = np.zeros(cfg.d_head, p.wte.dtype)
    matrices = attn.q_proj[:, own], attn.k_proj[:, own], attn.v_proj[:, own], attn.out_proj.weight[own]
    return *matrices, none, none, none
