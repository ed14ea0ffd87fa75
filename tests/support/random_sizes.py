"""Checkpoints of any size with random weights, written as fast as the disk takes them; no torch here."""

import json
import struct
from pathlib import Path

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.weights import parameter_shapes

_BLOCK = 1_000_003  # numbers drawn once and written again and again; a prime, so that no rows are alike


def write_random(folder: Path, config: Config, seed: int = 0) -> Path:
    """`config.json` and `model.safetensors`; norms around 1, the rest small enough for any depth."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"} | config.to_dict()))
    block = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32)
    kinds = {
        (mean, scale): (mean + scale * block).astype(np.float32)
        for mean, scale in ((1.0, 0.2), (0.0, 0.1), (0.0, config.n_embd**-0.5))
    }
    header, at = {}, 0
    for name, shape in parameter_shapes(config).items():
        place = [at, at := at + 4 * int(np.prod(shape))]
        header[f"transformer.{name}"] = {"dtype": "F32", "shape": list(shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in parameter_shapes(config).items():
            if name.startswith(("wte", "wpe")) or name.endswith("bias"):
                kind = kinds[0.0, 0.1]
            else:
                kind = kinds[1.0, 0.2] if ".ln_" in f".{name}" else kinds[0.0, config.n_embd**-0.5]
            start, left = file.tell() // 4 % _BLOCK, int(np.prod(shape))
            while left:
                piece = kind[start : start + left]
                file.write(piece.data)
                start, left = 0, left - len(piece)
    return folder
