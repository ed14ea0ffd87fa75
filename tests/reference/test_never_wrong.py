"""Dumps of right runs, as people have them, are within noise; what says nothing gets no mistake's name."""

import functools

import numpy as np
import pytest
from support.random_model import random_model

from gpt2np.errors import ComparisonError, InputError
from gpt2np.reference.comparison import compare
from gpt2np.reference.mistake_replay import Scope
from gpt2np.reference.mistakes import CATALOGUE

IDS = [3, 14, 15, 9, 26, 5, 35, 8, 9]
N = len(IDS)


@functools.cache
def model():
    return random_model(4, "float32", n_layer=3, n_head=3, n_embd=24, vocab_size=60)


@functools.cache
def trace():
    return model().trace(IDS)


def site(name):
    return np.array(trace()[name])


def every():
    """All stored sites."""
    return {name: site(name) for name in trace().names()}


def some(*names):
    return {name: site(name) for name in names}


def hold(dump, **options):
    return compare(dump, model(), IDS, **options)


def buffer(array, n, fill=0.0, quadratic=False):
    """The array at the start of a larger one."""
    if quadratic:
        out = np.full((len(array), n, n), fill, array.dtype)
        out[:, :N, :N] = array
        return out
    out = np.full((n, *array.shape[1:]), fill, array.dtype)
    out[:N] = array
    return out


def log_sum(x):
    return np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True)).astype(np.float32)


def unscaled(factor=8**0.5):
    return every() | {f"h.{i}.attn.scores": site(f"h.{i}.attn.scores") * factor for i in range(3)}


def as_tl4():
    """The names of TransformerLens' bridge, with a batch axis: several are the same array."""
    found = {"embed.hook_in": np.array([IDS]), "pos_embed.hook_in": np.arange(N)[None]}
    names = {"embed.hook_out": "wte", "pos_embed.hook_out": "wpe", "ln_final.hook_in": "h.2.resid_post"}
    names |= {"ln_final.hook_normalized": "ln_f.normalized", "ln_final.hook_out": "ln_f"}
    names |= {"unembed.hook_in": "ln_f", "unembed.hook_out": "logits", "hook_unembed": "logits"}
    inside = {
        "hook_in": "resid_pre", "ln1.hook_in": "resid_pre", "ln1.hook_normalized": "ln_1.normalized",
        "ln1.hook_out": "ln_1", "attn.hook_in": "ln_1", "attn.q.hook_in": "ln_1", "attn.q.hook_out": "attn.q",
        "attn.k.hook_out": "attn.k", "attn.v.hook_out": "attn.v", "attn.o.hook_in": "attn.z",
        "attn.o.hook_out": "attn.out", "attn.hook_hidden_states": "attn.out", "attn.hook_out": "attn.out",
        "ln2.hook_in": "resid_mid", "ln2.hook_out": "ln_2", "mlp.hook_in": "ln_2", "mlp.in.hook_in": "ln_2",
        "mlp.in.hook_out": "mlp.pre", "mlp.out.hook_in": "mlp.post", "mlp.out.hook_out": "mlp.out",
        "mlp.hook_out": "mlp.out", "hook_out": "resid_post",
    }  # fmt: skip
    names |= {f"blocks.{i}.{theirs}": f"h.{i}.{ours}" for i in range(3) for theirs, ours in inside.items()}
    return found | {theirs: site(ours)[None] for theirs, ours in names.items()}


def as_tl2():
    """`hook_normalized` after weight and bias."""
    names = {f"blocks.{i}.ln{n}.hook_normalized": f"h.{i}.ln_{n}" for i in range(3) for n in (1, 2)}
    return {theirs: site(ours) for theirs, ours in (names | {"ln_final.hook_normalized": "ln_f"}).items()}


def numbered_from_1():
    return {name if name[:2] != "h." else f"h.{int(name[2]) + 1}{name[3:]}": x for name, x in every().items()}


def steps():
    return {"h.1.ln_1": site("h.1.ln_1")[-1:], "logits": site("logits")[-1:]}


def in_steps():
    """Five tokens at once, then one at a time, with what attention sees and the cache."""
    inside = ("1.mlp.post", "1.attn.pattern", "1.attn.scores", "0.attn.k", "0.attn.v")
    names = ["logits", "ln_f", *(f"h.{name}" for name in inside)]
    found = {}
    for i, rows in enumerate([slice(0, 5), *(slice(p, p + 1) for p in range(5, N))]):
        for name in names:
            x = site(name)
            if name.endswith((".k", ".v")):
                x = x[: rows.stop].swapaxes(0, 1)
            else:
                x = x[:, rows, : rows.stop] if x.ndim == 3 else x[rows]
            found[f"step{i}.{name}"] = x[None]
    return found


# The dump, and a part of what has to be said of it.
RIGHT = {
    "all sites": (every, "within noise: 41 sites of 9 tokens"),
    "TransformerLens 4": (as_tl4, "within noise: "),
    "TransformerLens 2": (as_tl2, "by its values it is h.0.ln_1, not h.0.ln_1.normalized"),
    "TransformerLens 3": (lambda: {"blocks.1.ln1.hook_normalized": site("h.1.ln_1.normalized")}, ""),
    "embed is the tokens' alone": (
        lambda: every() | {"embed": site("wte")},
        "it has the values of wte, and what follows from embed is right",
    ),
    "embed is the tokens', which are not there": (
        lambda: some("h.0.ln_1", "ln_f") | {"embed": site("wte")},
        "it has the values of wte, and what follows",
    ),
    "scores before scaling": (unscaled, "before they are scaled, 2.82843 times ours"),
    "scores before scaling, beside z": (
        lambda: some("h.0.attn.z") | {"h.0.attn.scores": site("h.0.attn.scores") * 8**0.5},
        "before they are scaled",
    ),
    "scores in base 2": (lambda: unscaled(1 / np.log(2)), "1.4427 times ours"),
    "scores less their largest": (
        lambda: {"h.0.attn.scores": site("h.0.attn.scores") - site("h.0.attn.scores").max(-1, keepdims=True)},
        "less the largest of the row",
    ),
    "queries scaled": (lambda: every() | {"h.1.attn.q": site("h.1.attn.q") * 8**-0.5}, "0.353553 times ours"),
    "queries and keys scaled": (
        lambda: every() | {f"h.1.attn.{x}": site(f"h.1.attn.{x}") * 8**-0.25 for x in "qk"},
        "0.594604 times ours",
    ),
    "logits less their largest": (
        lambda: {"logits": site("logits") - site("logits").max(-1, keepdims=True)},
        "less the largest of the row",
    ),
    "log-probabilities": (lambda: {"logits": site("logits") - log_sum(site("logits"))}, "log-probabilities"),
    "centred logits": (
        lambda: {"logits": site("logits") - site("logits").mean(-1, keepdims=True)},
        "a centred unembedding",
    ),
    "a buffer of zeros": (
        lambda: {"logits": buffer(site("logits"), 40)},
        "the first 9 of its 40 rows are compared",
    ),
    "a buffer with something behind": (
        lambda: {n: buffer(x, 16, 7.0, "attn.s" in n or "pattern" in n) for n, x in every().items()},
        "the first 9 of its 16",
    ),
    "one more row": (lambda: {"logits": buffer(site("logits"), N + 1, 3.0)}, "the first 9 of its 10 rows"),
    "a cache of fixed length": (
        lambda: {
            "past_key_values": np.stack(
                [[buffer(site(f"h.{i}.attn.{x}"), 32).swapaxes(0, 1)[None] for x in "kv"] for i in range(3)]
            )
        },
        "the first 9 of its 32 rows",
    ),
    "layers from 1": (numbered_from_1, "layers are numbered from 1: your h.1.ln_1 is our h.0.ln_1"),
    "some layers, from 1": (
        lambda: {"layer_1/mlp": site("h.0.mlp.out"), "layer_2/mlp": site("h.1.mlp.out")},
        "layers are numbered from 1: your layer_1/mlp is our h.0.mlp.out",
    ),
    "the last row": (steps, "1 row for 9 tokens"),
    "last_hidden_state": (lambda: {"last_hidden_state": site("ln_f")[None]}, ""),
    "one hidden state": (lambda: {"hidden_states": site("ln_f")[None]}, ""),
    "one hidden state before ln_f": (lambda: {"hidden_states": site("h.2.resid_post")}, ""),
    "hidden states of the blocks": (lambda: {"hidden_states": trace().stack("resid_post")[:, None]}, ""),
    "keys and values side by side": (
        lambda: {"h.0.attn.k": np.concatenate([site(f"h.0.attn.{x}").reshape(N, -1) for x in "kv"], -1)},
        "keys and values side by side",
    ),
    "a layer's cache": (
        lambda: {"past_key_values.1": np.stack([site(f"h.1.attn.{x}").swapaxes(0, 1) for x in "kv"])},
        "heads first",
    ),
    "losses of all but the last": (lambda: {"loss": site("loss")[:-1]}, "8 rows for 9 tokens"),
    "step by step": (in_steps, "within noise: 7 sites"),
    "the last logits of each step": (
        lambda: {f"logits[{i}]": site("logits")[i : i + 1] for i in range(4, N)},
        "5 rows for 9 tokens",
    ),
    "the bias is added later": (
        lambda: {"ffn_up-0": site("h.0.mlp.pre") - 0.3, "ffn_up_b-0": site("h.0.mlp.pre")},
        "which is taken",
    ),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("case", RIGHT)
def test_a_right_run_is_within_noise(case):
    dump, said = RIGHT[case]
    found = hold(dump())
    text = " ".join(str(found).split())
    assert (found.verdict, found.mistake, found.exit_code) == ("within-noise", None, 0), str(found)
    assert " ".join(said.split()) in text


def zeroed(name, *rows):
    array = site(name)
    array[list(rows)] = 0
    return array


def centred(*names):
    return {name: site(name) - site(name).mean(-1, keepdims=True) for name in names}


def processed():
    """What TransformerLens' default loader makes of it."""
    found = centred("wte", "wpe", "embed", *(f"h.{i}.resid_post" for i in range(3)), "logits")
    bias = model().weights["h.0.attn.c_attn.bias"][48:].reshape(3, 8)
    found |= {"blocks.0.attn.hook_v": site("h.0.attn.v") - bias, "unembed.hook_in": site("ln_f.normalized")}
    return {("hook_embed" if name == "wte" else name): x for name, x in found.items()}


def without_bias():
    bias = model().weights["h.0.attn.c_attn.bias"][48:].reshape(3, 8)
    return {"blocks.0.attn.hook_v": site("h.0.attn.v") - bias, "h.0.attn.out": site("h.0.attn.out")}


# The dump, the first site outside, and a part of what has to be said.
UNNAMED = {
    "all NaN": (lambda: {"logits": np.full_like(site("logits"), np.nan)}, "logits", "not finite"),
    "a row of NaN": (
        lambda: {"h.1.ln_1": zeroed("h.1.ln_1") + np.where(np.arange(N) == 3, np.nan, 0)[:, None]},
        "h.1.ln_1",
        "not finite",
    ),
    "all zero": (lambda: {"logits": np.zeros_like(site("logits"))}, "logits", "the values are 0"),
    "rows never written": (
        lambda: {"h.0.mlp.out": zeroed("h.0.mlp.out", 4, 5, 8)},
        "h.0.mlp.out",
        "the values are 0",
    ),
    "scores never written": (
        lambda: {"h.0.attn.scores": np.zeros((3, N, N), np.float32)},
        "h.0.attn.scores",
        "are 0",
    ),
    "another row": (
        lambda: {"logits": site("logits")[3:4]},
        "logits",
        "right for position 3, and the last one was meant",
    ),
    "the first row": (lambda: {"logits": site("logits")[0]}, "logits", "it is right for position 0"),
    "other rows": (lambda: {"h.1.ln_1": site("h.1.ln_1")[2:5]}, "h.1.ln_1", "right for positions 2 to 4"),
    "TransformerLens' default": (processed, "wte", "from_pretrained_no_processing"),
    "a centred stream": (
        lambda: centred("h.1.resid_post"),
        "h.1.resid_post",
        "its mean over n_embd is taken out",
    ),
    "a folded bias": (without_bias, "h.0.attn.v", "the bias of the values is folded away"),
    "one layer, perhaps from 1": (
        lambda: {"h.1.resid_post": site("h.0.resid_post")},
        "h.1.resid_post",
        "your h.1.resid_post is our h.0.resid_post",
    ),
    "the values of a later site": (
        lambda: {"logits": np.exp(site("logits").astype(np.float64) - log_sum(site("logits")))},
        "logits",
        "your logits is our probabilities; everywhere",
    ),
    "not what the program went on with": (
        lambda: every() | {"h.1.mlp.post": site("h.1.mlp.post") * 1.5},
        "h.1.mlp.post",
        "what follows is right: this array was recorded wrongly, or changed after use",
    ),
    "two layers exchanged": (
        lambda: every() | {"h.0.mlp.out": site("h.1.mlp.out"), "h.1.mlp.out": site("h.0.mlp.out")},
        "h.0.mlp.out",
        "your h.0.mlp.out is our h.1.mlp.out: recorded under each other's names",
    ),
    "two layers exchanged, in a stack": (
        lambda: {
            "hidden_states": np.stack(
                [site(x) for x in ("embed", "h.1.resid_post", "h.0.resid_post", "ln_f")]
            )
        },
        "h.0.resid_post",
        "your hidden_states[1] is our h.1.resid_post",
    ),
    "layers in reverse": (
        lambda: {"attn.z": np.stack([site(f"h.{i}.attn.z") for i in (2, 1, 0)])},
        "h.0.attn.z",
        "your attn.z[0] is our h.2.attn.z",
    ),
    "queries and keys under each other's names": (
        lambda: every() | {"h.0.attn.q": site("h.0.attn.k"), "h.0.attn.k": site("h.0.attn.q")},
        "h.0.attn.q",
        "recorded under each other's names",
    ),
}


@pytest.mark.parametrize("case", UNNAMED)
def test_what_says_nothing_gets_no_name(case):
    dump, first, said = UNNAMED[case]
    found = hold(dump())
    assert (found.verdict, found.site, found.mistake) == ("wrong", first, None), str(found)
    assert said in " ".join(str(found).split())


# -- mistakes are found all the same ----------------------------------------------------------------


def planted(slug, layer=1):
    from support.planting import plant

    mistake = next(m for m in CATALOGUE if m.slug == slug)
    return plant(model(), IDS, mistake, next(iter(mistake.variants(model().config, N, N))), layer, Scope())


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("slug", "site"),
    {
        "gelu-erf": "h.1.mlp.post",
        "scores-unscaled": "h.1.attn.scores",
        "mask-missing": "h.1.attn.pattern",
        "residual-missing": "h.1.resid_mid",
        "qkv-order": "h.1.attn.q",
    }.items(),
)
@pytest.mark.parametrize("form", ["as it is", "in a buffer", "layers from 1"])
def test_a_mistake_is_named_in_any_form(slug, site, form):
    dump = planted(slug)
    if form == "in a buffer":
        dump = {n: buffer(x, 14, 1.0, "scores" in n or "pattern" in n) for n, x in dump.items()}
    if form == "layers from 1":
        dump = {n if n[:2] != "h." else f"h.{int(n[2]) + 1}{n[3:]}": x for n, x in dump.items()}
    found = hold(dump)
    assert (found.site, found.mistake) == (site, slug), str(found)


def test_the_tokens_alone_without_what_follows_lack_the_positions():
    assert hold({"embed": site("wte")}).mistake == "position-missing"
    wrong = {"h.0.attn.scores": site("h.0.attn.scores") * 8**0.5}
    assert hold(wrong).mistake == "scores-unscaled"


def test_losses_of_the_token_itself():
    """No other mistake is named whose losses are NaN: only the last position has none."""
    logits = site("logits").astype(np.float64)
    own = (log_sum(site("logits")) - logits)[range(N), IDS]
    for losses in (own, own[:-1]):
        found = hold({"loss": losses}, search=0)
        assert (found.site, found.mistake, found.position) == ("loss", "targets-not-shifted", 0)
        assert len(found.candidates) == 1


def test_what_is_said_in_the_pattern_has_no_line_about_mistakes():
    assert "mistake" not in str(hold({"logits": site("logits")[3:4]}))
    assert "mistake" in str(hold({"logits": site("logits") + 1.5 * np.arange(60) % 7}, search=0.1))


# -- names and the user's map -----------------------------------------------------------------------


def test_an_unused_map_is_a_note():
    found = hold(some("ln_f", "logits"), names={"final_norm": "ln_f", "x*": "h.*.ln_1"})
    assert found.verdict == "within-noise"
    assert "--map final_norm=ln_f is not used: the dump has no 'final_norm'" in found.notes[0]
    assert len(found.notes) == 2


def test_a_mapped_array_that_cannot_be_used_does_not_pass_in_silence():
    dump = some("ln_f") | {"mine": np.ones((7, 13), np.float32)}
    found = hold(dump, names={"mine": "h.0.attn.k"})
    assert (found.verdict, found.exit_code) == ("incomplete", 2)
    assert str(found).startswith("not all compared: 1 of 2 arrays, 1 not usable; 9 tokens against")
    assert found.to_dict()["unusable"] == ["mine"]


WRONG_SHAPE = np.ones((1, N, 7), np.float32)
# What is beside a right array, and whether the whole is a pass.
UNUSABLE = {
    "another shape": ({"blocks.1.hook_resid_post": WRONG_SHAPE}, False),
    "no floats": ({"h.1.ln_1": np.ones((N, 24), int)}, False),
    "the same site with other numbers": (
        {"h.0.resid_post": 2 * np.ones((N, 24), np.float32), "hidden_states.1": None},
        False,
    ),
    "a stack of another length": ({"attentions": np.ones((7, 3, N, N), np.float32)}, False),
    "the mean of the losses": ({"loss": np.float32(3)}, True),
    "an unknown name": ({"foo": WRONG_SHAPE}, True),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_known_name_that_cannot_be_compared_is_no_pass(case):
    beside, passes = UNUSABLE[case]
    dump = {name: site("h.0.resid_post") if x is None else x for name, x in beside.items()}
    found = hold(some("ln_f") | dump)
    assert (found.verdict, found.exit_code) == (("within-noise", 0) if passes else ("incomplete", 2))
    if passes:
        found.check()
    else:
        assert str(found).startswith("not all compared: ")
        with pytest.raises(ComparisonError, match="not all compared"):
            found.check()


def test_the_first_line_says_how_much_was_compared():
    dump = some("ln_f") | {f"a{i}": np.ones(3, np.float32) for i in range(66)}
    assert str(hold(dump)).startswith("within noise: 1 of 67 arrays, 66 unknown names; 9 tokens against")


def test_unknown_names_are_offered_sites():
    dump = some("ln_f") | {"foo": site("h.1.mlp.pre")[None], "bar": np.ones((N, 24), np.float32)}
    text = " ".join(str(hold(dump)).split())
    assert "foo [1, 9, 96] has the values of h.1.mlp.pre" in text
    assert "bar [9, 24], by its shape wte, wpe, embed, ..." in text
    with pytest.raises(InputError, match=r"--map 'foo=h\.1\.mlp\.pre' \(it has these values\)"):
        hold({"foo": site("h.1.mlp.pre")})
    with pytest.raises(InputError, match=r"--map THEIRS=OURS \('bar' has the shape of wte, wpe, embed\)"):
        hold({"bar": np.ones((N, 24), np.float32)})


@pytest.mark.parametrize(
    ("name", "nearest"),
    {
        "hiden_states": "hidden_states",
        "layer_1_atn_pattern": "h.1.attn.pattern",
        "lm_haed": "logits",
        "hiden_states.2": "h.2.resid_post",
        "somethingelse": "",
    }.items(),
)
def test_a_misspelled_name_is_told(name, nearest):
    array = np.random.default_rng(0).normal(size=(4, 1, N, 24)).astype(np.float32)
    found = hold(some("ln_f") | {name: array})
    assert (f"{name} [4, 1, 9, 24], nearly {nearest}" in str(found)) == bool(nearest)
    with pytest.raises(InputError, match=f"'{name}={nearest}'" if nearest else "THEIRS=OURS"):
        hold({name: array})


def test_hidden_states_may_be_mapped():
    states = [site("embed"), *(site(f"h.{i}.resid_post") for i in range(2)), site("ln_f")]
    for dump, names in (
        ({f"x{i}": x for i, x in enumerate(states)}, {"x*": "hidden_states.*"}),
        ({"x": np.stack(states)}, {"x": "hidden_states"}),
    ):
        found = hold(dump, names=names)
        assert (found.verdict, len(found.sites)) == ("within-noise", 4)
    with pytest.raises(InputError, match=r"x\*=hidden_states: the number is a \* on both sides"):
        hold({"x0": states[0]}, names={"x*": "hidden_states"})
    with pytest.raises(InputError, match=r"there are hidden_states\.0 to hidden_states\.3"):
        hold({"x": states[0]}, names={"x": "hidden_states.7"})


@pytest.mark.parametrize(
    "array", [np.ones((7, 7)), np.ones((3, 192), bool), np.ones(3, complex), np.ones((9, 24), int)], ids=str
)
def test_nothing_that_can_be_compared_is_refused(array):
    with pytest.raises(InputError, match=r"no array of it can be compared \(.h\.0\.attn\.pattern.: "):
        hold({"h.0.attn.pattern": array})


def test_a_token_in_front_is_told_from_a_buffer():
    longer = model().trace([0, *IDS])
    found = hold({name: np.array(longer[name]) for name in longer.names()})
    assert (found.site, found.mistake) == ("wte", "bos-prepended")


# -- half precision ---------------------------------------------------------------------------------


def mixed(kept_half, dtype=np.float16, changed=None):
    """A run with products in a half precision, and what programs then store in float32 and in half."""
    from gpt2np.reference.noise_bands import expect
    from gpt2np.reference.precision import rounded

    noise = expect(model(), IDS, "float16").bands
    rng = np.random.default_rng(0)
    found = {}
    for name in trace().names():
        noisy = site(name) + (rng.uniform(-0.3, 0.3, site(name).shape) * noise[name]).astype(np.float32)
        exact = name in ("wte", "wpe", "embed", "h.0.ln_1")
        x = site(name) if exact else noisy
        if changed == name:
            x = x * np.float32(1.4)
        half = any(name.endswith(kind) for kind in kept_half)
        found[name] = rounded(x, "float16").astype(dtype) if half else x
    return found


def test_float32_arrays_behind_half_ones_are_as_noisy():
    found = hold(mixed(("qkv", "pattern", "z", "out", "pre", "post", "logits")))
    assert found.verdict == "within-noise", str(found)
    assert "as noisy as the float16 before it" in str(found)
    wrong = hold(mixed(("qkv", "pattern", "z", "out", "pre", "post", "logits"), changed="h.1.ln_2"))
    assert wrong.site == "h.1.ln_2"


def test_float32_streams_alone_beside_half_logits():
    dump = mixed(("logits",))
    kept = {name: x for name, x in dump.items() if name.endswith(("resid_post", "embed", "logits"))}
    assert hold(kept).verdict == "within-noise"


def test_half_arrays_that_were_only_stored_so_hide_nothing():
    from support.planting import plant

    mistake = next(m for m in CATALOGUE if m.slug == "gelu-erf")
    dump = plant(model(), IDS, mistake, None, 1, Scope())
    for name in ("h.0.attn.pattern", "h.0.attn.qkv", "h.1.attn.pattern"):
        dump[name] = dump[name].astype(np.float16)
    found = hold(dump)
    assert (found.site, found.mistake) == ("h.1.mlp.post", "gelu-erf")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_values_stored_as_float32_are_half(dtype):
    from gpt2np.reference.noise_bands import expect
    from gpt2np.reference.precision import rounded

    noise = expect(model(), IDS, dtype).bands
    rng = np.random.default_rng(0)
    names = ("h.0.ln_1", "h.1.attn.z", "h.1.resid_post", "logits")
    noisy = {n: site(n) + (rng.uniform(-0.3, 0.3, site(n).shape) * noise[n]) for n in names}
    found = hold({n: rounded(x.astype(np.float32), dtype) for n, x in noisy.items()})
    assert found.verdict == "within-noise", str(found)
    assert f"its values are {dtype}'s, stored as float32" in " ".join(str(found).split())
    assert f"{dtype}'s" not in str(hold(some(*names)))


# -- other ways of counting -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["hidden_states.{}", "hidden_states_{}"])
def test_hidden_states_without_the_embedding(form):
    n = model().config.n_layer
    dump = {form.format(i): trace()[f"h.{i}.resid_post"] for i in range(n)}
    for more in ({}, {"logits": trace()["logits"]}):
        found = compare(dump | more, model(), IDS)
        assert (found.verdict, len(found.sites)) == ("within-noise", n + len(more))


@pytest.mark.parametrize("form", ["Block_{}/LayerNorm_{}/__call__/0", "h.{}.ln_{}", "blocks.{}.norm{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_norms_counted_from_0_or_from_1(form, first):
    n = model().config.n_layer
    dump = {form.format(i, first + k): trace()[f"h.{i}.ln_{k + 1}"] for i in range(n) for k in (0, 1)}
    found = compare(dump, model(), IDS)
    assert (found.verdict, len(found.sites), found.unknown) == ("within-noise", 2 * n, ())


def test_an_empty_archive_holds_no_arrays(tmp_path):
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(InputError, match="empty zip file: it holds no arrays"):
        compare(str(tmp_path / "empty.npz"), model(), IDS)
