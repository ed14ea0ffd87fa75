"""A random GPT-Neo checkpoint on disk, without torch."""

import json
from pathlib import Path

import numpy as np

from gpt2np import tensorfile
from gpt2np.architectures.gpt_neo.config import Config
from gpt2np.architectures.gpt_neo.weights import parameter_shapes

SMALL = {"num_heads": 2, "hidden_size": 8, "max_position_embeddings": 64, "vocab_size": 300, "window_size": 5}


def config_of(kinds: str = "GL", **numbers) -> Config:
    """A small config; `kinds` is a letter a layer, G or L."""
    layers = tuple({"G": "global", "L": "local"}[kind] for kind in kinds)
    settings = SMALL | {"eos_token_id": None} | numbers
    return Config(num_layers=len(kinds), attention_layers=layers, **settings)


def write(folder: Path, kinds: str = "GL", seed: int = 0, **numbers) -> Path:
    """Every parameter is random: no bias 0, no norm 1, attention visibly uneven."""
    config, rng = config_of(kinds, **numbers), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    shapes = parameter_shapes(config)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = shapes["wte.weight"]
    arrays = {}
    for name, shape in shapes.items():
        if "ln_" in name:
            array = rng.normal(1.0 if name.endswith("weight") else 0.0, 0.3, shape)
        elif len(shape) == 1:
            array = rng.normal(0, 0.2, shape)
        elif name in ("wte.weight", "wpe.weight", "lm_head.weight"):
            array = rng.normal(0, 0.5, shape)
        else:
            array = rng.normal(0, 1 / np.sqrt(shape[1]), shape)
        prefix = "" if name.startswith("lm_head") else "transformer."
        arrays[prefix + name] = array.astype(np.float32)
    tensorfile.save_tensors(folder / "model.safetensors", arrays, {})
    return folder
