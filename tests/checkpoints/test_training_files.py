"""Files of training scripts: the weights under a key, as torch's Linear, with optimisers beside them."""

import argparse
import dataclasses
import json
import pathlib
import random
import sys
import types

import numpy as np
import pytest
from support import needs
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.errors import CheckpointError, ConfigError

needs.module("torch")
import torch

pytestmark = pytest.mark.filterwarnings("error")

BARE = {name.removeprefix("transformer."): torch.tensor(array) for name, array in tiny.tensors().items()}
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": 300}
MODEL_ARGS = ARGS | {"dropout": 0.0, "bias": True}
MINGPT = {"n_query_groups": 1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}


def hf(prefix="transformer.", tensors=BARE):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def linear(prefix="transformer.", tensors=BARE, tied=True):
    turned = {n: t.t().contiguous() if n.endswith(MATRICES) else t for n, t in tensors.items()}
    top = prefix.removesuffix("transformer.")
    return hf(prefix, turned) | ({f"{top}lm_head.weight": turned["wte.weight"]} if tied else {})


def twice():
    return {name: tensor * 2 for name, tensor in hf().items()}


def optimizer():
    """What `torch.optim.AdamW.state_dict` gives after a step, without the seconds that its import takes."""
    state = {
        i: {"step": torch.tensor(1.0), "exp_avg": tensor * 0.1, "exp_avg_sq": tensor**2}
        for i, tensor in enumerate(BARE.values())
    }
    return {"state": state, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": list(state)}]}


def nanogpt(prefix="transformer."):
    return {
        "model": linear(prefix),
        "optimizer": optimizer(),
        "model_args": MODEL_ARGS,
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.47),
        "config": {
            "out_dir": "out",
            "batch_size": 12,
            "compile": True,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 8,
        },
    }


def module_of(name, **classes):
    """A module that pickle can find while a test runs, as a script's own `model.py`."""
    module = types.ModuleType(name)
    for key, made in classes.items():
        made.__module__, made.__qualname__ = name, key
        setattr(module, key, made)
    sys.modules[name] = module
    return module


def script_config():
    made = dataclasses.make_dataclass("GPTConfig", [(key, int, value) for key, value in ARGS.items()])
    return module_of("model", GPTConfig=made).GPTConfig()


class Counter(torch.nn.Module):
    """A number among the weights, as batch norms and metrics keep them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.tensor(3))


LAYOUTS = {
    "state dict": lambda: hf(),
    "state dict, bare": lambda: hf(""),
    "model_state_dict": lambda: {"epoch": 3, "model_state_dict": hf(), "loss": 0.5},
    "model_state_dict, 0-d tensors beside": lambda: {"model_state_dict": hf(), "loss": torch.tensor(0.5)},
    "with the optimiser's state": lambda: {"model_state_dict": hf(), "optimizer_state_dict": optimizer()},
    "state_dict": lambda: {"state_dict": hf(), "arch": "gpt2", "best_acc1": torch.tensor(3.0)},
    "model": lambda: {"model": hf(), "scheduler": {"last_epoch": 3, "_last_lr": [0.1]}},
    "module (DeepSpeed)": lambda: {"module": hf(), "ds_version": "0.14", "shapes": [torch.Size([3])]},
    "net": lambda: {"net": hf(), "acc": 93.1, "epoch": 3},
    "params": lambda: {"params": hf(), "step": torch.tensor(3)},
    "a key of somebody's": lambda: {"the_weights": hf(), "rng": torch.get_rng_state()},
    "model in model": lambda: {"model": {"state_dict": hf(), "name": "gpt2"}, "optimizer": optimizer()},
    "three deep": lambda: {"checkpoint": {"model": {"state_dict": hf("_orig_mod.transformer.")}}},
    "a number among the weights": lambda: {"model": hf() | {"steps": torch.tensor(3)}},
    "Lightning": lambda: {
        "state_dict": hf("model.transformer.") | {"val_acc.total": torch.tensor(2)},
        "pytorch-lightning_version": "2.4.0",
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}},
        "optimizer_states": [optimizer()],
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "hyper_parameters": argparse.Namespace(lr=1e-3, path=pathlib.PurePosixPath("a/b")),
    },
    "Opacus": lambda: {"model": hf("_module."), "noise": 1.0},
    "moving average beside": lambda: {"model": hf(), "ema": twice()},
    "moving average inside": lambda: {"ema": {"state_dict": twice()}, "state_dict": hf()},
    "options and random states": lambda: {
        "model": hf(), "args": argparse.Namespace(device=torch.device("cpu")), "best": np.float64(1.5),
        "numpy": np.random.RandomState(0).get_state(), "python": random.getstate(), "seen": {1, 2},
    },
    "HF's config": lambda: {"model": hf(), "config": needs.imported("transformers").GPT2Config(n_layer=2)},
    "a config of the script's": lambda: {"model": hf(), "config": script_config()},
    "parameters": lambda: {"model": {name: torch.nn.Parameter(tensor) for name, tensor in hf().items()}},
    "nanoGPT": nanogpt,
    "nanoGPT, compiled": lambda: nanogpt("_orig_mod.transformer."),
    "nanoGPT, state dict alone": lambda: linear(),
    "minGPT": lambda: linear() | {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16) for i in range(2)},
    "Linear behind a prefix of somebody's": lambda: {"epoch": 1, "gpt": linear("net.gpt.transformer.")},
}  # fmt: skip


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("right")), dtype="float64")(tiny.IDS)


def folder_with(tmp_path, content, name="pytorch_model.bin", config=tiny.CONFIG, zip_format=True):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True, parents=True)
    torch.save(content, folder / name, _use_new_zipfile_serialization=zip_format)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_model_in_a_training_file_is_found(tmp_path, right, layout, zip_format):
    folder = folder_with(tmp_path, LAYOUTS[layout](), zip_format=zip_format)
    for dtype in ("float32", "float64"):
        model = gpt2np.load(folder, dtype=dtype)
        np.testing.assert_allclose(model(tiny.IDS), right, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)
        assert set(model.weights) == set(BARE)
    model.trace(tiny.IDS).verify()
    done = model.generate(tiny.IDS, max_new_tokens=3, keep="*").finish()
    done.trace.verify()


def test_a_moving_average_is_named(tmp_path):
    (note,) = gpt2np.load(folder_with(tmp_path, LAYOUTS["moving average beside"]())).checkpoint.notes
    assert "'model'" in note
    assert "'ema'" in note


UNCLEAR = {
    "two copies of equal rank": (lambda: {"ema": hf(), "swa": hf()}, "'ema' and 'swa'"),
    "two usual keys": (lambda: {"model": hf(), "state_dict": hf()}, "'model' and 'state_dict'"),
    "two models behind prefixes": (lambda: {"model": hf("a.") | hf("b.")}, "'a.' and 'b.'"),
    "no model at all": (lambda: {"a": {"w": torch.ones(3)}, "b": {"w": torch.ones(3)}}, "'a', 'b'"),
    "only an optimiser": (lambda: {"optimizer": optimizer()}, "no dict in it has this model's tensors"),
    "no tensors": (lambda: {"epoch": 3, "path": "model.bin"}, "its keys are 'epoch', 'path'"),
    "one matrix of another orientation": (
        lambda: {"model": linear() | {"transformer.h.1.mlp.c_fc.weight": BARE["h.1.mlp.c_fc.weight"]}},
        "h.1.mlp.c_fc.weight has shape",
    ),
    "a bias missing in one layer": (
        lambda: {n: t for n, t in linear().items() if "h.1.mlp.c_fc.b" not in n}, "c_fc.bias' is missing",
    ),
    "a norm's bias missing in HF's layout": (
        lambda: {n: t for n, t in hf().items() if not n.endswith("ln_1.bias")}, "'h.0.ln_1.bias' is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_said(tmp_path, content, says):
    with pytest.raises(CheckpointError) as caught:
        gpt2np.load(folder_with(tmp_path, content()))
    assert says in str(caught.value)
    assert "pytorch_model.bin" in str(caught.value)


def test_a_whole_model_is_refused_with_the_cure(tmp_path):
    module_of("gpt", Counter=Counter)
    for content in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2)}, Counter()):
        with pytest.raises(CheckpointError, match=r"refuses to .*save model\.state_dict\(\)"):
            gpt2np.load(folder_with(tmp_path, content))
    with pytest.raises(CheckpointError, match=r"'wte\.weight' is missing"):
        gpt2np.load(folder_with(tmp_path, {"model": Counter()}))


# -- without config.json --------------------------------------------------------------------------------


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", ["ckpt.pt", "model.pth", "last.ckpt", "pytorch_model.bin"])
@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt_s_model_args_serve_as_config(tmp_path, name, bias):
    from transformers import GPT2Config, GPT2LMHeadModel

    tensors = BARE if bias else {n: torch.zeros_like(t) if n.endswith("bias") else t for n, t in BARE.items()}
    stored = {n: t for n, t in linear().items() if bias or not n.endswith("bias")}
    content = nanogpt() | {"model": stored, "model_args": MODEL_ARGS | {"bias": bias}}
    folder = folder_with(tmp_path, content, name, config=None)
    torch.save(optimizer(), folder / "optimizer.pt")
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=8,
        n_positions=16,
        vocab_size=300,
        activation_function="gelu",
        eos_token_id=0,
    )
    theirs = GPT2LMHeadModel(config).double().eval()
    theirs.transformer.load_state_dict(tensors)
    model = gpt2np.load(folder, dtype="float64")
    with torch.no_grad():
        expected = theirs(torch.tensor([tiny.IDS])).logits[0].numpy()
    np.testing.assert_allclose(model(tiny.IDS), expected, rtol=0, atol=1e-10)
    notes = " | ".join(model.checkpoint.notes)
    assert "'gelu' is taken" in notes
    assert ("count as 0" in notes) is not bias


def test_a_padded_vocabulary_is_that_of_the_model(tmp_path):
    more = BARE | {"wte.weight": torch.cat([BARE["wte.weight"], torch.zeros(4, 8)])}
    content = nanogpt() | {"model": linear(tensors=more), "model_args": MODEL_ARGS | {"vocab_size": 304}}
    model = gpt2np.load(folder_with(tmp_path, content, "ckpt.pt", config=None))
    assert model(tiny.IDS).shape == (5, 304)


def test_a_square_mlp_follows_c_attn(tmp_path, right):
    """Where n_inner is n_embd every matrix but c_attn is square."""
    rng = np.random.default_rng(0)
    square = BARE | {
        f"h.{i}.mlp.{n}": torch.tensor(rng.normal(0, 0.5, shape).astype("f4"))
        for i in range(2)
        for n, shape in (("c_fc.weight", (8, 8)), ("c_fc.bias", 8), ("c_proj.weight", (8, 8)))
    }
    config = tiny.CONFIG | {"n_inner": 8}
    own = gpt2np.load(folder_with(tmp_path / "a", hf(tensors=square), config=config))
    theirs = gpt2np.load(folder_with(tmp_path / "b", linear(tensors=square), config=config))
    np.testing.assert_allclose(own(tiny.IDS), theirs(tiny.IDS), rtol=0, atol=1e-5)


SETTINGS = {
    "model_args of a namespace": {"model_args": argparse.Namespace(**ARGS)},
    "options of the script": {"args": argparse.Namespace(lr=1e-3, **ARGS)},
    "a dataclass": {"config": "dataclass"},
    "HF's own config": {
        "config": {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 300}
    },
    "without the sizes that the tensors have": {"model_args": {"n_head": 2}},
    "sizes that are null": {"model_args": ARGS | {"vocab_size": None, "block_size": None}},
}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_in_other_places_serve_as_well(tmp_path, key):
    settings = {k: script_config() if v == "dataclass" else v for k, v in SETTINGS[key].items()}
    model = gpt2np.load(folder_with(tmp_path, {"model": linear(), **settings}, "ckpt.pt", config=None))
    c = model.config
    assert (c.n_layer, c.n_head, c.n_embd, c.n_positions, c.vocab_size) == (2, 2, 8, 16, 300)
    assert c.activation_function == "gelu_new"


@pytest.mark.parametrize(
    "part",
    [
        ARGS | MINGPT | {"model_type": None},
        dict.fromkeys(ARGS) | MINGPT | {"model_type": "of two layers"},
    ],
)
def test_mingpt_s_config_json_is_read(tmp_path, right, monkeypatch, part):
    from gpt2np.architectures.gpt2 import weights

    monkeypatch.setitem(
        weights.TRAINING.named_sizes, "of two layers", {"n_layer": 2, "n_head": 2, "n_embd": 8}
    )
    config = {"system": {"seed": 3407, "work_dir": "./out"}, "model": part, "trainer": {"max_iters": None}}
    model = gpt2np.load(
        folder_with(tmp_path, LAYOUTS["minGPT"](), "model.pt", config=config), dtype="float64"
    )
    np.testing.assert_allclose(model(tiny.IDS), right, rtol=0, atol=1e-12)
    assert model.config.activation_function == "gelu_new"
    assert any("config.json" in note and "'gelu_new' is taken" in note for note in model.checkpoint.notes)


def test_a_model_of_several_models_is_no_training_script_s(tmp_path):
    part = {"model_type": "gpt2", "n_layer": 2, "n_head": 2}
    config = {"model_type": "encoder-decoder", "encoder": part, "decoder": part}
    with pytest.raises(ConfigError, match="model_type is 'encoder-decoder'"):
        gpt2np.load(folder_with(tmp_path, linear(), config=config))


def test_the_first_mingpt_with_query_key_and_value_apart(tmp_path, right):
    state = {"tok_emb.weight": BARE["wte.weight"], "pos_emb": BARE["wpe.weight"][None]}
    for i in range(2):
        h, to = f"h.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            state |= {f"{to}ln{n}.{kind}": BARE[f"{h}ln_{n}.{kind}"] for n in (1, 2)}
            parts = BARE[f"{h}attn.c_attn.{kind}"].split(8, dim=-1)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                state[f"{to}attn.{name}.{kind}"] = part.t() if kind == "weight" else part
            for name, old in (("attn.c_proj", "attn.proj"), ("mlp.c_fc", "mlp.0"), ("mlp.c_proj", "mlp.2")):
                tensor = BARE[f"{h}{name}.{kind}"]
                state[f"{to}{old}.{kind}"] = tensor.t() if kind == "weight" else tensor
        state[f"{to}attn.mask"] = torch.ones(1, 1, 16, 16)
    state |= {"ln_f.weight": BARE["ln_f.weight"], "ln_f.bias": BARE["ln_f.bias"]}
    state["head.weight"] = BARE["wte.weight"] * 2
    model = gpt2np.load(folder_with(tmp_path, state), dtype="float64")
    np.testing.assert_allclose(model(tiny.IDS), 2 * right, rtol=0, atol=1e-11)


def test_what_says_no_heads_is_no_config(tmp_path):
    folder = folder_with(tmp_path, {"model": linear(), "config": {"n_layer": 2}}, "ckpt.pt", config=None)
    with pytest.raises(
        ConfigError, match=r"config\.json: no such file; it has ckpt\.pt, which does not say how many"
    ):
        gpt2np.load(folder)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_head": 3}, "n_head 3"),
        ({"n_head": "2"}, "n_head must"),
        ({"vocab_size": 301}, r"expected \[301, 8\]"),
    ],
)
def test_settings_that_are_wrong_are_said(tmp_path, wrong, says):
    content = nanogpt() | {"model_args": MODEL_ARGS | wrong}
    with pytest.raises((ConfigError, CheckpointError), match=says) as caught:
        gpt2np.load(folder_with(tmp_path, content, "ckpt.pt", config=None))
    assert "ckpt.pt" in str(caught.value)


def test_several_files_and_none_called_ckpt(tmp_path):
    for name in ("epoch1.pt", "epoch2.pt"):
        folder = folder_with(tmp_path, nanogpt(), name)
    with pytest.raises(CheckpointError, match=r"several files may be the weights \(epoch1\.pt, epoch2\.pt\)"):
        gpt2np.load(folder)


def test_transposed_weights_are_views_of_the_file(tmp_path):
    model = gpt2np.load(folder_with(tmp_path, nanogpt(), "ckpt.pt", config=None))
    weight = model.weights["h.0.attn.c_attn.weight"]
    assert weight.flags.f_contiguous
    assert not weight.flags.owndata
    assert not weight.flags.writeable
