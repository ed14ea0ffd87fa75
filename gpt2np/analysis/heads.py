"""What heads do: where they look on repeated random tokens, and what they read and write in words."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2np.analysis.circuits import HeadWeights, check_head, several_heads, through_ln_f
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.products_of_heads import strongest
from gpt2np.analysis.subjects import of_model, of_trace
from gpt2np.errors import InputError, short, whole_number
from gpt2np.ops import Array, unembedding
from gpt2np.ops.narrow_weights import float_blocks, is_narrow, widened
from gpt2np.tables import by_shape, number, quoted
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import held_token_table, held_unembedding_table
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.model import Model

CIRCUITS = ("QK", "OV")
# Of dot products with every token, or of many vectors with some tokens. The more at once, the faster, but
# what is as large as 32 MB is new memory each time, which the system has to clear first.
BYTES_AT_ONCE = 7 << 22
ROWS_AT_ONCE = 128  # of runs on random tokens: few at a time would read all weights for little
SCORES = ("previous", "duplicate", "induction", "first")


@np.errstate(under="ignore")
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
    draws = [vocabulary[rng.integers(0, len(vocabulary), n)].tolist() * 2 for _ in range(repeats)]
    together = max(1, ROWS_AT_ONCE // (2 * n))
    for start in range(0, repeats, together):
        some = draws[start : start + together]
        for trace in model.trace(some, keep="attn.pattern", stop_at_layer=c.n_layer):
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
    if by not in ("dot", "cosine"):
        raise InputError(f"by must be 'dot' or 'cosine', not {short(by)}")
    if by == "dot":  # then only the lengths of a few are asked for, which take longer than all dot products
        return nearest_of_each(model, table, vector[None], k)[0]
    k = _checked(vector, k)
    dots = dot_products(table, vector)
    cosines = _cosines(dots, float_blocks(table), vector)
    ids = top_k_tokens(cosines, k)
    return _told(model, ids, dots[ids], cosines[ids])


@np.errstate(under="ignore")
@of_model
def nearest_of_each(model: "Model", table: Array, vectors: Array, k: int) -> list[list[Near]]:
    """Return for each vector [vector, n_embd] the k tokens whose rows of a table are nearest, by dot product.

    Raises:
        InputError: they are not finite, or k is below 1.
    """
    k = _checked(vectors, k)
    dots = dot_products(table, vectors)
    each = zip(vectors, dots, top_k_tokens(dots, k), strict=True)
    return [_near(model, table, vector, ids, own[ids]) for vector, own, ids in each]


def _checked(vectors: Array, k: int) -> int:
    if not np.isfinite(vectors).all():
        raise InputError("a vector of the residual stream must be finite")
    return whole_number("k", k, 1)


def _near(model: "Model", table: Array, vector: Array, ids: Array, dots: Array) -> list[Near]:
    """The rows of a table that are nearest to a vector, from their ids and dot products."""
    return _told(model, ids, dots, _cosines(dots, [widened(table[ids])], vector))


def _told(model: "Model", ids: Array, dots: Array, cosines: Array) -> list[Near]:
    each = zip(model.tokens(ids.tolist()), ids.tolist(), dots.tolist(), cosines.tolist(), strict=True)
    return [Near(*near) for near in each]


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
    found = strongest_directions(model, layer, [head], directions, k)
    sides = (
        held_token_table(model.config, model.parameters),
        held_unembedding_table(model.config, model.parameters),
    )
    told = []
    for circuit, name in enumerate(CIRCUITS):
        for i, strength in enumerate(found.strength[0, circuit].tolist()):
            ends = []
            for side in (0, 1):
                table = sides[circuit * side]  # only what OV writes is held against the unembedding
                at = 0, circuit, i, side
                ends.append(_near(model, table, found.vectors[at], found.ids[at], found.dots[at]))
            told.append(Direction(name, strength, *ends))
    return told


class HeadDirections(NamedTuple):
    """The strongest directions of several heads' circuits: their strength [head, circuit, direction], and
    for what is read and what is written [..., side] the vector [n_embd] and the nearest tokens [k] with
    their dot products.
    """

    strength: Array
    vectors: Array
    ids: Array
    dots: Array

    def __repr__(self) -> str:
        return by_shape(self)


@np.errstate(under="ignore")
@of_model
def strongest_directions(
    model: "Model", layer: int, heads: Sequence[int], directions: int = 3, k: int = 5
) -> HeadDirections:
    """Return what `reads_and_writes` tells of one head, for several heads of a layer at once, as arrays.

    Circuits are QK and OV, sides what is read and what is written. What OV writes is a vector behind ln_f
    without its scale, everything else one of the stream.

    Raises:
        InputError: no such layer or head, or k or directions below 1.
    """
    return _in_tokens(model, *_singular(several_heads(model, layer, heads), directions), k)


@np.errstate(under="ignore")
@of_model
def every_direction(model: "Model", directions: int = 3, k: int = 5) -> HeadDirections:
    """Return `strongest_directions` of all heads, with axes [layer, head] in place of [head].

    Raises:
        InputError: k or directions below 1.
    """
    every, layers = range(model.config.n_head), range(model.config.n_layer)
    parts = [_singular(several_heads(model, layer, every), directions) for layer in layers]
    strength, vectors = (np.stack(part) for part in zip(*parts, strict=True))
    return _in_tokens(model, strength, vectors, k)


def _singular(heads: Sequence[HeadWeights], directions: int) -> tuple[Array, Array]:
    """Strength and vectors of the strongest directions of heads, all as vectors of the stream."""
    directions = whole_number("directions", directions, 1)
    w = HeadWeights(*map(np.stack, zip(*heads, strict=True)))
    factors = (w.W_Q, w.W_K.swapaxes(1, 2)), (w.W_V, w.W_O)
    of_circuits = zip(*(strongest(*each, directions) for each in factors), strict=True)
    u, strength, v = (np.stack(part, axis=1) for part in of_circuits)
    return strength, np.stack([u.swapaxes(-2, -1), v], axis=-2)


def _in_tokens(model: "Model", strength: Array, vectors: Array, k: int) -> HeadDirections:
    """Directions [..., circuit, direction, side, n_embd] with the tokens nearest to them."""
    k, (config, parameters) = whole_number("k", k, 1), (model.config, model.parameters)
    unembedded = np.zeros(vectors.shape[:-1], bool)
    unembedded[..., 1, :, 1] = True  # only what OV writes is held against the unembedding
    vectors[unembedded] = through_ln_f(model, vectors[unembedded])
    ids = np.empty((2, *unembedded.shape, min(k, config.vocab_size)), np.intp)  # of both ends
    dots = np.empty(ids.shape, vectors.dtype)
    for table, those in (
        (held_token_table(config, parameters), ~unembedded),
        (held_unembedding_table(config, parameters), unembedded),
    ):
        ids[:, those], dots[:, those] = _largest_of_both_ends(table, vectors[those], k)
    nearness = dots[..., 0, :].mean(axis=-1)  # of each end to the tokens that are read
    upright = (nearness[0] >= nearness[1])[..., None, None]
    turned = vectors * np.where(upright, 1, -1).astype(vectors.dtype)
    return HeadDirections(
        strength, turned, np.where(upright, ids[0], ids[1]), np.where(upright, dots[0], dots[1])
    )


def _largest_of_both_ends(table: Array, vectors: Array, k: int) -> tuple[Array, Array]:
    """Rows of a table with the k largest dot products with each vector and with its opposite: [2, vector, k].

    Every row is read once, for all vectors.
    """
    at_once = max(k, BYTES_AT_ONCE // (vectors.itemsize * len(vectors)))
    found = []
    for start in range(0, len(table), at_once):
        dots = dot_products(table[start : start + at_once], vectors)
        ends = _largest(dots, k), _largest(np.negative(dots, out=dots), k)
        ids, values = (np.stack(part) for part in zip(*ends, strict=True))
        found.append((ids + start, values))
    ids, values = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    best = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(ids, best, -1), np.take_along_axis(values, best, -1)


def vectors_at_once(vocab_size: int) -> int:
    """Return how many vectors are best held against every token in one product."""
    return max(16, BYTES_AT_ONCE // (4 * vocab_size))


def dot_products(table: Array, vectors: Array) -> Array:
    """Return those of each vector with every row of a table: [..., n_embd] -> [..., vocab]."""
    flat = np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]))
    kind = flat.dtype if is_narrow(table) else np.result_type(flat, table)
    dots = np.empty((len(flat), len(table)), kind)
    unembedding(flat, table, out=dots)
    return dots.reshape(*vectors.shape[:-1], -1)


def _largest(dots: Array, k: int) -> tuple[Array, Array]:
    """Ids and values of the k largest of each row: [..., k] twice."""
    ids = top_k_tokens(dots, k)
    return ids, np.take_along_axis(dots, ids, -1)
