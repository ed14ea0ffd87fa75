"""Whatever wrappers put before and into the names of a model's tensors is taken off, and said."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import made_up
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.errors import CheckpointError

BARE = {name.removeprefix("transformer."): array for name, array in tiny.tensors().items()}
HEAD = np.random.default_rng(5).normal(0, 0.5, (300, 8)).astype("<f4")


@pytest.fixture
def load(tmp_path):
    """The model of these tensors."""

    def loaded(tensors, **how):
        folder = tiny.write(tmp_path / "model")
        save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            folder / "model.safetensors",
        )
        return gpt2np.load(folder, **how)

    return loaded


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("right")))(tiny.IDS)


def inside(part):
    """A wrapper around each block: `h.0.<part>ln_1.weight`."""
    return lambda name: "transformer." + name.replace("h.0.", f"h.0.{part}").replace("h.1.", f"h.1.{part}")


PREFIXES = {
    "torch.compile": "_orig_mod.",
    "torch.compile of HF's": "_orig_mod.transformer.",
    "DistributedDataParallel": "module.",
    "DDP of HF's": "module.transformer.",
    "DDP of a compiled one": "module._orig_mod.transformer.",
    "a compiled DDP": "_orig_mod.module.transformer.",
    "Opacus": "_module.",
    "Lightning": "model.",
    "Lightning of HF's": "model.transformer.",
    "Fabric": "_forward_module.transformer.",
    "FSDP": "_fsdp_wrapped_module.transformer.",
    "peft with full weights": "base_model.model.transformer.",
    "a module of somebody's": "foo.bar.transformer.",
    "a module of somebody's, bare": "net.gpt2_backbone.",
    "a name like a layer's": "h.0.transformer.",
    "a name with a number": "0.",
    "a name with a space": "my model.",
    "TRL": "pretrained_model.transformer.",
}
INSIDE = {
    "activation checkpointing": inside("_checkpoint_wrapped_module."),
    "FSDP of each block": inside("_fsdp_wrapped_module."),
    "torch.compile of each block": inside("_orig_mod."),
    "DDP of each block": inside("module."),
    "FSDP of all and each block": lambda name: (
        "_fsdp_wrapped_module." + inside("_fsdp_wrapped_module.")(name)
    ),
    "each layer checkpointed": lambda name: name.replace(".mlp.", ".mlp._checkpoint_wrapped_module."),
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_what_stands_before_all_names_is_taken_off(load, right, prefix):
    model = load({prefix + name: array for name, array in BARE.items()})
    np.testing.assert_array_equal(model(tiny.IDS), right)
    (note,) = model.checkpoint.notes
    assert "taken off" in note
    assert prefix in note


@pytest.mark.parametrize("rename", INSIDE.values(), ids=INSIDE)
def test_what_wrappers_put_into_names_is_taken_off(load, right, rename):
    model = load({rename(name): array for name, array in BARE.items()})
    np.testing.assert_array_equal(model(tiny.IDS), right)
    (note,) = model.checkpoint.notes
    assert "taken off" in note


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_hf_s_own_names_have_no_note(load, right, prefix):
    model = load({prefix + name: array for name, array in BARE.items()})
    assert model.checkpoint.notes == ()
    np.testing.assert_array_equal(model(tiny.IDS), right)


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("_orig_mod.transformer.", "_orig_mod.lm_head.weight"),
        ("model.transformer.", "model.lm_head.weight"),
        ("model.", "lm_head.weight"),
        ("model.backbone.transformer.", "model.lm_head.weight"),
        ("module.", "module.lm_head.weight"),
        ("transformer.", "transformer.lm_head.weight"),
        ("gpt.transformer.", "gpt._orig_mod.lm_head.weight"),
    ],
)
def test_the_unembedding_is_found_beside_the_body_or_outside_it(load, body, head):
    model = load({body + name: array for name, array in BARE.items()} | {head: HEAD})
    np.testing.assert_array_equal(model.weights["lm_head.weight"], HEAD)


@pytest.mark.parametrize("before", ["", "transformer.", "_orig_mod.transformer.", "net.transformer."])
def test_the_one_name_that_some_keep_of_two_tied_ones(load, right, before):
    """safetensors' save_model keeps `lm_head.weight`, the first in the alphabet."""
    tensors = {before + name: array for name, array in BARE.items() if name != "wte.weight"}
    head = before.removesuffix("transformer.") + "lm_head.weight"
    model = load(tensors | {head: BARE["wte.weight"]})
    np.testing.assert_array_equal(model(tiny.IDS), right)
    assert "lm_head.weight" not in model.weights
    assert any("serves as wte.weight" in note for note in model.checkpoint.notes)


def test_buffers_behind_a_prefix_are_no_weights(load, right):
    buffers = {f"_orig_mod.transformer.h.{i}.attn.bias": np.ones((1, 1, 16, 16), "<f4") for i in range(2)}
    model = load({f"_orig_mod.transformer.{name}": array for name, array in BARE.items()} | buffers)
    np.testing.assert_array_equal(model(tiny.IDS), right)
    assert len(model.checkpoint.notes) == 1


def test_other_things_behind_another_prefix_are_noted_and_many_of_them_once(load):
    others = {f"vision.layer{i}.weight": np.ones(2, "<f4") for i in range(30)}
    model = load({f"language.{name}": array for name, array in BARE.items()} | others)
    assert len(model.checkpoint.notes) == 1 + 8 + 1
    assert model.checkpoint.notes[-1].endswith("22 more unknown tensors are ignored")


def named(before):
    return {before + name: array for name, array in BARE.items()}


REFUSED = {
    "two models": (named("policy.") | named("reference.transformer."), "both 'policy.' and 'reference.'"),
    "a parameter with and without a wrapper": (
        named("") | {"_orig_mod.wte.weight": BARE["wte.weight"]}, "'wte.weight' is there twice",
    ),
    "other names": (
        {f"gpt_neox.layers.0.x{i}": np.ones(3, "<f4") for i in range(3)},
        "'wte.weight' is missing, expected shape [300, 8]; it has 'gpt_neox.layers.0.x0",
    ),
    "one is missing behind a prefix": (
        {name: a for name, a in named("model.").items() if "h.1.mlp.c_fc.bias" not in name},
        "'h.1.mlp.c_fc.bias' is missing",
    ),
    "an adapter behind a prefix": (
        named("base_model.model.transformer.")
        | {"base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight": HEAD},
        "belongs to a LoRA adapter: merge it",
    ),
    "a layer too many behind a prefix": (
        named("model.") | {"model.h.2.ln_1.bias": HEAD[0]}, "'h.2.ln_1.bias', but config.json says n_layer 2",
    ),
    "names that do not print": ({"\x1b[31m.x": HEAD}, r"\x1b[31m.x"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_unclear_or_missing_is_said(load, tensors, says):
    with pytest.raises(CheckpointError) as caught:
        load(tensors)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_whole_model_without_a_prefix_comes_before_a_copy_with_one(load, right):
    moved = {f"ema.{name}": array * 2 for name, array in BARE.items()}
    model = load(tiny.tensors() | moved)
    np.testing.assert_array_equal(model(tiny.IDS), right)
    assert all("unknown tensor" in note for note in model.checkpoint.notes)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "anything.model."])
def test_it_holds_for_every_architecture(tmp_path, prefix):
    folder = made_up.write(tmp_path / "m")
    before = gpt2np.load(folder)
    save_file(
        {prefix + name: np.array(array) for name, array in before.weights.items()},
        folder / "model.safetensors",
    )
    np.testing.assert_array_equal(gpt2np.load(folder)([1, 2, 3]), before([1, 2, 3]))
