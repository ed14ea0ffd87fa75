"""The parameters of a GPT-2: their names and shapes in a checkpoint, and the tuples that `forward` reads."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import Array, LayerNorm, Linear
from gpt2np.tables import by_shape
from gpt2np.tracing.contract import CheckpointNaming, TrainingNaming

# How nanoGPT, minGPT and the scripts made of them store a GPT-2, which they build of torch's own modules.
_EARLY_MINGPT = (
    (r"^tok_emb\.", "wte."), (r"^pos_emb$", "wpe.weight"), (r"^blocks\.", "h."), (r"^head\.", "lm_head."),
    (r"\.ln(\d)\.", r".ln_\1."), (r"\.attn\.proj\.", ".attn.c_proj."), (r"\.attn\.mask$", ".attn.bias"),
    (r"\.mlp\.0\.", ".mlp.c_fc."), (r"\.mlp\.2\.", ".mlp.c_proj."),
)  # fmt: skip


def from_early_mingpt(tensors: Mapping[str, Array]) -> dict[str, Array] | None:
    """The tensors of minGPT's first version under GPT-2's names, in torch's Linear layout; None of any other.

    It kept query, key and value apart, and called the embeddings tok_emb and pos_emb.
    """
    if "tok_emb.weight" not in tensors or "pos_emb" not in tensors:
        return None
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        for old, new in _EARLY_MINGPT:
            name = re.sub(old, new, name)
        found[name] = tensor[0] if name == "wpe.weight" and len(tensor) == 1 else tensor  # [1, pos, n_embd]
    for name in [name for name in found if ".attn.query." in name]:
        parts = [found.get(name.replace("query", part)) for part in ("query", "key", "value")]
        if all(part is not None and part.ndim and part.shape == found[name].shape for part in parts):
            found[name.replace("query", "c_attn")] = np.concatenate(cast("list[Array]", parts))
    return {
        name: array for name, array in found.items() if not re.search(r"\.attn\.(query|key|value)\.", name)
    }


# minGPT's own names of sizes: n_layer, n_head, n_embd
_MINGPT_SIZES = {
    "openai-gpt": (12, 12, 768), "gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600), "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192), "gpt-micro": (4, 4, 128), "gpt-nano": (3, 3, 48),
}  # fmt: skip

TRAINING = TrainingNaming(
    matrices=r"\.(c_attn|c_proj|c_fc)\.weight$",
    witness=r"\.c_attn\.weight$",
    zeros=r"\.bias$",
    settings={"block_size": "n_positions"},
    harmless=frozenset("model_type bias dropout embd_pdrop resid_pdrop attn_pdrop".split()),
    sizes={"vocab_size": ("wte.weight", 0), "n_embd": ("wte.weight", 1), "n_positions": ("wpe.weight", 0)},
    named_sizes={
        name: dict(zip(("n_layer", "n_head", "n_embd"), sizes, strict=True))
        for name, sizes in _MINGPT_SIZES.items()
    },
    activations={"attn_pdrop": "gelu_new", "bias": "gelu", "": "gelu_new"},  # minGPT's, nanoGPT's, others'
    renamed=from_early_mingpt,
)

# Names stand behind `transformer.` or alone; buffers are the causal mask of HF's attention.
NAMING = CheckpointNaming(
    prefix="transformer.",
    layers="h",
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)$",
    tied=("lm_head.weight", "wte.weight"),
    layout="GPT-2's Conv1D stores [n_in, n_out]",
    training=TRAINING,
)


class Attention(NamedTuple):
    """c_attn [n_embd, 3*n_embd] makes queries, keys and values; c_proj [n_embd, n_embd] mixes the heads."""

    c_attn: Linear
    c_proj: Linear


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


class GPT2(NamedTuple):
    """All parameters; lm_head [vocab, n_embd] is wte itself unless the checkpoint has one of its own."""

    wte: Array
    wpe: Array
    h: Sequence[Block]
    ln_f: LayerNorm
    lm_head: Array

    def __repr__(self) -> str:
        return by_shape(self)


def parameters(weights: Mapping[str, Array], cfg: Config) -> GPT2:
    """The parameters from arrays under their checkpoint names, such as `h.0.attn.c_attn.weight`."""

    def linear_at(name: str) -> Linear:
        return Linear(weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm_at(name: str) -> LayerNorm:
        return LayerNorm(weights[f"{name}.weight"], weights[f"{name}.bias"], cfg.layer_norm_epsilon)

    blocks = tuple(
        Block(
            norm_at(f"h.{i}.ln_1"),
            Attention(linear_at(f"h.{i}.attn.c_attn"), linear_at(f"h.{i}.attn.c_proj")),
            norm_at(f"h.{i}.ln_2"),
            MLP(linear_at(f"h.{i}.mlp.c_fc"), linear_at(f"h.{i}.mlp.c_proj")),
        )
        for i in range(cfg.n_layer)
    )
    wte = weights["wte.weight"]
    return GPT2(wte, weights["wpe.weight"], blocks, norm_at("ln_f"), weights.get("lm_head.weight", wte))


def for_one_row(p: GPT2) -> GPT2:
    """The same parameters with each mlp.c_proj laid out for products of one row, as decoding has them.

    Rows as short as n_embd are read more slowly than columns as long as d_mlp. The copy takes the memory of
    these weights once more.
    """

    def laid_out(linear: Linear) -> Linear:
        return linear._replace(weight=np.asfortranarray(linear.weight))

    return p._replace(h=tuple(b._replace(mlp=b.mlp._replace(c_proj=laid_out(b.mlp.c_proj))) for b in p.h))


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
        for name, n_in, n_out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, m),
            ("mlp.c_proj", m, d),
        ):
            shapes |= {f"h.{i}.{name}.weight": (n_in, n_out), f"h.{i}.{name}.bias": (n_out,)}
    return shapes | {"ln_f.weight": (d,), "ln_f.bias": (d,)}


def head_matrices(p: GPT2, cfg: Config, layer: int, head: int) -> tuple[Array, ...]:
    """W_Q, W_K, W_V [n_embd, d_head], W_O [d_head, n_embd] and three biases [d_head] of a head: views."""
    attn = p.h[layer].attn
    w_q, w_k, w_v = attn.c_attn.weight.reshape(-1, 3, cfg.n_head, cfg.d_head)[:, :, head].swapaxes(0, 1)
    b_q, b_k, b_v = attn.c_attn.bias.reshape(3, cfg.n_head, cfg.d_head)[:, head]
    return w_q, w_k, w_v, attn.c_proj.weight.reshape(cfg.n_head, cfg.d_head, -1)[head], b_q, b_k, b_v
