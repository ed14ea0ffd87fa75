"""Where the parameters are, what neurons are for, and what becomes of what the residual stream was told."""

from typing import Any, NamedTuple

import numpy as np

from gpt2np.analysis.choices import pos_labels, recorded, row_of, rows_of
from gpt2np.analysis.circuits import check_index, fold, through_ln_f
from gpt2np.analysis.heads import Near, nearest_tokens, tokens_read
from gpt2np.analysis.named import NamedArray
from gpt2np.analysis.residual import components
from gpt2np.config import Config
from gpt2np.errors import InputError, short
from gpt2np.ops import Array


def parameter_shares(model: Any) -> NamedArray:
    """Number of parameters of each component, and its share: [component, measure]. Takes a Model or a Config.

    `share` is of all parameters, `in blocks` of those of attention, MLPs and LayerNorms together: embeddings
    have none. A tied unembedding counts once, as the token embedding.

    Example:
        >>> parameter_shares(Config()).array[0].round(2)  # GPT-2 small: 31 % are its token embedding
        array([3.859738e+07, 3.100000e-01,          nan])
    """
    config: Config = getattr(model, "config", model)
    parts = config.parameters_by_component()
    if "lm_head.weight" in getattr(model, "weights", {}):
        parts["unembedding"] = int(model.weights["lm_head.weight"].size)
    counts = np.array(list(parts.values()), np.float64)
    inside = np.array([name in ("attention", "mlp", "layer norms") for name in parts])
    in_blocks = np.where(inside, counts / counts[inside].sum(), np.nan)
    return NamedArray(
        np.stack([counts, counts / counts.sum(), in_blocks], axis=1),
        ("component", "measure"),
        {"component": list(parts), "measure": ["parameters", "share", "in blocks"]},
        f"{int(counts.sum()):,} parameters",
    )


# -- neurons --------------------------------------------------------------------------------------


class Neuron(NamedTuple):
    """One neuron in tokens: embeddings it responds to most and least, logits it raises and lowers most.

    `reads` and `writes` [n_embd] are the two directions, `bias` what is added before the activation function.
    """

    reads: Array
    writes: Array
    bias: float
    excited_by: list[Near]
    inhibited_by: list[Near]
    raises: list[Near]
    lowers: list[Near]


def neuron(model: Any, layer: int, i: int, k: int = 5) -> Neuron:
    """What an MLP neuron looks for and what it writes, in vocabulary terms.

    The column of c_fc, ln_2's weight and centring folded in, against every token's embedding; the row of
    c_proj, those of ln_f folded in, against every token's unembedding. Layers above the first read a
    residual stream that is no longer an embedding: the tokens are a hint there.

    Raises:
        InputError: no such layer or neuron, or k below 1.
    """
    layer, i = _check_neuron(model.config, layer, i)
    block = model.parameters.h[layer]
    reads = fold(block.ln_2.weight, block.mlp.c_fc.weight[:, i : i + 1])[:, 0]
    bias = float(block.mlp.c_fc.bias[i] + block.ln_2.bias @ block.mlp.c_fc.weight[:, i])
    writes = block.mlp.c_proj.weight[i]
    through = through_ln_f(model, writes)
    both = [tokens_read(model, sign * reads, k) for sign in (1, -1)]
    both += [nearest_tokens(model, sign * through, k) for sign in (1, -1)]
    return Neuron(reads, writes, bias, *both)


def neuron_activations(trace: Any, layer: int, i: int) -> NamedArray:
    """How active a neuron is at every token of a text: `mlp.post` of it, [pos].

    Raises:
        InputError: no such layer or neuron.
        TraceError: `mlp.post` of this layer was not kept.
    """
    layer, i = _check_neuron(trace.config, layer, i)
    rows = rows_of(trace, None)
    post = recorded(trace, f"h.{layer}.mlp.post", rows)[:, i]
    return NamedArray(post, ("pos",), {"pos": pos_labels(trace, rows)}, f"activation of neuron {layer}.{i}")


def most_active(trace: Any, k: int = 10, pos: int = -1) -> NamedArray:
    """The k most active neurons of all layers at a position, largest first: [neuron], named `layer.i`.

    Raises:
        InputError: no such position, or k below 1.
        TraceError: `mlp.post` of some layer was not kept.
    """
    if type(k) is not int or k < 1:
        raise InputError(f"k must be a whole number of at least 1, not {short(k)}")
    row = row_of(trace, pos)
    post = trace.stack("mlp.post")[:, row]  # [layer, d_mlp]
    best = np.argsort(-post, axis=None, kind="stable")[:k]
    names = [f"{layer}.{i}" for layer, i in zip(*np.unravel_index(best, post.shape), strict=True)]
    title = f"most active neurons at {pos_labels(trace, [row])[0]}"
    return NamedArray(post.ravel()[best], ("neuron",), {"neuron": names}, title)


def sparsity(trace: Any, threshold: float = 0.01) -> NamedArray:
    """Fractions of a layer's neurons and positions that are nearly silent, and active: [layer, measure].

    `near 0`: `mlp.post` is at most `threshold` in magnitude; `positive`: above it. The rest are negative:
    GELU lets down to -0.17 through.

    Raises:
        InputError: the threshold is negative or no number.
        TraceError: `mlp.post` of some layer was not kept.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0:
        raise InputError(f"threshold must be a number of at least 0, not {short(threshold)}")
    post = trace.stack("mlp.post")  # [layer, pos, d_mlp]
    fractions = [(np.abs(post) <= threshold).mean(axis=(1, 2)), (post > threshold).mean(axis=(1, 2))]
    title = f"share of neurons with |mlp.post| at most {threshold:g}, and above it"
    return NamedArray(
        np.stack(fractions, axis=1), ("layer", "measure"), {"measure": ("near 0", "positive")}, title
    )


def _check_neuron(config: Config, layer: int, i: int) -> tuple[int, int]:
    return check_index("layer", layer, config.n_layer), check_index("neuron", i, config.d_mlp)


# -- the residual stream --------------------------------------------------------------------------


def magnitude_ratios(trace: Any) -> NamedArray:
    """How large each dimension of the residual stream is against the usual one: [residual, n_embd].

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


def basis_alignment(trace: Any) -> NamedArray:
    """Whether single dimensions stand out in the residual stream: [residual, measure].

    `kurtosis` of the n_embd numbers of a vector, mean over positions: 3 for a Gaussian, which any rotation
    of the stream leaves alone, and more where the basis is privileged (Elhage et al. 2023, "Privileged Bases
    in the Transformer Residual Stream"). `dimension` is the largest one, `ratio` as in `magnitude_ratios`.

    Raises:
        TraceError: `embed`, `resid_mid` or `resid_post` was not kept.
    """
    names, x = _residuals(trace)
    centred = x - x.mean(axis=-1, keepdims=True)
    square = centred * centred
    kurtosis = (square * square).mean(axis=-1) / np.maximum(square.mean(axis=-1) ** 2, np.finfo(float).tiny)
    ratios = magnitude_ratios(trace).array
    return NamedArray(
        np.stack([kurtosis.mean(axis=1), ratios.argmax(axis=1), ratios.max(axis=1)], axis=1),
        ("residual", "measure"),
        {"residual": names, "measure": ("kurtosis", "dimension", "ratio")},
        "how basis-aligned the residual stream is (kurtosis of a Gaussian: 3)",
    )


def _residuals(trace: Any) -> tuple[list[str], Array]:
    """Every point of the residual stream in double precision: names, and [residual, pos, n_embd]."""
    ran = trace.config.n_layer if trace.plan.stop_at_layer is None else trace.plan.stop_at_layer
    names = ["embed", *(f"h.{i}.{site}" for i in range(ran) for site in ("resid_mid", "resid_post"))]
    return names, np.stack([trace[name] for name in names]).astype(np.float64)


def erasure(trace: Any) -> NamedArray:
    """How much of what a component wrote a later one takes back: [writer, eraser], at least 0.

    Minus the projection of what the eraser writes onto what the writer wrote at the same position, as a
    share of it: 1 takes all of it away, more than 1 turns it round, 0 takes nothing. Positions count by
    the square of what was written there. NaN where the eraser is not later. Footnote 7 of Elhage et al.
    2021 calls this memory management; small writes are easily taken back many times over, see `opposition`.

    Raises:
        TraceError: `wte`, `wpe`, `attn.z` or `mlp.out` was not kept, or there are no weights.
    """
    return memory(trace)["erasure"]


def opposition(trace: Any) -> NamedArray:
    """Minus the cosine between what a component wrote and what a later one writes: [writer, eraser], 0 to 1.

    As `erasure`, but whatever the sizes of both: 1 is the exact opposite.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["opposition"]


def amplification(trace: Any) -> NamedArray:
    """How much a later component adds to what one wrote, along it: [writer, amplifier], at least 0.

    The other sign of `erasure`: 1 writes as much again, 0 adds nothing or takes away.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["amplification"]


def agreement(trace: Any) -> NamedArray:
    """The cosine between what a component wrote and what a later one writes: [writer, amplifier], 0 to 1.

    As `amplification`, but whatever the sizes of both: 1 is the same direction.

    Raises:
        TraceError: as `erasure`.
    """
    return memory(trace)["agreement"]


def memory(trace: Any) -> dict[str, NamedArray]:
    """`erasure`, `opposition`, `amplification` and `agreement` by name, from one decomposition.

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


# In which order the components of a block write; heads and bias of an attention at once.
_WRITERS = ("attn.head", "attn.out.edit", "resid_mid.edit", "mlp", "resid_post.edit")


def _stage(component: str) -> int:
    """When a component writes: embeddings first (then an edit of their sum), and block after block."""
    if not component.startswith("h."):
        return -1 if component == "embed.edit" else -2
    _, layer, part = component.split(".", 2)
    if part == "attn.bias" or part.startswith("attn.head."):
        part = "attn.head"
    return len(_WRITERS) * int(layer) + _WRITERS.index(part)
