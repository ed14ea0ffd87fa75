"""Functions as learners write them for lesson 3: right ones, and wrong ones with the slug of the mistake."""

import math

import numpy as np

# -- split ------------------------------------------------------------------------------------------------


def split(qkv, n_head):
    q, k, v = np.split(qkv, 3, axis=1)
    return tuple(x.reshape(len(qkv), n_head, -1) for x in (q, k, v))


def split_by_loops(qkv, n_head):
    width = qkv.shape[1] // 3
    size = width // n_head
    parts = [np.zeros((len(qkv), n_head, size)) for _ in range(3)]
    for i, part in enumerate(parts):
        for head in range(n_head):
            start = i * width + head * size
            part[:, head] = qkv[:, start : start + size]
    return parts


def split_as_one_array(qkv, n_head):
    return qkv.reshape(len(qkv), 3, n_head, -1).swapaxes(0, 1)


def heads_first(qkv, n_head):
    cut = qkv.reshape(len(qkv), n_head, 3, -1)
    return cut[:, :, 0], cut[:, :, 1], cut[:, :, 2]


def interleaved(qkv, n_head):
    return tuple(qkv[:, i::3].reshape(len(qkv), n_head, -1) for i in range(3))


def strided(qkv, n_head):
    return tuple(x.reshape(len(qkv), -1, n_head).swapaxes(1, 2) for x in np.split(qkv, 3, axis=1))


def untransposed(qkv, n_head):
    return tuple(x.reshape(n_head, len(qkv), -1).swapaxes(0, 1) for x in np.split(qkv, 3, axis=1))


def only_values_strided(qkv, n_head):
    return *split(qkv, n_head)[:2], strided(qkv, n_head)[2]


def in_order(*order):
    return lambda qkv, n_head: tuple(split(qkv, n_head)[i] for i in order)


# -- scores -----------------------------------------------------------------------------------------------


def scored(scale=lambda q: 1 / math.sqrt(q.shape[-1]), k=1, fill=-np.inf, swapped=False, times=False):
    """Scores with a scale, with keys hidden from the k-th after the query on, by a number that fills in."""

    def scores(q, k_):
        if swapped:
            q, k_ = k_, q
        s = np.einsum("qhd,khd->hqk", q, k_) * scale(q)
        hidden = np.zeros(s.shape[1:], bool) if k is None else np.triu(np.ones(s.shape[1:], bool), k)
        return s * ~hidden if times else np.where(hidden, fill, s)

    return scores


def scores_by_loops(q, k):
    q *= 1 / 48**0.5  # in place: the truth must not be spoiled
    s = np.full((q.shape[1], len(q), len(k)), -np.inf)
    for head in range(q.shape[1]):
        for i in range(len(q)):
            for j in range(i + 1):
                s[head, i, j] = q[i, head] @ k[j, head]
    return s


def times_infinity(q, k):
    with np.errstate(invalid="ignore"):
        s = np.einsum("qhd,khd->hqk", q, k) / 48**0.5
        return s - np.triu(np.ones((len(q), len(k))), 1) * np.inf


def fourth_root(q, k):
    return scored()(q / 48**0.25, k) * 48**0.5


def upside_down(q, k):
    s = np.einsum("qhd,khd->hqk", q, k) / 48**0.5
    return np.where(np.tri(len(q), k=-1, dtype=bool), -np.inf, s)


def upside_down_with_a_number(q, k):
    s = np.einsum("qhd,khd->hqk", q, k) / 48**0.5
    return s - 1e9 * np.tri(len(q), k=-1)


# -- pattern ----------------------------------------------------------------------------------------------


def softmax(x, axis=-1):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)


def hidden(x, k=1):
    return np.triu(np.ones(x.shape[1:], bool), k)


def shares(k=1, fill=-np.inf, axis=-1):
    return lambda x: softmax(np.where(hidden(x, k), fill, x), axis)


def pattern_by_loops(x):
    out = np.zeros_like(x)
    for head in range(len(x)):
        for i in range(x.shape[1]):
            e = np.exp(x[head, i, : i + 1] - x[head, i, : i + 1].max())
            out[head, i, : i + 1] = e / e.sum()
    return out


def without_maximum(x):
    e = np.exp(np.where(hidden(x), -np.inf, x))
    return e / e.sum(-1, keepdims=True)


def shown_then_divided(x):
    shares = softmax(x) * ~hidden(x)
    with np.errstate(all="ignore"):
        return shares / shares.sum(-1, keepdims=True)


def maximum_of_all(x):
    e = np.exp(np.where(hidden(x), -np.inf, x - x.max()))
    with np.errstate(all="ignore"):
        return e / e.sum(-1, keepdims=True)


def no_exponential(x, masked=True):
    seen = x * ~hidden(x) if masked else x
    return seen / seen.sum(-1, keepdims=True)


def by_the_largest(x):
    e = np.exp(np.where(hidden(x), -np.inf, x))
    return e / e.max(-1, keepdims=True)


def not_divided(x):
    return np.exp(np.where(hidden(x), -np.inf, x))


# -- mix --------------------------------------------------------------------------------------------------


def mixed(transposed=False, merged="by head", wrong_side=False, biases=1, projected=True):
    def mix(pattern, v, weight, bias):
        z = np.einsum("hkq,khd->qhd" if transposed else "hqk,khd->qhd", pattern, v)
        if merged == "as it lies":
            z = z.transpose(1, 0, 2)
        if merged == "interleaved":
            z = z.transpose(0, 2, 1)
        z = z.reshape(len(v), -1)
        if projected:
            z = z @ (weight.T if wrong_side else weight)
        return z + biases * bias

    return mix


def mix_by_loops(pattern, v, weight, bias):
    out = np.tile(bias, (len(v), 1))
    size = v.shape[2]
    for head in range(v.shape[1]):
        for i in range(len(v)):
            z = sum(pattern[head, i, j] * v[j, head] for j in range(i + 1))
            out[i] += z @ weight[head * size : (head + 1) * size]
    return out


def bias_in_the_loop(pattern, v, weight, bias):
    out = 0
    for head in range(4):
        out = out + pattern[head] @ v[:, head] @ weight[head * 48 : head * 48 + 48] + bias
    return out


def averaged(pattern, v, weight, bias):
    parts = [pattern[h] @ v[:, h] @ weight[h * 48 : h * 48 + 48] for h in range(4)]
    return np.mean(parts, axis=0) + bias


def heads_added(pattern, v, weight, bias):
    z = sum(pattern[h] @ v[:, h] for h in range(4))
    return np.tile(z, 4) @ weight + bias


def heads_added_and_repeated(pattern, v, weight, bias):
    z = np.einsum("hqk,khd->qd", pattern, v)
    return np.repeat(z, 4, axis=1) @ weight + bias


def divided_again(pattern, v, weight, bias):
    z = np.einsum("hqk,khd->qhd", pattern, v) / len(v)
    return z.reshape(len(v), -1) @ weight + bias


def divided_by_how_many_are_seen(pattern, v, weight, bias):
    z = np.stack([pattern[h] @ v[:, h] / np.arange(1, len(v) + 1)[:, None] for h in range(4)], axis=1)
    return z.reshape(len(v), -1) @ weight + bias


def heads_reversed(pattern, v, weight, bias):
    z = np.einsum("hqk,khd->qhd", pattern, v)[:, ::-1]
    return z.reshape(len(v), -1) @ weight + bias


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("attention.scores", scored(fill=-20.0), "mask-value-small"),
    ("attention.split", split, None),
    ("attention.split", split_by_loops, None),
    ("attention.split", split_as_one_array, None),
    ("attention.split", heads_first, "heads-before-qkv"),
    ("attention.split", interleaved, "qkv-interleaved"),
    ("attention.split", strided, "heads-strided"),
    ("attention.split", untransposed, "heads-cut-untransposed"),
    ("attention.split", in_order(0, 2, 1), "qkv-kv-swapped"),
    ("attention.split", in_order(1, 0, 2), "qkv-order"),
    ("attention.split", in_order(2, 1, 0), "qkv-order"),
    ("attention.split", in_order(0, 0, 2), "qkv-part-repeated"),
    ("attention.split", in_order(0, 1, 1), "qkv-part-repeated"),
    ("attention.split", only_values_strided, "heads-strided"),
    ("attention.split", lambda qkv, n: qkv.reshape(3, len(qkv), n, -1), "qkv-cut-untransposed"),
    (
        "attention.split",
        lambda qkv, n: qkv.reshape(len(qkv), n, 3, -1).transpose(2, 0, 1, 3),
        "heads-before-qkv",
    ),
    ("attention.scores", scored(), None),
    ("attention.scores", scored(fill=-1e9), None),
    ("attention.scores", scored(scale=lambda q: 1.0, k=2), "scores-unscaled"),
    ("attention.scores", scored(scale=lambda q: 1.0, k=0), "scores-unscaled"),
    ("attention.scores", scored(scale=lambda q: 1 / 48, k=0), "scores-scaled-by-d-head"),
    ("attention.scores", scored(scale=lambda q: 0.5, times=True), "scores-scaled-by-n-head"),
    ("attention.scores", lambda q, k: upside_down(q * 48**0.5, k), "scores-unscaled"),
    ("attention.scores", lambda q, k: softmax(scored()(q, k)), "softmax-too-soon"),
    ("attention.scores", lambda q, k: softmax(scored(k=None)(q, k)), "softmax-too-soon"),
    ("attention.scores", scored(fill=-1e10), None),
    ("attention.scores", scores_by_loops, None),
    ("attention.scores", scored(scale=lambda q: 1.0), "scores-unscaled"),
    ("attention.scores", scored(scale=lambda q: 1 / 48), "scores-scaled-by-d-head"),
    ("attention.scores", scored(scale=lambda q: 192**-0.5), "scores-scaled-by-n-embd"),
    ("attention.scores", scored(scale=lambda q: q.shape[1] ** -0.5), "scores-scaled-by-n-head"),
    ("attention.scores", scored(scale=lambda q: len(q) ** -0.5), "scores-scaled-by-length"),
    ("attention.scores", scored(scale=lambda q: 48**0.5), "scores-multiplied"),
    ("attention.scores", scored(swapped=True), "qkv-order"),
    ("attention.scores", scored(k=None), "mask-missing"),
    ("attention.scores", scored(k=2), "mask-off-by-one"),
    ("attention.scores", scored(k=0), "mask-off-by-one"),
    ("attention.scores", upside_down, "mask-anticausal"),
    ("attention.scores", upside_down_with_a_number, "mask-anticausal"),
    ("attention.scores", scored(fill=0.0), "mask-value-small"),
    ("attention.scores", scored(times=True), "mask-value-small"),
    ("attention.scores", scored(scale=lambda q: 1.0, k=None), "scores-unscaled"),
    ("attention.scores", scored(scale=lambda q: 1 / 48, fill=-7.0), "scores-scaled-by-d-head"),
    ("attention.scores", scored(swapped=True, k=None), "qkv-order"),
    ("attention.scores", times_infinity, "mask-times-infinity"),
    ("attention.scores", scored(fill=-1000.0), "mask-value-small"),
    ("attention.scores", fourth_root, "scores-scaled-by-fourth-root"),
    ("attention.pattern", shares(), None),
    ("attention.pattern", shown_then_divided, "softmax-maximum-of-others"),
    ("attention.pattern", lambda x: softmax(x + hidden(x) * -np.inf), "mask-times-infinity"),
    ("attention.pattern", by_the_largest, "softmax-missing"),
    ("attention.pattern", shares(fill=-1e10), None),
    ("attention.pattern", pattern_by_loops, None),
    ("attention.pattern", without_maximum, "softmax-without-maximum"),
    ("attention.pattern", shares(fill=-100.0), "mask-value-small"),
    ("attention.pattern", lambda x: softmax(x), "mask-missing"),
    ("attention.pattern", shares(k=2), "mask-off-by-one"),
    ("attention.pattern", shares(k=0), "mask-off-by-one"),
    ("attention.pattern", shares(fill=0.0), "mask-value-small"),
    ("attention.pattern", shares(fill=1e-9), "mask-value-small"),
    ("attention.pattern", lambda x: softmax(x * ~hidden(x)), "mask-value-small"),
    ("attention.pattern", lambda x: softmax(x) * ~hidden(x), "mask-after-softmax"),
    ("attention.pattern", shares(axis=1), "softmax-wrong-axis"),
    ("attention.pattern", lambda x: softmax(x, axis=0), "softmax-wrong-axis"),
    ("attention.pattern", lambda x: softmax(x, axis=1), "softmax-wrong-axis"),
    ("attention.pattern", lambda x: not_divided(x) / not_divided(x).sum(), "softmax-wrong-axis"),
    ("attention.pattern", not_divided, "softmax-missing"),
    ("attention.pattern", lambda x: np.where(hidden(x), -np.inf, x), "softmax-missing"),
    ("attention.pattern", lambda x: softmax(np.where(hidden(x).T, -np.inf, x)), "mask-anticausal"),
    ("attention.pattern", lambda x: shares()(x / 48**0.5), "scores-scaled-by-d-head"),
    ("attention.pattern", maximum_of_all, "softmax-maximum-of-others"),
    ("attention.pattern", no_exponential, "softmax-exp-missing"),
    ("attention.pattern", lambda x: no_exponential(x, masked=False), "softmax-exp-missing"),
    ("attention.pattern", lambda x: shares(axis=0)(x), "softmax-wrong-axis"),
    ("attention.mix", mixed(), None),
    ("attention.mix", heads_added, "heads-added-up"),
    ("attention.mix", heads_added_and_repeated, "heads-added-up"),
    ("attention.mix", divided_again, "average-divided-again"),
    ("attention.mix", divided_by_how_many_are_seen, "average-divided-again"),
    ("attention.mix", mix_by_loops, None),
    ("attention.mix", mixed(transposed=True), "pattern-transposed"),
    ("attention.mix", mixed(merged="as it lies"), "heads-merged-untransposed"),
    ("attention.mix", mixed(merged="interleaved"), "heads-merged-interleaved"),
    ("attention.mix", heads_reversed, "heads-permuted"),
    ("attention.mix", mixed(wrong_side=True), "transposed-c-proj"),
    ("attention.mix", mixed(biases=0), "missing-bias"),
    ("attention.mix", mixed(biases=2), "bias-twice"),
    ("attention.mix", mixed(projected=False), "projection-missing"),
    ("attention.mix", mixed(projected=False, biases=0), "projection-missing"),
    ("attention.mix", bias_in_the_loop, "bias-for-each-head"),
    ("attention.mix", averaged, "heads-averaged"),
    ("attention.mix", lambda p, v, weight, bias: averaged(p, v, weight, bias / 4), "heads-averaged"),
    ("attention.mix", mixed(merged="as it lies", biases=0), "heads-merged-untransposed"),
    ("attention.mix", mixed(transposed=True, wrong_side=True), "pattern-transposed"),
]
