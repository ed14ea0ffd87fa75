"""The trace: plan, lookup, keep, files, packed prompts."""

import copy
import gc
import pickle
import tracemalloc
import weakref

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file
from support.differences import relative_error

import gpt2np
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import InputError, TraceError, UnknownSiteError, VerificationError
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.plan import Plan

PROMPT = "It is a truth universally acknowledged"


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(PROMPT)


# -- the plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["*", "attn.*", ["h.2.*", "logits"], "attn.heads", lambda n: "mlp" in n])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plan_equals_arrays(keep, dtype, tiny, tiny64):
    model = tiny if dtype == "float32" else tiny64
    plan, found = model.plan(PROMPT, keep=keep), model.trace(PROMPT, keep=keep)
    assert [e.name for e in plan.entries] == found.names()
    assert [e.shape for e in plan.entries] == [found[n].shape for n in found.names()]
    assert [e.nbytes for e in plan.entries] == [found[n].nbytes for n in found.names()]
    assert plan.nbytes == sum(found[n].nbytes for n in found.names()) == found.nbytes


def test_plan_of_a_released_size_is_the_guides_table():
    # extraction guide, "Per-Inference Memory (100-token sequence)": its arithmetic, not its rounding
    groups = Plan(gpt2np.architectures.gpt2.config.RELEASED["gpt2"], 100).groups()
    assert groups["attn.qkv"] == 12 * 3 * 100 * 12 * 64 * 4
    assert groups["attn.scores"] == groups["attn.pattern"] == 12 * 12 * 100 * 100 * 4
    assert groups["mlp.pre"] == groups["mlp.post"] == 12 * 100 * 3072 * 4
    assert groups["logits"] == 100 * 50257 * 4
    assert groups["embed"] + groups["resid_post"] == 13 * 100 * 768 * 4


def test_released_sizes_have_the_published_number_of_parameters():
    counts = {name: config.n_parameters for name, config in gpt2np.architectures.gpt2.config.RELEASED.items()}
    assert counts["gpt2"] == 124_439_808  # llm.c README
    assert [round(n / 1e6) for n in counts.values()] == [124, 355, 774, 1558]  # GPT-2's model card


# -- looking things up --------------------------------------------------------------------------------


def test_names_are_the_stored_sites_in_execution_order(trace):
    assert trace.names() == [name for name, site, _ in SITES.expand(4) if not site.derived]
    assert trace.dims["h.3.attn.pattern"] == "head query key"
    assert set(trace.dims) == set(trace.names())


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_every_name_of_every_dialect_resolves(trace, site):
    layer = 3 if site.layered else None
    expected = trace[site.full_name(layer)]
    for names in site.names.values():
        for name in names:
            key = name.replace("{i}", "3")
            found = trace[key, 3] if site.layered and "{i}" not in name else trace[key]
            np.testing.assert_array_equal(found, expected)
    assert expected.shape == tuple(trace.plan.sizes()[axis] for axis in site.axis_names)


def test_examples_of_the_design(trace):
    pattern = trace["h.3.attn.pattern"]
    assert trace["blocks.3.attn.hook_pattern"] is pattern
    assert trace["attention_weights", 3] is pattern
    assert trace["attentions[3]"] is pattern
    assert trace.stack("attn.pattern").shape == (4, *pattern.shape)
    assert trace["attn.pattern", 3] is pattern


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("h.3.attn.patern", "the nearest is 'h.3.attn.pattern'"),
        ("h.1.z", "the nearest is 'h.1.attn.z'"),
        ("h.1.q", "the nearest is 'h.1.attn.q'"),
        ("blocks.3.attn.hook_patern", "the nearest is 'blocks.3.attn.hook_pattern'"),
        ("h.4.attn.pattern", "layer 4 is not one of 0 to 3"),
        ("attn.pattern", "say which"),
        (("logits", 2), "not in a layer"),
        ("hidden_states", "after ln_f"),
        ("hidden_states[2]", "trace.to('hf')"),
        ("", "no site"),
    ],
)
def test_wrong_names_are_explained(trace, key, message):
    with pytest.raises(UnknownSiteError, match=r"(?s).*" + message.replace("(", r"\(").replace(")", r"\)")):
        trace[key]
    assert key not in trace


def test_stack_is_a_view_of_the_arena(trace):
    stacked = trace.stack("mlp.post")
    assert np.shares_memory(stacked, trace["h.0.mlp.post"])
    np.testing.assert_array_equal(stacked, np.stack([trace[f"h.{i}.mlp.post"] for i in range(4)]))
    np.testing.assert_array_equal(trace.stack("attn.q"), np.stack([trace[f"h.{i}.attn.q"] for i in range(4)]))
    with pytest.raises(UnknownSiteError):
        trace.stack("logits")


@pytest.mark.parametrize(
    "made", [lambda t: t, copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_arrays_are_read_only(trace, made):
    found = made(trace)
    for key in ("h.0.attn.qkv", "h.0.attn.q", "probabilities", "h.1.attn.heads"):
        np.testing.assert_array_equal(found[key], trace[key])
        with pytest.raises(ValueError, match="read-only"):
            found[key][...] = 0
    with pytest.raises(ValueError, match="read-only"):
        found.stack("attn.pattern")[...] = 0


def test_top_is_softmax_of_the_last_logits(trace, tiny):
    logits = trace["logits"][-1].astype(float)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    top = trace.top(k=7)
    assert [i for _, i, _ in top] == np.argsort(-probabilities)[:7].tolist()
    np.testing.assert_allclose([p for _, _, p in top], np.sort(probabilities)[::-1][:7], rtol=1e-12)
    assert [t for t, _, _ in top] == tiny.tokenizer.tokens([i for _, i, _ in top])
    assert trace.top(1, pos=0)[0][1] == trace["logits"][0].argmax()
    assert tiny.trace(PROMPT, keep="attn.*").top(k=7)[0][1] == top[0][1]
    for pos in (99, -99):
        with pytest.raises(InputError, match="from -13 to 12"):
            trace.top(pos=pos)
    with pytest.raises(InputError, match="at least 1"):
        trace.top(k=0)


def test_tokens(trace, tiny):
    assert "".join(trace.tokens) == PROMPT
    assert trace.token_ids == tiny.tokenizer.encode(PROMPT)
    assert trace.prompt == PROMPT


# -- keep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "n"),
    [
        ("attn.*", 4 * 5),
        ("h.2.*", 13 - 1),
        ("*", 5 + 4 * 12),
        (["wte", "h.*.mlp.pre"], 5),
        ("attn.pattern", 4),
        (lambda name: name.endswith("resid_post"), 4),
        ("attn.heads", 4),
        ("h.1.attn.[qkv]", 0),
        (["attn.q", "loss"], 5),
    ],
)
def test_keep(tiny, trace, keep, n):
    if n == 0:
        with pytest.raises(UnknownSiteError):
            tiny.trace(PROMPT, keep=keep)
        return
    kept = tiny.trace(PROMPT, keep=keep)
    assert len(kept.names()) == n
    for name in kept.names():
        np.testing.assert_array_equal(kept[name], trace[name])


def test_keep_positions_and_dtype(tiny, trace):
    for positions in (slice(-2, None), slice(1, None, 2), slice(0, 3), slice(2, 2)):
        kept = tiny.trace(PROMPT, keep={"patterns": "*", "positions": positions})
        for name in kept.names():
            rows = (slice(None), positions) if "query" in trace.dims[name] else (positions,)
            np.testing.assert_array_equal(kept[name], trace[name][rows], err_msg=name)
        assert kept.nbytes == kept.plan.nbytes
        kept.verify()
    half = tiny.trace(PROMPT, keep={"dtype": "float16"})
    assert half.nbytes * 2 == trace.nbytes
    for name in trace.names():
        np.testing.assert_array_equal(half[name], trace[name].astype(np.float16))
    half.verify()
    assert half["h.1.ln_1.rstd"].dtype == np.float32


def test_what_was_not_kept_is_said(tiny):
    kept = tiny.trace(PROMPT, keep="attn.pattern")
    with pytest.raises(TraceError, match=r"h\.0\.attn\.z is not in this trace"):
        kept["h.0.attn.heads"]
    with pytest.raises(UnknownSiteError, match="nearest"):
        tiny.trace(PROMPT, keep="attn.patern")


def test_stop_at_layer(tiny, trace):
    early = tiny.trace(PROMPT, stop_at_layer=2)
    assert early.names() == [n for n in trace.names() if n.startswith(("w", "embed", "h.0.", "h.1."))]
    for name in early.names():
        np.testing.assert_array_equal(early[name], trace[name])
    early.verify()
    assert early.stack("attn.pattern").shape[0] == 2
    assert tiny.trace(PROMPT, stop_at_layer=0).names() == ["wte", "wpe", "embed"]


# -- one code path ------------------------------------------------------------------------------------


def test_traced_equals_untraced_exactly(tiny, trace):
    np.testing.assert_array_equal(tiny(PROMPT), trace["logits"])
    np.testing.assert_array_equal(tiny.trace(PROMPT, keep="h.1.mlp.out")["h.1.mlp.out"], trace["h.1.mlp.out"])


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 1e-5), ("float64", 1e-12)])
def test_packed_equals_alone(tiny, tiny64, dtype, noise):
    model = tiny if dtype == "float32" else tiny64
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 2048, n).tolist() for n in [*range(1, 19), 100, 256]]
    together = model.trace(prompts)
    assert len(together) == 20
    for ids, packed in zip(prompts, together, strict=True):
        alone = model.trace(ids)
        assert packed.token_ids == alone.token_ids == ids
        assert packed.names() == alone.names()
        assert max(relative_error(packed[n], alone[n]) for n in alone.names()) <= noise
        assert relative_error(packed["loss"], alone["loss"]) <= noise
    together[-1].verify()


def test_a_packed_trace_that_is_held_is_not_written_again(tiny):
    prompts = [list(range(n, n + 150)) for n in (5, 600)]
    held = tiny.trace(prompts)[1]  # the other one is dropped, but they share a block
    before = {name: held[name].copy() for name in held.names()}
    for _ in range(2):
        tiny.trace(prompts[::-1])
    assert all(np.array_equal(held[name], array) for name, array in before.items())


def test_packed_with_less_kept(tiny):
    prompts = ["Emma", "Mr. Darcy was", "To be, or not"]
    for keep in ("attn.q", {"patterns": "resid_post", "positions": slice(-1, None)}):
        for prompt, packed in zip(prompts, tiny.trace(prompts, keep=keep), strict=True):
            alone = tiny.trace(prompt, keep=keep)
            for name in alone.names():
                assert relative_error(packed[name], alone[name]) < 1e-5
            assert packed.top(3)[0][1] == alone.top(3)[0][1]


def test_nothing_stays_alive_after_an_untraced_pass(tiny):
    tiny(PROMPT)
    gc.collect()
    tracemalloc.start()
    tiny(PROMPT)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000
    trace = tiny.trace(PROMPT)
    alive = weakref.ref(trace)
    del trace
    assert alive() is None


def test_timings(tiny):
    trace = tiny.trace(PROMPT, timings=True)
    assert set(trace.timings) == set(trace.names())
    assert all(seconds >= 0 for seconds in trace.timings.values())


# -- verify -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "index", "identity"),
    [
        ("h.2.attn.pattern", (1, 3, 4), "pattern is 0 where a key is not seen"),
        ("h.2.attn.pattern", (1, 3, 2), "rows sum to 1"),
        ("h.1.resid_mid", (0, 5), r"h.1.resid_mid = add\(h.0.resid_post, h.1.attn.out\)"),
        ("h.1.resid_post", (0, 5), r"h.1.resid_post = add\(h.1.resid_mid, h.1.mlp.out\)"),
        ("h.0.attn.out", (0, 5), r"h.0.attn.out = sum of h.0.attn.heads \+ bias"),
        ("logits", (0, 5), r"logits = unembedding\(ln_f, parameters\)"),
        ("h.3.mlp.post", (2, 7), r"mlp.post = gelu_tanh\(h.3.mlp.pre\)"),
        ("h.0.attn.qkv", (1, 500), "attn.qkv = linear"),
        ("wte", (0, 0), r"wte = lookup\(token_ids, parameters\)"),
    ],
)
def test_verify_names_the_first_identity_that_fails(tiny, site, index, identity):
    trace = tiny.trace(PROMPT)
    arrays = {name: trace[name].copy() for name in trace.names()}
    arrays[site][index] += 0.5
    broken = gpt2np.Trace(trace.plan, arrays, trace.token_ids, trace.metadata, tiny)
    with pytest.raises(VerificationError, match=identity):
        broken.verify()
    arrays[site][index] = np.nan
    broken = gpt2np.Trace(trace.plan, arrays, trace.token_ids, trace.metadata, tiny)
    with pytest.raises(VerificationError):
        broken.verify()


def test_verify_says_what_it_could_not_check(tiny, tmp_path):
    trace = tiny.trace(PROMPT, keep="attn.*")
    assert "h.0.attn.pattern rows sum to 1" in trace.verify().checked
    assert "was not kept" in trace.verify().skipped["h.0.resid_mid = add(embed, h.0.attn.out)"]
    trace.save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    name = "h.0.attn.out = sum of h.0.attn.heads + bias"
    assert "model=" in opened.verify().skipped[name]
    assert name in gpt2np.Trace.open(tmp_path / "t.safetensors", model=tiny).verify().checked


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keep", ["*", ["attn.heads", "wte"], {"positions": slice(1, 3), "dtype": "float16"}, "h.1.*"]
)
def test_out_equals_save(tiny, tmp_path, keep):
    written = tiny.trace(PROMPT, keep=keep, out=tmp_path / "out.safetensors")
    memory = tiny.trace(PROMPT, keep=keep)
    memory.save(tmp_path / "save.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "save.safetensors").read_bytes()
    library = load_file(tmp_path / "out.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "out.safetensors")
    assert set(library) == set(opened.names()) == set(written.names())
    for name in memory.names():
        for other in (library, opened, written):
            np.testing.assert_array_equal(other[name], memory[name], err_msg=name)
    assert opened.metadata == memory.metadata == written.metadata
    assert opened.tokens == memory.tokens
    assert opened.names() == memory.names()
    with safetensors.safe_open(tmp_path / "out.safetensors", "np") as file:
        assert set(file.metadata()) == {"gpt2np"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "save.safetensors"]


def test_metadata_says_what_ran(tiny, trace):
    m = trace.metadata
    assert m["model"] == "tiny"
    assert m["fingerprint"] == tiny.checkpoint.fingerprint
    assert m["config"] == tiny.config.to_dict()
    assert (m["prompt"], m["token_ids"], m["dtype"]) == (PROMPT, trace.token_ids, "float32")
    assert m["gpt2np"] == gpt2np.__version__
    assert m["numpy"] == np.__version__


def test_opened_trace_derives_what_it_can(tiny, tmp_path, trace):
    trace.save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    for name, site, _ in SITES.expand(4):
        if site.name != "attn.heads":
            np.testing.assert_array_equal(opened[name], trace[name])
    with pytest.raises(TraceError, match="model="):
        opened["h.0.attn.heads"]
    with_model = gpt2np.Trace.open(tmp_path / "t.safetensors", model=tiny)
    np.testing.assert_array_equal(with_model["h.0.attn.heads"], trace["h.0.attn.heads"])
    assert opened.top()[0][1:] == trace.top()[0][1:]
    assert np.shares_memory(opened.stack("resid_mid"), opened["h.0.resid_mid"])


def test_several_prompts_to_a_folder(tiny, tmp_path):
    prompts = ["Emma", "Mr. Darcy was", "To be, or not"]
    written = tiny.trace(prompts, keep="resid_post", out=tmp_path / "many")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        *(f"{i:06}.safetensors" for i in range(3)),
        "index.jsonl",
    ]
    for i, (prompt, trace) in enumerate(zip(prompts, written, strict=True)):
        opened = gpt2np.Trace.open(tmp_path / "many" / f"{i:06}.safetensors")
        assert opened.prompt == prompt == trace.prompt
        np.testing.assert_array_equal(opened["h.3.resid_post"], trace["h.3.resid_post"])


def test_keep_is_checked():
    for keep in (3, [], [1], {"patterns": "*", "wrong": 1}, {"positions": 3}, {"dtype": "int8"}):
        with pytest.raises(InputError, match="keep"):
            Keep.parse(keep)
    with pytest.raises(InputError, match="forward"):
        Keep.parse({"positions": slice(None, None, -1)})


def test_memory_is_taken_over_only_when_nobody_holds_it(tiny):
    ids = list(range(200))  # large enough to be worth it
    first = tiny.trace(ids)
    address = first["wte"].__array_interface__["data"][0]
    kept, copy = first["h.3.mlp.post"], first["h.3.mlp.post"].copy()
    del first
    second = tiny.trace(ids[::-1])  # `kept` still lies in the first block
    assert second["wte"].__array_interface__["data"][0] != address
    np.testing.assert_array_equal(kept, copy)
    stacked, address = second.stack("attn.z"), second["wte"].__array_interface__["data"][0]
    del second
    assert tiny.trace(ids)["wte"].__array_interface__["data"][0] != address
    del stacked, kept
    third = tiny.trace(ids)
    address = third["wte"].__array_interface__["data"][0]
    del third
    again = tiny.trace(ids[::-1])
    assert again["wte"].__array_interface__["data"][0] == address
    again.verify()


@pytest.mark.parametrize("stored", [None, "float16", "float32", "float64"])
@pytest.mark.parametrize("run", ["float32", "float64"])
def test_verify_in_every_precision(tiny, tiny64, tmp_path, run, stored):
    model = tiny if run == "float32" else tiny64
    trace = model.trace(PROMPT, keep={"patterns": ["*", "loss", "attn.q", "ln_1.mean"], "dtype": stored})
    assert not trace.verify().skipped
    trace.save(tmp_path / "t.safetensors")
    for other in (tiny, tiny64):
        assert not gpt2np.Trace.open(tmp_path / "t.safetensors", model=other).verify().skipped
        assert not gpt2np.Trace.open(tmp_path / "t.safetensors").verify(model=other).skipped


@pytest.mark.parametrize(
    "site", ["h.1.ln_1.mean", "ln_f.normalized", "probabilities", "loss", "h.0.attn.heads"]
)
def test_verify_checks_stored_derived_sites(tiny, site):
    trace = tiny.trace(PROMPT, keep=["*", site])
    arrays = {name: trace[name].copy() for name in trace.names()}
    arrays[site].flat[3] += 0.5
    with pytest.raises(VerificationError, match=f"{site} (follows from|\\+ bias)"):
        gpt2np.Trace(trace.plan, arrays, trace.token_ids, trace.metadata, tiny).verify()


def test_a_trace_of_other_weights_is_refused(tiny, tmp_path):
    path = tmp_path / "t.safetensors"
    tiny.trace(PROMPT, keep=["embed", "attn.z"], out=path)
    other = gpt2np.load("tiny")
    object.__setattr__(other.checkpoint, "fingerprint", "another")
    gpt2np.Trace.open(path, model=other)  # a copy of the same weights
    other._parameters = other.parameters._replace(wte=other.parameters.wte * 1.5)
    with pytest.raises(TraceError, match="another model"):
        gpt2np.Trace.open(path, model=other)


def test_names_with_the_layer_inside_and_beside(trace):
    for name in ("h.1.attn.pattern", "blocks.1.attn.hook_pattern", "layer_1_attention_weights"):
        np.testing.assert_array_equal(trace.stack(name), trace.stack("attn.pattern"))
        assert trace[name, 1] is trace["h.1.attn.pattern"]
        with pytest.raises(UnknownSiteError, match="layer 2"):
            trace[name, 2]
    # as DESIGN section 4 writes them
    for name in ("hook_resid_pre", "attn.hook_q", "attn.hook_attn_scores", "attn.hook_z", "hook_attn_out"):
        assert trace[name, 1].shape[0] in (len(trace.token_ids), 4)
    for name in ("hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"):
        np.testing.assert_array_equal(trace[name, 2], trace[f"blocks.2.{name}"])
    with pytest.raises(UnknownSiteError, match=r"1 / h\.1\.ln_1\.rstd"):
        trace["blocks.1.ln1.hook_scale"]


@pytest.mark.parametrize(
    ("keep", "advice"),
    [
        ("h.9.*", "layer 9 is not one of 0 to 3"),
        ("ln_f.*", "derived sites only"),
        ("qq", "nearest"),
        ("blocks.9.attn.hook_pattern", "layer 9 is not one of 0 to 3"),
        ("attn.z,wte", "a list"),
        ("attn.patern", "nearest"),
    ],
)
def test_a_keep_that_matches_nothing_is_explained(tiny, keep, advice):
    with pytest.raises(UnknownSiteError) as caught:
        tiny.trace(PROMPT, keep=keep)
    assert advice in str(caught.value)
    assert repr(keep) in str(caught.value)


def test_plan_of_an_early_stop(tiny):
    assert tiny.plan("Emma", stop_at_layer=2).nbytes == tiny.trace("Emma", stop_at_layer=2).nbytes
    with pytest.raises(InputError, match="only for sites after stop_at_layer"):
        tiny.trace("Emma", stop_at_layer=2, keep="logits")


def test_an_early_end_leaves_no_room_unused(tiny):
    end = tiny.generate(PROMPT, max_new_tokens=2).finish().token_ids[-1]
    done = tiny.generate(PROMPT, max_new_tokens=200, eos=end, keep="*").finish()
    assert done.stopped_by == "eos"
    assert done.trace["logits"].base.nbytes < 2 * done.trace.plan.nbytes
    done.trace.verify()
