"""GPT-Neo, the whole forward pass (Black et al. 2021): GPT-2's, with three differences in attention.

Queries, keys and values have a matrix each, and no bias. Their dot products are not scaled. And every other
layer is *local*: a query sees its own position and those just before it, no more than `window_size` together;
that is the `window` below. The rest is told in `architectures/gpt2/forward.py`.
"""

from gpt2np.architectures.gpt_neo.config import Config
from gpt2np.architectures.gpt_neo.weights import MLP, Attention, Block, GPTNeo
from gpt2np.ops import (
    ACTIVATIONS,
    Array,
    add,
    dot_scores,
    layer_norm,
    linear,
    lookup,
    mix,
    project,
    softmax,
    unembedding,
)
from gpt2np.tracing.step import SequenceStep, Step


def forward(p: GPTNeo, cfg: Config, step: Step) -> Array:
    """A pass over the tokens of `step`: the logits [pos, vocab], or the residual stream if stopped early."""
    first, x = step.start or (0, embed(p, step))
    for layer in range(first, cfg.n_layer):
        if layer == step.stop_at_layer:
            return x
        x = block(x, p.h[layer], cfg, layer, step.block(layer))
    return x if cfg.n_layer == step.stop_at_layer else unembed(x, p, step)


def embed(p: GPTNeo, step: Step) -> Array:
    """What a token is plus where it stands: -> [pos, n_embd]."""
    token = step("wte", lookup, step.token_ids, p.wte)  # [pos, n_embd]
    position = step("wpe", lookup, step.positions, p.wpe)  # [pos, n_embd]
    return step("embed", add, token, position)  # [pos, n_embd]


def block(x: Array, p: Block, cfg: Config, layer: int, step: Step) -> Array:
    """Read the residual stream, add to it, twice: [pos, n_embd] -> [pos, n_embd]."""
    a = step("ln_1", layer_norm, x, p.ln_1)  # [pos, n_embd]
    a = attention(a, p.attn, cfg.window(layer), step.at("attn"))
    x = step("resid_mid", add, x, a)  # [pos, n_embd]
    m = step("ln_2", layer_norm, x, p.ln_2)  # [pos, n_embd]
    m = mlp(m, p.mlp, cfg, step.at("mlp"))
    return step("resid_post", add, x, m)  # [pos, n_embd]


def attention(x: Array, p: Attention, window: int | None, step: Step) -> Array:
    """Each position gathers from itself and those before it: [pos, n_embd] -> [pos, n_embd].

    This is the only place where positions meet.
    """
    q = step("q", project, x, p.q_proj)  # [pos, head, d_head]
    k = step("k", project, x, p.k_proj)  # [pos, head, d_head]
    v = step("v", project, x, p.v_proj)  # [pos, head, d_head]
    step.each_sequence(attend, q, k, v, window)  # prompts do not see each other
    return step("out", linear, step.merged("z"), p.out_proj)  # [pos, n_embd]


def attend(q: Array, k: Array, v: Array, window: int | None, seq: SequenceStep) -> None:
    """Every head asks a question (query), finds who answers it (key), and averages what they say (value)."""
    q, k, v = seq.own("q", q), seq.all("k", k), seq.all("v", v)  # k and v include the past
    scores = seq.step("scores", dot_scores, q, k, window)  # [head, query, key], -inf where not seen
    pattern = seq.step("pattern", softmax, scores)  # [head, query, key], rows sum to 1
    seq.step("z", mix, pattern, v)  # [pos, head, d_head]


def mlp(x: Array, p: MLP, cfg: Config, step: Step) -> Array:
    """Each position thinks by itself: d_mlp neurons read, fire, and write: [pos, n_embd] -> [pos, n_embd]."""
    x = step("pre", linear, x, p.c_fc)  # [pos, d_mlp]
    x = step("post", ACTIVATIONS[cfg.activation_function], x)  # [pos, d_mlp]
    return step("out", linear, x, p.c_proj)  # [pos, n_embd]


def unembed(x: Array, p: GPTNeo, step: Step) -> Array:
    """Compare each final vector with every token: [pos, n_embd] -> [pos, vocab]."""
    x = step("ln_f", layer_norm, x, p.ln_f)  # [pos, n_embd]
    return step("logits", unembedding, step.predicting(x), p.lm_head)  # [pos, vocab]
