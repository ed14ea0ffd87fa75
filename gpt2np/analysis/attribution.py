"""The residual stream as a sum: who wrote what, and what each part does to a prediction.

Every block only adds to the residual stream, so that its final vector is a sum of vectors: token, position,
one for each head, the bias of each attention, one for each MLP (Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits"). A logit is linear in that sum once the scale of the last LayerNorm is held fixed.
An edit of the stream itself, such as a steering vector added to a `resid_post`, is a component of its own.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import (
    parameters_of_the_end,
    pos_labels,
    recorded,
    row_of,
    rows_of,
    token_id,
)
from gpt2np.errors import InputError
from gpt2np.ops import Array, layer_norm_statistics
from gpt2np.tables import quoted
from gpt2np.tracing.derived import head_outputs

# What a trace must have kept: for `components`, and for `attribution` too.
KEEP = ["wte", "wpe", "attn.z", "mlp.out", "resid_post"]


def components(trace: Any, layer: int | None = None, pos: int | None = None) -> NamedArray:
    """The vectors whose sum is the residual stream: [component, pos, n_embd].

    They are `wte` and `wpe`, and of each block the heads (`h.0.attn.head.3`), the bias of its attention
    (`h.0.attn.bias`) and its MLP with its bias (`h.0.mlp`). Their sum is the last
    `resid_post`; with `layer` only what was written before that block, the sum being `h.layer.resid_pre`. In
    an edited run there is also what edits added to `embed`, `attn.out`, `resid_mid` and `resid_post`
    (`h.0.resid_post.edit`). `pos` picks one position.

    Raises:
        InputError: no such layer or position.
        TraceError: `wte`, `wpe`, `attn.z` or `mlp.out` was not kept, or a site on either side of an edit,
            or there are no weights.
    """
    ran = trace.config.n_layer if trace.plan.stop_at_layer is None else trace.plan.stop_at_layer
    n_layer = ran if layer is None else layer
    if isinstance(layer, bool) or not isinstance(n_layer, int) or not 0 <= n_layer <= ran:
        raise InputError(f"layer must be 0 to {ran}, not {layer!r}")
    rows = rows_of(trace, pos)
    parts = dict(_parts(trace, n_layer, rows))
    return NamedArray(
        np.stack(list(parts.values())),
        ("component", "pos", "n_embd"),
        {"component": list(parts), "pos": pos_labels(trace, rows)},
        "what each component writes to the residual stream",
    )


def _parts(trace: Any, n_layer: int, rows: list[int]) -> Iterator[tuple[str, Array]]:
    """Label and vector [pos, n_embd] of every component, in the order in which they are written."""

    def read(site: str) -> Array:
        return recorded(trace, site, rows)

    blocks = trace.parameters("the decomposition").h
    edited = trace.metadata.get("edits", ())  # an edit adds the difference to what would have been there
    yield "wte", read("wte")
    yield "wpe", read("wpe")
    if "embed" in edited:
        yield "embed.edit", read("embed") - read("wte") - read("wpe")
    for layer in range(n_layer):
        h, c_proj = f"h.{layer}", blocks[layer].attn.c_proj
        heads = head_outputs(read(f"{h}.attn.z"), c_proj.weight)  # [pos, head, n_embd]
        for head in range(trace.config.n_head):
            yield f"{h}.attn.head.{head}", heads[:, head]
        yield f"{h}.attn.bias", np.broadcast_to(c_proj.bias, heads[:, 0].shape)
        if f"{h}.attn.out" in edited:
            yield f"{h}.attn.out.edit", read(f"{h}.attn.out") - heads.sum(axis=1) - c_proj.bias
        if f"{h}.resid_mid" in edited:
            written = read(f"{h}.resid_pre") + read(f"{h}.attn.out")
            yield f"{h}.resid_mid.edit", read(f"{h}.resid_mid") - written
        yield f"{h}.mlp", read(f"{h}.mlp.out")
        if f"{h}.resid_post" in edited:
            written = read(f"{h}.resid_mid") + read(f"{h}.mlp.out")
            yield f"{h}.resid_post.edit", read(f"{h}.resid_post") - written


def attribution(trace: Any, token: str | int | tuple[str | int, str | int], pos: int = -1) -> NamedArray:
    """What each component adds to the logit of a token, or to the difference of two: [component].

    The scale of the final LayerNorm is held at what it was in the run; subtracting the mean and multiplying
    by ln_f's weight are linear, and its bias is the component `ln_f.bias`. The contributions add up to the
    logit at `pos`, or for a pair (token, other) to the first logit minus the second. A token is its whole
    text or its id. This is the "direct logit attribution" of Elhage et al. 2021.

    Raises:
        InputError: no such token or position.
        TraceError: a site of `KEEP` was not kept, the run stopped early, ln_f or the logits themselves were
            edited, or there are no weights.
    """
    parameters = parameters_of_the_end(trace, "the attribution")
    tokens = token if isinstance(token, tuple) else (token,)
    if len(tokens) not in (1, 2):
        raise InputError(f"attribution is to one token or to a pair, not to {len(tokens)}")
    ids = [token_id(trace.model, t) for t in tokens]
    direction = parameters.lm_head[ids[0]].astype(np.float64)  # [n_embd]
    if len(ids) == 2:
        direction = direction - parameters.lm_head[ids[1]]
    row = row_of(trace, pos)
    parts = components(trace, pos=pos)
    written = frozen_ln_f(trace, parts.array[:, 0].astype(np.float64), row) @ direction  # [component]
    names = " - ".join(f"{quoted(trace.token(i), 14)} ({i})" for i in ids)
    return NamedArray(
        np.append(written, parameters.ln_f.bias @ direction),
        ("component",),
        {"component": [*parts.labels["component"], "ln_f.bias"]},
        f"logit {'difference' if len(ids) == 2 else 'of'} {names}, by component",
    )


def frozen_ln_f(trace: Any, x: Array, row: int) -> Array:
    """ln_f without its bias and with the scale that it had in the run at a row: linear in x [..., n_embd].

    Raises:
        TraceError: the last `resid_post` was not kept, or there are no weights.
    """
    final = recorded(trace, f"h.{trace.config.n_layer - 1}.resid_post", [row])
    _, rstd = layer_norm_statistics(final, trace.config.layer_norm_epsilon)
    weight = trace.parameters("ln_f").ln_f.weight
    return np.asarray((x - x.mean(axis=-1, keepdims=True)) * (rstd[0, 0] * weight))


def head_grid(attributed: NamedArray) -> NamedArray:
    """The heads' part of an `attribution`: [layer, head]."""
    labels = attributed.labels["component"]
    heads = [i for i, label in enumerate(labels) if ".attn.head." in label]
    n_layer = sum(label.endswith(".attn.head.0") for label in labels)
    return NamedArray(
        attributed.array[heads].reshape(n_layer, -1),
        ("layer", "head"),
        {},
        attributed.title.removesuffix(", by component") + ", by head",
    )


def writers(trace: Any, pos: int = -1) -> NamedArray:
    """How much each component writes at a position, and which way: [component, measure].

    `norm` is the length of its vector, `cosine` that of its angle to the sum of all, and `share` its
    projection onto that sum, divided by the sum's length: shares add up to 1; who erases has a negative one.

    Raises:
        InputError: no such position.
        TraceError: as `components`.
    """
    parts = components(trace, pos=pos)
    vectors = parts.array[:, 0].astype(np.float64)  # [component, n_embd]
    whole = vectors.sum(axis=0)
    norms = np.linalg.norm(vectors, axis=-1)
    share = vectors @ whole / (whole @ whole)
    with np.errstate(invalid="ignore", divide="ignore"):  # a component that writes nothing has no direction
        cosine = np.where(norms > 0, share * np.linalg.norm(whole) / norms, 0.0)
    return NamedArray(
        np.stack([norms, cosine, share], axis=1),
        ("component", "measure"),
        {"component": parts.labels["component"], "measure": ["norm", "cosine", "share"]},
        f"what each component writes at position {parts.labels['pos'][0]}",
    )


def similarity(trace: Any, pos: int = -1) -> NamedArray:
    """Cosines between what the components write at a position: [component, other].

    Raises:
        InputError: no such position.
        TraceError: as `components`.
    """
    parts = components(trace, pos=pos)
    vectors = parts.array[:, 0].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    labels = parts.labels["component"]
    return NamedArray(
        unit @ unit.T,
        ("component", "other"),
        {"component": labels, "other": labels},
        f"cosines between components at position {parts.labels['pos'][0]}",
    )
