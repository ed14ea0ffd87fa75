"""What a page has besides, as far as its budget allows: each part is left out before any other detail is.

The parts are counted before they are computed, and those that come first are more wanted.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gpt2np.errors import Gpt2npError
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.viewer.detail_levels import Layout
from gpt2np.viewer.head_directions import can_look, direction_arrays, direction_layout
from gpt2np.viewer.logit_strips import logit_layout, logit_strips
from gpt2np.viewer.matrix_maps import matrix_arrays, matrix_layout
from gpt2np.viewer.neuron_pushes import neuron_pushes, pushes_layout
from gpt2np.viewer.page_data import Data
from gpt2np.viewer.path_arrays import path_arrays, path_layout, path_positions

MATRIX_CELLS = (64, 48, 32, 24, 16)  # of a side of a matrix, the most that fit
DIRECTIONS = ((3, 5), (2, 4), (1, 3))  # of each circuit, and tokens of each: the most that fit
BYTES = {"f4": 4, "u4": 4, "f2": 2, "u2": 2}  # of a number; others have one
OF_TOKEN = 12  # bytes that the text of a token has in the page, zipped, if it is named once
LEFT_OUT = "left out to keep the page small"
TOO_LONG = "left out, for it would take long"


class Extra(NamedTuple):
    """One part: its arrays' layout, and what computes them. `tokens` is how many it names."""

    layout: Layout
    collect: Callable[[], dict[str, Array]]
    tokens: int = 0

    def n_bytes(self) -> int:
        """The most that it adds to a page: base64, uncompressed."""
        arrays = sum(8 + BYTES.get(kind, 1) * math.prod(shape) for kind, shape in self.layout.values())
        return (arrays + 80 * len(self.layout) + OF_TOKEN * self.tokens) * 4 // 3


def fill(data: Data, spare: int) -> None:
    """Add to a page's data what fits into so many bytes, and say of the rest why it is not there."""
    for name, versions in _wanted(data):
        fitting = next((extra for extra in versions if extra.n_bytes() <= spare), None)
        if fitting is None:
            data.missing[name] = LEFT_OUT if versions else TOO_LONG
            continue
        data.layout = data.layout | fitting.layout
        try:
            data.add(fitting.collect(), ":id")
        except Gpt2npError as error:
            data.missing[name] = str(error)
            continue
        spare -= fitting.n_bytes()
    data.state()


def _wanted(data: Data) -> Iterator[tuple[str, list[Extra]]]:
    """The parts by name, each in one or several versions, the largest first; in none that would take long."""
    layout = logit_layout(data.sizes, data.detail)
    yield "vector logits", [Extra(layout, lambda: logit_strips(data.trace, data.detail))]
    model = data.trace.model
    if model is None:
        return
    if "push:id" in data.arrays and "neuron:id" in data.arrays:
        yield "neuron pushes", [_neuron_pushes(data)]
    circuits = model.config.architecture.head_matrices is not None
    if circuits and "push:id" in data.arrays:
        yield "paths", _paths(data)
    if circuits:
        yield "directions", [_directions(model, n, k) for n, k in DIRECTIONS if can_look(model.config, n)]
    yield "matrices", [_matrices(model, cells) for cells in MATRIX_CELLS]


def _neuron_pushes(data: Data) -> Extra:
    targets, n = data.arrays["push:id"], data.sizes.tokens  # of the last positions
    rows = list(range(n))[-len(targets) :]
    named = data.arrays["neuron:id"][:, -len(rows) :]  # [layer, row, k]
    shape = (len(named), *targets.shape, named.shape[-1])
    layout = pushes_layout(shape, data.trace.config.d_mlp)
    return Extra(layout, lambda: neuron_pushes(data.trace, rows, targets, named))


def _paths(data: Data) -> list[Extra]:
    n, targets = data.sizes.tokens, data.arrays["push:id"]
    count = path_positions(data.sizes, *targets.shape)
    layout = path_layout(data.trace.config, count, targets.shape[1], data.sizes)
    rows = list(range(n - count, n))
    return [Extra(layout, lambda: path_arrays(data.trace, rows, targets[-count:]))] if count else []


def _directions(model: Model, n: int, k: int) -> Extra:
    layout = direction_layout(model.config, n, k)
    named = math.prod(layout["direction:id"][1])
    return Extra(layout, lambda: direction_arrays(model, n, k), named)


def _matrices(model: Model, cells: int) -> Extra:
    return Extra(matrix_layout(model, cells), lambda: matrix_arrays(model, cells))
