"""Broken checkpoints: each ends in an error of ours that says where and what, also on the command line.

What one file may have wrong with it has tables of its own in `test_tensorfile.py`, `test_torchfile.py` and
`test_tokenizer.py`; here it goes through `load`.
"""

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from support import tiny_checkpoint as tiny
from support.breaking import (
    ABSENT,
    BIN,
    INDEX,
    WEIGHTS,
    assert_refused,
    config,
    cut,
    damage,
    damaged,
    folder_instead,
    header,
    merges,
    message_of,
    put,
    running,
    several,
    sharded,
    signalling,
    tensors,
    torch,
    vocab,
)  # fmt: skip
from support.tiny_checkpoint import IDS

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import CheckpointError, ConfigError, Gpt2npError, TokenizerError

pytestmark = pytest.mark.filterwarnings("error")

WTE = "transformer.wte.weight"
ONES = np.ones(8, "<f4")
TWICE = tiny.safetensors(tiny.tensors() | {"ln_f.bias": ONES})
TORCH = tiny.torch_file(tiny.tensors())
NO_STORAGES = tiny.torch_zip(zipfile.ZipFile(io.BytesIO(TORCH)).read("archive/data.pkl"))
C, W, T = ConfigError, CheckpointError, TokenizerError
BROKEN = {
    "no config": (put("config.json", ABSENT), C, "config.json", "no such file"),
    "config is a folder": (folder_instead("config.json"), C, "config.json", "folder"),
    "config empty": (put("config.json", b""), C, "config.json", "not JSON"),
    "config cut short": (cut("config.json", 40), C, "config.json", "not JSON"),
    "config not UTF-8": (put("config.json", b'{"model_type": "\xff"}'), C, "config.json", "not UTF-8"),
    "config a list": (put("config.json", []), C, "config.json", "object", "list"),
    "config nested without end": (put("config.json", b"[" * 100_000), C, "config.json", "not JSON"),
    "config with a number of 5000 digits": (put("config.json", b"9" * 5000), C, "config.json", "not JSON"),
    "another model_type": (config(model_type="llama"), C, "config.json", "model_type", "'llama'"),
    "model_type of a megabyte": (config(model_type="x\n" * 500_000), C, "config.json", "model_type"),
    "cross attention": (config(add_cross_attention=True), C, "config.json", "add_cross_attention"),
    "pruned heads": (config(pruned_heads={"0": [1]}), C, "config.json", "pruned_heads", "[1]"),
    "quantised by config": (config(quantization_config={"bits": 4}), C, "quantization_config", "bits"),
    "rotary positions": (config(rope_theta=10000.0), C, "config.json", "rope_theta"),
    "n_embd no multiple of n_head": (config(n_head=3), C, "config.json", "n_embd 8", "n_head 3"),
    "no layers": (config(n_layer=0), C, "config.json", "n_layer", "not 0"),
    "two thousand million layers": (config(n_layer=2**31), C, "config.json", "n_layer", "10000"),
    "n_layer a string": (config(n_layer="2"), C, "config.json", "n_layer", "'2'"),
    "n_head a boolean": (config(n_head=True), C, "config.json", "n_head", "True"),
    "vocab_size a float": (config(vocab_size=300.0), C, "config.json", "vocab_size", "300.0"),
    "n_positions negative": (config(n_positions=-16), C, "config.json", "n_positions", "-16"),
    "n_inner 0": (config(n_inner=0), C, "config.json", "n_inner", "not 0"),
    "unknown activation": (config(activation_function="mish"), C, "activation_function", "'mish'", "relu"),
    "activation a list": (config(activation_function=["relu"]), C, "activation_function", "['relu']"),
    "epsilon NaN": (config(layer_norm_epsilon=float("nan")), C, "layer_norm_epsilon", "nan"),
    "epsilon a string": (config(layer_norm_epsilon="1e-5"), C, "layer_norm_epsilon", "'1e-5'"),
    "epsilon beyond any float": (config(layer_norm_epsilon=10**400), C, "layer_norm_epsilon", "1e30"),
    "a switch that is a string": (config(scale_attn_weights="no"), C, "scale_attn_weights", "'no'"),
    "eos_token_id a string": (config(eos_token_id="end"), C, "config.json", "eos_token_id", "'end'"),
    "two names that disagree": (config(num_hidden_layers=3), C, "num_hidden_layers", "n_layer"),
    "config of a wider model": (config(n_embd=16), W, WEIGHTS, "wte.weight", "[300, 8]", "[300, 16]"),
    "config of a deeper model": (config(n_layer=3), W, WEIGHTS, "'h.2.ln_1.weight' is missing"),
    "config of a shallower model": (config(n_layer=1), W, WEIGHTS, "h.1.", "n_layer 1"),
    "untied without lm_head": (config(tie_word_embeddings=False), W, WEIGHTS, "lm_head.weight is missing"),
    "no weights": (put(WEIGHTS, ABSENT), W, "no weights", WEIGHTS, BIN),
    "weights a folder": (folder_instead(WEIGHTS), W, WEIGHTS, "folder"),
    "weights empty": (put(WEIGHTS, b""), W, WEIGHTS, "empty"),
    "weights cut in the data": (cut(WEIGHTS, -5), W, WEIGHTS, "data_offsets end"),
    "weights cut in the header": (cut(WEIGHTS, 100), W, WEIGHTS, "truncated"),
    "header of a petabyte": (put(WEIGHTS, struct.pack("<Q", 10**15) + b"{}"), W, WEIGHTS, "header length"),
    "Git LFS pointer": (put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), W, WEIGHTS, "git lfs"),
    "a web page": (put(WEIGHTS, "<!DOCTYPE html><title>404</title>"), W, WEIGHTS, "is a web page"),
    "pickle under the wrong name": (put(WEIGHTS, TORCH), W, WEIGHTS, "is a zip file"),
    "offsets that overlap": (header(WTE, data_offsets=[4, 9604]), W, WEIGHTS, WTE, "data_offsets"),
    "offsets past the end": (header(WTE, data_offsets=[10**9, 10**9 + 9600]), W, WEIGHTS, "data_offsets"),
    "shape larger than the data": (header(WTE, shape=[301, 8]), W, WEIGHTS, WTE, "[301, 8]", "9,600"),
    "dtype of no kind": (header(WTE, dtype="F33"), W, WEIGHTS, WTE, "'F33'"),
    "dtype that NumPy lacks": (header(WTE, dtype="F8_E4M3", shape=[300, 32]), W, WEIGHTS, WTE, "F8_E4M3"),
    "transposed": (tensors(h__1__mlp__c_fc__weight=np.ones((32, 8), "<f4")), W, "h.1.mlp.c_fc", "transposed"),
    "one axis too many": (tensors(ln_f__bias=ONES[None]), W, WEIGHTS, "ln_f.bias", "[1, 8]", "[8]"),
    "a tensor missing": (tensors(h__1__attn__c_proj__bias=ABSENT), W, "'h.1.attn.c_proj.bias' is missing"),
    "a tensor with and without prefix": (put(WEIGHTS, TWICE), W, WEIGHTS, "'ln_f.bias' is there twice"),
    "a layer too many": (tensors(h__2__ln_1__bias=ONES), W, WEIGHTS, "'h.2.ln_1.bias'", "n_layer 2"),
    "a layer of 5000 digits": (tensors(**{f"h__{'9' * 5000}__ln_1__bias": ONES}), W, WEIGHTS, "n_layer 2"),
    "integer weights": (tensors(h__0__ln_1__bias=ONES.astype("|i1")), W, "ln_1.bias", "int8", "quantised"),
    "complex weights": (tensors(h__0__ln_1__bias=ONES.astype("<c8")), W, "h.0.ln_1.bias", "complex64"),
    "quantised tensors": (tensors(h__0__attn__c_attn__SCB=ONES), W, WEIGHTS, "SCB", "quantised"),
    "cross attention tensors": (tensors(h__0__crossattention__q_attn__bias=ONES), W, "h.0", "cross att"),
    "a LoRA adapter": (tensors(h__0__attn__lora_A__weight=ONES), W, WEIGHTS, "LoRA", "merge"),
    "lm_head of another vocabulary": (tensors(lm_head__weight=np.ones((9, 8), "<f4")), W, "[9, 8]"),
    "lm_head of integers": (tensors(lm_head__weight=np.ones((300, 8), "<i8")), W, "lm_head", "int64"),
    "weights NaN": (tensors(ln_f__weight=ONES * np.nan), W, "not finite"),
    "weights NaN, and converted": (tensors(wte__weight=signalling), W, "not finite"),
    "weights infinite": (tensors(wpe__weight=lambda a: a * np.float32(np.inf)), W, "not finite"),
    "float64 beyond float32": (tensors(wte__weight=lambda a: a.astype("<f8") * 4e307), W, "not finite"),
    "pickle that runs, protocol 2": (running(2), W, BIN, "refuses", "mkdir"),
    "pickle that runs, protocol 4": (running(4), W, BIN, "refuses", "mkdir"),
    "pickle with a name of two lines": (
        torch(tiny.torch_zip(b"\x80\x04\x8c\x04os\nx\x8c\x03a\nb\x93.")), W, BIN, "refuses", r"os\nx.a\nb",
    ),
    "pickle of something else": (torch(pickle.dumps([1, 2])), W, BIN, "none that torch.save wrote"),
    "zip without a pickle": (torch(b"PK\x05\x06" + bytes(18)), W, BIN, "data.pkl", "found 0"),
    "pickle without its storages": (torch(NO_STORAGES), W, BIN, "archive/data/0: missing"),
    "bin cut short": (torch(TORCH[:-400]), W, BIN, "damaged"),
    "bin empty": (torch(b""), W, BIN, "empty"),
    "a shard missing": (sharded(then=put("b.safetensors", ABSENT)), W, INDEX, "'b.safetensors'", "missing"),
    "a shard cut short": (sharded(then=cut("b.safetensors", -5)), W, "b.safetensors", "data_offsets end"),
    "a tensor in the wrong shard": (sharded(wte__weight="b.safetensors"), W, "b.safetensors", WTE, "missing"),
    "a shard up the tree": (sharded(wte__weight="../a.safetensors"), W, INDEX, WTE, "'../a.safetensors'"),
    "a shard anywhere": (sharded(wte__weight="/etc/passwd"), W, INDEX, WTE, "'/etc/passwd'"),
    "a shard that is a number": (sharded(wte__weight=1), W, INDEX, WTE, "is 1"),
    "a shard with a line break": (sharded(wte__weight="a\nb"), W, INDEX, r"'a\nb'", "missing"),
    "a shard with too long a name": (sharded(wte__weight="a" * 300), W, INDEX, "aaa...", "missing"),
    "an index that names itself": (sharded(wte__weight=INDEX), W, INDEX, WTE, "an index"),
    "a shard that is the index": (
        sharded(then=lambda f: put("b.safetensors", (f / INDEX).read_bytes())(f)), W, "b.saf", "JSON file",
    ),
    "index not JSON": (sharded(then=put(INDEX, "{")), W, INDEX, "not JSON"),
    "index without weight_map": (sharded(then=put(INDEX, {"metadata": {}})), W, INDEX, "weight_map"),
    "index of a list": (sharded(then=put(INDEX, {"weight_map": ["a"]})), W, INDEX, "weight_map"),
    "index of one tensor": (sharded(then=put(INDEX, {"weight_map": {WTE: "a.safetensors"}})), W, "wpe"),
    "vocabulary without merges": (put("merges.txt", ABSENT), T, "merges.txt"),
    "merges without vocabulary": (put("vocab.json", ABSENT), T, "vocab.json"),
    "vocab not JSON": (cut("vocab.json", 100), T, "vocab.json", "not JSON"),
    "vocab a list": (put("vocab.json", []), T, "vocab.json", "list"),
    "vocab not UTF-8": (put("vocab.json", b"\xff\xfe"), T, "vocab.json", "not UTF-8"),
    "vocab without a byte": (vocab(A=ABSENT), T, "vocab.json", "0x41"),
    "an id twice": (vocab(a=98), T, "vocab.json", "'a'", "'b'", "98"),
    "an id below zero": (vocab(a=-1), T, "vocab.json", "'a'", "-1"),
    "an id of text": (vocab(a="97"), T, "vocab.json", "'a'", "'97'"),
    "a merge of unknown pieces": (merges("th e"), T, "merges.txt line 1", "'th'"),
    "a merge of three": (merges("t h e"), T, "merges.txt line 1", "'t h e'"),
    "a merge to nothing known": (merges("q z"), T, "merges.txt line 1", "'qz'", "vocab.json"),
    "an added token of two ids": (put("added_tokens.json", {"a": 500}), T, "added_tokens.json", "'a'", "500"),
    "added tokens a number": (put("tokenizer.json", {"added_tokens": 5}), T, "tokenizer.json", "added_t"),
    "added tokens a list": (
        put("tokenizer_config.json", {"added_tokens_decoder": [1]}), T, "tokenizer_config.json", "decoder",
    ),
    "special tokens a number": (
        put("tokenizer_config.json", {"additional_special_tokens": 5}), T, "tokenizer_config.json", "special",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "model")


def use(folder: Path, dtype: str) -> None:
    model = gpt2np.load(folder, dtype=dtype)
    assert model.tokenizer is None or model.tokenizer.n_vocab  # a model that is given ids may never read it
    model.trace(IDS)


@pytest.mark.parametrize(
    ("break_it", "kind", "parts"), [(b, k, p) for b, k, *p in BROKEN.values()], ids=BROKEN
)
def test_a_broken_checkpoint_is_refused(folder, capsys, break_it, kind, parts):
    break_it(folder)
    with pytest.raises(Gpt2npError) as caught:
        use(folder, "float32")
    message = message_of(caught.value, kind, str(folder), *parts)
    with contextlib.suppress(Gpt2npError):  # in which 1e307 may be a number like any other
        use(folder, "float64")
    assert main(["trace", "--tokens", "41 256", "--model", str(folder)]) == 2
    assert_refused(*capsys.readouterr(), message)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("case", ["config empty", "weights cut in the data", "pickle that runs, protocol 4"])
def test_a_process_says_the_same(folder, case):
    BROKEN[case][0](folder)
    with pytest.raises(Gpt2npError) as caught:
        gpt2np.load(folder)
    command = [sys.executable, "-m", "gpt2np", "info", "--model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert_refused(done.stdout, done.stderr, str(caught.value))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, BIN, "vocab.json", "merges.txt"])
def test_a_damaged_checkpoint_is_refused_or_finite(tmp_path_factory, name):
    folder = tiny.write(tmp_path_factory.mktemp("damaged"), BIN if name == BIN else WEIGHTS)
    whole = (folder / name).read_bytes()

    @several
    @example(0.0)
    @given(damage)
    def check(how):
        put(name, damaged(whole, how))(folder)  # a new file: what is mapped of the old one stays as it is
        try:
            model = gpt2np.load(folder)
            trace = model.trace(IDS)
            if model.tokenizer is not None:
                model.tokenizer.decode(model.tokenizer.encode("the tin of 東京"))
        except Gpt2npError as error:
            message_of(error, type(error), str(folder))
        else:
            assert np.isfinite(trace["logits"]).all()

    check()
