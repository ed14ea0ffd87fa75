"""GPT-2 in plain NumPy, written from the paper and the names in its checkpoint: it knows nothing of gpt2np.

Positions come first, heads stand behind the keys, keys and values live in one buffer a layer, and what is
tapped has names of its own (`TAPS` says what they are). A mistake is a method that is replaced: `replace`.
"""

import numpy as np

# Taps in the order in which a block fills them, and what they are elsewhere: a map for `--map`.
TAPS = {
    "tok": "wte",
    "pos": "wpe",
    "start": "embed",
    "n1@*": "h.*.ln_1",
    "fused@*": "h.*.attn.qkv",
    "similarity@*": "h.*.attn.scores[query key head]",
    "weights@*": "h.*.attn.pattern[query key head]",
    "gathered@*": "h.*.attn.z",
    "attn_y@*": "h.*.attn.out",
    "mid@*": "h.*.resid_mid",
    "n2@*": "h.*.ln_2",
    "up@*": "h.*.mlp.pre",
    "act@*": "h.*.mlp.post",
    "mlp_y@*": "h.*.mlp.out",
    "end@*": "h.*.resid_post",
    "last": "ln_f",
    "guess": "logits",
    "nll": "loss",
}
FEW = ("start", "n1@*", "attn_y@*", "mid@*", "act@*", "end@*", "guess", "nll")  # what one prints by hand
KEYED = ("similarity", "weights")  # their second axis grows with the cache


class NumpyGPT2:
    """One prompt at a time. `feed` runs some tokens behind those in the cache."""

    def __init__(self, weights, heads, epsilon=1e-5, dtype=np.float32):
        self.p = {name: np.asarray(array).astype(dtype) for name, array in weights.items()}
        self.heads, self.epsilon, self.dtype = heads, epsilon, dtype
        self.width = self.p["ln_f.weight"].shape[0]
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.p if name.startswith("h."))
        self.layer = None  # the one that runs
        self.taps, self.cache = {}, {}

    def replace(self, method, wrong, layer=None):
        """Let another function stand for a method: in one layer, or wherever it is called."""
        right = getattr(self, method)
        setattr(self, method, lambda *a: (wrong if layer in (None, self.layer) else right)(*a))

    # -- running ----------------------------------------------------------------------------------

    def run(self, ids, prefill=None):
        """Every tap of a prompt: at once, or so many tokens at once and the others one by one."""
        self.taps, self.cache, n = {}, {}, prefill or len(ids)
        ids = np.asarray(self.token_ids(ids))
        self.capacity = len(ids)
        for start, stop in [(0, n), *((i, i + 1) for i in range(n, len(ids)))]:
            self.feed(ids[start:stop], start)
        found = {name: np.concatenate(pieces) for name, pieces in self.taps.items()}
        found["nll"] = self.surprise(found["guess"], ids)
        return {name: self.dumped(name, array) for name, array in found.items()}

    def dumped(self, name, array):
        return array

    def token_ids(self, ids):
        return ids

    def tap(self, name, x):
        if self.layer is not None:
            name = f"{name}@{self.layer}"
        if name.startswith(KEYED):  # keys that were not there yet
            wide = np.zeros((len(x), self.capacity, x.shape[2]), x.dtype)
            wide[:, : x.shape[1]] = x
            x = wide
        self.taps.setdefault(name, []).append(x.copy())
        return x[:, : self.known] if name.startswith(KEYED) else x

    def feed(self, ids, start):
        self.known = start + len(ids)
        x = self.begin(ids, start)
        for layer in self.order():
            self.layer = layer
            x = self.tap("end", self.block(self.read(x), start))
        self.layer = None
        self.tap("guess", self.unembed(self.tap("last", self.final(x))))

    def order(self):
        return range(self.layers)

    def read(self, x):
        """What a block is given."""
        return x

    # -- the ends ---------------------------------------------------------------------------------

    def begin(self, ids, start):
        token = self.tap("tok", self.token_rows(ids))
        where = self.tap("pos", self.position_rows(self.positions(start, len(ids))))
        self.first = self.tap("start", self.together(token, where))
        return self.first

    def token_rows(self, ids):
        return self.p["wte.weight"][ids]

    def positions(self, start, n):
        return np.arange(start, start + n)

    def position_rows(self, positions):
        return self.p["wpe.weight"][positions]

    def together(self, token, position):
        return token + position

    def final(self, x):
        return self.normalise(x, self.p["ln_f.weight"], self.p["ln_f.bias"])

    def unembed(self, x):
        return x @ self.p["lm_head.weight"].T

    def surprise(self, logits, ids):
        """-log p of the token that follows; nothing follows the last one."""
        top = logits.max(-1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        return np.append(-log_p[np.arange(len(ids) - 1), ids[1:]], np.nan).astype(self.dtype)

    # -- a block ----------------------------------------------------------------------------------

    def w(self, name):
        return self.p[f"h.{self.layer}.{name}"]

    def block(self, x, start):
        a = self.tap("n1", self.norm(x, "ln_1"))
        y = self.tap("attn_y", self.attention(a, start))
        m = self.tap("mid", self.add_attention(x, a, y))
        b = self.tap("n2", self.norm(m, "ln_2"))
        y = self.tap("mlp_y", self.mlp(b))
        return self.add_mlp(m, b, y)

    def add_attention(self, x, normed, y):
        return x + y

    def add_mlp(self, x, normed, y):
        return x + y

    def norm(self, x, name):
        return self.normalise(x, self.gain(name), self.shift(name))

    def gain(self, name):
        return self.w(name + ".weight")

    def shift(self, name):
        return self.w(name + ".bias")

    def normalise(self, x, gain, shift):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + self.epsilon) * gain + shift

    def affine(self, x, name):
        return x @ self.matrix(name) + self.bias(name)

    def matrix(self, name):
        return self.w(name + ".weight")

    def bias(self, name):
        return self.w(name + ".bias")

    # -- attention --------------------------------------------------------------------------------

    def attention(self, a, start):
        q, k, v = self.cut(self.tap("fused", self.affine(a, "attn.c_attn")))
        k, v = self.remember(k, v, start)
        scores = self.tap("similarity", self.similar(q, k))
        share = self.tap("weights", self.shares(scores, start))
        z = self.tap("gathered", self.merge(self.gather(share, v)))
        return self.affine(z, "attn.c_proj")

    def cut(self, fused):
        """Queries, keys and values, each [pos, head, d]."""
        return [part.reshape(len(fused), self.heads, -1) for part in np.split(fused, 3, axis=1)]

    def remember(self, k, v, start):
        """Write into the layer's buffer; all keys and values up to now."""
        keys, values = self.buffers(k)
        keys[start : self.known], values[start : self.known] = k, v
        return keys[: self.known], values[: self.known]

    def buffers(self, k):
        return self.cache.setdefault(self.layer, np.zeros((2, self.capacity, *k.shape[1:]), k.dtype))

    def similar(self, q, k):
        return np.einsum("qhd,khd->qkh", q, k) * self.dtype(self.scale(q.shape[-1]))

    def scale(self, d):
        return d**-0.5

    def shares(self, scores, start):
        return self.softmax(self.masked(scores, self.hidden(len(scores), scores.shape[1], start)))

    def hidden(self, n, known, start):
        """What a query must not see: bool [query, key, 1]."""
        return (np.arange(known) > start + np.arange(n)[:, None])[..., None]

    def masked(self, scores, hidden):
        return np.where(hidden, self.dtype(-np.inf), scores)

    def softmax(self, x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def gather(self, share, v):
        return np.einsum("qkh,khd->qhd", share, v)

    def merge(self, z):
        return z.reshape(len(z), -1)

    # -- mlp --------------------------------------------------------------------------------------

    def mlp(self, b):
        hidden = self.tap("act", self.gelu(self.tap("up", self.affine(b, "mlp.c_fc"))))
        return self.affine(hidden, "mlp.c_proj")

    def gelu(self, x):
        inner = self.dtype(np.sqrt(2 / np.pi)) * (x + self.dtype(0.044715) * x * x * x)
        return self.dtype(0.5) * x * (1 + np.tanh(inner))
