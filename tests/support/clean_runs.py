"""Runs without a mistake, by other means than gpt2np's: compare must find nothing in any of them."""

from dataclasses import dataclass

import numpy as np
import torch
from support import hf
from support.random_model import random_model
from support.torch_gpt2 import TorchGPT2

from gpt2np.architectures.gpt2.forward import forward
from gpt2np.loading import load
from gpt2np.model import Model
from gpt2np.ops import linear, mix, scaled_scores, unembedding
from gpt2np.tracing.packed_pass import Pass, Sequence
from gpt2np.tracing.step import Step


@dataclass
class Clean:
    """The sites of a run in float32."""

    way: str
    model: Model
    ids: list[int]
    dump: dict[str, np.ndarray]

    def __str__(self):
        c = self.model.config
        return f"{self.way} {c.n_layer} layers {c.n_head} heads {c.n_embd} wide {len(self.ids)} tokens"


def clean_run(seed: int, folder) -> Clean:
    """A random shape, random parameters of random size, and a random prompt, run in one of the ways."""
    rng = np.random.default_rng(seed)
    n_head, d_head = int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 4, 8, 16, 32, 64]))
    shape = {
        "n_layer": int(rng.integers(1, 7)), "n_head": n_head, "n_embd": max(n_head * d_head, 2 * n_head),
        "vocab_size": int(rng.integers(20, 1000)), "n_positions": 128,
        "activation_function": str(rng.choice(["gelu_new", "gelu_new", "gelu", "relu"])),
    }  # fmt: skip
    ids = rng.integers(0, shape["vocab_size"], int(rng.choice([1, 2, 3, 5, 8, 13, 34, 100]))).tolist()
    way = list(WAYS)[seed % len(WAYS)]
    if way.startswith("HF"):
        theirs = hf.random_model(seed, **shape)
        strange(theirs, rng)
        return Clean(way, load(hf.save(theirs, folder)), ids, WAYS[way](theirs, ids))
    model = random_model(seed, "float32", **shape | {"activation_function": "gelu_new"})
    if way == "decoded with a cache":
        return Clean(way, model, *decoded(model, ids))
    return Clean(way, model, ids, WAYS[way](model, ids))


def strange(model, rng) -> None:
    """Parameters of other sizes: as HF initialises them, small, or with a few huge columns."""
    kind = rng.integers(4)
    with torch.no_grad():
        if kind == 0:
            model.apply(model._init_weights)
        elif kind == 1:
            for p in model.parameters():
                p.mul_(0.1)
        elif kind == 2:
            column = int(rng.integers(model.config.n_embd))
            for p in (model.transformer.wte.weight, model.transformer.wpe.weight):
                p[:, column] *= 100


def of_hf(model, ids, threads=1, attention="eager"):
    """HF's own forward pass; the fused attention gives no pattern, so that it is left out."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model.set_attn_implementation(attention)
    try:
        found = hf.capture(model, ids) if attention == "eager" else fused(model, ids)
    finally:
        torch.set_num_threads(before)
    return {name: array for name, array in found.items() if name != "top_k_tokens"}


def fused(model, ids):
    """What hooks see of a pass through scaled_dot_product_attention."""
    found, hooks = {}, []

    def keep(name, module, of_input=False):
        def hook(_, inputs, output):
            value = inputs[0] if of_input else output[0] if isinstance(output, tuple) else output
            found[name] = value.detach()[0].numpy()

        hooks.append(module.register_forward_hook(hook))

    for i, block in enumerate(model.transformer.h):
        h = f"h.{i}."
        keep(h + "ln_1", block.ln_1)
        keep(h + "attn.qkv", block.attn.c_attn)
        keep(h + "attn.z", block.attn.c_proj, of_input=True)
        keep(h + "attn.out", block.attn.c_proj)
        keep(h + "ln_2", block.ln_2)
        keep(h + "mlp.pre", block.mlp.c_fc)
        keep(h + "mlp.out", block.mlp.c_proj)
        keep(h + "resid_post", block)
    keep("ln_f", model.transformer.ln_f)
    try:
        with torch.no_grad():
            found["logits"] = model(torch.tensor([ids])).logits[0].numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def of_torch(model, ids):
    """The forward pass of `torch_gpt2.py`."""
    return TorchGPT2(model).run(ids)


def reordered(model, ids):
    """Ours, with every sum from back to front, one number after another, beginning with the bias."""

    def product(a, b, start=0.0):  # [..., n] and [n, m]
        total = np.broadcast_to(np.float32(start), (*a.shape[:-1], b.shape[-1]))
        for i in reversed(range(a.shape[-1])):
            total = total + a[..., i, None] * b[..., None, i, :]
        return total

    def linear_back(x, p, *, out):
        out[...] = product(x, p.weight, p.bias)

    def scores_back(q, k, scale, *, out):
        out[...] = product(q.transpose(1, 0, 2), k.transpose(1, 2, 0)) * np.float32(scale)
        out[:, np.triu(np.ones((len(q), len(q)), bool), 1)] = -np.inf

    def mix_back(pattern, v, *, out):
        out[...] = product(pattern, v.transpose(1, 0, 2)).transpose(1, 0, 2)

    def unembedding_back(x, table, *, out):
        out[...] = product(x, table.T)

    other = dict(zip((linear, scaled_scores, mix, unembedding),
                     (linear_back, scores_back, mix_back, unembedding_back), strict=True))  # fmt: skip
    return swapped(model, ids, lambda op: other.get(op, op))


def swapped(model, ids, change):
    """The steps of a pass with other operations."""
    found = {}

    def swap(name, op):
        def run(*inputs, out):
            change(op)(*inputs, out=out)
            found[name] = out.copy()

        return run

    forward(
        model.parameters,
        model.config,
        Step(Pass(model.config, model.dtype, [Sequence(np.array(ids))], swap=swap)),
    )
    return found


def decoded(model, ids):
    """Ours, with a cache: a few tokens at once, then one at a time."""
    n = max(1, len(ids) // 2)
    trace = model.generate(ids[:n], max_new_tokens=len(ids) - n + 1, keep="*", eos=None).finish().trace
    return trace.token_ids, {name: np.array(trace[name]) for name in trace.names()}


WAYS = {
    "HF eager, 1 thread": of_hf,
    "HF eager, 2 threads": lambda model, ids: of_hf(model, ids, threads=2),
    "HF sdpa": lambda model, ids: of_hf(model, ids, attention="sdpa"),
    "torch, from scratch": of_torch,
    "NumPy, sums from back to front": reordered,
    "decoded with a cache": decoded,
}
