"""A checkpoint's folder, opened: its config, its weight files, or what it holds instead."""

import os
from pathlib import Path

from gpt2np.checkpoints import folder_contents
from gpt2np.checkpoints.tensor_names import find_names
from gpt2np.checkpoints.training_layouts import config_values, nested_settings
from gpt2np.checkpoints.weight_files import Shapes, WeightFiles, read_weight_files
from gpt2np.errors import CheckpointError, ConfigError, Gpt2npError
from gpt2np.files import read_json
from gpt2np.tracing.contract import DEFAULT, CheckpointNaming, ModelConfig, find, parse_config


class MissingFile(Gpt2npError):
    """A folder has no config or no weights, and says so in an error of the class `error`."""

    def __init__(self, text: str, error: type[Gpt2npError]) -> None:
        super().__init__(text)
        self.error = error


def open_folder(folder: Path) -> tuple[ModelConfig, WeightFiles, list[str]]:
    """Config and weight files of a folder, and notes; a training script's settings serve as config.

    Raises:
        MissingFile: there is no config or there are no weights; says what is there.
        ConfigError, CheckpointError: one of them is malformed.
    """
    path = folder / "config.json"
    values = read_json(path, ConfigError) if os.path.lexists(path) else None
    settings = nested_settings(values, DEFAULT)
    if values is not None and not settings:
        config, notes = parse_config(values, str(path))
        return config, _weight_files(folder), notes
    if settings or folder_contents.training_files(folder) or os.path.exists(folder / "pytorch_model.bin"):
        files = _weight_files(folder)
        where = path if settings else files.paths[0]
        shapes = _shapes_by_name(files, find(DEFAULT).naming)
        found = config_values(settings or files.settings, shapes, DEFAULT, where)
        if found is not None:
            config, notes = parse_config(found[0], str(where))
            return config, files, found[1] + notes
    raise MissingFile(f"{path}: no such file; {folder_contents.told(folder)}", ConfigError)


def _weight_files(folder: Path) -> WeightFiles:
    files = read_weight_files(folder)
    if files is None:
        expected = "expected model.safetensors, pytorch_model.bin, or the *.index.json of either"
        what = f"{folder}: no weights: {expected}; {folder_contents.told(folder)}"
        raise MissingFile(what, CheckpointError)
    return files


def _shapes_by_name(files: WeightFiles, naming: CheckpointNaming) -> Shapes:
    """The shapes of the table that holds the model, as far as one can tell without its config."""
    assert naming.training is not None, "only such a naming has settings that say what a config says"
    anchors = [name for name, _ in naming.training.sizes.values()]
    found = [(find_names(table, naming, anchors, files.paths[0]), table) for table in files.tables.values()]
    names, table = max(found, key=lambda pair: pair[0].n_found)
    return {name: table[full] for name, full in names.full_names.items()}
