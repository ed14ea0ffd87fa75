"""Two prompts side by side: how far apart their runs are, layer by layer, and what each predicts."""

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import pos_labels, row_of
from gpt2np.analysis.subjects import of_trace
from gpt2np.errors import InputError
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.trace import Trace

RELATIVE = "distance: length of the difference, as a share of the mean of the two norms"
DISTANCE = ("cosine", "distance", "norm", "norm of the other")
PREDICTION = ("here", "of the other", "difference")


@np.errstate(under="ignore")
@of_trace
def stream_distance(trace: Trace, other: Trace, pos: int = -1) -> NamedArray:
    """Return how far apart two runs are at a position, along the residual stream: [residual, measure].

    The cosine of the two vectors; the length of their difference as a share of the mean of their lengths;
    and these two lengths. The prompts may have different lengths: `pos` counts in each of them.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: `embed`, `resid_post` or `ln_f` was not kept.
    """
    rows = _rows(trace, other, pos)
    names = ["embed", *(f"h.{i}.resid_post" for i in range(trace.config.n_layer)), "ln_f"]
    found = []
    for name in names:
        x, y = (run[name][row].astype(np.float64) for run, row in zip((trace, other), rows, strict=True))
        lengths = [float(np.linalg.norm(vector)) for vector in (x, y)]
        tiny = np.finfo(float).tiny
        cosine = float(x @ y) / max(lengths[0] * lengths[1], tiny)
        found.append([cosine, float(np.linalg.norm(x - y)) / max(sum(lengths) / 2, tiny), *lengths])
    labels = {"residual": names, "measure": DISTANCE}
    title = f"the two residual streams, {_at(trace, other, rows)}\n{RELATIVE}"
    return NamedArray(np.array(found), ("residual", "measure"), labels, title)


@np.errstate(under="ignore")
@of_trace
def attention_difference(trace: Trace, other: Trace, pos: int = -1) -> NamedArray:
    """Return how differently each head looks back from a position of two equally long prompts: [layer, head].

    Half the sum of the magnitudes of the differences: 0 if it attends alike, 1 if to other tokens only.

    Raises:
        InputError: the prompts are of different lengths or models, or have no such position.
        TraceError: `attn.pattern` of some layer was not kept.
    """
    rows = _rows(trace, other, pos)
    if len(trace.token_ids) != len(other.token_ids):
        lengths = f"{len(trace.token_ids)} and {len(other.token_ids)} tokens"
        raise InputError(f"attention can be compared only in prompts of the same length, not of {lengths}")
    one, two = (run.stack("attn.pattern")[:, :, row] for run, row in zip((trace, other), rows, strict=True))
    apart = np.abs(one.astype(np.float64) - two).sum(axis=-1) / 2
    title = f"how differently heads attend, 0 to 1, {_at(trace, other, rows)}"
    return NamedArray(apart, ("layer", "head"), title=title)


@np.errstate(under="ignore")
@of_trace
def prediction_difference(trace: Trace, other: Trace, pos: int = -1, k: int = 10) -> NamedArray:
    """Return the k tokens whose probability differs most between two runs: [token, measure].

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: the logits were not kept.
    """
    rows = _rows(trace, other, pos)
    here, there = (
        np.exp(log_probabilities(run["logits"][row].astype(np.float64)))
        for run, row in zip((trace, other), rows, strict=True)
    )
    best = np.argsort(-np.abs(here - there), kind="stable")[:k]
    values = np.stack([here[best], there[best], (here - there)[best]], axis=1)
    labels = {"token": [trace.token(int(i)) for i in best], "measure": PREDICTION}
    title = f"next tokens whose probability differs most, {_at(trace, other, rows)}"
    return NamedArray(values, ("token", "measure"), labels, title)


@np.errstate(under="ignore")
@of_trace
def divergence(trace: Trace, other: Trace, pos: int = -1) -> float:
    """Return the KL divergence of the other run's prediction from this one's, in nats: 0 if equal.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: the logits were not kept.
    """
    rows = _rows(trace, other, pos)
    here, there = (
        log_probabilities(run["logits"][row].astype(np.float64))
        for run, row in zip((trace, other), rows, strict=True)
    )
    return float((np.exp(here) * (here - there)).sum())


def _rows(trace: Trace, other: Trace, pos: int) -> tuple[int, int]:
    """The row of the position in each run."""
    if trace.config != other.config:
        raise InputError("the two runs are of different models")
    return row_of(trace, pos), row_of(other, pos)


def _at(trace: Trace, other: Trace, rows: tuple[int, int]) -> str:
    """Of which position of each run something is told."""
    one, two = (pos_labels(run, [row])[0] for run, row in zip((trace, other), rows, strict=True))
    return f"at position {one}" if one == two else f"at positions {one} and {two}"
