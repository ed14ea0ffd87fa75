"""GPT-2's decoding step as NumPy calls in a row, without names, recording or choices.

A small model's speed beside it is what the rest of gpt2np costs.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits

from gpt2np.architectures.gpt2.config import Config


def norm(x, weight, bias, epsilon):
    """LayerNorm of one row."""
    y = x - np.add.reduce(x) / len(x)
    y *= 1 / math.sqrt(np.dot(y, y) / len(x) + epsilon)
    y *= weight
    y += bias
    return y


class BareLoop:
    """On one thread, whatever it is told."""

    def __init__(self, folder, threads):
        self.one_thread = threadpool_limits(1)
        self.config = config = Config.from_dict(json.loads((Path(folder) / "config.json").read_text()))
        stored = load_file(Path(folder) / "model.safetensors")
        w = {name.removeprefix("transformer."): array.astype(np.float32) for name, array in stored.items()}
        self.wte, self.wpe = w["wte.weight"], w["wpe.weight"]
        self.ln_f = w["ln_f.weight"], w["ln_f.bias"]
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        kinds = ("weight", "bias")
        shape = (config.n_head, config.n_positions, config.n_embd // config.n_head)
        self.blocks = [
            [w[f"h.{i}.{part}.{kind}"] for part in parts for kind in kinds]
            + [np.zeros(shape, np.float32), np.zeros(shape, np.float32)]
            for i in range(config.n_layer)
        ]
        self.first_token = None

    def step(self, token, n):
        """The logits after `token`, which stands at position n; the blocks hold keys and values before it."""
        n_head, d, eps = self.config.n_head, self.config.n_embd, self.config.layer_norm_epsilon
        scale, root = 1 / math.sqrt(d // n_head), math.sqrt(2 / math.pi)
        x = self.wte[token] + self.wpe[n]
        for g1, b1, w_qkv, b_qkv, w_o, b_o, g2, b2, w_fc, b_fc, w_p, b_p, keys, values in self.blocks:
            y = norm(x, g1, b1, eps)
            qkv = np.dot(y, w_qkv)
            qkv += b_qkv
            q, keys[:, n], values[:, n] = qkv.reshape(3, n_head, -1)
            a = np.matmul(keys[:, : n + 1], q[:, :, None])
            a *= scale
            a -= np.maximum.reduce(a, axis=1, keepdims=True)
            np.exp(a, out=a)
            a /= np.add.reduce(a, axis=1, keepdims=True)
            y = np.dot(np.matmul(a.transpose(0, 2, 1), values[:, : n + 1]).reshape(d), w_o)
            y += b_o
            x += y
            y = norm(x, g2, b2, eps)
            y = np.dot(y, w_fc)
            y += b_fc
            t = y * y
            t *= y
            t *= 0.044715
            t += y
            t *= root
            np.tanh(t, out=t)
            t += 1
            t *= y
            t *= 0.5
            y = np.dot(t, w_p)
            y += b_p
            x += y
        return np.dot(self.wte, norm(x, *self.ln_f, eps))

    def decode_alone(self, prompts, new):
        """The most probable tokens, one after another, on one thread as ever."""
        return self.decode(prompts, new)

    def decode(self, prompts, new):
        """The most probable tokens, one after another."""
        ids = list(prompts[0])
        for n, token in enumerate(ids):
            logits = self.step(token, n)
        for _ in range(new):
            ids.append(int(logits.argmax()))
            self.first_token = self.first_token or time.perf_counter()
            if len(ids) < len(prompts[0]) + new:
                logits = self.step(ids[-1], len(ids) - 1)
        return ids

    def check(self, prompts):
        for n, token in enumerate(prompts[0]):
            logits = self.step(token, n)
        return {"last": logits[:16].tolist(), "kept_bytes": 0}
