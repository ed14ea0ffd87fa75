"""Reads from the first sites of a dump which tokens ran."""

from collections.abc import Mapping

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array

_COLUMNS = 16  # of a vector, enough to tell tokens apart


def ids_in_dump(model: Model, arrays: Mapping[str, Array]) -> tuple[int, ...] | None:
    """The tokens whose embeddings the dump holds, position by position; None where it has none to read.

    Of `wte` and `embed` the nearest token is taken; `h.0.ln_1` is compared with that of every token at its
    position.
    """
    p = model.parameters
    for name in ("wte", "embed", "h.0.resid_pre", "h.0.ln_1"):
        if name not in arrays:
            continue
        rows = arrays[name].astype(np.float64)
        if name == "h.0.ln_1":
            return tuple(_nearest_normed(row, model, position) for position, row in enumerate(rows))
        if name != "wte":
            rows = rows - p.wpe[: len(rows)]
        norms = np.einsum("ve,ve->v", p.wte, p.wte)
        return tuple(np.argmin(norms - 2 * rows @ p.wte.T, axis=1).tolist())
    return None


def _nearest_normed(row: Array, model: Model, position: int) -> int:
    """The token whose ln_1 at this position is nearest: a few elements of each, by its mean and variance."""
    p, n = model.parameters, model.config.n_embd
    wte, wpe, norm = p.wte, p.wpe[position], p.h[0].ln_1
    mean = wte.mean(axis=1) + wpe.mean()
    squares = np.einsum("ve,ve->v", wte, wte) + 2 * (wte @ wpe) + wpe @ wpe
    rstd = 1 / np.sqrt(squares / n - mean * mean + norm.epsilon)
    few = slice(0, _COLUMNS)
    values = (wte[:, few] + wpe[few] - mean[:, None]) * rstd[:, None] * norm.weight[few] + norm.bias[few]
    return int(np.argmin(np.square(values - row[few]).sum(axis=1)))
