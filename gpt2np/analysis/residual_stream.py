"""What happens in the residual stream: dimensions that stand out, parts that are erased or amplified."""

import numpy as np

from gpt2np.analysis.attribution import components
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_trace
from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace

# In which order the components of a block write; heads and bias of an attention at once.
_WRITERS = ("attn.head", "attn.out.edit", "resid_mid.edit", "mlp", "resid_post.edit")


@np.errstate(under="ignore")
@of_trace
def magnitude_ratios(trace: Trace) -> NamedArray:
    """Return how large each dimension of the residual stream is, relative to the median: [residual, n_embd].

    The mean magnitude of a dimension over positions, divided by the median of those of all dimensions;
    `.largest()` names the outliers.

    Raises:
        TraceError: `embed`, `resid_mid` or `resid_post` was not kept.
    """
    names, x = _residuals(trace)
    size = np.abs(x).mean(axis=1)  # [residual, n_embd]
    ratios = size / np.maximum(np.median(size, axis=1, keepdims=True), np.finfo(float).tiny)
    return NamedArray(
        ratios, ("residual", "n_embd"), {"residual": names}, "magnitude over the median dimension's"
    )


@np.errstate(under="ignore")
@of_trace
def basis_alignment(trace: Trace) -> NamedArray:
    """Return whether single dimensions stand out in the residual stream: [residual, measure].

    `kurtosis` of the n_embd numbers of a vector, mean over positions: 3 for a Gaussian, which any rotation
    of the stream leaves alone, and more where the basis is privileged (Elhage et al. 2023, "Privileged Bases
    in the Transformer Residual Stream"). `dimension` is the largest one, `ratio` as in `magnitude_ratios`.

    Raises:
        TraceError: `embed`, `resid_mid` or `resid_post` was not kept.
    """
    names, x = _residuals(trace)
    kurtosis = _kurtosis(x)
    ratios = magnitude_ratios(trace).array
    return NamedArray(
        np.stack([kurtosis.mean(axis=1), ratios.argmax(axis=1), ratios.max(axis=1)], axis=1),
        ("residual", "measure"),
        {"residual": names, "measure": ("kurtosis", "dimension", "ratio")},
        "how basis-aligned the residual stream is (kurtosis of a Gaussian: 3)",
    )


@np.errstate(under="ignore")
@of_trace
def kurtosis(trace: Trace) -> NamedArray:
    """Return how basis-aligned neurons are, and the stream that they read and write: [layer, site].

    The kurtosis of the numbers of a vector, mean over positions: 3 for a Gaussian, which any rotation leaves
    alone. Their activation function gives neurons a privileged basis, which the stream has only by accident
    of training (see `basis_alignment`).

    Raises:
        TraceError: `embed`, `resid_post`, `mlp.pre`, `mlp.post` or `mlp.out` of some layer was not kept.
    """
    sites = ("resid_pre", "mlp.pre", "mlp.post", "mlp.out")
    values = [
        [float(_kurtosis(trace[f"h.{i}.{site}"].astype(np.float64)).mean()) for site in sites]
        for i in range(trace.config.n_layer)
    ]
    title = "kurtosis of the stream and of neurons (of a Gaussian: 3)"
    return NamedArray(np.array(values), ("layer", "site"), {"site": sites}, title)


def _kurtosis(x: Array) -> Array:
    """Fourth moment over the square of the second, of each row: [..., n] -> [...]."""
    centred = x - x.mean(axis=-1, keepdims=True)
    square = centred * centred
    fourth, second = (square * square).mean(axis=-1), square.mean(axis=-1)
    return np.asarray(fourth / np.maximum(second**2, np.finfo(float).tiny))


def _residuals(trace: Trace) -> tuple[list[str], Array]:
    """Every point of the residual stream in double precision: names, and [residual, pos, n_embd]."""
    ran = trace.config.n_layer if trace.plan.stop_at_layer is None else trace.plan.stop_at_layer
    names = ["embed", *(f"h.{i}.{site}" for i in range(ran) for site in ("resid_mid", "resid_post"))]
    return names, np.stack([trace[name] for name in names]).astype(np.float64)


@np.errstate(under="ignore")
@of_trace
def erasure(trace: Trace) -> NamedArray:
    """Return how much of what a component wrote a later one takes back: [writer, eraser], at least 0.

    Minus the projection of what the eraser writes onto what the writer wrote at the same position, as a
    share of it: 1 takes all of it away, more than 1 turns it round, 0 takes nothing. Positions count by
    the square of what was written there. NaN where the eraser is not later. Footnote 7 of Elhage et al.
    2021 calls this memory management; small writes are easily taken back many times over, see `opposition`.

    Raises:
        TraceError: an embedding, `attn.z` or `mlp.out` was not kept, or there are no weights.
    """
    return memory(trace)["erasure"]


@np.errstate(under="ignore")
@of_trace
def opposition(trace: Trace) -> NamedArray:
    """Return minus the cosine between what a component and a later one write: [writer, eraser], 0 to 1.

    As `erasure`, but whatever the sizes of both: 1 is the exact opposite.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["opposition"]


@np.errstate(under="ignore")
@of_trace
def amplification(trace: Trace) -> NamedArray:
    """Return how much a later component adds to what one wrote, along it: [writer, amplifier], at least 0.

    The other sign of `erasure`: 1 writes as much again, 0 adds nothing or takes away.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["amplification"]


@np.errstate(under="ignore")
@of_trace
def agreement(trace: Trace) -> NamedArray:
    """Return the cosine between what a component and a later one write: [writer, amplifier], 0 to 1.

    As `amplification`, but whatever the sizes of both: 1 is the same direction.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["agreement"]


@np.errstate(under="ignore")
@of_trace
def memory(trace: Trace) -> dict[str, NamedArray]:
    """Return `erasure`, `opposition`, `amplification` and `agreement` by name, from one decomposition.

    Raises:
        TraceError: as `erasure`.
    """
    parts = components(trace)
    names = list(parts.labels["component"])
    x = parts.array.astype(np.float64).reshape(len(names), -1)  # [component, pos * n_embd]
    products = x @ x.T
    squares = np.maximum(np.diag(products), np.finfo(float).tiny)
    norms = np.sqrt(squares)
    shares, cosines = products / squares[:, None], products / np.outer(norms, norms)
    share, cosine = "share of what the writer wrote that is", "cosine of what the two write"
    return {
        "erasure": _later(names, "eraser", -shares, f"{share} taken back"),
        "opposition": _later(names, "eraser", -cosines, f"minus the {cosine}"),
        "amplification": _later(names, "amplifier", shares, f"{share} added again"),
        "agreement": _later(names, "amplifier", cosines, cosine),
    }


def _later(names: list[str], who: str, values: Array, title: str) -> NamedArray:
    """Values of at least 0, where the second writes later than the writer."""
    when = np.array([_stage(name) for name in names])
    values = np.where(when[:, None] < when[None, :], np.maximum(values, 0.0), np.nan)
    return NamedArray(values, ("writer", who), {"writer": names, who: names}, title)


def _stage(component: str) -> int:
    """When a component writes: embeddings first (then an edit of their sum), and block after block."""
    if not component.startswith("h."):
        return -1 if component == "embed.edit" else -2
    _, layer, part = component.split(".", 2)
    if part == "attn.bias" or part.startswith("attn.head."):
        part = "attn.head"
    return len(_WRITERS) * int(layer) + _WRITERS.index(part)
