"""What two runs differ by, at many pairs of rows at once: the arrays behind `two_prompts`."""

from collections.abc import Sequence

import numpy as np

from gpt2np.analysis.positions_and_tokens import parameters_of_the_end, recorded
from gpt2np.ops import Array
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.lines import last_lines, unembedding_table
from gpt2np.tracing.trace import Trace

Runs = tuple[Trace, Trace]
Rows = Sequence[tuple[int, int]]  # a row of each run
Columns = list[tuple[int | None, int | None]]  # positions side by side, None where a run has none there


def residual_names(trace: Trace) -> list[str]:
    """The points of the residual stream that are held side by side."""
    return ["embed", *(f"h.{i}.resid_post" for i in range(trace.config.n_layer)), "ln_f"]


def lens_sites(trace: Trace) -> list[str]:
    """The points of the residual stream that the logit lens reads."""
    blocks = range(trace.config.n_layer)
    return ["embed", *(f"h.{i}.{at}" for i in blocks for at in ("resid_mid", "resid_post"))]


def distances(runs: Runs, rows: Rows) -> Array:
    """Cosine, distance and both norms of the two streams: [residual, pair, measure]."""
    here, there = (list(each) for each in zip(*rows, strict=True))
    found, tiny = [], np.finfo(float).tiny
    for name in residual_names(runs[0]):
        x, y = runs[0][name][here].astype(np.float64), runs[1][name][there].astype(np.float64)
        norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        cosines = (x * y).sum(axis=1) / np.maximum(norms[0] * norms[1], tiny)
        apart = np.linalg.norm(x - y, axis=1) / np.maximum((norms[0] + norms[1]) / 2, tiny)
        found.append(np.stack([cosines, apart, *norms], axis=1))
    return np.stack(found)


def predicted(runs: Runs, pair: tuple[int, int]) -> tuple[Array, Array]:
    """The logarithms of the probabilities of what follows in each run: [vocab] each."""
    one, two = (run["logits"][row] for run, row in zip(runs, pair, strict=True))
    return log_probabilities(one.astype(np.float64)), log_probabilities(two.astype(np.float64))


def logits_apart(run: Trace, rows: Sequence[int], ids: Array) -> Array:
    """By how much the logit lens has the first of a row's two tokens [row, 2] above the second: [site, row].

    Before a soft cap, where there is one.
    """
    parameters = parameters_of_the_end(run, "the logit difference")
    line = last_lines(run.config, parameters)["ln_f"]
    first, second = (unembedding_table(run.config, parameters, column).astype(np.float64) for column in ids.T)
    found = []
    for site in lens_sites(run):
        x = recorded(run, site, list(rows))
        normed = np.empty_like(x)
        line.op(x, *line.inputs[1:], out=normed)
        found.append((normed.astype(np.float64) * (first - second)).sum(axis=1))
    return np.stack(found)


def patterns_apart(one: Array, two: Array, columns: Columns) -> Array:
    """Half the sum of what attention differs by, key by key side by side: [..., key] each -> [...]."""
    room = [(0, 0)] * (one.ndim - 1) + [(0, 1)]  # the last key is none: no attention
    a, b = (np.array([-1 if at is None else at for at in each]) for each in zip(*columns, strict=True))
    apart = np.pad(one.astype(np.float64), room)[..., a] - np.pad(two.astype(np.float64), room)[..., b]
    return np.asarray(np.abs(apart).sum(axis=-1) / 2)
