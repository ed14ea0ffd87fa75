"""The weight files of a folder: one or several, `.safetensors` or PyTorch's, as tensors by name."""

import json
import os
from pathlib import Path

from gpt2np.checkpoints.bfloat16 import widened
from gpt2np.errors import CheckpointError, short
from gpt2np.ops import Array
from gpt2np.tensorfile import open_tensors


def read_weight_files(folder: Path) -> tuple[tuple[Path, ...], dict[str, Array]]:
    """The weight files of a folder, safetensors before pickles, and all their tensors by name.

    Raises:
        CheckpointError: there are none, or one is damaged or missing.
    """
    for single, reader in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pickle)):
        if (folder / single).exists():
            return (folder / single,), reader(folder / single)
        index = folder / f"{single}.index.json"
        if index.exists():
            shards = read_index(index)
            paths = tuple(sorted(set(shards.values())))
            for path in paths:
                if not os.path.exists(path):
                    raise CheckpointError(f"{index}: shard {short(path.name)} is missing from the folder")
            contents = {path: reader(path) for path in paths}
            for name, path in shards.items():
                if name not in contents[path]:
                    raise CheckpointError(
                        f"{path}: tensor {short(name)} is missing; {index.name} says it is there"
                    )
            return paths, {name: contents[path][name] for name, path in shards.items()}
    raise CheckpointError(
        f"{folder}: no weights: expected model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin or pytorch_model.bin.index.json"
    )


def read_index(path: Path) -> dict[str, Path]:
    """The file of each tensor, from a `*.index.json`.

    Raises:
        CheckpointError: it is not JSON, or its `weight_map` is not one of tensor names to plain file names.
    """
    try:
        index = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error})") from None
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


def _read_safetensors(path: Path) -> dict[str, Array]:
    file = open_tensors(path)
    return {name: widened(file, name) for name in file.names}


def _read_pickle(path: Path) -> dict[str, Array]:
    from gpt2np.checkpoints.torchfile import read_torch

    return read_torch(path)
