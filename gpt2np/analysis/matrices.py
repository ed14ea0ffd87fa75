"""Every matrix of a model under the name that papers give it, and what blocks of one look like."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_model
from gpt2np.errors import InputError, short, whole_number
from gpt2np.ops import Array, capped_unembedding, linear, lookup, product, project, unembedding
from gpt2np.ops.narrow_weights import widened
from gpt2np.ops.readable_parameters import readable
from gpt2np.tables import by_shape
from gpt2np.tracing.lines import Line, held_token_table, lines

if TYPE_CHECKING:
    from gpt2np.model import Model

MEASURES = ("mean", "rms")
_SUMMED = 16  # rows that are added up in their own precision: so few lose nothing that shows

# By the site that a matrix makes, where its architecture has no other names for it.
_NAMES = {
    "wte": "W_E",
    "attn.q": "W_Q",
    "attn.k": "W_K",
    "attn.v": "W_V",
    "attn.out": "W_O",
    "attn.proj": "W_O",
    "mlp.pre": "W_in",
    "mlp.out": "W_out",
    "mlp.proj": "W_out",
    "logits": "W_U",
}


class Matrix(NamedTuple):
    """One matrix: a vector of the stream is a row, and what it makes of a row x is `x @ weight + bias`.

    The tables W_E, W_P and W_U have a row for each token or position. `layer` is None of those outside of
    layers, `bias` where there is none. `site` is what the matrix makes.
    """

    name: str
    site: str
    layer: int | None
    weight: Array
    bias: Array | None

    def __repr__(self) -> str:
        return by_shape(self)


@of_model
def matrix(model: "Model", name: str, layer: int | None = None) -> Matrix:
    """Return a matrix by its name: W_E, W_P, W_U, or of a layer W_Q, W_K, W_V, W_O, W_in, W_out.

    A model whose neurons have gates has W_gate and W_up instead of W_in. W_U is there if it is not W_E.

    Raises:
        InputError: no such matrix, or no such layer.

    Example:
        >>> matrix(model, "W_in", 1).weight.shape
        (192, 768)
    """
    if layer is not None:
        layer = whole_number("layer", layer, 0, model.config.n_layer - 1)
    every = list(_every(model))
    for found in every:
        if (found.name, found.layer) == (name, layer):
            return found._replace(weight=widened(found.weight))
    names = list(dict.fromkeys(found.name for found in every if (found.layer is None) == (layer is None)))
    where = "outside of layers" if layer is None else f"of layer {layer}"
    raise InputError(f"there is no matrix {short(name)} {where}; there are {', '.join(names)}")


@of_model
def every_matrix(model: "Model") -> list[Matrix]:
    """Return all matrices in the order in which a run meets them, their weights as they are held."""
    return list(_every(model))


def _every(model: "Model") -> Iterator[Matrix]:
    config = model.config
    for full_name, line in lines(config, model.parameters).items():
        held = _weight(line)
        if held is None or (full_name == "logits" and np.may_share_memory(held, _tokens(model))):
            continue
        layer = int(full_name.split(".")[1]) if full_name.startswith("h.") else None
        site = full_name if layer is None else full_name.split(".", 2)[2]
        names = config.architecture.matrices.get(site) or (_NAMES.get(site, site),)
        bias = readable(line.inputs[1]).bias if line.op is linear else None
        width = held.shape[1] // len(names)
        for i, name in enumerate(names):
            own = slice(i * width, (i + 1) * width)
            yield Matrix(name, site, layer, held[:, own], None if bias is None else bias[own])


def _weight(line: Line) -> Array | None:
    """The matrix of a line, as it is held; None where it has none."""
    if line.op is linear:
        weight: Array = line.inputs[1].weight
        return weight
    matrices: tuple[Any, ...] = (product, project, lookup, unembedding, capped_unembedding)
    return line.inputs[1] if line.op in matrices else None


def _tokens(model: "Model") -> Array:
    return held_token_table(model.config, model.parameters)


@np.errstate(under="ignore")
def block_statistics(weight: Array, rows: int = 64, columns: int = 64) -> NamedArray:
    """Return mean and root mean square of the blocks of a matrix: [measure, row, column].

    The matrix [n, m] is cut into at most `rows` x `columns` blocks, all of the same size but for those at the
    lower and right ends. Mean and root mean square differ where weights of both signs cancel: weights that
    have nothing to do with one another have a mean near 0.

    Raises:
        InputError: it is no matrix, or `rows` or `columns` is below 1.

    Example:
        >>> block_statistics(np.array([[3.0, -3.0], [4.0, 4.0]]), columns=1).array.tolist()
        [[[0.0], [4.0]], [[3.0], [4.0]]]
    """
    if np.ndim(weight) != 2 or not np.size(weight):
        raise InputError(f"blocks are of a matrix [n, m], not of {list(np.shape(weight))}")
    rows, columns = whole_number("rows", rows, 1), whole_number("columns", columns, 1)
    high, wide = (-(-n // most) for n, most in zip(weight.shape, (rows, columns), strict=True))
    tops, lefts = np.arange(0, weight.shape[0], high), np.arange(0, weight.shape[1], wide)
    found, sizes = np.empty((2, len(tops), len(lefts))), np.diff(lefts, append=weight.shape[1])
    for i, top in enumerate(tops.tolist()):
        block = widened(weight[top : top + high])
        even = len(block) // _SUMMED * _SUMMED
        sums = np.zeros((2, block.shape[1]))
        for few in (block[:even].reshape(-1, _SUMMED, block.shape[1]), block[None, even:]):
            several = few.sum(axis=1), np.einsum("bij,bij->bj", few, few)
            sums += [each.sum(axis=0, dtype=np.float64) for each in several]
        found[:, i] = np.add.reduceat(sums, lefts, axis=1) / (len(block) * sizes)
    found[1] = np.sqrt(found[1])
    title = f"blocks of {high} x {wide} weights: their mean and root mean square"
    return NamedArray(found, ("measure", "row", "column"), {"measure": MEASURES}, title)
