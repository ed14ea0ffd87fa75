"""The parameters of a Gemma-2: names and shapes in a checkpoint, and the tuples that `forward` reads."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt2np.architectures.gemma2.config import Config
from gpt2np.ops import Array, RMSNorm
from gpt2np.tables import by_shape
from gpt2np.tracing.contract import CheckpointNaming

# Names stand behind `model.` or alone; there are no masks in the file, older ones have the frequencies.
NAMING = CheckpointNaming(
    prefix="model.",
    layers="layers",
    buffers=r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$",
    tied=("lm_head.weight", "embed_tokens.weight"),
    layout="Gemma-2's Linear stores [n_out, n_in]",
)


class Attention(NamedTuple):
    """q_proj [n_embd, head*d_head], k_proj and v_proj [n_embd, kv_head*d_head]; o_proj mixes the heads."""

    q_proj: Array
    k_proj: Array
    v_proj: Array
    o_proj: Array

    def __repr__(self) -> str:
        return by_shape(self)


class MLP(NamedTuple):
    """gate_proj and up_proj [n_embd, d_mlp] read, down_proj [d_mlp, n_embd] writes."""

    gate_proj: Array
    up_proj: Array
    down_proj: Array

    def __repr__(self) -> str:
        return by_shape(self)


class Block(NamedTuple):
    """One layer; the norms called post are of what attention and MLP write."""

    ln_1: RMSNorm
    attn: Attention
    ln_1_post: RMSNorm
    ln_2: RMSNorm
    mlp: MLP
    ln_2_post: RMSNorm

    def __repr__(self) -> str:
        return by_shape(self)


class Gemma2(NamedTuple):
    """All parameters; lm_head [vocab, n_embd] is wte itself unless the checkpoint has one of its own."""

    wte: Array
    h: Sequence[Block]
    ln_f: RMSNorm
    lm_head: Array

    def __repr__(self) -> str:
        return by_shape(self)


def parameters(weights: Mapping[str, Array], cfg: Config) -> Gemma2:
    """The parameters from arrays under their checkpoint names, such as `layers.0.self_attn.q_proj.weight`.

    Matrices are stored as [n_out, n_in]; `forward` reads views of them the other way round. Norms are stored
    as what is added to 1.
    """

    def matrices_at(name: str, *which: str) -> list[Array]:
        return [weights[f"{name}.{part}_proj.weight"].T for part in which]

    def norm_at(name: str) -> RMSNorm:
        return RMSNorm(1.0 + weights[f"{name}.weight"], cfg.rms_norm_eps)

    blocks = tuple(
        Block(
            norm_at(f"layers.{i}.input_layernorm"),
            Attention(*matrices_at(f"layers.{i}.self_attn", "q", "k", "v", "o")),
            norm_at(f"layers.{i}.post_attention_layernorm"),
            norm_at(f"layers.{i}.pre_feedforward_layernorm"),
            MLP(*matrices_at(f"layers.{i}.mlp", "gate", "up", "down")),
            norm_at(f"layers.{i}.post_feedforward_layernorm"),
        )
        for i in range(cfg.n_layer)
    )
    wte = weights["embed_tokens.weight"]
    return Gemma2(wte, blocks, norm_at("norm"), weights.get("lm_head.weight", wte))


def parameter_shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter that a checkpoint must have (lm_head.weight is optional)."""
    d, m, heads, groups = cfg.n_embd, cfg.d_mlp, cfg.n_head * cfg.d_head, cfg.n_kv_head * cfg.d_head
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (heads, d),
        "self_attn.k_proj": (groups, d),
        "self_attn.v_proj": (groups, d),
        "self_attn.o_proj": (d, heads),
        "post_attention_layernorm": (d,),
        "pre_feedforward_layernorm": (d,),
        "mlp.gate_proj": (m, d),
        "mlp.up_proj": (m, d),
        "mlp.down_proj": (d, m),
        "post_feedforward_layernorm": (d,),
    }
    layers = {f"layers.{i}.{name}.weight": shape for i in range(cfg.n_layer) for name, shape in block.items()}
    return {"embed_tokens.weight": (cfg.vocab_size, d)} | layers | {"norm.weight": (d,)}
