"""How directions share the residual stream: how they interfere, and which heads read what others write.

More features than dimensions fit into a space if they are only nearly at right angles (superposition: Elhage
et al. 2022, https://transformer-circuits.pub/2022/toy_model/). How nearly is measured against directions that
are drawn at random.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gpt2np.analysis.circuits import every_head, head_labels
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_model
from gpt2np.errors import InputError, short, whole_number
from gpt2np.ops import Array
from gpt2np.ops.norms import folded
from gpt2np.tracing.lines import lines, matrix_of, norm_of, token_table

if TYPE_CHECKING:
    from gpt2np.model import Model

INTERFERENCE = ("directions", "rms cosine", "chance", "nearest", "nearest by chance")
_BLOCK = 4096  # directions that are held against the sample at a time


@np.errstate(under="ignore")
@of_model
def interference(model: "Model", sample: int = 256, seed: int = 0) -> NamedArray:
    """Return how much directions of the residual stream overlap, beside random ones: [set, measure].

    The sets are the token embeddings, the probes of each layer's neurons (columns of the up projection, ln_2
    folded in) and what these neurons write (rows of the down projection). `rms cosine` is that of all pairs
    and `chance` that of independent directions, n_embd ** -0.5. `nearest` is the largest magnitude of a
    cosine with any other direction of the set, mean over a `sample` of evenly spaced ones; `nearest by
    chance` the same for equally many Gaussian directions.

    Raises:
        InputError: a sample below 1, or an MLP that is not matrix, function, matrix.

    Example:
        >>> interference(model).label("set", 0)
        'token embeddings'
    """
    sample, seed = whole_number("sample", sample, 1), whole_number("seed", seed, 0)
    found, names = [], []
    for name, directions in _sets(model):
        n, width = directions.shape
        chosen = np.linspace(0, n - 1, min(sample, n)).astype(int)
        names.append(name)
        nearest = _nearest(directions, chosen), _nearest_by_chance(n, width, len(chosen), seed)
        found.append([n, _rms_of_pairs(directions), width**-0.5, *nearest])
    labels = {"set": names, "measure": INTERFERENCE}
    return NamedArray(np.array(found), ("set", "measure"), labels, "cosines between directions")


def _sets(model: "Model") -> Iterator[tuple[str, Array]]:
    """The sets of directions, one below the other in an array: [direction, n_embd]."""
    config, every = model.config, lines(model.config, model.parameters)
    yield "token embeddings", token_table(config, model.parameters)
    for layer in range(config.n_layer):
        reader, writer = (matrix_of(config, f"h.{layer}.mlp.{at}", every) for at in ("pre", "out"))
        yield f"h.{layer} probes", folded(norm_of(every[f"h.{layer}.ln_2"]), reader.weight).T
        yield f"h.{layer} writes", writer.weight


def _unit(directions: Array) -> Array:
    """In double precision and of length 1."""
    x = directions.astype(np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(float).tiny))


def _rms_of_pairs(directions: Array) -> float:
    """Root mean square of the cosines of all pairs: U^T U has the sum of their squares, as U U^T has."""
    n, width = directions.shape
    together, alone = np.zeros((width, width)), 0.0
    for start in range(0, n, _BLOCK):
        unit = _unit(directions[start : start + _BLOCK])
        together += unit.T @ unit
        alone += float((np.square(unit).sum(axis=1) ** 2).sum())  # 1 each, 0 of a vector of zeros
    return float(np.sqrt(max(np.square(together).sum() - alone, 0) / (n * (n - 1)))) if n > 1 else np.nan


def _nearest(directions: Array, chosen: Array) -> float:
    """Mean over the chosen directions of the largest cosine, in magnitude, with another one."""
    largest, sample = np.zeros(len(chosen)), _unit(directions[chosen])
    for start in range(0, len(directions), _BLOCK):
        cosines = np.abs(sample @ _unit(directions[start : start + _BLOCK]).T)
        here = np.flatnonzero((chosen >= start) & (chosen < start + cosines.shape[1]))
        cosines[here, chosen[here] - start] = 0  # itself
        largest = np.maximum(largest, cosines.max(axis=1))
    return float(largest.mean())


def _nearest_by_chance(n: int, width: int, n_chosen: int, seed: int) -> float:
    """The same of Gaussian directions: a sample of them against n - 1 others."""
    rng = np.random.default_rng(seed)
    largest, sample = np.zeros(n_chosen), _unit(rng.standard_normal((n_chosen, width)))
    for start in range(0, n - 1, _BLOCK):
        others = _unit(rng.standard_normal((min(_BLOCK, n - 1 - start), width)))
        largest = np.maximum(largest, np.abs(sample @ others.T).max(axis=1))
    return float(largest.mean())


@np.errstate(under="ignore")
@of_model
def subspace_overlap(model: "Model", kind: str) -> NamedArray:
    """Return how far a later head reads the subspace that an earlier one writes: [writer, reader], 0 to 1.

    The mean squared cosine of the principal angles between the d_head dimensions that the writer's W_O spans
    and those that the reader's W_Q ("q"), W_K ("k") or W_V ("v") spans, ln_1 folded in: 1 is the same
    subspace, 0 one at right angles, and independent ones give d_head / n_embd. `composition_scores` asks the
    same of the matrices, which weighs the dimensions by how strongly they are used. NaN where the writer is
    in no earlier layer.

    Raises:
        InputError: `kind` is not one of q, k and v.
    """
    if kind not in ("q", "k", "v"):
        raise InputError(f"overlap is with what is read as q, k or v, not {short(kind)}")
    config, heads = model.config, [w for layer in every_head(model) for w in layer]
    writes = [w.W_O.T.astype(np.float64) for w in heads]  # each [n_embd, d_head]
    reads = [getattr(w, f"W_{kind.upper()}").astype(np.float64) for w in heads]
    inverse_w, inverse_r = (  # of X^T X: X times it times X^T is the projection onto what X spans
        [np.linalg.pinv(x.T @ x, hermitian=True) for x in spanning] for spanning in (writes, reads)
    )
    found = np.full((len(heads), len(heads)), np.nan)
    for i, written in enumerate(writes):
        for j in range((i // config.n_head + 1) * config.n_head, len(heads)):  # from the next layer on
            both = written.T @ reads[j]
            found[i, j] = ((inverse_w[i] @ both) * (both @ inverse_r[j])).sum() / written.shape[1]
    names = head_labels(config)
    title = f"overlap of what a head writes and what another reads as {kind}; independent ones give "
    labels = {"writer": names, "reader": names}
    return NamedArray(found, ("writer", "reader"), labels, f"{title}{config.d_head / config.n_embd:.3g}")
