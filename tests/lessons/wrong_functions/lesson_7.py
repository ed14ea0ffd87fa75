"""Functions as learners write them for lesson 7: right ones, and wrong ones with the slug of the mistake."""

import math

import numpy as np

# -- run and extend -----------------------------------------------------------------------------------------


def layer_norm(x, weights, name, config, bug):
    weight, bias, epsilon = weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_epsilon
    if bug == "epsilon 1e-6":
        epsilon = 1e-6
    centred = x if bug == "rms" else x - x.mean(-1, keepdims=True)
    variance = (centred**2).sum(-1, keepdims=True) / (x.shape[-1] - (bug == "ddof"))
    root = np.sqrt(variance) + epsilon if bug == "epsilon outside" else np.sqrt(variance + epsilon)
    if bug == "root of spread":
        root = np.sqrt(np.sqrt(variance) + epsilon)
    x = centred / root
    if bug == "norm bracket":
        return x * (weight + bias)
    return x if bug == "no scale" else x * weight + bias


def linear(x, weights, name, bug):
    y = x @ weights[f"{name}.weight"]
    return (
        y if bug == f"no bias in {name.partition('.')[2].partition('.')[2]}" else y + weights[f"{name}.bias"]
    )


def gelu(x, bug):
    if bug == "relu":
        return np.maximum(x, 0)
    if bug == "erf":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    if bug == "gelu bracket":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * x + 0.044715 * x**3))
    if bug == "sigmoid":
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x, axis=-1, of_maximum=None):
    e = np.exp(x - x.max(of_maximum or axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def heads_of(x, n_head, bug):
    """[pos, n_embd] -> [head, pos, d_head]."""
    if bug == "cut untransposed":
        return x.reshape(n_head, len(x), -1)
    return x.reshape(len(x), n_head, -1).swapaxes(0, 1)


def attention(x, weights, name, config, cache, layer, keep, bug):
    qkv = keep("attn.qkv", linear(x, weights, f"{name}.attn.c_attn", bug))
    q, k, v = (heads_of(part, config.n_head, bug) for part in np.split(qkv, 3, axis=-1))
    if bug == "keys are values":
        k, v = v, k
    past = cache.get(layer)
    if past is not None and bug == "the first layer's cache":
        past = [old[:, : past[0].shape[1]] for old in cache[0]]
    if past is not None and bug != "cache not read":
        order = -1 if bug == "new in front" else 1
        k, v = (np.concatenate([old, new][::order], axis=1) for old, new in zip(past, (k, v), strict=True))
    cache[layer] = k, v
    scale = {"unscaled": 1, "by width": config.n_embd**0.5, "by d_head": config.d_head}.get(
        bug, config.d_head**0.5
    )
    scores = q @ k.swapaxes(1, 2) / scale
    shift = {"sees the next": 2, "not itself": 0}.get(bug, 1)
    forgets = bug == "mask forgets" or (bug == "mask of several" and len(x) > 1)
    before = 0 if forgets else k.shape[1] - len(x)
    hidden = np.triu(np.ones(scores.shape[1:], bool), shift + before)
    if bug != "no mask":
        scores = np.where(hidden, 0.0 if bug == "zero in the future" else -np.inf, scores)
    keep("attn.scores", scores)
    other = -2 if bug == "two axes" else None
    pattern = keep("attn.pattern", softmax(scores, 1 if bug == "softmax over queries" else -1, other))
    z = pattern @ v  # [head, pos, d_head]
    keep("attn.z", z.swapaxes(0, 1))
    merged = (z if bug == "merged untransposed" else z.swapaxes(0, 1)).reshape(len(x), -1)
    if bug == "c_proj transposed":
        return keep(
            "attn.out", merged @ weights[f"{name}.attn.c_proj.weight"].T + weights[f"{name}.attn.c_proj.bias"]
        )
    return keep("attn.out", linear(merged, weights, f"{name}.attn.c_proj", bug))


def forward(weights, config, ids, cache, bug=None, names="{}"):
    sites = {}

    def keeper(prefix):
        def keep(name, array):
            if bug != "logits only" or name == "logits":
                sites[names.format(prefix + name)] = array if bug == "no copy" else array.copy()
            return array

        return keep

    keep, start = keeper(""), cache.get("length", 0)
    cache["length"] = start + len(ids)
    start = {
        "restart": 0,
        "positions from 1": start + 1,
        "one late": start + bool(start),
        "another text": start + 12,
    }.get(bug, start)
    x = weights["wte.weight"][ids]
    if bug == "scaled embedding":
        x = x * config.n_embd**0.5
    if bug != "no positions":
        x = x + weights["wpe.weight"][np.arange(start, start + len(ids))]
    keep("embed", x)
    for layer in range(config.n_layer - (bug == "three layers")):
        h = "h.0" if bug == "one name" else f"h.{layer}"
        keep = keeper(f"{h}.")
        y = layer_norm(x, weights, f"{h}.ln_1", config, bug)
        if bug == "no ln_1":
            y = x
        if bug == "residual after ln":
            x = y
        out = attention(keep("ln_1", y), weights, h, config, cache, layer, keep, bug)
        before = x
        sign = -1 if bug == "subtracted" else 1
        x = keep("resid_mid", out if bug == "no residual" else x + sign * out)
        y = keep("ln_2", layer_norm(x, weights, f"{h}.ln_2", config, bug))
        y = keep("mlp.pre", linear(y, weights, f"{h}.mlp.c_fc", bug))
        y = keep("mlp.post", gelu(y, bug))
        y = keep("mlp.out", linear(y, weights, f"{h}.mlp.c_proj", bug))
        x = keep("resid_post", (before if bug == "mlp beside attention" else x) + y)
    keep = keeper("")
    y = keep(
        "ln_f",
        x if bug == "no ln_f" else layer_norm(y if bug == "ln_f of mlp" else x, weights, "ln_f", config, bug),
    )
    keep("logits", y @ weights["wte.weight"].T)
    return sites


def run(bug=None, names="{}"):
    return lambda weights, config, ids: forward(weights, config, ids, {}, bug, names)


def extend(bug=None):
    return lambda weights, config, ids, cache: forward(weights, config, ids, cache, bug)


def run_again(weights, config, ids, cache):
    """No cache of keys, but of tokens: right, if not fast."""
    cache["ids"] = [*cache.get("ids", ()), *ids]
    steps = run()(weights, config, cache["ids"])
    new = slice(len(cache["ids"]) - len(ids), None)
    return {
        name: array[:, new] if array.ndim == 3 and "attn.z" not in name else array[new]
        for name, array in steps.items()
    }


# -- first_wrong --------------------------------------------------------------------------------------------


def off(theirs, truth):
    with np.errstate(invalid="ignore"):
        error = np.where(theirs == truth, 0, np.abs(theirs - truth))
    return np.where(np.isnan(error), np.inf, error)


def first_wrong(theirs, truth, bands):
    for name in truth:
        if name in theirs and (off(theirs[name], truth[name]) > bands[name]).any():
            return name


def first_wrong_with_isclose(theirs, truth, bands):
    steps = [name for name in truth if name in theirs]
    wrong = [n for n in steps if not np.isclose(theirs[n], truth[n], rtol=0, atol=bands[n]).all()]
    return wrong[0] if wrong else None


def first_wrong_with_nan(theirs, truth, bands):
    with np.errstate(all="ignore"):
        for name in truth:
            if name in theirs and np.any(np.abs(theirs[name] - truth[name]) > bands[name]):
                return name
    return None


def by_name(theirs, truth, bands):
    for name in sorted(theirs):
        if (off(theirs[name], truth[name]) > bands[name]).any():
            return name


def as_dumped(theirs, truth, bands):
    for name, array in theirs.items():
        if (off(array, truth[name]) > bands[name]).any():
            return name


def worst(theirs, truth, bands):
    return max(theirs, key=lambda name: (off(theirs[name], truth[name]) / bands[name]).max())


def last(theirs, truth, bands):
    wrong = [n for n in truth if n in theirs and (off(theirs[n], truth[n]) > bands[n]).any()]
    return wrong[-1] if wrong else None


def equal(theirs, truth, bands):
    for name in truth:
        if name in theirs and not np.array_equal(theirs[name], truth[name]):
            return name


def on_average(theirs, truth, bands):
    for name in truth:
        if name in theirs and off(theirs[name], truth[name]).mean() > bands[name].mean():
            return name


def too_large_only(theirs, truth, bands):
    with np.errstate(all="ignore"):
        for name in truth:
            if name in theirs and (theirs[name] - truth[name] > bands[name]).any():
                return name


def all_inside(theirs, truth, bands):
    with np.errstate(all="ignore"):
        for name in truth:
            if name in theirs and not (np.abs(theirs[name] - truth[name]) <= bands[name]).all():
                return name


def judge(test, only=lambda name: True):
    """A judge with a test of error, band, theirs and the truth, that visits some steps only."""

    def wanted(theirs, truth, bands):
        with np.errstate(all="ignore"):
            for name in truth:
                if name in theirs and only(name):
                    a, b = theirs[name], truth[name]
                    if test(np.abs(a - b), bands[name], a, b):
                        return name

    return wanted


def first_wrong_below(theirs, truth, bands):
    with np.errstate(all="ignore"):
        for name in truth:
            if name in theirs:
                a, b = theirs[name], truth[name]
                if not ((a == b) | (a - b <= bands[name])).all():
                    return name


def first_step_only(theirs, truth, bands):
    for name in truth:
        if name in theirs:
            return name if (off(theirs[name], truth[name]) > bands[name]).any() else None


def furthest_outside(theirs, truth, bands):
    best, found = 0, None
    with np.errstate(all="ignore"):
        for name in truth:
            if name in theirs:
                outside = np.abs(theirs[name] - truth[name]) - bands[name]
                outside[theirs[name] == truth[name]] = 0
                if outside.max() > best:
                    best, found = outside.max(), name
    return found


def with_allclose(tolerance):
    return judge(lambda error, band, a, b: not np.allclose(a, b, atol=tolerance))


def all_steps_must_be_there(theirs, truth, bands):
    for name in truth:
        if name not in theirs or (off(theirs[name], truth[name]) > bands[name]).any():
            return name


# -- answers ------------------------------------------------------------------------------------------------

ANSWERS = [
    *("scores-scaled-by-d-head", "gelu-erf", "missing-bias", "position-off-by-one", "qkv-kv-swapped"),
    *("wrong-residual-branch", "layernorm-ddof1", "mask-off-by-one", "heads-merged-untransposed"),
    "stale-cache-row",
]


def answered(**others):
    """The right answers, but for some: `_2="bias-twice"`."""
    given = [others.get(f"_{i}", answer) for i, answer in enumerate(ANSWERS)]
    return lambda: given


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("own.run", run(), None),
    ("own.run", run("no copy"), None),
    ("own.run", run(names="transformer.{}"), None),
    ("own.run", run("positions from 1"), "position-off-by-one"),
    ("own.run", run("no positions"), "position-missing"),
    ("own.run", run("scaled embedding"), "embedding-scaled"),
    ("own.run", run("ddof"), "layernorm-ddof1"),
    ("own.run", run("epsilon outside"), "layernorm-eps-outside"),
    ("own.run", run("no scale"), "layernorm-no-weight"),
    ("own.run", run("no ln_1"), "missing-ln"),
    ("own.run", run("no bias in attn.c_attn"), "missing-bias"),
    ("own.run", run("cut untransposed"), "heads-cut-untransposed"),
    ("own.run", run("keys are values"), "qkv-kv-swapped"),
    ("own.run", run("unscaled"), "scores-unscaled"),
    ("own.run", run("by d_head"), "scores-scaled-by-d-head"),
    ("own.run", run("no mask"), "mask-missing"),
    ("own.run", run("zero in the future"), "mask-value-small"),
    ("own.run", run("softmax over queries"), "softmax-wrong-axis"),
    ("own.run", run("merged untransposed"), "heads-merged-untransposed"),
    ("own.run", run("c_proj transposed"), "transposed-c-proj"),
    ("own.run", run("residual after ln"), "residual-after-ln"),
    ("own.run", run("no residual"), "residual-missing"),
    ("own.run", run("mlp beside attention"), "wrong-residual-branch"),
    ("own.run", run("relu"), "activation-relu"),
    ("own.run", run("erf"), "gelu-erf"),
    ("own.run", run("no ln_f"), "missing-ln-f"),
    ("own.run", run("three layers"), "layers-missing"),
    ("own.run", run("one name"), "written-twice"),
    ("own.run", run("root of spread"), "layernorm-root-of-spread"),
    ("own.run", run("norm bracket"), "layernorm-bracket"),
    ("own.run", run("gelu bracket"), "gelu-bracket"),
    ("own.run", run("two axes"), "softmax-two-axes"),
    ("own.run", run("subtracted"), "residual-subtracted"),
    ("own.run", run("ln_f of mlp"), "norm-of-what-was-written"),
    ("own.extend", extend(), None),
    ("own.extend", run_again, None),
    ("own.extend", extend("restart"), "position-restart"),
    ("own.extend", extend("one late"), "position-off-by-one"),
    ("own.extend", extend("cache not read"), "cache-not-used"),
    ("own.extend", extend("the first layer's cache"), "cache-of-another-layer"),
    ("own.extend", extend("new in front"), "cache-reversed"),
    ("own.extend", extend("mask forgets"), "mask-forgets-cache"),
    ("own.extend", extend("another text"), "cache-of-another-text"),
    ("own.extend", extend("mask of several"), "mask-of-several-tokens"),
    ("own.extend", extend("unscaled"), "scores-unscaled"),
    ("own.first_wrong", first_wrong, None),
    ("own.first_wrong", first_wrong_with_isclose, None),
    ("own.first_wrong", first_wrong_with_nan, "nan-passes"),
    ("own.first_wrong", by_name, "order-of-names"),
    ("own.first_wrong", as_dumped, "order-of-the-dump"),
    ("own.first_wrong", worst, "largest-error"),
    ("own.first_wrong", last, "last-wrong"),
    ("own.first_wrong", equal, "every-rounding"),
    ("own.first_wrong", on_average, "mean-error"),
    ("own.first_wrong", too_large_only, "one-sided"),
    ("own.first_wrong", all_inside, "infinity-less-infinity"),
    *(("own.first_wrong", with_allclose(tolerance), "fixed-tolerance") for tolerance in (1e-3, 1e-4, 1e-6)),
    ("own.first_wrong", judge(lambda error, band, a, b: np.nanmax(error) > 1e-4), "fixed-tolerance"),
    (
        "own.first_wrong",
        judge(lambda error, band, a, b: not np.allclose(a, b, atol=band)),
        "two-tolerances",
    ),
    (
        "own.first_wrong",
        judge(lambda error, band, a, b: not np.isclose(a, b, atol=band).all()),
        "two-tolerances",
    ),
    ("own.first_wrong", judge(lambda error, band, a, b: (error > band).all()), "all-numbers-wrong"),
    ("own.first_wrong", first_wrong_below, "one-sided"),
    ("own.first_wrong", first_step_only, "first-step-only"),
    ("own.first_wrong", furthest_outside, "largest-error"),
    ("own.first_wrong", judge(lambda error, band, a, b: np.nanmax(error) > band.max()), "largest-band"),
    (
        "own.first_wrong",
        judge(lambda error, band, a, b: (error > band).any(), lambda n: "scores" not in n),
        "scores-left-out",
    ),
    ("own.first_wrong", judge(lambda error, band, a, b: (error > band)[np.isfinite(b)].any()), "finite-only"),
    (
        "own.first_wrong",
        judge(lambda error, band, a, b: (error > band)[np.isfinite(a) & np.isfinite(b)].any()),
        "finite-only",
    ),
    ("own.first_wrong", judge(lambda error, band, a, b: np.nanmax(error - band) > 0), "nan-passes"),
    ("own.first_wrong", all_steps_must_be_there, "missing-step"),
    ("own.answers", answered(), None),
    *(("own.answers", answered(**{f"_{i}": None}), f"dump-{i}") for i in range(10)),
    ("own.answers", answered(_2="bias-twice", _7="mask-missing"), "dump-2"),
]
