"""GPT-2, the whole forward pass (Radford et al. 2019).

Tokens become vectors. Each vector travels down its own *residual stream*, which every block reads and
adds to: attention brings in what other positions know, the MLP works on each position alone. At the
end each vector is compared with every token's embedding, and the nearest token is the prediction.

Every line `x = step("name", operation, inputs...)` computes `operation(inputs...)`. What `step` does
besides (finding memory, recording the result under its name) is told in `step.py`; the operations are in
`ops.py`. The comment behind a line is the shape of its result; `pos` counts tokens. Parameters have
their names in the released checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt2np.config import Config
from gpt2np.ops import (
    ACTIVATIONS,
    Array,
    LayerNorm,
    Linear,
    add,
    layer_norm,
    linear,
    lookup,
    mix,
    scaled_scores,
    softmax,
    unembedding,
)
from gpt2np.step import SequenceStep, Step


def forward(p: "GPT2", cfg: Config, step: Step) -> Array:
    """A pass over the tokens of `step`: the logits [pos, vocab], or the residual stream if stopped early."""
    first, x = step.start or (0, embed(p, step))
    for layer, block_parameters in enumerate(p.h[first:], first):
        if layer == step.stop_at_layer:
            return x
        x = block(x, block_parameters, cfg, layer, step.block(layer))
    return x if cfg.n_layer == step.stop_at_layer else unembed(x, p, step)


def embed(p: "GPT2", step: Step) -> Array:
    """What a token is plus where it stands: -> [pos, n_embd]."""
    token = step("wte", lookup, step.token_ids, p.wte)  # [pos, n_embd]
    position = step("wpe", lookup, step.positions, p.wpe)  # [pos, n_embd]
    return step("embed", add, token, position)  # [pos, n_embd]


def block(x: Array, p: "Block", cfg: Config, layer: int, step: Step) -> Array:
    """Read the residual stream, add to it, twice: [pos, n_embd] -> [pos, n_embd]."""
    a = step("ln_1", layer_norm, x, p.ln_1)  # [pos, n_embd]
    a = attention(a, p.attn, cfg.attention_scale(layer), step.at("attn"))
    x = step("resid_mid", add, x, a)  # [pos, n_embd]
    m = step("ln_2", layer_norm, x, p.ln_2)  # [pos, n_embd]
    m = mlp(m, p.mlp, cfg, step.at("mlp"))
    return step("resid_post", add, x, m)  # [pos, n_embd]


def attention(x: Array, p: "Attention", scale: float, step: Step) -> Array:
    """Each position gathers from itself and those before it: [pos, n_embd] -> [pos, n_embd].

    This is the only place where positions meet.
    """
    qkv = step("qkv", linear, x, p.c_attn)  # [pos, 3*n_embd]
    step.each_sequence(attend, qkv, scale)  # several prompts in one pass do not see each other
    return step("out", linear, step.merged("z"), p.c_proj)  # [pos, n_embd]


def attend(qkv: Array, scale: float, seq: SequenceStep) -> None:
    """Every head asks a question (query), finds who answers it (key), and averages what they say (value)."""
    q, k, v = seq.heads(qkv)  # each [pos, head, d_head]; k and v include the past
    scores = seq.step("scores", scaled_scores, q, k, scale)  # [head, query, key], -inf in the future
    pattern = seq.step("pattern", softmax, scores)  # [head, query, key], rows sum to 1
    seq.step("z", mix, pattern, v)  # [pos, head, d_head]


def mlp(x: Array, p: "MLP", cfg: Config, step: Step) -> Array:
    """Each position thinks by itself: d_mlp neurons read, fire, and write: [pos, n_embd] -> [pos, n_embd]."""
    x = step("pre", linear, x, p.c_fc)  # [pos, d_mlp]
    x = step("post", ACTIVATIONS[cfg.activation_function], x)  # [pos, d_mlp]
    return step("out", linear, x, p.c_proj)  # [pos, n_embd]


def unembed(x: Array, p: "GPT2", step: Step) -> Array:
    """Compare each final vector with every token: [pos, n_embd] -> [pos, vocab]."""
    x = step("ln_f", layer_norm, x, p.ln_f)  # [pos, n_embd]
    return step("logits", unembedding, step.predicting(x), p.lm_head)  # [pos, vocab]


# The parameters, in the shapes of the released checkpoints.


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


class GPT2(NamedTuple):
    """All parameters; lm_head [vocab, n_embd] is wte itself unless the checkpoint has one of its own."""

    wte: Array
    wpe: Array
    h: Sequence[Block]
    ln_f: LayerNorm
    lm_head: Array


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
    these weights once more; weights that somebody may still change are left as they are.
    """

    def laid_out(linear: Linear) -> Linear:
        weight = linear.weight
        return linear if weight.flags.writeable else linear._replace(weight=weight.T.copy().T)

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
