"""Where a pass went beyond the numbers: positions whose result is infinite or no number."""

import math

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing.packed_pass import Pass


def not_finite(run: Pass, result: Array) -> str | None:
    """Where a pass is not finite, in its result or in rows whose logits nobody wants; None: nowhere."""
    for rows in (run.whole, result):
        # The sum is quick, and may overflow by itself.
        if rows is None or math.isfinite(np.add.reduce(rows, axis=None)):
            continue
        finite = np.logical_and.reduce(np.isfinite(rows), axis=-1)
        if not finite.all():
            return _positions(run, finite)
    return None


def _positions(run: Pass, finite: Array) -> str:
    """Which positions of the first such prompt are not finite; `finite` is of all rows, or last ones."""
    for i, sequence in enumerate(run.sequences):
        rows = sequence.rows if len(finite) == run.n_rows else slice(i, i + 1)
        bad = np.flatnonzero(~finite[rows])
        if len(bad):
            number = i if sequence.number is None else sequence.number
            prompt = f" of prompt {number}" if len(run.sequences) > 1 or sequence.number else ""
            if len(bad) == len(sequence.token_ids) > 1:
                return f" at any position{prompt}"
            first = sequence.past + len(sequence.token_ids) - len(finite[rows]) + int(bad[0])
            return f" at position {first}{prompt}"
    return ""
