"""How nanoGPT, minGPT and the scripts made of them store a GPT-2, which they build of torch's own modules."""

import re
from collections.abc import Mapping
from typing import cast

import numpy as np

from gpt2np.ops import Array
from gpt2np.tracing.contract import TrainingNaming

_EARLY_MINGPT = (
    (r"^tok_emb\.", "wte."), (r"^pos_emb$", "wpe.weight"), (r"^blocks\.", "h."), (r"^head\.", "lm_head."),
    (r"\.ln(\d)\.", r".ln_\1."), (r"\.attn\.proj\.", ".attn.c_proj."), (r"\.attn\.mask$", ".attn.bias"),
    (r"\.mlp\.0\.", ".mlp.c_fc."), (r"\.mlp\.2\.", ".mlp.c_proj."),
)  # fmt: skip


def from_early_mingpt(tensors: Mapping[str, Array]) -> dict[str, Array] | None:
    """The tensors of minGPT's first version under GPT-2's names, in torch's Linear layout; None of any other.

    It kept query, key and value apart, and called the embeddings tok_emb and pos_emb.
    """
    if "tok_emb.weight" not in tensors or "pos_emb" not in tensors:
        return None
    found: dict[str, Array] = {}
    for name, tensor in tensors.items():
        for old, new in _EARLY_MINGPT:
            name = re.sub(old, new, name)
        found[name] = tensor[0] if name == "wpe.weight" and len(tensor) == 1 else tensor  # [1, pos, n_embd]
    for name in [name for name in found if ".attn.query." in name]:
        parts = [found.get(name.replace("query", part)) for part in ("query", "key", "value")]
        if all(part is not None and part.ndim and part.shape == found[name].shape for part in parts):
            found[name.replace("query", "c_attn")] = np.concatenate(cast("list[Array]", parts))
    return {
        name: array for name, array in found.items() if not re.search(r"\.attn\.(query|key|value)\.", name)
    }


# n_layer, n_head, n_embd
_MINGPT_SIZES = {
    "openai-gpt": (12, 12, 768), "gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600), "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192), "gpt-micro": (4, 4, 128), "gpt-nano": (3, 3, 48),
}  # fmt: skip

TRAINING = TrainingNaming(
    matrices=r"\.(c_attn|c_proj|c_fc)\.weight$",
    witness=r"\.c_attn\.weight$",
    zeros=r"\.bias$",
    settings={"block_size": "n_positions"},
    harmless=frozenset("model_type bias dropout embd_pdrop resid_pdrop attn_pdrop".split()),
    sizes={"vocab_size": ("wte.weight", 0), "n_embd": ("wte.weight", 1), "n_positions": ("wpe.weight", 0)},
    named_sizes={
        name: dict(zip(("n_layer", "n_head", "n_embd"), sizes, strict=True))
        for name, sizes in _MINGPT_SIZES.items()
    },
    activations={"attn_pdrop": "gelu_new", "bias": "gelu", "": "gelu_new"},  # minGPT's, nanoGPT's, others'
    renamed=from_early_mingpt,
)
