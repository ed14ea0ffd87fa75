"""Lesson 7, solved: the model is `forward` and its five helpers."""

import numpy as np


def layer_norm(x, weights, name, epsilon):
    """Each row with mean 0 and variance 1, then scaled and shifted."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    """A matrix and a bias."""
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    """The tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    """Rows that sum to 1."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x, weights, h, config, cache, steps):
    """What the heads bring home from this position and those before it."""
    qkv = steps[f"{h}.attn.qkv"] = linear(x, weights, f"{h}.attn.c_attn")
    heads = (len(x), config.n_head, config.d_head)
    q, k, v = (part.reshape(heads) for part in np.split(qkv, 3, axis=-1))  # [pos, head, d_head]
    if h in cache:
        k, v = (np.concatenate(pair) for pair in zip(cache[h], (k, v), strict=True))
    cache[h] = k, v
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(config.d_head)
    future = np.triu(np.ones(scores.shape[1:], bool), k=1 + len(k) - len(q))
    scores = steps[f"{h}.attn.scores"] = np.where(future, -np.inf, scores)
    pattern = steps[f"{h}.attn.pattern"] = softmax(scores)
    z = steps[f"{h}.attn.z"] = np.einsum("hqk,khd->qhd", pattern, v)
    out = steps[f"{h}.attn.out"] = linear(z.reshape(len(x), -1), weights, f"{h}.attn.c_proj")
    return out


def forward(weights, config, ids, cache):
    """The steps of new tokens; those that came before are in the cache."""
    steps, epsilon = {}, config.layer_norm_epsilon
    start = cache.get("length", 0)
    cache["length"] = start + len(ids)
    x = weights["wte.weight"][ids] + weights["wpe.weight"][start : start + len(ids)]
    steps["embed"] = x
    for h in (f"h.{layer}" for layer in range(config.n_layer)):
        y = steps[f"{h}.ln_1"] = layer_norm(x, weights, f"{h}.ln_1", epsilon)
        x = steps[f"{h}.resid_mid"] = x + attention(y, weights, h, config, cache, steps)
        y = steps[f"{h}.ln_2"] = layer_norm(x, weights, f"{h}.ln_2", epsilon)
        y = steps[f"{h}.mlp.pre"] = linear(y, weights, f"{h}.mlp.c_fc")
        y = steps[f"{h}.mlp.post"] = gelu(y)
        y = steps[f"{h}.mlp.out"] = linear(y, weights, f"{h}.mlp.c_proj")
        x = steps[f"{h}.resid_post"] = x + y
    y = steps["ln_f"] = layer_norm(x, weights, "ln_f", epsilon)
    steps["logits"] = y @ weights["wte.weight"].T
    return steps


def run(weights, config, ids):
    """All steps of a text, by name."""
    return forward(weights, config, ids, {})


def extend(weights, config, ids, cache):
    """The steps of new tokens."""
    return forward(weights, config, ids, cache)


def first_wrong(theirs, truth, bands):
    """The name of the first step that is wrong, or None."""
    for name in truth:
        if name not in theirs:
            continue
        same = theirs[name] == truth[name]  # two infinities, too
        error = np.where(same, 0.0, np.abs(theirs[name] - np.where(same, 0.0, truth[name])))
        if not (error <= bands[name]).all():  # so that NaN is wrong, too
            return name
    return None


def answers():
    """The mistakes of dumps 0 to 9."""
    return [
        *("scores-scaled-by-d-head", "gelu-erf", "missing-bias", "position-off-by-one", "qkv-kv-swapped"),
        *("wrong-residual-branch", "layernorm-ddof1", "mask-off-by-one", "heads-merged-untransposed"),
        "stale-cache-row",
    ]
