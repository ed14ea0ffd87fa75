"""What the page says beside each part of GPT-Neo: GPT-2's words, but for what attention does otherwise."""

from gpt2np.tracing.contract import ModelConfig
from gpt2np.viewer import parts_of_gpt2
from gpt2np.viewer.model_parts import Part

_OWN = {
    "attn.q": Part(
        "attn.q",
        "Query",
        "ln_1 · W_Q",
        "q = ln_1 · W_Q",
        "What this position looks for, as a short vector; every head has one of its own, without a bias. "
        "Only its dot products with keys matter, so single components of it mean nothing by themselves.",
    ),
    "attn.k": Part(
        "attn.k",
        "Key",
        "ln_1 · W_K",
        "k = ln_1 · W_K",
        "What this position offers to be found by. Later positions hold their queries against it. In "
        "generation it is kept, with the value: that is the KV cache. Local layers keep all of it, too.",
    ),
    "attn.v": Part(
        "attn.v",
        "Value",
        "ln_1 · W_V",
        "v = ln_1 · W_V",
        "What this position hands over to whoever attends to it. Where to look and what to take are decided "
        "apart: queries and keys are the first, values and the output matrix the second.",
    ),
    "attn.scores": Part(
        "attn.scores",
        "Attention scores",
        "q · kᵀ",
        "scores = q · kᵀ,  −∞ where the query does not look",
        "How well each earlier key answers this query; nothing divides by √d_head. A query of a local layer "
        "sees its own position and those just before it, as many as the window holds; all others, and the "
        "future, get minus infinity.",
    ),
    "attn.pattern": Part(
        "attn.pattern",
        "Attention pattern",
        "softmax(q · kᵀ)",
        "pattern = softmax(scores)",
        "The scores as shares that add up to 1: how much this head takes from each position. A head with "
        "nothing to do often rests on the first token, which soon lies outside a local layer's window.",
    ),
}

PARTS = tuple(_OWN.get(part.site, part) for part in parts_of_gpt2.PARTS)
UNSHOWN = ()


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """The parts in the order of execution."""
    return PARTS
