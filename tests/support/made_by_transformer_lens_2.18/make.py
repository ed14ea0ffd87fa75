"""Makes the files of this folder; for an environment of its own, which the suite never needs:

    pip install transformer_lens==2.18.0 'transformers<5' 'pyarrow<18' 'datasets<4'
    python tests/support/made_by_transformer_lens_2.18/make.py

A random GPT-2 as `config.json` and `model.safetensors`, and what a HookedTransformer caches of it: loaded as
`from_pretrained_no_processing` does (`no_processing.npz`), and as `from_pretrained` does by default: norms
folded, writing weights and unembedding centred, value biases folded (`default.npz`).
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

import numpy as np
import torch
import transformer_lens as tl
from support import hf
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 12, "n_positions": 16, "vocab_size": 50}
IDS = [7, 31, 2, 49, 18, 31, 5, 11]
NO_PROCESSING = dict.fromkeys(
    ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False
)


def cached(theirs, **processing):
    """The cache of a run; by default with all that `from_pretrained` does to the weights."""
    config = tl.HookedTransformerConfig(
        n_layers=SHAPE["n_layer"],
        d_model=SHAPE["n_embd"],
        n_ctx=SHAPE["n_positions"],
        d_head=SHAPE["n_embd"] // SHAPE["n_head"],
        n_heads=SHAPE["n_head"],
        d_vocab=SHAPE["vocab_size"],
        act_fn="gelu_new",
        d_mlp=4 * SHAPE["n_embd"],
        normalization_type="LN" if processing else "LNPre",
        dtype=torch.float32,
    )
    hooked = tl.HookedTransformer(config)
    hooked.load_and_process_state_dict(convert_gpt2_weights(theirs, config), **processing)
    logits, cache = hooked.run_with_cache(torch.tensor([IDS]))
    right = theirs(torch.tensor([IDS])).logits
    assert (logits.softmax(-1) - right.softmax(-1)).abs().max() < 1e-5
    return {name: array.detach().numpy() for name, array in cache.items()} | {
        "logits": logits.detach().numpy()
    }


def main():
    theirs = hf.random_model(218, **SHAPE)
    hf.save(theirs, FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / "no_processing.npz", token_ids=IDS, **cached(theirs, **NO_PROCESSING))
    np.savez_compressed(FOLDER / "default.npz", token_ids=IDS, **cached(theirs))


if __name__ == "__main__":
    main()
