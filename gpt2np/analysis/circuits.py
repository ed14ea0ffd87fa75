"""Each attention head as two small circuits: QK says where to look, OV says what to carry over.

After Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/). A residual vector is a row here, as it is in the
checkpoints: a query x and a key y score `x W_Q W_K^T y^T`, and y hands over `y W_V W_O`. Those products
are [n_embd, n_embd] but of rank d_head only, so they stay in two factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_model
from gpt2np.errors import InputError, short
from gpt2np.ops import Array, Norm, linear
from gpt2np.ops.norms import factor, folded, held, normed, shift
from gpt2np.tables import by_shape
from gpt2np.text.prompts import Prompt
from gpt2np.threads import using
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


@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix `left @ right`, [n, rank] and [rank, m], which is never multiplied out unless asked for.

    Example:
        >>> row = LowRank(np.array([[3.0], [4.0]]), np.array([[1.0, 0.0]]))
        >>> row.norm(), row.eigenvalues()
        (5.0, array([3.]))
    """

    left: Array
    right: Array
    __array_ufunc__ = None  # so that `array @ low_rank` comes to __rmatmul__

    def __repr__(self) -> str:
        return f"<LowRank {list(self.shape)} of rank {self.left.shape[1]}>"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def T(self) -> "LowRank":
        """The transpose."""
        return LowRank(self.right.T, self.left.T)

    @np.errstate(under="ignore")
    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LowRank):  # [n, r] [r, k] [k, r] [r, m]: the middle is the small one
            return LowRank(self.left, (self.right @ other.left) @ other.right)
        return self.left @ (self.right @ other)

    @np.errstate(under="ignore")
    def __rmatmul__(self, other: Array) -> Array:
        return np.asarray((other @ self.left) @ self.right)

    @np.errstate(under="ignore")
    def norm(self) -> float:
        """Return the Frobenius norm: turning the tall factors upright (QR) leaves a product [rank, rank]."""
        return float(np.linalg.norm(_triangle(self.left) @ _triangle(self.right.T).T))

    @np.errstate(under="ignore")
    def eigenvalues(self) -> Array:
        """Return those of a square product, without the zeros of its low rank (AB and BA share them)."""
        return np.linalg.eigvals(self.right @ self.left)

    @np.errstate(under="ignore")
    def svd(self) -> tuple[Array, Array, Array]:
        """Singular vectors and values, the largest first: [n, rank], [rank], [rank, m]."""
        q_left, r_left = np.linalg.qr(self.left)
        q_right, r_right = np.linalg.qr(self.right.T)
        u, s, v = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ u, s, v @ q_right.T

    @np.errstate(under="ignore")
    def full(self) -> Array:
        """Return the whole matrix [n, m]."""
        return np.asarray(self.left @ self.right)


def _triangle(tall: Array) -> Array:
    """What QR leaves of a tall matrix when its orthonormal part is taken away: [n, rank] -> [rank, rank]."""
    return np.asarray(np.linalg.qr(tall, mode="r"))


def _norms(x: Array, axes: tuple[int, ...]) -> Array:
    """Frobenius norms along some axes."""
    return np.asarray(np.sqrt(np.square(x).sum(axes)))


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
    raw = [head_weights(model, layer, head) for head in heads]
    norm = norms(model.config, model.parameters)[f"h.{layer}.ln_1"]
    return [_folded(each, norm) for each in raw]


def _folded(raw: HeadWeights, norm: Norm) -> HeadWeights:
    bias = shift(norm)
    w_q, w_k, w_v = (folded(norm, w) for w in raw[:3])
    b_q, b_k, b_v = (b if bias is None else b + bias @ w for w, b in zip(raw[:3], raw[4:], strict=True))
    return HeadWeights(w_q, w_k, w_v, raw.W_O, b_q, b_k, b_v)


@of_model
def every_head(model: "Model") -> list[list[HeadWeights]]:
    """Return `folded_weights` of all heads: [layer][head]."""
    config, of = model.config, norms(model.config, model.parameters)
    return [
        [_folded(head_weights(model, i, h), of[f"h.{i}.ln_1"]) for h in range(config.n_head)]
        for i in range(config.n_layer)
    ]


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
    for layer, heads in enumerate(every_head(model)):
        for head, w in enumerate(heads):
            eigenvalues = LowRank(out_to_in @ w.W_V, w.W_O).eigenvalues()
            most = max(np.abs(eigenvalues).sum(), np.finfo(float).tiny)
            scores[layer, head] = eigenvalues.sum().real / most
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


@np.errstate(under="ignore")
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
    c, heads = model.config, every_head(model)
    parts = {"q": lambda w: w.qk, "k": lambda w: w.qk.T, "v": lambda w: w.ov}
    with using(1, 1):  # two threads of BLAS would mostly wait for each other
        written = [[_triangle(w.ov.left) @ w.ov.right for w in layer] for layer in heads]
        read = [[m.left @ _triangle(m.right.T).T for m in map(parts[kind], layer)] for layer in heads]
    n_written, n_read = ([_norms(np.stack(layer), (1, 2)) for layer in part] for part in (written, read))
    scores = np.full((c.n_layer, c.n_head, c.n_layer, c.n_head), np.nan)
    for writer, reader in zip(*np.triu_indices(c.n_layer, 1), strict=True):
        product = np.concatenate(written[writer]) @ np.hstack(read[reader])  # [head*d_head, head*d_head]
        together = _norms(product.reshape(c.n_head, c.d_head, c.n_head, c.d_head), (1, 3))
        apart = np.outer(n_written[writer], n_read[reader])
        scores[writer, :, reader, :] = together / np.maximum(apart, np.finfo(float).tiny)
    names = head_labels(c)
    title = f"{kind.upper()} composition; independent directions give {c.n_embd**-0.5:.3g}"
    square = scores.reshape(len(names), len(names))
    return NamedArray(square, ("writer", "reader"), {"writer": names, "reader": names}, title)


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
    ids = model.token_ids(tokens, limit=False, ends=False)
    w, x = folded_weights(model, layer, head), normalised_embedding(model, ids)
    q, k = x @ w.W_Q + w.b_Q, x @ w.W_K + w.b_K  # [token, d_head]
    labels = model.tokens(ids)
    scores = (q @ k.T) * model.config.attention_scale(layer)
    title = f"QK of head {layer}.{head}: how strongly one token attends to another"
    return NamedArray(scores, ("query", "key"), {"query": labels, "key": labels}, title)


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
    ids = model.token_ids(tokens, limit=False, ends=False)
    w, x = folded_weights(model, layer, head), normalised_embedding(model, ids)
    effects = through_ln_f(model, x @ w.ov) @ unembedding_table(model.config, model.parameters, ids).T
    labels = model.tokens(ids)
    title = f"OV of head {layer}.{head}: what attending to source does to a logit"
    return NamedArray(effects, ("source", "logit"), {"source": labels, "logit": labels}, title)


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
