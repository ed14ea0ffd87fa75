"""The derived sites: each a line or two of NumPy from recorded arrays, computed when asked for."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from gpt2np.ops import Array, layer_norm_statistics, softmax
from gpt2np.tracing.config import Config
from gpt2np.tracing.sites import TOP_K


class Recorded(Protocol):
    """What a derived site is computed from: a Trace, or anything that looks like one."""

    config: Config
    token_ids: Array
    positions: range

    def __getitem__(self, name: str) -> Array:
        """A recorded array."""

    def parameters(self, needed_for: str) -> Any:
        """The model's parameters, which a trace read from a file may not have."""


def resid_pre(trace: Recorded, layer: int) -> Array:
    """The block before's resid_post, or the embedding."""
    return trace[f"h.{layer - 1}.resid_post"] if layer else trace["embed"]


def norm_input(trace: Recorded, norm: str, layer: int | None) -> Array:
    """What a LayerNorm reads."""
    if layer is None:
        n = trace.config.n_layer
        return trace[f"h.{n - 1}.resid_post"]
    return resid_pre(trace, layer) if norm == "ln_1" else trace[f"h.{layer}.resid_mid"]


def split_qkv(qkv: Array, n_head: int) -> Array:
    """Views of queries, keys and values: [pos, 3*n_embd] -> [3, pos, head, d_head]."""
    n_pos, width = qkv.shape
    return qkv.reshape(n_pos, 3, n_head, width // (3 * n_head)).swapaxes(0, 1)


def head_outputs(z: Array, c_proj_weight: Array) -> Array:
    """Each head's result times its rows of c_proj: [pos, head, d_head] -> [pos, head, n_embd]."""
    _, n_head, d_head = z.shape
    per_head = c_proj_weight.reshape(n_head, d_head, -1)
    return np.asarray(np.matmul(z.swapaxes(0, 1), per_head).swapaxes(0, 1))


def log_probabilities(logits: Array) -> Array:
    """log softmax along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def top_k_tokens(logits: Array, k: int = TOP_K) -> Array:
    """Ids of the k largest logits of each row, largest first, lower ids first among equals: [pos, k]."""
    k = min(k, logits.shape[-1])
    nearly = np.argpartition(-logits, k - 1, axis=-1)[..., :k]
    nearly.sort(axis=-1)
    order = np.argsort(-np.take_along_axis(logits, nearly, -1), axis=-1, kind="stable")
    return np.take_along_axis(nearly, order, -1)


def next_token_loss(logits: Array, token_ids: Array, positions: range) -> Array:
    """-log probability of the token that follows each position; NaN where none follows: [pos]."""
    losses = np.full(len(positions), np.nan, logits.dtype)
    for row, position in enumerate(positions):
        if position + 1 < len(token_ids):
            losses[row] = -log_probabilities(logits[row])[token_ids[position + 1]]
    return losses


def _statistic(norm: str, which: int) -> Callable[[Recorded, int | None], Array]:
    def derive(trace: Recorded, layer: int | None) -> Array:
        x = norm_input(trace, norm, layer)
        return layer_norm_statistics(x, trace.config.layer_norm_epsilon)[which][..., 0]

    return derive


def _normalized(norm: str) -> Callable[[Recorded, int | None], Array]:
    def derive(trace: Recorded, layer: int | None) -> Array:
        x = norm_input(trace, norm, layer)
        mean, rstd = layer_norm_statistics(x, trace.config.layer_norm_epsilon)
        return np.asarray((x - mean) * rstd)

    return derive


def _part_of_qkv(which: int) -> Callable[[Recorded, Any], Array]:
    def derive(trace: Recorded, layer: int) -> Array:
        return np.asarray(split_qkv(trace[f"h.{layer}.attn.qkv"], trace.config.n_head)[which])

    return derive


def _heads(trace: Recorded, layer: int) -> Array:
    c_proj = trace.parameters("attn.heads").h[layer].attn.c_proj
    return head_outputs(trace[f"h.{layer}.attn.z"], c_proj.weight)


def _probabilities(trace: Recorded, _: None) -> Array:
    logits = trace["logits"]
    out = np.empty_like(logits)
    softmax(logits, out=out)
    return out


# Each derived site: the function of a trace and a layer that computes it.
DERIVED: dict[str, Callable[[Any, Any], Array]] = {
    "resid_pre": resid_pre,
    **{f"{norm}.mean": _statistic(norm, 0) for norm in ("ln_1", "ln_2", "ln_f")},
    **{f"{norm}.rstd": _statistic(norm, 1) for norm in ("ln_1", "ln_2", "ln_f")},
    **{f"{norm}.normalized": _normalized(norm) for norm in ("ln_1", "ln_2", "ln_f")},
    "attn.q": _part_of_qkv(0),
    "attn.k": _part_of_qkv(1),
    "attn.v": _part_of_qkv(2),
    "attn.heads": _heads,
    "probabilities": _probabilities,
    "top_k_tokens": lambda trace, _: top_k_tokens(trace["logits"]),
    "loss": lambda trace, _: next_token_loss(trace["logits"], trace.token_ids, trace.positions),
}


def bases(name: str, layer: int | None, n_layer: int) -> list[str]:
    """Full names of the stored sites that a derived site is computed from."""
    if name in ("probabilities", "top_k_tokens", "loss"):
        return ["logits"]
    if name in ("attn.q", "attn.k", "attn.v"):
        return [f"h.{layer}.attn.qkv"]
    if name == "attn.heads":
        return [f"h.{layer}.attn.z"]
    if name.startswith("ln_2"):
        return [f"h.{layer}.resid_mid"]
    if name.startswith("ln_f"):
        return [f"h.{n_layer - 1}.resid_post"]
    return [f"h.{layer - 1}.resid_post" if layer else "embed"]  # resid_pre and ln_1's
