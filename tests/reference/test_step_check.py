"""One step at a time: functions as learners write them, right and wrong, each held against its site."""

import math
import re

import numpy as np
import pytest
from support import made_up

import gpt2np
from gpt2np.errors import InputError, UnknownSiteError
from gpt2np.reference import check_step
from gpt2np.reference.mistakes import KNOWN

PROMPT = "Lord Tamber spoke; and then Lord Tam"
N_HEAD, D_HEAD, N = 4, 48, 12
ROOT = math.sqrt(2 / math.pi)
ROWS, KEYS = np.arange(N)[:, None], np.arange(N)


@pytest.fixture(scope="module")
def run(tiny64):
    return tiny64.trace(PROMPT)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


# -- what a token becomes -----------------------------------------------------------------------------


def embed(scale=1.0, first=0, positions=True):
    def function(t, p):
        places = np.arange(first, first + N)
        return p.wte[list(t.token_ids)] * scale + (p.wpe[places] if positions else 0)

    return function


# -- layer norm ---------------------------------------------------------------------------------------


def norm(axis=-1, ddof=0, eps="inside", mean=True, weight=True, bias=True, root=True, layer=0):
    def function(t, p):
        x, w = t[f"h.{layer}.resid_pre"], p.h[layer].ln_1
        m = x.mean(axis, keepdims=True) if mean else 0.0
        variance = np.square(x - m).sum(axis, keepdims=True) / (x.shape[axis] - ddof)
        if eps == "outside":
            deviation = np.sqrt(variance) + w.epsilon
        else:
            deviation = np.sqrt(variance + {"inside": w.epsilon, "none": 0.0}.get(eps, eps))
        x = (x - m) / (deviation if root else variance + w.epsilon)
        return x * (w.weight if weight else 1) + (w.bias if bias else 0)

    return function


# -- the MLP ------------------------------------------------------------------------------------------


def gelu(factor=ROOT, cubic=0.044715, power=3, half=0.5):
    def function(t, p):
        x = t["h.1.mlp.pre"]
        return half * x * (1 + np.tanh(factor * (x + cubic * x**power)))

    return function


def of_pre(op):
    return lambda t, p: op(t["h.1.mlp.pre"])


def after_mlp(base="x", reads="ln_2", bias=1, residual=True):
    def function(t, p):
        x, w = t["h.1.resid_mid"], p.h[1]
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + w.ln_2.epsilon)
        normed = normed * w.ln_2.weight + w.ln_2.bias
        h = (normed if reads == "ln_2" else x) @ w.mlp.c_fc.weight + w.mlp.c_fc.bias
        h = 0.5 * h * (1 + np.tanh(ROOT * (h + 0.044715 * h**3)))
        out = h @ w.mlp.c_proj.weight + bias * w.mlp.c_proj.bias
        if not residual:
            return out
        return {"x": x, "ln": normed, "block": t["h.1.resid_pre"]}[base] + out

    return function


# -- attention ----------------------------------------------------------------------------------------


def thirds(order="qkv", part="q", cut="heads"):
    def function(t, p):
        qkv = t["h.1.attn.qkv"]
        if cut == "heads first":  # [pos, head, 3, d_head]
            return qkv.reshape(N, N_HEAD, 3, D_HEAD)[:, :, "qkv".index(part)]
        if cut == "interleaved":  # [pos, head, d_head, 3]
            return qkv.reshape(N, N_HEAD, D_HEAD, 3)[..., "qkv".index(part)]
        x = np.split(qkv, 3, axis=1)[order.index(part)]
        if cut == "strided":
            return x.reshape(N, D_HEAD, N_HEAD).swapaxes(1, 2)
        if cut == "untransposed":
            return x.reshape(N_HEAD, N, D_HEAD).swapaxes(0, 1)
        return x.reshape(N, N_HEAD, D_HEAD)

    return function


def scores(scale=D_HEAD**-0.5, seen=ROWS >= KEYS, fill=-np.inf, swapped=False, how="set"):
    def function(t, p):
        q, k = t["h.1.attn.q"], t["h.1.attn.k"]
        if swapped:
            q, k = k, q
        s = np.einsum("qhd,khd->hqk", q, k) * scale
        if how == "add":
            return s + np.where(seen, 0.0, fill)
        return s * seen if how == "times" else np.where(seen, s, fill)

    return function


def pattern(seen=ROWS >= KEYS, fill=-np.inf, axis=-1, after=False, scale=D_HEAD**-0.5):
    def function(t, p):
        s = np.einsum("qhd,khd->hqk", t["h.1.attn.q"], t["h.1.attn.k"]) * scale
        with np.errstate(invalid="ignore"):
            return softmax(s) * seen if after else softmax(np.where(seen, s, fill), axis)

    return function


def mix(transposed=False, merged="by head"):
    def function(t, p):
        a, v = t["h.1.attn.pattern"], t["h.1.attn.v"]
        z = np.einsum("hkq,khd->qhd" if transposed else "hqk,khd->qhd", a, v)
        if merged == "as it lies":
            return z.swapaxes(0, 1).reshape(N, N_HEAD, D_HEAD)
        if merged == "interleaved":
            return z.swapaxes(1, 2).reshape(N, N_HEAD, D_HEAD)
        return z

    return function


def project(transposed=False, bias=True):
    def function(t, p):
        w = p.h[1].attn.c_proj
        x = t["h.1.attn.z"].reshape(N, -1)
        return x @ (w.weight.T if transposed else w.weight) + (w.bias if bias else 0)

    return function


def logits(reads="ln_f", weight=True):
    def function(t, p):
        x, w = t["h.3.resid_post"], p.ln_f
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + w.epsilon)
        normed = normed * w.weight + w.bias if weight else normed
        return (normed if reads == "ln_f" else x) @ p.wte.T

    return function


RIGHT = {
    "embed": ("embed", embed()),
    "layer_norm": ("h.0.ln_1", norm()),
    "layer_norm of layer 1": ("h.1.ln_1", norm(layer=1)),
    "gelu": ("h.1.mlp.post", gelu()),
    "after_mlp": ("h.1.resid_post", after_mlp()),
    "q": ("h.1.attn.q", thirds()),
    "k": ("h.1.attn.k", thirds(part="k")),
    "v": ("h.1.attn.v", thirds(part="v")),
    "scores": ("h.1.attn.scores", scores()),
    "scores, -1e10": ("h.1.attn.scores", scores(fill=-1e10)),
    "scores, -1e9 added": ("h.1.attn.scores", scores(fill=-1e9, how="add")),
    "pattern": ("h.1.attn.pattern", pattern()),
    "pattern, -1e10": ("h.1.attn.pattern", pattern(fill=-1e10)),
    "pattern, -100": ("h.1.attn.pattern", pattern(fill=-100.0)),
    "mix": ("h.1.attn.z", mix()),
    "c_proj": ("h.1.attn.out", project()),
    "logits": ("logits", logits()),
}

SEES_NEXT, SEES_PAST, UPSIDE_DOWN = ROWS + 1 >= KEYS, ROWS > KEYS, ROWS <= KEYS
WRONG = [
    ("embed", embed(first=1), "position-off-by-one"),
    ("embed", embed(positions=False), "position-missing"),
    ("embed", embed(scale=192**0.5), "embedding-scaled"),
    ("h.0.ln_1", norm(ddof=1), "layernorm-ddof1"),
    ("h.0.ln_1", norm(eps="outside"), "layernorm-eps-outside"),
    ("h.0.ln_1", norm(eps="none"), "layernorm-no-eps"),
    ("h.1.ln_1", norm(eps="none", layer=1), "layernorm-no-eps"),
    ("h.0.ln_1", norm(eps=1e-6), "layernorm-eps-value"),
    ("h.0.ln_1", norm(mean=False), "layernorm-no-mean"),
    ("h.0.ln_1", norm(weight=False), "layernorm-no-weight"),
    ("h.0.ln_1", norm(bias=False), "missing-bias"),
    ("h.0.ln_1", norm(axis=0), "layernorm-wrong-axis"),
    ("h.0.ln_1", norm(root=False), "layernorm-no-root"),
    ("h.1.mlp.post", of_pre(lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))), "gelu-erf"),
    ("h.1.mlp.post", of_pre(lambda x: x / (1 + np.exp(-1.702 * x))), "gelu-quick"),
    ("h.1.mlp.post", of_pre(lambda x: np.maximum(x, 0)), "activation-relu"),
    ("h.1.mlp.post", of_pre(lambda x: x), "activation-missing"),
    ("h.1.mlp.post", gelu(cubic=0.44715), "gelu-constant"),
    ("h.1.mlp.post", gelu(power=2), "gelu-constant"),
    ("h.1.mlp.post", gelu(half=1.0), "gelu-factor"),
    ("h.1.mlp.post", gelu(factor=2 / math.pi), "gelu-factor"),
    ("h.1.resid_post", after_mlp(residual=False), "residual-missing"),
    ("h.1.resid_post", after_mlp(base="ln"), "residual-after-ln"),
    ("h.1.resid_post", after_mlp(base="block"), "wrong-residual-branch"),
    ("h.1.resid_post", after_mlp(reads="resid_mid"), "missing-ln"),
    ("h.1.resid_post", after_mlp(bias=0), "missing-bias"),
    ("h.1.resid_post", after_mlp(bias=2), "bias-twice"),
    ("h.1.attn.q", thirds(cut="heads first"), "heads-before-qkv"),
    ("h.1.attn.q", thirds(cut="interleaved"), "qkv-interleaved"),
    ("h.1.attn.q", thirds(cut="strided"), "heads-strided"),
    ("h.1.attn.k", thirds(part="k", order="qvk"), "qkv-kv-swapped"),
    ("h.1.attn.q", thirds(order="kqv"), "qkv-order"),
    ("h.1.attn.q", thirds(cut="untransposed"), "heads-cut-untransposed"),
    ("h.1.attn.scores", scores(scale=1.0), "scores-unscaled"),
    ("h.1.attn.scores", scores(scale=1 / D_HEAD), "scores-scaled-by-d-head"),
    ("h.1.attn.scores", scores(scale=192**-0.5), "scores-scaled-by-n-embd"),
    ("h.1.attn.scores", scores(scale=0.5), "scores-scaled-by-n-head"),
    ("h.1.attn.scores", scores(swapped=True), "qkv-order"),
    ("h.1.attn.scores", scores(seen=ROWS < N), "mask-missing"),
    ("h.1.attn.scores", scores(seen=SEES_NEXT), "mask-off-by-one"),
    ("h.1.attn.scores", scores(seen=SEES_PAST), "mask-off-by-one"),
    ("h.1.attn.scores", scores(seen=UPSIDE_DOWN), "mask-anticausal"),
    ("h.1.attn.scores", scores(fill=0.0), "mask-value-small"),
    ("h.1.attn.scores", scores(how="times"), "mask-value-small"),
    ("h.1.attn.pattern", pattern(seen=ROWS < N), "mask-missing"),
    ("h.1.attn.pattern", pattern(seen=SEES_NEXT), "mask-off-by-one"),
    ("h.1.attn.pattern", pattern(seen=SEES_PAST), "mask-off-by-one"),
    ("h.1.attn.pattern", pattern(seen=UPSIDE_DOWN), "mask-anticausal"),
    ("h.1.attn.pattern", pattern(fill=0.0), "mask-value-small"),
    ("h.1.attn.pattern", pattern(fill=1e-9), "mask-value-small"),
    ("h.1.attn.pattern", pattern(after=True), "mask-after-softmax"),
    ("h.1.attn.pattern", pattern(axis=-2), "softmax-wrong-axis"),
    ("h.1.attn.pattern", pattern(scale=1.0), "scores-unscaled"),
    ("h.1.attn.z", mix(transposed=True), "pattern-transposed"),
    ("h.1.attn.z", mix(merged="as it lies"), "heads-merged-untransposed"),
    ("h.1.attn.z", mix(merged="interleaved"), "heads-merged-interleaved"),
    ("h.1.attn.out", project(transposed=True), "transposed-c-proj"),
    ("h.1.attn.out", project(bias=False), "missing-bias"),
    ("logits", logits(reads="resid"), "missing-ln-f"),
    ("logits", logits(weight=False), "layernorm-no-weight"),
]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("what", RIGHT)
def test_right_functions_are_right(tiny64, run, what, precision):
    site, function = RIGHT[what]
    values = function(run, tiny64.parameters)
    found = check_step(site, values.astype(precision), PROMPT, tiny64, budget=0)
    assert (found.state, found.mistake, found.where, found.hint) == ("right", None, "", ""), found
    assert found.ratio <= 1


@pytest.mark.every(2)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("site", "function", "slug"), WRONG, ids=[f"{i} {site} {slug}" for i, (site, _, slug) in enumerate(WRONG)]
)
def test_wrong_functions_get_their_name(tiny64, run, site, function, slug, precision):
    values = function(run, tiny64.parameters).astype(precision)
    found = check_step(site, values, PROMPT, tiny64, budget=0)
    assert (found.state, found.mistake) == ("wrong", slug), found
    assert found.hints == next(m.hints for m in KNOWN if m.slug == slug)
    assert found.hint == found.hints[0] != found.hints[1]
    assert found.where


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_every_site_is_right_as_it_is(tiny64, run, precision):
    names = [name for name, _, _ in tiny64.config.architecture.sites.expand(2) if name != "top_k_tokens"]
    assert len(names) > 50
    for name in names:
        found = check_step(name, run[name].astype(precision), PROMPT, tiny64)
        assert (found.state, found.mistake) == ("right", None), found


def test_float32_noise_in_a_float64_array_is_no_mistake(tiny, tiny64):
    single = tiny.trace(PROMPT)
    for name in ("h.0.ln_1", "h.1.ln_1", "h.3.attn.pattern", "h.2.mlp.post", "h.3.resid_post", "logits"):
        values = single[name].astype(np.float64) + 1e-9  # no number of float32 any more
        found = check_step(name, values, PROMPT, tiny64)
        assert (found.state, found.mistake) == ("right", None), found


def test_what_nobody_would_do_has_no_name(tiny64, run):
    rng = np.random.default_rng(0)
    for name in ("embed", "h.0.ln_1", "h.1.attn.q", "h.1.attn.pattern", "h.1.mlp.post", "logits"):
        for values in (run[name] + rng.normal(0, 0.1, run[name].shape), np.full_like(run[name], np.nan)):
            found = check_step(name, values, PROMPT, tiny64, budget=0.2)
            assert (found.state, found.mistake, found.hint) == ("wrong", None, ""), found


def test_the_place_is_said_and_never_the_value(tiny64, run):
    values = np.array(run["h.1.attn.scores"])
    values[2, 7, 4] = 12345.678
    found = check_step("h.1.attn.scores", values, PROMPT, tiny64)
    assert found.where == "head 2, query 7, key 4 (1 of 576 are outside)"
    values = np.array(run["h.0.ln_1"])
    values[3] += 12345.678
    found = check_step("h.0.ln_1", values, PROMPT, tiny64)
    assert re.fullmatch(r"pos 3, n_embd \d+ \(192 of 2,304 are outside\)", found.where)
    assert "12345" not in repr(found)


def test_a_future_with_a_small_number_is_suspicious(tiny64, run):
    values = scores(fill=-100.0)(run, None)
    found = check_step("h.1.attn.scores", values, PROMPT, tiny64)
    assert (found.state, found.mistake) == ("suspicious", None)
    assert found.where.startswith("head 0, query 0, key 1 ")


def test_a_wrong_shape_is_no_other_layout(tiny64, run):
    values = run["h.1.attn.pattern"].transpose(1, 2, 0)
    found = check_step("h.1.attn.pattern", values, PROMPT, tiny64)
    assert found.state == "shape"
    assert found.where == "[head query key] = (4, 12, 12), yours is (12, 12, 4)"
    assert check_step("h.0.ln_1", run["h.0.ln_1"][:-1], PROMPT, tiny64).state == "shape"
    assert check_step("h.0.ln_1", 1.0, PROMPT, tiny64).state == "shape"


def test_lists_and_whole_numbers_are_numbers(tiny64, run):
    assert check_step("embed", run["embed"].tolist(), PROMPT, tiny64).state == "right"
    ones = np.ones(run["embed"].shape, np.int64)
    assert check_step("embed", ones, run.token_ids, tiny64).state == "wrong"


@pytest.mark.parametrize(
    "values", ["text", [[1.0], [1.0, 2.0]], np.zeros(3, complex), np.zeros(3, bool), None, np.zeros(3, "f2")]
)
def test_what_is_no_array_of_numbers_is_refused(tiny64, values):
    with pytest.raises(InputError, match="the values are"):
        check_step("embed", values, PROMPT, tiny64)


def test_bad_calls_are_refused(tiny, tiny64, run):
    values = run["embed"]
    with pytest.raises(UnknownSiteError):
        check_step("h.9.ln_1", values, PROMPT, tiny64)
    with pytest.raises(InputError, match="is not in the catalogue"):
        check_step("embed", values, PROMPT, tiny64, mistakes=["embedding-lost"])
    with pytest.raises(InputError, match="must be a list"):
        check_step("embed", values, PROMPT, tiny64, mistakes="gelu-erf")
    with pytest.raises(InputError, match="budget=-1: must be a number of seconds"):
        check_step("embed", values, PROMPT, tiny64, budget=-1)
    with pytest.raises(InputError, match=r"model='tiny': must be what gpt2np\.load gives"):
        check_step("embed", values, PROMPT, "tiny")
    with pytest.raises(InputError, match="ids, not numbers"):
        check_step("top_k_tokens", values, PROMPT, tiny64)
    noise = check_step("embed", values, PROMPT, tiny64).noise
    with pytest.raises(InputError, match="other tokens"):
        check_step("embed", values, "Elizabeth was", tiny64, noise=noise)


def test_only_the_mistakes_that_are_named_are_looked_for(tiny64, run):
    values = embed(first=1)(run, tiny64.parameters)
    found = check_step("embed", values, PROMPT, tiny64, mistakes=["position-missing", "embedding-scaled"])
    assert (found.state, found.mistake) == ("wrong", None)
    found = check_step("embed", values, PROMPT, tiny64, mistakes=["bos-prepended"])
    assert (found.state, found.mistake) == ("wrong", "bos-prepended")  # the same numbers
    found = check_step("embed", values, PROMPT, tiny64, mistakes=["bos-prepended", "position-off-by-one"])
    assert (found.state, found.mistake) == ("wrong", "position-off-by-one")


def test_derived_sites_have_names_too(tiny64, run):
    x, logits = run["h.0.resid_pre"], run["logits"]
    of_itself = np.log(np.exp(logits).sum(-1)) - logits[range(N), list(run.token_ids)]
    for site, values, slug in (
        ("h.0.ln_1.rstd", 1 / np.sqrt(x.var(-1, ddof=1) + 1e-5), "layernorm-ddof1"),
        ("h.0.ln_1.mean", np.zeros(N), "layernorm-no-mean"),
        ("h.1.resid_pre", run["embed"], "layer-skipped"),
        ("loss", of_itself, "targets-not-shifted"),
    ):
        found = check_step(site, values, PROMPT, tiny64, budget=0)
        assert (found.state, found.mistake) == ("wrong", slug), found


def test_the_state_does_not_depend_on_the_time(tiny64, run):
    values = gelu(cubic=0.44715)(run, None)
    found = [check_step("h.1.mlp.post", values, PROMPT, tiny64, budget=seconds) for seconds in (1e-9, 0)]
    assert [f.mistake for f in found] == [None, "gelu-constant"]
    assert found[0].state == found[1].state == "wrong"
    assert (found[0].where, found[0].ratio) == (found[1].where, found[1].ratio)


def test_the_search_ends_at_the_same_form_everywhere(tiny64, run):
    values = gelu(cubic=0.44715)(run, None)
    whole = check_step("h.1.mlp.post", values, PROMPT, tiny64, budget=0)
    assert (whole.mistake, whole.ended) == ("gelu-constant", False)
    assert whole.tried > 1
    some = check_step("h.1.mlp.post", values, PROMPT, tiny64, budget=0, forms=1)
    assert (some.mistake, some.tried, some.ended) == (None, 1, True)
    for forms in (-1, 1.5, True, None):
        with pytest.raises(InputError, match=r"forms=.*: must be an integer of at least 0"):
            check_step("h.1.mlp.post", values, PROMPT, tiny64, forms=forms)


def test_truth_and_noise_are_computed_once(tiny64, run, monkeypatch):
    from gpt2np.reference import step_check

    noise = check_step("embed", run["embed"], PROMPT, tiny64).noise
    monkeypatch.setattr(step_check, "expect", None)  # is not called again
    again = check_step("h.2.ln_1", run["h.2.ln_1"], run.token_ids, tiny64)
    assert (again.state, again.noise is noise) == ("right", True)
    step_check._known.clear()
    assert check_step("embed", run["embed"], PROMPT, tiny64, noise=noise).state == "right"


def test_another_architecture_is_judged_without_names(tmp_path):
    model = gpt2np.load(made_up.write(tmp_path / "m"))
    ids = [3, 1, 4, 1, 5, 92, 65]
    trace = model.trace(ids)
    for name in trace.names():
        assert check_step(name, trace[name], ids, model).state == "right", name
    for name in trace.names()[::3]:
        found = check_step(name, trace[name] * 1.5 + 1, ids, model)
        assert (found.state, found.mistake) == ("wrong", None), name
