"""How directions share the residual stream: many that interfere, and heads that read where others write.

More features than dimensions fit into a space if they are only nearly at right angles (superposition: Elhage
et al. 2022, https://transformer-circuits.pub/2022/toy_model/). How nearly is measured against directions that
are drawn at random.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.analysis.circuits import every_head, head_labels
from gpt2np.analysis.named_array import NamedArray
from gpt2np.errors import InputError, short, whole_number
from gpt2np.ops import Array
from gpt2np.ops.norms import folded
from gpt2np.tracing.lines import lines, matrix_of, norm_of, token_table

INTERFERENCE = ("directions", "rms cosine", "chance", "nearest", "nearest by chance")
_BLOCK = 4096  # directions that are held against the sample at a time


@np.errstate(under="ignore")
def interference(model: Any, sample: int = 256, seed: int = 0) -> NamedArray:
    """How much directions of the residual stream overlap, beside random ones: [set, measure].

    The sets are the token embeddings, the probes of each layer's neurons (columns of the up projection, ln_2
    folded in) and what these neurons write (rows of the down projection). `rms cosine` is that of all pairs
    and `chance` that of independent directions, n_embd ** -0.5. `nearest` is the largest magnitude of a
    cosine with any other direction of the set, mean over a `sample` of evenly spaced ones; `nearest by
    chance` the same of as many Gaussian directions.

    Raises:
        InputError: a sample below 1, or an MLP that is not matrix, function, matrix.

    Example:
        >>> interference(model).label("set", 0)
        'token embeddings'
    """
    whole_number("sample", sample, 1)
    found, names = [], []
    for name, directions in _sets(model):
        unit = _unit(directions.astype(np.float64))
        n, width = unit.shape
        rng = np.random.default_rng(whole_number("seed", seed, 0))
        by_chance = _unit(rng.standard_normal((n, width)))
        chosen = np.linspace(0, n - 1, min(sample, n)).astype(int)
        names.append(name)
        found.append(
            [n, _rms_of_pairs(unit), width**-0.5, _nearest(unit, chosen), _nearest(by_chance, chosen)]
        )
    labels = {"set": names, "measure": INTERFERENCE}
    return NamedArray(np.array(found), ("set", "measure"), labels, "cosines between directions")


def _sets(model: Any) -> Iterator[tuple[str, Array]]:
    """The sets of directions, one below the other in an array: [direction, n_embd]."""
    config, every = model.config, lines(model.config, model.parameters)
    yield "token embeddings", token_table(config, model.parameters)
    for layer in range(config.n_layer):
        reader, writer = (matrix_of(config, f"h.{layer}.mlp.{at}", every) for at in ("pre", "out"))
        yield f"h.{layer} probes", folded(norm_of(every[f"h.{layer}.ln_2"]), reader.weight).T
        yield f"h.{layer} writes", writer.weight


def _unit(directions: Array) -> Array:
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions / np.maximum(length, np.finfo(float).tiny))


def _rms_of_pairs(unit: Array) -> float:
    """Root mean square of the cosines of all pairs, by the product that is the smaller one."""
    n = len(unit)
    if n < 2:
        return float("nan")
    product = unit.T @ unit if unit.shape[1] < n else unit @ unit.T
    squares = float((product * product).sum()) - float((unit * unit).sum(axis=1) @ (unit * unit).sum(axis=1))
    return float(np.sqrt(max(squares, 0) / (n * (n - 1))))


def _nearest(unit: Array, chosen: Array) -> float:
    """Mean over the chosen directions of the largest cosine, in magnitude, with another one."""
    largest = np.zeros(len(chosen))
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        cosines = np.abs(unit[chosen] @ block.T)
        itself = (chosen >= start) & (chosen < start + len(block))
        cosines[np.flatnonzero(itself), chosen[itself] - start] = 0
        largest = np.maximum(largest, cosines.max(axis=1))
    return float(largest.mean())


@np.errstate(under="ignore")
def subspace_overlap(model: Any, kind: str) -> NamedArray:
    """How far a later head reads the very subspace that an earlier one writes: [writer, reader], 0 to 1.

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
    writes = [np.linalg.qr(w.W_O.T.astype(np.float64))[0] for w in heads]  # each [n_embd, d_head]
    reads = [np.linalg.qr(getattr(w, f"W_{kind.upper()}").astype(np.float64))[0] for w in heads]
    found = np.full((len(heads), len(heads)), np.nan)
    for i, written in enumerate(writes):
        first = (i // config.n_head + 1) * config.n_head  # of the next layer
        for j in range(first, len(heads)):
            found[i, j] = np.square(written.T @ reads[j]).sum() / written.shape[1]
    names = head_labels(config)
    title = f"overlap of what a head writes and what another reads as {kind}; independent ones give "
    labels = {"writer": names, "reader": names}
    return NamedArray(found, ("writer", "reader"), labels, f"{title}{config.d_head / config.n_embd:.3g}")
