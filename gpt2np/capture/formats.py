"""Capture formats: layer internals and raw residual, each of a prompt and the response to it.

*Layer internals* is one layer with every head's attention, the projections, the MLP and the residual stream;
*raw residual* is the residual stream and head-averaged attention of all layers. Both are a nested dict:
under `"prompt"` an array has one row for each of the N prompt tokens; under `"response"` there is one entry
for each of the n chosen tokens, and entry i is the pass that chose token i. So the first entry is of the
prompt's last token, its attention is [N, N], and the last one's is [N + n - 1, N + n - 1]. They are read and
written by `capture_files`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.capture.capture_files import (
    INTERNAL_RESIDUAL,
    MLP,
    OF_INTERNALS,
    OF_RESIDUAL,
    PROJECTIONS,
    RAW_RESIDUAL,
    Capture,
    load_capture,
    save_capture,
)
from gpt2np.errors import InputError, TraceError, short, whole_number
from gpt2np.generation.generated import Generated, Rows
from gpt2np.generation.saved_generation import saved_generation
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import block_input, stored_for
from gpt2np.tracing.trace import Trace

__all__ = [
    "captured_sites",
    "internals_sites",
    "layer_internals",
    "load_capture",
    "raw_residual",
    "residual_sites",
    "save_capture",
]


def captured_sites(config: ModelConfig, internals: bool) -> dict[str, str]:
    """Return what a model's capture files hold at each place, as in `{"mlp/gelu": "mlp.post", ...}`.

    The places are those of layer internals, or else of raw residual, where `i` stands for a layer.

    Raises:
        InputError: the model has nothing for one of them.
    """
    table, places = config.architecture.sites, OF_INTERNALS if internals else OF_RESIDUAL
    found = {place: site.name for site in table for place in site.captures}
    for place in places:
        if place not in found:
            what = "layer internals" if internals else "raw residual"
            kind = config.architecture.model_type
            raise InputError(f"{kind} has no site for {place}, so there are no {what} of it")
    return {place: found[place] for place in places}


def internals_sites(layer: int, config: ModelConfig | None = None) -> list[str]:
    """Return what a generation has to keep for `layer_internals` of this layer (default: of a GPT-2).

    Raises:
        InputError: the model lacks one of them.
    """
    config = config or Config()
    wanted = captured_sites(config, internals=True).values()
    names = [name for site in wanted for name in stored_for(config, site, layer)]
    return list(dict.fromkeys(names))


def residual_sites(n_layer: int) -> list[str]:
    """Return what a generation has to keep for `raw_residual`."""
    parts = ("attn.pattern", "resid_mid", "resid_post")
    return [block_input(0, n_layer), *(f"h.{layer}.{part}" for layer in range(n_layer) for part in parts)]


def layer_internals(generated: Generated | Trace, layer: int) -> Capture:
    """Return one layer of a generation, or of its saved trace, with all its parts, as views of the trace.

    Shapes in the prompt: q_proj [N, head*d_head], k_proj and v_proj [N, kv_head*d_head], each of them n_embd
    wide in a GPT-2, attn_weights [head, N, N], up_proj and gelu [N, d_mlp], down_proj and the residual stream
    [N, n_embd]. In the response: lists of [1, width] and [head, N+i, N+i], and the residual stream as
    [n, 1, n_embd]. `captured_sites` says which sites they are.

    Raises:
        InputError: the model has no such layer, or lacks a site of `internals_sites(layer, config)`.
        TraceError: the generation was not traced, or did not keep `internals_sites(layer)`; or a trace is of
            no generation.

    Example:
        >>> done = model.generate("Elizabeth was", max_new_tokens=5, keep="*").finish()
        >>> capture = layer_internals(done, 2)
        >>> [a.shape for a in capture["response"]["attention"]["attn_weights"]]
        [(4, 3, 3), (4, 4, 4), (4, 5, 5), (4, 6, 6), (4, 7, 7)]
    """
    generated, trace = _whole(generated)
    n = generated.n_prompt
    layer = whole_number("layer", layer, 0, trace.config.n_layer - 1)
    sites = captured_sites(trace.config, internals=True)

    def kept(group: str, names: Sequence[str]) -> dict[str, Array]:
        return {name: trace[f"h.{layer}.{sites[f'{group}/{name}']}"] for name in names}

    pattern = kept("attention", ["attn_weights"])["attn_weights"]
    attention = _each(kept("attention", PROJECTIONS), lambda a: a.reshape(len(a), -1))
    mlp, residual = kept("mlp", MLP), kept("residual", INTERNAL_RESIDUAL)
    lengths = range(n, len(trace.token_ids) + 1)  # tokens that each choosing pass had seen
    return {
        "prompt": {
            **_texts(generated.prompt),
            "attention": _each(attention, lambda a: a[:n]) | {"attn_weights": pattern[:, :n, :n]},
            "mlp": _each(mlp, lambda a: a[:n]),
            "residual": _each(residual, lambda a: a[:n]),
        },
        "response": {
            **_texts(generated.response),
            "attention": _each(attention, lambda a: [a[i - 1 : i] for i in lengths])
            | {"attn_weights": [pattern[:, :i, :i] for i in lengths]},
            "mlp": _each(mlp, lambda a: [a[i - 1 : i] for i in lengths]),
            "residual": _each(residual, lambda a: a[n - 1 :, None]),
        },
    }


@np.errstate(under="ignore")
def raw_residual(generated: Generated | Trace) -> Capture:
    """Return the residual stream of all layers, [N, n_embd] and [n, n_embd], and attention's mean over heads.

    The residual stream is views of the trace. Layers are `"0"`, `"1"`, ... under `"activations"`, and
    `"layer_0"`, ... under `"attention"`, [N, N] in the prompt and a list of [N+i, N+i] in the response.

    Raises:
        TraceError: the generation was not traced, or did not keep `residual_sites(n_layer)`; or a trace is of
            no generation.
    """
    generated, trace = _whole(generated)
    n = generated.n_prompt
    lengths = range(n, len(trace.token_ids) + 1)
    prompt: Capture = _texts(generated.prompt) | {"activations": {}, "attention": {}}
    response: Capture = _texts(generated.response) | {"activations": {}, "attention": {}}
    sites = captured_sites(trace.config, internals=False)
    for layer in range(trace.config.n_layer):
        residual = {name: trace[f"h.{layer}.{sites[f'activations/i/{name}']}"] for name in RAW_RESIDUAL}
        prompt["activations"][str(layer)] = _each(residual, lambda a: a[:n])
        response["activations"][str(layer)] = _each(residual, lambda a: a[n - 1 :])
        average = trace[f"h.{layer}.{sites['attention/layer_i']}"].mean(axis=0)
        prompt["attention"][f"layer_{layer}"] = average[:n, :n]
        response["attention"][f"layer_{layer}"] = [average[:i, :i] for i in lengths]
    return {"prompt": prompt, "response": response}


def _whole(generated: Generated | Trace) -> tuple[Generated, Trace]:
    """The generation and its trace, which must have every position."""
    generated = saved_generation(generated) if isinstance(generated, Trace) else generated
    if not isinstance(generated, Generated):
        raise InputError(f"a capture is of a generation or its saved trace, not of {short(generated)}")
    trace = generated.trace
    if trace is None:
        raise TraceError("nothing was recorded: generate(..., keep='*')")
    if len(trace.positions) < len(trace.token_ids):
        raise TraceError("a capture needs every position: keep them all")
    return generated, trace


def _texts(rows: Rows) -> Capture:
    return {"text": rows.text, "tokens": list(rows.tokens), "token_ids": list(rows.token_ids)}


def _each(arrays: Mapping[str, Array], cut: Callable[[Array], Any]) -> Capture:
    return {name: cut(array) for name, array in arrays.items()}
