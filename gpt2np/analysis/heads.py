"""What heads do: where they look on repeated random tokens, and what they read and write in words."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2np.analysis.circuits import check_head, folded_weights, through_ln_f
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_model, of_trace
from gpt2np.errors import InputError, short, whole_number
from gpt2np.ops import Array
from gpt2np.ops.narrow_weights import float_blocks, widened
from gpt2np.tables import number, quoted
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import held_token_table, held_unembedding_table
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.model import Model

SCORES = ("previous", "duplicate", "induction", "first")


@of_model
def head_scores(model: "Model", n: int = 64, repeats: int = 8, seed: int = 0) -> NamedArray:
    """Return where every head looks on n random tokens said twice: [score, layer, head], 0 to 1.

    `previous`: to the token before; `first`: to the first token (both at every position but the first);
    `duplicate`: in the second half, to the same token in the first; `induction`: to the token after that,
    which is the one to be predicted (Olsson et al. 2022, https://arxiv.org/abs/2209.11895). The mean of
    `repeats` draws of tokens other than those that end a text.

    Raises:
        InputError: n below 2, no repeats, or 2n tokens do not fit into the context.
    """
    c = model.config
    n, repeats = whole_number("n", n, 2), whole_number("repeats", repeats, 1)
    if 2 * n > c.n_positions:
        raise InputError(f"{short(n)} tokens said twice: the context of this model holds {c.n_positions}")
    rng = np.random.default_rng(whole_number("seed", seed, 0))
    vocabulary = np.setdiff1d(np.arange(c.vocab_size), c.eos_ids)
    vocabulary = vocabulary if vocabulary.size else np.arange(c.vocab_size)
    total = np.zeros((len(SCORES), c.n_layer, c.n_head))
    for _ in range(repeats):
        half = vocabulary[rng.integers(0, len(vocabulary), n)].tolist()
        trace = model.trace(half + half, keep="attn.pattern", stop_at_layer=c.n_layer)
        pattern = trace.stack("attn.pattern")  # [layer, head, query, key]
        again = pattern[:, :, n:]  # the second half looks back
        total += [
            _along(pattern, -1),
            _along(again, 0),
            _along(again, 1),
            pattern[:, :, 1:, 0].mean(axis=-1),
        ]
    title = f"mean attention on {n} random tokens said twice"
    return NamedArray(total / repeats, ("score", "layer", "head"), {"score": SCORES}, title)


def _along(pattern: Array, offset: int) -> Array:
    """Mean attention from each query to the key that is `offset` further right: -> [layer, head]."""
    return np.asarray(np.diagonal(pattern, offset, 2, 3).mean(axis=-1))


@np.errstate(under="ignore")
@of_trace
def attention_scores(trace: Trace) -> NamedArray:
    """Return the mean attention to the previous and to the first token in one text: [score, layer, head].

    Raises:
        InputError: the text has one token only.
        TraceError: the patterns of every position were not kept.
    """
    pattern = trace.stack("attn.pattern")
    if pattern.shape[2] < 2 or pattern.shape[2] != pattern.shape[3]:
        raise InputError(
            "attention to the previous token needs the patterns of at least two positions, all kept"
        )
    scores = np.stack([_along(pattern, -1), pattern[:, :, 1:, 0].mean(axis=-1)])
    return NamedArray(scores, ("score", "layer", "head"), {"score": ("previous", "first")}, "mean attention")


class Near(NamedTuple):
    """A token and how near it is to a vector."""

    token: str
    id: int
    dot: float
    cosine: float


@np.errstate(under="ignore")
@of_model
def nearest_tokens(model: "Model", vector: Array, k: int = 5, by: str = "dot") -> list[Near]:
    """Return the k tokens whose unembedding is nearest to a vector [n_embd], by dot product or by cosine.

    The dot product is a logit if the vector comes out of ln_f; `through_ln_f` does that to a part of the
    residual stream.

    Raises:
        InputError: the vector has another shape, k is below 1, or `by` is something else.
    """
    return _nearest(model, held_unembedding_table(model.config, model.parameters), vector, k, by)


@np.errstate(under="ignore")
@of_model
def tokens_read(model: "Model", vector: Array, k: int = 5, by: str = "dot") -> list[Near]:
    """Return the k tokens whose embedding is nearest to a vector [n_embd]: what its reader responds to.

    Raises:
        InputError: the vector has another shape, k is below 1, or `by` is something else.
    """
    return _nearest(model, held_token_table(model.config, model.parameters), vector, k, by)


def _nearest(model: "Model", table: Array, vector: Array, k: int, by: str) -> list[Near]:
    vector = np.asarray(vector)
    if vector.shape != table.shape[1:]:
        raise InputError(f"a vector of the residual stream is [{table.shape[1]}], not {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise InputError("a vector of the residual stream must be finite")
    k = whole_number("k", k, 1)
    if by not in ("dot", "cosine"):
        raise InputError(f"by must be 'dot' or 'cosine', not {short(by)}")
    dots = np.concatenate([rows @ vector for rows in float_blocks(table)])  # [vocab]
    if by == "dot":  # then only the lengths of a few are asked for, which take longer than all dot products
        ids = top_k_tokens(dots, k).tolist()
        found = dots[ids], _cosines(dots[ids], [widened(table[ids])], vector)
    else:
        cosines = _cosines(dots, float_blocks(table), vector)
        ids = top_k_tokens(cosines, k).tolist()
        found = dots[ids], cosines[ids]
    return [Near(*near) for near in zip(model.tokens(ids), ids, *(x.tolist() for x in found), strict=True)]


def _cosines(dots: Array, blocks: Iterable[Array], vector: Array) -> Array:
    lengths = np.concatenate([np.linalg.norm(rows, axis=1) for rows in blocks]) * np.linalg.norm(vector)
    return np.asarray(dots / np.maximum(lengths, np.finfo(lengths.dtype).tiny))


def listed(near: list[Near]) -> str:
    """Return the tokens on one line, each between bars."""
    return " ".join(quoted(token.token) for token in near)


class Direction(NamedTuple):
    """One singular direction of a circuit, in tokens: a vector that is read, and what it brings about.

    QK: queries that are most along the direction, and the keys that they look for. OV: tokens that are
    read, and the tokens that are written. `strength` is the singular value.
    """

    circuit: str
    strength: float
    reads: list[Near]
    writes: list[Near]

    def __repr__(self) -> str:
        return f"<{self.circuit} {number(self.strength)}: {listed(self.reads)} -> {listed(self.writes)}>"


@np.errstate(under="ignore")
@of_model
def reads_and_writes(
    model: "Model", layer: int, head: int, directions: int = 3, k: int = 5
) -> list[Direction]:
    """Return what a head reads and writes, in tokens: the strongest directions of QK, then those of OV.

    Singular vectors of W_QK and W_OV with ln_1 (and ln_f, where written) folded in, held against the
    embedding of every token and, where written, its unembedding. The signs of a pair can be changed
    together: of the two ends, the one is shown that lies nearer to its tokens on the read side.

    Raises:
        InputError: no such layer or head, or k or directions below 1.
    """
    layer, head = check_head(model.config, layer, head)
    directions = whole_number("directions", directions, 1)
    w, found = folded_weights(model, layer, head), []
    for circuit, low_rank in (("QK", w.qk), ("OV", w.ov)):
        left, strength, right = low_rank.svd()  # [n_embd, rank], [rank], [rank, n_embd]
        for i in range(min(directions, len(strength))):
            read, written = left[:, i], right[i]
            ends = [tokens_read(model, sign * read, k) for sign in (1, -1)]
            sign = 1 if np.mean([t.dot for t in ends[0]]) >= np.mean([t.dot for t in ends[1]]) else -1
            if circuit == "QK":
                writes = tokens_read(model, sign * written, k)
            else:
                writes = nearest_tokens(model, through_ln_f(model, sign * written), k)
            found.append(Direction(circuit, float(strength[i]), ends[0 if sign == 1 else 1], writes))
    return found
