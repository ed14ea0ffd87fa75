"""Runs without a mistake in many precisions and forms: Hugging Face's and the two independent programs'."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from support import hf
from support.independent import numpy_gpt2, torch_gpt2
from support.random_model import random_model

from gpt2np.loading import load
from gpt2np.model import Model

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Clean:
    """What a program dumped; `names` is a map for those that are its own."""

    way: str
    model: Model
    ids: list[int]
    dump: dict
    names: dict[str, str] | None = None
    prefill: int | None = None

    def __str__(self):
        c = self.model.config
        cached = "" if self.prefill is None else f", {self.prefill} at once"
        shape = f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, {c.activation_function}"
        return f"{self.way}, {shape}, {len(self.ids)} tokens{cached}"


def clean_run(seed: int, folder) -> Clean:
    """A random shape, random parameters of random size, a random prompt, in one of the ways."""
    rng = np.random.default_rng([15, seed])
    way = list(WAYS)[seed % len(WAYS)]
    n_head, d_head = int(rng.integers(1, 7)), int(rng.choice([2, 3, 4, 8, 16, 32]))
    shape = {
        "n_layer": int(rng.integers(1, 6)),
        "n_head": n_head,
        "n_embd": n_head * d_head,
        "vocab_size": int(rng.integers(20, 400)),
        "n_positions": 128,
    }
    length = int(rng.choice([1, 2, 3, 5, 8, 13, 34, 80]))
    ids = rng.integers(0, shape["vocab_size"], length + ("cached" in way) * 3).tolist()
    prefill = int(rng.integers(1, len(ids))) if "cached" in way else None
    return WAYS[way](way, seed, rng, shape, ids, prefill, folder)


def stored(dump, rng):
    """With or without its batch axis."""
    if rng.integers(2):
        return dump
    return {name: tensor[0] if tensor.shape[0] == 1 else tensor for name, tensor in dump.items()}


# -- Hugging Face -------------------------------------------------------------------------------------------


def of_hf(
    way,
    seed,
    rng,
    shape,
    ids,
    prefill,
    folder,
    attention="eager",
    dtype="float32",
    autocast=None,
    outputs=False,
):
    """HF's own pass: its outputs, or what a hook on every module sees under the module's path."""
    activation = str(rng.choice(["gelu_new", "gelu_new", "gelu", "relu"]))
    theirs = hf.random_model(seed, activation_function=activation, **shape)
    strange(theirs, rng)
    model = load(hf.save(theirs, folder))
    theirs = theirs.to(getattr(torch, dtype))
    theirs.set_attn_implementation(attention)
    with torch.no_grad(), torch.autocast("cpu", HALF[autocast or "bfloat16"], enabled=autocast is not None):
        if outputs:
            out = theirs(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
            dump = dict(out)
        else:
            dump = stored(hooked(theirs, ids, prefill), rng)
    return Clean(way, model, ids, dump, None, prefill)


def hooked(theirs, ids, prefill):
    """Every module's output; of several passes with a cache one behind the other."""
    found, hooks = {}, []

    def keep(name):
        def hook(module, inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            if torch.is_tensor(value):
                value = value if value.ndim == 3 else value[None]
                found.setdefault(name, []).append(value.clone())

        return hook

    for name, module in theirs.named_modules():
        if name and name != "transformer":
            hooks.append(module.register_forward_hook(keep(name)))
    n, past = prefill or len(ids), None
    try:
        for start, stop in [(0, n), *((i, i + 1) for i in range(n, len(ids)))]:
            out = theirs(torch.tensor([ids[start:stop]]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            found.setdefault("logits", []).append(out.logits)
    finally:
        for hook in hooks:
            hook.remove()
    kept = {name: torch.cat(pieces, 1) for name, pieces in found.items() if name != "lm_head"}
    for i, layer in enumerate(past.layers):
        kept[f"past_key_values.{i}.key"], kept[f"past_key_values.{i}.value"] = layer.keys, layer.values
    return kept


def strange(theirs, rng):
    """Parameters of other sizes: as HF initialises them, or small."""
    kind = rng.integers(4)
    with torch.no_grad():
        if kind == 0:
            theirs.apply(theirs._init_weights)
        elif kind == 1:
            for p in theirs.parameters():
                p.mul_(0.3)


# -- the independent programs -------------------------------------------------------------------------------


def of_torch(way, seed, rng, shape, ids, prefill, folder, dtype="float32", autocast=None):
    """`torch_gpt2.py`, under its own names."""
    model = random_model(seed, "float32", **shape)
    program = torch_gpt2.TorchGPT2(model.weights, shape["n_head"], dtype=getattr(torch, dtype))
    with torch.autocast("cpu", HALF[autocast or "bfloat16"], enabled=autocast is not None):
        dump = program.run(ids)
    return Clean(way, model, ids, stored(dump, rng), torch_gpt2.HOOKS)


def of_numpy(way, seed, rng, shape, ids, prefill, folder, dtype=np.float32):
    """`numpy_gpt2.py`, under its own names."""
    model = random_model(seed, "float32", **shape)
    dump = numpy_gpt2.NumpyGPT2(model.weights, shape["n_head"], dtype=dtype).run(ids, prefill)
    return Clean(way, model, ids, dump, numpy_gpt2.TAPS, prefill)


WAYS = {
    "HF eager": of_hf,
    "HF eager, outputs": partial(of_hf, outputs=True),
    "HF sdpa": partial(of_hf, attention="sdpa"),
    "HF eager, cached": of_hf,
    "HF sdpa, cached": partial(of_hf, attention="sdpa"),
    "HF eager bfloat16": partial(of_hf, dtype="bfloat16"),
    "HF eager bfloat16, outputs": partial(of_hf, dtype="bfloat16", outputs=True),
    "HF sdpa bfloat16, cached": partial(of_hf, attention="sdpa", dtype="bfloat16"),
    "HF eager float16": partial(of_hf, dtype="float16"),
    "HF sdpa float16": partial(of_hf, attention="sdpa", dtype="float16"),
    "HF eager float16, cached": partial(of_hf, dtype="float16"),
    "HF eager autocast": partial(of_hf, autocast="bfloat16"),
    "HF eager autocast, outputs": partial(of_hf, autocast="bfloat16", outputs=True),
    "HF sdpa autocast, cached": partial(of_hf, attention="sdpa", autocast="bfloat16"),
    "HF sdpa autocast float16": partial(of_hf, attention="sdpa", autocast="float16"),
    "torch": of_torch,
    "torch bfloat16": partial(of_torch, dtype="bfloat16"),
    "torch float16": partial(of_torch, dtype="float16"),
    "torch autocast": partial(of_torch, autocast="bfloat16"),
    "NumPy": of_numpy,
    "NumPy, cached": of_numpy,
    "NumPy float16": partial(of_numpy, dtype=np.float16),
}
