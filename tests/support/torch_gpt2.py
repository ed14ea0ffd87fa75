"""GPT-2 in torch, float32, with mistakes to switch on: it shares nothing with gpt2np but the weights.

`KNOWN` are mistakes that the catalogue has under the same name, `UNKNOWN` are none of its own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from support.random_model import random_model
from torch.nn import functional as F

from gpt2np.reference.comparison import compare

# What each mistake makes wrong first; those of a layer are made in one layer, `at`. (Scores in the future are
# nobody's business, so that a wrong mask is seen in the pattern.)
KNOWN = {
    "embedding-scaled": "wte",
    "position-off-by-one": "wpe",
    "position-missing": "wpe",
    "position-reversed": "wpe",
    "position-constant": "wpe",
    "position-stride": "wpe",
    "token-types-added": "embed",
    "record-overwritten": "embed",
    "layernorm-ddof1": "ln_1",
    "layernorm-wrong-axis": "ln_1",
    "layernorm-no-root": "ln_1",
    "layernorm-weight-bias-swapped": "ln_1",
    "layernorm-twice": "ln_1",
    "layer-order": "ln_1",
    "stale-stream": "ln_1",
    "qkv-bias-part": "attn.qkv",
    "qkv-part-repeated": "attn.scores",
    "heads-cut-untransposed": "attn.scores",
    "scores-scaled-by-n-head": "attn.scores",
    "scores-scaled-by-length": "attn.scores",
    "scores-scaled-by-qkv": "attn.scores",
    "scores-multiplied": "attn.scores",
    "mask-anticausal": "attn.scores",
    "attention-window": "attn.scores",
    "cache-not-used": "attn.scores",
    "mask-forgets-cache": "attn.scores",
    "mask-sign": "attn.pattern",
    "softmax-sum-starts-at-one": "attn.pattern",
    "softmax-missing": "attn.pattern",
    "softmax-twice": "attn.pattern",
    "flash-not-rescaled": "attn.z",
    "own-value-left-out": "attn.z",
    "heads-permuted": "attn.z",
    "heads-merged-interleaved": "attn.z",
    "heads-missing": "attn.z",
    "sublayer-missing": "resid_mid",
    "residual-twice": "resid_mid",
    "mlp-reads-ln-1": "mlp.pre",
    "transposed-c-fc": "mlp.pre",
    "gelu-constant": "mlp.post",
    "gelu-factor": "mlp.post",
    "activation-other": "mlp.post",
    "activation-twice": "mlp.post",
    "activation-misplaced": "mlp.post",
    "layer-skipped": "resid_post",
    "layer-twice": "resid_post",
    "residual-scaled": "resid_post",
    "ln-f-stale": "ln_f",
    "transposed-unembedding": "logits",
    "logits-scaled": "logits",
    "layernorm-eps-outside": "ln_1",
    "layernorm-no-mean": "ln_2",
    "layernorm-no-weight": "ln_2",
    "norms-swapped": "ln_1",
    "missing-ln": "ln_2",
    "heads-before-qkv": "attn.scores",
    "heads-strided": "attn.scores",
    "qkv-interleaved": "attn.scores",
    "qkv-kv-swapped": "attn.scores",
    "scores-unscaled": "attn.scores",
    "scores-scaled-by-n-embd": "attn.scores",
    "scores-scaled-by-d-head": "attn.scores",
    "mask-missing": "attn.pattern",
    "mask-off-by-one": "attn.pattern",
    "mask-value-small": "attn.pattern",
    "mask-after-softmax": "attn.pattern",
    "softmax-wrong-axis": "attn.pattern",
    "pattern-transposed": "attn.z",
    "heads-merged-untransposed": "attn.z",
    "transposed-c-proj": "attn.out",
    "missing-bias": "attn.out",
    "dropout-active": "attn.out",
    "residual-after-ln": "resid_mid",
    "residual-missing": "resid_mid",
    "bias-twice": "mlp.pre",
    "weights-float16": "mlp.pre",
    "wrong-layer-weights": "mlp.pre",
    "gelu-erf": "mlp.post",
    "gelu-quick": "mlp.post",
    "activation-relu": "mlp.post",
    "wrong-residual-branch": "resid_post",
    "missing-ln-f": "logits",
    "untied-weights": "logits",
}
UNKNOWN = {
    "embedding-with-noise": "wte",
    "positions-sinusoidal": "wpe",
    "layernorm-by-largest": "ln_1",
    "layernorm-clipped": "ln_1",
    "bias-negated": "attn.qkv",
    "queries-normalised": "attn.scores",
    "scores-capped": "attn.scores",
    "scores-by-distance": "attn.scores",
    "scores-with-a-sink": "attn.scores",
    "positions-rotated": "attn.scores",
    "pattern-hardened": "attn.pattern",
    "pattern-of-two": "attn.pattern",
    "pattern-rounded": "attn.pattern",
    "heads-averaged": "attn.z",
    "values-normalised": "attn.z",
    "weights-int8": "attn.out",
    "weights-pruned": "attn.out",
    "residual-damped": "resid_mid",
    "residual-clipped": "resid_mid",
    "activation-capped": "mlp.post",
    "activation-leaky": "mlp.post",
    "neurons-shuffled": "mlp.post",
    "one-value-flipped": "mlp.out",
    "logits-capped": "logits",
    "logits-penalised": "logits",
}
LAST = {"wte", "wpe", "embed", "ln_f", "logits"}  # sites that no layer has


class TorchGPT2:
    """The forward pass; `steps` has the result of every step under gpt2np's names."""

    def __init__(self, model, mistake="", at=0):
        self.w = {name: torch.from_numpy(np.array(array)) for name, array in model.weights.items()}
        self.config, self.mistake, self.at = model.config, mistake, at
        self.steps = {}

    def run(self, ids):
        with torch.no_grad():
            self.forward(torch.tensor(ids))
        return {name: step.contiguous().numpy() for name, step in self.steps.items()}

    def made(self, mistake, layer=None):
        """Whether a mistake is made here."""
        return self.mistake == mistake and layer in (None, self.at)

    def keep(self, name, x):
        self.steps[name] = x
        return x

    def forward(self, ids):
        w, d = self.w, self.config.n_embd
        token = w["wte.weight"][ids]
        if self.made("embedding-scaled"):
            token = token * d**0.5
        if self.made("embedding-with-noise"):
            token = token + 0.1 * torch.randn(token.shape, generator=torch.Generator().manual_seed(0))
        where = torch.arange(len(ids)) + (1 if self.made("position-off-by-one") else 0)
        if self.made("position-reversed"):
            where = where.flip(0)
        if self.made("position-constant"):
            where = torch.full_like(where, self.config.n_head)
        position = F.embedding(where, w["wpe.weight"])
        if self.made("position-stride"):
            position = w["wpe.weight"].reshape(-1).unfold(0, d, 1)[: len(ids)]
        if self.made("position-missing"):
            position = torch.zeros_like(position)
        if self.made("positions-sinusoidal"):
            angle = where[:, None] / 10000 ** (torch.arange(d) / d)
            position = torch.where(torch.arange(d) % 2 == 0, angle.sin(), angle.cos())
        x = self.keep("wte", token) + self.keep("wpe", position)
        x = embed = self.keep("embed", x + w["wte.weight"][0] if self.made("token-types-added") else x)
        for layer in range(self.config.n_layer):
            x = self.block(embed if self.made("stale-stream", layer) else x, layer)
        if self.made("record-overwritten"):
            self.keep("embed", x)
        last = self.steps["h.0.resid_post"] if self.made("ln-f-stale") else x
        normed = self.keep("ln_f", F.layer_norm(last, (d,), w["ln_f.weight"], w["ln_f.bias"], 1e-5))
        table = w["wte.weight" if self.made("untied-weights") else "lm_head.weight"]
        table = table.view(d, -1).T if self.made("transposed-unembedding") else table
        logits = (x if self.made("missing-ln-f") else normed) @ table.T
        if self.made("logits-scaled"):
            logits = logits / 0.7
        if self.made("logits-capped"):
            logits = 30 * torch.tanh(logits / 30)
        if self.made("logits-penalised"):
            logits[:, ids] -= 1
        self.keep("logits", logits)

    def block(self, x, i):
        if self.made("layer-order", i):
            other, mine = f"h.{(i + 1) % self.config.n_layer}.", f"h.{i}."
            weights = {n.replace(other, mine): a for n, a in self.w.items() if n.startswith(other)}
            self.w = self.w | weights
        if self.made("layer-twice", i):
            steps, self.at = self.steps, -1
            once = self.block(x, i)
            kept = dict(steps)
            again = self.block(once, i)
            self.steps = kept
            return self.keep(f"h.{i}.resid_post", again)
        h = f"h.{i}."
        normed = self.norm(x, h + "ln_1", i)
        out = self.attention(normed, h + "attn.", i)
        if self.made("residual-after-ln", i):
            mid = normed + out
        elif self.made("residual-missing", i):
            mid = out
        elif self.made("sublayer-missing", i):
            mid = x
        elif self.made("residual-twice", i):
            mid = x + x + out
        elif self.made("residual-clipped", i):
            mid = (x + out).clamp(-1, 1)
        else:
            mid = x + (0.4 * out if self.made("residual-damped", i) else out)
        self.keep(h + "resid_mid", mid)
        to_read = self.norm(mid, h + "ln_2", i)
        out = self.mlp(normed if self.made("mlp-reads-ln-1", i) else to_read, h + "mlp.", i)
        if self.made("residual-scaled", i):
            out = out / math.sqrt(2 * self.config.n_layer)
        if self.made("layer-skipped", i):
            return self.keep(h + "resid_post", x)
        return self.keep(h + "resid_post", out + (x if self.made("wrong-residual-branch", i) else mid))

    def norm(self, x, name, i):
        d, eps = x.shape[-1], self.config.layer_norm_epsilon
        kind = name.split(".")[-1]
        other = name.replace("ln_1", "ln_2")
        weight, bias = self.w[name + ".weight"], self.w[name + ".bias"]
        mean = x.mean(-1, keepdim=True)
        if self.made("layernorm-ddof1", i) and kind == "ln_1":
            y = (x - mean) / (x.var(-1, keepdim=True) + eps).sqrt()
        elif self.made("layernorm-eps-outside", i) and kind == "ln_1":
            y = (x - mean) / (x.std(-1, keepdim=True, correction=0) + eps)
        elif self.made("layernorm-no-mean", i) and kind == "ln_2":
            y = F.rms_norm(x, (d,), eps=eps)
        elif self.made("layernorm-wrong-axis", i) and kind == "ln_1":
            y = F.layer_norm(x.T, (len(x),), None, None, eps).T
        elif self.made("layernorm-no-root", i) and kind == "ln_1":
            y = (x - mean) / (x.var(-1, keepdim=True, correction=0) + eps)
        elif self.made("layernorm-weight-bias-swapped", i) and kind == "ln_1":
            return self.keep(name, F.layer_norm(x, (d,), bias, weight, eps))
        elif self.made("layernorm-twice", i) and kind == "ln_1":
            once = F.layer_norm(x, (d,), weight, bias, eps)
            return self.keep(name, F.layer_norm(once, (d,), weight, bias, eps))
        elif self.made("layernorm-clipped", i) and kind == "ln_1":
            y = F.layer_norm(x, (d,), None, None, eps).clamp(-0.8, 0.8)
        elif self.made("layernorm-by-largest", i) and kind == "ln_1":
            y = (x - mean) / (x - mean).abs().amax(-1, keepdim=True)
        elif self.made("layernorm-no-weight", i) and kind == "ln_2":
            return self.keep(name, F.layer_norm(x, (d,), None, bias, eps))
        elif self.made("missing-ln", i) and kind == "ln_2":
            return self.keep(name, x.clone())
        elif self.made("norms-swapped", i) and kind == "ln_1":
            return self.keep(
                name, F.layer_norm(x, (d,), self.w[other + ".weight"], self.w[other + ".bias"], eps)
            )
        else:
            y = F.layer_norm(x, (d,), None, None, eps)
        return self.keep(name, y * weight + bias)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"].T, self.w[name + ".bias"])

    def heads(self, qkv, i):
        """Queries, keys and values, each [head, pos, d_head]."""
        n, head = len(qkv), self.config.n_head
        if self.made("heads-before-qkv", i):
            q, k, v = qkv.view(n, head, 3, -1).permute(2, 1, 0, 3)
        elif self.made("heads-strided", i):
            q, k, v = qkv.view(n, 3, -1, head).permute(1, 3, 0, 2)
        elif self.made("qkv-interleaved", i):
            q, k, v = qkv.view(n, head, -1, 3).permute(3, 1, 0, 2)
        elif self.made("heads-cut-untransposed", i):
            q, k, v = (part.reshape(head, n, -1) for part in qkv.chunk(3, -1))
        else:
            q, k, v = (part.view(n, head, -1).transpose(0, 1) for part in qkv.chunk(3, -1))
        if self.made("qkv-part-repeated", i):
            k = q
        if self.made("positions-rotated", i):
            turn = torch.arange(n)[:, None] * 0.3
            q, k = (x * turn.cos() + x.roll(1, -1) * turn.sin() for x in (q, k))
        return (q, v, k) if self.made("qkv-kv-swapped", i) else (q, k, v)

    def attention(self, x, a, i):
        n, d = x.shape
        qkv = self.linear(x, a + "c_attn")
        if self.made("qkv-bias-part", i):
            qkv[:, 2 * d :] -= self.w[a + "c_attn.bias"][2 * d :]
        if self.made("bias-negated", i):
            qkv = qkv - 2 * self.w[a + "c_attn.bias"]
        q, k, v = self.heads(self.keep(a + "qkv", qkv), i)
        if self.made("queries-normalised", i):
            q = F.normalize(q, dim=-1)
        size = {
            "scores-unscaled": 1,
            "scores-scaled-by-n-embd": d,
            "scores-scaled-by-d-head": q.shape[-1] ** 2,
            "scores-scaled-by-n-head": len(q),
            "scores-scaled-by-length": n,
            "scores-scaled-by-qkv": 3 * d,
            "scores-multiplied": 1 / q.shape[-1],
        }
        scores = torch.einsum("hqd,hkd->hqk", q, k)
        scores = scores / math.sqrt(
            size[self.mistake] if self.mistake in size and i == self.at else q.shape[-1]
        )
        if self.made("scores-capped", i):
            scores = scores.clamp(-1, 1)
        if self.made("scores-by-distance", i):
            scores = scores - 0.1 * (torch.arange(n)[:, None] - torch.arange(n)).abs()
        if self.made("scores-with-a-sink", i):
            scores[:, :, 0] += 3
        shift = 2 if self.made("mask-off-by-one", i) else 1
        future = torch.ones(n, n, dtype=torch.bool).triu(shift)
        if self.made("mask-missing", i):
            future[:] = False
        query, key = torch.arange(n)[:, None], torch.arange(n)
        if self.made("mask-anticausal", i):
            future = future.T
        if self.made("attention-window", i):
            future |= key <= query - 4
        if self.made("cache-not-used", i):
            future |= (query >= 4) & (key < query)
        if self.made("mask-forgets-cache", i):
            future |= (query >= 4) & (key > query - 4)
        masked = scores.masked_fill(future, -math.inf)
        self.keep(a + "scores", masked)
        if self.made("mask-value-small", i):
            masked = scores.masked_fill(future, -10.0)
        pattern = masked.softmax(-1)
        if self.made("mask-after-softmax", i):
            pattern = scores.softmax(-1).masked_fill(future, 0)
        if self.made("softmax-wrong-axis", i):
            pattern = masked.softmax(-2)
        if self.made("mask-sign", i):
            pattern = scores.masked_fill(future, 1e10).softmax(-1)
        if self.made("softmax-sum-starts-at-one", i):
            pattern = masked.exp() / (1 + masked.exp().sum(-1, keepdim=True))
        if self.made("softmax-missing", i):
            pattern = masked.exp()
        if self.made("softmax-twice", i):
            pattern = pattern.softmax(-1)
        if self.made("pattern-of-two", i):
            pattern = pattern * (pattern >= pattern.topk(2).values[..., -1:])
        if self.made("pattern-rounded", i):
            pattern = (pattern * 20).round() / 20
        if self.made("pattern-hardened", i):
            pattern = F.one_hot(pattern.argmax(-1), n).float()
        self.keep(a + "pattern", pattern)
        if self.made("values-normalised", i):
            v = F.normalize(v, dim=-1)
        if self.made("own-value-left-out", i):
            pattern = pattern.tril(-1)
        z = (pattern.mT if self.made("pattern-transposed", i) else pattern) @ v
        if self.made("flash-not-rescaled", i):
            z = one_pass(masked, v)
        if self.made("heads-permuted", i):
            z = z.roll(1, 0)
        if self.made("heads-averaged", i):
            z = z.mean(0, keepdim=True).expand_as(z)
        if self.made("heads-missing", i):
            z[-1] = 0
        if self.made("heads-merged-interleaved", i):
            z = z.permute(1, 2, 0).reshape(n, len(z), -1).transpose(0, 1)
        z = z.reshape(n, -1) if self.made("heads-merged-untransposed", i) else z.transpose(0, 1).reshape(n, d)
        self.keep(a + "z", z.view(n, self.config.n_head, -1))
        weight, bias = self.w[a + "c_proj.weight"], self.w[a + "c_proj.bias"]
        if self.made("weights-int8", i):
            step = weight.abs().max() / 127
            weight = (weight / step).round() * step
        if self.made("weights-pruned", i):
            weight = weight * (weight.abs() > weight.abs().median())
        weight = weight.T if self.made("transposed-c-proj", i) else weight
        out = z @ weight + (0 if self.made("missing-bias", i) else bias)
        if self.made("dropout-active", i):
            torch.manual_seed(0)
            out = F.dropout(out, 0.1)
        return self.keep(a + "out", out)

    def mlp(self, x, m, i):
        fc = m + "c_fc"
        if self.made("wrong-layer-weights", i):
            fc = f"h.{(i + 1) % self.config.n_layer}.mlp.c_fc"
        if self.made("weights-float16", i):
            weight, bias = (self.w[f"{fc}.{part}"].half().float() for part in ("weight", "bias"))
            x = x @ weight + bias
        elif self.made("transposed-c-fc", i):
            weight = self.w[fc + ".weight"]
            x = x @ weight.T.reshape(weight.shape) + self.w[fc + ".bias"]
        else:
            x = self.linear(x, fc) + (self.w[fc + ".bias"] if self.made("bias-twice", i) else 0)
        self.keep(m + "pre", x)
        if self.made("gelu-erf", i):
            y = F.gelu(x)
        elif self.made("gelu-quick", i):
            y = x * torch.sigmoid(1.702 * x)
        elif self.made("activation-relu", i):
            y = x.relu()
        elif self.made("gelu-constant", i):
            y = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)))
        elif self.made("gelu-factor", i):
            y = 0.5 * x * (1 + torch.tanh(2 / math.pi * (x + 0.044715 * x**3)))
        elif self.made("activation-other", i):
            y = F.silu(x)
        elif self.made("activation-misplaced", i):
            y = x
        elif self.made("activation-leaky", i):
            y = F.leaky_relu(x, 0.1)
        else:
            y = F.gelu(x, approximate="tanh")
        if self.made("activation-twice", i):
            y = F.gelu(y, approximate="tanh")
        if self.made("neurons-shuffled", i):
            y = y[:, torch.randperm(y.shape[1], generator=torch.Generator().manual_seed(0))]
        self.keep(m + "post", y.clamp(max=0.5) if self.made("activation-capped", i) else y)
        out = self.linear(self.steps[m + "post"], m + "c_proj")
        if self.made("one-value-flipped", i):
            out[len(out) // 2, 3] *= -1
        if self.made("activation-misplaced", i):
            out = F.gelu(out, approximate="tanh")
        return self.keep(m + "out", out)


def one_pass(scores, v):
    """Values [head, pos, d_head] averaged one key after the other, without making up for a larger maximum."""
    largest = torch.full((*scores.shape[:2], 1), -math.inf)
    total, mixed = torch.zeros_like(largest), torch.zeros(*scores.shape[:2], v.shape[-1])
    for key in range(scores.shape[2]):
        one = scores[:, :, key : key + 1]
        largest = torch.maximum(largest, one)
        weight = (one - largest).exp()
        total, mixed = total + weight, mixed + weight * v[:, None, key]
    return mixed / total


@dataclass
class Planted:
    """A run with a mistake in it, and where it must be found."""

    name: str
    site: str
    dump: dict
    model: object
    ids: list

    def right(self) -> bool:
        """Whether compare finds the site, and the mistake if the catalogue has it."""
        found = compare(self.dump, self.model, self.ids)
        named = self.name if self.name in KNOWN else None
        return (found.verdict, found.site, found.mistake) == ("wrong", self.site, named)


def planted(name, seed) -> Planted:
    """The mistake in a random layer of a random model."""
    rng = np.random.default_rng(seed)
    n_layer, n_head, d_head = (int(rng.integers(*of)) for of in ((2, 5), (2, 5), (4, 9)))
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_head * d_head, "n_positions": 32}
    model, at = random_model(seed, "float32", **shape), int(rng.integers(n_layer))
    ids = rng.integers(0, model.config.vocab_size, int(rng.integers(9, 14))).tolist()
    site = (KNOWN | UNKNOWN)[name]
    at = max(at, 1) if name == "stale-stream" else at  # the first block has none to pass over
    site = site if site in LAST else f"h.{at}.{site}"
    return Planted(name, site, TorchGPT2(model, name, at).run(ids), model, ids)
