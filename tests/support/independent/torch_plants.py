"""Mistakes made in the source of `torch_gpt2.py`: each gives the methods that it replaces, and with what.

`table.txt` says of each where it must show and what it is called. `g` is the program, before the mistake.
"""

import math

import torch
from torch.nn import functional as F


def _positions(change):
    return lambda g: {"places": lambda p, f=g.places: f(change(p))}


EMBEDDING = {
    "arange(1, n + 1)": _positions(lambda p: p + 1),
    "positions beginning at 2": _positions(lambda p: p + 2),
    "one position for all": _positions(torch.zeros_like),
    "positions flipped": _positions(lambda p: p.flip(0)),
    "no places": lambda g: {"input": lambda t, p: t},
    "places scaled": lambda g: {"places": lambda p, f=g.places: f(p) * math.sqrt(f(p).shape[-1])},
    "tokens scaled": lambda g: {"lookup": lambda t, f=g.lookup: f(t) * math.sqrt(f(t).shape[-1])},
    "sum scaled": lambda g: {"input": lambda t, p: (t + p) * math.sqrt(t.shape[-1])},
    "embedding layer norm": lambda g: {"input": lambda t, p: F.layer_norm(t + p, t.shape[-1:])},
    "token types added": lambda g: {"input": lambda t, p: t + p + g.state["wte.weight"][1]},
    "padding token zeroed": lambda g: {"lookup": lambda t, f=g.lookup: f(t) * (t != t[0, 2])[..., None]},
    "two tokens exchanged": lambda g: {"token_ids": lambda t: t[:, [1, 0, *range(2, t.shape[1])]]},
    "tokens to the left by one": lambda g: {"token_ids": lambda t: t.roll(-1, 1)},
    "token 0 in front": lambda g: {"token_ids": lambda t: F.pad(t, (1, 0))},
    "first three tokens cut off": lambda g: {"token_ids": lambda t: t[:, 3:]},
    "embedding dropout": lambda g: {"input": lambda t, p: _dropout(t + p, 0.2)},
    "places in bfloat16": lambda g: {"places": lambda p, f=g.places: f(p).bfloat16().to(g.dtype)},
}


def _dropout(x, p):
    torch.manual_seed(5)
    return F.dropout(x, p)


# -- norms --------------------------------------------------------------------------------------------------


def _next_layer(g, name):
    return g.state[f"h.{(g.layer + 1) % g.depth}.{name}"]


def _standard(how):
    return lambda g: {"standard": lambda x: how(x, g.epsilon)}


def _centred(x):
    return x - x.mean(-1, keepdim=True)


NORMS = {
    "x.var()": _standard(lambda x, eps: _centred(x) / (x.var(-1, keepdim=True) + eps).sqrt()),
    "x.std()": _standard(lambda x, eps: _centred(x) / (x.std(-1, keepdim=True) + eps)),
    "eps outside": _standard(lambda x, eps: _centred(x) / (x.std(-1, correction=0, keepdim=True) + eps)),
    "eps 1e-12": _standard(lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=1e-12)),
    "eps 1e-2": _standard(lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=1e-2)),
    "eps subtracted": _standard(
        lambda x, eps: _centred(x) * torch.rsqrt(_centred(x).square().mean(-1, keepdim=True) - eps)
    ),
    "rms_norm": _standard(lambda x, eps: F.rms_norm(x, x.shape[-1:], eps=eps)),
    "mean kept in the numerator": _standard(
        lambda x, eps: x * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + eps)
    ),
    "mean kept in the variance": _standard(
        lambda x, eps: _centred(x) * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    ),
    "over var, without root": _standard(
        lambda x, eps: _centred(x) / (x.var(-1, unbiased=False, keepdim=True) + eps)
    ),
    "sum of squares": _standard(lambda x, eps: F.normalize(_centred(x), dim=-1)),
    "centred only": _standard(lambda x, eps: _centred(x)),
    "over the sequence": _standard(
        lambda x, eps: (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + eps).sqrt()
    ),
    "over sequence and width": _standard(lambda x, eps: F.layer_norm(x, x.shape[1:], eps=eps)),
    "in groups of heads": lambda g: {
        "standard": lambda x: F.layer_norm(
            h := x.unflatten(-1, (g.heads, -1)), h.shape[-1:], eps=g.epsilon
        ).flatten(-2)
    },
    "elementwise_affine=False": lambda g: {"affine_norm": lambda x, n: x},
    "bias=False in norms": lambda g: {"affine_norm": lambda x, n: x * g.w(n + ".weight")},
    "bias twice in norms": lambda g: {
        "affine_norm": lambda x, n: x * g.w(n + ".weight") + 2 * g.w(n + ".bias")
    },
    "weight and bias exchanged": lambda g: {
        "affine_norm": lambda x, n: x * g.w(n + ".bias") + g.w(n + ".weight")
    },
    "1 + weight": lambda g: {"affine_norm": lambda x, n: x * (1 + g.w(n + ".weight")) + g.w(n + ".bias")},
    "ln_1 for ln_2": lambda g: {"affine_norm": lambda x, n, f=g.affine_norm: f(x, "ln_1")},
    "norm of another layer": lambda g: {
        "affine_norm": lambda x, n: x * _next_layer(g, n + ".weight") + _next_layer(g, n + ".bias")
    },
    "attention reads the stream": lambda g: {"pre": lambda x: x},
    "attention reads the stream, norm hooked": lambda g: {
        "attend": _on_the_stream(g),
        "given": _remembered(g),
    },
    "no closing norm": lambda g: {"closing": lambda x: x},
    "closing norm twice": lambda g: {
        "vocabulary": lambda x, f=g.vocabulary, c=g.closing: f(_quietly(g, c, x))
    },
    "unembedding reads the stream": lambda g: _past_closing(g),
}


def _remembered(g):
    def given(x):
        g.stream = x
        return x

    return given


def _on_the_stream(g):
    right = g.attend
    return lambda a: right(g.stream)


def _quietly(g, method, x):
    kept = dict(g.kept)
    y = method(x)
    g.kept = kept
    return y


def _past_closing(g):
    closing, vocabulary = g.closing, g.vocabulary

    def remembering(x):
        g.stream = x
        return closing(x)

    return {"closing": remembering, "vocabulary": lambda x: vocabulary(g.stream)}


# -- products -----------------------------------------------------------------------------------------------


def _matrix(name, change):
    return lambda g: {"matrix": lambda n, f=g.matrix: change(f(n)) if n == name else f(n)}


def _bias(name, change):
    return lambda g: {"bias": lambda n, f=g.bias: change(f(n)) if n == name else f(n)}


def _reread(m):
    """The numbers of the file in the shape that the module has: not transposed at load."""
    return m.mT.reshape(m.shape)


PRODUCTS = {
    "q not transposed": _matrix("attn.q", lambda m: m.mT),
    "q, k and v not transposed": lambda g: {
        "matrix": lambda n, f=g.matrix: f(n).mT if n in ("attn.q", "attn.k", "attn.v") else f(n)
    },
    "out projection not transposed": _matrix("attn.c_proj", lambda m: m.mT),
    "c_fc loaded by reshape": _matrix("mlp.c_fc", _reread),
    "c_proj loaded by reshape": _matrix("mlp.c_proj", _reread),
    "q bias missing": _bias("attn.q", torch.zeros_like),
    "all qkv biases missing": lambda g: {
        "bias": lambda n, f=g.bias: None if n in ("attn.q", "attn.k", "attn.v") else f(n)
    },
    "out bias missing": _bias("attn.c_proj", torch.zeros_like),
    "out bias once a head": lambda g: {
        "bias": lambda n, f=g.bias: g.heads * f(n) if n == "attn.c_proj" else f(n)
    },
    "out bias twice": _bias("attn.c_proj", lambda b: 2 * b),
    "wide bias missing": _bias("mlp.c_fc", torch.zeros_like),
    "narrow bias missing": _bias("mlp.c_proj", torch.zeros_like),
    "wide in half precision": _matrix("mlp.c_fc", lambda m: m.half().to(m.dtype)),
    "out in bfloat16": _matrix("attn.c_proj", lambda m: m.bfloat16().to(m.dtype)),
    "wide with 10 percent pruned": _matrix(
        "mlp.c_fc", lambda m: torch.where(m.abs() < m.abs().flatten().quantile(0.1), 0, m)
    ),
    "narrow of the next layer": lambda g: {
        "linear": lambda x, n, f=g.linear: (
            F.linear(x, _next_layer(g, n + ".weight"), _next_layer(g, n + ".bias"))
            if n == "mlp.c_proj"
            else f(x, n)
        )
    },
    "queries of layer 0 everywhere": lambda g: {
        "query": lambda a: g.split(F.linear(a, g.state["h.0.attn.q.weight"], g.state["h.0.attn.q.bias"]))
    },
}

# -- attention ----------------------------------------------------------------------------------------------


def _masked(value):
    return lambda g: {"nothing": lambda: value}


def _future(change):
    return lambda g: {"future": change}


def _all(n):
    return torch.ones(n, n, dtype=torch.bool)


ATTENTION = {
    "keys are the queries": lambda g: {"key": g.query},
    "values are the keys": lambda g: {"value": g.key},
    "keys and values exchanged": lambda g: {"key": g.value, "value": g.key},
    "queries and keys exchanged": lambda g: {"query": g.key, "key": g.query},
    "view without transpose": lambda g: {"split": lambda x: x.view(len(x), g.heads, x.shape[1], -1)},
    "d before heads": lambda g: {"split": lambda x: x.unflatten(-1, (-1, g.heads)).permute(0, 3, 1, 2)},
    "heads in reverse": lambda g: {"context": lambda alpha, v: (alpha @ v).flip(1)},
    "heads moved by one": lambda g: {"context": lambda alpha, v: (alpha @ v).roll(1, 1)},
    "flatten without transpose": lambda g: {"joined": lambda c: c.reshape(len(c), c.shape[2], -1)},
    "joined by d": lambda g: {"joined": lambda c: c.permute(0, 2, 3, 1).flatten(2)},
    "no divisor": lambda g: {"divisor": lambda q: 1.0},
    "divided by d": lambda g: {"divisor": lambda q: q.shape[-1]},
    "divided by the root of width": lambda g: {"divisor": lambda q: math.sqrt(q.shape[-1] * g.heads)},
    "divided by the root of heads": lambda g: {"divisor": lambda q: math.sqrt(q.shape[1])},
    "divided by the root of length": lambda g: {"divisor": lambda q: math.sqrt(q.shape[2])},
    "multiplied by the root": lambda g: {"divisor": lambda q: q.shape[-1] ** -0.5},
    "divided by layer too": lambda g: {"divisor": lambda q, f=g.divisor: f(q) * (g.layer + 1)},
    "queries divided as well": lambda g: {
        "energy": lambda q, k, f=g.energy: f(q / math.sqrt(q.shape[-1]), k)
    },
    "half the width": lambda g: {"divisor": lambda q: math.sqrt(q.shape[-1] / 2)},
    "cosines": lambda g: {"energy": lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT},
    "is_causal=False": _future(lambda n: ~_all(n)),
    "triu(2)": _future(lambda n: _all(n).triu(2)),
    "triu(0), finite": lambda g: {"future": lambda n: _all(n).triu(0), "nothing": lambda: -1e9},
    "tril instead of triu": _future(lambda n: _all(n).tril(-1)),
    "mask inverted": lambda g: {"future": lambda n: _all(n).tril(0), "nothing": lambda: -1e9},
    "mask from the other end": _future(lambda n: _all(n).triu(1).flip(1) & ~torch.eye(n, dtype=torch.bool)),
    "masked with 0": _masked(0.0),
    "masked with -1": _masked(-1.0),
    "masked with 1e-9": _masked(1e-9),
    "masked with +1e4": _masked(1e4),
    "masked after softmax": lambda g: {
        "mask": lambda e: e,
        "alpha": lambda e: e.softmax(-1).masked_fill(g.future(e.shape[-1]), 0),
    },
    "softmax(dim=-2)": lambda g: {
        "nothing": lambda: torch.finfo(g.dtype).min,
        "alpha": lambda e: e.softmax(-2),
    },
    "softmax(dim=1)": lambda g: {
        "nothing": lambda: torch.finfo(g.dtype).min,
        "alpha": lambda e: e.softmax(1),
    },
    "sigmoid for softmax": lambda g: {"alpha": lambda e: e.sigmoid()},
    "softmax twice": lambda g: {"alpha": lambda e: e.softmax(-1).softmax(-1)},
    "log_softmax": lambda g: {"alpha": lambda e: e.log_softmax(-1).clamp(min=-1e4)},
    "one more in the sum": lambda g: {"alpha": lambda e: F.pad(e, (1, 0)).softmax(-1)[..., 1:]},
    "only the largest": lambda g: {"alpha": lambda e: F.one_hot(e.argmax(-1), e.shape[-1]).to(e.dtype)},
    "scores capped": lambda g: {"energy": lambda q, k, f=g.energy: torch.tanh(f(q, k))},
    "alpha.mT": lambda g: {"context": lambda alpha, v: alpha.mT @ v},
    "alpha averaged over heads": lambda g: {"context": lambda alpha, v: alpha.mean(1, keepdim=True) @ v},
    "dropout on alpha": lambda g: {"alpha": lambda e: _dropout(e.softmax(-1), 0.3)},
    "dropout on the projection": lambda g: {"attend": lambda a, f=g.attend: _dropout(f(a), 0.3)},
    "one head is zero": lambda g: {
        "context": lambda alpha, v: torch.cat([(alpha @ v)[:, :-1], 0 * v[:, -1:]], 1)
    },
    "rotary positions": lambda g: {"energy": lambda q, k, f=g.energy: f(_rotated(q), _rotated(k))},
    "values not weighted": lambda g: {"context": lambda alpha, v: v},
    "values of one layer for all": lambda g: {
        "value": lambda a, f=g.value: g.__dict__.setdefault("shared", f(a))
    },
    "keys and values of one layer for all": lambda g: {
        "key": lambda a, f=g.key: g.__dict__.setdefault("keys", f(a)),
        "value": lambda a, f=g.value: g.__dict__.setdefault("values", f(a)),
    },
}


def _rotated(x):
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] / 100 ** (torch.arange(half) / half)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], -1)


# -- mlp, residuals, layers, the end ------------------------------------------------------------------------


def _bend(how):
    return lambda g: {"bend": how}


def _tanh_gelu(inner, cube):
    return lambda x: 0.5 * x * (1 + torch.tanh(inner * (x + cube * x**3)))


def _order(change):
    return lambda g: {"order": lambda: change(list(range(g.depth)))}


def _in_place(g):
    def unit(x):
        a = g.keep("/pre", g.pre(x))
        y = g.keep("/att/projected", g.attend(a))
        a += y
        m = g.keep("/between", a)
        b = g.keep("/second", g.second(m))
        return m + g.keep("/ff/narrow", g.ff(b))

    return {"unit": unit}


def _sandwich(g):
    """Pre-norm, and the same norm once more on what the part gives."""

    def unit(x):
        a = g.keep("/pre", g.pre(x))
        y = g.keep("/att/projected", g.attend(a))
        m = g.keep("/between", x + _quietly(g, g.pre, y))
        b = g.keep("/second", g.second(m))
        return m + _quietly(g, g.second, g.keep("/ff/narrow", g.ff(b)))

    return {"unit": unit}


def _parallel(g):
    def unit(x):
        y = g.keep("/att/projected", g.attend(g.keep("/pre", g.pre(x))))
        m = g.keep("/between", x + y)
        return m + g.keep("/ff/narrow", g.ff(g.keep("/second", g.second(x))))

    return {"unit": unit}


def _post_norm(g):
    def unit(x):
        m = g.keep("/pre", g.pre(x + g.keep("/att/projected", g.attend(x))))
        g.keep("/between", m)
        return g.keep("/second", g.second(m + g.keep("/ff/narrow", g.ff(m))))

    return {"unit": unit}


def _mlp_first(g):
    def unit(x):
        b = g.keep("/second", g.second(x))
        m = x + g.keep("/ff/narrow", g.ff(b))
        y = g.keep("/att/projected", g.attend(g.keep("/pre", g.pre(m))))
        return g.keep("/between", m + y)

    return {"unit": unit}


MLP = {
    "nn.GELU()": _bend(F.gelu),
    "QuickGELU": _bend(lambda x: x * torch.sigmoid(1.702 * x)),
    "sigmoid of 1.7 x": _bend(lambda x: x * torch.sigmoid(1.7 * x)),
    "nn.ReLU()": _bend(torch.relu),
    "nn.SiLU()": _bend(F.silu),
    "nn.Tanh()": _bend(torch.tanh),
    "nn.Identity()": _bend(lambda x: x.clone()),
    "nn.ELU()": _bend(F.elu),
    "sqrt(pi / 2)": _bend(_tanh_gelu(math.sqrt(math.pi / 2), 0.044715)),
    "cube of 0.44715": _bend(_tanh_gelu(math.sqrt(2 / math.pi), 0.44715)),
    "cube of 0.04715": _bend(_tanh_gelu(math.sqrt(2 / math.pi), 0.04715)),
    "no half": _bend(lambda x: 2 * F.gelu(x, approximate="tanh")),
    "without x in front": _bend(
        lambda x: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "activation before the bias": lambda g: {
        "bend": lambda x, f=g.bend: f(x - g.bias("mlp.c_fc")) + g.bias("mlp.c_fc")
    },
    "gated": lambda g: {"bend": lambda x, f=g.bend: f(x) * x.sigmoid()},
    "clamped at 1": lambda g: {"bend": lambda x, f=g.bend: f(x).clamp(max=1)},
    "dropout on the narrow": lambda g: {"ff": lambda b, f=g.ff: _dropout(f(b), 0.2)},
}

RESIDUALS = {
    "attention without residual": lambda g: {"after_attention": lambda x, n, y: y.clone()},
    "ff without residual": lambda g: {"after_ff": lambda x, n, y: y.clone()},
    "residual is the norm's output": lambda g: {"after_attention": lambda x, n, y: n + y},
    "ff's residual is the norm's output": lambda g: {"after_ff": lambda x, n, y: n + y},
    "residual added in place": _in_place,
    "both parts read x": _parallel,
    "original transformer": _post_norm,
    "norm once more behind": _sandwich,
    "ff before attention": _mlp_first,
    "attention added twice": lambda g: {"after_attention": lambda x, n, y: x + 2 * y},
    "residual halved": lambda g: {"after_ff": lambda x, n, y: 0.5 * x + y},
    "attention over depth": lambda g: {"after_attention": lambda x, n, y: x + y / math.sqrt(2 * g.depth)},
}

LAYERS = {
    "reversed(layers)": _order(lambda layers: layers[::-1]),
    "layers[:-1]": _order(lambda layers: layers[:-1]),
    "layers[1:]": _order(lambda layers: layers[1:]),
    "layers 1 and 2 exchanged": _order(lambda layers: [0, 2, 1, *layers[3:]]),
    "x not passed on": lambda g: {"given": lambda x: g.first},
    "layer 0's weights in every layer": lambda g: {"w": lambda n: g.state[f"h.0.{n}"]},
}

END = {
    "head not tied": lambda g: {
        "vocabulary": lambda x: (
            x
            @ torch.randn(
                *g.state["wte.weight"].shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype
            ).mT
            / 2
        )
    },
    "wte for the head": lambda g: {"vocabulary": lambda x: F.linear(x, g.state["wte.weight"])},
    "logits soft-capped": lambda g: {"vocabulary": lambda x, f=g.vocabulary: 5 * torch.tanh(f(x) / 5)},
    "temperature left at 0.7": lambda g: {"vocabulary": lambda x, f=g.vocabulary: f(x) / 0.7},
    "logits one row late": lambda g: {
        "dumped": lambda n, t: t.roll(1, 1) if n.endswith(("vocabulary", "chances")) else t
    },
    "chances over positions": lambda g: {"chances": lambda logits: logits.softmax(1)},
    "chances as logarithms": lambda g: {"chances": lambda logits: logits.log_softmax(-1)},
    "vocabulary reversed": lambda g: {"vocabulary": lambda x, f=g.vocabulary: f(x).flip(-1)},
}

PLANTS = EMBEDDING | NORMS | PRODUCTS | ATTENTION | MLP | RESIDUALS | LAYERS | END
