"""The matrices of a page: what they are called, how large they are, and their blocks as bytes."""

from typing import Any

import numpy as np

from gpt2np.analysis.matrices import Matrix, block_statistics, every_matrix
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.viewer.detail_levels import Layout
from gpt2np.viewer.packing import factor_of, quantise


def matrix_facts(model: Model) -> list[dict[str, Any]]:
    """Name, site and shape of every matrix, those of the layers once: they are of one size in all layers."""
    return [
        {
            "name": name,
            "site": of_name[0].site,
            "layered": of_name[0].layer is not None,
            "shape": list(of_name[0].weight.shape),
        }
        for name, of_name in _by_name(model).items()
    ]


def matrix_layout(model: Model, cells: int) -> Layout:
    """The arrays of `matrix_arrays`: of each matrix [layer, mean or rms, row, column]."""
    found: Layout = {}
    for name, of_name in _by_name(model).items():
        high, wide = (-(-n // factor_of(n, cells)) for n in of_name[0].weight.shape)
        found[f"matrix:{name}"] = ("i1", (len(of_name), 2, high, wide))
        found[f"matrix:{name}:scale"] = ("f4", (len(of_name), 2))
    return found


def matrix_arrays(model: Model, cells: int) -> dict[str, Array]:
    """Mean and root mean square of blocks of every matrix, as bytes: at most so many blocks to a side."""
    found = {}
    for name, of_name in _by_name(model).items():
        blocks = np.stack([block_statistics(each.weight, cells, cells).array for each in of_name])
        bytes_of, found[f"matrix:{name}:scale"] = quantise(blocks.reshape(len(of_name), 2, -1))
        found[f"matrix:{name}"] = bytes_of.reshape(blocks.shape)
    return found


def _by_name(model: Model) -> dict[str, list[Matrix]]:
    """The matrices of each name, one for each layer."""
    found: dict[str, list[Matrix]] = {}
    for each in every_matrix(model):
        found.setdefault(each.name, []).append(each)
    return found
