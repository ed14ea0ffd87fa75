"""Make the goldens: tiny random checkpoints by HF, and what HF computes on them at every site.

    python tests/support/make_goldens.py        (needs torch and transformers: pip install '.[ref]')

Each folder holds config.json, model.safetensors and sites.npz: the float64 value of every site, and under
`error/NAME` the relative error of HF's own float32 run there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from support import hf, hf_gemma2, hf_gpt_neo
from support.differences import relative_error

from gpt2np.architectures import gemma2, gpt_neo

GOLDENS = Path(__file__).parents[1] / "goldens"
BASE = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 12,
    "n_positions": 16,
    "vocab_size": 31,
    "bos_token_id": 30,
    "eos_token_id": 30,
}
CASES = {
    "gelu_new": {},
    "gelu": {"activation_function": "gelu"},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "n_inner": {"n_inner": 20, "n_head": 2},
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "untied": {"tie_word_embeddings": False},
    "one_head": {"n_head": 1, "n_layer": 1},
}
IDS = [3, 17, 17, 30, 0, 8, 3]
GPT_NEO_GOLDENS = Path(__file__).parents[1] / "architectures" / "gpt_neo" / "goldens"
GPT_NEO = {
    "odd_width": ("LGL", {"hidden_size": 15, "num_heads": 5, "window_size": 4, "intermediate_size": 21,
                          "layer_norm_epsilon": 1e-3}),
    "window_of_one": ("GLGL", {"hidden_size": 9, "num_heads": 3, "window_size": 1,
                               "activation_function": "gelu"}),
    "all_local": ("LL", {"hidden_size": 12, "num_heads": 4, "window_size": 7, "activation_function": "relu",
                         "tie_word_embeddings": False}),
}  # fmt: skip
GPT_NEO_IDS = [3, 17, 17, 30, 0, 8, 3, 21, 5, 12, 29]

GEMMA2_GOLDENS = GPT_NEO_GOLDENS.parents[1] / "gemma2" / "goldens"
GEMMA2 = {
    "caps_that_bend": ("SFS", {"hidden_size": 12, "num_attention_heads": 6, "num_key_value_heads": 2,
                               "head_dim": 4, "intermediate_size": 14, "sliding_window": 4,
                               "query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0,
                               "final_logit_softcapping": 3.0, "rope_theta": 10.0}),
    "no_caps": ("FSSF", {"hidden_size": 6, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6,
                         "intermediate_size": 7, "sliding_window": 1, "attn_logit_softcapping": None,
                         "final_logit_softcapping": None, "tie_word_embeddings": False,
                         "rms_norm_eps": 1e-2}),
    "key_head_each": ("SF", {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 4,
                             "head_dim": 2, "intermediate_size": 9, "sliding_window": 6,
                             "hidden_activation": "silu", "rope_theta": 100.0}),
}  # fmt: skip
GEMMA2_IDS = [3, 17, 17, 30, 0, 8, 3, 21, 5]


def main() -> None:
    torch.set_num_threads(1)
    of_gpt2()
    of_gpt_neo()
    of_gemma2()


def of_gpt2() -> None:
    """Those of a GPT-2: every site, stored or derived."""
    for seed, (name, changes) in enumerate(CASES.items()):
        config = BASE | changes
        folder = GOLDENS / name
        model = hf.random_model(seed, **config)
        hf.save(model, folder)
        single = hf.capture(model, IDS)
        if config.pop("reorder_and_upcast_attn", False):  # HF refuses it in float64; the result is the same
            model.config.reorder_and_upcast_attn = False
            for block in model.transformer.h:
                block.attn.reorder_and_upcast_attn = False
        write_sites(folder, single, hf.capture(model.double(), IDS))


def of_gpt_neo() -> None:
    """Those of a GPT-Neo, in real float64: every stored site."""
    for seed, (name, (kinds, changes)) in enumerate(GPT_NEO.items()):
        folder = GPT_NEO_GOLDENS / name
        sizes = {"vocab_size": 31, "max_position_embeddings": 16, "bos_token_id": 30, "eos_token_id": 30}
        model = hf_gpt_neo.random_model(seed, kinds, **sizes | changes)
        hf.save(model, folder)
        single = hf_gpt_neo.capture(model, GPT_NEO_IDS)
        double = hf_gpt_neo.double(model, GPT_NEO_IDS)
        stored = [name for name, site, _ in gpt_neo.SITES.expand(len(kinds)) if not site.derived]
        write_sites(folder, single, {name: double[name] for name in stored})


def of_gemma2() -> None:
    """Those of a Gemma-2, in real float64: every stored site."""
    for seed, (name, (kinds, changes)) in enumerate(GEMMA2.items()):
        folder = GEMMA2_GOLDENS / name
        model = hf_gemma2.random_model(
            seed, kinds, **{"vocab_size": 31, "max_position_embeddings": 16} | changes
        )
        hf.save(model, folder)
        single = hf_gemma2.capture(model, GEMMA2_IDS)
        double = hf_gemma2.double(model, GEMMA2_IDS)
        stored = [name for name, site, _ in gemma2.SITES.expand(len(kinds)) if not site.derived]
        write_sites(folder, single, {name: double[name] for name in stored})


def write_sites(folder: Path, single: dict[str, np.ndarray], double: dict[str, np.ndarray]) -> None:
    """The truth beside its checkpoint, and how far HF's float32 is from it."""
    errors = {f"error/{site}": relative_error(single[site], double[site]) for site in double}
    np.savez_compressed(folder / "sites.npz", **double, **errors)
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()))


if __name__ == "__main__":
    main()
