"""A random GPT-2 in HF's layout, made with NumPy alone, for benchmarks."""

import json
from pathlib import Path

import numpy as np

from gpt2np.architectures.gpt2.config import RELEASED, Config
from gpt2np.architectures.gpt2.weights import parameter_shapes
from gpt2np.tensorfile import create_tensors


def make(folder: Path, config: Config = RELEASED["gpt2"], seed: int = 0) -> Path:
    """config.json and model.safetensors (float32) with every parameter random; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = config.to_dict() | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(values))
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(config)
    entries = [(f"transformer.{name}", np.dtype("float32"), shape) for name, shape in shapes.items()]
    with create_tensors(folder / "model.safetensors", entries, {"format": "pt"}) as file:
        for name, array in file.arrays.items():
            rng.standard_normal(out=array, dtype=np.float32)
            array *= 0.02
            if ".ln_" in name and name.endswith("weight"):
                array += 1.0
    return folder
