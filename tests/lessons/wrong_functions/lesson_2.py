"""Functions as learners write them for lesson 2: right ones, and wrong ones with the slug of the mistake."""

import math

import numpy as np

# -- layer_norm -------------------------------------------------------------------------------------------


def normed(deviation=lambda x, e: np.sqrt(x.var(-1, keepdims=True) + e), centre=True):
    """LayerNorm with a spread of one's own, and perhaps without the mean."""

    def layer_norm(x, weight, bias, epsilon):
        mean = x.mean(-1, keepdims=True) if centre else 0
        return (x - mean) / deviation(x, epsilon) * weight + bias

    return layer_norm


def layer_norm_by_loops(x, weight, bias, epsilon):
    out = []
    for row in x:
        row -= row.mean()  # in place: the truth must not be spoiled
        out.append([w * n / math.sqrt((row @ row) / len(row) + epsilon) + b
                    for n, w, b in zip(row, weight, bias, strict=True)])  # fmt: skip
    return np.array(out)


def by_moments(x, weight, bias, epsilon):
    mean = x.mean(axis=1)[:, None]
    variance = (x * x).mean(axis=1)[:, None] - mean * mean
    return weight * (x - mean) * (variance + epsilon) ** -0.5 + bias


def ddof1(x, weight, bias, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True, ddof=1) + epsilon
    ) * weight + bias


def over(axis):
    def layer_norm(x, weight, bias, epsilon):
        mean, variance = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
        return (x - mean) / np.sqrt(variance + epsilon) * weight + bias

    return layer_norm


def plain(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def by_length(length):
    """Divided by a length: squares are summed, not averaged."""
    return normed(lambda x, e: length(x - x.mean(-1, keepdims=True), e))


def returned_in_the_loop(x, weight, bias, epsilon):
    out = np.full(x.shape, 7.0)
    for i, row in enumerate(x):
        out[i] = (row - row.mean()) / np.sqrt(row.var() + epsilon) * weight + bias
        return out


# -- gelu -------------------------------------------------------------------------------------------------

ROOT = math.sqrt(2 / math.pi)


def curve(half=0.5, factor=ROOT, constant=0.044715, power=3):
    return lambda x: half * x * (1 + np.tanh(factor * (x + constant * x**power)))


def gelu_by_loops(x):
    out = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        n = float(x[at])
        out[at] = n * 0.5 * (1 + math.tanh(ROOT * (n + 0.044715 * n * n * n)))
    return out


def by_exponentials(x):
    return x / (1 + np.exp(-2 * ROOT * (x + 0.044715 * x**3)))


def exact(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def share(x):
    return 0.5 * (1 + np.tanh(ROOT * (x + 0.044715 * x**3)))


def bracketed(x, inside):
    return 0.5 * x * (1 + np.tanh(inside))


# -- after_mlp --------------------------------------------------------------------------------------------


def with_mlp(
    norm=lambda x, ln: plain(x, ln.epsilon) * ln.weight + ln.bias,
    activation=curve(),  # noqa: B008
    last=lambda out: out,
    added=lambda stream, x: stream,
    biases=(1, 1),
    twice=1,
):
    """The stream after an MLP, each of whose parts may be another."""

    def after_mlp(resid_mid, ln_2, c_fc, c_proj):
        x = norm(resid_mid, ln_2)
        hidden = activation(x @ c_fc.weight + biases[0] * c_fc.bias)
        return added(resid_mid, x) + twice * last(hidden @ c_proj.weight + biases[1] * c_proj.bias)

    return after_mlp


def in_place(resid_mid, ln_2, c_fc, c_proj):
    resid_mid -= resid_mid.mean(-1, keepdims=True)
    x = plain(resid_mid, ln_2.epsilon) * ln_2.weight + ln_2.bias
    return resid_mid + curve()(x @ c_fc.weight + c_fc.bias) @ c_proj.weight + c_proj.bias


def neuron_by_neuron(resid_mid, ln_2, c_fc, c_proj):
    x = plain(resid_mid, ln_2.epsilon) * ln_2.weight + ln_2.bias
    out = resid_mid + c_proj.bias
    for i in range(len(c_fc.bias)):
        loud = curve()(x @ c_fc.weight[:, i] + c_fc.bias[i])
        out += np.outer(loud, c_proj.weight[i])
    return out


def bias_late(resid_mid, ln_2, c_fc, c_proj):
    x = plain(resid_mid, ln_2.epsilon) * ln_2.weight + ln_2.bias
    return resid_mid + (curve()(x @ c_fc.weight) + c_fc.bias) @ c_proj.weight + c_proj.bias


def norm_late(before):
    """LayerNorm after the sum."""

    def after_mlp(resid_mid, ln_2, c_fc, c_proj):
        norm = lambda x: plain(x, ln_2.epsilon) * ln_2.weight + ln_2.bias  # noqa: E731
        x = norm(resid_mid) if before else resid_mid
        return norm(resid_mid + curve()(x @ c_fc.weight + c_fc.bias) @ c_proj.weight + c_proj.bias)

    return after_mlp


def helped_by(layer_norm):
    """With a LayerNorm that is not right yet."""
    return with_mlp(norm=lambda x, ln: layer_norm(x, ln.weight, ln.bias, ln.epsilon))


def gelu_with(cube=0.044715, tanh=np.tanh):
    return lambda x: 0.5 * x * (1 + tanh(np.sqrt(2 / np.pi) * (x + cube * x**3)))


def tanh_of_exponentials(u):
    return (np.exp(u) - np.exp(-u)) / (np.exp(u) + np.exp(-u))


def norm_with_its_own_epsilon(x, weight, bias, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    (
        "stream.layer_norm",
        lambda x, w, b, e: x - x.mean(-1, keepdims=True) / np.sqrt(x.var(-1, keepdims=True) + e) * w + b,
        "layernorm-bracket",
    ),
    (
        "stream.layer_norm",
        lambda x, w, b, e: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True)) + e * w + b,
        "layernorm-bracket",
    ),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e) * (w + b), "layernorm-bracket"),
    (
        "stream.layer_norm",
        normed(lambda x, e: np.sqrt(x.std(-1, keepdims=True) + e)),
        "layernorm-root-of-spread",
    ),
    ("stream.gelu", gelu_with(cube=0.0447), "gelu-constant"),
    ("stream.gelu", gelu_with(tanh=tanh_of_exponentials), "gelu-overflow"),
    ("stream.layer_norm", norm_with_its_own_epsilon, "layernorm-eps-value"),
    ("stream.layer_norm", normed(), None),
    ("stream.layer_norm", layer_norm_by_loops, None),
    ("stream.layer_norm", by_moments, None),
    ("stream.layer_norm", ddof1, "layernorm-ddof1"),
    (
        "stream.layer_norm",
        normed(lambda x, e: x.std(-1, keepdims=True) + e),
        "layernorm-eps-outside",
    ),
    ("stream.layer_norm", normed(lambda x, e: x.std(-1, keepdims=True)), "layernorm-no-eps"),
    (
        "stream.layer_norm",
        normed(lambda x, e: np.sqrt(x.var(-1, keepdims=True) + 1e-3)),
        "layernorm-eps-value",
    ),
    (
        "stream.layer_norm",
        normed(lambda x, e: np.sqrt((x**2).mean(-1, keepdims=True) + e), centre=False),
        "layernorm-no-mean",
    ),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e) + b, "layernorm-no-weight"),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e), "layernorm-no-weight"),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e) * w, "missing-bias"),
    ("stream.layer_norm", over(0), "layernorm-wrong-axis"),
    ("stream.layer_norm", over(None), "layernorm-wrong-axis"),
    ("stream.layer_norm", normed(lambda x, e: x.var(-1, keepdims=True) + e), "layernorm-no-root"),
    ("stream.layer_norm", normed(lambda x, e: 1), "layernorm-no-root"),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e) * b + w, "layernorm-weight-bias-swapped"),
    ("stream.layer_norm", lambda x, w, b, e: (plain(x, e) + b) * w, "layernorm-weight-bias-swapped"),
    ("stream.layer_norm", lambda x, w, b, e: plain(x, e) * w + 2 * b, "bias-twice"),
    ("stream.layer_norm", lambda x, w, b, e: (x - x.mean()) / (x.std() + e) * w + b, "layernorm-wrong-axis"),
    ("stream.layer_norm", lambda x, w, b, e: (x - x.mean(0)) / x.std(0) * w + b, "layernorm-wrong-axis"),
    ("stream.layer_norm", lambda x, w, b, e: ddof1(x, 1, 0, e), "layernorm-no-weight"),
    (
        "stream.layer_norm",
        lambda x, w, b, e: normed(lambda x, e: x.std(-1, keepdims=True) + e)(x, w, 0, e),
        "missing-bias",
    ),
    (
        "stream.layer_norm",
        by_length(lambda x, e: np.linalg.norm(x, axis=-1, keepdims=True) + e),
        "sum-instead-of-mean",
    ),
    (
        "stream.layer_norm",
        by_length(lambda x, e: np.sqrt((x**2).sum(-1, keepdims=True) + e)),
        "sum-instead-of-mean",
    ),
    (
        "stream.layer_norm",
        normed(lambda x, e: np.linalg.norm(x, axis=-1, keepdims=True) + e),
        "sum-instead-of-mean",
    ),
    ("stream.layer_norm", returned_in_the_loop, "first-token-only"),
    ("stream.gelu", curve(), None),
    ("stream.gelu", gelu_by_loops, None),
    ("stream.gelu", by_exponentials, None),
    ("stream.gelu", exact, "gelu-erf"),
    ("stream.gelu", lambda x: x / (1 + np.exp(-1.702 * x)), "gelu-quick"),
    ("stream.gelu", lambda x: np.maximum(x, 0), "activation-relu"),
    ("stream.gelu", lambda x: x, "activation-missing"),
    ("stream.gelu", curve(constant=0.44715), "gelu-constant"),
    ("stream.gelu", curve(power=2), "gelu-constant"),
    ("stream.gelu", curve(factor=2 / math.pi), "gelu-root"),
    ("stream.gelu", curve(factor=math.sqrt(2) / math.pi), "gelu-root"),
    ("stream.gelu", curve(factor=1), "gelu-root"),
    ("stream.gelu", lambda x: bracketed(x, ROOT * x + 0.044715 * x**3), "gelu-bracket"),
    ("stream.gelu", lambda x: bracketed(x, ROOT * (x + (0.044715 * x) ** 3)), "gelu-bracket"),
    ("stream.gelu", lambda x: bracketed(x, ROOT * (x + 0.044715 * x) ** 3), "gelu-bracket"),
    ("stream.gelu", lambda x: 0.5 * x + np.tanh(ROOT * (x + 0.044715 * x**3)), "gelu-bracket"),
    ("stream.gelu", lambda x: 0.5 * x * (1 + np.tanh(ROOT) * (x + 0.044715 * x**3)), "gelu-bracket"),
    ("stream.gelu", curve(half=1), "gelu-factor"),
    ("stream.gelu", share, "gelu-without-x"),
    ("stream.gelu", lambda x: np.tanh(ROOT * (x + 0.044715 * x**3)), "gelu-without-x"),
    ("stream.gelu", lambda x: 0.5 * x * np.tanh(ROOT * (x + 0.044715 * x**3)), "gelu-without-one"),
    ("stream.gelu", lambda x: x / (1 + np.exp(-x)), "activation-other"),
    ("stream.gelu", lambda x: curve()(curve()(x)), "activation-twice"),
    ("stream.after_mlp", with_mlp(), None),
    ("stream.after_mlp", neuron_by_neuron, None),
    ("stream.after_mlp", with_mlp(added=lambda stream, x: 0), "residual-missing"),
    ("stream.after_mlp", with_mlp(added=lambda stream, x: x), "residual-after-ln"),
    ("stream.after_mlp", with_mlp(added=lambda stream, x: 2 * stream), "residual-twice"),
    ("stream.after_mlp", with_mlp(twice=2), "residual-twice"),
    ("stream.after_mlp", lambda resid_mid, ln_2, c_fc, c_proj: resid_mid, "sublayer-missing"),
    ("stream.after_mlp", with_mlp(norm=lambda x, ln: x), "missing-ln"),
    (
        "stream.after_mlp",
        with_mlp(norm=lambda x, ln: x, added=lambda stream, x: 0),
        "missing-ln",
    ),
    ("stream.after_mlp", with_mlp(norm=lambda x, ln: plain(x, 1e-5)), "layernorm-no-weight"),
    ("stream.after_mlp", with_mlp(activation=lambda x: x), "activation-missing"),
    ("stream.after_mlp", with_mlp(activation=lambda x: np.maximum(x, 0)), "activation-relu"),
    ("stream.after_mlp", with_mlp(activation=exact), "gelu-erf"),
    ("stream.after_mlp", with_mlp(activation=lambda x: x, last=curve()), "activation-misplaced"),
    ("stream.after_mlp", with_mlp(biases=(0, 1)), "missing-bias"),
    ("stream.after_mlp", with_mlp(biases=(1, 0)), "missing-bias"),
    ("stream.after_mlp", with_mlp(biases=(0, 0)), "missing-bias"),
    ("stream.after_mlp", with_mlp(biases=(1, 2)), "bias-twice"),
    ("stream.after_mlp", with_mlp(biases=(1, 0), added=lambda stream, x: 0), "residual-missing"),
    ("stream.after_mlp", in_place, "stream-centred"),
    ("stream.after_mlp", bias_late, "bias-after-curve"),
    ("stream.after_mlp", norm_late(True), "post-norm"),
    ("stream.after_mlp", norm_late(False), "post-norm"),
    ("stream.after_mlp", helped_by(ddof1), "layernorm-ddof1"),
    ("stream.after_mlp", helped_by(over(0)), "layernorm-wrong-axis"),
    ("stream.after_mlp", helped_by(over(None)), "layernorm-wrong-axis"),
    (
        "stream.after_mlp",
        helped_by(by_length(lambda x, e: np.linalg.norm(x, axis=-1, keepdims=True) + e)),
        "sum-instead-of-mean",
    ),
    ("stream.after_mlp", helped_by(lambda x, w, b, e: plain(x, e) * w), "layernorm-bias-missing"),
    ("stream.after_mlp", helped_by(lambda x, w, b, e: plain(x, 0) * w + b), "layernorm-no-eps"),
    (
        "stream.after_mlp",
        helped_by(normed(lambda x, e: x.std(-1, keepdims=True) + e)),
        "layernorm-eps-outside",
    ),
    ("stream.after_mlp", with_mlp(activation=curve(factor=2 / math.pi)), "gelu-root"),
    (
        "stream.after_mlp",
        with_mlp(activation=lambda x: bracketed(x, ROOT * x + 0.044715 * x**3)),
        "gelu-bracket",
    ),
    ("stream.after_mlp", with_mlp(activation=share), "gelu-without-x"),
]
