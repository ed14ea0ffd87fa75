"""Folders with the names of models that the documents name, of a small size, all parameters random.

They have the vocabulary of `tiny`, and what transformers needs to load model and tokenizer by the same name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from support import gemma2_checkpoint, gemma_tokenizer, gpt_neo_checkpoint
from support.random_model import random_model

from gpt2np.architectures.gpt2.config import Config
from gpt2np.checkpoints.checkpoint import shipped_folder

END = 2047  # `<|endoftext|>` in the vocabulary of `tiny`
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 48}  # as many layers and heads as GPT-2 small


def write_model(folder: str | Path, seed: int = 0, **config: Any) -> Path:
    """Write a whole checkpoint: by default as many layers and heads as GPT-2 small, and 4 numbers a head.

    The unembedding is not tied, and the id that ends a text is not predicted: responses have full length.
    """
    sizes = GPT2 | {"n_positions": 1024, "vocab_size": 2048, "eos_token_id": END} | config
    model = random_model(seed, "float32", **sizes)
    weights = {f"transformer.{name}": array for name, array in model.weights.items() if "lm_head" not in name}
    weights["lm_head.weight"] = np.array(model.weights["lm_head.weight"])
    weights["lm_head.weight"][END] = 0
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "model.safetensors"
    )
    facts = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": False}
    facts |= {"bos_token_id": END, "activation_function": Config().activation_function} | sizes
    (folder / "config.json").write_text(json.dumps(facts), "utf-8")
    return _with_vocabulary(folder)


def write_gpt_neo(folder: str | Path, seed: int = 0) -> Path:
    """Write a GPT-Neo with the layers and heads of the 125M one, 4 numbers a head; its window is 16."""
    sizes = {"num_heads": 12, "hidden_size": 48, "max_position_embeddings": 128, "vocab_size": 2048}
    settings = {"window_size": 16, "tie_word_embeddings": False, "eos_token_id": END}
    folder = gpt_neo_checkpoint.write(Path(folder), "GL" * 6, seed, **sizes | settings)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][END] = 0
    save_file(weights, folder / "model.safetensors")
    return _with_vocabulary(folder)


def write_gemma2(folder: str | Path, seed: int = 0, **config: Any) -> Path:
    """Write a Gemma-2 with the layers and heads of the 2B one, 4 numbers a head, and a tiny vocabulary.

    Its window is 16. Special tokens are not predicted.
    """
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4, "hidden_size": 24}
    sizes |= {"intermediate_size": 40, "vocab_size": 440, "max_position_embeddings": 512}
    sizes |= {"sliding_window": 16, "tie_word_embeddings": False} | config
    folder = gemma2_checkpoint.write(Path(folder), "SF" * 13, seed, **sizes)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][:16] = 0
    save_file(weights, folder / "model.safetensors")
    return gemma_tokenizer.write(folder, bos=True)


def _with_vocabulary(folder: Path) -> Path:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shipped_folder() / name, folder / name)
    return folder
