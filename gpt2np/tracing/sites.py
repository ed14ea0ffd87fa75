"""The table of sites: every array that a trace can hold, its axes, what it tells you, its names elsewhere.

A site of a block is written here without its `h.i.`: `attn.pattern` stands for `h.0.attn.pattern`,
`h.1.attn.pattern` and so on. Documentation, command line, byte plan and exporters all read this table.
"""

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gpt2np.errors import UnknownSiteError, short

DIALECTS = ("guide", "hf", "transformer_lens", "llm.c")
TYPESCRIPT = "typescript"  # not a program's names for its own arrays: the properties of a file that we write


@dataclass(frozen=True)
class Site:
    """One row of the table.

    `names` maps a dialect to the names it has there, the first being the usual one; `{i}` stands for
    the layer. `future` is what an attention site holds where the key comes after the query.
    """

    name: str
    axes: str
    doc: str
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    layered: bool = True
    derived: bool = False
    future: float | None = None
    dtype: str | None = None  # None: the precision of the run

    @functools.cached_property
    def axis_names(self) -> tuple[str, ...]:
        """The axes one by one."""
        return tuple(self.axes.split())

    @property
    def quadratic(self) -> bool:
        """Whether its size grows with the square of the prompt's length."""
        return "key" in self.axis_names

    def full_name(self, layer: int | None) -> str:
        """The name inside a trace: `h.3.attn.pattern`."""
        return f"h.{layer}.{self.name}" if self.layered else self.name

    def dialect_name(self, dialect: str, layer: int | None = None) -> str | None:
        """The usual name in a dialect, with the layer filled in; None where it has none."""
        names = self.names.get(dialect)
        return names[0].replace("{i}", str(layer)) if names else None


def _names(
    guide: str = "", hf: str = "", tl: str = "", llmc: str = "", ts: str = ""
) -> dict[str, tuple[str, ...]]:
    given = zip((*DIALECTS, TYPESCRIPT), (guide, hf, tl, llmc, ts), strict=True)
    return {dialect: tuple(names.split()) for dialect, names in given if names}


def _norm_sites(norm: str, reads: str, tl: str, llmc: str, layered: bool) -> list[Site]:
    """The three derived sites of one LayerNorm."""
    return [
        Site(
            f"{norm}.mean",
            "pos",
            f"Mean of {reads} over n_embd: what {norm} subtracts.",
            _names(llmc=f"{llmc}_mean"),
            layered,
            derived=True,
        ),
        Site(
            f"{norm}.rstd",
            "pos",
            f"1 / sqrt(variance + epsilon) of {reads}: what {norm} multiplies by.",
            _names(llmc=f"{llmc}_rstd"),
            layered,
            derived=True,
        ),
        Site(
            f"{norm}.normalized",
            "pos n_embd",
            f"{reads} with mean 0 and variance 1, before {norm}'s weight and bias.",
            _names(tl=tl),
            layered,
            derived=True,
        ),
    ]


# In the order of execution.
SITES: tuple[Site, ...] = (
    Site(
        "wte",
        "pos n_embd",
        "Token embedding: what each token means before any context.",
        _names("token_embeddings", "transformer.wte", "hook_embed", ts="tokenEmbeddings"),
        layered=False,
    ),
    Site(
        "wpe",
        "pos n_embd",
        "Position embedding: where in the text each token stands.",
        _names("position_embeddings", "transformer.wpe", "hook_pos_embed", ts="positionEmbeddings"),
        layered=False,
    ),
    Site(
        "embed",
        "pos n_embd",
        "Their sum: the residual stream as it enters block 0.",
        _names("combined_embeddings", "transformer.drop", llmc="encoded"),
        layered=False,
    ),
    Site(
        "resid_pre",
        "pos n_embd",
        "The residual stream as it enters this block.",
        _names(tl="blocks.{i}.hook_resid_pre"),
        derived=True,
    ),
    *_norm_sites("ln_1", "resid_pre", "blocks.{i}.ln1.hook_normalized", "ln1", True),
    Site(
        "ln_1",
        "pos n_embd",
        "The residual stream normalised: what attention reads.",
        _names("ln_1_output layer_{i}_ln_1_output", "transformer.h.{i}.ln_1", llmc="ln1"),
    ),
    Site(
        "attn.qkv",
        "pos 3*n_embd",
        "Queries, keys and values of all heads side by side; those of the past are the KV cache.",
        _names("c_attn_output layer_{i}_c_attn_output", "transformer.h.{i}.attn.c_attn", llmc="qkv"),
    ),
    Site(
        "attn.q",
        "pos head d_head",
        "Query: what each position looks for.",
        _names("Q layer_{i}_Q", tl="blocks.{i}.attn.hook_q", ts="query"),
        derived=True,
    ),
    Site(
        "attn.k",
        "pos head d_head",
        "Key: what each position offers to be found by.",
        _names("K layer_{i}_K", tl="blocks.{i}.attn.hook_k", ts="key"),
        derived=True,
    ),
    Site(
        "attn.v",
        "pos head d_head",
        "Value: what each position hands over when it is attended to.",
        _names("V layer_{i}_V", tl="blocks.{i}.attn.hook_v", ts="value"),
        derived=True,
    ),
    Site(
        "attn.scores",
        "head query key",
        "Scaled dot products of queries and keys, before softmax; -inf in the future.",
        _names(
            "raw_attention_scores layer_{i}_raw_attention_scores",
            tl="blocks.{i}.attn.hook_attn_scores",
            llmc="preatt",
            ts="rawAttentionScores",
        ),
        future=float("-inf"),
    ),
    Site(
        "attn.pattern",
        "head query key",
        "Attention: how much of its value each query takes from each key; rows sum to 1.",
        _names(
            "attention_weights layer_{i}_attention_weights",
            "attentions",
            "blocks.{i}.attn.hook_pattern",
            "att",
            "attentionWeights",
        ),
        future=0.0,
    ),
    Site(
        "attn.z",
        "pos head d_head",
        "Each head's result: values averaged by the pattern.",
        _names("layer_{i}_result", tl="blocks.{i}.attn.hook_z", llmc="atty"),
    ),
    Site(
        "attn.heads",
        "pos head n_embd",
        "Each head's output vector: its result times its slice of c_proj, without the bias.",
        _names(tl="blocks.{i}.attn.hook_result"),
        derived=True,
    ),
    Site(
        "attn.out",
        "pos n_embd",
        "What attention writes to the residual stream: all heads' outputs plus a bias.",
        _names(
            "attention_output layer_{i}_attention_output",
            "transformer.h.{i}.attn transformer.h.{i}.attn.c_proj",
            "blocks.{i}.hook_attn_out",
            "attproj",
            "attentionOutput",
        ),
    ),
    Site(
        "resid_mid",
        "pos n_embd",
        "The residual stream between attention and MLP.",
        _names(tl="blocks.{i}.hook_resid_mid", llmc="residual2"),
    ),
    *_norm_sites("ln_2", "resid_mid", "blocks.{i}.ln2.hook_normalized", "ln2", True),
    Site(
        "ln_2",
        "pos n_embd",
        "The residual stream normalised again: what the MLP reads.",
        _names("ln_2_output layer_{i}_ln_2_output", "transformer.h.{i}.ln_2", llmc="ln2"),
    ),
    Site(
        "mlp.pre",
        "pos d_mlp",
        "The MLP's neurons before their activation function.",
        _names(
            "mlp_hidden layer_{i}_mlp_hidden",
            "transformer.h.{i}.mlp.c_fc",
            "blocks.{i}.mlp.hook_pre",
            "fch",
            "mlpHidden",
        ),
    ),
    Site(
        "mlp.post",
        "pos d_mlp",
        "The MLP's neurons after it: which features are active, and how much.",
        _names(
            "mlp_activated layer_{i}_mlp_activated",
            "transformer.h.{i}.mlp.act",
            "blocks.{i}.mlp.hook_post",
            "fch_gelu",
            "mlpActivated",
        ),
    ),
    Site(
        "mlp.out",
        "pos n_embd",
        "What the MLP writes to the residual stream.",
        _names(
            "mlp_output layer_{i}_mlp_output",
            "transformer.h.{i}.mlp transformer.h.{i}.mlp.c_proj",
            "blocks.{i}.hook_mlp_out",
            "fcproj",
            "mlpOutput",
        ),
    ),
    Site(
        "resid_post",
        "pos n_embd",
        "The residual stream as it leaves this block.",
        _names(
            "hidden_state layer_{i}_hidden_state",
            "transformer.h.{i}",
            "blocks.{i}.hook_resid_post",
            "residual3",
            "hiddenState",
        ),
    ),
    *_norm_sites("ln_f", "the last resid_post", "ln_final.hook_normalized", "lnf", False),
    Site(
        "ln_f",
        "pos n_embd",
        "The final residual stream normalised: what the unembedding reads.",
        _names("final_ln final_layer_norm", "transformer.ln_f", "unembed.hook_in", "lnf", "finalLayerNorm"),
        layered=False,
    ),
    Site(
        "logits",
        "pos vocab",
        "A score for every token of the vocabulary to come next.",
        _names("logits", "lm_head", "unembed.hook_out", "logits", "logits"),
        layered=False,
    ),
    Site(
        "probabilities",
        "pos vocab",
        "softmax of the logits: how likely each token is to come next.",
        _names("probabilities", llmc="probs"),
        layered=False,
        derived=True,
    ),
    Site(
        "top_k_tokens",
        "pos k",
        "Ids of the ten likeliest next tokens, likeliest first.",
        _names("top_k_tokens"),
        layered=False,
        derived=True,
        dtype="int64",
    ),
    Site(
        "loss",
        "pos",
        "-log of the probability given to the token that does come next; NaN at the last position.",
        _names(tl="loss_per_token", llmc="losses"),
        layered=False,
        derived=True,
    ),
)

BY_NAME = {site.name: site for site in SITES}
TOP_K = 10  # the length of axis k


def expand(n_layer: int) -> Iterator[tuple[str, Site, int | None]]:
    """Every (full name, site, layer) of a model with so many layers, in execution order."""
    first = next(i for i, site in enumerate(SITES) if site.layered)
    last = max(i for i, site in enumerate(SITES) if site.layered) + 1
    for site in SITES[:first]:
        yield site.full_name(None), site, None
    for layer in range(n_layer):
        for site in SITES[first:last]:
            yield site.full_name(layer), site, layer
    for site in SITES[last:]:
        yield site.full_name(None), site, None


def _index() -> dict[str, Site]:
    """Every name in every dialect, `{i}` for the layer, to its site; our own names come first."""
    index = {site.name: site for site in SITES}
    index |= {site.full_name(None).replace("None", "{i}"): site for site in SITES}
    for site in SITES:
        for names in site.names.values():
            for name in names:
                index.setdefault(name, site)
                for prefix in ("transformer.", "blocks.{i}."):  # often left out, as in DESIGN's own table
                    index.setdefault(name.removeprefix(prefix), site)
    return index


_INDEX = _index()
_LAYER = re.compile(r"(?<!\d)\d{1,9}(?!\d)")


def resolve(name: str, layer: int | None, n_layer: int) -> tuple[Site, int | None]:
    """The site and layer that a name of any dialect means.

    The layer stands in the name (`h.3.ln_1`, `blocks.3.hook_resid_mid`, `attentions[3]`) or beside it.

    Raises:
        UnknownSiteError: no site has this name, or the layer is missing, superfluous or out of range.

    Example:
        >>> resolve("blocks.3.attn.hook_pattern", None, 12)[0].name
        'attn.pattern'
    """
    if not isinstance(name, str) or not (layer is None or hasattr(layer, "__index__")):
        raise UnknownSiteError(f"a site is a name, or a name and a layer, not {short(name)}, {short(layer)}")
    if name.split("[")[0] == "hidden_states":
        raise UnknownSiteError(
            "'hidden_states' is no site: its last entry is after ln_f in HF and before it elsewhere; "
            "use trace['h.i.resid_post'] (before), trace['ln_f'] (after), or trace.to('hf')"
        )
    key = name
    if bracket := re.fullmatch(r"(.+)\[(\d{1,9})\]", name):
        key, layer = bracket[1], int(bracket[2])
    elif name not in _INDEX and (digits := _LAYER.search(name)):
        key, inside = name[: digits.start()] + "{i}" + name[digits.end() :], int(digits[0])
        if key in _INDEX and layer not in (None, inside):
            raise UnknownSiteError(
                f"{name!r} is in layer {inside}, but layer {layer} was asked for beside it"
            )
        layer = inside
    site = _INDEX.get(key)
    if site is None and key.endswith("hook_scale"):
        raise UnknownSiteError(
            f"{name!r} is 1 / rstd: trace.to('transformer_lens') has it, or take ln_i.rstd"
        )
    if site is None:
        raise UnknownSiteError(f"no site is called {short(name)}{_suggestion(name)}")
    if site.layered and layer is None:
        raise UnknownSiteError(f"{name!r} is in every layer: say which, as in trace[{site.full_name(0)!r}]")
    if not site.layered and layer is not None:
        raise UnknownSiteError(f"{name!r} is not in a layer: trace[{site.name!r}]")
    if layer is not None and not 0 <= layer < n_layer:
        raise UnknownSiteError(f"{name!r}: layer {layer} is not one of 0 to {n_layer - 1}")
    return site, layer


def _suggestion(name: str) -> str:
    digits = _LAYER.search(name)
    layer = digits[0] if digits else "0"
    candidates = [key.replace("{i}", layer) for key in _INDEX]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]!r}" if near else "; `gpt2np sites` lists them all"
