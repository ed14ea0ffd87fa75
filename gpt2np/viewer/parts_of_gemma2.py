"""What the page says beside each part of Gemma-2, with the numbers of the model at hand."""

from typing import cast

from gpt2np.architectures.gemma2.config import Config
from gpt2np.tracing.contract import ModelConfig
from gpt2np.viewer.model_parts import Part

LAYERS = ("sliding", "full")  # what layers are called that look only so far back, and those that do not
UNSHOWN = ()

_RMS = "x / √(mean of x² + ε) · γ"


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """The parts in the order of execution."""
    c = cast(Config, config)
    return (*_beginning(c), *_attention(c), *_mlp(c), *_end(c))


def _number(x: float) -> str:
    return f"{x:.6g}"


def _beginning(c: Config) -> tuple[Part, ...]:
    return (
        Part(
            "wte",
            "Token embedding",
            "W_E[token id]",
            "wte = W_E[token id]",
            "Each token has one row in a learned table, and this is it: what the token means wherever it "
            "stands. From here on the model has no tokens any more, only vectors.",
        ),
        Part(
            "embed",
            "The residual stream begins",
            "√n_embd · wte",
            f"x = √{c.n_embd} · wte",
            "The row of the token, made longer: the same table reads out predictions at the end, and is not "
            "scaled there. Nothing says yet where the token stands: only queries and keys will. This vector "
            "now travels down through every block, and a block only ever adds to it.",
        ),
        Part(
            "ln_1",
            "RMSNorm: what attention reads",
            "RMSNorm(stream)",
            f"ln_1 = {_RMS}",
            "The stream grows as blocks add to it. Before a block reads, each vector is divided by its root "
            "mean square, then given a learned scale; nothing is subtracted and nothing added. It is a copy: "
            "the stream itself stays as it was.",
        ),
    )


def _attention(c: Config) -> tuple[Part, ...]:
    each = c.n_head // c.n_kv_head
    shared = f"{each} query heads share each" if each > 1 else "each query head has its own"
    scale = f"√{_number(c.query_pre_attn_scalar)}"
    cap = c.attn_logit_softcapping
    scores, bent = f"q_rot · k_rotᵀ / {scale}", ""
    if cap is not None:
        scores = f"{_number(cap)} · tanh({scores} / {_number(cap)})"
        bent = f" The tanh bends them, so that none passes {_number(cap)}."
    return (
        Part(
            "attn.q",
            "Query",
            "ln_1 · W_Q",
            "q = ln_1 · W_Q",
            "What this position looks for, as a short vector; every head has one of its own. Only its dot "
            "products with keys matter, so single components of it mean nothing by themselves.",
        ),
        Part(
            "attn.k",
            "Key",
            "ln_1 · W_K",
            "k = ln_1 · W_K",
            f"What this position offers to be found by; {shared}. Later positions hold their queries "
            "against it, once both are turned.",
        ),
        Part(
            "attn.v",
            "Value",
            "ln_1 · W_V",
            "v = ln_1 · W_V",
            f"What this position hands over to whoever attends to it; {shared}. Where to look and what to "
            "take are decided apart: queries and keys are the first, values and the output matrix the "
            "second.",
        ),
        Part(
            "attn.q_rot",
            "Query, turned",
            "rotate(q, position)",
            f"(x₁, x₂) → (x₁ cos − x₂ sin, x₂ cos + x₁ sin),  angle = position · {_number(c.rope_theta)}"
            "^(−2j / d_head)",
            "Component j and the one half a head further are turned together, by an angle that grows with "
            "the position: fast for the first pairs, slowly for the last. The length stays. A dot product of "
            "turned vectors depends on how far apart they stand: this is all that the model knows of order.",
        ),
        Part(
            "attn.k_rot",
            "Key, turned",
            "rotate(k, position)",
            f"(x₁, x₂) → (x₁ cos − x₂ sin, x₂ cos + x₁ sin),  angle = position · {_number(c.rope_theta)}"
            "^(−2j / d_head)",
            "The key, turned as the query is. In generation this is kept, with the value: that is the KV "
            "cache. Sliding layers keep all of it, too.",
        ),
        Part(
            "attn.scores",
            "Attention scores",
            scores,
            f"scores = {scores},  −∞ where the query does not look",
            f"How well each earlier key answers this query.{bent} A query of a sliding layer sees its own "
            "position and those just before it, as many as the window holds; all others, and the future, get "
            "minus infinity.",
        ),
        Part(
            "attn.pattern",
            "Attention pattern",
            "softmax(scores)",
            "pattern = softmax(scores)",
            "The scores as shares that add up to 1: how much this head takes from each position. A head with "
            "nothing to do often rests on the first token, which soon lies outside a sliding layer's window.",
        ),
        Part(
            "attn.z",
            "Result of each head",
            "Σ pattern · v",
            "z = Σ pattern[key] · v[key]",
            "The average of the values, weighted by the pattern. Here, and only here, something moves from "
            "one position to another.",
        ),
        Part(
            "attn.proj",
            "All heads put together",
            "z · W_O",
            "proj = z · W_O",
            "The heads' results side by side, brought to the width of the stream. They are not added to it "
            "yet: a norm comes first.",
        ),
        Part(
            "attn.heads",
            "Output of each head",
            "z · W_O, by head, normalised",
            "head output = z[head] · W_O[head] / √(mean of proj² + ε) · γ",
            "Each head's share of what attention writes: its result by its own slice of the output matrix, "
            "normalised at the scale that all heads had together. The shares add up to attn.out.",
            "attn.proj",
        ),
        Part(
            "attn.out",
            "What attention writes",
            "RMSNorm(proj)",
            f"out = {_RMS},  x = proj",
            "The second norm of the block: what the heads found is brought to a learned size before it goes "
            "into the stream, by plain addition.",
        ),
        Part(
            "resid_mid",
            "The stream after attention",
            "stream + out",
            "x = x + RMSNorm(attention(ln_1(x)))",
            "The stream plus what the heads brought from other positions.",
        ),
    )


def _mlp(c: Config) -> tuple[Part, ...]:
    name = "GELU" if c.activation_function.startswith("gelu") else c.activation_function
    return (
        Part(
            "ln_2",
            "RMSNorm: what the MLP reads",
            "RMSNorm(stream)",
            f"ln_2 = {_RMS}",
            "The third norm of the block: the stream after attention, normalised, with a learned scale.",
        ),
        Part(
            "mlp.pre",
            "Gates before activation",
            "ln_2 · W_gate",
            "pre = ln_2 · W_gate",
            "Each neuron asks of the vector how far it should open. There are several times more neurons "
            "than components; the strip is folded into rows as wide as the stream.",
        ),
        Part(
            "mlp.act",
            "Gates after activation",
            f"{name}(pre)",
            f"act = {name}(pre)",
            "How far each neuron is open: large positive answers pass, negative ones nearly shut it.",
        ),
        Part(
            "mlp.up",
            "What neurons would say",
            "ln_2 · W_up",
            "up = ln_2 · W_up",
            "What each neuron would write if its gate were open, and with which sign.",
        ),
        Part(
            "mlp.post",
            "Neurons",
            "act · up",
            "post = act · up, neuron by neuron",
            "Gate times what it lets through. Most neurons are quiet for most tokens; those far from 0, on "
            "either side, say what the layer found.",
        ),
        Part(
            "mlp.proj",
            "What the neurons add up to",
            "post · W_out",
            "proj = post · W_out",
            "Every neuron adds its own direction, as strongly as it fired. Positions do not meet here: the "
            "MLP works on what attention has already brought.",
        ),
        Part(
            "mlp.out",
            "What the MLP writes",
            "RMSNorm(proj)",
            f"out = {_RMS},  x = proj",
            "The fourth norm of the block: what the neurons add up to is brought to a learned size before "
            "it goes into the stream.",
        ),
    )


def _end(c: Config) -> tuple[Part, ...]:
    cap = c.final_logit_softcapping
    logits, bent = "ln_f · W_Uᵀ", ""
    if cap is not None:
        logits = f"{_number(cap)} · tanh({logits} / {_number(cap)})"
        bent = (
            f" The tanh bends them, so that none passes {_number(cap)}: contributions add up to the "
            "logits before the cap."
        )
    return (
        Part(
            "resid_post",
            "The stream after the block",
            "stream + out",
            "x = x + RMSNorm(mlp(ln_2(x)))",
            "What this block leaves to the next. Read it out here, and you see what the model would already "
            "say: that is the logit lens.",
        ),
        Part(
            "ln_f",
            "Final RMSNorm",
            "RMSNorm(stream)",
            f"ln_f = {_RMS}",
            "The last normalisation, before the vector is compared with the vocabulary.",
        ),
        Part(
            "logits",
            "Unembedding and prediction",
            logits,
            f"logits = {logits},  probabilities = softmax(logits)",
            f"One dot product with each token's row: how near is this vector to each?{bent} Softmax turns "
            "the scores into probabilities. To continue the text, only the last position is needed.",
        ),
    )
