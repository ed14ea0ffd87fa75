"""The strongest paths through one head to the logits of the likeliest tokens: the arrays of a list.

`gpt2np.analysis.paths.paths_through_heads` has them all, for one token.
"""

import numpy as np

from gpt2np.analysis.attribution import components
from gpt2np.analysis.paths import every_path
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import unembedding_table
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import Layout, Sizes

LISTED = 12  # paths of each token
MOST_WORK = 4e9  # multiplications: a second or two
MOST_BYTES = 200_000_000  # of components that are held


def path_positions(sizes: Sizes, wanted: int, targets: int) -> int:
    """For how many of the last positions paths are looked for: as many as soon are; 0 where none is."""
    c, n = sizes.config, sizes.tokens
    if sizes.components * n * c.n_embd * 8 > MOST_BYTES:
        return 0
    of_one = sizes.components * n * c.n_layer * c.n_head * c.n_embd * targets / 2
    return min(wanted, int(MOST_WORK // of_one))


def path_layout(config: ModelConfig, rows: int, targets: int, sizes: Sizes) -> Layout:
    """The arrays of `path_arrays`, for so many positions and tokens."""
    shape = (rows, targets, min(LISTED, config.n_layer * config.n_head * sizes.tokens))
    return {
        "path:writer": ("u2", shape),
        "path:pos": ("u2", shape),
        "path:head": ("u2", shape),
        "path:push": ("f4", shape),
    }


def path_arrays(trace: Trace, rows: list[int], targets: Array) -> dict[str, Array]:
    """The paths of the largest magnitude to `targets` [row, target]: writer, its position, head, and push.

    Writers are numbers of components, heads are counted through all layers.
    """
    parts = components(trace)
    n = min(LISTED, trace.config.n_layer * trace.config.n_head * len(trace.token_ids))
    found: dict[str, list[Array]] = {"writer": [], "pos": [], "head": [], "push": []}
    for row, ids in zip(rows, targets, strict=True):
        directions = unembedding_table(trace.config, trace.parameters("the paths"), ids).astype(np.float64)
        paths = every_path(trace, parts, directions, row)  # [target, writer, pos, head]
        flat = np.nan_to_num(paths.reshape(len(paths), -1))
        best = top_k_tokens(np.abs(flat), n)
        best = np.pad(best, [(0, 0), (0, n - best.shape[1])], mode="edge")  # few paths of the first positions
        places = np.unravel_index(best, paths.shape[1:])
        for name, place in zip(("writer", "pos", "head"), places, strict=True):
            found[name].append(place.astype(np.uint16))
        pushes = np.take_along_axis(flat, best, -1)
        repeated = np.arange(n) >= flat.shape[1]
        found["push"].append(np.where(repeated, 0, pushes))
    return {f"path:{name}": np.stack(each) for name, each in found.items()}
