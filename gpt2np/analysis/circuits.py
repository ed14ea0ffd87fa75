"""Each attention head as two small circuits: QK says where to look, OV says what to carry over.

After Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/). A residual vector is a row here, as it is in the
checkpoints: a query x and a key y score `x W_Q W_K^T y^T`, and y hands over `y W_V W_O`. Those products
are [n_embd, n_embd] but of rank d_head only, so they stay in two factors.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2np.analysis.low_rank import LowRank as LowRank  # who uses circuits finds it here
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.products_of_heads import composed
from gpt2np.analysis.subjects import of_model
from gpt2np.errors import InputError, short
from gpt2np.ops import Array, Norm, linear
from gpt2np.ops.norms import factor, folded, held, normed, shift
from gpt2np.tables import by_shape
from gpt2np.text.prompts import Prompt
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.lines import (
    final_norm,
    lines,
    matrix_of,
    norm_of,
    norms,
    token_table,
    unembedding_table,
)

if TYPE_CHECKING:
    from gpt2np.model import Model


class HeadWeights(NamedTuple):
    """One head's own matrices: W_Q, W_K, W_V [n_embd, d_head], W_O [d_head, n_embd], biases [d_head].

    The bias of the output matrix belongs to the layer, not to any head.
    """

    W_Q: Array
    W_K: Array
    W_V: Array
    W_O: Array
    b_Q: Array
    b_K: Array
    b_V: Array

    def __repr__(self) -> str:
        return by_shape(self)

    @property
    def qk(self) -> LowRank:
        """Where to look: `x @ qk @ y` is the score of query x and key y, before scale and biases."""
        return LowRank(self.W_Q, self.W_K.T)

    @property
    def ov(self) -> LowRank:
        """What to carry over: `y @ ov` is what attending to y alone writes, before biases."""
        return LowRank(self.W_V, self.W_O)


@of_model
def head_weights(model: "Model", layer: int, head: int) -> HeadWeights:
    """Return one head's weights as the checkpoint has them: views, nothing is copied.

    Raises:
        InputError: no such layer or head, or a model whose heads' matrices are not known.
    """
    matrices = _head_matrices(model.config)
    return HeadWeights(*matrices(model.parameters, model.config, *check_head(model.config, layer, head)))


def _head_matrices(config: ModelConfig) -> Callable[..., tuple[Array, ...]]:
    found = config.architecture.head_matrices
    if found is None:
        raise InputError(f"{config.architecture.model_type} has no circuits yet")
    return found


@np.errstate(under="ignore")
@of_model
def folded_weights(model: "Model", layer: int, head: int) -> HeadWeights:
    """Return one head's weights with everything linear in ln_1 multiplied into them.

    `ln_1.rstd * (resid_pre @ W_Q) + b_Q` is then the query: only the scale of each position is left out.
    Circuits are compared in these terms, since ln_1's weight is as much a part of reading as W_Q.

    Raises:
        InputError: no such layer or head.
    """
    return several_heads(model, layer, [head])[0]


@np.errstate(under="ignore")
@of_model
def several_heads(model: "Model", layer: int, heads: Sequence[int]) -> list[HeadWeights]:
    """Return `folded_weights` of several heads of a layer.

    Raises:
        InputError: no such layer or head.
    """
    raw, norm = [head_weights(model, layer, head) for head in heads], _first_norms(model)[layer]
    return [_folded(each, norm) for each in raw]


def _folded(raw: HeadWeights, norm: Norm) -> HeadWeights:
    bias = shift(norm)
    w_q, w_k, w_v = (folded(norm, w) for w in raw[:3])
    b_q, b_k, b_v = (b if bias is None else b + bias @ w for w, b in zip(raw[:3], raw[4:], strict=True))
    return HeadWeights(w_q, w_k, w_v, raw.W_O, b_q, b_k, b_v)


@np.errstate(under="ignore")
@of_model
def every_head(model: "Model") -> list[list[HeadWeights]]:
    """Return `folded_weights` of all heads: [layer][head]."""
    stacked, n = stacked_heads(model), model.config.n_head
    each = [HeadWeights(*parts) for parts in zip(*stacked, strict=True)]
    return [each[start : start + n] for start in range(0, len(each), n)]


@np.errstate(under="ignore")
@of_model
def stacked_heads(model: "Model") -> HeadWeights:
    """Return `folded_weights` of all heads, layer by layer, each kind as one array: [head, ...]."""
    c, read = model.config, _first_norms(model)
    n = c.n_layer * c.n_head
    first = _folded(head_weights(model, 0, 0), read[0])
    found = HeadWeights(*(np.empty((n, *part.shape), part.dtype) for part in first))
    for i in range(n):
        layer, head = divmod(i, c.n_head)
        for whole, own in zip(found, _folded(head_weights(model, layer, head), read[layer]), strict=True):
            whole[i] = own
    return found


def _first_norms(model: "Model") -> list[Norm]:
    """The norm that the heads of each layer read through."""
    found = norms(model.config, model.parameters)
    return [found[f"h.{layer}.ln_1"] for layer in range(model.config.n_layer)]


def check_head(config: ModelConfig, layer: int, head: int) -> tuple[int, int]:
    """Return layer and head as integers, if they exist.

    Raises:
        InputError: there are not.
    """
    return check_index("layer", layer, config.n_layer), check_index("head", head, config.n_head)


def check_index(what: str, value: Any, n: int) -> int:
    """Return a whole number from 0 to n-1.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{what} must be a whole number, not {short(value)}")
    if not 0 <= int(value) < n:
        raise InputError(f"{what} {short(int(value))} is not one of 0 to {n - 1}")
    return int(value)


def head_labels(config: ModelConfig) -> list[str]:
    """Return `layer.head` of every head, in order."""
    return [f"{layer}.{head}" for layer in range(config.n_layer) for head in range(config.n_head)]


# -- numbers of every head ------------------------------------------------------------------------


@np.errstate(under="ignore")
@of_model
def circuit_norms(model: "Model") -> NamedArray:
    """Return the Frobenius norms of W_QK and W_OV of every head, ln_1 folded in: [circuit, layer, head]."""
    n_layer, n_head = model.config.n_layer, model.config.n_head
    found = np.empty((2, n_layer, n_head))
    for layer, heads in enumerate(every_head(model)):
        for head, w in enumerate(heads):
            found[:, layer, head] = w.qk.norm(), w.ov.norm()
    return NamedArray(found, ("circuit", "layer", "head"), {"circuit": ("QK", "OV")}, "Frobenius norms")


@np.errstate(under="ignore")
@of_model
def copying_scores(model: "Model", embedding: Array | None = None) -> NamedArray:
    """Return whether attending to a token makes that token likelier: [layer, head], from -1 to 1.

    Sum over sum of magnitudes of the eigenvalues of W_E W_OV W_U [vocab, vocab], both norms folded
    in (Elhage et al. 2021, "copying matrices"). Only d_head of them are not 0: those of W_O (W_U W_E) W_V.
    `embedding` [vocab, n_embd] stands for the table of tokens: later layers read tokens as the first MLP
    leaves them.

    Raises:
        InputError: `embedding` has another shape.
    """
    config, p = model.config, model.parameters
    own, scores = token_table(config, p), np.empty((config.n_layer, config.n_head))
    table = own if embedding is None else embedding
    if table.shape != own.shape:
        raise InputError(f"embedding must be [vocab, n_embd] {own.shape}, not {table.shape}")
    written = unembedding_table(config, p).T @ table
    out_to_in = folded(final_norm(config, p), written)  # [n_embd, n_embd]: written, unembedded, embedded
    for layer, norm in enumerate(_first_norms(model)):
        heads = [head_weights(model, layer, head) for head in range(config.n_head)]
        read = held(out_to_in, norm) @ np.concatenate([w.W_V for w in heads], axis=1)  # of all heads at once
        each = zip(heads, np.split(read, config.n_head, axis=1), strict=True)
        eigenvalues = np.linalg.eigvals(np.stack([w.W_O @ value for w, value in each]))
        most = np.maximum(np.abs(eigenvalues).sum(axis=-1), np.finfo(float).tiny)
        scores[layer] = eigenvalues.sum(axis=-1).real / most
    return NamedArray(scores, ("layer", "head"), title="eigenvalue copying score of OV, -1 to 1")


@np.errstate(under="ignore")
@of_model
def effective_embedding(model: "Model") -> Array:
    """Return each token's embedding plus what the first MLP makes of it alone: [vocab, n_embd].

    Tied weights make the table say which token comes next; the first MLP turns that into which token this is.

    Raises:
        InputError: an MLP that is not matrix, function, matrix.
    """
    config, every = model.config, lines(model.config, model.parameters)
    x = token_table(config, model.parameters)
    hidden, out = np.empty((len(x), config.d_mlp), x.dtype), np.empty_like(x)
    read = normed(x, norm_of(every["h.0.ln_2"]))
    reader, writer = (matrix_of(config, f"h.0.mlp.{at}", every) for at in ("pre", "out"))
    linear(read, reader, out=hidden)
    every["h.0.mlp.post"].op(hidden.copy(), out=hidden)
    linear(hidden, writer, out=out)
    return np.asarray(x + out)


@of_model
def composition_scores(model: "Model", kind: str) -> NamedArray:
    """Return how much of what one head writes a later head reads, as query, key or value: [writer, reader].

    `|W_OV M| / (|W_OV| |M|)` in Frobenius norms, W_OV the writer's, M the reader's W_QK (`kind="q"`), its
    transpose ("k") or its W_OV ("v"), ln_1 folded in (Elhage et al. 2021, "composition"). 1: they share
    one direction; independent ones give n_embd ** -0.5. NaN where the writer is in no earlier layer.

    Raises:
        InputError: `kind` is not one of q, k and v.
    """
    if kind not in ("q", "k", "v"):
        raise InputError(f"composition is of q, k or v, not {short(kind)}")
    return compositions(model, kind)[kind]


@np.errstate(under="ignore")
@of_model
def compositions(model: "Model", kinds: str = "qkv") -> dict[str, NamedArray]:
    """Return `composition_scores` of several kinds, by kind: faster than one after the other."""
    c, (w_q, w_k, w_v, w_o, *_) = model.config, stacked_heads(model)
    sides = {"q": (w_q, w_k.swapaxes(1, 2)), "k": (w_k, w_q.swapaxes(1, 2)), "v": (w_v, w_o)}
    found = composed((w_v, w_o), [sides[kind] for kind in kinds], c.n_head)
    names, chance = head_labels(c), f"independent directions give {c.n_embd**-0.5:.3g}"
    labels = {"writer": names, "reader": names}
    return {
        kind: NamedArray(scores, ("writer", "reader"), labels, f"{kind.upper()} composition; {chance}")
        for kind, scores in zip(kinds, found, strict=True)
    }


# -- circuits between chosen tokens ---------------------------------------------------------------


@np.errstate(under="ignore")
@of_model
def token_scores(model: "Model", layer: int, head: int, tokens: Prompt) -> NamedArray:
    """Return the full QK circuit: attention scores of token embeddings, without positions: [query, key].

    Biases, ln_1 and scale are those of a run: in layer 0 it is `attn.scores` if positions are 0. Nothing is
    masked. Tokens are a text or ids.

    Raises:
        InputError: no such layer, head or token.
    """
    layer, head = check_head(model.config, layer, head)
    between = _between(model, tokens)
    labels = {"query": between.labels, "key": between.labels}
    title = f"QK of head {layer}.{head}: how strongly one token attends to another"
    return NamedArray(between.scores(layer, head), ("query", "key"), labels, title)


@np.errstate(under="ignore")
@of_model
def token_effects(model: "Model", layer: int, head: int, tokens: Prompt) -> NamedArray:
    """Return the full OV circuit: what attending to one token adds to another's logit: [source, logit].

    Token embeddings without positions through ln_1, W_V, W_O, and the unembedding with ln_f folded in; its
    scale at a position, and the biases, which no source changes, are left out. Tokens are a text or ids.

    Raises:
        InputError: no such layer, head or token.
    """
    layer, head = check_head(model.config, layer, head)
    between = _between(model, tokens)
    labels = {"source": between.labels, "logit": between.labels}
    title = f"OV of head {layer}.{head}: what attending to source does to a logit"
    return NamedArray(between.effects(layer, head), ("source", "logit"), labels, title)


@np.errstate(under="ignore")
@of_model
def token_circuits(model: "Model", tokens: Prompt) -> NamedArray:
    """Return `token_scores` (QK) and `token_effects` (OV) of every head: [circuit, layer, head, from, to].

    From is the query or the source, to the key or the logit.

    Raises:
        InputError: no such token.
    """
    config, between = model.config, _between(model, tokens)
    found = [
        [[of(layer, head) for head in range(config.n_head)] for layer in range(config.n_layer)]
        for of in (between.scores, between.effects)
    ]
    labels = {"circuit": ("QK", "OV"), "from": between.labels, "to": between.labels}
    axes = ("circuit", "layer", "head", "from", "to")
    return NamedArray(np.array(found), axes, labels, "scores and effects between tokens")


class _Between(NamedTuple):
    """Tokens, and what every head's circuits between them are made of."""

    model: "Model"
    labels: list[str]
    reads: list[Norm]  # ln_1 of each layer
    x: Array  # normalised embeddings, [token, n_embd]
    reader: Array  # of the tokens' logits, ln_f folded in: [n_embd, token]

    def scores(self, layer: int, head: int) -> Array:
        """What queries score keys with: [query, key]."""
        w, norm = head_weights(self.model, layer, head), self.reads[layer]
        read, offset = held(self.x, norm), shift(norm)
        read = read if offset is None else read + offset
        scores = (read @ w.W_Q + w.b_Q) @ (read @ w.W_K + w.b_K).T
        return np.asarray(scores * self.model.config.attention_scale(layer))

    def effects(self, layer: int, head: int) -> Array:
        """What attending to a source adds to a logit: [source, logit]."""
        w = head_weights(self.model, layer, head)
        return np.asarray((held(self.x, self.reads[layer]) @ w.W_V) @ (w.W_O @ self.reader))


def _between(model: "Model", tokens: Prompt) -> _Between:
    config, p = model.config, model.parameters
    ids = model.token_ids(tokens, limit=False, ends=False)
    reader = folded(final_norm(config, p), unembedding_table(config, p, ids).T)
    return _Between(model, model.tokens(ids), _first_norms(model), normalised_embedding(model, ids), reader)


@np.errstate(under="ignore")
@of_model
def normalised_embedding(model: "Model", ids: Sequence[int]) -> Array:
    """Divide token embeddings by their deviation (or root mean square), as ln_1 does: [token, n_embd]."""
    x = token_table(model.config, model.parameters, ids)
    return np.asarray(x * factor(x, norms(model.config, model.parameters)["h.0.ln_1"]))


@np.errstate(under="ignore")
@of_model
def through_ln_f(model: "Model", vectors: Array) -> Array:
    """Apply ln_f without its scale to a part of the residual stream: [..., n_embd] -> [..., n_embd]."""
    return held(vectors, final_norm(model.config, model.parameters))
