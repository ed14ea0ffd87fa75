"""A folder that is no checkpoint: the error says what it is, and what to do."""

import json

import pytest
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.checkpoints import folder_contents
from gpt2np.cli import main
from gpt2np.errors import CheckpointError, ConfigError, Gpt2npError

FILES = {
    "adapter_model.safetensors": "an adapter (adapter_model.safetensors): merge it",
    "adapter_model.bin": "an adapter (adapter_model.bin): merge it",
    "tf_model.h5": "TensorFlow weights (tf_model.h5): load it with transformers 4",
    "model.ckpt.index": "a TensorFlow checkpoint (model.ckpt.index)",
    "model.ckpt-500.index": "a TensorFlow checkpoint (model.ckpt-500.index)",
    "saved_model.pb": "a TensorFlow SavedModel (saved_model.pb)",
    "flax_model.msgpack": "Flax weights (flax_model.msgpack)",
    "model.gguf": "llama.cpp's weights (model.gguf)",
    "gpt2-Q4_K_M.gguf": "llama.cpp's weights (gpt2-Q4_K_M.gguf)",
    "ggml-model-f16.bin": "llama.cpp's weights (ggml-model-f16.bin)",
    "decoder_model.onnx": "an ONNX graph (decoder_model.onnx)",
    "rust_model.ot": "rust-bert's weights (rust_model.ot)",
    "64.tflite": "a TensorFlow Lite model (64.tflite)",
    "openvino_model.xml": "an OpenVINO model (openvino_model.xml)",
    "model.mlmodel": "a Core ML model (model.mlmodel)",
    "consolidated.00.pth": "weights in another program's layout (consolidated.00.pth)",
    "weights.npz": "NumPy or MLX arrays (weights.npz): save its arrays under HF's names",
    "model.fp16.safetensors": "a variant (model.fp16.safetensors): rename or copy it to model.safetensors",
    "pytorch_model.fp16.bin": "a variant (pytorch_model.fp16.bin): rename or copy it to pytorch_model.bin",
    "gpt2.safetensors": "other weights (gpt2.safetensors)",
    "weights.bin": "other weights (weights.bin)",
    "model-00001-of-00002.safetensors": "shards without their model.safetensors.index.json",
    "pytorch_model-00001-of-00002.bin": "shards without their pytorch_model.bin.index.json",
    "zero_to_fp32.py": "a DeepSpeed checkpoint (zero_to_fp32.py)",
    "__0_0.distcp": "a distributed checkpoint (__0_0.distcp)",
    "model.pkl": "a pickle (model.pkl)",
    "optimizer.pt": "the state of a training run (optimizer.pt) without the model",
    "training_args.bin": "the state of a training run (training_args.bin) without the model",
    "README.md": "it has README.md",
}


def test_files_of_ours_are_not_offered_as_weights(folder, capsys):
    gpt2np.load("tiny").trace([1, 2], keep="embed").save(folder / "run.safetensors")
    message = says(folder, capsys, ConfigError)
    assert "what gpt2np wrote of a run (run.safetensors), and no model" in message
    (folder / "z.safetensors").touch()
    assert "other weights (z.safetensors)" in says(folder, capsys, ConfigError)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    return made


def says(folder, capsys, kind):
    """What loading it says; the command line says the same."""
    with pytest.raises(Gpt2npError) as caught:
        gpt2np.load(folder)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert message.isprintable()
    assert main(["info", "--model", str(folder)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"gpt2np: {message}"
    return message


@pytest.mark.parametrize("name", FILES)
def test_what_is_there_instead_of_weights(folder, capsys, name):
    (folder / name).touch()
    message = says(folder, capsys, ConfigError)
    assert message.startswith(f"{folder}/config.json: no such file; ")
    assert FILES[name] in message
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    message = says(folder, capsys, CheckpointError)
    assert "no weights: expected model.safetensors, pytorch_model.bin" in message
    assert FILES[name].removeprefix("it has ") in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"peft_type": "LORA", "base_model_name_or_path": "gpt2"},
            "it has a LoRA adapter of gpt2 (adapter_model",
        ),
        ({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "org/m"}, "it has an adapter of org/m ("),
        ({}, "it has an adapter (adapter_model.safetensors)"),
        ([], "it has an adapter (adapter_model.safetensors)"),
        ("no JSON", "it has an adapter ("),
        ({"base_model_name_or_path": "\x1b[31m\n"}, r"an adapter of \x1b[31m\n"),
        ({"base_model_name_or_path": 5}, "it has an adapter ("),
    ],
)
def test_an_adapter_names_its_base(folder, capsys, content, words):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "adapter_config.json").write_text(text)
    (folder / "adapter_model.safetensors").touch()
    assert words in says(folder, capsys, ConfigError)


@pytest.mark.parametrize("name", folder_contents.WEIGHTS)
def test_weights_without_a_config(folder, capsys, name):
    tiny.write(folder, "pytorch_model.bin" if name == "pytorch_model.bin" else "model.safetensors")
    (folder / "config.json").unlink()
    if name.endswith(".json"):
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
        (folder / name).write_text('{"weight_map": {"a": "shard.safetensors"}}')
    message = says(folder, capsys, ConfigError)
    assert message.endswith(f"the weights are there ({name}): get the config.json that belongs to them")


def test_an_empty_folder(folder, capsys):
    assert says(folder, capsys, ConfigError).endswith("the folder is empty")


@pytest.mark.parametrize(
    ("inner", "named"),
    [
        (["checkpoint-500"], "checkpoint-500"),
        (["checkpoint-500", "checkpoint-1000", "checkpoint-90"], "checkpoint-1000"),
        (
            ["snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e"],
            "snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e",
        ),
        (["final_model", "logs"], "final_model"),
    ],
)
def test_a_checkpoint_further_inside_is_named(folder, capsys, inner, named):
    for name in inner:
        (folder / name).mkdir(parents=True)
        if name != "logs":
            (folder / name / "config.json").write_text("{}")
    (folder / "trainer_state.json").touch()
    assert f"it has {named}: pass that folder" in says(folder, capsys, ConfigError)


@pytest.mark.parametrize("label", ["gpt2", "distilgpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("there", ["nothing", "config", "others"])
def test_a_folder_that_hides_a_hub_id_is_named(tmp_path, monkeypatch, label, there):
    monkeypatch.chdir(tmp_path)
    (tmp_path / label).mkdir(parents=True)
    if there == "config":
        (tmp_path / label / "config.json").write_text(json.dumps(tiny.CONFIG))
    elif there == "others":
        (tmp_path / label / "tf_model.h5").touch()
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        gpt2np.load(label)
    assert f"a local folder named {label} comes before the Hub's {label}" in str(caught.value)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        gpt2np.load(f"./{label}")
    assert "Hub" not in str(caught.value)


def test_a_damaged_checkpoint_is_not_blamed_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tiny.write(tmp_path / "gpt2") / "config.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        gpt2np.load("gpt2")
    assert "Hub" not in str(caught.value)


def test_config_json_with_the_mark_of_some_editors(folder):
    tiny.write(folder)
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(tiny.CONFIG).encode())
    assert gpt2np.load(folder).config == gpt2np.read_config(folder) == gpt2np.read_config(tiny.CONFIG)
