"""What lies in a folder that is no checkpoint: what it is, and what to do about it."""

import fnmatch
import os
from pathlib import Path

from gpt2np.errors import Gpt2npError, short
from gpt2np.files import read_json
from gpt2np.tensorfile import open_tensors

_TF = "load it with transformers 4 and TensorFlow (from_tf=True), then save_pretrained"
_FLAX = "load it with transformers 4 and Flax (from_flax=True), then save_pretrained"
_ELSEWHERE = "get the checkpoint that it was made from"
_SAVE = "save its arrays under HF's names as model.safetensors"

# File names, what they mean, and what to do; the first row that fits is told.
_KINDS = (
    ("tf_model.h5", "TensorFlow weights", _TF),
    ("*.ckpt.index", "a TensorFlow checkpoint", _TF),
    ("*.ckpt.meta", "a TensorFlow checkpoint", _TF),
    ("*.ckpt-*.index", "a TensorFlow checkpoint", _TF),
    ("saved_model.pb", "a TensorFlow SavedModel", _TF),
    ("*.h5", "TensorFlow weights", _TF),
    ("*.msgpack", "Flax weights", _FLAX),
    ("*.gguf", "llama.cpp's weights", _ELSEWHERE),
    ("ggml-*.bin", "llama.cpp's weights", _ELSEWHERE),
    ("*.onnx", "an ONNX graph", _ELSEWHERE),
    ("*.mlmodel*", "a Core ML model", _ELSEWHERE),
    ("*.mlpackage", "a Core ML model", _ELSEWHERE),
    ("*.tflite", "a TensorFlow Lite model", _ELSEWHERE),
    ("openvino_model.*", "an OpenVINO model", _ELSEWHERE),
    ("*.ot", "rust-bert's weights", _ELSEWHERE),
    ("consolidated*", "weights in another program's layout", "convert them for transformers first"),
    ("*.npz", "NumPy or MLX arrays", _SAVE),
    ("*.npy", "NumPy arrays", _SAVE),
    ("model.*.safetensors", "a variant", "rename or copy it to model.safetensors"),
    ("*-*-of-*.safetensors", "shards without their model.safetensors.index.json", "get that file too"),
    ("*.safetensors", "other weights", "if they are this model's, rename or copy them to model.safetensors"),
    ("pytorch_model.*.bin", "a variant", "rename or copy it to pytorch_model.bin"),
    ("*-*-of-*.bin", "shards without their pytorch_model.bin.index.json", "get that file too"),
    ("mp_rank_*", "a DeepSpeed checkpoint", "run its zero_to_fp32.py, which makes pytorch_model.bin"),
    ("zero_to_fp32.py", "a DeepSpeed checkpoint", "run this file, which makes pytorch_model.bin"),
    ("*.distcp", "a distributed checkpoint", "merge it with torch.distributed.checkpoint.format_utils"),
    ("*.bin", "other weights", "if they are this model's, rename or copy them to pytorch_model.bin"),
    ("*.pkl", "a pickle", "save model.state_dict() with torch.save instead"),
)
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_TRAINER_STATE = (  # what a training script saves beside the weights
    "optimizer.*", "scheduler.*", "scaler.pt", "rng_state*", "random_states*", "training_args.bin",
    "trainer_state.json",
)  # fmt: skip
_TRAINING_FILES = ("*.pt", "*.pth", "*.ckpt")
_NO_TRAINING_FILE = (*_TRAINER_STATE, "consolidated.*", "adapter_model.*", "mp_rank_*", "*_optim_states.pt")


def training_files(folder: Path) -> list[str]:
    """Files of a folder that look like what a training script saved of a model: `ckpt.pt` and the like."""
    found = [name for name in _names(folder) if _is_any(name, _TRAINING_FILES)]
    return [name for name in found if not _is_any(name, _NO_TRAINING_FILE)]


def told(folder: Path) -> str:
    """What a folder holds instead of a checkpoint, and what to do; empty if that is not known."""
    names = _names(folder)
    if not names:
        return "the folder is empty"
    if "adapter_config.json" in names or fnmatch.filter(names, "adapter_model.*"):
        return _adapter(folder, names)
    inner = _checkpoint_inside(folder, names)
    if inner:
        return f"it has {inner}: pass that folder"
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is not None:
        return f"the weights are there ({weights}): get the config.json that belongs to them"
    if training_files(folder):
        file = short(training_files(folder)[0])[1:-1]
        return f"it has {file}, which does not say how many heads and layers there are: write a config.json"
    ours = [name for name in names if _is_ours(folder / name)]
    others = [name for name in names if not _is_any(name, _TRAINER_STATE) and name not in ours]
    for pattern, what, cure in _KINDS:
        found = fnmatch.filter(others, pattern)
        if found:
            return f"it has {what} ({short(found[0])[1:-1]}): {cure}"
    if ours:
        return f"it has what gpt2np wrote of a run ({short(ours[0])[1:-1]}), and no model"
    state = next((name for name in names if _is_any(name, _TRAINER_STATE)), None)
    if state is not None:
        return (
            f"it has the state of a training run ({state}) without the model: look for its model.safetensors"
        )
    return (
        "it has " + ", ".join(short(name)[1:-1] for name in names[:5]) + (", ..." if len(names) > 5 else "")
    )


def _is_ours(path: Path) -> bool:
    """Whether a file is a trace, a KV file or an export of gpt2np, whose metadata say so."""
    try:
        return path.suffix == ".safetensors" and "gpt2np" in open_tensors(path).metadata
    except Gpt2npError:
        return False


def _adapter(folder: Path, names: list[str]) -> str:
    file = next((name for name in names if name.startswith("adapter_model.")), "adapter_config.json")
    try:
        content = read_json(folder / "adapter_config.json")
        base, kind = (content.get(key) for key in ("base_model_name_or_path", "peft_type"))
    except (Gpt2npError, AttributeError):
        base = kind = None
    which = "a LoRA adapter" if kind == "LORA" else "an adapter"
    of = f" of {short(base)[1:-1]}" if isinstance(base, str) and base else ""
    cure = "merge it into its base model (peft: merge_and_unload, then save_pretrained)"
    return f"it has {which}{of} ({file}): {cure}"


def _checkpoint_inside(folder: Path, names: list[str]) -> str:
    """A folder inside that is meant instead: the last of a training run's, or that of the Hub's cache."""
    places = [folder / "snapshots"] if "snapshots" in names else []
    for place in (*places, folder):
        inner = [name for name in _names(place) if (place / name / "config.json").is_file()]
        if inner:
            last = max(inner, key=lambda name: (_number(name), name))
            return os.path.join(*place.relative_to(folder).parts, last)
    return ""


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 19 else -1


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
