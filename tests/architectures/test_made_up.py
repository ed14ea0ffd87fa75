"""A made-up architecture: its numbers, by a plain program, and every way to run it."""

import ast
from pathlib import Path

import numpy as np
import pytest
from support import made_up
from support.differences import relative_error

import gpt2np
from gpt2np.errors import ConfigError

IDS = np.random.default_rng(0).integers(0, 300, 40).tolist()
NOISE = 1e-12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("made_up") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder, dtype="float64")


def plainly(model, ids):
    """The hidden states and logits by a program that shares nothing with the package."""
    w, c = {name: array.astype(np.float64) for name, array in model.weights.items()}, model.config
    x, at = w["table"][ids], np.arange(len(ids))
    states = [x]

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_epsilon) * weight

    for i in range(c.n_layer):
        p = {name.split(".", 2)[2]: array for name, array in w.items() if name.startswith(f"blocks.{i}.")}
        a = norm(x, p["ln_1"])
        q, k, v = ((a @ p[n].T).reshape(len(ids), -1, c.d_head) for n in "qkv")
        z = np.empty_like(q)
        for h in range(c.n_head):
            scores = q[:, h] @ k[:, h // 2].T
            far = at[None] <= at[:, None] - c.window_size
            scores[(at[None] > at[:, None]) | (far & (i % 2 == 1))] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            z[:, h] = weights / weights.sum(-1, keepdims=True) @ v[:, h // 2]
        x = x + z.reshape(len(ids), -1) @ p["o"].T
        x = x + np.maximum(norm(x, p["ln_2"]) @ p["up"].T, 0) @ p["down"].T
        states.append(x)
    return states, norm(x, w["norm"]) @ w["table"].T


def test_the_numbers(model):
    trace = model.trace(IDS)
    states, logits = plainly(model, IDS)
    assert relative_error(trace["logits"], logits) < NOISE
    assert relative_error(trace["embed"], states[0]) < NOISE
    for i, state in enumerate(states[1:]):
        assert relative_error(trace[f"h.{i}.resid_post"], state) < NOISE
    assert relative_error(model(IDS), logits) < NOISE
    assert relative_error(model(IDS, last=True), logits[-1]) < NOISE
    assert trace.dims["h.0.attn.k"] == "pos kv_head d_head"
    assert trace["h.0.attn.k"].shape == (40, 2, 6)


def test_float32_is_near(folder):
    single = gpt2np.load(folder)
    _, logits = plainly(single, IDS)
    assert relative_error(single(IDS), logits) < 1e-5


@pytest.mark.parametrize("window", [1, 2, 39, 40, 130])
def test_windows_across_blocks_of_queries(tmp_path, window):
    model = gpt2np.load(
        made_up.write(tmp_path / "m", n_layer=2, n_positions=400, window_size=window), dtype="float64"
    )
    ids = np.random.default_rng(1).integers(0, 300, 300).tolist()
    _, logits = plainly(model, ids)
    assert relative_error(model(ids), logits) < NOISE
    done = model.generate(ids[:150], max_new_tokens=5, keep="logits").finish()
    assert relative_error(done.trace["logits"], plainly(model, done.token_ids[:-1])[1]) < NOISE


def test_plan_keep_files(model, tmp_path):
    plan = model.plan(40)
    trace = model.trace(IDS, out=tmp_path / "t.safetensors")
    assert plan.nbytes == trace.nbytes == sum(trace[name].nbytes for name in trace.names())
    assert "kv_head" in str(plan)
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model=model)
    assert opened.config == model.config
    assert opened.config.to_dict()["model_type"] == "made_up"
    for name in trace.names():
        np.testing.assert_array_equal(opened[name], trace[name])
    assert opened.top() == trace.top()
    model.trace(IDS).save(tmp_path / "saved.safetensors")
    assert (tmp_path / "saved.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()
    some = model.trace(IDS, keep={"patterns": ["attn.k", "ln_1.rms"], "positions": slice(3, 9, 2)})
    np.testing.assert_array_equal(some["h.2.attn.k"], trace["h.2.attn.k"][3:9:2])
    np.testing.assert_array_equal(some["h.2.ln_1.rms"], trace["h.2.ln_1.rms"][3:9:2])
    assert trace.stack("attn.v").shape == (4, 40, 2, 6)
    with pytest.raises(gpt2np.Gpt2npError, match="no site is called 'wpe'"):
        model.trace(IDS, keep="wpe")
    stopped = model.trace(IDS, stop_at_layer=2)
    assert "h.2.ln_1" not in stopped
    with pytest.raises(gpt2np.Gpt2npError, match="another model"):
        gpt2np.Trace.open(tmp_path / "t.safetensors", model=gpt2np.load("tiny"))


def test_packed_prompts_do_not_see_each_other(model):
    prompts = [IDS[:1], IDS, IDS[5:17]]
    for trace, ids in zip(model.trace(prompts), prompts, strict=True):
        alone = model.trace(ids)
        for name in alone.names():
            assert relative_error(trace[name], alone[name]) < NOISE, name


WAYS = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "top_k": 50, "seed": 3},
    "beams": {"num_beams": 3},
    "lookup": {"lookup": 4},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_generation_leaves_one_trace(model, way):
    done = model.generate(IDS[:7], max_new_tokens=20, keep="*", **WAYS[way]).finish()
    once = model.trace(done.token_ids[:-1])
    assert done.trace.names() == once.names()
    for name in once.names():
        assert relative_error(done.trace[name], once[name]) < NOISE, name
    assert model.generate(IDS[:7], max_new_tokens=20, **WAYS[way]).finish().token_ids == done.token_ids
    keys, values = done.past_key_values[1]
    assert keys.shape == values.shape == (1, 2, 26, 6)


def test_several_prompts_and_a_past(model):
    several = model.generate([IDS[:3], IDS[:9]], max_new_tokens=6, keep="logits").finish()
    for done, n in zip(several, (3, 9), strict=True):
        assert done.token_ids == model.generate(IDS[:n], max_new_tokens=6).finish().token_ids
    whole = model.generate(IDS, max_new_tokens=8, keep="*").finish()
    resumed = model.generate(IDS, max_new_tokens=8, keep="*", past=model.trace(IDS[:23])).finish()
    assert resumed.token_ids == whole.token_ids
    rows = [whole.trace.positions.index(i) for i in resumed.trace.positions]
    for name in ("h.3.attn.z", "h.1.mlp.out", "logits"):
        assert relative_error(resumed.trace[name], whole.trace[name][rows]) < NOISE


EDITS = {
    "h.0.attn.q": lambda q: q * 2,
    "h.1.attn.k": lambda k: -k,
    "attn.v": lambda v, at: v * (at.layer + 1),
}


@pytest.mark.parametrize("which", ["made_up", "tiny"])
def test_edits_of_queries_keys_and_values(model, tiny64, which):
    """Traced with an edit == generated with it == resumed from its past."""
    model = model if which == "made_up" else tiny64
    done = model.generate(IDS[:9], max_new_tokens=10, keep="*", edits=EDITS).finish()
    traced = model.trace(done.token_ids[:-1], edits=EDITS)
    past = model.trace(IDS[:6], edits=EDITS)
    resumed = model.generate(IDS[:9], max_new_tokens=10, keep="*", edits=EDITS, past=past).finish()
    plain = model.trace(done.token_ids[:-1])
    assert resumed.token_ids == done.token_ids
    assert relative_error(traced["h.0.attn.q"], 2 * plain["h.0.attn.q"]) < NOISE
    assert relative_error(traced["logits"], plain["logits"]) > 1e-3
    rows = list(resumed.trace.positions)
    for name in traced.names():
        assert relative_error(done.trace[name], traced[name]) < NOISE, name
        if not traced.plan.by_name[name].site.quadratic:
            assert relative_error(resumed.trace[name], traced[name][rows]) < NOISE, name
    assert traced.verify().checked


def test_the_bytes_of_a_cache(model):
    plan = model.plan(40, generating=True)
    assert plan.cache_nbytes == 4 * 2 * 40 * 2 * 6 * 8  # layers, keys and values, positions, heads, width
    assert f"{plan.cache_nbytes:,} bytes of cache" in str(plan)
    assert model.plan(40).cache_nbytes == 0
    assert plan.nbytes == model.plan(40).nbytes


def test_score(model):
    score = model.score(IDS)
    logits = plainly(model, IDS)[1]
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    assert score.loss == pytest.approx(-chances[np.arange(39), IDS[1:]].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "unheard_of"}, r"model_type is 'unheard_of'; gpt2np runs 'gpt2'"),
        ({"model_type": 3}, "model_type is 3"),
        ({"model_type": ["gpt2"]}, "model_type is"),
        ({"quantization_config": {}}, "quantization_config is {}, which changes the result"),
    ],
)
def test_configs_that_are_refused(model, change, message):
    with pytest.raises(ConfigError, match=message):
        gpt2np.read_config(model.config.to_dict() | change)


def test_read_config(folder, model):
    assert gpt2np.read_config(folder) == gpt2np.read_config(folder / "config.json") == model.config
    assert isinstance(gpt2np.read_config({"n_layer": 3}), gpt2np.Config)
    with pytest.raises(ConfigError, match="no such file"):
        gpt2np.read_config(folder / "nothing.json")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        gpt2np.read_config(folder.parent / "list.json") if (folder.parent / "list.json").write_text(
            "[]"
        ) else 0


# -- nothing else knows a model ------------------------------------------------------------------------

PACKAGE = Path(gpt2np.__file__).parent
BY_NATURE = """architectures tracing/site_rows.py export/llmc.py export/typescript.py export/dialects/llmc.py
    export/dialects/extraction_guide.py reference/fixture.py reference/raw_files.py reference/diagnosis.py
    reference/mistake_replay.py reference/mistakes reference/other_prompts.py reference/program_names.py
    reference/execution_order.py viewer/parts_of_gpt2.py viewer/parts_of_gpt_neo.py viewer/commentary.py
    lessons""".split()
FORBIDDEN = ("attn.qkv", "'wpe'", "c_attn", "n_embd // n_head", "BY_NAME", "split_qkv", "tracing.config")


def without_docstrings(path):
    """A file's code, spelled as Python spells it: without comments and docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
    return ast.unparse(tree)


def test_no_other_file_knows_an_architecture():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if any(place == name or place.startswith(f"{name}/") for name in BY_NATURE):
            continue
        code = without_docstrings(path)
        code = code.replace("self.config.n_embd", "n_embd").replace("cfg.n_embd", "n_embd")
        found += [(place, word) for word in FORBIDDEN if word in code]
    assert found == []


def test_the_made_up_architecture_is_one_short_file():
    lines = Path(made_up.__file__).read_text("utf-8").splitlines()
    assert len(lines) <= 160
    users = [
        p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".js") and "made_up" in p.read_text("utf-8")
    ]
    assert users == []
