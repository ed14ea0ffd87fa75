"""What neurons are for: the tokens that excite them, what they write, and how few of them fire."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2np.analysis.attribution import frozen_ln_f, logit_direction
from gpt2np.analysis.circuits import check_index, through_ln_f
from gpt2np.analysis.heads import Near, listed, nearest_of_each
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import (
    parameters_of_the_end,
    pos_labels,
    recorded,
    row_of,
    rows_of,
)
from gpt2np.analysis.subjects import of_model, of_trace
from gpt2np.errors import InputError, TraceError, short, whole_number
from gpt2np.html_tables import heat_table
from gpt2np.ops import Array, LayerNorm, Linear, Norm, RMSNorm
from gpt2np.ops.norms import factor, folded, held, shift
from gpt2np.tables import by_shape, number, quoted, table
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import (
    held_token_table,
    held_unembedding_table,
    lines,
    matrix_of,
    norm_of,
)
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.model import Model


class Neuron(NamedTuple):
    """One neuron in tokens: embeddings it responds to most and least, logits it raises and lowers most.

    `reads` and `writes` [n_embd] are the two directions, `bias` what is added before the activation function.
    """

    reads: Array
    writes: Array
    bias: float
    excited_by: list[Near]
    inhibited_by: list[Near]
    raises: list[Near]
    lowers: list[Near]

    def __repr__(self) -> str:
        rows = [[name.replace("_", " "), listed(near)] for name, near in self._lists().items()]
        return f"<Neuron with bias {number(self.bias)}>\n{table(rows, '<<')}"

    def _repr_html_(self) -> str:
        """The tokens of each list, coloured by their dot products."""
        lists = self._lists()
        values = np.array([[near.dot for near in row] for row in lists.values()])
        names, rows = [name.replace("_", " ") for name in lists], list(lists.values())
        columns = [str(i + 1) for i in range(values.shape[1])]
        title = f"Neuron with bias {number(self.bias)}"
        return heat_table(values, names, columns, title, texts=lambda i, j: quoted(rows[i][j].token))

    def _lists(self) -> dict[str, list[Near]]:
        return {name: getattr(self, name) for name in ("excited_by", "inhibited_by", "raises", "lowers")}


@np.errstate(under="ignore")
@of_model
def neuron(model: "Model", layer: int, i: int, k: int = 5) -> Neuron:
    """Return what an MLP neuron looks for and what it writes, in tokens.

    The column of the matrix that makes `mlp.pre`, what is linear in ln_2 folded in, against every token's
    embedding; the row of the one that makes `mlp.out`, that of ln_f folded in, against every token's
    unembedding. Layers above the first read a
    residual stream that is no longer an embedding: the tokens are a hint there.

    Raises:
        InputError: no such layer or neuron, k below 1, or an MLP that is not matrix, function, matrix.
    """
    return several_neurons(model, [(layer, i)], k)[0]


@np.errstate(under="ignore")
@of_model
def several_neurons(model: "Model", which: Sequence[tuple[int, int]], k: int = 5) -> list[Neuron]:
    """Return `neuron` of several (layer, i), which is faster than one after the other.

    Raises:
        InputError: as `neuron`.
    """
    config, found = model.config, []
    every = lines(config, model.parameters)
    for layer, i in (_check_neuron(config, *each) for each in which):
        norm = norm_of(every[f"h.{layer}.ln_2"])
        reader, writer = (matrix_of(config, f"h.{layer}.mlp.{at}", every) for at in ("pre", "out"))
        offset, column = shift(norm), reader.weight[:, i]
        bias = float(reader.bias[i] + (0.0 if offset is None else offset @ column))
        found.append((folded(norm, column[:, None])[:, 0], writer.weight[i], bias))
    if not found:
        return []
    reads, writes = (np.stack(part) for part in list(zip(*found, strict=True))[:2])
    sides = (
        (held_token_table(config, model.parameters), reads),
        (held_unembedding_table(config, model.parameters), through_ln_f(model, writes)),
    )
    lists = [nearest_of_each(model, table, sign * x, k) for table, x in sides for sign in (1, -1)]
    return [Neuron(*each, *near) for each, *near in zip(found, *lists, strict=True)]


@of_trace
def neuron_activations(trace: Trace, layer: int, i: int) -> NamedArray:
    """Return how active a neuron is at every token of a text: `mlp.post` of it, [pos].

    Raises:
        InputError: no such layer or neuron.
        TraceError: `mlp.post` of this layer was not kept.
    """
    layer, i = _check_neuron(trace.config, layer, i)
    rows = rows_of(trace, None)
    post = recorded(trace, f"h.{layer}.mlp.post", rows)[:, i]
    return NamedArray(post, ("pos",), {"pos": pos_labels(trace, rows)}, f"activation of neuron {layer}.{i}")


@of_trace
def most_active(trace: Trace, k: int = 10, pos: int = -1) -> NamedArray:
    """Return the k most active neurons at a position, largest first: [neuron], named `layer.i`.

    Raises:
        InputError: no such position, or k below 1.
        TraceError: `mlp.post` of some layer was not kept.
    """
    k = whole_number("k", k, 1)
    row = row_of(trace, pos)
    post = trace.stack("mlp.post")[:, row]  # [layer, d_mlp]
    best = top_k_tokens(post.ravel(), k)
    names = [f"{layer}.{i}" for layer, i in zip(*np.unravel_index(best, post.shape), strict=True)]
    title = f"most active neurons at {pos_labels(trace, [row])[0]}"
    return NamedArray(post.ravel()[best], ("neuron",), {"neuron": names}, title)


class Behind(NamedTuple):
    """A norm behind an MLP, and what it multiplied each row by before its weight: [pos, 1]."""

    norm: Norm
    by: Array

    def __repr__(self) -> str:
        return by_shape(self)


@of_trace
def written_by_mlp(trace: Trace, layer: int, rows: list[int]) -> tuple[Linear, Behind | None]:
    """Return the matrix whose rows neurons write, and the norm behind it, where the model has one.

    Raises:
        InputError: an MLP that ends in neither a matrix nor a norm of what a matrix makes.
        TraceError: what the norm is of was not kept, the MLP's output was edited, or there are no weights.
    """
    config, parameters, h = trace.config, trace.parameters("what neurons write"), f"h.{layer}"
    every = lines(config, parameters)
    last = every[f"{h}.mlp.out"]
    behind = isinstance(last.inputs[-1], RMSNorm | LayerNorm) and last.reads[0]
    for site in (f"{h}.mlp.out", behind):
        if site in (trace.metadata.get("edits") or ()):
            raise TraceError(f"{site} was edited in this run: it is not what the neurons wrote")
    if not behind:
        return matrix_of(config, f"{h}.mlp.out", every), None
    norm = norm_of(last)
    return matrix_of(config, behind, every), Behind(norm, factor(recorded(trace, behind, rows), norm))


@np.errstate(under="ignore")
@of_trace
def neuron_attribution(
    trace: Trace, token: str | int | tuple[str | int, str | int], layer: int, pos: int = -1
) -> NamedArray:
    """Return what each neuron of a layer adds to the logit of a token, or to the difference of two: [neuron].

    A neuron's activation times the row of W_out that it writes, then as in `attribution`: the scale of ln_f
    is held at what it was in the run (where a norm follows the MLP, its scale too), and the result is held
    against the token's unembedding. Neurons and the bias of W_out, where it has one, add up to what
    `attribution` says of `h.layer.mlp`.

    Raises:
        InputError: no such token, layer or position, or a model whose logits are not linear in ln_f.
        TraceError: `mlp.post` or the last `resid_post` was not kept, the run stopped early, an end that this
            needs was edited, or there are no weights.

    Example:
        >>> neuron_attribution(trace, " the", 2).largest()
    """
    parameters_of_the_end(trace, "the attribution")
    layer = check_index("layer", layer, trace.config.n_layer)
    direction, of_what = logit_direction(trace, token)
    row = row_of(trace, pos)
    writer, behind = written_by_mlp(trace, layer, [row])
    post = recorded(trace, f"h.{layer}.mlp.post", [row])[0].astype(np.float64)
    written = post[:, None] * writer.weight
    if behind is not None:
        written = held(written, behind.norm, behind.by)
    pushes = frozen_ln_f(trace, written, row) @ direction
    return NamedArray(pushes, ("neuron",), {}, f"{of_what}, by neuron of layer {layer}")


@of_trace
def sparsity(trace: Trace, threshold: float = 0.01) -> NamedArray:
    """Return which fractions of neurons and positions are nearly silent, and active: [layer, measure].

    `near 0`: `mlp.post` is at most `threshold` in magnitude; `positive`: above it. The rest are negative:
    GELU lets down to -0.17 through.

    Raises:
        InputError: the threshold is negative or no number.
        TraceError: `mlp.post` of some layer was not kept.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0:
        raise InputError(f"threshold must be a number of at least 0, not {short(threshold)}")
    post = trace.stack("mlp.post")  # [layer, pos, d_mlp]
    fractions = [(np.abs(post) <= threshold).mean(axis=(1, 2)), (post > threshold).mean(axis=(1, 2))]
    title = f"share of neurons with |mlp.post| at most {threshold:g}, and above it"
    return NamedArray(
        np.stack(fractions, axis=1), ("layer", "measure"), {"measure": ("near 0", "positive")}, title
    )


def _check_neuron(config: ModelConfig, layer: int, i: int) -> tuple[int, int]:
    return check_index("layer", layer, config.n_layer), check_index("neuron", i, config.d_mlp)
