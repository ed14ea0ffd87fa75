"""Whether a program counts its layers, norms and hidden states as Hugging Face does, or otherwise."""

from collections.abc import Mapping

import numpy as np

from gpt2np.errors import Gpt2npError
from gpt2np.ops import Array
from gpt2np.reference.axis_layouts import layouts
from gpt2np.reference.dump_names import NORMS, STATES, Counting, Meaning, Names
from gpt2np.reference.dumps import Dump
from gpt2np.reference.layout_choice import AGREES, likeness
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

_CLEARLY = 4.0  # times nearer


def counting(dump: Dump, truth: Trace, config: ModelConfig, given: Mapping[str, str] | None) -> Counting:
    """What the numbers in the names of a dump begin with."""
    norms = int(not any(match[2] == "0" for name in dump.arrays if (match := NORMS.search(name))))
    return Counting(_first_layer(dump, truth, config, given), norms, _first_state(dump, truth, config))


def _first_state(dump: Dump, truth: Trace, config: ModelConfig) -> int:
    """1 where hidden_states are as many as there are blocks, and hold what these left."""
    found = {int(match[1]): name for name in dump.arrays if (match := STATES.fullmatch(name))}
    if set(found) != set(range(config.n_layer)):
        return 0
    post, apart = config.architecture.sites["resid_post"], []
    for i, name in found.items():
        layers = (i, i - 1) if i else (i,)
        own, *before = (site_error(dump.arrays[name], Meaning(post, j), truth, config) for j in layers)
        if min([own, *before]) < AGREES:
            apart.append(own < min(before, default=np.inf) / _CLEARLY)
    return int(bool(apart) and all(apart))


def _first_layer(dump: Dump, truth: Trace, config: ModelConfig, given: Mapping[str, str] | None) -> int:
    """The number of the first layer in the names of a dump: 0 or 1.

    It is 1 where there is a layer of the number n_layer and none of the number 0; and where there are several
    layers, none of the number 0, of which each has the values of the one before it.
    """
    zero = Names(config, given)
    first = {name: _layered(zero, name) for name in dump.arrays}
    states = "hidden_states"  # which are numbered from 0 anyway
    if any(m is not None and m.layer == 0 and states not in name.lower() for name, m in first.items()):
        return 0
    one = Names(config, given, Counting(layers=1))
    numbered: dict[str, tuple[Meaning | None, Meaning]] = {}
    for name, from_0 in first.items():
        from_1 = _layered(one, name)
        if from_1 is not None and (from_0 is None or from_0.layer != from_1.layer):
            numbered[name] = from_0, from_1
    if any(from_0 is None for from_0, _ in numbered.values()):
        return 1
    layers = set()
    for name, (from_0, from_1) in numbered.items():
        assert from_0 is not None
        as_zero, as_one = (site_error(dump.arrays[name], m, truth, config) for m in (from_0, from_1))
        if as_one < AGREES and as_one < as_zero / _CLEARLY:
            layers.add(from_1.layer)
        elif as_zero < AGREES:
            return 0
    return int(len(layers) > 1)


def _layered(names: Names, name: str) -> Meaning | None:
    try:
        meaning = names.meaning(name)
    except Gpt2npError:  # a layer that is not there, in the user's own map
        return None
    return meaning if meaning is not None and meaning.site is not None and meaning.layer is not None else None


def site_error(array: Array, meaning: Meaning, truth: Trace, config: ModelConfig) -> float:
    """How far the array is from a site, in the layout that fits best."""
    assert meaning.site is not None
    if array.dtype.kind != "f":
        return np.inf
    right = truth[meaning.site.full_name(meaning.layer)]
    window = None if meaning.layer is None else config.window(meaning.layer)
    able = layouts(meaning.site, array.shape, config, len(truth["embed"]))
    read = (layout.undo(array, config.vocab_size) for layout in able)
    return min((likeness(meaning.site, x, right, window).error for x in read), default=np.inf)
