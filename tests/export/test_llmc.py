"""`gpt2np export --to llm.c`, read back by a parser of its own and run by a forward pass of its own.

Layouts are those of llm.c itself: `train_gpt2.c` and `write_model`, `write_state`, `write_tokenizer` of its
`train_gpt2.py`. Nothing of the writer is used to read.
"""

import json
import struct

import numpy as np
import pytest
from support import tiny_checkpoint
from support.random_model import random_model

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import InputError, TraceError
from gpt2np.export.llmc import size_name, write_llmc
from gpt2np.reference.comparison import compare

IDS = tiny_checkpoint.IDS
FILES = {"gpt2_4K.bin", "gpt2_tokenizer.bin", "tokens.bin", "gpt2_4K_debug_state.bin", "activations.bin",
         "activations.json"}  # fmt: skip

# (name, shape) of every parameter and activation, in the order of llm.c's two structs.
PARAMETERS = """wte:Vp,C wpe:maxT,C ln1w:L,C ln1b:L,C qkvw:L,3C,C qkvb:L,3C attprojw:L,C,C attprojb:L,C
ln2w:L,C ln2b:L,C fcw:L,4C,C fcb:L,4C fcprojw:L,C,4C fcprojb:L,C lnfw:C lnfb:C"""
ACTIVATIONS = """encoded:B,T,C ln1:L,B,T,C ln1_mean:L,B,T ln1_rstd:L,B,T qkv:L,B,T,3C atty:L,B,T,C
preatt:L,B,NH,T,T att:L,B,NH,T,T attproj:L,B,T,C residual2:L,B,T,C ln2:L,B,T,C ln2_mean:L,B,T ln2_rstd:L,B,T
fch:L,B,T,4C fch_gelu:L,B,T,4C fcproj:L,B,T,C residual3:L,B,T,C lnf:B,T,C lnf_mean:B,T lnf_rstd:B,T
logits:B,T,Vp probs:B,T,Vp losses:B,T"""


def header(data):
    return struct.unpack("<256i", data[:1024])


def cut(data, table, sizes):
    """Arrays of a raw float32 file, which must hold them and nothing else."""
    arrays, at = {}, 0
    for row in table.split():
        name, shape = row.split(":")
        shape = [sizes[axis] for axis in shape.split(",")]
        n = 4 * int(np.prod(shape))
        arrays[name] = np.frombuffer(data[at : at + n], "<f4").reshape(shape)
        at += n
    assert at == len(data)
    return arrays


def read_model(data):
    magic, version, max_t, vocab, n_layer, n_head, n_embd, padded, *rest = header(data)
    assert (magic, version, set(rest)) == (20240326, 3, {0})
    sizes = {"maxT": max_t, "V": vocab, "L": n_layer, "NH": n_head, "C": n_embd, "Vp": padded}
    sizes |= {"3C": 3 * n_embd, "4C": 4 * n_embd, "B": 1}
    return sizes, cut(data[1024:], PARAMETERS, sizes)


def read_state(data, sizes):
    magic, version, n_batch, n_pos, *rest = header(data)
    assert (magic, version, n_batch, set(rest)) == (20240327, 2, 1, {0})
    at = 1024
    x, y = (np.frombuffer(data, "<i4", n_pos, at + 4 * n_pos * i) for i in range(2))
    at += 8 * n_pos
    logits = np.frombuffer(data, "<f4", n_pos * sizes["V"], at).reshape(n_pos, sizes["V"])
    at += logits.nbytes
    (loss,) = struct.unpack("<f", data[at : at + 4])
    return x, y, logits, loss, cut(data[at + 4 :], PARAMETERS, sizes)


def forward(p, sizes, x, y):
    """llm.c's forward pass in float32, from its own parameters: every activation by its name."""
    n_head, n_embd, n_layer, n_pos = sizes["NH"], sizes["C"], sizes["L"], len(x)
    d_head = n_embd // n_head
    acts = {row.split(":")[0]: [] for row in ACTIVATIONS.split()}

    def norm(stream, weight, bias, name):
        mean = stream.mean(1, keepdims=True)
        rstd = 1 / np.sqrt(((stream - mean) ** 2).mean(1, keepdims=True) + np.float32(1e-5))
        out = (stream - mean) * rstd * weight + bias
        for suffix, array in (("", out), ("_mean", mean[:, 0]), ("_rstd", rstd[:, 0])):
            acts[name + suffix].append(array)
        return out

    stream = p["wte"][x] + p["wpe"][:n_pos]
    acts["encoded"].append(stream)
    for i in range(n_layer):
        qkv = norm(stream, p["ln1w"][i], p["ln1b"][i], "ln1") @ p["qkvw"][i].T + p["qkvb"][i]
        preatt, att = np.zeros((2, n_head, n_pos, n_pos), np.float32)
        atty = np.zeros((n_pos, n_embd), np.float32)
        for h in range(n_head):
            q, k, v = (qkv[:, part * n_embd + h * d_head :][:, :d_head] for part in range(3))
            for t in range(n_pos):
                scores = k[: t + 1] @ q[t] / np.float32(d_head**0.5)
                e = np.exp(scores - scores.max())
                preatt[h, t, : t + 1], att[h, t, : t + 1] = scores, e / e.sum()
            atty[:, h * d_head : (h + 1) * d_head] = att[h] @ v
        attproj = atty @ p["attprojw"][i].T + p["attprojb"][i]
        middle = stream + attproj
        fch = norm(middle, p["ln2w"][i], p["ln2b"][i], "ln2") @ p["fcw"][i].T + p["fcb"][i]
        gelu = fch * 0.5 * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (fch + 0.044715 * fch**3)))
        fcproj = gelu @ p["fcprojw"][i].T + p["fcprojb"][i]
        stream = middle + fcproj
        here = {"qkv": qkv, "preatt": preatt, "att": att, "atty": atty, "attproj": attproj, "fch": fch}
        here |= {"residual2": middle, "fch_gelu": gelu, "fcproj": fcproj, "residual3": stream}
        for name, array in here.items():
            acts[name].append(array)
    logits = norm(stream, p["lnfw"], p["lnfb"], "lnf") @ p["wte"].T
    e = np.exp(logits[:, : sizes["V"]] - logits[:, : sizes["V"]].max(1, keepdims=True))
    probs = np.zeros_like(logits)
    probs[:, : sizes["V"]] = e / e.sum(1, keepdims=True)
    losses = -np.log(probs[range(n_pos), y])
    acts |= {"logits": [logits], "probs": [probs], "losses": [losses]}
    layered = {row.split(":")[0] for row in ACTIVATIONS.split() if ":L" in row}
    return {
        name: np.stack(arrays)[:, None] if name in layered else arrays[0][None]
        for name, arrays in acts.items()
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def trace(checkpoint):
    return gpt2np.load(checkpoint).trace(IDS)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_weights_are_read_back_and_run(trace, tmp_path):
    written = write_llmc(trace, tmp_path / "made" / "here")
    files = contents(tmp_path / "made" / "here")
    assert {name: len(data) for name, data in files.items()} == written
    assert set(files) == FILES

    sizes, p = read_model(files["gpt2_4K.bin"])
    c = trace.config
    assert [sizes[s] for s in ("maxT", "V", "L", "NH", "C", "Vp")] == [16, 300, 2, 2, 8, 384]
    weights = {name.removeprefix("transformer."): a for name, a in tiny_checkpoint.tensors().items()}
    assert np.array_equal(p["wte"][:300], weights["wte.weight"])
    assert not p["wte"][300:].any()
    for i in range(c.n_layer):
        assert np.array_equal(p["qkvw"][i], weights[f"h.{i}.attn.c_attn.weight"].T)
        assert np.array_equal(p["fcprojb"][i], weights[f"h.{i}.mlp.c_proj.bias"])

    x, y, logits, loss, gradients = read_state(files["gpt2_4K_debug_state.bin"], sizes)
    assert x.tolist() == IDS
    assert y.tolist() == [*IDS[1:], 299]  # the end-of-text token
    assert not any(gradient.any() for gradient in gradients.values())

    sizes["T"] = len(IDS)
    acts = cut(files["activations.bin"], ACTIVATIONS, sizes)
    worst = {}
    for name, expected in forward(p, sizes, x, y).items():
        assert acts[name].shape == expected.shape
        worst[name] = np.abs(acts[name] - expected).max() / max(1, np.abs(expected).max())
    assert max(worst.values()) < 2e-6, worst
    assert np.array_equal(acts["logits"][0, :, :300], logits)
    assert not acts["logits"][..., 300:].any()
    assert loss == pytest.approx(acts["losses"].mean(), rel=1e-6)


def test_index_of_the_activations(trace, tmp_path):
    write_llmc(trace, tmp_path)
    index = json.loads((tmp_path / "activations.json").read_text())
    data = (tmp_path / "activations.bin").read_bytes()
    sizes = {"L": 2, "B": 1, "T": len(IDS), "C": 8, "3C": 24, "4C": 32, "NH": 2, "Vp": 384}
    assert [t["name"] for t in index["tensors"]] == [row.split(":")[0] for row in ACTIVATIONS.split()]
    assert (index["dtype"], index["byteOrder"], index["byteLength"]) == ("float32", "little", len(data))
    for tensor in index["tensors"]:
        own = np.frombuffer(data, "<f4", int(np.prod(tensor["shape"])), tensor["byteOffset"])
        assert np.array_equal(own, cut(data, ACTIVATIONS, sizes)[tensor["name"]].ravel())
        assert len(tensor["axes"]) == len(tensor["shape"])
    assert index["inputs"] == IDS
    assert index["targets"] == [*IDS[1:], 299]


def test_tokens_and_tokenizer(trace, tmp_path):
    write_llmc(trace, tmp_path, target=7)
    data = (tmp_path / "tokens.bin").read_bytes()
    magic, version, n, *rest = header(data)
    assert (magic, version, n, set(rest)) == (20240520, 1, len(IDS) + 1, {0})
    # llm.c's loader cuts x and y from T + 1 tokens
    assert np.frombuffer(data, "<u2", offset=1024).tolist() == [*IDS, 7]

    data = (tmp_path / "gpt2_tokenizer.bin").read_bytes()
    magic, version, n, end, *rest = header(data)
    assert (magic, version, n, end, set(rest)) == (20240328, 2, 300, 299, {0})
    table, at = [], 1024
    for _ in range(n):
        table.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    assert at == len(data)
    assert table[:256] == [bytes([byte]) for byte in range(256)]
    assert (table[256], table[273], table[299]) == (b" a", b" r", b"<|endoftext|>")


def test_a_text_with_the_shipped_model(capsys, tmp_path):
    assert main(["export", "--to", "llm.c", "Elizabeth was", "-o", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["files"] == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert facts["bytes"] == sum(facts["files"].values())
    sizes, _ = read_model((tmp_path / "gpt2_2M.bin").read_bytes())
    assert sizes["V"] == sizes["Vp"] == 2048  # a multiple of 128 already
    x, y, logits, loss, _ = read_state((tmp_path / "gpt2_2M_debug_state.bin").read_bytes(), sizes)
    model = gpt2np.load("tiny")
    assert np.array_equal(logits, model("Elizabeth was"))
    assert loss == pytest.approx(model.score([*x, y[-1]]).loss, rel=1e-6)


def test_compare_confirms_the_debug_state(checkpoint, trace, tmp_path):
    write_llmc(trace, tmp_path, target=7)
    found = compare(tmp_path / "gpt2_4K_debug_state.bin", checkpoint, IDS)
    assert (found.verdict, [report.site for report in found.sites]) == ("within-noise", ["logits"])


def test_compare_confirms_every_activation(checkpoint, trace, tmp_path):
    write_llmc(trace, tmp_path, target=7)
    found = compare(tmp_path / "activations.bin", checkpoint, IDS)
    assert {report.site: report.verdict for report in found.sites if report.site != "loss"} == {
        report.site: "within-noise" for report in found.sites if report.site != "loss"
    }
    assert {report.name.partition("[")[0] for report in found.sites} >= {
        row.split(":")[0] for row in ACTIVATIONS.split()
    }


def test_compare_confirms_the_losses_too(checkpoint, trace, tmp_path):
    write_llmc(trace, tmp_path, target=7)
    assert compare(tmp_path / "activations.bin", checkpoint, IDS).verdict == "within-noise"


def test_a_saved_trace_gives_the_same_files(capsys, checkpoint, trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    ids = ",".join(map(str, IDS))
    common = ["export", "--to", "llm.c", "--model", str(checkpoint), "-o"]
    assert main([*common, str(tmp_path / "a"), str(tmp_path / "t.safetensors")]) == 0
    assert main([*common, str(tmp_path / "b"), "--tokens", ids]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_float64_becomes_float32(checkpoint, tmp_path):
    write_llmc(gpt2np.load(checkpoint, dtype="float64").trace(IDS), tmp_path)
    _, p = read_model((tmp_path / "gpt2_4K.bin").read_bytes())
    assert np.array_equal(p["wpe"], tiny_checkpoint.tensors()["transformer.wpe.weight"])


def tied(model):
    return model.with_weights({"lm_head.weight": model.weights["wte.weight"]})


def test_no_vocabulary_no_tokenizer_file(tmp_path):
    model = tied(random_model(eos_token_id=59))
    assert "gpt2_tokenizer.bin" not in write_llmc(model.trace([1, 2, 3]), tmp_path)


def test_sizes_are_named_as_llmc_names_them():
    from gpt2np.architectures.gpt2.config import RELEASED

    names = [size_name(config.n_parameters) for config in RELEASED.values()]
    assert names == ["124M", "355M", "774M", "1558M"]  # train_gpt2.py, model_to_size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "lm_head"),
        ({"activation_function": "gelu"}, "activation_function gelu"),
        ({"activation_function": "relu"}, "activation_function relu"),
        ({"n_inner": 40}, "n_inner 40"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"scale_attn_weights": False}, "scale_attn_weights False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({"vocab_size": 65537, "n_embd": 2, "n_layer": 1}, "vocab_size 65537"),
    ],
)
def test_what_llmc_cannot_express_is_refused_by_name(tmp_path, change, words):
    model = tied(random_model(**change)) if change else random_model()
    with pytest.raises(InputError, match=words) as caught:
        write_llmc(model.trace([1, 2, 3]), tmp_path / "out", target=0)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda m: m.trace(IDS, keep=["attn.*", "logits"]), "was not kept"),
        (lambda m: m.trace(IDS, stop_at_layer=1), "stopped at layer 1"),
        (lambda m: m.trace(IDS, keep={"patterns": "*", "positions": slice(1, None)}), "4 of 5 positions"),
        (lambda m: m.trace(IDS, keep={"patterns": "*", "dtype": "float16"}), "float16"),
        (lambda m: m.trace(IDS, edits={"h.1.attn.z": lambda z: z * 0}), "edited"),
    ],
)
def test_traces_that_are_not_the_whole_run(checkpoint, tmp_path, run, words):
    with pytest.raises(TraceError, match=words):
        write_llmc(run(gpt2np.load(checkpoint)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_its_model(trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    with pytest.raises(TraceError, match="needs the model's weights"):
        write_llmc(gpt2np.Trace.open(tmp_path / "t.safetensors"), tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a TEXT or --tokens"),
        (["a", "--tokens", "1"], "give either a TEXT or --tokens"),
        (["missing.safetensors"], "missing.safetensors: no such file"),
        (["t.safetensors"], "of another model"),
        (["a", "--dialect", "hf"], "leave --dialect out"),
        (["a", "--target", "2048"], "target 2048"),
        (["a", "--target", "-1"], "target -1"),
        (["a", "-o", "taken"], "taken: cannot be"),
        (["a", "--revision", "x"], "revision"),
    ],
)
def test_wrong_calls_leave_nothing(capsys, monkeypatch, trace, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    trace.save(tmp_path / "t.safetensors")
    (tmp_path / "taken").write_text("")
    before = contents(tmp_path)
    assert main(["export", "--to", "llm.c", "-o", "out", *arguments]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("gpt2np: ")
    assert words in last
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a TEXT or --tokens"),
        (["t.safetensors", "--tokens", "1"], "not both"),
        (["t", "--target", "1"], "--target is for --to llm.c"),
        (["t.npz"], "t.npz: no such file"),
    ],
)
def test_other_kinds_want_one_thing(capsys, tmp_path, arguments, words):
    assert main(["export", "--to", "npz", "-o", str(tmp_path / "o"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_an_end_of_text_token_the_last_target_is_asked_for(tmp_path):
    model = tied(random_model())  # eos_token_id is None, and there is no vocabulary
    with pytest.raises(InputError, match="no end-of-text token"):
        write_llmc(model.trace([1, 2, 3]), tmp_path)


def test_a_failing_write_leaves_the_old_files(monkeypatch, trace, tmp_path):
    write_llmc(trace, tmp_path)
    old = contents(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt2np.export.llmc._write_state", full)
    for folder in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="No space left on device"):
            write_llmc(trace, folder, target=3)
    assert contents(tmp_path) == old
