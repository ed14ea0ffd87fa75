"""Weights as training scripts store them: under a key among others, as torch's Linear, without biases.

What is read so is put into the layout of Hugging Face's checkpoints, and a note says what was done.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2np.checkpoints.tensor_names import find_names
from gpt2np.checkpoints.weight_files import Shapes
from gpt2np.errors import CheckpointError, short
from gpt2np.ops import Array
from gpt2np.tracing.contract import CheckpointNaming, TrainingNaming, find

if TYPE_CHECKING:
    from gpt2np.checkpoints.torchfile import Keys, Setting

# Keys under which scripts keep the weights that they train, not a copy of them such as a moving average.
_USUAL = {
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights",
}  # fmt: skip

_MOST_TABLES = 20  # that are looked at, the largest first: an optimiser's state has hundreds of small ones


def chosen_table(
    tables: "Mapping[Keys, Shapes]", naming: CheckpointNaming, shapes: Shapes, where: Path
) -> "tuple[Keys, list[str]]":
    """The keys of the dict that holds the model, and a note if there is another one.

    Raises:
        CheckpointError: there is none, or it is unclear which is meant.
    """
    if len(tables) == 1:
        return next(iter(tables)), []
    largest = sorted(tables, key=lambda keys: -len(tables[keys]))[:_MOST_TABLES]
    counts = {keys: find_names(tables[keys], naming, shapes, where).n_found for keys in largest}
    most = max(counts.values(), default=0)
    fitting = [keys for keys, n in counts.items() if n == most > 0]
    if not fitting:
        listed = ", ".join(_named(keys) for keys in largest[:5])
        raise CheckpointError(
            f"{where}: no dict in it has this model's tensors; those that have some: {listed}"
        )
    usual = [keys for keys in fitting if _USUAL.issuperset(keys)]
    if len(fitting) == 1:
        return fitting[0], []
    if len(usual) != 1:
        both = " and ".join(_named(keys) for keys in (usual or fitting)[:2])
        raise CheckpointError(f"{where}: both {both} hold this model: save the one that is meant alone")
    others = ", ".join(_named(keys) for keys in fitting if keys != usual[0])
    return usual[0], [f"{where}: the weights are those under {_named(usual[0])}; {others} would fit as well"]


def _named(keys: "Keys") -> str:
    return short(".".join(keys)) if keys else "the top level"


# -- what a script says of its model ------------------------------------------------------------------


def nested_settings(values: Any, model_type: str) -> "dict[Keys, dict[str, Any]]":
    """The settings in a `config.json` that a training script wrote; none where it is a model's own.

    Such a file has a part for each of the script's objects, and one of them is the model.
    """
    training = find(model_type).naming.training
    own = {"model_type", "n_layer", "architectures"}  # of which a model's own has one
    if training is None or not isinstance(values, dict) or not own.isdisjoint(values):
        return {}
    parts = {(key,): part for key, part in values.items() if isinstance(part, dict)}
    return {keys: part for keys, part in parts.items() if "n_head" in part and "n_layer" in part}


def config_values(
    settings: "Mapping[Keys, Mapping[str, Setting]]", shapes: Shapes, model_type: str, where: Path
) -> tuple[dict[str, Any], list[str]] | None:
    """The keys of a `config.json` from a script's settings; None if they do not say what a model needs.

    Sizes that they leave out are those of the tensors, whose `shapes` are given by their own names.
    """
    architecture = find(model_type)
    training = architecture.naming.training
    if training is None:
        return None
    fields = {f.name for f in dataclasses.fields(architecture.config)}  # type: ignore[arg-type]
    best: tuple[int, Keys, dict[str, Any]] = (0, (), {})
    for keys, given in settings.items():
        values = _renamed_settings(given, training)
        found = {key: value for key, value in values.items() if key in fields and value is not None}
        rank = len(found) + 100 * (keys[-1:] == ("model_args",))
        if "n_head" in found and rank > best[0]:
            best = rank, keys, found
    _, keys, found = best
    if not found:
        return None
    found = _sizes_of(shapes, training, architecture.naming.layers) | found
    rest = sorted(settings[keys].keys() - found.keys() - training.settings.keys() - training.harmless)
    said = f"{where}: the config is what {_named(keys)} says"
    notes = [f"{said}; {', '.join(short(key)[1:-1] for key in rest[:8])} ignored" if rest else said]
    if "activation_function" not in found:
        kind = next((key for key in training.activations if key in settings[keys]), "")
        found["activation_function"] = activation = training.activations[kind]
        notes.append(
            f"{where}: it does not say which activation function the model has: '{activation}' is taken; "
            "activation_function in a config.json says otherwise"
        )
    return {"model_type": model_type} | found, notes


def _renamed_settings(given: "Mapping[str, Setting]", training: TrainingNaming) -> dict[str, Any]:
    values = {training.settings.get(key, key): value for key, value in given.items()}
    size = training.named_sizes.get(str(values.get("model_type")), {})
    return {key: value for key, value in values.items() if value is not None} | {
        key: value for key, value in size.items() if values.get(key) is None
    }


def _sizes_of(shapes: Shapes, training: TrainingNaming, layers: str) -> dict[str, int]:
    found = {
        field: shapes[name][axis]
        for field, (name, axis) in training.sizes.items()
        if len(shapes.get(name, ())) > axis
    }
    numbers = [int(m[1]) for name in shapes if (m := re.match(rf"{layers}\.(\d{{1,6}})\.", name))]
    return found | ({"n_layer": max(numbers) + 1} if numbers else {})


# -- how it stores the weights ------------------------------------------------------------------------


def as_own_layout(
    found: dict[str, Array], shapes: Shapes, naming: CheckpointNaming, where: Path
) -> tuple[dict[str, Array], list[str]]:
    """The tensors with matrices as this architecture has them, and zeros for biases that a script has not.

    Square matrices follow those that cannot be square. A bias counts as left out on purpose where every layer
    lacks it, and in HF's own layout only where there is no bias at all.
    """
    training, notes = naming.training, []
    if training is None:
        return found, []
    witnesses = [name for name in shapes if re.search(training.witness, name) and name in found]
    linear = bool(witnesses) and all(found[name].shape == shapes[name][::-1] for name in witnesses)
    if linear:
        turned = {name: array.T for name, array in found.items() if re.search(training.matrices, name)}
        found = found | turned
        notes.append(
            f"{where}: matrices are transposed: they are stored as torch's Linear has them, as scripts do"
        )
    biases = [name for name in shapes if re.search(training.zeros, name)]
    missing = [name for name in biases if name not in found]
    kinds = {_kind(name, naming.layers) for name in biases if name in found}
    partly = any(_kind(name, naming.layers) in kinds for name in missing)
    if missing and not partly and (linear or len(missing) == len(biases)):
        some = next(iter(found.values())).dtype if found else np.dtype(np.float32)
        found = found | {name: np.zeros(shapes[name], some) for name in missing}
        notes.append(f"{where}: {len(missing)} biases are not there and count as 0")
    return found, notes


def _kind(name: str, layers: str) -> str:
    return re.sub(rf"^{layers}\.\d+\.", f"{layers}.", name)
