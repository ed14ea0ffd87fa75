"""Mistakes made in the source of `numpy_gpt2.py`: each gives the methods that it replaces, and with what.

`table.txt` says of each where it must show and what it is called. `g` is the program, before the mistake.
"""

import numpy as np


def _softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _gelu(outer=0.5, inner=0.7978845608028654, cube=0.044715, power=3, one=1.0):
    """GELU's approximation with other constants."""
    return lambda x: (outer * x * (one + np.tanh(inner * (x + cube * x**power)))).astype(x.dtype)


def _erf(x):
    """Abramowitz and Stegun 7.1.26 would be too coarse: a series, good to 1e-12 for |x| < 6."""
    x = np.clip(x.astype(np.float64), -6, 6)
    total, term = x.copy(), x.copy()
    for n in range(1, 120):
        term = -term * x * x / n
        total += term / (2 * n + 1)
    return 2 / np.sqrt(np.pi) * total


def _rounded(a, bits):
    """The nearest number with so many bits cut off: 16 gives bfloat16."""
    whole = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    half = (1 << (bits - 1)) - 1
    whole = whole + half + ((whole >> bits) & 1)
    return (whole >> bits << bits).astype(np.uint32).view(np.float32).astype(a.dtype)


# -- the beginning ------------------------------------------------------------------------------------------

EMBEDDING = {
    "counting from one": lambda g: {"positions": lambda start, n: np.arange(start + 1, start + n + 1)},
    "np.arange(n)[::-1]": lambda g: {"positions": lambda start, n: np.arange(start, start + n)[::-1]},
    "sqrt(width) on wpe": lambda g: {"position_rows": lambda p: g.p["wpe.weight"][p] * g.dtype(g.width**0.5)},
    "wpe forgotten": lambda g: {"together": lambda t, p: t},
    "sqrt(width) on wte": lambda g: {
        "token_rows": lambda ids: g.p["wte.weight"][ids] * g.dtype(g.width**0.5)
    },
    "every token at position n_head": lambda g: {"positions": lambda start, n: np.full(n, g.heads)},
    "ids[::-1]": lambda g: {"token_ids": lambda ids: list(ids)[::-1]},
    "vocabulary begins at 1": lambda g: {
        "token_ids": lambda ids: [(i + 1) % len(g.p["wte.weight"]) for i in ids]
    },
    "a token type row added": lambda g: {"together": lambda t, p: t + p + g.p["wte.weight"][0]},
    "embeddings multiplied": lambda g: {"together": lambda t, p: t * p},
    "embeddings averaged": lambda g: {"together": lambda t, p: (t + p) / 2},
    "sinusoids": lambda g: {
        "position_rows": lambda p: np.sin(p[:, None] / 10000 ** (np.arange(g.width) / g.width)).astype(
            g.dtype
        )
    },
    "row p without stride": lambda g: {
        "position_rows": lambda p: np.stack([g.p["wpe.weight"].ravel()[i : i + g.width] for i in p])
    },
    "end token in front": lambda g: {"token_ids": lambda ids: [len(g.p["wte.weight"]) - 1, *ids]},
    "end token in front, its row cut off": lambda g: {
        "token_ids": lambda ids: [len(g.p["wte.weight"]) - 1, *ids],
        "dumped": lambda name, a: a[1:, 1:] if name.startswith(("similarity", "weights")) else a[1:],
    },
}

# -- norms --------------------------------------------------------------------------------------------------


def _norm(divide, centre=lambda x: x - x.mean(-1, keepdims=True)):
    """LayerNorm with another centre or another size."""
    return lambda g: {
        "normalise": lambda x, gain, shift: (centre(x) / divide(x, g.epsilon) * gain + shift).astype(g.dtype)
    }


def _std(x, axis=-1, ddof=0):
    return x.std(axis, keepdims=True, ddof=ddof)


def _into(x, y):
    x[...] = y
    return x


NORMS = {
    "var(ddof=1)": _norm(lambda x, eps: np.sqrt(_std(x, ddof=1) ** 2 + eps)),
    "std + eps": _norm(lambda x, eps: _std(x) + eps),
    "no epsilon": _norm(lambda x, eps: _std(x)),
    "epsilon 1e-3": _norm(lambda x, eps: np.sqrt(_std(x) ** 2 + 1e-3)),
    "root mean square": _norm(lambda x, eps: np.sqrt((x * x).mean(-1, keepdims=True) + eps), lambda x: x),
    "x / std": _norm(lambda x, eps: np.sqrt(_std(x) ** 2 + eps), lambda x: x),
    "variance as mean of x squared": _norm(lambda x, eps: np.sqrt((x * x).mean(-1, keepdims=True) + eps)),
    "divided by the variance": _norm(lambda x, eps: _std(x) ** 2 + eps),
    "over positions": _norm(lambda x, eps: np.sqrt(_std(x, 0) ** 2 + eps), lambda x: x - x.mean(0)),
    "mean absolute deviation": _norm(
        lambda x, eps: np.abs(x - x.mean(-1, keepdims=True)).mean(-1, keepdims=True) + eps
    ),
    "median for the mean": _norm(
        lambda x, eps: np.sqrt(_std(x) ** 2 + eps), lambda x: x - np.median(x, -1, keepdims=True)
    ),
    "gain and shift exchanged": lambda g: {
        "gain": lambda n: g.w(n + ".bias"),
        "shift": lambda n: g.w(n + ".weight"),
    },
    "no gain": lambda g: {"gain": lambda n: g.dtype(1)},
    "neither gain nor shift": lambda g: {"gain": lambda n: g.dtype(1), "shift": lambda n: g.dtype(0)},
    "no shift": lambda g: {"shift": lambda n: g.dtype(0)},
    "one plus gain": lambda g: {"gain": lambda n: 1 + g.w(n + ".weight")},
    "shift before gain": lambda g: {
        "normalise": lambda x, gain, shift: g.__class__.normalise(g, x, 1, shift) * gain
    },
    "ln_1 and ln_2 exchanged": lambda g: {
        "norm": lambda x, n: g.normalise(
            x, *(g.w(f"ln_{3 - int(n[-1])}.{part}") for part in ("weight", "bias"))
        )
    },
    "norms of the next layer": lambda g: {
        "norm": lambda x, n: g.normalise(
            x, *(g.p[f"h.{(g.layer + 1) % g.layers}.{n}.{part}"] for part in ("weight", "bias"))
        )
    },
    "ln_1(ln_1(x))": lambda g: {"norm": lambda x, n, f=g.norm: f(f(x, n), n) if n == "ln_1" else f(x, n)},
    "norm written into its input": lambda g: {"norm": lambda x, n, f=g.norm: _into(x, f(x, n))},
    "ln_2 left out": lambda g: {"norm": lambda x, n, f=g.norm: x if n == "ln_2" else f(x, n)},
    "ln_f left out": lambda g: {"final": lambda x: x},
    "ln_f twice": lambda g: {"final": lambda x, f=g.final: f(f(x))},
    "ln_f of layer 0's ln_1": lambda g: {
        "final": lambda x: g.normalise(x, g.p["h.0.ln_1.weight"], g.p["h.0.ln_1.bias"])
    },
}

# -- products -----------------------------------------------------------------------------------------------


def _matrix(name, change):
    return lambda g: {"matrix": lambda n, f=g.matrix: change(f(n)) if n == name else f(n)}


def _bias(name, change):
    return lambda g: {"bias": lambda n, f=g.bias: change(f(n)) if n == name else f(n)}


def _misread(m):
    """[in, out] in memory taken for [out, in]."""
    return m.ravel().reshape(m.shape[::-1]).T


def _next_layer(g, name):
    return g.p[f"h.{(g.layer + 1) % g.layers}.{name}"]


def _int8(m):
    step = np.abs(m).max() / 127
    return (np.round(m / step) * step).astype(m.dtype)


def _first_row_only(g):
    def affine(x, name):
        y = x @ g.matrix(name)
        y[0] += g.bias(name)
        return y

    return {"affine": lambda x, n, f=g.affine: affine(x, n) if n == "attn.c_attn" else f(x, n)}


PRODUCTS = {
    "c_attn read the other way": _matrix("attn.c_attn", _misread),
    "attention's c_proj transposed": _matrix("attn.c_proj", lambda m: m.T),
    "c_fc read the other way": _matrix("mlp.c_fc", _misread),
    "mlp's c_proj read the other way": _matrix("mlp.c_proj", _misread),
    "no bias in c_attn": _bias("attn.c_attn", np.zeros_like),
    "no bias in attention's c_proj": _bias("attn.c_proj", np.zeros_like),
    "no bias in c_fc": _bias("mlp.c_fc", np.zeros_like),
    "no bias in mlp's c_proj": _bias("mlp.c_proj", np.zeros_like),
    "bias of c_fc twice": _bias("mlp.c_fc", lambda b: b + b),
    "bias subtracted": _bias("mlp.c_proj", lambda b: -b),
    "bias in the first row only": _first_row_only,
    "c_fc in bfloat16": _matrix("mlp.c_fc", lambda m: _rounded(m, 16)),
    "c_proj in float16": _matrix("attn.c_proj", lambda m: m.astype(np.float16).astype(m.dtype)),
    "c_proj in 8 bits": _matrix("mlp.c_proj", _int8),
    "c_fc of the next layer": lambda g: {
        "affine": lambda x, n, f=g.affine: (
            x @ _next_layer(g, n + ".weight") + _next_layer(g, n + ".bias") if n == "mlp.c_fc" else f(x, n)
        )
    },
    "weights of layer 0 everywhere": lambda g: {"w": lambda n: g.p[f"h.0.{n}"]},
}

# -- attention ----------------------------------------------------------------------------------------------


def _cut(how):
    return lambda g: {"cut": lambda fused: how(g, fused)}


def _thirds(order):
    """The thirds of the fused product in another order."""
    return _cut(lambda g, f: [np.split(f, 3, 1)[i].reshape(len(f), g.heads, -1) for i in order])


def _hidden(rule):
    """Another mask: `rule` of key, query and the first query's position."""
    return lambda g: {
        "hidden": lambda n, known, start: rule(np.arange(known), start + np.arange(n)[:, None], start)[
            ..., None
        ]
    }


def _multiplied(g):
    return {"masked": lambda s, hidden: np.where(hidden, 0, s).astype(s.dtype)}


def _value(value):
    return lambda g: {"masked": lambda s, hidden: np.where(hidden, g.dtype(value), s)}


def _own_not_seen(empty):
    """The mask hides the query's own position; what the first query, which then sees nothing, gets."""

    def shares(g, s, start):
        hidden = (np.arange(s.shape[1]) >= start + np.arange(len(s))[:, None])[..., None]
        if empty == "uniform":
            return g.softmax(np.where(hidden, g.dtype(-1e10), s))
        e = np.where(hidden, 0, np.exp(s - s.max(1, keepdims=True)))
        return e / np.maximum(e.sum(1, keepdims=True), np.finfo(s.dtype).tiny)

    return lambda g: {"shares": lambda s, start: shares(g, s, start)}


def _sink(g):
    def softmax(x):
        top = np.maximum(x.max(1, keepdims=True), 0)
        e = np.exp(x - top)
        return e / (np.exp(-top) + e.sum(1, keepdims=True))

    return {"softmax": softmax}


ATTENTION = {
    "k, q, v": _thirds((1, 0, 2)),
    "q, v, k": _thirds((0, 2, 1)),
    "v, k, q": _thirds((2, 1, 0)),
    "K = Q": _thirds((0, 0, 2)),
    "V = K": _thirds((0, 1, 1)),
    "heads before thirds": _cut(lambda g, f: f.reshape(len(f), g.heads, 3, -1).transpose(2, 0, 1, 3)),
    "heads last": _cut(lambda g, f: f.reshape(len(f), 3, -1, g.heads).transpose(1, 0, 3, 2)),
    "q, k, v in turns": _cut(lambda g, f: f.reshape(len(f), g.heads, -1, 3).transpose(3, 0, 1, 2)),
    "cut without moving the heads": _cut(
        lambda g, f: [t.reshape(g.heads, len(f), -1).transpose(1, 0, 2) for t in np.split(f, 3, 1)]
    ),
    "keys begin one column late": _cut(
        lambda g, f: [
            np.roll(t, -(i == 1), 1).reshape(len(f), g.heads, -1) for i, t in enumerate(np.split(f, 3, 1))
        ]
    ),
    "all heads read head 0's keys and values": lambda g: {
        "cut": lambda f, own=g.cut: [
            x if i == 0 else np.repeat(x[:, :1], g.heads, 1) for i, x in enumerate(own(f))
        ]
    },
    "unscaled": lambda g: {"scale": lambda d: 1.0},
    "over sqrt(width)": lambda g: {"scale": lambda d: g.width**-0.5},
    "over d": lambda g: {"scale": lambda d: 1 / d},
    "over sqrt(heads)": lambda g: {"scale": lambda d: g.heads**-0.5},
    "over sqrt(tokens)": lambda g: {"scale": lambda d: g.known**-0.5},
    "times sqrt(d)": lambda g: {"scale": lambda d: d**0.5},
    "over sqrt(3 width)": lambda g: {"scale": lambda d: (3 * g.width) ** -0.5},
    "over the fourth root of d": lambda g: {"scale": lambda d: d**-0.25},
    "no mask": _hidden(lambda key, query, start: (key > query) & False),
    "next token seen": _hidden(lambda key, query, start: key > query + 1),
    "own token not seen, -1e10": _own_not_seen("uniform"),
    "own token not seen, empty row 0": _own_not_seen("zero"),
    "mask upside down": _hidden(lambda key, query, start: key < query),
    "sign of the mask lost": _value(1e4),
    "mask of -1": _value(-1.0),
    "mask of -10": _value(-10.0),
    "scores times the mask": _multiplied,
    "mask after softmax": lambda g: {
        "shares": lambda s, start: np.where(g.hidden(len(s), s.shape[1], start), 0, g.softmax(s)).astype(
            s.dtype
        )
    },
    "first token never seen": _hidden(lambda key, query, start: (key > query) | ((key == 0) & (query > 0))),
    "window of 3": _hidden(lambda key, query, start: (key > query) | (key <= query - 3)),
    "softmax over queries": lambda g: {
        "softmax": lambda x: _softmax(np.maximum(x, -1e30), 0).astype(x.dtype)
    },
    "softmax over heads": lambda g: {
        "shares": lambda s, start: _softmax(
            np.where(g.hidden(len(s), s.shape[1], start), g.dtype(-1e30), s), 2
        )
    },
    "softmax sums from 1": _sink,
    "powers of 2": lambda g: {"softmax": lambda x, f=g.softmax: f(x * g.dtype(np.log(2)))},
    "exponentials not divided": lambda g: {"softmax": lambda x: np.exp(x - x.max(1, keepdims=True))},
    "pattern transposed": lambda g: {"gather": lambda p, v, f=g.gather: f(p.transpose(1, 0, 2), v)},
    "heads reversed": lambda g: {"gather": lambda p, v, f=g.gather: f(p, v)[:, ::-1]},
    "merged by d": lambda g: {"merge": lambda z: z.transpose(0, 2, 1).reshape(len(z), -1)},
    "merged with heads in front": lambda g: {"merge": lambda z: z.transpose(1, 0, 2).reshape(len(z), -1)},
    "last key left out": lambda g: {"gather": lambda p, v, f=g.gather: f(p[:, :-1], v[:-1])},
    "attention dropout": lambda g: {
        "softmax": lambda x, f=g.softmax: (
            f(x) * (np.random.default_rng(1).random(x.shape) >= 0.25) / 0.75
        ).astype(x.dtype)
    },
    "slopes by distance": lambda g: {
        "similar": lambda q, k, f=g.similar: (
            f(q, k) - np.abs(np.arange(len(q))[:, None] - np.arange(len(k)))[..., None].astype(q.dtype) / 8
        )
    },
}

# -- the cache ----------------------------------------------------------------------------------------------


def _remember(how):
    """What a later pass sees; the first one is right."""

    def plant(g):
        right = g.remember

        def remember(k, v, start):
            if start == 0:
                return right(k, v, start)
            keys, values = g.buffers(k)
            return how(g, keys, values, k, v, start)

        return {"remember": remember}

    return plant


def _after(g, keys, values, k, v, start):  # read before it is written
    seen = keys[: g.known].copy(), values[: g.known].copy()
    keys[start : g.known], values[start : g.known] = k, v
    return seen


def _over_the_last(g, keys, values, k, v, start):
    keys[start - 1 : g.known - 1], values[start - 1 : g.known - 1] = k, v
    return keys[: g.known], values[: g.known]


def _values_only_old(g, keys, values, k, v, start):
    keys[start : g.known], values[start : g.known] = k, values[start - 1]
    return keys[: g.known], values[: g.known]


def _keys_backwards(g, keys, values, k, v, start):
    keys[start : g.known], values[start : g.known] = k, v
    return keys[: g.known][::-1], values[: g.known]


def _itself_only(g, keys, values, k, v, start):
    seen = np.zeros((2, g.known, *k.shape[1:]), k.dtype)
    seen[0, start:], seen[1, start:] = k, v
    return seen[0], seen[1]


def _layer_0(g):
    right = g.buffers
    return {"buffers": lambda k: g.cache[0] if g.layer else right(k)}


CACHE = {
    "positions from 0 with a cache": lambda g: {"positions": lambda start, n: np.arange(n)},
    "position one too large with a cache": lambda g: {
        "positions": lambda start, n: np.arange(n) + start + (start > 0)
    },
    "attended before it is written": _remember(_after),
    "written over the last row": _remember(_over_the_last),
    "values not appended": _remember(_values_only_old),
    "keys newest first": _remember(_keys_backwards),
    "past keys and values are zero": _remember(_itself_only),
    "mask of the step alone": _hidden(lambda key, query, start: key > query - start),
    "only the new token is seen": _hidden(
        lambda key, query, start: (key > query) | ((start > 0) & (key < query))
    ),
    "one cache for all layers": _layer_0,
}

# -- mlp, residuals, layers, the end ------------------------------------------------------------------------


def _parallel(g):
    def block(x, start):
        a = g.tap("n1", g.norm(x, "ln_1"))
        y = g.tap("attn_y", g.attention(a, start))
        m = g.tap("mid", x + y)
        y = g.tap("mlp_y", g.mlp(g.tap("n2", g.norm(x, "ln_2"))))
        return m + y

    return {"block": block}


def _post_norm(g):
    def block(x, start):
        m = g.tap("mid", x + g.tap("attn_y", g.attention(x, start)))
        m = g.tap("n1", g.norm(m, "ln_1"))
        x = m + g.tap("mlp_y", g.mlp(m))
        return g.tap("n2", g.norm(x, "ln_2"))

    return {"block": block}


def _order(change):
    return lambda g: {"order": lambda: change(list(range(g.layers)))}


def _block_input(g):
    kept = {}

    def read(x):
        kept["x"] = x
        return x

    return {"read": read, "add_mlp": lambda m, normed, y: kept["x"] + y}


MLP = {
    "erf": lambda g: {"gelu": lambda x: (x * (1 + _erf(x / np.sqrt(2))) / 2).astype(x.dtype)},
    "sigmoid of 1.702 x": lambda g: {"gelu": lambda x: x / (1 + np.exp(-g.dtype(1.702) * x))},
    "silu": lambda g: {"gelu": lambda x: x / (1 + np.exp(-x))},
    "relu": lambda g: {"gelu": lambda x: np.maximum(x, 0)},
    "no activation": lambda g: {"gelu": lambda x: x},
    "tanh alone": lambda g: {"gelu": np.tanh},
    "sqrt(2 pi)": lambda g: {"gelu": _gelu(inner=np.sqrt(2 * np.pi))},
    "2 / pi without root": lambda g: {"gelu": _gelu(inner=2 / np.pi)},
    "0.44715": lambda g: {"gelu": _gelu(cube=0.44715)},
    "0.0044715": lambda g: {"gelu": _gelu(cube=0.0044715)},
    "no cubic term": lambda g: {"gelu": _gelu(cube=0)},
    "cube without factor": lambda g: {"gelu": _gelu(cube=1.0)},
    "square for the cube": lambda g: {"gelu": _gelu(power=2)},
    "factor 0.5 forgotten": lambda g: {"gelu": _gelu(outer=1.0)},
    "one forgotten": lambda g: {"gelu": _gelu(one=0.0)},
    "gelu twice": lambda g: {"gelu": lambda x, f=g.gelu: f(f(x))},
    "gelu behind c_proj too": lambda g: {"mlp": lambda b, f=g.mlp: g.gelu(f(b))},
    "relu squared": lambda g: {"gelu": lambda x: np.maximum(x, 0) ** 2},
    "leaky relu": lambda g: {"gelu": lambda x: np.where(x > 0, x, x / 100).astype(x.dtype)},
}

RESIDUALS = {
    "attention replaces the stream": lambda g: {"add_attention": lambda x, n, y: y},
    "mlp replaces the stream": lambda g: {"add_mlp": lambda x, n, y: y},
    "attention added to the norm": lambda g: {"add_attention": lambda x, n, y: n + y},
    "mlp added to the norm": lambda g: {"add_mlp": lambda x, n, y: n + y},
    "parallel block": _parallel,
    "mlp added to the block's input": _block_input,
    "post-norm": _post_norm,
    "halved sum": lambda g: {"add_mlp": lambda x, n, y: (x + y) / 2},
    "sum over sqrt(2)": lambda g: {"add_attention": lambda x, n, y: (x + y) * g.dtype(0.5**0.5)},
    "stream added twice": lambda g: {"add_attention": lambda x, n, y: x + x + y},
    "embedding added for the stream": lambda g: {"add_attention": lambda x, n, y: g.first + y},
    "output subtracted": lambda g: {"add_mlp": lambda x, n, y: x - y},
    "norm and stream both added": lambda g: {"add_attention": lambda x, n, y: x + n + y},
}

LAYERS = {
    "layers from last to first": _order(lambda layers: layers[::-1]),
    "last layer skipped": _order(lambda layers: layers[:-1]),
    "second layer skipped": _order(lambda layers: [i for i in layers if i != 1]),
    "first two layers exchanged": _order(lambda layers: [1, 0, *layers[2:]]),
    "every block reads the embedding": lambda g: {"read": lambda x: g.first},
    "last layer twice": lambda g: {"final": lambda x, f=g.final: f(_again(g, x))},
}


def _again(g, x):
    g.layer = g.layers - 1
    g.taps = {name: array for name, array in g.taps.items() if not name.endswith(f"@{g.layer}")}
    x = g.tap("end", g.block(x, 0))
    g.layer = None
    return x


def _unnormed(g):
    """ln_f is computed, and its input is unembedded."""
    kept, final, unembed = {}, g.final, g.unembed

    def remembering(x):
        kept["x"] = x
        return final(x)

    return {"final": remembering, "unembed": lambda normed: unembed(kept["x"])}


def _own_targets(logits, ids):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return -np.log(e[np.arange(len(ids)), ids] / e.sum(-1))


END = {
    "unembedding of another seed": lambda g: {
        "unembed": lambda x: (
            x @ np.random.default_rng(3).normal(0, 0.5, g.p["wte.weight"].shape).astype(g.dtype).T
        )
    },
    "wte where the file has lm_head": lambda g: {"unembed": lambda x: x @ g.p["wte.weight"].T},
    "logits without ln_f": _unnormed,
    "logits over sqrt(width)": lambda g: {"unembed": lambda x, f=g.unembed: f(x) / g.dtype(g.width**0.5)},
    "logits capped": lambda g: {"unembed": lambda x, f=g.unembed: 3 * np.tanh(f(x) / 3)},
    "a bias on the logits": lambda g: {
        "unembed": lambda x, f=g.unembed: f(x) + np.linspace(-1, 1, len(g.p["wte.weight"]), dtype=g.dtype)
    },
    "targets not moved": lambda g: {"surprise": _own_targets},
    "rows of the logits reversed": lambda g: {"dumped": lambda name, a: a[::-1] if name == "guess" else a},
    "loss in bits": lambda g: {
        "surprise": lambda logits, ids, f=g.surprise: f(logits, ids) / g.dtype(np.log(2))
    },
}


PLANTS = EMBEDDING | NORMS | PRODUCTS | ATTENTION | CACHE | MLP | RESIDUALS | LAYERS | END
