"""Gemma-2, the whole forward pass (Gemma Team 2024).

Told against GPT-2 (`architectures/gpt2/forward.py`, which says what `step` does): there is no table of
positions; instead queries and keys are turned by where they stand. Several query heads share a key and value
head. Every norm is an RMSNorm, and there is one more behind attention and MLP, before they add to the
residual stream. The MLP has two halves, of which one is a gate for the other. Scores and logits are bent
towards a cap. And every other layer is *sliding*: a query sees its own position and those just before it, no
more than `sliding_window` together; that is the `window` below.
"""

from gpt2np.architectures.gemma2.config import Config
from gpt2np.architectures.gemma2.weights import MLP, Attention, Block, Gemma2
from gpt2np.ops import (
    ACTIVATIONS,
    Array,
    Turn,
    add,
    capped_scores,
    capped_unembedding,
    lookup,
    mix,
    product,
    project,
    rms_norm,
    rotate,
    scaled,
    softmax,
    times,
    turn_of,
)
from gpt2np.tracing.step import SequenceStep, Step


def forward(p: Gemma2, cfg: Config, step: Step) -> Array:
    """A pass over the tokens of `step`: the logits [pos, vocab], or the residual stream if stopped early."""
    first, x = step.start or (0, embed(p, cfg, step))
    turn = turn_of(step.positions, cfg.rope_theta, cfg.d_head, x.dtype)  # how far each position is turned
    for layer in range(first, cfg.n_layer):
        if layer == step.stop_at_layer:
            return x
        x = block(x, p.h[layer], cfg, layer, turn, step.block(layer))
    return x if cfg.n_layer == step.stop_at_layer else unembed(x, p, cfg, step)


def embed(p: Gemma2, cfg: Config, step: Step) -> Array:
    """What a token is: -> [pos, n_embd]."""
    token = step("wte", lookup, step.token_ids, p.wte)  # [pos, n_embd]
    return step("embed", scaled, token, cfg.embedding_scale)  # [pos, n_embd]


def block(x: Array, p: Block, cfg: Config, layer: int, turn: Turn, step: Step) -> Array:
    """Read the residual stream, add to it, twice: [pos, n_embd] -> [pos, n_embd]."""
    a = step("ln_1", rms_norm, x, p.ln_1)  # [pos, n_embd]
    a = attention(a, p.attn, cfg, layer, turn, step.at("attn"))
    a = step("attn.out", rms_norm, a, p.ln_1_post)  # [pos, n_embd]
    x = step("resid_mid", add, x, a)  # [pos, n_embd]
    m = step("ln_2", rms_norm, x, p.ln_2)  # [pos, n_embd]
    m = mlp(m, p.mlp, cfg, step.at("mlp"))
    m = step("mlp.out", rms_norm, m, p.ln_2_post)  # [pos, n_embd]
    return step("resid_post", add, x, m)  # [pos, n_embd]


def attention(x: Array, p: Attention, cfg: Config, layer: int, turn: Turn, step: Step) -> Array:
    """Each position gathers from itself and those before it: [pos, n_embd] -> [pos, n_embd].

    This is the only place where positions meet, and the only one that knows where a token stands.
    """
    q = step("q", project, x, p.q_proj)  # [pos, head, d_head]
    k = step("k", project, x, p.k_proj)  # [pos, kv_head, d_head]
    v = step("v", project, x, p.v_proj)  # [pos, kv_head, d_head]
    q = step("q_rot", rotate, q, turn)  # [pos, head, d_head]
    k = step("k_rot", rotate, k, turn)  # [pos, kv_head, d_head]
    step.each_sequence(attend, q, k, v, cfg, cfg.window(layer))  # prompts do not see each other
    return step("proj", product, step.merged("z"), p.o_proj)  # [pos, n_embd]


def attend(q: Array, k: Array, v: Array, cfg: Config, window: int | None, seq: SequenceStep) -> None:
    """Every head asks a question (query), finds who answers it (key), and averages what they say (value)."""
    q, k, v = seq.own("q_rot", q), seq.all("k_rot", k), seq.all("v", v)  # k and v include the past
    scale, cap = cfg.attention_scale(0), cfg.attn_logit_softcapping
    scores = seq.step("scores", capped_scores, q, k, scale, cap, window)  # [head, query, key]
    pattern = seq.step("pattern", softmax, scores)  # [head, query, key], rows sum to 1
    seq.step("z", mix, pattern, v)  # [pos, head, d_head]


def mlp(x: Array, p: MLP, cfg: Config, step: Step) -> Array:
    """Each position thinks by itself: d_mlp neurons, each with a gate: [pos, n_embd] -> [pos, n_embd]."""
    gate = step("pre", product, x, p.gate_proj)  # [pos, d_mlp]
    gate = step("act", ACTIVATIONS[cfg.activation_function], gate)  # [pos, d_mlp]
    up = step("up", product, x, p.up_proj)  # [pos, d_mlp]
    x = step("post", times, gate, up)  # [pos, d_mlp]
    return step("proj", product, x, p.down_proj)  # [pos, n_embd]


def unembed(x: Array, p: Gemma2, cfg: Config, step: Step) -> Array:
    """Compare each final vector with every token: [pos, n_embd] -> [pos, vocab]."""
    x = step("ln_f", rms_norm, x, p.ln_f)  # [pos, n_embd]
    cap = cfg.final_logit_softcapping
    return step("logits", capped_unembedding, step.predicting(x), p.lm_head, cap)  # [pos, vocab]
