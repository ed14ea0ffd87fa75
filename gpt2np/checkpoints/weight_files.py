"""The weight files of a folder: one or several, `.safetensors` or PyTorch's, as tensors by name."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2np.checkpoints import folder_contents
from gpt2np.checkpoints.bfloat16 import as_stored
from gpt2np.checkpoints.watched_file import WatchedFile
from gpt2np.errors import CheckpointError, short
from gpt2np.files import read_json
from gpt2np.ops import Array
from gpt2np.tensorfile import open_tensors

if TYPE_CHECKING:
    from gpt2np.checkpoints.torchfile import Keys, Setting

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a folder, open: what they hold is read when it is asked for.

    `tables` are the names and shapes of their tensors: one table, except in a training script's file, where
    the keys say under what it stands. `settings` are what such a file says besides. `shards` are the files by
    the names of the tensors in them, where there are several.
    """

    paths: tuple[Path, ...]
    watched: tuple[WatchedFile, ...]
    tables: "Mapping[Keys, Shapes]"
    read: "Callable[[Keys], dict[str, Array]]"
    settings: "Mapping[Keys, Mapping[str, Setting]]" = field(default_factory=dict)
    shards: Mapping[str, Path] = field(default_factory=dict)

    def watched_for(self, names: set[str]) -> tuple[WatchedFile, ...]:
        """The files of these tensors."""
        places = {self.shards.get(name, self.paths[0]) for name in names}
        return tuple(file for file in self.watched if file.path in places)


def read_weight_files(folder: Path) -> WeightFiles | None:
    """The weight files of a folder, safetensors before pickles before a training script's; None if none.

    Raises:
        CheckpointError: one is damaged or missing, or it is unclear which is meant.
    """
    for single, opener in (("model.safetensors", _open_safetensors), ("pytorch_model.bin", _open_torch)):
        if os.path.lexists(folder / single):
            return _opened(folder / single, opener)
        index = folder / f"{single}.index.json"
        if os.path.lexists(index):
            return _open_shards(index, opener)
    training = folder_contents.training_files(folder)
    if not training:
        return None
    if len(training) > 1 and "ckpt.pt" not in training:
        several = ", ".join(short(name)[1:-1] for name in training[:5])
        what = f"several files may be the weights ({several}): rename the one that is meant to ckpt.pt"
        raise CheckpointError(f"{folder}: {what}")
    return _opened(folder / ("ckpt.pt" if "ckpt.pt" in training else training[0]), _open_torch)


def read_index(path: Path) -> dict[str, Path]:
    """The file of each tensor, from a `*.index.json`.

    Raises:
        CheckpointError: it is not JSON, or its `weight_map` is not one of tensor names to plain file names.
    """
    index = read_json(path, CheckpointError)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{path}: weight_map is missing or empty")
    for name, file in shards.items():
        where = f"{path}: weight_map[{short(name)}]"
        if not isinstance(file, str) or not file or file != os.path.basename(file) or file in (".", ".."):
            raise CheckpointError(f"{where} is {short(file)}, not a plain file name")
        if file.endswith(".json"):
            raise CheckpointError(f"{where} is {short(file)}, an index and not a weight file")
    return {name: path.parent / file for name, file in shards.items()}


# -- each kind ----------------------------------------------------------------------------------------

_Opener = Callable[[Path, tuple[WatchedFile, ...]], WeightFiles]


def _opened(path: Path, opener: _Opener) -> WeightFiles:
    watched = WatchedFile(path)  # before it is read, so that no change after that is missed
    files = opener(path, (watched,))
    watched.check_same()
    return files


def _open_shards(index: Path, opener: _Opener) -> WeightFiles:
    shards = read_index(index)
    paths = tuple(sorted(set(shards.values())))
    for path in paths:
        if not os.path.exists(path):
            raise CheckpointError(f"{index}: shard {short(path.name)} is missing from the folder")
    files = {path: _opened(path, opener) for path in paths}
    contents = {path: file.tables.get((), {}) for path, file in files.items()}
    for name, path in shards.items():
        if name not in contents[path]:
            raise CheckpointError(f"{path}: tensor {short(name)} is missing; {index.name} says it is there")

    def read(keys: "Keys") -> dict[str, Array]:
        tensors = {path: file.read(keys) for path, file in files.items()}
        return {name: tensors[path][name] for name, path in shards.items()}

    table = {name: contents[path][name] for name, path in shards.items()}
    watched = tuple(file.watched[0] for file in files.values())
    return WeightFiles(paths, watched, {(): table}, read, {}, shards)


def _open_safetensors(path: Path, watched: tuple[WatchedFile, ...]) -> WeightFiles:
    file = open_tensors(path)
    shapes = {name: file.shape(name) for name in file.names}
    return WeightFiles(
        (path,), watched, {(): shapes}, lambda keys: {name: as_stored(file, name) for name in file.names}
    )


def _open_torch(path: Path, watched: tuple[WatchedFile, ...]) -> WeightFiles:
    from gpt2np.checkpoints.torchfile import read_torch

    file = read_torch(path)
    shapes = {
        keys: {name: tensor.shape for name, tensor in table.items()} for keys, table in file.tables.items()
    }
    return WeightFiles((path,), watched, shapes, file.arrays, file.settings)
