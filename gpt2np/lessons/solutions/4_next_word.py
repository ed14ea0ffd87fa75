"""Lesson 4, solved."""

import numpy as np


def logits(x, ln_f, wte):
    """[pos, vocab]: the last LayerNorm, then a dot product with each token's vector."""
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + ln_f.epsilon)
    return (centred / spread * ln_f.weight + ln_f.bias) @ wte.T


def filtered(logits, temperature, top_k, top_p):
    """[vocab], adding up to 1: the shares that a token is drawn from."""
    scaled = logits / temperature
    order = np.argsort(-scaled)[:top_k]  # the likeliest first
    e = np.exp(scaled[order] - scaled[order[0]])
    reached = np.cumsum(e / e.sum())
    n = int(np.sum(reached < top_p)) + 1
    shares = np.zeros(len(logits))
    shares[order[:n]] = e[:n] / e[:n].sum()
    return shares


def normed(x, ln):
    """LayerNorm of one vector."""
    return (x - x.mean()) / np.sqrt(x.var() + ln.epsilon) * ln.weight + ln.bias


def query_key_value(x, block, n_head):
    """Of one vector of the stream [n_embd]: q, k, v, each [head, d_head]."""
    qkv = normed(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
    return qkv.reshape(3, n_head, -1)


def attention(q, keys, values, block):
    """What one query [head, d_head] gathers from keys and values [key, head, d_head]: [n_embd]."""
    e = np.exp(np.einsum("hd,khd->hk", q, keys) / np.sqrt(q.shape[-1]))
    z = np.einsum("hk,khd->hd", e / e.sum(axis=1, keepdims=True), values)
    return z.ravel() @ block.attn.c_proj.weight + block.attn.c_proj.bias


def mlp(x, block):
    """What the MLP adds to one vector of the stream: [n_embd]."""
    x = normed(x, block.ln_2) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ block.mlp.c_proj.weight + block.mlp.c_proj.bias


def step(token, position, cache, model):
    """[vocab]: the logits after one token, whose keys and values are added to the cache."""
    parameters = model.parameters
    x = parameters.wte[token] + parameters.wpe[position]
    for layer, block in enumerate(parameters.h):
        past = cache[layer]
        q, k, v = query_key_value(x, block, model.config.n_head)
        past["k"] = np.concatenate([past["k"], [k]])
        past["v"] = np.concatenate([past["v"], [v]])
        x = x + attention(q, past["k"], past["v"], block)
        x = x + mlp(x, block)
    return normed(x, parameters.ln_f) @ parameters.wte.T
