"""GPT-2, the whole forward pass (Radford et al. 2019).

Tokens become vectors. Each vector travels down its own *residual stream*, which every block reads and
adds to: attention brings in what other positions know, the MLP works on each position alone. At the
end each vector is compared with every token's embedding, and the nearest token is the prediction.

Every line `x = step("name", operation, inputs...)` computes `operation(inputs...)`. What `step` does
besides (finding memory, recording the result under its name) is told in `tracing/step.py`; the operations
are in `ops/`, the parameters in `weights.py`. The comment behind a line is the shape of its result; `pos`
counts tokens.
"""

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.architectures.gpt2.weights import GPT2, MLP, Attention, Block
from gpt2np.ops import (
    ACTIVATIONS,
    Array,
    add,
    layer_norm,
    linear,
    lookup,
    mix,
    scaled_scores,
    softmax,
    unembedding,
)
from gpt2np.tracing.step import SequenceStep, Step


def forward(p: GPT2, cfg: Config, step: Step) -> Array:
    """A pass over the tokens of `step`: the logits [pos, vocab], or the residual stream if stopped early."""
    first, x = step.start or (0, embed(p, step))
    for layer in range(first, cfg.n_layer):
        if layer == step.stop_at_layer:
            return x
        x = block(x, p.h[layer], cfg, layer, step.block(layer))
    return x if cfg.n_layer == step.stop_at_layer else unembed(x, p, step)


def embed(p: GPT2, step: Step) -> Array:
    """What a token is plus where it stands: -> [pos, n_embd]."""
    token = step("wte", lookup, step.token_ids, p.wte)  # [pos, n_embd]
    position = step("wpe", lookup, step.positions, p.wpe)  # [pos, n_embd]
    return step("embed", add, token, position)  # [pos, n_embd]


def block(x: Array, p: Block, cfg: Config, layer: int, step: Step) -> Array:
    """Read the residual stream, add to it, twice: [pos, n_embd] -> [pos, n_embd]."""
    a = step("ln_1", layer_norm, x, p.ln_1)  # [pos, n_embd]
    a = attention(a, p.attn, cfg, layer, step.at("attn"))
    x = step("resid_mid", add, x, a)  # [pos, n_embd]
    m = step("ln_2", layer_norm, x, p.ln_2)  # [pos, n_embd]
    m = mlp(m, p.mlp, cfg, step.at("mlp"))
    return step("resid_post", add, x, m)  # [pos, n_embd]


def attention(x: Array, p: Attention, cfg: Config, layer: int, step: Step) -> Array:
    """Each position gathers from itself and those before it: [pos, n_embd] -> [pos, n_embd].

    This is the only place where positions meet.
    """
    qkv = step("qkv", linear, x, p.c_attn)  # [pos, 3*n_embd]
    q, k, v = split_qkv(qkv, cfg.n_head)  # views of it, each [pos, head, d_head]
    step.each_sequence(attend, q, k, v, cfg.attention_scale(layer))  # prompts do not see each other
    return step("out", linear, step.merged("z"), p.c_proj)  # [pos, n_embd]


def attend(q: Array, k: Array, v: Array, scale: float, seq: SequenceStep) -> None:
    """Every head asks a question (query), finds who answers it (key), and averages what they say (value)."""
    q, k, v = seq.own("q", q), seq.all("k", k), seq.all("v", v)  # k and v include the past
    scores = seq.step("scores", scaled_scores, q, k, scale)  # [head, query, key], -inf in the future
    pattern = seq.step("pattern", softmax, scores)  # [head, query, key], rows sum to 1
    seq.step("z", mix, pattern, v)  # [pos, head, d_head]


def mlp(x: Array, p: MLP, cfg: Config, step: Step) -> Array:
    """Each position thinks by itself: d_mlp neurons read, fire, and write: [pos, n_embd] -> [pos, n_embd]."""
    x = step("pre", linear, x, p.c_fc)  # [pos, d_mlp]
    x = step("post", ACTIVATIONS[cfg.activation_function], x)  # [pos, d_mlp]
    return step("out", linear, x, p.c_proj)  # [pos, n_embd]


def unembed(x: Array, p: GPT2, step: Step) -> Array:
    """Compare each final vector with every token: [pos, n_embd] -> [pos, vocab]."""
    x = step("ln_f", layer_norm, x, p.ln_f)  # [pos, n_embd]
    return step("logits", unembedding, step.predicting(x), p.lm_head)  # [pos, vocab]
