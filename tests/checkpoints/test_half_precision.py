"""Weights of half precision: as they are stored and widened, they give the same results."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import large_checkpoint, needs
from support.command_line import run
from support.differences import relative_error
from support.large_checkpoint import write_large_checkpoint

import gpt2np
from gpt2np.architectures import gemma2, gpt2, gpt_neo
from gpt2np.checkpoints import checkpoint, free_memory
from gpt2np.errors import CheckpointError
from gpt2np.ops import narrow_weights, readable_parameters
from gpt2np.ops.narrow_weights import BFLOAT16, is_narrow, multiply_narrow, widened
from gpt2np.tensorfile import open_tensors
from gpt2np.tracing import lines

CONFIGS = {
    "gpt2": gpt2.Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4),
    "gpt_neo": gpt_neo.Config(
        vocab_size=97,
        max_position_embeddings=64,
        hidden_size=48,
        num_layers=2,
        num_heads=4,
        attention_layers=("global", "local"),
        window_size=5,
    ),
    "gemma2": gemma2.Config(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=5,
        max_position_embeddings=64,
    ),
}
IDS = [5, 17, 3, 96, 0, 41, 5, 17, 22]


def write_half(folder, config, kind):
    """A random checkpoint whose tensors are all of one half precision."""
    rng, arrays = np.random.default_rng(1), {}
    for name, shape in config.architecture.shapes(config).items():
        values = rng.normal(1.0 if name.endswith("weight") and len(shape) == 1 else 0, 0.3, shape)
        half = values.astype(np.float16)
        arrays[name] = (
            half if kind == "F16" else (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
        )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    if kind == "BF16":  # the writer has no bfloat16: the header is made to say so, at the same length
        raw = (folder / "model.safetensors").read_bytes()
        n = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + n])
        for entry in header.values():
            if "dtype" in entry:
                entry["dtype"] = "BF16"
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n :])
    return folder


@pytest.fixture(params=[(a, k) for a in CONFIGS for k in ("BF16", "F16")], ids="-".join)
def folder(request, tmp_path):
    architecture, kind = request.param
    return write_half(tmp_path / "model", CONFIGS[architecture], kind)


@pytest.fixture
def pair(folder):
    """The same model with its weights as stored, and widened."""
    return gpt2np.load(folder, widen=False), gpt2np.load(folder, widen=True)


def close(one, other):
    scale = max(1.0, float(np.abs(other[np.isfinite(other)]).max()))
    assert np.array_equal(np.isfinite(one), np.isfinite(other))
    finite = np.isfinite(other)
    assert np.abs(one[finite] - other[finite]).max() <= 1e-5 * scale


def test_every_site_is_the_same(pair):
    stored, wide = (model.trace(IDS) for model in pair)
    for name in wide.names():
        close(stored[name], wide[name])
    stored.verify()
    stored.verify(pair[1])
    wide.verify(pair[0])


def test_packed_cached_and_scored(pair):
    stored, wide = pair
    for one, other in zip(stored.trace([IDS, IDS[:3]]), wide.trace([IDS, IDS[:3]]), strict=True):
        close(one["logits"], other["logits"])
    made = [model.generate(IDS, max_new_tokens=8, keep="logits").finish() for model in pair]
    assert made[0].token_ids == made[1].token_ids
    close(made[0].trace["logits"], made[1].trace["logits"])
    assert abs(stored.score(IDS).loss - wide.score(IDS).loss) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(folder, threads):
    ids = np.resize(IDS, 60)
    stored = gpt2np.load(folder, widen=False, threads=threads)
    close(stored(ids), gpt2np.load(folder, widen=True, threads=threads)(ids))
    assert np.array_equal(stored(ids), stored(ids))


def test_what_is_read_is_float_and_read_only(pair):
    stored, wide = pair
    assert stored.weights.keys() == wide.weights.keys()
    for name, array in wide.weights.items():
        assert stored.weights[name].dtype == np.float32
        assert np.array_equal(stored.weights[name], array)
        assert not stored.weights[name].flags.writeable

    def same(one, other):
        if isinstance(other, np.ndarray):
            assert one.dtype == np.float32
            assert np.array_equal(one, other)
            assert one.ndim < 2 or not one.flags.writeable  # norms may be computed from what is stored
        elif isinstance(other, tuple):
            assert isinstance(one, type(other))
            assert repr(one) == repr(other)
            for a, b in zip(one, other, strict=True):
                same(a, b)
            for field in getattr(other, "_fields", ()):
                same(getattr(one, field), getattr(other, field))
        else:
            assert one == other

    same(stored.parameters, wide.parameters)
    same(stored.parameters.h[0:1], wide.parameters.h[0:1])
    same(stored.parameters.h[0]._replace(), wide.parameters.h[0])
    assert np.array_equal(pickle.loads(pickle.dumps(stored.parameters)).wte, wide.parameters.wte)
    assert stored.n_parameters == wide.n_parameters


def test_how_they_are_held_is_said(folder, pair):
    file = open_tensors(folder / "model.safetensors")
    name = {"BF16": "bfloat16", "F16": "float16"}[file.dtype(file.names[0])]
    assert f"float32, {name} weights as stored" in repr(pair[0])
    assert f"{name} as stored" in repr(pair[0].weights)
    assert "stored" not in repr(pair[1]) + repr(pair[1].weights)
    assert name in pair[0].weights._repr_html_()
    held = pair[0].weights.held
    assert {a.ndim for a in held.values() if a.dtype != np.float32} == {2}
    assert {a.ndim for a in held.values() if a.dtype == np.float32} == {1}


def test_info_and_plan_say_the_bytes(folder, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "AS_STORED_FROM", 1000)
    model = gpt2np.load(folder)
    n, kind = model.n_parameters, model.weights.narrow
    facts = json.loads(run(capsys, "info", "--model", folder, "--json")[1])["weights"]
    norms = sum(array.size for array in model.weights.held.values() if array.ndim == 1)
    assert facts == {"held_as": kind, "held": 2 * n + 2 * norms, "float32": 4 * n, "float64": 8 * n}
    text = run(capsys, "info", "--model", folder)[1]
    assert f"{2 * n + 2 * norms:,} bytes, held as {kind}" in text
    assert f"{4 * n:,} bytes as float32" in text
    facts = json.loads(run(capsys, "plan", "9", "--model", folder, "--dtype", "float64", "--json")[1])
    assert (facts["weights"], facts["weights_as_stored"]["dtype"]) == (8 * n, kind)


def test_large_ones_stay_as_stored_unless_asked(folder, monkeypatch):
    assert not gpt2np.load(folder).weights.narrow
    monkeypatch.setattr(checkpoint, "AS_STORED_FROM", 1000)
    assert gpt2np.load(folder).weights.narrow
    assert not gpt2np.load(folder, widen=True).weights.narrow
    assert not gpt2np.load(folder, dtype="float64", widen=False).weights.narrow  # computes in nothing less


@pytest.mark.parametrize("options", [{"dtype": "float64"}, {"widen": True}])
def test_no_more_than_the_machine_has(folder, monkeypatch, options):
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 100_000)
    monkeypatch.setattr(checkpoint, "AS_STORED_FROM", 1000)
    says = r"take 0\.\d GB of memory, 0\.\d GB with room for a run, and this machine has 0\.0 GB left: run in"
    with pytest.raises(CheckpointError, match=says):
        gpt2np.load(folder, **options)
    gpt2np.load(folder)
    gpt2np.load(folder, **options, force=True)


def test_force_on_the_command_line(folder, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 100)
    asked = ("trace", "--tokens", "5,17", "--dtype", "float64", "--model", folder)
    code, _, err = run(capsys, *asked)
    assert code == 2
    assert "run in float32 without --widen, or try all the same (--force)" in err
    assert run(capsys, *asked, "--force")[0] == 0


@pytest.mark.parametrize(
    ("dtype", "free", "refused"),
    [
        ("float64", 24_000_000_000, False),
        ("float64", 22_000_000_000, True),  # the weights alone would fit
        ("float32", 11_000_000_000, True),
        ("float32", 12_000_000_000, False),
    ],
)
def test_two_billion_parameters_need_what_the_machine_has_left(monkeypatch, dtype, free, refused):
    config = gemma2.Config()
    shapes = config.architecture.shapes(config)
    found = {name: np.broadcast_to(np.zeros((), BFLOAT16), shape) for name, shape in shapes.items()}
    monkeypatch.setattr(checkpoint, "free_memory", lambda: free)
    asked = found, shapes, np.dtype(dtype), Path("gemma")
    if not refused:
        checkpoint._check_memory(*asked)
        return
    sizes = {"float64": r"20\.9 GB of memory, 23\.0 GB", "float32": r"10\.5 GB of memory, 11\.5 GB"}[dtype]
    with pytest.raises(CheckpointError, match=f"^gemma: the weights as {dtype} take {sizes} with room"):
        checkpoint._check_memory(*asked)


def test_what_a_container_leaves(tmp_path):
    def group(limit, current, stat):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{current}\n")
        (tmp_path / "memory.stat").write_text(stat)
        return free_memory._limit_of_container(tmp_path)

    assert group(1000, 700, "anon 400\ninactive_file 250\n") == 550
    assert group(1000, 1200, "inactive_file 0\n") == 0
    assert group("max", 700, "inactive_file 250\n") is None
    assert group(1000, 700, "anon 1\n") is None
    assert free_memory._limit_of_container(tmp_path / "none") is None


def test_shards(tmp_path, monkeypatch):
    """A Gemma-2 in several files, widened and not: each float32 result is the same to rounding."""
    monkeypatch.setattr(large_checkpoint, "SHARD", 30_000)
    write_large_checkpoint(tmp_path / "m", CONFIGS["gemma2"], scale=0.3)
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 3
    stored, wide = (gpt2np.load(tmp_path / "m", widen=widen) for widen in (False, True))
    assert (stored.weights.narrow, wide.weights.narrow) == ("bfloat16", "")
    traces = [model.trace(IDS) for model in (stored, wide)]
    assert {
        name for name in traces[1].names() if relative_error(traces[0][name], traces[1][name]) > 2e-6
    } == set()
    truth = gpt2np.load(tmp_path / "m", dtype="float64").trace(IDS)
    for trace in traces:
        assert relative_error(trace["logits"], truth["logits"]) < 2e-6


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_pytorch_model_bin_is_held_as_stored(tmp_path, kind):
    torch = needs.imported("torch")
    folder = write_half(tmp_path / "m", CONFIGS["gemma2"], {"bfloat16": "BF16", "float16": "F16"}[kind])
    expected = gpt2np.load(folder, widen=False)
    tensors = {
        name: torch.from_numpy(np.array(expected.weights[name])).to(getattr(torch, kind))
        for name in expected.weights
    }
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    model = gpt2np.load(folder, widen=False)
    assert model.weights.narrow == kind
    np.testing.assert_array_equal(model(IDS), expected(IDS))
    assert gpt2np.load(folder).weights.narrow == ""


def test_the_tables_are_not_widened_whole(pair, monkeypatch):
    """What compares a vector with every token does so block by block."""
    from gpt2np.analysis import heads, lens

    shape = (97, 48)

    def refusing(array):
        assert not (is_narrow(array) and array.shape == shape)
        return widened(array)

    for module in (lines, readable_parameters):
        monkeypatch.setattr(module, "widened", refusing)
    monkeypatch.setattr(narrow_weights, "_MANY_BYTES", 4 * 48 * 16)
    traces = [model.trace(IDS) for model in pair]
    x = np.linspace(-1, 1, 48, dtype=np.float32)
    for by in ("dot", "cosine"):
        for function in (heads.nearest_tokens, heads.tokens_read):
            one, other = (function(model, x, 97, by) for model in pair)
            for k in ("dot", "cosine"):
                close(
                    *(np.array([getattr(t, k) for t in sorted(f, key=lambda t: t.id)]) for f in (one, other))
                )
    close(*(lens.attention_lens(trace, k=1).raised.array for trace in traces))
    close(*(lens.logit_lens(trace, capped=False).probability.array for trace in traces))
    close(*(trace.top(97)[0][2] * np.ones(1) for trace in traces))
    if "logits_raw" in traces[0].config.architecture.sites:
        close(*(trace["logits_raw"] for trace in traces))


def test_float64_is_the_truth_of_the_stored_values(folder, pair):
    truth = gpt2np.load(folder, dtype="float64")(IDS)
    close(pair[0](IDS), truth)


def test_with_weights_copies_and_copy(folder, pair):
    stored, wide = pair
    table = stored.config.architecture.naming.tied[1]
    norm = "norm.weight" if table == "embed_tokens.weight" else "ln_f.weight"
    changes = {norm: np.ones(48), table: stored.weights[table] * 2}
    close(stored.with_weights(changes)(IDS), wide.with_weights(changes)(IDS))
    untied = {"lm_head.weight": np.array(stored.weights[table])}
    assert "lm_head.weight" not in stored.with_weights(untied).weights
    close(pickle.loads(pickle.dumps(stored))(IDS), wide(IDS))
    close(copy.deepcopy(stored)(IDS), wide(IDS))
    close(gpt2np.load(folder, widen=False, copy=True)(IDS), wide(IDS))


def test_a_file_that_is_written_to_is_noticed(folder):
    model = gpt2np.load(folder, widen=False)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\0\0")
    with pytest.raises(CheckpointError, match="has been written to since"):
        model(IDS)


def test_analyses_read_them(pair):
    from gpt2np.analysis import attribution, circuits, directions, heads, lens, neurons

    traces = [model.trace(IDS) for model in pair]
    close(*(attribution.attribution(trace, (3, 5)).array for trace in traces))
    close(*(trace["h.0.attn.heads"] for trace in traces))
    close(*(lens.attention_lens(trace).raised.array for trace in traces))
    close(*(np.asarray(trace["logits"]) for trace in traces))
    if pair[0].config.architecture.model_type == "gemma2":
        return  # the rest is about models whose MLP is matrix, function, matrix
    close(*(circuits.token_scores(model, 1, 2, IDS).array for model in pair))
    close(*(circuits.copying_scores(model).array for model in pair))
    close(*(directions.interference(model).array for model in pair))
    close(*(circuits.effective_embedding(model) for model in pair))
    first, second = (heads.nearest_tokens(model, np.arange(48.0))[0].id for model in pair)
    assert first == second
    close(*(neurons.neuron(model, 1, 3).reads for model in pair))


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
@pytest.mark.parametrize("shape", [(1, 1), (300, 700), (700, 300), (5000, 40), (20, 9000)])
def test_products(kind, turned, rows, shape):
    rng = np.random.default_rng(3)
    half = rng.normal(size=shape[::-1] if turned else shape).astype(np.float16)
    if kind == "bfloat16":
        half = (half.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)
    weight = half.T if turned else half
    wide = widened(weight)
    assert wide.flags.c_contiguous == weight.flags.c_contiguous
    assert not wide.flags.writeable
    x, out = rng.normal(size=(rows, shape[0])).astype(np.float32), np.empty((rows, shape[1]), np.float32)
    multiply_narrow(x, weight, out)
    close(out, x.astype(np.float64) @ wide)


def test_special_values_are_widened_exactly():
    bits = np.array([[0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x0001, 0x3F80]], np.uint16)
    values = widened(bits.view(BFLOAT16))
    assert np.array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)
    with pytest.raises(TypeError):
        bits.view(BFLOAT16) + 1


RUN = """
import sys, gpt2np
model = gpt2np.load(sys.argv[1])
ids = list(range(1000, 1030))
trace = model.trace(ids, keep="resid_*")
made = model.generate(ids, max_new_tokens=5, eos=None).finish()
status = open("/proc/self/status").read()
print(len(made.token_ids), trace.nbytes, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process took")
def test_the_largest_memory_of_a_gemma_of_two_billion(tmp_path):
    """VmHWM of the process: its own memory and the pages of the mapped files that it has read."""
    size = write_large_checkpoint(tmp_path / "gemma", gemma2.Config())
    assert size == 5_228_683_776
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "gemma")], capture_output=True, text=True, check=True
    )
    n_tokens, n_bytes, most = map(int, done.stdout.split())
    assert n_tokens in (5, 35)
    assert most < size + n_bytes + 300_000_000 < 7_000_000_000
