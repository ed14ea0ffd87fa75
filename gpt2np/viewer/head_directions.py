"""What every head reads and writes in tokens, and whether it copies: the arrays of the pane of a head."""

import numpy as np

from gpt2np.analysis.circuits import copying_scores
from gpt2np.analysis.heads import every_direction
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.viewer.detail_levels import Layout

MOST_WORK = 3e10  # multiplications with the tables of tokens: a second or two


def can_look(config: ModelConfig, directions: int) -> bool:
    """Whether so many directions of every head are soon held against every token."""
    n_vectors = 4 * directions * config.n_layer * config.n_head
    return n_vectors * config.vocab_size * config.n_embd <= MOST_WORK


def direction_layout(config: ModelConfig, directions: int, k: int) -> Layout:
    """The arrays of `direction_arrays`: [layer, head, QK or OV, direction], [..., read or written, token]."""
    shape = (config.n_layer, config.n_head)
    each = (*shape, 2, min(directions, config.d_head, config.n_embd))
    return {
        "direction:strength": ("f4", each),
        "direction:id": ("u4", (*each, 2, min(k, config.vocab_size))),
        "copying": ("f4", shape),
    }


def direction_arrays(model: Model, directions: int, k: int) -> dict[str, Array]:
    """The strongest directions of every head with the tokens nearest to them, and its copying score.

    Raises:
        InputError: this model has no circuits.
    """
    copying, found = copying_scores(model).array, every_direction(model, directions, k)
    return {
        "direction:strength": found.strength,
        "direction:id": found.ids.astype(np.uint32),
        "copying": copying,
    }
