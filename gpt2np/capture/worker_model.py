"""The model in a worker: found where the caller's was loaded from, mapped, and computing on one thread.

Float32 weights are views of their file, so that the system holds them once, however many workers there are.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpt2np.capture.workers import MOST, Here, Submits, Workers, usable_cores
from gpt2np.checkpoints.checkpoint import Checkpoint, load_checkpoint
from gpt2np.errors import CheckpointError, InputError, whole_number
from gpt2np.model import Model
from gpt2np.ops.narrow_weights import is_narrow

# Seconds of work, on one core, for each worker that is started unasked: to start one and map a model takes
# 0.3 of them, more on a busy machine. A hundred short prompts of GPT-2 small as JSON, 7 s of work, took two
# workers half the time of one; what takes a second or two, as most of what `tiny` does, is not worth it.
WORTH_A_WORKER = 2.0
LENGTH_OF_FINGERPRINT = 16
_FEW_PARAMETERS = 10_000_000  # a copy of which takes less memory than a process
_OPERATION = 2e-11  # seconds of a multiplication or an addition in a product, on a core of 2020


@dataclass(frozen=True)
class ModelSource:
    """Where a model is found, and how it is recognised; what a worker is given in its place.

    `weights` is what `fingerprint_of` gives, where that is known: then a copy of the folder will do.
    """

    name: str
    folder: str
    commit: str | None
    fingerprint: str
    dtype: str
    widen: bool
    weights: str | None = None

    @classmethod
    def of(cls, model: Model) -> "ModelSource":
        """Return where a model was loaded from.

        Raises:
            InputError: some of its weights are of no file.
        """
        found = model.checkpoint
        if found.replaced:
            what = "weights that with_weights has replaced are in no file, which workers could read"
            raise InputError(f"{what}: run without workers and executor")
        widen = not any(is_narrow(array) for array in model.weights.held.values())
        folder = os.path.abspath(found.folder)
        return cls(found.name, folder, found.commit, found.fingerprint, model.dtype.name, widen)

    def load(self) -> Model:
        """Return the model, on one thread.

        Raises:
            CheckpointError: what is there is another one.
        """
        here = os.path.isdir(self.folder) or self.commit is None
        name, revision = (self.folder, None) if here else (self.name, self.commit)
        found = load_checkpoint(name, dtype=self.dtype, widen=self.widen, revision=revision)
        same = self.commit is not None or found.fingerprint == self.fingerprint
        if not same and (self.weights is None or fingerprint_of(found) != self.weights):
            raise CheckpointError(f"{self.folder}: is not the model any more that this run began with")
        named = replace(found, name=self.name, commit=self.commit, fingerprint=self.fingerprint)
        return Model(named, self.dtype, threads=1)


def given_to(executor: Submits, model: Model) -> Model | ModelSource:
    """Return what tasks of an executor are given of a model: itself in this process, on one thread.

    Raises:
        InputError: other processes cannot have it.
    """
    if isinstance(executor, Here):
        return on_one_thread(model)
    return ModelSource.of(model)


def on_one_thread(model: Model) -> Model:
    """Return the same model, computing on one thread."""
    if model.threads == 1:
        return model
    same = Model(model.checkpoint, model.dtype.name, threads=1)
    vars(same).update({key: value for key, value in vars(model).items() if key == "tokenizer"})
    return same


def as_given(model: Model | ModelSource) -> Model:
    """Return the model of a task."""
    return model if isinstance(model, Model) else _loaded(model)


@functools.lru_cache(1)  # a worker that has served another run lets go of its model
def _loaded(source: ModelSource) -> Model:
    return source.load()


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """Return the beginning of a hash of all weights, whenever and wherever their files were written."""
    return checkpoint.full_hash()[:LENGTH_OF_FINGERPRINT]


def model_facts(model: Model) -> dict[str, Any]:
    """Return what a list of files says of the model that made them; `is_same_model` compares two of these.

    Without a commit there is a hash of the weights, by which a copy of the folder is known.
    """
    found = model.checkpoint
    origin = {key: value for key, value in found.origin().items() if key != "model"}
    weights = {"weights": fingerprint_of(found)} if found.commit is None and found.files else {}
    return {"name": model.name, **origin, **weights, "dtype": model.dtype.name}


def is_same_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two models are one: the same file, the same commit, or the same weights."""
    if then.get("replaced_weights") != now.get("replaced_weights"):
        return False
    if then.get("fingerprint") == now.get("fingerprint"):
        return True
    names = ["weights"] if now.get("replaced_weights") else ["weights", "commit"]
    return any(now.get(name) is not None and then.get(name) == now[name] for name in names)


def seconds_a_token(model: Model) -> float:
    """Return about how long a core takes to run a token of many."""
    return 2 * model.n_parameters * _OPERATION


def n_workers(model: Model, workers: int | None, n_tasks: int, seconds: float) -> int:
    """Return how many processes share so many tasks; None: as many as pay off.

    `seconds` is about what all of it takes on one core. Several are not the default where each would hold
    converted weights of its own, unless these are small.

    Raises:
        InputError: `workers` is no whole number from 1 to `MOST`.
    """
    if workers is not None:
        return min(whole_number("workers", workers, 1, MOST), max(1, n_tasks))
    shares_weights = bool(model.checkpoint.watched) or model.n_parameters < _FEW_PARAMETERS
    if model.checkpoint.replaced or not shares_weights:
        return 1
    return max(1, min(usable_cores(), int(seconds / WORTH_A_WORKER), n_tasks))


def executor_for(model: Model, workers: int | None, n_tasks: int, seconds: float) -> Workers | Here:
    """Return what runs the tasks on `n_workers` processes; one is this process itself.

    Raises:
        InputError: as `n_workers`.
    """
    n = n_workers(model, workers, n_tasks, seconds)
    return Workers(n) if n > 1 else Here()
