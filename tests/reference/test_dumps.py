"""Every kind of file that holds a dump is read back as it was written; so are token ids."""

import json
import os

import numpy as np
import pytest
from support import tiny_checkpoint as tiny
from support.random_model import random_model, random_model_with_text

from gpt2np import tensorfile
from gpt2np.architectures.gpt2.config import Config
from gpt2np.errors import InputError
from gpt2np.export.dialects.llmc import LLMC_ORDER
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.reference.dumps import Dump, dump_of, read_dump
from gpt2np.reference.placement import place
from gpt2np.reference.token_comparison import compare_tokens, read_token_ids

pytestmark = pytest.mark.filterwarnings("error")
IDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model():
    return random_model(1, n_layer=3)


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


def arrays(dtype="<f4"):
    rng = np.random.default_rng(0)
    some = {"h.0.ln_1": (5, 16), "h.1.attn.pattern": (2, 5, 5), "logits": (5, 60), "h.0.ln_1.mean": (5,)}
    return {name: rng.normal(0, 1, shape).astype(dtype) for name, shape in some.items()}


def bfloat16(x):
    """The upper halves of float32 numbers, and the float32 that they stand for."""
    bits = (np.asarray(x, "<f4").view("<u4") >> 16).astype("<u2")
    return bits, (bits.astype("<u4") << 16).view("<f4")


def assert_same(dump: Dump, kind, expect, dtype=None):
    assert dump.kind == kind
    assert set(dump.arrays) == set(expect) == set(dump.dtypes)
    for name, array in expect.items():
        np.testing.assert_array_equal(dump.arrays[name], array)
        assert dump.arrays[name].dtype.isnative
        assert dump.dtypes[name] == (dtype or array.dtype.name)


# -- files of every kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ""])
def test_safetensors_by_content(tmp_path, dtype, suffix):
    path = tmp_path / f"dump{suffix}"
    tensorfile.save_tensors(path, arrays(dtype), {})
    assert_same(read_dump(path), "safetensors", arrays(dtype))


def test_safetensors_in_bfloat16(tmp_path):
    bits, values = bfloat16(np.linspace(-3, 3, 80).reshape(5, 16))
    header = {"wte": {"dtype": "BF16", "shape": [5, 16], "data_offsets": [0, 160]}}
    path = tmp_path / "dump.safetensors"
    path.write_bytes(tiny.join(header, bits.tobytes()))
    dump = read_dump(path)
    assert_same(dump, "safetensors", {"wte": values}, "bfloat16")
    assert dump.arrays["wte"].dtype == np.float32


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_npz(tmp_path, save, dtype):
    path = tmp_path / "dump.npz"
    given = arrays(dtype)
    given["h.0.attn.q"] = np.asfortranarray(np.arange(80.0).reshape(5, 2, 8).astype(dtype))
    save(path, **given)
    path = path.rename(tmp_path / "dump.bin")
    assert_same(read_dump(path), "npz", given)


@pytest.mark.parametrize("dialect", ["gpt2np", "guide", "hf", "transformer_lens", "llm.c"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_export_writes(tmp_path, model, trace, dialect, suffix):
    path = tmp_path / f"trace{suffix}"
    write_dialect(trace, path, suffix[1:], dialect)
    dump = read_dump(path)
    assert dump.token_ids == IDS
    placement = place(dump, trace, model.config)
    assert placement.placed
    assert not placement.unknown
    for found in placement.placed:
        np.testing.assert_allclose(found.array, trace[found.site], rtol=1e-15)


def test_a_saved_trace_and_a_trace(tmp_path, model, trace):
    path = tmp_path / "t.safetensors"
    trace.save(path)
    expect = {name: trace[name] for name in trace.names()}
    for dump, kind in ((read_dump(path), "safetensors"), (dump_of(trace), "trace")):
        assert_same(dump, kind, expect)
        assert dump.token_ids == IDS
    first = model.trace(IDS, keep={"positions": slice(0, 3)})
    first.save(path)
    assert read_dump(path).arrays["wte"].shape == (3, 16)
    assert dump_of(first).arrays["wte"].shape == (3, 16)
    last = model.trace(IDS, keep={"positions": slice(3, None)})
    last.save(path)
    for given in (path, last):
        with pytest.raises(InputError, match="positions"):
            dump_of(given)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f8"])
def test_a_folder_of_npy(tmp_path, dtype):
    given = {"h.0.ln_1": 0, "h.1.attn.pattern": 1, "logits": 2}
    given = {name: np.full((2, n + 1), n, dtype) for name, n in given.items()}
    for name, array in given.items():
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asfortranarray(array))
    (tmp_path / "notes.txt").write_text("not an array")
    (tmp_path / "._logits.npy").write_bytes(b"what macOS leaves")
    assert_same(read_dump(tmp_path), "npy folder", given)
    assert_same(read_dump(str(tmp_path / "logits.npy")), "npy", {"logits": given["logits"]})


def test_links_in_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "dump").mkdir()
    np.save(tmp_path / "real" / "ln_f.npy", np.ones((5, 16)))
    (tmp_path / "dump" / "wte.npy").symlink_to(tmp_path / "real" / "ln_f.npy")
    (tmp_path / "dump" / "round").symlink_to(tmp_path / "dump")
    (tmp_path / "dump" / "model").symlink_to(tmp_path / "real")
    assert set(read_dump(tmp_path / "dump").arrays) == {"wte", "model.ln_f"}


def test_bfloat16_npy_as_ml_dtypes_saves_it(tmp_path):
    bits, values = bfloat16(np.linspace(-3, 3, 80).reshape(5, 16))
    np.save(tmp_path / "wte.npy", bits.view("V2"))
    np.savez(tmp_path / "x.npz", wte=bits.view("V2"))
    assert_same(read_dump(tmp_path / "wte.npy"), "npy", {"wte": values}, "bfloat16")
    assert_same(read_dump(tmp_path / "x.npz"), "npz", {"wte": values}, "bfloat16")


@pytest.mark.needs("torch")
def test_torch(tmp_path):
    import torch

    x = torch.arange(80, dtype=torch.float32).reshape(5, 16) / 7
    content = {
        "ln_f": x,
        "wte": x.bfloat16(),
        "wpe": x.half(),
        "attentions": (x[None, :2, :2], x[None, 2:4, :2]),
        "cache": {"k": x.T, "deep": [x.double()]},
        "input_ids": torch.tensor([IDS]),
        "step": 7,
        "name": "run",
    }
    expect = {
        "ln_f": "float32",
        "wte": "bfloat16",
        "wpe": "float16",
        "attentions[0]": "float32",
        "attentions[1]": "float32",
        "cache.k": "float32",
        "cache.deep[0]": "float64",
        "input_ids": "int64",
    }
    for name, legacy in (("dump.pt", False), ("dump.bin", False), ("old.pt", True), ("old.bin", True)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        dump = read_dump(tmp_path / name)
        assert dump.kind == "torch"
        assert dump.dtypes == expect
        assert dump.token_ids == IDS
        np.testing.assert_array_equal(dump.arrays["cache.k"], x.T.numpy())
        np.testing.assert_array_equal(dump.arrays["wte"], x.bfloat16().float().numpy())
        np.testing.assert_array_equal(dump.arrays["attentions[1]"], x[None, 2:4, :2].numpy())


def test_a_torch_file_by_hand(tmp_path):
    given = tiny.tensors()
    (tmp_path / "x").write_bytes(tiny.torch_file(given))
    assert_same(read_dump(tmp_path / "x"), "torch", given)


# -- bare numbers -----------------------------------------------------------------------------------


SHAPES = {"encoded": [1, 5, 16], "att": [3, 1, 2, 5, 5], "mean": [5]}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("how", ["mapping", "json", "json file", "lines", "file of lines", "pairs"])
def test_raw_numbers_with_a_list_of_shapes(tmp_path, dtype, how):
    given = {
        name: np.random.default_rng(1).normal(0, 1, shape).astype(dtype) for name, shape in SHAPES.items()
    }
    path = tmp_path / "dump.bin"
    path.write_bytes(b"".join(array.tobytes() for array in given.values()))
    lines = "# in file order\n" + "".join(f"{n} {' '.join(map(str, s))}\n" for n, s in SHAPES.items())
    (tmp_path / "shapes.json").write_text(json.dumps(SHAPES))
    (tmp_path / "shapes").write_text(lines)
    shapes = {
        "mapping": SHAPES,
        "json": json.dumps(SHAPES),
        "json file": str(tmp_path / "shapes.json"),
        "lines": lines,
        "file of lines": tmp_path / "shapes",
        "pairs": json.dumps(list(SHAPES.items())),
    }[how]
    assert_same(read_dump(path, shapes=shapes), "raw", given)


def test_raw_numbers_of_mixed_precision(tmp_path):
    given = {
        "a": np.ones(3, "f2"),
        "b": np.arange(4.0).reshape(2, 2).astype("f4"),
        "c": np.ones((1, 2), "f8"),
    }
    path = tmp_path / "dump.raw"
    path.write_bytes(b"".join(array.tobytes() for array in given.values()))
    lines = "a float16 3\nb float32 2 2\nc float64 1, 2"
    as_json = {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in given.items()}
    for shapes in (lines, as_json, json.dumps(as_json)):
        assert_same(read_dump(path, shapes=shapes), "raw", given)


def test_a_list_of_shapes_that_does_not_fit_says_both_sizes(tmp_path):
    path = tmp_path / "dump.bin"
    path.write_bytes(bytes(100))
    with pytest.raises(
        InputError, match=r"need 940 as float32 or 470 as float16 or 1,880 as float64 .* 100$"
    ):
        read_dump(path, shapes=SHAPES)
    with pytest.raises(InputError, match=r"need 8 bytes, but the file has 100$"):
        read_dump(path, shapes="a float32 2")


# -- llm.c ------------------------------------------------------------------------------------------


def debug_state(trace, batch, vocab, gradients=0, version=2):
    n = len(trace.token_ids)
    header = np.zeros(256, "<i4")
    header[:4] = 20240327, version, batch, n
    ids = np.array(trace.token_ids, "<i4")
    x = np.stack([ids, *[ids[::-1]] * (batch - 1)])
    logits = np.zeros((batch, n, vocab), "<f4")
    logits[0] = trace["logits"]
    loss = np.array([1.25], "<f4")
    parts = (header, x, np.roll(x, -1, 1), logits, loss, np.zeros(gradients, "<f4"))
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("gradients", ["none", "padded", "not padded"])
def test_debug_state(tmp_path, model, trace, batch, gradients):
    config = model.config
    n = {"none": 0, "padded": config.n_parameters + (128 - 60) * 16, "not padded": config.n_parameters}[
        gradients
    ]
    path = tmp_path / "debug_state.bin"
    path.write_bytes(debug_state(trace, batch, 60, n))
    dump = read_dump(path, config=config)
    assert (dump.kind, dump.token_ids) == ("llm.c debug state", IDS)
    assert float(dump.arrays["loss"]) == 1.25
    assert dump.arrays["inputs"].shape == dump.arrays["targets"].shape == (batch, 5)
    (found,) = place(dump, trace, config).placed
    np.testing.assert_array_equal(found.array, trace["logits"].astype("f4"))


def test_debug_state_of_gpt2_needs_no_config(tmp_path):
    header = np.zeros(256, "<i4")
    header[:4] = 20240327, 2, 1, 2
    body = np.arange(4, dtype="<i4").tobytes() + np.ones(2 * 50257 + 1, "<f4").tobytes() + bytes(400)
    path = tmp_path / "debug_state.bin"
    path.write_bytes(header.tobytes() + body)
    dump = read_dump(path)
    assert dump.arrays["logits"].shape == (1, 2, 50257)
    assert dump.token_ids == [0, 1]


def activations(trace, batch, vocab):
    """What llm.c has in memory: B copies of a trace, the future of preatt never written."""
    parts = []
    for name, array in trace.to("llm.c").items():
        x = np.array(array, "<f4")
        if name == "preatt":
            x[..., np.triu(np.ones((5, 5), bool), 1)] = -4.3e8
        if name in ("logits", "probs"):
            x = np.pad(x, ((0, 0), (0, 0), (0, vocab - x.shape[-1])))
        axis = 0 if name in ("encoded", "logits", "probs", "losses") or name.startswith("lnf") else 1
        parts.append(np.concatenate([x, *[x * 0.5] * (batch - 1)], axis))
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("vocab", [60, 128])
def test_activations_of_llmc(tmp_path, model, trace, batch, vocab):
    path = tmp_path / "activations.bin"
    path.write_bytes(activations(trace, batch, vocab))
    dump = read_dump(path, config=model.config)
    assert dump.kind == "llm.c activations"
    assert list(dump.arrays) == LLMC_ORDER
    placement = place(dump, trace, model.config)
    assert not placement.refused
    assert not placement.unknown
    assert len(placement.placed) == 7 + 16 * 3
    for found in placement.placed:
        np.testing.assert_array_equal(found.array, trace[found.site].astype("f4"), err_msg=found.site)
    notes = {found.site: found.notes for found in placement.placed}
    assert any("future scores" in note for note in notes["h.0.attn.scores"])
    assert any("padded to 128" in note for note in notes["logits"]) == (vocab == 128)
    assert any("several sequences" in note for note in notes["embed"]) == (batch > 1)


def test_activations_are_told_apart_by_attention(tmp_path):
    config = Config(n_layer=1, n_head=1, n_embd=2, n_positions=64, vocab_size=128)
    model = random_model(0, n_layer=1, n_head=1, n_embd=2, vocab_size=128)
    path = tmp_path / "activations.bin"
    for n in (1, 2, 3, 5):
        trace = model.trace(IDS[:n])
        parts = [np.array(array, "<f4") for array in trace.to("llm.c").values()]
        path.write_bytes(b"".join(part.tobytes() for part in parts))
        assert read_dump(path, config=config).arrays["encoded"].shape == (1, n, 2)
        assert read_dump(path, config=config, length=n).arrays["att"].shape == (1, 1, 1, n, n)


# -- what is in memory ------------------------------------------------------------------------------


class Tensor:
    """What torch's have: numbers that come out by detach, cpu and numpy only."""

    def __init__(self, array, dtype="torch.float32"):
        self.array, self.dtype = array, dtype

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.array)

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def __array__(self, *_, **__):
        raise TypeError("can't convert a tensor that requires grad")


def test_mappings_of_whatever_holds_numbers():
    x = np.ones((5, 16), "f4")
    given = {
        "wte": x,
        "wpe": Tensor(x),
        "ln_f": Tensor(x, "torch.bfloat16"),
        "attentions": (x, Tensor(x)),
        "past_key_values": ((x, x),),
        "inner": {"logits": x.astype("f2")},
        "rows": x.tolist(),
        "config": "text",
        "nothing": None,
        "token_ids": IDS,
    }
    dump = dump_of(given)
    assert dump.dtypes == {
        "wte": "float32",
        "wpe": "float32",
        "ln_f": "bfloat16",
        "attentions[0]": "float32",
        "attentions[1]": "float32",
        "past_key_values[0][0]": "float32",
        "past_key_values[0][1]": "float32",
        "inner.logits": "float16",
        "token_ids": "int64",
    } | {f"rows[{i}]": "float64" for i in range(5)}
    assert dump.token_ids == IDS
    assert dump_of(dump) is dump


@pytest.mark.needs("torch", "transformers")
def test_hf_output_as_it_is():
    import torch
    import transformers

    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": 60}
    theirs = random_model(0, **sizes)
    hf = (
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, attn_implementation="eager"))
        .eval()
        .double()
    )
    weights = {
        f"transformer.{n}": torch.tensor(w) for n, w in theirs.weights.items() if n != "lm_head.weight"
    }
    hf.load_state_dict(weights, strict=False)
    hf.lm_head.weight = torch.nn.Parameter(torch.tensor(theirs.weights["lm_head.weight"]))
    with torch.no_grad():
        out = hf(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True, use_cache=True)
    trace = theirs.trace(IDS)
    placement = place(dump_of(out), trace, theirs.config)
    assert not placement.refused
    assert not placement.unknown
    sites = {found.site for found in placement.placed}
    assert sites == {"embed", "h.0.resid_post", "ln_f", "logits"} | {
        f"h.{i}.attn.{part}" for i in range(2) for part in ("k", "v", "pattern")
    }
    for found in placement.placed:
        np.testing.assert_allclose(found.array, trace[found.site], rtol=1e-9, atol=1e-9)


# -- token ids --------------------------------------------------------------------------------------

TEXT = "It is a truth universally acknowledged, that naïve Mr. Bingley said: hello"


@pytest.fixture(scope="module")
def tokenizer():
    found = random_model_with_text().tokenizer
    assert found is not None
    return found


def test_token_ids_in_every_form(tmp_path):
    forms = {
        "ids.json": json.dumps(IDS),
        "object.json": json.dumps({"input_ids": [IDS]}),
        "ids.txt": "3 1 4\n1 5\n",
        "list.txt": "[3, 1, 4, 1, 5]",
        "i4.bin": np.array(IDS, "<i4").tobytes(),
        "u2.bin": np.array(IDS, "<u2").tobytes(),
        "llmc.bin": np.array([20240520, 1, 5] + [0] * 253, "<i4").tobytes() + np.array(IDS, "<u2").tobytes(),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        assert read_token_ids(tmp_path / name) == read_token_ids(str(tmp_path / name)) == IDS, name
    np.save(tmp_path / "ids.npy", np.array([IDS]))
    assert read_token_ids(tmp_path / "ids.npy") == IDS
    assert read_token_ids("3,1,4,1,5") == read_token_ids(np.array(IDS)) == read_token_ids(tuple(IDS)) == IDS


def test_equal_tokens(tokenizer):
    ids = tokenizer.encode(TEXT)
    found = compare_tokens(tokenizer, TEXT, ids)
    assert found.equal
    assert found.index is None
    assert str(found) == f"tokens: the same {len(ids)} ids"
    special = tokenizer.encode("a<|endoftext|>b", special=True)
    assert compare_tokens(tokenizer, "a<|endoftext|>b", special).equal


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t, ids: [t.end_of_text_id, *ids], "<|endoftext|> (id 2047) in front; the rest is the same"),
        (lambda t, ids: [*ids, t.end_of_text_id], "at the end; the rest is the same"),
        (lambda t, ids: [t.end_of_text_id, *ids, t.end_of_text_id], "in front and at the end; the rest"),
        (lambda t, ids: ids[:-3], "truncated"),
        (lambda t, ids: ids[3:], "lacks the first 3 tokens"),
        (lambda t, ids: [*ids[:4], 50000], "id 50000, and the vocabulary ends at 2047"),
        (lambda t, ids: bytes_as_ids(t, TEXT), "but merges or words are cut otherwise"),
        (lambda t, ids: t.encode(" " + TEXT), "a space in front"),
        (lambda t, ids: t.encode(TEXT.lower()), "in lower case"),
        (lambda t, ids: t.encode(TEXT.replace("ï", "i\u0308")), "normalised to NFD"),
        (lambda t, ids: t.encode(TEXT.replace(" ", "")), "spaces are lost or added"),
        (lambda t, ids: t.encode("something else"), "another vocabulary, or another text"),
    ],
)
def test_tokens_that_differ(tokenizer, change, reason):
    ours = tokenizer.encode(TEXT)
    theirs = change(tokenizer, ours)
    found = compare_tokens(tokenizer, TEXT, theirs)
    assert not found.equal
    assert any(reason in said for said in found.reasons), found.reasons
    index = found.index
    assert ours[:index] == theirs[:index]
    assert ours[index : index + 1] != theirs[index : index + 1]
    assert TEXT.startswith(tokenizer.decode(ours[:index]).replace("\ufffd", ""))
    for around, ids in ((found.ours, ours), (found.theirs, theirs)):
        assert all(ids[i] == id and tokenizer.tokens([id]) == [token] for i, id, token in around)
    assert f"they part at token {index}" in str(found)
    json.dumps(found.to_dict())


def bytes_as_ids(tokenizer, text):
    """Ids of a tokenizer that never merges."""
    return [id for char in text for id in tokenizer.encode(char)]


def test_more_reasons(tokenizer):
    for text, theirs, reason in (
        ("  a b ", "a b", "without the spaces around"),
        ("a  b\tc", "a b c", "single spaces"),
        ("a\r\nb", "a\nb", r"\n where the text has \r\n"),
        ("ﬁne", "fine", "NFKC"),
    ):
        found = compare_tokens(tokenizer, text, tokenizer.encode(theirs))
        assert any(reason in said for said in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "expected token ids"), (b"[1, 2.5]", "2.5"), (b"[1, -2]", "-2"),
     (b'{"a": 1}', "JSON list"), (b"[1,", "JSON"),
     (b"one two", "'one'"), (b"\x00\x01\x02", "3 bytes"), (b"[true]", "True"), (b'["a"]', "'a'"),
     (b"\x93NUMPY\x01", "cannot be read"), (b"[" * 100_000, "JSON")],
)  # fmt: skip
def test_malformed_token_ids(tmp_path, content, part):
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_token_ids(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_token_ids_that_are_not_there(tmp_path):
    np.save(tmp_path / "f.npy", np.ones(3))
    for given in (str(tmp_path / "none"), tmp_path, [], [1.5], ["a"], tmp_path / "f.npy", "not a file"):
        with pytest.raises(InputError):
            read_token_ids(given)
    assert os.listdir(tmp_path) == ["f.npy"]
