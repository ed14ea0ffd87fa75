"""`gpt2np.read_config`: the config of any architecture, from a `config.json`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2np.errors import ConfigError
from gpt2np.files import read_json
from gpt2np.tracing.contract import ModelConfig, parse_config


def read_config(source: str | os.PathLike[str] | Mapping[str, Any]) -> ModelConfig:
    """Read the config from a `config.json`, a folder that has one, or a mapping of its keys.

    Its class is that of the architecture that `model_type` names; without it, GPT-2's `Config`.

    Raises:
        ConfigError: the file is missing or malformed, or describes a model that gpt2np does not run.

    Example:
        >>> read_config({"model_type": "gpt2", "n_layer": 2}).n_head
        12
    """
    if isinstance(source, Mapping):
        return parse_config(source, "config")[0]
    path = Path(source)
    return read_config_file(path / "config.json" if path.is_dir() else path)[0]


def read_config_file(path: Path) -> tuple[ModelConfig, list[str]]:
    """Read the config from a `config.json`, with a note for each unknown key.

    Raises:
        ConfigError: the file is missing or malformed, or describes another kind of model.
    """
    return parse_config(read_json(path, ConfigError), str(path))
