"""A random Gemma-2 checkpoint on disk, without torch."""

import json
from pathlib import Path

import numpy as np

from gpt2np import tensorfile
from gpt2np.architectures.gemma2.config import FULL, SLIDING, Config
from gpt2np.architectures.gemma2.weights import parameter_shapes
from gpt2np.checkpoints.checkpoint import Checkpoint
from gpt2np.model import Model

SMALL = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "hidden_size": 16,
    "intermediate_size": 20, "max_position_embeddings": 64, "vocab_size": 300, "sliding_window": 5,
    "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    "rope_theta": 100.0,
}  # fmt: skip


def config_of(kinds: str = "SF", **numbers) -> Config:
    """A small config; `kinds` is a letter a layer, S or F."""
    layers = tuple({"S": SLIDING, "F": FULL}[kind] for kind in kinds)
    settings = SMALL | {"eos_token_id": None} | numbers
    return Config(num_hidden_layers=len(kinds), layer_types=layers, **settings)


def write(folder: Path, kinds: str = "SF", seed: int = 0, **numbers) -> Path:
    """A checkpoint of random parameters."""
    config = config_of(kinds, **numbers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    arrays = random_arrays(config, seed)
    named = {("" if name.startswith("lm_head") else "model.") + name: array for name, array in arrays.items()}
    tensorfile.save_tensors(folder / "model.safetensors", named, {})
    return folder


def in_memory(kinds: str = "SF", seed: int = 0, **numbers) -> Model:
    """The same model without a file."""
    config = config_of(kinds, **numbers)
    weights = random_arrays(config, seed)
    return Model(Checkpoint("random", Path("nowhere"), config, weights, (), "", None, ()))


def random_arrays(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Every parameter is random: no norm neutral, attention visibly uneven."""
    rng, shapes = np.random.default_rng(seed), parameter_shapes(config)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = shapes["embed_tokens.weight"]
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            array = rng.normal(0, 0.3, shape)
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            array = rng.normal(0, 0.5, shape)
        elif ".q_proj" in name or ".k_proj" in name:
            array = rng.normal(0, 1.5 / np.sqrt(shape[1]), shape)
        else:
            array = rng.normal(0, 1 / np.sqrt(shape[1]), shape)
        arrays[name] = array.astype(np.float32)
    return arrays
