"""Write a random bfloat16 checkpoint of a released size, shard by shard: no more than a tensor is in memory.

    python -m tests.support.large_checkpoint FOLDER MODEL_TYPE [CONFIG.json]

Its numbers are one random block, repeated at another offset for each tensor: cheap to make, and no tensor is
like another. Norms are near their neutral value, all else is small enough for a deep model to stay finite.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

from gpt2np.tracing.contract import find, parse_config

SHARD = 2_000_000_000  # bytes
BLOCK = 1 << 22  # numbers


def write_large_checkpoint(folder: Path, config, scale: float = 0.02) -> int:
    """Write config.json, the shards and their index; return the bytes of the weights."""
    shapes = {config.architecture.naming.prefix + n: s for n, s in config.architecture.shapes(config).items()}
    shards, size = [{}], 0
    for name, shape in shapes.items():
        if size and size + 2 * math.prod(shape) > SHARD:
            shards, size = [*shards, {}], 0
        shards[-1][name], size = shape, size + 2 * math.prod(shape)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    block = _bits(np.random.default_rng(0).standard_normal(BLOCK, np.float32) * scale)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        neutral = 0 if config.architecture.model_type == "gemma2" else 1  # which stores norms less 1
        _write_shard(folder / file, shard, block, neutral)
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _write_shard(path: Path, shapes: dict, block: np.ndarray, neutral: int) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        n = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for k, (name, shape) in enumerate(shapes.items()):
            left, numbers = math.prod(shape), np.roll(block, 977 * k)
            if len(shape) == 1 and name.endswith("weight"):  # a norm
                numbers = _bits(neutral + _floats(numbers[:left]))
            while left > 0:
                out.write(numbers[:left].data)
                left -= BLOCK


def _bits(x: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype("<u2")


def _floats(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


if __name__ == "__main__":
    where, kind, *more = sys.argv[1:]
    values = json.loads(Path(more[0]).read_text()) if more else {}
    made = parse_config({"model_type": kind, **values}, kind)[0]
    assert made.architecture is find(kind)
    print(f"{write_large_checkpoint(Path(where), made):,} bytes")
