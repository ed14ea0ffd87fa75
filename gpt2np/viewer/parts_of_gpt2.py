"""What the page says beside each part of GPT-2."""

from gpt2np.tracing.contract import ModelConfig
from gpt2np.viewer.model_parts import Part

PARTS = (
    Part(
        "wte",
        "Token embedding",
        "W_E[token id]",
        "wte = W_E[token id]",
        "Each token has one row in a learned table, and this is it: what the token means wherever it stands. "
        "From here on the model has no tokens any more, only vectors.",
    ),
    Part(
        "wpe",
        "Position embedding",
        "W_P[position]",
        "wpe = W_P[position]",
        "Nothing in the rest of the model knows the order of the words. So each position has a learned "
        "vector of its own too. The table has as many rows as the context is long, and there the model ends.",
    ),
    Part(
        "embed",
        "The residual stream begins",
        "wte + wpe",
        "x = wte + wpe",
        "What the token is plus where it stands. This vector now travels down through every block. A block "
        "only ever adds to it, so whatever is written stays until something writes the opposite.",
    ),
    Part(
        "ln_1",
        "LayerNorm: what attention reads",
        "LayerNorm(stream)",
        "ln_1 = (x − mean) / √(variance + ε) · γ + β",
        "The stream grows as blocks add to it. Before a block reads, each vector is brought to mean 0 and "
        "variance 1, then given a learned scale and shift. It is a copy: the stream itself stays as it was.",
    ),
    Part(
        "attn.q",
        "Query",
        "ln_1 · W_Q + b_Q",
        "q = ln_1 · W_Q + b_Q",
        "What this position looks for, as a short vector; every head has one of its own. Only its dot "
        "products with keys matter, so single components of it mean nothing by themselves.",
    ),
    Part(
        "attn.k",
        "Key",
        "ln_1 · W_K + b_K",
        "k = ln_1 · W_K + b_K",
        "What this position offers to be found by. Later positions hold their queries against it. In "
        "generation it is kept, with the value: that is the KV cache.",
    ),
    Part(
        "attn.v",
        "Value",
        "ln_1 · W_V + b_V",
        "v = ln_1 · W_V + b_V",
        "What this position hands over to whoever attends to it. Where to look and what to take are decided "
        "apart: queries and keys are the first, values and the output matrix the second.",
    ),
    Part(
        "attn.scores",
        "Attention scores",
        "q · kᵀ / √d_head",
        "scores = q · kᵀ / √d_head,  −∞ in the future",
        "How well each earlier key answers this query. The future gets minus infinity: a position can only "
        "look back, or at itself.",
    ),
    Part(
        "attn.pattern",
        "Attention pattern",
        "softmax(q · kᵀ / √d)",
        "pattern = softmax(scores)",
        "The scores as shares that add up to 1: how much this head takes from each position. A head with "
        "nothing to do often rests on the first token.",
    ),
    Part(
        "attn.z",
        "Result of each head",
        "Σ pattern · v",
        "z = Σ pattern[key] · v[key]",
        "The average of the values, weighted by the pattern. Here, and only here, something moves from one "
        "position to another.",
    ),
    Part(
        "attn.heads",
        "Output of each head",
        "z · W_O, by head",
        "head output = z[head] · W_O[head]",
        "Each head's result, brought back to the width of the stream by its own slice of the output matrix. "
        "The program multiplies all heads at once, which gives the same sum: heads are independent.",
        "attn.out",
    ),
    Part(
        "attn.out",
        "What attention writes",
        "Σ outputs + b_O",
        "out = Σ head outputs + b_O",
        "All heads added up. It goes into the stream by plain addition.",
    ),
    Part(
        "resid_mid",
        "The stream after attention",
        "stream + out",
        "x = x + attention(ln_1(x))",
        "The stream plus what the heads brought from other positions.",
    ),
    Part(
        "ln_2",
        "LayerNorm: what the MLP reads",
        "LayerNorm(stream)",
        "ln_2 = (x − mean) / √(variance + ε) · γ + β",
        "The stream after attention, normalised in the same way, with a scale and shift of its own.",
    ),
    Part(
        "mlp.pre",
        "Neurons before activation",
        "ln_2 · W_in + b_in",
        "pre = ln_2 · W_in + b_in",
        "Each neuron asks one question of the vector: how much of my pattern is in it? There are several "
        "times more neurons than components; the strip is folded into rows as wide as the stream.",
    ),
    Part(
        "mlp.post",
        "Neurons after activation",
        "GELU(pre)",
        "post = GELU(pre)",
        "GELU lets positive answers pass and nearly silences negative ones. Most neurons are quiet for most "
        "tokens; the few that fire say what the layer found.",
    ),
    Part(
        "mlp.out",
        "What the MLP writes",
        "post · W_out + b_out",
        "out = post · W_out + b_out",
        "Every active neuron adds its own fixed direction, as strongly as it fired. Positions do not meet "
        "here: the MLP works on what attention has already brought.",
    ),
    Part(
        "resid_post",
        "The stream after the block",
        "stream + out",
        "x = x + mlp(ln_2(x))",
        "What this block leaves to the next. Read it out here, and you see what the model would already say: "
        "that is the logit lens.",
    ),
    Part(
        "ln_f",
        "Final LayerNorm",
        "LayerNorm(stream)",
        "ln_f = (x − mean) / √(variance + ε) · γ + β",
        "The last normalisation, before the vector is compared with the vocabulary.",
    ),
    Part(
        "logits",
        "Unembedding and prediction",
        "ln_f · W_Uᵀ",
        "logits = ln_f · W_Uᵀ,  probabilities = softmax(logits)",
        "One dot product with the embedding of every token: how near is this vector to each? Softmax turns "
        "the scores into probabilities. To continue the text, only the last position is needed.",
    ),
)

# Of a comparison only: the page shows queries, keys and values apart.
UNSHOWN = (
    Part(
        "attn.qkv",
        "Queries, keys and values",
        "ln_1 · W_Q + b_Q",
        "q = ln_1 · W_Q + b_Q",
        "Queries, keys and values of all heads, from one product.",
    ),
)


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """The parts in the order of execution."""
    return PARTS
