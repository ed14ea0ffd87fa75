"""Tokens followed through the layers, and logits taken apart, at many positions: the arrays of two panels.

`logit_lens` and `attribution` answer for one token; here the same computation answers for several at once.
"""

from collections.abc import Callable

import numpy as np

from gpt2np.analysis.attribution import components, frozen_ln_f
from gpt2np.analysis.heads import vectors_at_once
from gpt2np.analysis.lens import lens_logits, likelier, similarities, spread_of
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import recorded
from gpt2np.errors import TraceError
from gpt2np.ops import Array
from gpt2np.ops.norms import shift
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.lines import final_norm, unembedding_table
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import NEAREST

AT_ONCE = 200_000_000  # bytes of components that are held


def lens_arrays(trace: Trace, rows: list[int], k: int, followed: int) -> dict[str, Array]:
    """The logit lens at `rows`, k tokens deep, and rank and probability of `followed` tokens at every point.

    The tokens followed are those that stand highest anywhere: the final prediction's first.
    """
    parameters = trace.parameters("the logit lens")
    _check_unedited(trace)
    blocks = range(trace.config.n_layer)
    points = ["embed", *(f"h.{i}.{at}" for i in blocks for at in ("resid_mid", "resid_post"))]
    found: dict[str, list[Array]] = {}
    together = max(1, vectors_at_once(trace.config.vocab_size) // len(points))
    for start in range(0, len(rows), together):
        some = rows[start : start + together]
        x = np.stack([recorded(trace, point, some) for point in points], axis=1)  # [row, point, n_embd]
        for logits in lens_logits(x, parameters, trace.config):  # [point, vocab]
            for name, array in _at_row(logits, k, followed).items():
                found.setdefault(name, []).append(array)
    return {name: np.stack(each, axis=0 if name == "follow:id" else 1) for name, each in found.items()}


def _at_row(logits: Array, k: int, followed: int) -> dict[str, Array]:
    """The arrays of one position, from its logits at every point [point, vocab]."""
    ids = top_k_tokens(logits, k)
    chosen = _highest(ids, followed)
    spread = spread_of(logits)
    return {
        "lens:id": ids.astype(np.uint32),
        "lens:p": spread.probabilities(logits, ids),
        "lens:entropy": spread.entropy,
        "lens:kl": spread.kl,
        "follow:id": chosen.astype(np.uint32),
        "follow:rank": np.stack([likelier(logits, i) for i in chosen.tolist()], axis=-1).astype(np.uint32),
        "follow:p": spread.probabilities(logits, np.tile(chosen, (len(logits), 1))),
    }


def _highest(ids: Array, n: int) -> Array:
    """The n tokens that reach the highest rank at any point [point, k], the last point's before others."""
    best: dict[int, tuple[int, int]] = {}
    for point, row in enumerate(ids[::-1].tolist()):
        for rank, token in enumerate(row):
            best[token] = min(best.get(token, (10**9, 0)), (rank, point))
    final = ids[-1].tolist()
    others = sorted((t for t in best if t not in final), key=lambda t: best[t])
    chosen = [*final, *others] if n >= len(final) else final
    return np.resize(np.array(chosen[:n]), n)


def push_arrays(trace: Trace, rows: list[int], targets: int) -> tuple[dict[str, Array], list[str]]:
    """What every component adds to the logits of the likeliest tokens at `rows`, and the components' names.

    The last of the targets is the token that does come next, where one does and there is room for it. The
    numbers are those of `gpt2np.analysis.attribution.attribution`.
    """
    parameters = trace.parameters("the attribution")
    _check_unedited(trace)
    bias = shift(final_norm(trace.config, parameters))
    ids, pushed, labels = [], [], list[str]()
    parts_at = _parts_by_row(trace, rows)
    for row in rows:
        chosen = [i for _, i, _ in trace.top(targets, row)]
        if row + 1 < len(trace.token_ids) and targets > 1 and trace.token_ids[row + 1] not in chosen:
            chosen[-1] = trace.token_ids[row + 1]
        directions = unembedding_table(trace.config, parameters, chosen).astype(
            np.float64
        )  # [target, n_embd]
        parts, column = parts_at(row)
        written = frozen_ln_f(trace, parts.array[:, column].astype(np.float64), row)  # [component, n_embd]
        labels = list(parts.labels["component"])
        if bias is not None:
            written = np.concatenate([written, bias[None].astype(np.float64)])
            labels.append("ln_f.bias")
        ids.append(chosen)
        pushed.append(directions @ written.T)
    return {"push:id": np.array(ids, np.uint32), "push": np.stack(pushed)}, labels


def near_arrays(trace: Trace, rows: list[int], likeliest: Array) -> dict[str, Array]:
    """The final vectors at `rows` beside those of the unembedding that are nearest, as in `nearest_rows`."""
    ids = likeliest[rows, :NEAREST].astype(np.int64)  # [row, token]
    table = unembedding_table(trace.config, trace.parameters("the unembedding"), ids.ravel())
    return {"near": similarities(trace["ln_f"][rows], table.reshape(*ids.shape, -1))}


def _parts_by_row(trace: Trace, rows: list[int]) -> Callable[[int], tuple[NamedArray, int]]:
    """What gives the components of the stream and a row's column in them: of all rows at once where that is
    little, which is faster than one after the other.
    """
    c, n_rows = trace.config, len(trace.positions)
    n_bytes = c.n_layer * (c.n_head + 2) * n_rows * c.n_embd * trace.plan.dtype.itemsize
    if len(rows) < n_rows or n_bytes > AT_ONCE:
        return lambda row: (components(trace, pos=row), 0)
    parts = components(trace)
    return lambda row: (parts, row)


def _check_unedited(trace: Trace) -> None:
    if trace.plan.stop_at_layer is not None:
        raise TraceError("this run stopped before its last layer")
    for site in ("ln_f", "logits"):
        if site in (trace.metadata.get("edits") or []):
            raise TraceError(f"{site} was edited in this run")
