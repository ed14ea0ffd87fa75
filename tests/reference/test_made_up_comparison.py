"""`compare` of dumps of an architecture that is not GPT-2's: windows, groups of heads, RMSNorm, no biases."""

import itertools

import numpy as np
import pytest
from support import made_up
from support.command_line import run

import gpt2np
from gpt2np import ops
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.reference.comparison import compare
from gpt2np.reference.dumps import dump_of, read_dump
from gpt2np.reference.mistakes import CATALOGUE, At
from gpt2np.reference.noise_bands import expect
from gpt2np.reference.placement import place
from gpt2np.reference.precision import in_precision
from gpt2np.reference.token_recovery import ids_in_dump
from gpt2np.tracing.lines import lines
from gpt2np.tracing.packed_pass import Pass, Sequence
from gpt2np.tracing.step import Step

IDS = [3, 1, 4, 1, 5, 92, 65, 35, 89, 79, 32, 38]  # longer than the window of 5
STORED = [site.name for site in made_up.SITES if not site.derived]
LAYERED = [site.name for site in made_up.SITES if not site.derived and site.layered]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("compare") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder)


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


@pytest.fixture(scope="module")
def dump(trace):
    return {name: np.array(trace[name]) for name in trace.names()}


def hold(dump, model, **options):
    return compare(dump, model, IDS, **options)


# -- runs without a mistake -------------------------------------------------------------------------


def clean_model(seed, folder):
    rng = np.random.default_rng(seed)
    n_kv_head = int(rng.integers(1, 4))
    numbers = {
        "n_layer": int(rng.integers(1, 5)), "n_kv_head": n_kv_head,
        "n_head": n_kv_head * int(rng.integers(1, 4)), "d_head": int(rng.choice([1, 2, 6, 16])),
        "n_embd": int(rng.choice([4, 20, 33])), "d_mlp": int(rng.choice([7, 36])),
        "window_size": int(rng.choice([1, 2, 5, 9])), "vocab_size": int(rng.integers(30, 400)),
    }  # fmt: skip
    ids = rng.integers(0, numbers["vocab_size"], int(rng.choice([1, 2, 3, 12, 30, 50]))).tolist()
    return gpt2np.load(made_up.write(folder / "m", seed, **numbers)), ids


def from_back_to_front(model, ids):
    """A run with every sum from its end, one number after another."""

    def product(a, b):  # [..., n] and [..., n, m]
        total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
        for i in reversed(range(a.shape[-1])):
            total += a[..., i, None] * b[..., None, i, :]
        return total

    def of_weight(x, weight, *, out):
        out.reshape(len(out), -1)[...] = product(x, weight)

    def scores(q, k, window, *, out):
        k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
        out[...] = product(q.transpose(1, 0, 2), k.transpose(1, 2, 0))
        out[:, ops.unseen(range(len(q)), len(k), window)] = -np.inf

    def mix(pattern, v, *, out):
        v = np.repeat(v, len(pattern) // v.shape[1], axis=1)
        out[...] = product(pattern, v.transpose(1, 0, 2)).transpose(1, 0, 2)

    def unembedding(x, table, *, out):
        out[...] = product(x, table.T)

    found = {}
    other = {ops.product: of_weight, ops.project: of_weight, ops.dot_scores: scores, ops.mix: mix}
    other[ops.unembedding] = unembedding

    def swap(name, op):
        def step(*inputs, out):
            other.get(op, op)(*inputs, out=out)
            found[name] = out.copy()

        return step

    run = Pass(model.config, model.dtype, [Sequence(np.array(ids))], swap=swap)
    made_up.forward(model.parameters, model.config, Step(run))
    return found


def decoded(model, ids):
    """With a cache: a few tokens at once, then one at a time; the tokens are those that it chose."""
    n = max(1, len(ids) // 2)
    done = model.generate(ids[:n], max_new_tokens=len(ids) - n + 1, keep="*", eos=None).finish()
    return done.trace


WAYS = [lambda model, ids: model.trace(ids), from_back_to_front, decoded]


@pytest.mark.every(2)
@pytest.mark.parametrize("seed", range(27))
def test_runs_without_a_mistake_are_within_noise(tmp_path, seed):
    model, ids = clean_model(seed, tmp_path)
    theirs = WAYS[seed % len(WAYS)](model, ids)
    found = compare(theirs, model, getattr(theirs, "token_ids", ids))
    assert found.verdict == "within-noise", str(found)
    assert not found.refused
    assert not found.unknown
    assert len(found.sites) == len(STORED) + (model.config.n_layer - 1) * len(LAYERED)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_every_site_has_a_band(model, trace, precision):
    expected = expect(model, IDS, precision)
    names = {full for full, site, _ in made_up.SITES.expand(4) if site.name != "top_k_tokens"}
    assert set(expected.bands) == names
    for name, band in expected.bands.items():
        truth = expected.truth[name]
        assert np.isfinite(band).all(), name
        assert (band > 0).all(), name
        if precision == "float32":
            seen = np.isfinite(truth)
            error = np.abs(np.where(seen, trace[name], 0.0) - np.where(seen, truth, 0.0))
            assert (error <= band).all(), name


def test_half_precision(model):
    kept = model.trace(IDS, keep={"dtype": "float16"})
    found = hold(kept, model)
    assert found.verdict == "within-noise"
    assert {report.dtype for report in found.sites} == {"float16"}
    changed = {name: np.array(kept[name]) for name in kept.names()}
    changed["h.2.mlp.pre"][3] += 1
    assert hold(changed, model).site == "h.2.mlp.pre"


# -- the first wrong site ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORED)
def test_the_first_wrong_site(model, dump, name):
    full = f"h.1.{name}" if name in LAYERED else name
    site = made_up.SITES[name]
    changed = dict(dump) | {full: dump[full].copy()}
    axis = next(i for i, a in enumerate(site.axis_names) if a in ("pos", "query"))
    rows = [slice(None)] * changed[full].ndim
    rows[axis] = 7
    changed[full][tuple(rows)] *= 1.5
    found = hold(changed, model)
    assert (found.verdict, found.site, found.position) == ("wrong", full, 7)
    assert found.exit_code == 1
    assert [report.site for report in found.sites if report.verdict != "within-noise"] == [full]
    report = str(found)
    assert site.doc.split(",")[0][:40] in " ".join(report.split())
    said = "none of the catalogue explains it" if name == "logits" else "this array was recorded wrongly"
    assert said in " ".join(report.split()) or not found.first.unused
    assert found.to_dict()["mistake"] is None


def test_heads_that_are_wrong(model, dump):
    for name, index, head, pattern in (
        ("h.1.attn.k", np.s_[:, 1], 1, "kv head 1 only"),
        ("h.0.attn.v", np.s_[4:, 0], 0, "kv head 0 only"),
        ("h.3.attn.q", np.s_[:, 3], 3, "head 3 only"),
        ("h.2.attn.z", np.s_[2:, 2], 2, "head 2 only"),
    ):
        changed = dump | {name: dump[name].copy()}
        changed[name][index] += 0.5
        found = hold(changed, model)
        assert (found.site, found.head) == (name, head)
        assert found.first.measure.pattern.startswith(pattern)


def test_a_run_without_the_window(folder, model, dump, tmp_path):
    wide = gpt2np.load(made_up.write(tmp_path / "wide", window_size=64))
    theirs = wide.trace(IDS)
    found = hold(theirs, model)
    assert (found.site, found.position) == ("h.1.attn.pattern", 5)
    assert any("what is not seen has attention" in note for note in found.first.notes)
    scores = next(report for report in found.sites if report.site == "h.1.attn.scores")
    assert scores.verdict == "within-noise"  # what is seen is right
    assert any("unseen scores hold numbers" in n or "not masked" in n for n in scores.notes)


@pytest.mark.parametrize("fill", [-1e9, -1e4, float(np.finfo(np.float32).min), np.nan, 0.0])
def test_what_stands_where_a_query_does_not_look(model, dump, fill):
    changed = dict(dump)
    for layer in range(4):
        name = f"h.{layer}.attn.scores"
        changed[name] = np.where(np.isfinite(dump[name]), dump[name], np.float32(fill))
    found = hold(changed, model)
    assert found.verdict == "within-noise"
    notes = {report.site: report.notes for report in found.sites}
    assert notes["h.0.attn.scores"][0].startswith("future scores hold")
    assert notes["h.1.attn.scores"][0].startswith("unseen scores hold")


# -- names and layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["gpt2np", "hf", "transformer_lens"])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_what_export_writes(tmp_path, model, trace, dialect, kind):
    path = tmp_path / f"t.{kind}"
    n = write_dialect(trace, path, kind, dialect)
    assert read_dump(path).token_ids == IDS
    found = compare(path, model)
    assert (found.verdict, len(found.sites), found.unknown, found.refused) == ("within-noise", n, (), ())


def test_other_programs_names(model, trace, dump):
    theirs = {
        "model.embed": trace["embed"],
        "model.blocks.2.ln_1": trace["h.2.ln_1"],
        "blocks.1.o.output": trace["h.1.attn.out"],
        "blocks.3.attn.hook_k": trace["h.3.attn.k"],
        "blocks.3.ln2.hook_scale": trace["h.3.ln_2.rms"][:, None],
        "ln_final.hook_normalized": trace["ln_f.normalized"],
        "attentions": tuple(trace[f"h.{i}.attn.pattern"][None] for i in range(4)),
        "past_key_values": tuple(
            (trace[f"h.{i}.attn.k"].swapaxes(0, 1)[None], trace[f"h.{i}.attn.v"].swapaxes(0, 1)[None])
            for i in range(4)
        ),
        "hidden_states": (
            trace["embed"], *(trace[f"h.{i}.resid_post"] for i in range(3)), trace["ln_f"]
        ),
        "lm_head": trace["logits"],
    }  # fmt: skip
    found = hold(theirs, model)
    assert (found.verdict, found.unknown, found.refused) == ("within-noise", (), ())
    assert {"h.2.ln_1", "h.1.attn.out", "h.3.attn.k", "h.3.ln_2.rms", "h.0.attn.v", "ln_f"} <= {
        report.site for report in found.sites
    }
    assert hold({"c_attn": dump["embed"], "embed": dump["embed"]}, model).unknown == ("c_attn",)


def test_layouts(model, trace):
    placed = {}
    of_heads = {"attn.q": 24, "attn.k": 12, "attn.v": 12, "attn.z": 24}
    for name, width in of_heads.items():
        array = trace[f"h.1.{name}"]
        first = array.swapaxes(0, 1)
        for layout, laid_out in {
            "merged": array.reshape(len(IDS), width),
            "merged, batch": array.reshape(1, len(IDS), width),
            "heads first": first,
            "heads first, batch": first[None],
            "columns": array.reshape(len(IDS), width).T,
            "flat": array.ravel(),
        }.items():
            found = place(dump_of({f"h.1.{name}": laid_out}), trace, model.config)
            assert not found.refused, (name, layout, found.refused)
            np.testing.assert_array_equal(found.placed[0].array, array)
            placed[name, layout] = found.placed[0]
    assert placed["attn.k", "merged"].layout == "[pos, kv_head*d_head]"  # which is not n_embd
    assert placed["attn.z", "merged"].layout == "[pos, head*d_head]"
    assert placed["attn.k", "merged"].notes == ("heads merged",)
    assert placed["attn.v", "heads first"].notes[0] == "heads first"
    (refused,) = place(dump_of({"h.1.attn.k": trace["h.1.attn.q"]}), trace, model.config).refused
    assert "expected [pos, kv_head, d_head] = (12, 2, 6)" in refused.reason
    declared = place(
        dump_of({"k": trace["h.1.attn.k"].reshape(12, 12)}),
        trace,
        model.config,
        names={"k": "h.1.attn.k[pos kv_head*d_head]"},
    )
    assert declared.placed[0].notes == ("layout as declared",)


@pytest.mark.parametrize("n", [1, 2, 4, 6])  # as many tokens as key heads, heads, columns
def test_layouts_of_equal_axes(model, n):
    trace = model.trace(IDS[:n])
    theirs = {}
    for layer, name in itertools.product(range(4), ("attn.q", "attn.k", "attn.v", "attn.z")):
        theirs[f"h.{layer}.{name}"] = trace[f"h.{layer}.{name}"].swapaxes(0, 1)
    for layer in range(4):
        theirs[f"h.{layer}.attn.scores"] = trace[f"h.{layer}.attn.scores"].swapaxes(1, 2)
        theirs[f"h.{layer}.attn.pattern"] = trace[f"h.{layer}.attn.pattern"].swapaxes(1, 2)
    found = compare(theirs, model, IDS[:n])
    assert (found.verdict, found.refused) == ("within-noise", ())


def test_some_rows_only(model, trace):
    last = {name: trace[name][-1:] for name in ("h.1.ln_1", "h.1.attn.k", "h.3.resid_post", "logits")}
    last["h.1.attn.pattern"] = trace["h.1.attn.pattern"][:, -1:]
    last["h.1.attn.scores"] = trace["h.1.attn.scores"][:, -1:]
    assert hold(last, model).verdict == "within-noise"
    some = {"h.1.attn.scores": trace["h.1.attn.scores"][:, -3:].copy()}
    some["h.1.attn.scores"][2, 1, -2] += 1
    found = hold(some, model)
    assert (found.verdict, found.position, found.head) == ("wrong", len(IDS) - 2, 2)
    first = model.trace(IDS, keep={"positions": slice(0, 6)})
    assert hold(first, model).verdict == "within-noise"


# -- what the rest rests on -------------------------------------------------------------------------


def test_tokens_are_read_from_a_dump(model, trace):
    wide = in_precision(model, "float64")
    for name in ("embed", "h.0.resid_pre", "h.0.ln_1"):
        assert ids_in_dump(wide, {name: np.array(trace[name])}) == tuple(IDS)
    assert ids_in_dump(wide, {"h.1.ln_1": np.array(trace["h.1.ln_1"])}) is None


def test_precision_is_of_whatever_parameters(model):
    wide = in_precision(model, "float64")
    assert type(wide.parameters) is type(model.parameters)
    assert wide.parameters.table.dtype == wide.parameters.h[2].q.dtype == np.float64
    assert wide.parameters.h[2] is wide.parameters.h[2]  # converted once, and
    first = wide.parameters.h[0]
    assert wide.parameters.h[1] is not first
    assert wide.parameters.h[0] is not first  # one at a time
    assert [len(wide.parameters.h[1:]), len(wide.parameters.h)] == [3, 4]
    half = in_precision(model, "float32", "float16")
    np.testing.assert_array_equal(half.parameters.h[1].o, model.parameters.h[1].o.astype(np.float16))
    assert in_precision(model, "float32") is model


def test_the_verb(folder, dump, tmp_path, capsys):
    ids = ",".join(map(str, IDS))
    np.savez(tmp_path / "right.npz", **dump)
    np.savez(tmp_path / "wrong.npz", **dump | {"h.1.attn.v": dump["h.1.attn.v"] * 1.1})
    argv = ("--model", str(folder), "--tokens", ids)
    code, out, _ = run(capsys, "compare", str(tmp_path / "right.npz"), *argv)
    assert code == 0
    assert "within noise" in out
    code, out, _ = run(capsys, "compare", str(tmp_path / "wrong.npz"), *argv)
    assert code == 1
    assert "h.1.attn.v" in out
    assert "this array was recorded wrongly" in " ".join(out.split())
    (tmp_path / "x.bin").write_bytes(bytes(4000))
    code, _, err = run(capsys, "compare", str(tmp_path / "x.bin"), *argv)
    assert (code, err.strip().splitlines()[-1].partition(": ")[2]) == (
        2, "made_up has no activations of llm.c: only gpt2 has",
    )  # fmt: skip


# -- what people dump instead -----------------------------------------------------------------------


def behind(array, n):
    return np.concatenate([array, np.full((n, *array.shape[1:]), 3, array.dtype)])


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "log-probabilities": (
            lambda d: {"logits": d["logits"] - np.log(np.exp(d["logits"]).sum(-1, keepdims=True))},
            "log-probabilities",
        ),
        "a buffer": (lambda d: {"h.0.ln_1": behind(d["h.0.ln_1"], 20)}, "the first 12 of its 32 rows"),
        "layers from 1": (
            lambda d: {f"layers.{int(n[2]) + 1}{n[3:]}": x for n, x in d.items() if n[:2] == "h."},
            "your layers.1.ln_1 is our h.0.ln_1",
        ),
        "keys and values side by side": (
            lambda d: {"h.1.attn.k": np.concatenate([d[f"h.1.attn.{x}"].reshape(12, -1) for x in "kv"], -1)},
            "keys and values side by side",
        ),
        "names of programs": (
            lambda d: {
                "blk.1.attn_norm": d["h.1.ln_1"],
                "ffn_up-1": d["h.1.mlp.pre"],
                "h.1.mlp.input": d["h.1.ln_2"],
            },
            "within noise: 3 sites",
        ),
        "a name of no site": (
            lambda d: {"ln_f": d["ln_f"], "mine": d["h.2.mlp.post"]},
            "mine [12, 36] has the values of h.2.mlp.post",
        ),
        "what was recorded is not what ran": (
            lambda d: d | {"h.1.attn.out": d["h.1.attn.out"] * 2},
            "every one 2 times what it should be",
        ),
    }.values(),
)
def test_other_forms(model, dump, change, said):
    found = hold(change(dump), model)
    text = " ".join(str(found).split())
    assert said in text
    assert found.verdict == ("wrong" if "2 times" in said else "within-noise"), text


# -- mistakes, where their steps exist -----------------------------------------------------------------


def planted(model, mistake, variant, steps, layer=1):
    """The stored sites of a run with a mistake of the catalogue in one layer."""
    found = {}

    class Found(dict):
        def __missing__(self, name):
            return found[f"h.{layer - 1}.resid_post" if layer else "embed"]

    def swap(name, op):
        site, at_layer = model.config.architecture.sites.resolve(name, None, model.config.n_layer)

        def step(*inputs, out):
            op(*inputs, out=out)
            if site.name in steps and at_layer in (layer, None):
                at = At(site.name, at_layer, model.config, model.parameters, Found(found), len(IDS))
                mistake.run(at, variant, *inputs, out=out)
            found[name] = out.copy()

        return step

    run = Pass(model.config, model.dtype, [Sequence(np.array(IDS))], swap=swap)
    with np.errstate(all="ignore"):
        made_up.forward(model.parameters, model.config, Step(run))
    return found


OPERATIONS = {name.split(".", 2)[-1]: line.op for name, line in lines(made_up.Config()).items()}
STEPS = {mistake.slug: mistake.steps_in(made_up.Config(), OPERATIONS) for mistake in CATALOGUE}
OTHERS = {"targets-not-shifted", "rows-reversed", "record-overwritten"}  # in what is recorded, or derived
OTHERS |= {"activation-relu", "activation-twice"}  # its activation is relu, once and for all
OTHERS |= {"scores-unscaled", "bias-added"}  # its scores have no scale; and a bias can be any
THERE = [mistake for mistake in CATALOGUE if STEPS[mistake.slug] and mistake.slug not in OTHERS]


def test_mistakes_apply_where_their_steps_compute_the_same():
    assert {"softmax-missing", "gelu-quick", "sublayer-missing", "logits-scaled", "layer-skipped"} <= {
        mistake.slug for mistake in THERE
    }
    for slug in ("qkv-order", "layernorm-ddof1", "missing-bias", "position-missing", "rotation-pairs"):
        assert STEPS[slug] == (), slug  # no fused qkv, no mean, no biases, no positions
    unscaled = next(mistake for mistake in CATALOGUE if mistake.slug == "scores-unscaled")
    assert list(unscaled.variants(made_up.Config(), len(IDS), ())) == []  # nothing is scaled


@pytest.mark.parametrize("mistake", THERE, ids=lambda mistake: mistake.slug)
def test_a_mistake_is_named_in_another_architecture(model, dump, mistake):
    variant = next(iter(mistake.variants(model.config, len(IDS), range(1, len(IDS)))))
    theirs = planted(model, mistake, variant, STEPS[mistake.slug])
    assert not all(np.array_equal(theirs[name], dump[name], equal_nan=True) for name in theirs)
    found = compare(theirs, model, IDS, search=0)
    assert found.verdict == "wrong"
    assert mistake.slug in [candidate.slug for candidate in found.candidates], found


def test_other_tokens_are_found_out(model):
    ids = [*IDS[:3], 77, *IDS[4:]]
    for names in (("embed", "h.0.ln_1", "logits"), ("embed",)):
        theirs = {name: np.array(model.trace(ids)[name]) for name in names}
        assert hold(theirs, model, search=0).mistake == "wrong-token-ids"
