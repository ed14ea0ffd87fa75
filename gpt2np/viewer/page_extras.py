"""What a page has besides, as far as its budget allows: each part is left out before any other detail is.

The parts are counted before they are computed, and those that come first are more wanted.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gpt2np.errors import Gpt2npError
from gpt2np.ops import Array
from gpt2np.viewer.detail_levels import Layout
from gpt2np.viewer.matrix_maps import matrix_arrays, matrix_layout
from gpt2np.viewer.page_data import Data

MATRIX_CELLS = (64, 48, 32, 24, 16)  # of a side of a matrix, the most that fit
BYTES = {"f4": 4, "u4": 4, "f2": 2, "u2": 2}  # of a number; others have one
OF_TOKEN = 24  # bytes that a token's text may have in the page
LEFT_OUT = "left out to keep the page small"


class Extra(NamedTuple):
    """One part: its arrays' layout, and what computes them. `tokens` is how many it names."""

    name: str
    layout: Layout
    collect: Callable[[], dict[str, Array]]
    tokens: int = 0

    def n_bytes(self) -> int:
        """The most that it adds to a page: base64, uncompressed."""
        arrays = sum(8 + BYTES.get(kind, 1) * math.prod(shape) for kind, shape in self.layout.values())
        return (arrays + 80 * len(self.layout) + OF_TOKEN * self.tokens) * 4 // 3


def fill(data: Data, spare: int) -> None:
    """Add to a page's data what fits into so many bytes, and say of the rest why it is not there."""
    for versions in _wanted(data):
        name = versions[0].name
        fitting = next((extra for extra in versions if extra.n_bytes() <= spare), None)
        if fitting is None:
            data.missing[name] = LEFT_OUT
            continue
        data.layout |= fitting.layout
        try:
            data.add(fitting.collect(), ":id")
        except Gpt2npError as error:
            data.missing[name] = str(error)
            continue
        spare -= fitting.n_bytes()
    data.state()


def _wanted(data: Data) -> Iterator[list[Extra]]:
    """The parts, each as one or several versions, the largest first."""
    model = data.trace.model
    if model is None:
        return
    yield [
        Extra("matrices", matrix_layout(model, cells), lambda n=cells: matrix_arrays(model, n))  # type: ignore[misc]
        for cells in MATRIX_CELLS
    ]
