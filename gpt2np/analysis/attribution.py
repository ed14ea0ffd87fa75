"""The residual stream as a sum: who wrote what, and what each part does to a prediction.

Every block only adds to the residual stream, so that its final vector is a sum of vectors: token, position
(where the model has a table of them), one for each head, the bias of each attention (where it has one), one
for each MLP (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). A logit is linear in
that sum once the scale of the last norm is held fixed.
An edit of the stream itself, such as a steering vector added to a `resid_post`, is a component of its own.
"""

import functools
from collections.abc import Iterator

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import (
    heads_of,
    parameters_of_the_end,
    pos_labels,
    recorded,
    row_of,
    rows_of,
    token_id,
)
from gpt2np.analysis.subjects import of_trace
from gpt2np.errors import InputError, whole_number
from gpt2np.ops import Array
from gpt2np.ops.norms import factor, held, shift
from gpt2np.tables import quoted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.lines import embedding_parts, final_norm, unembedding_table
from gpt2np.tracing.trace import Trace


def keep(config: ModelConfig) -> list[str]:
    """Return what a trace must keep for `components` and `attribution`."""
    return [*embedding_parts(config), "attn.z", "mlp.out", "resid_post"]


@np.errstate(under="ignore")
@of_trace
def components(trace: Trace, layer: int | None = None, pos: int | None = None) -> NamedArray:
    """Return the vectors whose sum is the residual stream: [component, pos, n_embd].

    They are `wte` and `wpe` (what adds up to `embed`, or `embed` itself), and of each block the heads
    (`h.0.attn.head.3`), the bias of its attention where it has one (`h.0.attn.bias`) and its MLP with its
    bias (`h.0.mlp`). Their sum is the last `resid_post`; with `layer` only what was written before that
    block, the sum being `h.layer.resid_pre`. In an edited run there is also what edits added to `embed`,
    `attn.out`, `resid_mid` and `resid_post` (`h.0.resid_post.edit`). `pos` picks one position.

    Raises:
        InputError: no such layer or position.
        TraceError: an embedding, `attn.z` or `mlp.out` was not kept, or a site on either side of an edit,
            or there are no weights.
    """
    ran = trace.config.n_layer if trace.plan.stop_at_layer is None else trace.plan.stop_at_layer
    n_layer = ran if layer is None else whole_number("layer", layer, 0, ran)
    rows = rows_of(trace, pos)
    parts = dict(_parts(trace, n_layer, rows))
    return NamedArray(
        np.stack(list(parts.values())),
        ("component", "pos", "n_embd"),
        {"component": list(parts), "pos": pos_labels(trace, rows)},
        "what each component writes to the residual stream",
    )


def _parts(trace: Trace, n_layer: int, rows: list[int]) -> Iterator[tuple[str, Array]]:
    """Label and vector [pos, n_embd] of every component, in the order in which they are written."""

    def read(site: str) -> Array:
        return recorded(trace, site, rows)

    config, parameters = trace.config, trace.parameters("the decomposition")
    bias_of = config.architecture.attention_bias
    edited = trace.metadata.get("edits", ())  # an edit adds the difference to what would have been there
    embeddings = embedding_parts(config)
    for name in embeddings:
        yield name, read(name)
    if "embed" in edited and embeddings != ["embed"]:
        yield "embed.edit", functools.reduce(np.subtract, map(read, ["embed", *embeddings]))
    for layer in range(n_layer):
        h = f"h.{layer}"
        heads = heads_of(config, parameters, layer, read(f"{h}.attn.z"))  # [pos, head, n_embd]
        bias = None if bias_of is None else bias_of(parameters, layer)
        for head in range(config.n_head):
            yield f"{h}.attn.head.{head}", heads[:, head]
        if bias is not None:
            yield f"{h}.attn.bias", np.broadcast_to(bias, heads[:, 0].shape)
        if f"{h}.attn.out" in edited or f"{h}.attn.proj" in edited:
            written = heads.sum(axis=1)
            more = read(f"{h}.attn.out") - written
            yield f"{h}.attn.out.edit", more if bias is None else more - bias
        if f"{h}.resid_mid" in edited:
            written = read(f"{h}.resid_pre") + read(f"{h}.attn.out")
            yield f"{h}.resid_mid.edit", read(f"{h}.resid_mid") - written
        yield f"{h}.mlp", read(f"{h}.mlp.out")
        if f"{h}.resid_post" in edited:
            written = read(f"{h}.resid_mid") + read(f"{h}.mlp.out")
            yield f"{h}.resid_post.edit", read(f"{h}.resid_post") - written


@np.errstate(under="ignore")
@of_trace
def attribution(trace: Trace, token: str | int | tuple[str | int, str | int], pos: int = -1) -> NamedArray:
    """Return what each component adds to the logit of a token, or to the difference of two: [component].

    The scale of the final norm is held at what it was in the run; subtracting the mean and multiplying by
    ln_f's weight are linear, and its bias, where it has one, is the component `ln_f.bias`. The contributions
    add up to the logit at `pos` (before its soft cap, where there is one: `logits_raw`), or for a pair
    (token, other) to the first logit minus the second. A token is its whole text or its id. This is the
    "direct logit attribution" of Elhage et al. 2021.

    Raises:
        InputError: no such token or position, or a model whose logits are not linear in ln_f.
        TraceError: a site of `keep` was not kept, the run stopped early, ln_f or the logits themselves were
            edited, or there are no weights.
    """
    parameters = parameters_of_the_end(trace, "the attribution")
    direction, of_what = logit_direction(trace, token)
    row = row_of(trace, pos)
    parts = components(trace, pos=pos)
    written = frozen_ln_f(trace, parts.array[:, 0].astype(np.float64), row) @ direction  # [component]
    labels, bias = list(parts.labels["component"]), shift(final_norm(trace.config, parameters))
    if bias is not None:
        written, labels = np.append(written, bias @ direction), [*labels, "ln_f.bias"]
    return NamedArray(written, ("component",), {"component": labels}, f"{of_what}, by component")


@of_trace
def logit_direction(trace: Trace, token: str | int | tuple[str | int, str | int]) -> tuple[Array, str]:
    """Return what a token's logit, or the difference of two, is a dot product with, and how it is called.

    The direction [n_embd] is that of the unembedding, behind ln_f, in double precision.

    Raises:
        InputError: no such token, or a model whose logits are not linear in ln_f.
        TraceError: there are no weights.
    """
    tokens = token if isinstance(token, tuple) else (token,)
    if len(tokens) not in (1, 2):
        raise InputError(f"attribution is to one token or to a pair, not to {len(tokens)}")
    ids = [token_id(trace.model_for("the attribution"), t) for t in tokens]
    table = unembedding_table(trace.config, trace.parameters("the attribution"), ids).astype(np.float64)
    names = " - ".join(f"{quoted(trace.token(i), 14)} ({i})" for i in ids)
    before = " before the soft cap" if "logits_raw" in trace.config.architecture.sites else ""
    if len(ids) == 1:
        return table[0], f"logit of {names}{before}"
    return table[0] - table[1], f"logit difference {names}{before}"


@np.errstate(under="ignore")
@of_trace
def frozen_ln_f(trace: Trace, x: Array, row: int) -> Array:
    """Apply ln_f without its bias and with the scale that it had at a row: linear in x [..., n_embd].

    Raises:
        TraceError: the last `resid_post` was not kept, or there are no weights.
    """
    final = recorded(trace, f"h.{trace.config.n_layer - 1}.resid_post", [row])
    norm = final_norm(trace.config, trace.parameters("ln_f"))
    return held(x, norm, factor(final, norm)[0, 0])


def head_grid(attributed: NamedArray) -> NamedArray:
    """Return the heads' part of an `attribution`: [layer, head]."""
    labels = attributed.labels["component"]
    heads = [i for i, label in enumerate(labels) if ".attn.head." in label]
    n_layer = sum(label.endswith(".attn.head.0") for label in labels)
    return NamedArray(
        attributed.array[heads].reshape(n_layer, -1),
        ("layer", "head"),
        {},
        attributed.title.removesuffix(", by component") + ", by head",
    )


@np.errstate(under="ignore")
@of_trace
def writers(trace: Trace, pos: int = -1) -> NamedArray:
    """Return how much each component writes at a position, and which way: [component, measure].

    `norm` is the length of its vector, `cosine` that of its angle to the sum of all, and `share` its
    projection onto that sum, divided by the sum's length: shares add up to 1; a component that erases has a
    negative one.

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


@np.errstate(under="ignore")
@of_trace
def similarity(trace: Trace, pos: int = -1) -> NamedArray:
    """Return the cosines between what the components write at a position: [component, other].

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
