"""The weights of a page: where the parameters are, the norms' scales, and what circuits do with this text."""

from typing import Any

import numpy as np

from gpt2np.analysis.circuits import compositions, token_circuits
from gpt2np.analysis.layer_norms import norm_parameters
from gpt2np.analysis.parameter_counts import parameter_shares
from gpt2np.analysis.residual_stream import memory
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.packing import shrink

WORDS = 10  # the last tokens of a text between which circuits are shown
PAIRS = 12  # of those who erase, amplify, or read what another wrote
GRID = 150  # heads of which the composition is drawn as a grid


def parameter_facts(config: ModelConfig) -> list[dict[str, Any]]:
    """The share of each component in all parameters: of this model, and of the four released ones."""
    found = []
    for name, each in {"this model": config, **RELEASED}.items():
        shares = parameter_shares(each)
        found.append(
            {
                "name": name,
                "total": int(shares.array[:, 0].sum()),
                "shares": dict(zip(shares.labels["component"], shares.array[:, 1].tolist(), strict=True)),
            }
        )
    return found


def norm_facts(trace: Trace, cells: int) -> dict[str, Any]:
    """Scale and shift of each norm, by its name: as so many cells, and from where to where they go."""
    assert trace.model is not None
    found = norm_parameters(trace.model)
    parameters = found.labels["parameter"]

    def told(values: Array) -> dict[str, Any]:
        return {
            "cells": _rounded(shrink(values, cells)),
            "low": float(values.min()),
            "high": float(values.max()),
        }

    return {
        name: {parameter: told(values) for parameter, values in zip(parameters, of_norm, strict=True)}
        for name, of_norm in zip(found.labels["norm"], found.array, strict=True)
    }


def spread_facts(trace: Trace, recent: int) -> dict[str, dict[str, list[Any]]]:
    """What each norm took away and multiplied by at the last positions: `mean` if it has one, `rstd`."""
    derived = trace.config.architecture.derived
    found: dict[str, dict[str, list[Any]]] = {}
    for site in trace.config.architecture.sites:
        kinds = [kind for kind in ("mean", "rstd") if f"{site.name}.{kind}" in derived]
        for layer in range(_layers(trace) if site.layered and kinds else 1 if kinds else 0):
            name = site.full_name(layer)
            found[name] = {kind: _digits(trace[f"{name}.{kind}"][-recent:]) for kind in kinds}
    return found


def _layers(trace: Trace) -> int:
    """How many layers ran."""
    stop = trace.plan.stop_at_layer
    return trace.config.n_layer if stop is None else stop


def _digits(array: Array) -> list[Any]:
    """Numbers of four significant digits, one for each position."""
    return [
        float(f"{x:.4g}") if np.isfinite(x) else None for x in array.reshape(len(array), -1)[:, 0].tolist()
    ]


def head_circuits(trace: Trace) -> dict[str, Any]:
    """Scores and effects between the last tokens: [layer][head][query or source][key or logit]."""
    model = trace.model
    assert model is not None
    ids = list(dict.fromkeys(trace.token_ids))[-WORDS:]
    scores, effects = token_circuits(model, ids).array
    return {"ids": ids, "scores": _rounded(scores), "effects": _rounded(effects)}


def composition_facts(trace: Trace) -> dict[str, Any]:
    """How much later heads read of what earlier ones write: the strongest pairs; of few heads all."""
    model = trace.model
    assert model is not None
    scored = compositions(model)
    pairs = [
        (kind, *pair)
        for kind, found in scored.items()
        for pair in _largest(found.array, found.labels["writer"])
    ]
    best = sorted(pairs, key=lambda pair: -pair[3])[:PAIRS]
    names = scored["k"].labels["writer"]
    grids = {kind: _rounded(found.array) for kind, found in scored.items()} if len(names) <= GRID else {}
    return {"heads": list(names), "pairs": best, "grids": grids, "chance": trace.config.n_embd**-0.5}


def memory_facts(trace: Trace) -> dict[str, Any]:
    """Which parts erase or amplify what another wrote, by the cosine of the two."""
    found = memory(trace)
    return {
        name: _largest(found[name].array, found[name].labels["writer"])
        for name in ("opposition", "agreement")
    }


def _largest(scores: Array, names: Any) -> list[tuple[str, str, float]]:
    """The pairs with the largest scores; not a number comes last and is left out."""
    flat = np.nan_to_num(scores, nan=-1).ravel()
    best = np.argsort(-flat, kind="stable")[:PAIRS]
    places = [divmod(int(i), scores.shape[1]) for i in best if flat[i] > 0]
    return [(names[a], names[b], float(scores[a, b])) for a, b in places]


def _rounded(array: Array) -> list[Any]:
    """Numbers of three digits, which a page writes as text; infinities and what is no number are null."""
    rounded = np.round(array.astype(np.float64), 3).astype(object)
    rounded[~np.isfinite(array)] = None
    found: list[Any] = rounded.tolist()
    return found
