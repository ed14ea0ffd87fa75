"""Two prompts side by side: which tokens stand for one another, how far the runs are apart, what they say."""

from difflib import SequenceMatcher

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.pairs_of_rows import (
    Columns,
    distances,
    lens_sites,
    logits_apart,
    patterns_apart,
    predicted,
    residual_names,
)
from gpt2np.analysis.positions_and_tokens import pos_labels, row_of, token_id
from gpt2np.analysis.subjects import of_trace
from gpt2np.errors import InputError
from gpt2np.tables import quoted
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.trace import Trace

RELATIVE = "distance: length of the difference, as a share of the mean of the two norms"
DISTANCE = ("cosine", "distance", "norm", "norm of the other")
PREDICTION = ("here", "of the other", "difference")
RUNS = ("here", "the other")


@of_trace
def alignment(trace: Trace, other: Trace) -> Columns:
    """Return which positions of two prompts stand for one another, in the order of both: (here, other).

    Prompts of the same length are held side by side position by position. Of others, tokens that both have
    in the same order stand for one another; between these the last ones do, as many as both have there. What
    is left has None at its side.

    Raises:
        InputError: the runs are of different models.
    """
    _check_same_model(trace, other)
    here, there = trace.token_ids, other.token_ids
    if len(here) == len(there):
        return [(pos, pos) for pos in range(len(here))]
    columns: Columns = []
    for _, a, a_end, b, b_end in SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        both = min(a_end - a, b_end - b)
        columns += [(pos, None) for pos in range(a, a_end - both)]
        columns += [(None, pos) for pos in range(b, b_end - both)]
        columns += zip(range(a_end - both, a_end), range(b_end - both, b_end), strict=True)
    return columns


@np.errstate(under="ignore")
@of_trace
def stream_distance(trace: Trace, other: Trace, pos: int = -1, other_pos: int | None = None) -> NamedArray:
    """Return how far apart two runs are at a position, along the residual stream: [residual, measure].

    The cosine of the two vectors; the length of their difference as a share of the mean of their lengths;
    and these two lengths. The prompts may have different lengths: `pos` counts in each of them, unless
    `other_pos` says which position of the other it is held against.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: `embed`, `resid_post` or `ln_f` was not kept.
    """
    rows = _rows(trace, other, pos, other_pos)
    labels = {"residual": residual_names(trace), "measure": DISTANCE}
    title = f"the two residual streams, {_at(trace, other, rows)}\n{RELATIVE}"
    return NamedArray(distances((trace, other), [rows])[:, 0], ("residual", "measure"), labels, title)


@np.errstate(under="ignore")
@of_trace
def attention_difference(
    trace: Trace, other: Trace, pos: int = -1, other_pos: int | None = None
) -> NamedArray:
    """Return how differently each head looks back from a position in two prompts: [layer, head].

    Half the sum of the magnitudes of the differences: 0 if it attends alike, 1 if to other tokens only. The
    tokens are held side by side as `alignment` has them; attention to one that has nothing at its side counts
    as different. The positions are as in `stream_distance`.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: `attn.pattern` of some layer was not kept.
    """
    rows = _rows(trace, other, pos, other_pos)
    one, two = (run.stack("attn.pattern")[:, :, row] for run, row in zip((trace, other), rows, strict=True))
    apart = patterns_apart(one, two, alignment(trace, other))
    title = f"how differently heads attend, 0 to 1, {_at(trace, other, rows)}"
    return NamedArray(apart, ("layer", "head"), title=title)


@np.errstate(under="ignore")
@of_trace
def prediction_difference(
    trace: Trace, other: Trace, pos: int = -1, k: int = 10, other_pos: int | None = None
) -> NamedArray:
    """Return the k tokens whose probability differs most between two runs: [token, measure].

    The positions are as in `stream_distance`.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: the logits were not kept.
    """
    rows = _rows(trace, other, pos, other_pos)
    here, there = (np.exp(log_p) for log_p in predicted((trace, other), rows))
    best = top_k_tokens(np.abs(here - there), k)
    values = np.stack([here[best], there[best], (here - there)[best]], axis=1)
    labels = {"token": [trace.token(int(i)) for i in best], "measure": PREDICTION}
    title = f"next tokens whose probability differs most, {_at(trace, other, rows)}"
    return NamedArray(values, ("token", "measure"), labels, title)


@np.errstate(under="ignore")
@of_trace
def divergence(trace: Trace, other: Trace, pos: int = -1, other_pos: int | None = None) -> float:
    """Return the KL divergence of the other run's prediction from this one's, in nats: 0 if equal.

    The positions are as in `stream_distance`.

    Raises:
        InputError: the runs are of different models, or one has no such position.
        TraceError: the logits were not kept.
    """
    rows = _rows(trace, other, pos, other_pos)
    here, there = predicted((trace, other), rows)
    return float((np.exp(here) * (here - there)).sum())


@np.errstate(under="ignore")
@of_trace
def lens_difference(
    trace: Trace,
    other: Trace,
    tokens: tuple[str | int, str | int],
    pos: int = -1,
    other_pos: int | None = None,
) -> NamedArray:
    """Return by how much the logit of one token is above that of another, along both runs: [site, run].

    The logits are those of the logit lens at `embed`, `h.0.resid_mid`, `h.0.resid_post` and so on, before a
    soft cap where there is one. A token is its whole text or its id; the positions are as in
    `stream_distance`.

    Raises:
        InputError: no such token, the runs are of different models, or one has no such position.
        TraceError: a residual site was not kept, ln_f or the logits were edited, or there are no weights.
    """
    rows = _rows(trace, other, pos, other_pos)
    model = trace.model_for("the logit difference")
    ids = [token_id(model, token) for token in tokens]
    pairs = zip((trace, other), rows, strict=True)
    found = np.concatenate([logits_apart(run, [row], np.array([ids])) for run, row in pairs], axis=1)
    labels = {"site": lens_sites(trace), "run": RUNS}
    one, two = (quoted(trace.token(i)) for i in ids)
    title = f"logit of {one} minus that of {two}, {_at(trace, other, rows)}"
    return NamedArray(found, ("site", "run"), labels, title)


def _check_same_model(trace: Trace, other: Trace) -> None:
    if trace.config != other.config:
        raise InputError("the two runs are of different models")


def _rows(trace: Trace, other: Trace, pos: int, other_pos: int | None) -> tuple[int, int]:
    """The row of the position in each run."""
    _check_same_model(trace, other)
    return row_of(trace, pos), row_of(other, pos if other_pos is None else other_pos)


def _at(trace: Trace, other: Trace, rows: tuple[int, int]) -> str:
    """Of which position of each run something is told."""
    one, two = (pos_labels(run, [row])[0] for run, row in zip((trace, other), rows, strict=True))
    return f"at position {one}" if one == two else f"at positions {one} and {two}"
