"""What is known about each part of a model: sentences and their sources, for cards and for posters.

They follow the headings of Dolan's "A Vector-Level View of GPT-2", in words of our own, with the numbers of
the model at hand.
"""

from typing import NamedTuple

from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.lines import ends_with_a_shift

FRAMEWORK = ("Elhage et al. 2021", "https://transformer-circuits.pub/2021/framework/")
DOLAN = ("Dolan 2024", "https://jeremydolan.net/transformer-view")
TRANSFORMER = ("Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762")
LAYER_NORM = ("Ba et al. 2016", "https://arxiv.org/abs/1607.06450")
RMS_NORM = ("Zhang and Sennrich 2019", "https://arxiv.org/abs/1910.07467")
GELU = ("Hendrycks and Gimpel 2016", "https://arxiv.org/abs/1606.08415")
TOY_MODELS = ("Elhage et al. 2022", "https://transformer-circuits.pub/2022/toy_model/")
FEATURES = ("Olah et al. 2020", "https://distill.pub/2020/circuits/zoom-in/")
BASIS = ("Elhage et al. 2023", "https://transformer-circuits.pub/2023/privileged-basis/")
GPT2 = (
    "Radford et al. 2019",
    "https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
)
ROTATION = ("Su et al. 2021", "https://arxiv.org/abs/2104.09864")
GROUPS = ("Ainslie et al. 2023", "https://arxiv.org/abs/2305.13245")
WINDOW = ("Beltagy et al. 2020", "https://arxiv.org/abs/2004.05150")
GATES = ("Shazeer 2020", "https://arxiv.org/abs/2002.05202")
GEMMA2 = ("Gemma team 2024", "https://arxiv.org/abs/2408.00118")
GLOSSARY = ("Nanda, glossary", "https://dynalist.io/d/n2ZWtnoYHrU1s4vnFSAQ519J")


class Note(NamedTuple):
    """One note: its title, the sites that it is about, what it says, and its source with the address."""

    title: str
    sites: tuple[str, ...]
    text: str
    source: str
    address: str


def notes(config: ModelConfig) -> tuple[Note, ...]:
    """Return the notes on a model's parts, in the order of execution; none about what it does not have."""
    table = config.architecture.sites
    made = (*_beginning(config), *_attention(config), *_otherwise(config), *_mlp(config), *_end(config))
    return tuple(note for note in made if not note.sites or any(site in table for site in note.sites))


def _beginning(c: ModelConfig) -> tuple[Note, ...]:
    norm = (
        "LayerNorm brings each vector to mean 0 and variance 1, then multiplies by a learned γ and adds a "
        "learned β, component by component. Every read of the stream goes through one. Whether it computes "
        "anything that matters, or only keeps training stable, is an open question; RMSNorm has mostly "
        "replaced it since."
    )
    return (
        Note(
            "Tokenizer",
            (),
            f"Cuts the text into pieces from a fixed list of {c.vocab_size:,}. It stands before the model "
            "and is no part of it: from the embedding on there are vectors only.",
            *GPT2,
        ),
        Note(
            "Embedding matrix",
            ("wte",),
            f"A learned table of {c.vocab_size:,} rows of {c.n_embd} numbers. What a token means is thought "
            "to lie in directions of this space; single components are not meant to mean anything.",
            *FEATURES,
        ),
        Note(
            "Position matrix",
            ("wpe",),
            f"Attention by itself does not know order, so each of {c.n_positions:,} positions has a learned "
            "vector of its own. There is none for a later position: there the context ends.",
            *DOLAN,
        ),
        Note(
            "Residual stream",
            ("embed", "resid_mid", "resid_post"),
            "It computes nothing; it carries. Blocks read it through linear maps and add to it, so that "
            "what an early block wrote reaches all later ones, in training the gradient runs back through "
            "the same additions, and a model is a sum over paths. Blocks may use different subspaces of it, "
            "and some erase what others wrote.",
            *FRAMEWORK,
        ),
        Note(
            "Superposition",
            ("resid_mid",),
            f"The stream has {c.n_embd} dimensions for far more features than that: they share directions "
            "that are nearly at right angles, which makes single numbers hard to read. In practice some "
            "dimensions stand out all the same, probably because of the optimizer.",
            *BASIS,
        ),
        Note("Layer normalization", ("ln_1", "ln_2", "ln_f"), norm, *LAYER_NORM)
        if ends_with_a_shift(c)
        else Note(
            "RMS normalization",
            ("ln_1", "ln_2", "ln_f"),
            "Each vector is divided by its root mean square and multiplied by a learned γ; no mean is taken "
            "away and nothing is added.",
            *RMS_NORM,
        ),
    )


def _attention(c: ModelConfig) -> tuple[Note, ...]:
    return (
        Note(
            "Attention heads",
            ("attn.heads",),
            f"{c.n_head} heads work side by side in each layer, each with matrices of its own, and are the "
            "only place where something moves from one position to another. Their outputs are simply added: "
            "no head needs another.",
            *FRAMEWORK,
        ),
        Note(
            "Query, key and value",
            ("attn.q", "attn.k", "attn.v"),
            f"Three learned maps from {c.n_embd} to {c.d_head} numbers: each head reads three small "
            "subspaces of the stream. Rotate queries and keys together and no score changes: by themselves "
            "they mean little.",
            *FRAMEWORK,
        ),
        Note(
            "Causal attention",
            ("attn.scores",),
            "Each query is held against the keys of its own and of earlier positions only. So all positions "
            "can be trained at once, and what is computed for a position never changes when the text goes "
            "on.",
            *TRANSFORMER,
        ),
        Note(
            "Attention pattern",
            ("attn.pattern",),
            "Softmax turns the scores into shares: each row adds up to 1, and says how much each value "
            "counts in the average. A head that finds nothing tends to rest on the first token.",
            *DOLAN,
        ),
        Note(
            "QK circuit",
            ("attn.scores", "attn.pattern"),
            "Where to look is decided by queries and keys together, a matrix of low rank on pairs of stream "
            "vectors. In later layers it compares not words, but all that has been gathered about them.",
            *FRAMEWORK,
        ),
        Note(
            "Result vectors",
            ("attn.z",),
            f"The average of the values by the pattern: {c.d_head} numbers for each head and position.",
            *DOLAN,
        ),
        Note(
            "OV circuit",
            ("attn.v", "attn.z", "attn.heads"),
            "What is moved is decided by values and the output matrix together, whatever the pattern. What "
            "a head takes from a position need not be about the word that stands there: it may have been "
            "brought from elsewhere.",
            *FRAMEWORK,
        ),
        Note(
            "Output matrix",
            ("attn.out", "attn.heads"),
            "Programs put all results side by side and multiply once. A slice of the matrix for each head "
            "gives the same sum, and one vector of each head that can be looked at by itself.",
            *FRAMEWORK,
        ),
    )


def _otherwise(c: ModelConfig) -> tuple[Note, ...]:
    """What only some models have."""
    made = [
        Note(
            "Rotation",
            ("attn.q_rot", "attn.k_rot"),
            "Queries and keys are turned by angles that grow with their position. Their product then "
            "depends on how far apart they stand, and on nothing else of the order of words.",
            *ROTATION,
        ),
        Note(
            "Gates",
            ("mlp.up",),
            "Each neuron has two halves: how far it is open, and what it would write. It writes their "
            "product, which may have either sign.",
            *GATES,
        ),
    ]
    windows = [window for layer in range(c.n_layer) if (window := c.window(layer))]
    if windows:
        text = (
            f"{len(windows)} of {c.n_layer} layers look at the last {windows[0]:,} positions only; what lies "
            "further back reaches them through the stream, through layers that see everything."
        )
        made.append(Note("Window", ("attn.pattern",), text, *WINDOW))
    if c.n_kv_head < c.n_head:
        text = (
            f"{c.n_head} query heads share {c.n_kv_head} key and value heads, which makes the cache of a "
            "generation as much smaller; each still decides for itself where to look."
        )
        made.append(Note("Groups", ("attn.k", "attn.v"), text, *GROUPS))
    if "logits_raw" in c.architecture.sites:
        text = (
            "A tanh bends large numbers, so that none passes the cap, and leaves small ones nearly as they "
            "are: no single token can run away."
        )
        made.append(Note("Soft cap", ("logits",), text, *GEMMA2))
    return tuple(made)


def _mlp(c: ModelConfig) -> tuple[Note, ...]:
    bend = "GELU" if c.activation_function.startswith("gelu") else c.activation_function
    return (
        Note(
            "MLP",
            ("mlp.out",),
            "Works on each position by itself: widens its vector, bends it, narrows it again. MLPs hold "
            "about two thirds of the blocks’ parameters, and have been found to hold facts, to combine "
            "features, and to amplify or erase what is there.",
            *DOLAN,
        ),
        Note(
            "Up projection",
            ("mlp.pre",),
            f"From {c.n_embd} to {c.d_mlp:,} numbers: each column asks a question of the vector, and a dot "
            "product answers it. Most neurons respond to several unrelated things.",
            *TOY_MODELS,
        ),
        Note(
            bend,
            ("mlp.post",),
            f"{bend} acts on each neuron alone, which makes single neurons worth looking at (a privileged "
            "basis). It is what makes the model more than a chain of matrices.",
            *(GELU if bend == "GELU" else FRAMEWORK),
        ),
        Note(
            "Down projection",
            ("mlp.out", "mlp.proj"),
            f"From {c.d_mlp:,} back to {c.n_embd}: each row is a direction that its neuron adds to the "
            "stream, as strongly as it fired.",
            *DOLAN,
        ),
    )


def _end(c: ModelConfig) -> tuple[Note, ...]:
    return (
        Note(
            "Unembedding",
            ("logits",),
            f"Each of {c.vocab_size:,} logits is a dot product of the final vector with one token’s row: how "
            "much the two are alike, by direction and length. To continue a text, only the last position "
            "is needed.",
            *DOLAN,
        ),
        Note(
            "Tied weights",
            ("logits",),
            "Where one table both embeds tokens and scores predictions, millions of parameters are saved, "
            "though the two tasks are not the same.",
            *GLOSSARY,
        ),
        Note(
            "Decoding",
            (),
            "From logits to a token: take the largest (greedy), or sharpen or flatten them by a "
            "temperature, keep the k likeliest (top-k) or those that make up p (top-p), and draw. Penalties "
            "may lower what was said already.",
            *DOLAN,
        ),
    )
