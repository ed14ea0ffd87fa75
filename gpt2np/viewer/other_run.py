"""A second run beside the one that a page shows: what the page has of it, and how far apart the two are."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2np.analysis.pairs_of_rows import Columns, Runs, distances, lens_sites, logits_apart, predicted
from gpt2np.analysis.two_prompts import alignment
from gpt2np.errors import InputError
from gpt2np.ops import Array
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.edits import each_edit
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.attention_and_predictions import attention_arrays, chance_arrays, next_arrays
from gpt2np.viewer.detail_levels import OTHER, Detail, Sizes
from gpt2np.viewer.page_facts import LONGEST, as_written

Part = tuple[str, Callable[[], dict[str, Array]]]


def check_other(trace: Trace, other: Trace) -> None:
    """Refuse a run that cannot be held beside another one.

    Raises:
        InputError: it is of another model, or stopped at another layer.
        TraceError: it is of other weights.
    """
    if trace.config != other.config:
        raise InputError("against: the two runs are of different models")
    if trace.plan.stop_at_layer != other.plan.stop_at_layer:
        raise InputError("against: the two runs did not stop at the same layer")
    if trace.model is not None and other.model is not trace.model:
        other.check_model(trace.model, "against")


def columns_of(trace: Trace, other: Trace) -> Columns:
    """The positions side by side; at the end both last ones, where they do not stand for one another."""
    columns, ends = alignment(trace, other), (len(trace.token_ids) - 1, len(other.token_ids) - 1)
    return columns if ends in columns else [*columns, ends]


def other_facts(other: Trace, columns: Columns, ends: bool, first: int) -> dict[str, Any]:
    """The other text and what stands beside what; predictions are compared from the column `first` on.

    With `ends` the last column is that of both last positions, which do not stand for one another.
    """
    return {
        "prompt": other.prompt,
        "tokens": [token[:LONGEST] for token in other.tokens],
        "ids": other.token_ids,
        **as_written(other),
        "edits": each_edit(other.metadata),
        "n_prompt": other.metadata.get("n_prompt"),
        "columns": [list(pair) for pair in columns],
        "ends": ends,
        "first": first,
    }


def other_parts(
    trace: Trace, other: Trace, columns: Columns, sizes: Sizes, d: Detail, first: int
) -> list[Part]:
    """The arrays of the other run and of the differences, by the part of the page that they are for."""
    runs = (trace, other)
    pairs = [(i, (a, b)) for i, (a, b) in enumerate(columns) if a is not None and b is not None]
    last = [(i - first, rows) for i, rows in pairs if i >= first]

    def of_the_other(arrays: dict[str, Array]) -> dict[str, Array]:
        return {OTHER + name: array for name, array in arrays.items()}

    return [
        ("against attention", lambda: of_the_other(attention_arrays(other, sizes.layers, d, scores=False))),
        ("against next", lambda: of_the_other(next_arrays(other, sizes.tops) | chance_arrays(other))),
        ("against stream", lambda: _streams(runs, pairs, len(columns))),
        ("against predictions", lambda: _predictions(runs, last, len(columns) - first, sizes.tops)),
        ("against logits", lambda: _logits(runs, last, len(columns) - first)),
    ]


Placed = list[tuple[int, tuple[int, int]]]  # a column, and the row of each run that stands in it


def _streams(runs: Runs, pairs: Placed, n: int) -> dict[str, Array]:
    """How far apart the streams are: [residual, column, measure], nothing where a run has nothing."""
    found = distances(runs, [rows for _, rows in pairs])
    placed = np.full((len(found), n, found.shape[-1]), np.nan)
    placed[:, [column for column, _ in pairs]] = found
    return {"apart:stream": placed}


@np.errstate(under="ignore")
def _predictions(runs: Runs, pairs: Placed, n: int, k: int) -> dict[str, Array]:
    """The tokens whose probability differs most, and the divergences: [column, ...]."""
    ids, chances, apart = np.zeros((n, k), np.uint32), np.full((n, k, 2), np.nan), np.full((n, 2), np.nan)
    for column, rows in pairs:
        here, there = predicted(runs, rows)
        p, q = np.exp(here), np.exp(there)
        best = top_k_tokens(np.abs(p - q), k)
        ids[column], chances[column] = best, np.stack([p[best], q[best]], axis=1)
        apart[column] = (p * (here - there)).sum(), (q * (there - here)).sum()
    return {"apart:id": ids, "apart:p": chances, "apart:divergence": apart}


def _logits(runs: Runs, pairs: Placed, n: int) -> dict[str, Array]:
    """By how much one logit is above another along the layers: [column, point, run].

    The two tokens are the likeliest of either run; where that is one token, it and the one after it here.
    """
    two, placed = np.zeros((n, 2), np.uint32), np.full((n, len(lens_sites(runs[0])), 2), np.nan)
    for column, rows in pairs:
        here, there = (run["logits"][row] for run, row in zip(runs, rows, strict=True))
        (first, second), wanted = top_k_tokens(here, 2), int(top_k_tokens(there, 1)[0])
        two[column] = first, second if wanted == first else wanted
    columns = [column for column, _ in pairs]
    for i, run in enumerate(runs):
        rows_of_run = [rows[i] for _, rows in pairs]
        placed[columns, :, i] = logits_apart(run, rows_of_run, two[columns].astype(np.int64)).T
    return {"apart:pair": two, "apart:logit": placed}
