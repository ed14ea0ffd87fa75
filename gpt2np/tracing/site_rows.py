"""Rows that mean the same in the site tables of several architectures; names elsewhere come by dialect."""

from gpt2np.tracing.sites import Site, names_of


def token_embedding(**names: str) -> Site:
    """Rows of the table of tokens."""
    doc = "Token embedding: what each token means before any context."
    return Site("wte", "pos n_embd", doc, names_of(**names), layered=False)


def position_embedding(**names: str) -> Site:
    """Rows of the table of positions."""
    doc = "Position embedding: where in the text each token stands."
    return Site("wpe", "pos n_embd", doc, names_of(**names), layered=False)


def embedding_sum(**names: str) -> Site:
    """The start of the stream, where positions have a table."""
    doc = "Token plus position embedding: the residual stream as it enters block 0."
    return Site("embed", "pos n_embd", doc, names_of(**names), layered=False)


def ln_1(**names: str) -> Site:
    """What attention reads."""
    doc = "The residual stream normalised: what attention reads."
    return Site("ln_1", "pos n_embd", doc, names_of(**names))


def ln_2(**names: str) -> Site:
    """What the MLP reads."""
    doc = "The residual stream after attention, normalised: what the MLP reads."
    return Site("ln_2", "pos n_embd", doc, names_of(**names))


def _capital(text: str) -> str:
    """A phrase at the start of a sentence; the name of a site stays as it is."""
    return text[0].upper() + text[1:] if " " in text else text


def layer_norm_rows(norm: str, reads: str, tl: str = "", llmc: str = "", layered: bool = True) -> list[Site]:
    """The derived sites of a LayerNorm: mean, 1 / standard deviation, and what these make of its input."""
    return [
        Site(
            f"{norm}.mean",
            "pos",
            f"Mean of {reads} over n_embd: what {norm} subtracts.",
            names_of(llmc=f"{llmc}_mean" if llmc else ""),
            layered,
            derived=True,
        ),
        Site(
            f"{norm}.rstd",
            "pos",
            f"1 / sqrt(variance + epsilon) of {reads}: what {norm} multiplies by.",
            names_of(llmc=f"{llmc}_rstd" if llmc else ""),
            layered,
            derived=True,
        ),
        Site(
            f"{norm}.normalized",
            "pos n_embd",
            f"{_capital(reads)} with mean 0 and variance 1, before {norm}'s scale and shift.",
            names_of(tl=tl),
            layered,
            derived=True,
        ),
    ]


def rms_norm_rows(norm: str, reads: str, tl: str = "", layered: bool = True) -> list[Site]:
    """The two derived sites of an RMSNorm: the root mean square, and its input divided by it."""
    scale = tl.replace("hook_normalized", "hook_scale")
    return [
        Site(
            f"{norm}.rms",
            "pos",
            f"Root of mean square and epsilon of {reads}: what {norm} divides by.",
            names_of(tl=scale),
            layered,
            derived=True,
        ),
        Site(
            f"{norm}.normalized",
            "pos n_embd",
            f"{_capital(reads)} with mean square 1, before {norm}'s scale.",
            names_of(tl=tl),
            layered,
            derived=True,
        ),
    ]


def resid_pre() -> Site:
    """The stream at the start of a block."""
    doc = "The residual stream as it enters this block."
    names = names_of(tl="blocks.{i}.hook_resid_pre")
    places = ("residual/input", "activations/i/residual_in")
    return Site("resid_pre", "pos n_embd", doc, names, derived=True, captures=places)


def resid_mid(llmc: str = "") -> Site:
    """The stream between attention and MLP."""
    names = names_of(tl="blocks.{i}.hook_resid_mid", llmc=llmc)
    doc = "The residual stream between attention and MLP."
    places = ("residual/after_attn", "activations/i/after_attn")
    return Site("resid_mid", "pos n_embd", doc, names, captures=places)


def resid_post(**names: str) -> Site:
    """The stream at the end of a block."""
    names = {"tl": "blocks.{i}.hook_resid_post"} | names
    doc = "The residual stream as it leaves this block."
    places = ("residual/output", "activations/i/residual_out")
    return Site("resid_post", "pos n_embd", doc, names_of(**names), captures=places)


def query(derived: bool = False, **names: str) -> Site:
    """Queries of every head."""
    names = {"tl": "blocks.{i}.attn.hook_q"} | names
    doc = "Query: what each position looks for."
    places = ("attention/q_proj",)
    return Site("attn.q", "pos head d_head", doc, names_of(**names), derived=derived, captures=places)


def key(axes: str = "pos head d_head", derived: bool = False, **names: str) -> Site:
    """Keys of every head, or of every group of heads."""
    names = {"tl": "blocks.{i}.attn.hook_k"} | names
    doc = "Key: what each position offers to be found by."
    return Site("attn.k", axes, doc, names_of(**names), derived=derived, captures=("attention/k_proj",))


def value(axes: str = "pos head d_head", derived: bool = False, **names: str) -> Site:
    """Values of every head, or of every group of heads."""
    names = {"tl": "blocks.{i}.attn.hook_v"} | names
    doc = "Value: what each position hands over when it is attended to."
    return Site("attn.v", axes, doc, names_of(**names), derived=derived, captures=("attention/v_proj",))


def scores(doc: str, **names: str) -> Site:
    """What softmax turns into attention."""
    names = {"tl": "blocks.{i}.attn.hook_attn_scores"} | names
    return Site("attn.scores", "head query key", doc, names_of(**names), unseen=float("-inf"))


def pattern(**names: str) -> Site:
    """Attention itself."""
    names = {"hf": "attentions", "tl": "blocks.{i}.attn.hook_pattern"} | names
    doc = "Attention: how much of its value each query takes from each key; rows sum to 1."
    places = ("attention/attn_weights", "attention/layer_i")
    return Site("attn.pattern", "head query key", doc, names_of(**names), unseen=0.0, captures=places)


def z(**names: str) -> Site:
    """Results of the heads."""
    names = {"tl": "blocks.{i}.attn.hook_z"} | names
    doc = "Each head's result: values averaged by the pattern."
    return Site("attn.z", "pos head d_head", doc, names_of(**names))


def heads(doc: str) -> Site:
    """What each head adds to the stream."""
    names = names_of(tl="blocks.{i}.attn.hook_result")
    return Site("attn.heads", "pos head n_embd", doc, names, derived=True)


def attention_out(doc: str, **names: str) -> Site:
    """What attention writes."""
    names = {"tl": "blocks.{i}.hook_attn_out"} | names
    return Site("attn.out", "pos n_embd", doc, names_of(**names))


def mlp_pre(**names: str) -> Site:
    """Neurons before their activation function."""
    names = {"tl": "blocks.{i}.mlp.hook_pre"} | names
    doc = "The MLP's neurons before their activation function."
    return Site("mlp.pre", "pos d_mlp", doc, names_of(**names), captures=("mlp/up_proj",))


def mlp_post(**names: str) -> Site:
    """Neurons after their activation function."""
    names = {"tl": "blocks.{i}.mlp.hook_post"} | names
    doc = "The MLP's neurons after the activation function: which features are active, and how much."
    return Site("mlp.post", "pos d_mlp", doc, names_of(**names), captures=("mlp/gelu",))


def mlp_out(**names: str) -> Site:
    """What the MLP writes."""
    names = {"tl": "blocks.{i}.hook_mlp_out"} | names
    doc = "What the MLP writes to the residual stream."
    return Site("mlp.out", "pos n_embd", doc, names_of(**names), captures=("mlp/down_proj",))


def ln_f(**names: str) -> Site:
    """The end of the stream."""
    names = {"tl": "unembed.hook_in"} | names
    doc = "The final residual stream normalised: what the unembedding reads."
    return Site("ln_f", "pos n_embd", doc, names_of(**names), layered=False)


def logits(**names: str) -> Site:
    """Scores of the next token."""
    names = {"hf": "lm_head", "tl": "unembed.hook_out"} | names
    doc = "A score for every token of the vocabulary to come next."
    return Site("logits", "pos vocab", doc, names_of(**names), layered=False)


def of_logits(llmc: bool = False, guide: bool = False) -> list[Site]:
    """What is derived from the logits: probabilities, the likeliest tokens, the loss."""
    return [
        Site(
            "probabilities",
            "pos vocab",
            "softmax of the logits: how likely each token is to come next.",
            names_of("probabilities" if guide else "", llmc="probs" if llmc else ""),
            layered=False,
            derived=True,
        ),
        Site(
            "top_k_tokens",
            "pos k",
            "Ids of the likeliest next tokens, likeliest first: ten, or as many as asked for.",
            names_of("top_k_tokens" if guide else ""),
            layered=False,
            derived=True,
            dtype="int64",
        ),
        Site(
            "loss",
            "pos",
            "-log of the probability given to the token that does come next; NaN at the last position.",
            names_of(tl="loss_per_token", llmc="losses" if llmc else ""),
            layered=False,
            derived=True,
        ),
    ]
