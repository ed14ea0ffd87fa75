"""The derived sites: each a line or two of NumPy from recorded arrays, computed when asked for.

An architecture maps its derived sites to a `Derived` each; the functions here make those that several share.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpt2np.ops import Array, layer_norm_statistics, root_mean_square, softmax
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import TOP_K

_LEAST_GROUP = 4  # of columns of which only the largest is looked at first

Place = Callable[[int | None, int], str]  # (layer, n_layer) -> full name of a stored site


class Recorded(Protocol):
    """What a derived site is computed from: a Trace, or anything that looks like one."""

    @property
    def config(self) -> ModelConfig:
        """The config of the model that ran."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens that ran."""

    @property
    def positions(self) -> range:
        """The positions that were kept."""

    def __getitem__(self, name: str) -> Array:
        """A recorded array."""

    def parameters(self, needed_for: str = "", /) -> Any:
        """The model's parameters, which a trace read from a file may not have."""


class Widened:
    """What was recorded in float16 as float32, so that derived sites are computed in float32."""

    def __init__(self, recorded: Recorded) -> None:
        self.config, self.token_ids = recorded.config, recorded.token_ids
        self.positions, self.parameters = recorded.positions, recorded.parameters
        self._recorded = recorded

    def __getitem__(self, name: str) -> Array:
        return self._recorded[name].astype(np.float32)


class Derived(NamedTuple):
    """How a derived site is computed: which stored sites it reads, and the function of a trace and a layer.

    `view` is given where the site is a part of the one array that it reads: what is written there changes it.
    """

    reads: tuple[Place, ...]
    compute: Callable[[Recorded, Any], Array]
    needs_weights: bool = False
    view: Callable[[Array, Any], Array] | None = None  # (the stored array, config) -> the part


def bases(config: ModelConfig, name: str, layer: int | None) -> list[str]:
    """Full names of the stored sites that a derived site is computed from."""
    return [place(layer, config.n_layer) for place in config.architecture.derived[name].reads]


def stored_for(config: ModelConfig, name: str, layer: int | None) -> list[str]:
    """Full names of the stored sites that a site can be had from: itself, or what it is computed from."""
    site = config.architecture.sites[name]
    return bases(config, name, layer) if site.derived else [site.full_name(layer)]


def views_of(config: ModelConfig, name: str) -> dict[str, Callable[[Array, Any], Array]]:
    """The derived sites that are parts of a stored site of a layer, by name without the layer."""
    found = {}
    for derived_name, derived in config.architecture.derived.items():
        if derived.view is not None and derived.reads[0](0, config.n_layer) == f"h.0.{name}":
            found[derived_name] = derived.view
    return found


def at(name: str) -> Place:
    """The place of a stored site: of the layer itself if it is in one."""
    return lambda layer, _: name if layer is None else f"h.{layer}.{name}"


def block_input(layer: int | None, n_layer: int) -> str:
    """The residual stream that a block reads: what the block before left, or the embedding."""
    return f"h.{layer - 1}.resid_post" if layer else "embed"


def last_output(layer: int | None, n_layer: int) -> str:
    """The residual stream behind the last block."""
    return f"h.{n_layer - 1}.resid_post"


# What the norms read that every architecture has under these names.
NORM_READS: dict[str, Place] = {"ln_1": block_input, "ln_2": at("resid_mid"), "ln_f": last_output}


def norm_input(trace: Recorded, norm: str, layer: int | None) -> Array:
    """What `ln_1`, `ln_2` or `ln_f` reads."""
    return trace[NORM_READS[norm](layer, trace.config.n_layer)]


def head_outputs(z: Array, output_weight: Array) -> Array:
    """Each head's result times its rows of the output matrix: [pos, head, d_head] -> [pos, head, n_embd]."""
    _, n_head, d_head = z.shape
    per_head = output_weight.reshape(n_head, d_head, -1)
    return np.asarray(np.matmul(z.swapaxes(0, 1), per_head).swapaxes(0, 1))


@np.errstate(under="ignore")
def log_probabilities(logits: Array) -> Array:
    """log softmax along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def top_k_tokens(logits: Array, k: int = TOP_K) -> Array:
    """Ids of the k largest logits of each row, largest first, lower ids first among equals: [pos, k]."""
    k = min(k, logits.shape[-1])
    rows = logits.reshape(-1, logits.shape[-1])
    bounds = _not_below_the_largest(rows, k)
    found = np.empty((len(rows), k), np.intp)
    for i, row in enumerate(rows):
        ids = np.arange(len(row)) if bounds is None else np.flatnonzero(row >= bounds[i])
        if len(ids) < k:  # the bound is no number
            ids = np.arange(len(row))
        found[i] = ids[np.argsort(-row[ids], kind="stable")[:k]]
    return found.reshape(*logits.shape[:-1], k)


def _not_below_the_largest(rows: Array, k: int) -> Array | None:
    """For each row a number that its k largest reach, and few others; None where rows are short.

    It is the k-th largest of the maxima of k or more groups of columns.
    """
    size = math.isqrt(rows.shape[-1] // k)
    if size < _LEAST_GROUP:
        return None
    n = rows.shape[-1] // size
    maxima = np.maximum.reduce(rows[:, : size * n].reshape(len(rows), size, n), axis=1)
    return np.asarray(np.partition(maxima, n - k, axis=-1)[:, n - k])


def next_token_loss(logits: Array, token_ids: Sequence[int], positions: range) -> Array:
    """-log probability of the token that follows each position; NaN where none follows: [pos]."""
    losses = np.full(len(positions), np.nan, logits.dtype)
    for row, position in enumerate(positions):
        if position + 1 < len(token_ids):
            losses[row] = -log_probabilities(logits[row])[token_ids[position + 1]]
    return losses


def _probabilities(trace: Recorded, _: None) -> Array:
    logits = trace["logits"]
    out = np.empty_like(logits)
    softmax(logits, out=out)
    return out


# -- what several architectures derive ---------------------------------------------------------------

RESID_PRE = Derived((block_input,), lambda trace, layer: trace[block_input(layer, 0)])

OF_LOGITS = {
    "probabilities": Derived((at("logits"),), _probabilities),
    "top_k_tokens": Derived((at("logits"),), lambda trace, _: top_k_tokens(trace["logits"])),
    "loss": Derived(
        (at("logits"),),
        lambda trace, _: next_token_loss(trace["logits"], trace.token_ids, trace.positions),
    ),
}


def layer_norm_statistics_of(norm: str, reads: Place | None = None) -> dict[str, Derived]:
    """Mean, 1 / standard deviation and normalised input of a LayerNorm; `reads` says what it reads."""
    place = reads or NORM_READS[norm]

    def statistics(trace: Recorded, layer: int | None) -> tuple[Array, Array, Array]:
        x = trace[place(layer, trace.config.n_layer)]
        return x, *layer_norm_statistics(x, trace.config.norm_epsilon)

    def normalized(trace: Recorded, layer: int | None) -> Array:
        x, mean, rstd = statistics(trace, layer)
        return np.asarray((x - mean) * rstd)

    return {
        f"{norm}.mean": Derived((place,), lambda trace, layer: statistics(trace, layer)[1][..., 0]),
        f"{norm}.rstd": Derived((place,), lambda trace, layer: statistics(trace, layer)[2][..., 0]),
        f"{norm}.normalized": Derived((place,), normalized),
    }


def rms_statistics_of(norm: str, reads: Place | None = None) -> dict[str, Derived]:
    """Root mean square and normalised input of an RMSNorm; `reads` says what it reads."""
    place = reads or NORM_READS[norm]

    def statistics(trace: Recorded, layer: int | None) -> tuple[Array, Array]:
        x = trace[place(layer, trace.config.n_layer)]
        return x, root_mean_square(x, trace.config.norm_epsilon)

    return {
        f"{norm}.rms": Derived((place,), lambda trace, layer: statistics(trace, layer)[1][..., 0]),
        f"{norm}.normalized": Derived((place,), lambda trace, layer: np.divide(*statistics(trace, layer))),
    }


def view_of(base: str, view: Callable[[Array, Any], Array]) -> Derived:
    """A part of a stored array of the same layer."""
    place = at(base)

    def compute(trace: Recorded, layer: int) -> Array:
        return np.asarray(view(trace[place(layer, 0)], trace.config))

    return Derived((place,), compute, view=view)


def head_outputs_by(output_weight: Callable[[Any, int], Array]) -> Derived:
    """Each head's output vector, by the output matrix of a layer in the parameters."""

    def compute(trace: Recorded, layer: int) -> Array:
        weight = output_weight(trace.parameters("attn.heads"), layer)
        return head_outputs(trace[f"h.{layer}.attn.z"], weight)

    return Derived((at("attn.z"),), compute, needs_weights=True)
