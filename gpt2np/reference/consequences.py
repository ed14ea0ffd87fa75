"""Whether a program went on with what its dump holds: what follows from an array, against what is there."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.ops.readable_parameters import as_held
from gpt2np.reference.error_measure import SUSPICIOUS, Measure, measure
from gpt2np.tracing.derived import block_input, views_of
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace


class _Reached(Exception):
    """The last step that was asked for has run."""


def only_recorded(
    name: str,
    values: Array,
    model: Model,
    truth: Trace,
    bands: Callable[[str], Array],
    measures: Mapping[str, Measure],
) -> bool:
    """Whether the program computed with other numbers than those that it recorded as this site.

    That is so if a later site of the dump is right which the recorded values would have made wrong. `model`
    computes in float64, `truth` is its trace, `measures` are those of the dump in the order of execution.
    """
    config = model.config
    table = config.architecture.sites
    order = {full: (site, layer) for full, site, layer in table.expand(config.n_layer)}
    names = list(order)
    after = [full for full, m in measures.items() if names.index(full) > names.index(name) and m.ratio <= 1]
    after = [full for full in after if not order[full][0].derived]
    norm, _, _ = order[name][0].name.rpartition(".")
    if norm in table and norm.startswith("ln_"):  # a statistic: nothing but the norm itself follows from it
        return table[norm].full_name(order[name][1]) in after and measures[name].ratio > SUSPICIOUS
    for last in dict.fromkeys((*after[:2], *after[-1:])):
        found = _with(name, values, model, truth, last)
        if last in found:
            site, layer = order[last]
            if measure(found[last], truth[last], bands(last), site, layer, config).ratio > SUSPICIOUS:
                return True
    return False


def _with(name: str, values: Array, model: Model, truth: Trace, last: str) -> dict[str, Array]:
    """The steps of a run until `last` in which a site has these values; none where it is no step's result."""
    config = model.config
    table = config.architecture.sites
    site, layer = table.resolve(name, None, config.n_layer)
    whole = next((full for full in table.by_name if site.name in views_of(config, full)), None)
    at = name if whole is None else table[whole].full_name(layer)
    start: tuple[int, Array] | None = None
    if site.name == "resid_pre":
        start = layer or 0, values.astype(model.dtype)
    elif layer is not None:
        start = layer, truth[block_input(layer, config.n_layer)].copy()
    elif site not in table.before_layers:
        start = config.n_layer, truth[block_input(config.n_layer, config.n_layer)].copy()
    elif site.derived:
        return {}
    found: dict[str, Array] = {}

    def swap(step: str, op: Callable[..., None]) -> Callable[..., None]:
        def run(*inputs: Any, out: Array) -> None:
            op(*inputs, out=out)
            if step == at:
                part = out if whole is None else views_of(config, whole)[site.name](out, config)
                part[...] = values.reshape(part.shape)
            if step == last:
                found[step] = out.copy()
                raise _Reached

        return run

    sequence = PackedSequence(np.array(truth.token_ids))
    run = Pass(config, model.dtype, [sequence], start=start, swap=swap)
    with np.errstate(all="ignore"), contextlib.suppress(_Reached):
        config.architecture.forward(as_held(model.parameters), config, Step(run))
    return found
