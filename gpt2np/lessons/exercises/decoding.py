"""Ways to run one token with a cache: the right one, and those of mistakes."""

from dataclasses import dataclass

import numpy as np

from gpt2np.generation import filters
from gpt2np.lessons.exercise import Function, Wrong
from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm, Linear, gelu_tanh, layer_norm

Rows = list[dict[str, Array]]  # of each layer: "k" and "v", [past, head, d_head]


def normed(x: Array, p: LayerNorm) -> Array:
    """LayerNorm of each vector."""
    layer_norm(x, p, out=(out := np.empty_like(x)))
    return out


def _mlp(x: Array, c_fc: Linear, c_proj: Linear) -> Array:
    hidden = x @ c_fc.weight + c_fc.bias
    gelu_tanh(hidden.copy(), out=hidden)
    return np.asarray(hidden @ c_proj.weight + c_proj.bias)


@dataclass(frozen=True)
class OneStep:
    """One token with a cache; the defaults are right."""

    places: str = "position"
    adds: tuple[bool, bool] = (True, True)  # whether attention and the MLP add to the stream
    parts: tuple[bool, bool] = (True, True)  # whether there are attention and the MLP at all
    norms: tuple[int, int] = (1, 1)  # how often each of a layer's two LayerNorms is applied
    order: tuple[int, int, int] = (0, 1, 2)  # which parts of the long row are query, key and value
    parallel: bool = False  # whether the MLP reads what attention reads
    ln_f: int = 1
    rows: str = "kept"  # what becomes of the token's own keys and values

    def __call__(self, token: int, position: int, cache: Rows, model: Model) -> Array:
        p, places = model.parameters, {"position": position, "0": 0, "later": position + 1}
        places |= {"earlier": position - 1, "none": position}
        if self.places == "new":
            places["new"] = position - int(cache[0].setdefault("first", np.array(position)))
        x = p.wte[token] + p.wpe[places[self.places]] * (self.places != "none")
        for layer, block in enumerate(p.h):
            past, before = cache[0 if self.rows == "of layer 0" else layer], x
            long = _often(x, block.ln_1, self.norms[0]) @ block.attn.c_attn.weight + block.attn.c_attn.bias
            q, k, v = long.reshape(3, model.config.n_head, -1)[list(self.order)]
            keys, values = self._with(past, k, v)
            e = np.exp(np.einsum("hd,khd->hk", q, keys) / q.shape[-1] ** 0.5)
            z = np.einsum("hk,khd->hd", e / e.sum(-1, keepdims=True), values).ravel()
            if self.parts[0]:
                x = x * self.adds[0] + z @ block.attn.c_proj.weight + block.attn.c_proj.bias
            read = _often(before if self.parallel else x, block.ln_2, self.norms[1])
            if self.parts[1]:
                x = x * self.adds[1] + _mlp(read, block.mlp.c_fc, block.mlp.c_proj)
        return np.asarray(_often(x, p.ln_f, self.ln_f) @ p.wte.T)

    def _with(self, past: dict[str, Array], k: Array, v: Array) -> tuple[Array, Array]:
        """The keys and values that a query sees; the cache is left as this way leaves it."""
        old = past["k"], past["v"]
        new = np.concatenate([old[0], k[None]]), np.concatenate([old[1], v[None]])
        if self.rows == "in front":
            new = np.concatenate([k[None], old[0]]), new[1]
        if self.rows == "swapped":
            new = np.concatenate([old[0], v[None]]), np.concatenate([old[1], k[None]])
        if self.rows != "not written":
            past["k"], past["v"] = new
        if self.rows == "not read":
            return k[None], v[None]
        if self.rows == "taken for each other":
            return new[1], new[0]
        return old if self.rows == "too late" else new


def _often(x: Array, p: LayerNorm, n: int) -> Array:
    for _ in range(n):
        x = normed(x, p)
    return x


def _shares(token: int, position: int, cache: Rows, model: Model) -> Array:
    return filters.probabilities(OneStep()(token, position, cache, model))


_WHERE = (
    "Where does your program believe the newest token to be?",
    "How many tokens stand before the newest one, and which row of the table is its own?",
)
_FURTHER = (
    "Must the numbers that you return lie between 0 and 1, or all below zero?",
    "Have you gone one step further than you were asked to?",
)
_PART = (
    "What is added to the stream in each layer, and how often?",
    "Which of the functions above does your loop not use?",
)
_CHOSEN: tuple[Function, ...] = (
    lambda *arguments: int(OneStep()(*arguments).argmax()),
    lambda *arguments: float(OneStep()(*arguments).max()),
)

MISTAKES = (
    Wrong("position-restart", OneStep("0"), _WHERE),
    Wrong("position-restart", OneStep("new"), _WHERE),
    Wrong("position-off-by-one", OneStep("later"), _WHERE),
    Wrong("position-off-by-one", OneStep("earlier"), _WHERE),
    Wrong("position-missing", OneStep("none")),
    *(Wrong("residual-missing", OneStep(adds=a)) for a in ((False, True), (True, False), (False, False))),
    *(Wrong("sublayer-missing", OneStep(parts=p), _PART) for p in ((False, True), (True, False))),
    *(Wrong("layernorm-twice", OneStep(norms=n)) for n in ((2, 1), (1, 2), (2, 2))),
    Wrong("layernorm-twice", OneStep(ln_f=2)),
    *(Wrong("missing-ln", OneStep(norms=n)) for n in ((0, 1), (1, 0), (0, 0))),
    Wrong("missing-ln-f", OneStep(ln_f=0)),
    Wrong("wrong-residual-branch", OneStep(parallel=True)),
    Wrong("stale-cache-row", OneStep(rows="too late")),
    Wrong(
        "cache-not-written",
        OneStep(rows="not written"),
        (
            "Is your first step right, and the second one wrong?",
            "How many rows does the cache have after three steps?",
        ),
    ),
    Wrong(
        "cache-not-read",
        OneStep(rows="not read"),
        (
            "Whom does the newest token see?",
            "If the tokens before were others, would your logits change?",
        ),
    ),
    Wrong("cache-of-another-layer", OneStep(rows="of layer 0")),
    Wrong("cache-reversed", OneStep(rows="in front")),
    Wrong(
        "cache-halves-swapped",
        OneStep(rows="swapped"),
        (
            "Two things are remembered of each token: which is which?",
            "Do the newest rows of your two arrays lie in the same arrays as the old ones of their kind?",
        ),
    ),
    Wrong("qkv-kv-swapped", OneStep(rows="taken for each other")),
    *(Wrong("qkv-order", OneStep(order=o)) for o in ((1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0))),
    Wrong("probabilities-returned", _shares, _FURTHER),
    Wrong("log-probabilities-returned", lambda *arguments: np.log(_shares(*arguments)), _FURTHER),
    *(
        Wrong(
            "one-number-returned",
            function,
            (
                "What should come back: one number, or one for each token?",
                "Who chooses the next token, and from what?",
            ),
        )
        for function in _CHOSEN
    ),
)
