"""Reads from the first sites of a dump which tokens ran."""

from collections.abc import Mapping

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm, Norm
from gpt2np.tracing.lines import norms
from gpt2np.tracing.replay import embedded

_COLUMNS = 16  # of a vector, enough to tell tokens apart
_TOKENS = 4096  # that are embedded at once


def ids_in_dump(model: Model, arrays: Mapping[str, Array]) -> tuple[int, ...] | None:
    """The tokens whose embeddings the dump holds, position by position; None where it has none to read.

    Of the sites before the first block the nearest token is taken; `h.0.ln_1` is compared with that of every
    token at its position. What a site holds must be a part of the token plus a part of the position.
    """
    first = embedded(model.parameters, model.config, [0], [0])
    for name in (*first, "h.0.resid_pre", "h.0.ln_1"):
        if name not in arrays or name in model.config.architecture.positional:
            continue
        rows = arrays[name].astype(np.float64)
        if len(rows) > model.config.n_positions:
            continue
        site = name if name in first else "embed"
        table, shifts = _table(model, site), _shifts(model, site, len(rows))
        if name == "h.0.ln_1":
            norm = norms(model.config, model.parameters).get(name)
            if norm is None:
                continue
            return tuple(_nearest_normed(*pair, table, norm) for pair in zip(rows, shifts, strict=True))
        squares = np.einsum("ve,ve->v", table, table)
        return tuple(np.argmin(squares - 2 * (rows - shifts) @ table.T, axis=1).tolist())
    return None


def _table(model: Model, name: str) -> Array:
    """What a site holds for every token at position 0: [vocab, n_embd]."""
    n, parts = model.config.vocab_size, []
    for start in range(0, n, _TOKENS):
        ids = range(start, min(start + _TOKENS, n))
        parts.append(embedded(model.parameters, model.config, ids, [0] * len(ids))[name])
    return np.concatenate(parts)


def _shifts(model: Model, name: str, n: int) -> Array:
    """What each of the first n positions adds to a site, against position 0: [pos, n_embd]."""
    rows = embedded(model.parameters, model.config, [0] * n, range(n))[name]
    return np.asarray(rows - rows[0])


def _nearest_normed(row: Array, shift: Array, table: Array, norm: Norm) -> int:
    """The token whose ln_1 at a position is nearest: a few elements of each, by its mean and its size."""
    n = table.shape[1]
    squares = (np.einsum("ve,ve->v", table, table) + 2 * (table @ shift) + shift @ shift) / n
    mean, bias = np.zeros(len(table), table.dtype), np.zeros(n, table.dtype)
    if isinstance(norm, LayerNorm):
        mean, bias = table.mean(axis=1) + shift.mean(), norm.bias
    rstd = 1 / np.sqrt(squares - mean * mean + norm.epsilon)
    few = slice(0, _COLUMNS)
    values = (table[:, few] + shift[few] - mean[:, None]) * rstd[:, None] * norm.weight[few] + bias[few]
    return int(np.argmin(np.square(values - row[few]).sum(axis=1)))
