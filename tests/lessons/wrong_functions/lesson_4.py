"""Functions as learners write them for lesson 4: right ones, and wrong ones with the slug of the mistake."""

import numpy as np

# -- logits -----------------------------------------------------------------------------------------------


def normed(x, ln, mean=True, bias=True, weight=True):
    x = x - x.mean(-1, keepdims=True) * mean
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + ln.epsilon)
    return x * (ln.weight if weight else 1) + ln.bias * bias


def logits_of(**options):
    return lambda x, ln_f, wte: normed(x, ln_f, **options) @ wte.T


def logits_by_loops(x, ln_f, wte):
    x -= x.mean(axis=1, keepdims=True)  # in place: the truth must not be spoiled
    out = np.zeros((len(x), len(wte)))
    for pos, row in enumerate(x):
        row = row / (row.var() + ln_f.epsilon) ** 0.5 * ln_f.weight + ln_f.bias
        for token, vector in enumerate(wte):
            out[pos, token] = row @ vector
    return out


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normed_otherwise(**how):
    """Logits with another mean, spread or axis."""
    axis, ddof = how.get("axis", -1), how.get("ddof", 0)

    def function(x, ln_f, wte):
        spread = x.std(axis=axis, ddof=ddof, keepdims=True)
        if "epsilon" not in how:
            spread = np.sqrt(spread**2 + ln_f.epsilon)
        elif how["epsilon"] == "outside":
            spread = spread + ln_f.epsilon
        elif how["epsilon"] == "other":
            spread = np.sqrt(spread**2 + 1e-8)
        centred = x - x.mean(axis=axis, keepdims=True) * how.get("mean", 1)
        return (centred / spread * ln_f.weight + ln_f.bias * how.get("bias", 1)) @ wte.T

    return function


def cosines(x, ln_f, wte):
    return normed(x, ln_f) @ (wte.T / np.linalg.norm(wte, axis=1))


# -- filtered ---------------------------------------------------------------------------------------------


def cooled(logits, t):
    return logits / t


def top_k_of(x, k):
    if k >= len(x):
        return x
    return np.where(x >= np.sort(x)[-k], x, -np.inf)


def top_p_of(x, p, short=False):
    shares = softmax(x)
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - (0 if short else shares[order])
    kept = order[before < p]
    out = np.full(len(x), -np.inf)
    out[kept] = x[kept]
    return out


def filtered(logits, temperature, top_k, top_p):
    x = top_k_of(logits / temperature, top_k)
    return softmax(top_p_of(x, top_p) if top_p < 1 else x)


def filtered_by_shares(logits, temperature, top_k, top_p):
    """Shares set to zero, and what is left shared out anew."""
    shares = softmax(logits / temperature)
    order = sorted(range(len(shares)), key=lambda i: -shares[i])
    kept = order[:top_k]
    total, whole, n = 0.0, sum(shares[i] for i in kept), 0
    while n < len(kept) and total < top_p * whole - 1e-12:
        total += shares[kept[n]]
        n += 1
    out = np.zeros(len(shares))
    out[kept[:n]] = shares[kept[:n]]
    return out / out.sum()


def without_maximum(logits, temperature, top_k, top_p):
    x = top_k_of(logits / temperature, top_k)
    x = top_p_of(x, top_p) if top_p < 1 else x
    e = np.exp(x)
    return e / e.sum()


def in_order(*steps):
    """The three steps, or other ones, one after the other."""

    def function(logits, temperature, top_k, top_p):
        x = logits.astype(np.float64)
        for step in steps:
            x = step(x, temperature, top_k, top_p)
        return softmax(x)

    return function


divide = lambda x, t, k, p: x / t  # noqa: E731
multiply = lambda x, t, k, p: x * t  # noqa: E731
keep_k = lambda x, t, k, p: top_k_of(x, k)  # noqa: E731
keep_more = lambda x, t, k, p: top_k_of(x, k + 1)  # noqa: E731
keep_p = lambda x, t, k, p: top_p_of(x, p) if p < 1 else x  # noqa: E731
keep_short = lambda x, t, k, p: top_p_of(x, p, short=True) if p < 1 else x  # noqa: E731


def keep_long(x, t, k, p):
    if p >= 1:
        return x
    order = np.argsort(-x)
    n = np.searchsorted(np.cumsum(softmax(x)[order]), p) + 2
    return np.where(np.isin(np.arange(len(x)), order[:n]), x, -np.inf)


def keep_first(x, t, k, p):
    """The first tokens of the vocabulary that reach p."""
    shares = softmax(x)
    return x if p >= 1 else np.where(np.cumsum(shares) - shares < p, x, -np.inf)


def sorted_shares(logits, temperature, top_k, top_p):
    return np.array(sorted(filtered(logits, temperature, top_k, top_p), reverse=True))


def on_shares(logits, temperature, top_k, top_p):
    shares = softmax(logits) / temperature
    return softmax(top_p_of(top_k_of(np.log(shares / shares.sum()), top_k), top_p if top_p < 1 else 2))


def softmax_of_shares(logits, temperature, top_k, top_p):
    return in_order(keep_k, keep_p)(softmax(logits) / temperature, temperature, top_k, top_p)


def not_shared_out(logits, temperature, top_k, top_p):
    return np.where(filtered(logits, temperature, top_k, top_p) > 0, softmax(logits / temperature), 0)


def zeros_for_removed(logits, temperature, top_k, top_p):
    kept = filtered(logits, temperature, top_k, top_p) > 0
    return softmax(np.where(kept, logits / temperature, 0))


def zeros_at_once(of_k, of_p):
    """Logits of 0 as soon as a filter removes a token."""

    def function(logits, temperature, top_k, top_p):
        x = logits / temperature
        x = np.where(np.isfinite(top_k_of(x, top_k)), x, of_k)
        return softmax(x if top_p >= 1 else np.where(np.isfinite(top_p_of(x, top_p)), x, of_p))

    return function


def shared_out_once(logits, temperature, top_k, top_p):
    shares = softmax(top_k_of(logits / temperature, top_k))
    order = np.argsort(-shares)
    n = np.sum(np.cumsum(shares[order]) < top_p - 1e-12) + 1
    shares[order[n:]] = 0
    return shares


def added_up_without_sharing_out(logits, temperature, top_k, top_p):
    """Shares of what top-k removed are 0, and the rest is added up as it is."""
    shares = softmax(logits / temperature)
    shares[np.argsort(-shares)[top_k:]] = 0
    order = np.argsort(-shares)
    n = np.sum(np.cumsum(shares[order]) < top_p) + 1 if top_p < 1 else len(shares)
    shares[order[n:]] = 0
    return shares / shares.sum()


def rising(which):
    """Sorted the wrong way round, in one of the filters or in both."""

    def function(logits, temperature, top_k, top_p):
        x = logits / temperature
        order = np.argsort(x)
        kept = order[:top_k] if "k" in which else np.argsort(-x)[:top_k]
        kept = kept[np.argsort(x[kept])] if "p" in which else kept[np.argsort(-x[kept])]
        shares = softmax(x[kept])
        n = int(np.sum(np.cumsum(shares) < top_p)) + 1 if top_p < 1 else len(kept)
        out = np.zeros(len(x))
        out[kept[:n]] = shares[:n] / shares[:n].sum()
        return out

    return function


def nothing_left(logits, temperature, top_k, top_p):
    with np.errstate(all="ignore"):
        return filtered(logits, temperature, top_k, top_p) * 0 / 0


def as_logits(logits, temperature, top_k, top_p):
    return keep_p(keep_k(logits / temperature, 1, top_k, 1), 1, 1, top_p)


def from_the_wrong_end(logits, temperature, top_k, top_p):
    n = int((filtered(logits, temperature, top_k, top_p) > 0).sum())
    order = np.argsort(logits)[:n]
    out = np.zeros(len(logits))
    out[order] = softmax(logits / temperature)[order]
    return out / out.sum()


# -- step -------------------------------------------------------------------------------------------------


once = normed


def ran(
    place=lambda position: position,
    rows="kept",
    wte_only=False,
    adds=True,
    last=normed,
    once_more=(0, 0),
    names="qkv",
    without="",
    at_the_end=lambda logits: logits,
):
    """A step with a cache, each of whose parts may be another."""
    normed_1 = once if once_more[0] == 0 else lambda x, ln: once(once(x, ln), ln)
    normed_2 = once if once_more[1] == 0 else lambda x, ln: once(once(x, ln), ln)

    def step(token, position, cache, model):
        p = model.parameters
        x = p.wte[token] + (0 if wte_only else p.wpe[place(position)])
        for layer, block in enumerate(p.h):
            past = cache[0] if rows == "one cache" else cache[layer]
            before = x
            qkv = normed_1(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
            parts = dict(zip(names, (part.reshape(4, -1) for part in np.split(qkv, 3)), strict=True))
            q, k, v = parts["q"], parts["k"], parts["v"]
            if rows == "swapped":
                k, v = v, k
            keys, values = np.vstack([past["k"], [k]]), np.vstack([past["v"], [v]])
            if rows == "in front":
                keys = np.vstack([[k], past["k"]])
            if rows == "both in front":
                keys, values = np.vstack([[k], past["k"]]), np.vstack([[v], past["v"]])
            seen = (past["k"], past["v"]) if rows == "too late" else (keys, values)
            if rows == "mistaken":
                seen = values, keys
            if rows == "alone":
                seen = k[None], v[None]
            if rows != "forgotten":
                past["k"], past["v"] = keys, values
            z = np.zeros((4, 48))
            for head in range(4):
                shares = softmax(seen[0][:, head] @ q[head] / 48**0.5)
                z[head] = shares @ seen[1][:, head]
            if without != "attention":
                x = x * adds + z.ravel() @ block.attn.c_proj.weight + block.attn.c_proj.bias
            if without == "mlp":
                continue
            n = (
                normed_2(before if without == "the result of attention" else x, block.ln_2)
                @ block.mlp.c_fc.weight
                + block.mlp.c_fc.bias
            )
            n = 0.5 * n * (1 + np.tanh((2 / np.pi) ** 0.5 * (n + 0.044715 * n**3)))
            x = x * adds + n @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
        return at_the_end(last(x, p.ln_f) @ p.wte.T)

    return step


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("next_word.logits", logits_of(), None),
    ("next_word.logits", logits_by_loops, None),
    ("next_word.logits", lambda x, ln_f, wte: np.einsum("pd,vd->pv", normed(x, ln_f), wte), None),
    ("next_word.logits", lambda x, ln_f, wte: x @ wte.T, "missing-ln-f"),
    ("next_word.logits", logits_of(weight=False), "layernorm-no-weight"),
    ("next_word.logits", logits_of(weight=False, bias=False), "layernorm-no-weight"),
    ("next_word.logits", logits_of(bias=False), "missing-bias"),
    ("next_word.logits", logits_of(mean=False), "layernorm-no-mean"),
    ("next_word.logits", lambda x, ln_f, wte: softmax(normed(x, ln_f) @ wte.T), "probabilities-returned"),
    (
        "next_word.logits",
        lambda x, ln_f, wte: np.log(softmax(normed(x, ln_f) @ wte.T)),
        "log-probabilities-returned",
    ),
    ("next_word.logits", cosines, "cosines-returned"),
    (
        "next_word.logits",
        lambda x, ln_f, wte: normed(x, ln_f, bias=False, mean=False) @ wte.T,
        "layernorm-no-mean",
    ),
    ("next_word.logits", normed_otherwise(), None),
    ("next_word.logits", normed_otherwise(mean=0), "layernorm-no-mean"),
    ("next_word.logits", normed_otherwise(axis=0), "layernorm-wrong-axis"),
    ("next_word.logits", normed_otherwise(axis=None), "layernorm-wrong-axis"),
    ("next_word.logits", normed_otherwise(axis=None, bias=0), "layernorm-wrong-axis"),
    ("next_word.logits", normed_otherwise(ddof=1), "layernorm-ddof1"),
    ("next_word.logits", normed_otherwise(epsilon="none"), "layernorm-no-eps"),
    ("next_word.logits", normed_otherwise(epsilon="outside"), "layernorm-eps-outside"),
    ("next_word.logits", normed_otherwise(epsilon="other"), "layernorm-eps-value"),
    ("next_word.filtered", filtered, None),
    ("next_word.filtered", filtered_by_shares, None),
    ("next_word.filtered", in_order(divide, keep_k, keep_p), None),
    ("next_word.filtered", in_order(keep_k, divide, keep_p), None),
    ("next_word.filtered", without_maximum, "softmax-without-maximum"),
    ("next_word.filtered", in_order(multiply, keep_k, keep_p), "temperature-multiplied"),
    ("next_word.filtered", in_order(keep_k, keep_p), "temperature-without-effect"),
    ("next_word.filtered", on_shares, "temperature-without-effect"),
    ("next_word.filtered", softmax_of_shares, "temperature-on-probabilities"),
    ("next_word.filtered", in_order(divide, keep_more, keep_p), "top-k-off-by-one"),
    ("next_word.filtered", in_order(divide, keep_k, keep_short), "top-p-one-short"),
    ("next_word.filtered", in_order(keep_k, keep_p, divide), "top-p-before-temperature"),
    ("next_word.filtered", in_order(divide, keep_p, keep_k), "top-p-before-top-k"),
    ("next_word.filtered", in_order(multiply, keep_k, keep_short), "temperature-multiplied"),
    ("next_word.filtered", in_order(keep_k, keep_short, divide), "top-p-before-temperature"),
    ("next_word.filtered", in_order(divide, keep_k, keep_long), "top-p-one-long"),
    ("next_word.filtered", sorted_shares, "order-lost"),
    ("next_word.filtered", in_order(divide, keep_k, keep_first), "not-sorted"),
    ("next_word.filtered", not_shared_out, "not-shared-out"),
    ("next_word.filtered", zeros_for_removed, "removed-logit-zero"),
    ("next_word.filtered", as_logits, "logits-returned"),
    ("next_word.filtered", from_the_wrong_end, "least-likely-kept"),
    ("next_word.filtered", in_order(divide, keep_p), "top-k-forgotten"),
    ("next_word.filtered", in_order(divide, keep_k), "top-p-forgotten"),
    ("next_word.filtered", in_order(divide), "top-k-forgotten"),
    ("next_word.filtered", in_order(divide, keep_short), "top-k-forgotten"),
    ("next_word.filtered", in_order(keep_k), "temperature-without-effect"),
    ("next_word.filtered", zeros_at_once(0, 0), "removed-logit-zero"),
    ("next_word.filtered", zeros_at_once(-np.inf, 0), "removed-logit-zero"),
    ("next_word.filtered", shared_out_once, "not-shared-out"),
    ("next_word.filtered", added_up_without_sharing_out, "top-p-before-top-k"),
    ("next_word.filtered", rising("k"), "least-likely-kept"),
    ("next_word.filtered", rising("p"), "least-likely-kept"),
    ("next_word.filtered", rising("kp"), "least-likely-kept"),
    ("next_word.filtered", nothing_left, "nothing-left"),
    ("next_word.step", ran(), None),
    ("next_word.step", ran(rows="both in front"), None),
    ("next_word.step", ran(place=lambda position: 0), "position-restart"),
    ("next_word.step", ran(place=lambda position: position + 1), "position-off-by-one"),
    ("next_word.step", ran(place=lambda position: position - 1), "position-off-by-one"),
    ("next_word.step", ran(wte_only=True), "position-missing"),
    ("next_word.step", ran(adds=False), "residual-missing"),
    ("next_word.step", ran(last=lambda x, ln: x), "missing-ln-f"),
    ("next_word.step", ran(rows="too late"), "stale-cache-row"),
    ("next_word.step", ran(rows="forgotten"), "cache-not-written"),
    ("next_word.step", ran(rows="alone"), "cache-not-read"),
    ("next_word.step", ran(rows="one cache"), "cache-of-another-layer"),
    ("next_word.step", ran(rows="in front"), "cache-reversed"),
    ("next_word.step", ran(rows="swapped"), "cache-halves-swapped"),
    ("next_word.step", ran(rows="mistaken"), "qkv-kv-swapped"),
    ("next_word.step", ran(names="kqv"), "qkv-order"),
    ("next_word.step", ran(names="vkq"), "qkv-order"),
    ("next_word.step", ran(without="mlp"), "sublayer-missing"),
    ("next_word.step", ran(without="attention"), "sublayer-missing"),
    ("next_word.step", ran(without="the result of attention"), "wrong-residual-branch"),
    ("next_word.step", ran(once_more=(1, 0)), "layernorm-twice"),
    ("next_word.step", ran(once_more=(0, 1)), "layernorm-twice"),
    ("next_word.step", ran(once_more=(1, 1)), "layernorm-twice"),
    ("next_word.step", ran(last=lambda x, ln: once(once(x, ln), ln)), "layernorm-twice"),
    ("next_word.step", ran(at_the_end=lambda logits: int(logits.argmax())), "one-number-returned"),
    ("next_word.step", ran(at_the_end=np.argmax), "one-number-returned"),
    ("next_word.step", ran(at_the_end=softmax), "probabilities-returned"),
    ("next_word.step", ran(at_the_end=lambda logits: np.log(softmax(logits))), "log-probabilities-returned"),
]
