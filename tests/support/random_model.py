"""GPT-2s in memory with random parameters, of any shape, without torch and without a file."""

from pathlib import Path

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.weights import parameter_shapes
from gpt2np.checkpoints.checkpoint import Checkpoint, shipped_folder
from gpt2np.model import Model

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": 60, "eos_token_id": None}


def random_model(seed: int = 0, dtype: str = "float64", folder: str = "nowhere", **config) -> Model:
    """Every parameter is random: no bias 0, no norm 1, attention visibly uneven. `folder` has the vocabulary.

    The unembedding is not tied: tied random weights predict the token that they have just read.
    """
    cfg, rng = Config(**SMALL | config), np.random.default_rng(seed)
    shapes = parameter_shapes(cfg)
    shapes["lm_head.weight"] = shapes["wte.weight"]
    weights = {}
    for name, shape in shapes.items():
        if ".ln_" in name or name.startswith("ln_f"):
            array = rng.normal(1.0 if name.endswith("weight") else 0.0, 0.3, shape)
        elif name.endswith("bias"):
            array = rng.normal(0, 0.2, shape)
        elif name in ("wte.weight", "wpe.weight", "lm_head.weight"):
            array = rng.normal(0, 0.5, shape)
        else:
            array = rng.normal(0, 1.5 / np.sqrt(shape[0]), shape)
        weights[name] = array.astype(dtype)
    return Model(Checkpoint("random", Path(folder), cfg, weights, (), "", None, ()), dtype)


def random_model_with_text(seed: int = 0, **config) -> Model:
    """The same with the vocabulary of `tiny`: 2048 tokens, the last one ends a text."""
    shape = {"vocab_size": 2048, "n_positions": 256, "n_embd": 8, "eos_token_id": 2047}
    return random_model(seed, "float32", str(shipped_folder()), **shape | config)
