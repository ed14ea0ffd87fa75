"""The strongest paths through one head to the logits of the likeliest tokens: the arrays of a list.

`gpt2np.analysis.paths.paths_through_heads` has them all, for one token.
"""

import numpy as np

from gpt2np.analysis.attribution import components
from gpt2np.analysis.paths import paths_of_layers
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
    table = unembedding_table(trace.config, trace.parameters("the paths"), targets).astype(np.float64)
    for layers in paths_of_layers(trace, parts, table, rows):
        for name, array in _strongest(layers, n).items():
            found[name].append(array)
    return {f"path:{name}": np.stack(each) for name, each in found.items()}


def _strongest(layers: list[Array], n: int) -> dict[str, Array]:
    """Of paths [target, writer, pos, head] through each layer the n of the largest magnitude: [target, n].

    Where there are fewer, as at the first positions, the last is repeated with a push of 0.
    """
    best: list[tuple[Array, ...]] = []  # of each layer: push, writer, pos, head
    for layer, paths in enumerate(layers):
        flat = np.nan_to_num(paths.reshape(len(paths), -1))
        chosen = top_k_tokens(np.abs(flat), n)
        *place, head = np.unravel_index(chosen, paths.shape[1:])
        best.append((np.take_along_axis(flat, chosen, -1), *place, head + layer * paths.shape[-1]))
    push, *places = (np.concatenate(part, axis=-1) for part in zip(*best, strict=True))
    order = np.lexsort((*places[::-1], -np.abs(push)), axis=-1)[:, :n]
    missing = [(0, 0), (0, n - order.shape[1])]
    names = zip(("writer", "pos", "head"), places, strict=True)
    found = {
        name: np.pad(np.take_along_axis(place, order, -1), missing, mode="edge").astype(np.uint16)
        for name, place in names
    }
    return found | {"push": np.pad(np.take_along_axis(push, order, -1), missing)}
