"""Any relayout of a trace is recovered or refused, never accepted wrongly."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support.random_model import random_model

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import Gpt2npError, InputError, UnknownSiteError
from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.registry import naming_of
from gpt2np.reference.dump_names import Names, parse_map
from gpt2np.reference.dumps import dump_of
from gpt2np.reference.placement import place

pytestmark = pytest.mark.filterwarnings("error")
FILLS = {
    "-inf": -np.inf,
    "-1e10": -1e10,
    "-1e4": -1e4,
    "the least float32": float(np.finfo(np.float32).min),
    "the least float16": float(np.finfo(np.float16).min),
    "0": 0.0,
    "NaN": np.nan,
}


KNOWN = Names(Config(n_layer=3))


@functools.cache
def run(n_layer=2, n_head=2, d_head=8, length=5, seed=0):
    """A model and its float64 trace."""
    model = random_model(seed, n_layer=n_layer, n_head=n_head, n_embd=n_head * d_head, n_positions=32)
    ids = np.random.default_rng(seed).integers(0, 60, length).tolist()
    return model, model.trace(ids)


def future(array):
    """Where the key comes after the query."""
    return np.triu(np.ones(array.shape[-2:], bool), 1)


def placed_of(arrays, model, trace, names=None):
    placement = place(dump_of(arrays), trace, model.config, names=names)
    return {p.site: p for p in placement.placed}, placement


def only(arrays, model, trace, names=None):
    """The one array that is placed, and nothing refused or unknown."""
    placed, placement = placed_of(arrays, model, trace, names)
    assert not placement.refused, placement.refused
    assert len(placed) == 1
    return next(iter(placed.values()))


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layer", [1, 3, 48])
@pytest.mark.parametrize("dialect", NAMES)
def test_every_name_of_every_dialect_is_known_in_any_spelling(dialect, n_layer):
    config = Config(n_layer=n_layer)
    names = Names(config)
    for name, item in naming_of(dialect, config).items.items():
        spellings = [name, f"module.{name}", f"model.{name}", f"_orig_mod.module.{name}"]
        if name not in ("embed", "hook_embed"):  # ours and TransformerLens': without separators the same
            spellings += [name.replace(".", "_"), name.replace(".", "/"), name.upper(), f"{name}.output"]
        for spelling in spellings:
            meaning = names.meaning(spelling)
            assert meaning is not None, spelling
            if name == f"hidden_states[{n_layer}]":
                assert {m.full_name for m in meaning.either} == {"ln_f", f"h.{n_layer - 1}.resid_post"}
            else:
                assert (meaning.site, meaning.layer) == (item.site, item.layer), spelling
                assert meaning.stacked == item.stacked


@pytest.mark.parametrize(
    ("name", "site"),
    {
        "model.transformer.h.3.attn.output[0]": "h.3.attn.out",
        "layers.3.att": "h.3.attn.pattern",
        "blocks/3/attn/pattern": "h.3.attn.pattern",
        "Layer_3_attention_weights": "h.3.attn.pattern",
        "att[3]": "h.3.attn.pattern",
        "att": "h.*.attn.pattern",
        "past_key_values.3.value": "h.3.attn.v",
        "past_key_values[3][0]": "h.3.attn.k",
        "hidden_states_0": "embed",
        "hidden_states.3": "h.2.resid_post",
        "block3": "h.3.resid_post",
        "logits.out": "logits",
        "blocks.3.ln2.hook_scale": "h.3.ln_2.rstd",
        "h.12.ln_1": None,
        "h.0.attn.c_attn.weight": None,
        "h.3.attn.c_proj.input": "h.3.attn.z",
        "hidden_states[13]": None,
        "residual": None,
        "": None,
        # flax and JAX's trees
        "3/ln_1/__call__": "h.3.ln_1",
        "h/3/attn/c_attn/__call__/0": "h.3.attn.qkv",
        "intermediates.h.3.ln_1.__call__[0]": "h.3.ln_1",
        "['h']['3']['mlp']['__call__'][0]": "h.3.mlp.out",
        "wte/__call__": "wte",
        # nanoGPT, minGPT, picoGPT
        "transformer.h.3.mlp.gelu": "h.3.mlp.post",
        "_orig_mod.transformer.h.3.mlp.c_proj": "h.3.mlp.out",
        "h.3.gelu": "h.3.mlp.post",
        "h.3.merged": "h.3.attn.z",
        "h3.c_attn": "h.3.attn.qkv",
        "h3/c_fc": "h.3.mlp.pre",
        "h3.c_proj": None,  # attention's or the MLP's
        "emb": "embed",
        # rasbt's book
        "tok_emb": "wte",
        "pos_emb": "wpe",
        "drop_emb": "embed",
        "trf_blocks.3.norm1": "h.3.ln_1",
        "trf_blocks.3.att.W_query": "h.3.attn.q",
        "trf_blocks.3.att.W_key": "h.3.attn.k",
        "trf_blocks.3.att.W_value": "h.3.attn.v",
        "trf_blocks.3.att.out_proj": "h.3.attn.out",
        "trf_blocks.3.norm2": "h.3.ln_2",
        "trf_blocks.3.ff.layers.0": "h.3.mlp.pre",
        "trf_blocks.3.ff.layers.1": "h.3.mlp.post",
        "trf_blocks.3.ff": "h.3.mlp.out",
        "trf_blocks.3": "h.3.resid_post",
        "final_norm": "ln_f",
        "out_head": "logits",
        # llama.cpp
        "inp_embd": "wte",
        "inpL": "embed",
        "attn_norm-3": "h.3.ln_1",
        "blk.3.attn_norm": "h.3.ln_1",
        "blk.3.attn_qkv": "h.3.attn.qkv",
        "Kcur-3": "h.3.attn.k",
        "kq_soft_max_ext-3": "h.3.attn.pattern",
        "kqv_out-3": "h.3.attn.z",
        "ffn_inp-3": "h.3.resid_mid",
        "ffn_up-3": "h.3.mlp.pre",
        "l_out-3": "h.3.resid_post",
        "output_norm": "ln_f",
        "result_output": "logits",
        # TransformerLens 4, its default and what parts read in nnsight
        "embed.hook_out": "wte",
        "pos_embed.hook_out": "wpe",
        "blocks.3.mlp.in.hook_out": "h.3.mlp.pre",
        "blocks.3.mlp.in.hook_in": "h.3.ln_2",
        "blocks.3.attn.o.hook_in": "h.3.attn.z",
        "ln_final.hook_out": "ln_f",
        "ln_final.hook_in": "h.11.resid_post",
        "transformer.h.3.mlp.input": "h.3.ln_2",
        "transformer.h.3.input[0]": "h.3.resid_pre",
        "lm_head.input": "ln_f",
        "transformer.h.12.mlp.input": None,
        # HF's output classes, wrapped, and what decoding leaves
        "last_hidden_state": "ln_f",
        "outputs.logits": "logits",
        "out.past_key_values.3": "h.3.attn.k or h.3.attn.v",
    }.items(),
)
def test_names_that_people_have(name, site):
    meaning = Names(Config()).meaning(name)
    assert (meaning.full_name if meaning else None) == site


def test_a_map_names_what_no_table_has():
    model, trace = run(n_layer=3)
    arrays = {f"layer{i}.A": trace[f"h.{i}.attn.pattern"] for i in range(3)}
    arrays |= {
        "q of 1": trace["h.1.attn.q"].swapaxes(0, 1),
        "all_z": trace.stack("attn.z"),
        "what": np.ones(3),
    }
    names = {
        "layer*.A": "h.*.attn.pattern",
        "q of 1": "blocks.1.attn.hook_q[head pos d_head]",
        "all_z": "attn.z",
    }
    placed, placement = placed_of(arrays, model, trace, names)
    assert list(placed) == [
        n for i in range(3) for n in ([f"h.{i}.attn.q"] * (i == 1) + [f"h.{i}.attn.pattern", f"h.{i}.attn.z"])
    ]
    assert placement.unknown == ["what"]
    for name, found in placed.items():
        np.testing.assert_array_equal(found.array, trace[name])
    assert placed["h.1.attn.q"].notes == ("layout as declared",)


@pytest.mark.parametrize(
    ("names", "error", "part"),
    [
        ({"a": "ln_g"}, UnknownSiteError, "--map a=ln_g: no site is called"),
        ({"a": "h.7.ln_1"}, UnknownSiteError, "layer 7 is not one of 0 to 1"),
        ({"a": "h.*.h.*.ln_1"}, InputError, "one * stands for the layer"),
        ({"*.*": "h.*.ln_1"}, InputError, "one * stands for the layer"),
        ({"a*": "ln_1"}, InputError, "the layer is a * on both sides"),
        ({"a": "ln_f[pos]"}, InputError, "names each of pos n_embd once"),
        ({"a": "ln_f[pos pos n_embd]"}, InputError, "names each of pos n_embd once"),
        ({"a": "ln_f[pos nonsense]"}, InputError, "names each of pos n_embd once"),
    ],
)
def test_a_wrong_map_is_refused(names, error, part):
    model, trace = run()
    with pytest.raises(error) as caught:
        placed_of({"a": trace["ln_f"]}, model, trace, names)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parse_map():
    given_map = parse_map(["layer*.att=h.*.attn.pattern", " x=y = ln_f "])
    assert given_map == {"layer*.att": "h.*.attn.pattern", "x=y": "ln_f"}
    for wrong in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(InputError):
            parse_map(wrong)


def test_nothing_known_is_refused_with_an_example():
    model, trace = run()
    with pytest.raises(InputError, match=r"no name in it is known \('x', 'y'\).*--map THEIRS=OURS"):
        placed_of({"x": np.ones(3), "y": np.ones(3), "input_ids": np.ones(3, int)}, model, trace)


def test_two_names_of_one_site():
    model, trace = run()
    x = trace["h.0.attn.out"]
    placed, placement = placed_of({"transformer.h.0.attn": x, "h.0.attn.c_proj": x.copy()}, model, trace)
    assert placed["h.0.attn.out"].name == "transformer.h.0.attn"
    assert placed["h.0.attn.out"].notes == ("also there as h.0.attn.c_proj",)
    assert not placement.refused
    placed, placement = placed_of({"transformer.h.0.attn": x, "h.0.attn.c_proj": x + 1}, model, trace)
    assert list(placed) == ["h.0.attn.out"]
    assert "other numbers than transformer.h.0.attn" in placement.refused[0].reason


def test_the_last_hidden_state_is_found_by_its_values():
    model, trace = run()
    for site in ("ln_f", "h.1.resid_post"):
        assert only({"hidden_states[2]": trace[site][None]}, model, trace).site == site
    wrong = np.random.default_rng(0).normal(0, 9, trace["ln_f"].shape)
    placement = placed_of({"hidden_states[2]": wrong}, model, trace)[1]
    assert not placement.placed
    assert placement.refused[0].candidates == ("ln_f", "h.1.resid_post")
    stack = np.stack([trace["embed"], trace["h.0.resid_post"], trace["ln_f"]])[:, None]
    assert set(placed_of({"hidden_states": stack}, model, trace)[0]) == {"embed", "h.0.resid_post", "ln_f"}


def test_facts_and_arrays_that_are_no_floats():
    model, trace = run()
    arrays = {"wte": trace["wte"], "input_ids": np.arange(5), "ln_f": np.ones((5, 16), np.int32)}
    placed, placement = placed_of(arrays, model, trace)
    assert list(placed) == ["wte"]
    assert [(r.name, r.site) for r in placement.refused] == [("ln_f", "ln_f")]
    assert "int32" in placement.refused[0].reason
    assert placement.unknown == []


# -- layouts --------------------------------------------------------------------------------------


def shaped(site, array):
    """A site's array with its axes taken apart: qkv as [pos, 3, head, d_head]."""
    if site.name == "attn.qkv":
        n_head = 2
        return array.reshape(len(array), 3, n_head, -1)
    return array


ROUND = [
    (name, order)
    for name in ("embed", "h.1.attn.q", "h.0.attn.heads", "h.0.attn.pattern", "h.1.mlp.pre", "logits")
    for order in itertools.permutations(range(2 if name in ("embed", "h.1.mlp.pre", "logits") else 3))
]


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "order"), ROUND, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_order_of_axes_is_undone(name, order, dtype):
    model, trace = run()
    right = trace[name].astype(dtype)
    found = only({name: np.ascontiguousarray(right.transpose(order))[None]}, model, trace)
    np.testing.assert_array_equal(found.array, right)
    assert (found.array.dtype, found.dtype, found.rows, found.first) == (dtype, dtype, 5, 0)
    axes = SITES.resolve(name, None, 2)[0].axis_names
    assert found.layout == f"[1, {', '.join(axes[i] for i in order)}]"
    assert "batch axis of one" in found.notes


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_queries_keys_and_values_in_every_order(order):
    model, trace = run(n_head=4, d_head=6)
    apart = trace["h.0.attn.qkv"].reshape(5, 3, 4, 6)
    found = only({"h.0.attn.qkv": apart.transpose(order).copy()}, model, trace)
    np.testing.assert_array_equal(found.array, trace["h.0.attn.qkv"])


@pytest.mark.parametrize(
    ("name", "change", "layout", "note"),
    [
        ("h.0.attn.q", lambda x: x.reshape(5, 16), "[pos, n_embd]", "heads merged"),
        ("h.0.attn.q", lambda x: x.ravel(), "[pos*head*d_head]", "flattened"),
        ("h.0.attn.z", lambda x: x.reshape(10, 8), "[pos*head, d_head]", None),
        ("h.0.attn.z", lambda x: x.swapaxes(0, 1).reshape(10, 8), "[head*pos, d_head]", "heads first"),
        ("h.0.attn.z", lambda x: x.swapaxes(0, 1).ravel(), "[head*pos*d_head]", "heads first"),
        ("h.0.attn.z", lambda x: x.reshape(5, 16).T, "[n_embd, pos]", "axes in another order"),
        ("h.0.attn.scores", lambda x: x.reshape(10, 5), "[head*query, key]", None),
        ("h.0.attn.pattern", lambda x: x.reshape(1, 2, 25), "[1, head, query*key]", "batch axis of one"),
        ("h.0.attn.qkv", lambda x: x.reshape(5, 3, 16), "[pos, 3, n_embd]", "an axis of their own"),
        ("h.0.attn.qkv", lambda x: x.reshape(5, 3, 16).swapaxes(0, 1), "[3, pos, n_embd]", "an axis of"),
        ("h.0.ln_1.mean", lambda x: x[:, None], "[pos, 1]", "an axis of one"),
        ("h.0.ln_1.rstd", lambda x: x[None, :, None], "[1, pos, 1]", "batch axis of one"),
        ("logits", lambda x: np.pad(x, ((0, 0), (0, 68))), "[pos, vocab]", "padded to 128"),
        ("logits", lambda x: np.pad(x, ((0, 0), (0, 4))).ravel(), "[pos*vocab]", "padded to 64"),
        ("probabilities", lambda x: np.pad(x, ((0, 0), (0, 4)))[None], "[1, pos, vocab]", "padded to 64"),
        ("embed", lambda x: np.stack([x, -x, x * 2]), "[batch, pos, n_embd]", "the first one"),
        ("h.0.attn.pattern", lambda x: np.stack([x, x * 0]), "[batch, head, query, key]", "the first one"),
    ],
)
def test_merged_flattened_padded_and_batched(name, change, layout, note):
    model, trace = run()
    found = only({name: change(trace[name])}, model, trace)
    np.testing.assert_array_equal(found.array, trace[name])
    assert found.layout == layout
    assert note is None or any(note in n for n in found.notes), found.notes


def test_an_interleaved_qkv_is_a_mistake_unless_declared():
    model, trace = run()
    neox = trace["h.0.attn.qkv"].reshape(5, 3, 2, 8).swapaxes(1, 2).reshape(5, 48)
    found = only({"h.0.attn.qkv": neox}, model, trace)
    np.testing.assert_array_equal(found.array, neox)  # as it is: the catalogue names this mistake
    for axes in ("pos head*3*d_head", "pos head*3*d_head"):
        found = only({"x": neox}, model, trace, {"x": f"h.0.attn.qkv[{axes}]"})
        np.testing.assert_array_equal(found.array, trace["h.0.attn.qkv"])
    apart = neox.reshape(1, 5, 2, 3, 8)
    found = only({"x": apart}, model, trace, {"x": "h.0.attn.qkv[batch pos head 3 d_head]"})
    np.testing.assert_array_equal(found.array, trace["h.0.attn.qkv"])


@pytest.mark.parametrize("axes", ["layer head pos d_head", "head layer pos d_head", "pos n_embd layer"])
def test_a_declared_stack(axes):
    model, trace = run(n_layer=3)
    where = [
        ("layer pos head d_head".split()).index(a) for a in axes.replace("n_embd", "head d_head").split()
    ]
    x = trace.stack("attn.q").transpose(where)
    x = x.reshape(5, 16, 3) if "n_embd" in axes else x
    placed, placement = placed_of({"x": x}, model, trace, {"x": f"attn.q[{axes}]"})
    assert not placement.refused
    for layer in range(3):
        np.testing.assert_array_equal(placed[f"h.{layer}.attn.q"].array, trace[f"h.{layer}.attn.q"])
    refused = placed_of({"x": x[..., :-1], "wte": trace["wte"]}, model, trace, {"x": f"attn.q[{axes}]"})[1]
    assert refused.refused
    assert all("as declared" in r.reason or "n_layer" in r.reason for r in refused.refused)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("h.0.ln_1", (5, 15)), ("h.0.attn.q", (5, 3, 8)), ("att", (3, 2, 5, 5)), ("logits", (5, 59)),
     ("logits", (5, 6000)), ("h.0.attn.pattern", (3, 5, 5)), ("h.0.mlp.pre", (4, 4, 4)), ("embed", (40, 16)),
     ("past_key_values", (2, 3, 2, 5, 8)), ("h.0.attn.qkv", (5, 2, 16)), ("wte", ())],
)  # fmt: skip
def test_a_shape_that_fits_nothing_is_refused(name, shape):
    model, trace = run()
    placed, placement = placed_of({name: np.ones(shape)}, model, trace)
    assert not placed
    assert str(shape) in placement.refused[0].reason
    assert "expected" in placement.refused[0].reason


@pytest.mark.parametrize("name", ["embed", "h.1.attn.q", "h.0.attn.pattern", "logits", "h.0.ln_1.mean"])
def test_other_numbers_of_rows_are_kept_and_told(name):
    model, trace = run()
    longer = model.trace([7, *trace.token_ids])
    for array, rows in (
        (longer[name], 6),
        (trace[name][..., :3, :3] if "pattern" in name else trace[name][:3], 3),
    ):
        found = only({name: array}, model, trace)
        np.testing.assert_array_equal(found.array, array)
        assert found.rows == rows
        assert any(f"{rows} rows" in note for note in found.notes)
    assert found.first == 0
    if "pattern" not in name:
        assert only({name: trace[name][3:]}, model, trace).first == 3


def test_one_row_of_attention_and_the_last_logits():
    model, trace = run()
    found = only({"h.0.attn.pattern": trace["h.0.attn.pattern"][:, 4:]}, model, trace)
    assert (found.rows, found.first, found.array.shape) == (1, 4, (2, 1, 5))
    found = only({"logits": trace["logits"][-1]}, model, trace)
    assert (found.rows, found.first) == (1, 4)


# -- the future -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_future_scores(fill, dtype):
    model, trace = run()
    x = trace["h.0.attn.scores"].astype(dtype)
    with np.errstate(over="ignore"):
        x[:, future(x)] = FILLS[fill]
    found = only({"h.0.attn.scores": x}, model, trace)
    np.testing.assert_array_equal(found.array, trace["h.0.attn.scores"].astype(dtype))
    overflowed = dtype == "float16" and abs(FILLS[fill]) > 65504
    assert found.notes == (() if fill == "-inf" or overflowed else (f"future scores hold {fill}",))


def test_future_scores_that_are_not_masked():
    model, trace = run()
    x = trace["h.0.attn.scores"].copy()
    x[:, future(x)] = np.random.default_rng(0).normal(0, 1, (2, 10))
    found = only({"h.0.attn.scores": x}, model, trace)
    np.testing.assert_array_equal(found.array, trace["h.0.attn.scores"])
    assert found.notes == ("future scores hold numbers (not masked, or never written)",)
    x[:, np.triu(np.ones((5, 5), bool), 2)] = -1e10  # a mask that is off by one
    assert only({"h.0.attn.scores": x}, model, trace).notes == ("8 of 20 future scores are not masked",)
    added = trace["h.0.attn.scores"].astype(np.float32)
    added[:, future(added)] = (np.linspace(-3, 3, 20).astype(np.float32) - np.float32(1e10)).reshape(2, 10)
    assert only({"h.0.attn.scores": added}, model, trace).notes == ("future scores hold -1e10",)


def test_the_future_of_a_pattern():
    model, trace = run()
    right = trace["h.0.attn.pattern"]
    for garbage in (np.nan, 7.0, -3e30, np.inf):
        x = right.copy()
        x[:, future(x)] = garbage
        found = only({"h.0.attn.pattern": x}, model, trace)
        np.testing.assert_array_equal(found.array, right)
        assert "never written" in found.notes[0]
    scores = trace["h.0.attn.q"].swapaxes(0, 1) @ trace["h.0.attn.k"].transpose(1, 2, 0) / np.sqrt(8)
    unmasked = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    found = only({"h.0.attn.pattern": unmasked}, model, trace)
    np.testing.assert_array_equal(found.array, unmasked)  # kept: this is the mistake
    assert "the future has attention, up to" in found.notes[0]
    tiny = right.copy()
    tiny[:, future(tiny)] = 1e-9
    np.testing.assert_array_equal(only({"h.0.attn.pattern": tiny}, model, trace).array, tiny)


# -- dumps with mistakes, and layouts that look alike -----------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_dump_is_laid_out_by_its_shape_alone(seed):
    model, trace = run(n_head=2, d_head=8, length=5)
    rng = np.random.default_rng(seed)
    names = [
        name for name, site, _ in SITES.expand(2) if site.name not in ("top_k_tokens",) and not site.quadratic
    ]
    arrays = {name: rng.normal(0, 1, trace[name].shape) for name in names}
    placed, placement = placed_of(arrays, model, trace)
    assert not placement.refused
    for name in names:
        np.testing.assert_array_equal(placed[name].array, arrays[name])


@pytest.mark.parametrize("site", ["attn.scores", "attn.pattern"])
def test_wrong_attention_is_laid_out_by_its_future(site):
    model, trace = run()
    rng = np.random.default_rng(0)
    x = rng.random((2, 5, 5))
    x[:, future(x)] = -np.inf if site == "attn.scores" else 0
    name = f"h.0.{site}"
    np.testing.assert_array_equal(only({name: x}, model, trace).array, x)
    found = only({name: x.transpose(1, 2, 0).copy()}, model, trace)
    np.testing.assert_array_equal(found.array, x)
    assert "axes in another order" in found.notes
    upside_down = x.swapaxes(1, 2).copy()  # a wrong mask is more usual than wrong values in another order
    assert "axes in another order" not in only({name: upside_down}, model, trace).notes


def test_what_nothing_decides_follows_the_other_layers_or_is_refused():
    model, trace = run(n_layer=3, n_head=4, d_head=3, length=4)
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (4, 4, 3))
    arrays = {f"h.{i}.attn.q": trace[f"h.{i}.attn.q"].swapaxes(0, 1).copy() for i in range(2)}
    placed, placement = placed_of({**arrays, "h.2.attn.q": noise}, model, trace)
    np.testing.assert_array_equal(placed["h.2.attn.q"].array, noise.swapaxes(0, 1))
    assert "layout as in h.0.attn.q" in placed["h.2.attn.q"].notes
    placement = placed_of({"h.2.attn.q": noise}, model, trace)[1]
    assert not placement.placed
    (refused,) = placement.refused
    assert refused.candidates == ("[pos, head, d_head]", "[head, pos, d_head]")
    assert "--map 'h.2.attn.q=h.2.attn.q[pos head d_head]'" in refused.reason
    for axes, right in (("pos head d_head", noise), ("head pos d_head", noise.swapaxes(0, 1))):
        found = only({"h.2.attn.q": noise}, model, trace, {"h.2.attn.q": f"h.2.attn.q[{axes}]"})
        np.testing.assert_array_equal(found.array, right)


def test_scores_that_are_like_nothing_follow_the_pattern():
    model, trace = run()
    noise = np.random.default_rng(3).normal(0, 1, (2, 5, 5))  # llm.c never writes the future of preatt
    placement = placed_of({"h.0.attn.scores": noise}, model, trace)[1]
    assert placement.refused[0].candidates == ("[head, query, key]", "[head, key, query]")
    both = {"h.0.attn.scores": noise, "h.0.attn.pattern": trace["h.0.attn.pattern"].swapaxes(1, 2).copy()}
    placed = placed_of(both, model, trace)[0]
    seen = ~future(noise)
    np.testing.assert_array_equal(placed["h.0.attn.scores"].array[:, seen], noise.swapaxes(1, 2)[:, seen])
    assert "layout as in h.0.attn.pattern" in placed["h.0.attn.scores"].notes


def test_a_whole_trace_of_more_tokens_is_placed():
    model, trace = run(n_layer=3)
    longer = model.trace([59, *trace.token_ids])
    for given_dump in (longer, dict(longer.to("hf")), dict(longer.to("transformer_lens"))):
        placed, placement = placed_of(given_dump, model, trace)
        assert [r.name for r in placement.refused] in ([], ["hidden_states[3]"])
        for name, found in placed.items():
            np.testing.assert_allclose(found.array, longer[name], rtol=1e-15)
            assert found.rows == 6


def test_a_dump_that_is_nearly_right_keeps_its_own_order_of_axes():
    model, trace = run(n_head=4, d_head=4, length=4)
    rng = np.random.default_rng(2)
    for name in ("h.0.attn.q", "h.1.attn.scores", "h.0.attn.z", "h.1.attn.pattern"):
        x = trace[name] * 0.7
        x[np.isfinite(x)] += rng.normal(0, 0.05, int(np.isfinite(x).sum()))
        found = only({name: x}, model, trace)
        assert found.array.shape == trace[name].shape
        seen = np.isfinite(trace[name]) & (~future(trace[name]) if "attn.pattern" in name else True)
        np.testing.assert_array_equal(found.array[seen], x[seen])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("small", [2e-7, 3e-8, 1e-3])
def test_one_small_element_tells_the_orientation(dtype, small):
    """Where nearly all attention stays on the diagonal, rounding is as large as the rest."""
    model, trace = run(1, 1, 2, 2)
    right = {name: trace[name] for name in ("wte", "embed", "h.0.attn.pattern")}
    right["h.0.attn.pattern"] = np.array([[[1, 0], [small, 1 - small]]])
    with np.errstate(under="ignore"):
        x = right["h.0.attn.pattern"].astype(dtype)
    for theirs in (x, x.swapaxes(1, 2).copy()):
        placed, placement = placed_of({"h.0.attn.pattern": theirs}, model, right)
        assert len(placed) + len(placement.refused) == 1
        for found in placed.values():
            np.testing.assert_array_equal(found.array, x)


def test_all_nan_is_placed():
    model, trace = run()
    for name in ("embed", "h.0.attn.pattern", "h.0.attn.scores"):
        found = only({name: np.full_like(trace[name], np.nan)}, model, trace)
        assert found.array.shape == trace[name].shape


# -- any relayout ---------------------------------------------------------------------------------


@st.composite
def relayouts(draw, equal):
    """A model, its trace, and arrays relaid at random with what each must come out as."""
    n_head, d_head = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if equal:
        length = draw(st.sampled_from([1, n_head, d_head, n_head * d_head, 3]))
    else:
        n_head, d_head, length = draw(st.sampled_from([(2, 3, 5), (3, 5, 7), (2, 4, 9), (5, 2, 4)]))
    model, trace = run(draw(st.integers(1, 3)), n_head, d_head, length, draw(st.integers(0, 2)))
    n_layer = model.config.n_layer
    floats = [(name, site, layer) for name, site, layer in SITES.expand(n_layer) if site.dtype is None]
    chosen = draw(st.lists(st.sampled_from(floats), min_size=1, max_size=5, unique_by=lambda x: x[0]))
    arrays, right, recipes = {}, {}, {}
    for name, site, layer in chosen:
        dtype = draw(st.sampled_from(["float64", "float32", "float16"]))
        with np.errstate(over="ignore"):
            expect = trace[name].astype(dtype)
        x = expect.copy()
        if site.name == "attn.scores":
            x[:, future(x)] = draw(st.sampled_from([-np.inf, -1e4, 0.0, -30000.0, np.nan]))
        if site.name not in recipes:  # one program writes all layers alike
            recipes[site.name] = draw(recipe(site, x.ndim))
        arrays[draw(spellings(name, site, layer))] = relaid(x, n_head, *recipes[site.name])
        right[name] = expect
    return model, trace, arrays, right


def spellings(name, site, layer):
    """Any name of a site, of any dialect, in any spelling."""
    names = [name] + [
        n.replace("{i}", str(layer))
        for some in site.names.values()
        for n in some
        if "{i}" in n or layer is None
    ]
    names = [n for n in names if KNOWN.meaning(n) is not None]
    names += [n.replace(".", "_") for n in names if "hook_embed" not in n] + [f"module.{n}" for n in names]
    return st.sampled_from(names)


@st.composite
def recipe(draw, site, ndim):
    """Axes merged or taken apart, padded, flattened or in another order, with an axis of one in front."""
    apart = draw(st.sampled_from([None, "3 head d_head", "3 n_embd", "3*head d_head"]))
    apart = apart if site.name == "attn.qkv" else None
    merged = site.axes == "pos head d_head" and draw(st.booleans())
    pad = draw(st.sampled_from([0, 4, 68])) if site.axes == "pos vocab" else 0
    ndim = {None: ndim - merged, "3 head d_head": 4}.get(apart, 3)
    order = None if draw(st.integers(0, 3)) == 0 else draw(st.permutations(range(ndim)))
    return apart, merged, pad, order, draw(st.booleans())


def relaid(x, n_head, apart, merged, pad, order, batch):
    """An array in the way of a recipe."""
    if apart:
        inner = {"3 head d_head": (3, n_head), "3 n_embd": (3,), "3*head d_head": (3 * n_head,)}[apart]
        x = x.reshape(len(x), *inner, -1)
    if merged:
        x = x.reshape(len(x), -1)
    if pad:
        x = np.pad(x, ((0, 0), (0, pad)), constant_values=0.25)
    x = x.reshape(-1) if order is None else x.transpose(order)
    return np.asarray(x[None] if batch else x, order="C")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(relayouts(equal=False))
def test_a_relayout_of_distinct_sizes_is_recovered(case):
    model, trace, arrays, right = case
    assume(len(arrays) == len(right))
    placed, placement = placed_of(arrays, model, trace)
    assert not placement.refused
    assert not placement.unknown
    assert set(placed) == set(right)
    for name, expect in right.items():
        np.testing.assert_array_equal(placed[name].array, expect, err_msg=f"{name}: {placed[name].layout}")


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(relayouts(equal=True))
def test_a_relayout_of_equal_sizes_is_recovered_or_refused(case):
    model, trace, arrays, right = case
    assume(len(arrays) == len(right))
    placed, placement = placed_of(arrays, model, trace)
    assert {r.site for r in placement.refused} | set(placed) == set(right)
    for name, found in placed.items():
        np.testing.assert_array_equal(found.array, right[name], err_msg=f"{name}: {found.layout}")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.floats(0, 1))
@example(0, 1, 2, 2, 0.25)  # four numbers are soon alike
def test_a_wrong_array_in_our_order_is_never_turned(seed, n_head, d_head, length, share):
    """Part truth, part noise: whatever the sizes, what is laid out has the order of axes that it came in."""
    model, trace = run(1, n_head, d_head, length)
    rng = np.random.default_rng(seed)
    for name in ("h.0.attn.q", "h.0.mlp.pre", "embed", "h.0.attn.pattern"):
        x = share * trace[name] + (1 - share) * rng.normal(0, np.std(trace[name]) + 0.1, trace[name].shape)
        if "pattern" in name:
            x[:, future(x)] = 0
        placed, _ = placed_of({name: x}, model, trace)
        if name in placed:
            np.testing.assert_array_equal(placed[name].array, x)


@pytest.mark.parametrize("dialect", NAMES)
def test_a_whole_trace_in_every_dialect(dialect):
    model, trace = run(n_layer=3)
    arrays = trace if dialect == "gpt2np" else dict(trace.to(dialect))
    placed, placement = placed_of(arrays, model, trace)
    items = naming_of(dialect, model.config).items.values()
    assert {name for item in items for name, _, _ in item.sources(model.config)} - set(placed) <= (
        {"top_k_tokens"} if dialect != "gpt2np" else {n for n, s, _ in SITES.expand(3) if s.derived}
    )
    assert [r.name for r in placement.refused] == (["top_k_tokens"] if dialect == "guide" else [])
    assert not placement.unknown
    for name, found in placed.items():
        np.testing.assert_allclose(found.array, trace[name], rtol=1e-15)
    order = [name for name, _, _ in SITES.expand(3)]
    assert [order.index(p.site) for p in placement.placed] == sorted(order.index(n) for n in placed)


def test_what_is_refused_is_an_error_of_ours():
    model, trace = run()
    for wrong in ({}, {"wte": np.empty((0, 16))}, {"wte": "text"}, {"wte": np.array([None])}, 5, None):
        with pytest.raises(Gpt2npError):
            placed_of(wrong, model, trace)
    assert math.prod(trace["wte"].shape) == 80
