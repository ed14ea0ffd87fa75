"""Capture files: the nested dicts of `captures`, written, read back, and checked by their shapes.

In a `.safetensors` file each array has its path in the dict as its name, `response/attention/q_proj/17` for
an entry of a list, and the texts are in the metadata. A `.pt` file is the dict itself, for `torch.load`; in
it, attention that grows by a row with each token is stored once, and its tensors are views of that.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.checkpoints.bfloat16 import widened
from gpt2np.checkpoints.torch_writing import Storages, write_torch
from gpt2np.checkpoints.torchfile import read_torch_value
from gpt2np.errors import CheckpointError, InputError, TraceError, short
from gpt2np.files import check_regular, check_unicode
from gpt2np.json_fields import parse_json
from gpt2np.ops import Array

SCHEMA = "gpt2np.capture/1"
FORMATS = ("safetensors", "pt")

# The parts of a capture, by their names in it; which sites they are, each architecture's table says.
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
MLP = ("up_proj", "gelu", "down_proj")
INTERNAL_RESIDUAL = ("input", "after_attn", "output")
RAW_RESIDUAL = ("residual_in", "after_attn", "residual_out")

# Their places: `i` is a layer, and `layer_i` the mean over heads.
OF_INTERNALS = (
    *(f"attention/{name}" for name in (*PROJECTIONS, "attn_weights")),
    *(f"mlp/{name}" for name in MLP),
    *(f"residual/{name}" for name in INTERNAL_RESIDUAL),
)
OF_RESIDUAL = (*(f"activations/i/{name}" for name in RAW_RESIDUAL), "attention/layer_i")

PHASES = ("prompt", "response")
LISTS = ("attention", "mlp")  # groups of the response that hold lists

Capture = dict[str, Any]


def check_format(name: str) -> None:
    """Refuse a format that does not exist."""
    if name not in FORMATS:
        raise InputError(f"a capture is written as {' or '.join(FORMATS)}, not {short(name)}")


def save_capture(
    capture: Capture, path: str | os.PathLike[str], facts: Mapping[str, Any] | None = None
) -> None:
    """Write a capture as `.safetensors` or `.pt`, by the name of the file; whole or not at all.

    `facts` (anything that JSON holds: which model, which options) go into the metadata of a `.safetensors`
    file under `"facts"`; a `.pt` file has no place for them.

    Raises:
        InputError: another ending, or a `.pt` file that cannot be written.
        TraceError: the capture is malformed, or a `.safetensors` file cannot be written.
    """
    path = Path(path)
    check_format(path.suffix.removeprefix("."))
    arrays = check_capture(capture, "the capture")
    if path.suffix == ".pt":
        _save_torch(capture, path)
        return
    metadata = {"schema": SCHEMA, "facts": json.dumps(facts or {}, ensure_ascii=False)}
    for phase in PHASES:
        metadata[f"{phase}/text"] = capture[phase]["text"]
        for name in ("tokens", "token_ids"):
            metadata[f"{phase}/{name}"] = json.dumps(capture[phase][name], ensure_ascii=False)
    tensorfile.save_tensors(path, arrays, metadata)


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Read the nested dict of a capture file as NumPy arrays, read-only views of it; without torch.

    Raises:
        InputError: neither `.safetensors` nor `.pt`.
        TraceError: the file is missing or damaged, or is no capture; says what is wrong, and where.
    """
    path = Path(path)
    check_format(path.suffix.removeprefix("."))
    capture = _load_torch(path) if path.suffix == ".pt" else _load_safetensors(path)
    check_capture(capture, str(path))
    return capture


def _load_safetensors(path: Path) -> Capture:
    file = tensorfile.open_tensors(path, error=TraceError)
    if file.metadata.get("schema") != SCHEMA:
        raise TraceError(f"{path}: schema is {short(file.metadata.get('schema'))}, expected {short(SCHEMA)}")
    capture: Capture = {}
    for phase in PHASES:
        capture[phase] = {"text": file.metadata.get(f"{phase}/text")}
        for name in ("tokens", "token_ids"):
            if (text := file.metadata.get(f"{phase}/{name}")) is not None:  # else it is missing: checked
                capture[phase][name] = parse_json(text, f"{path}: {phase}/{name}", TraceError)
    for full_name in file.names:
        node: Any = capture
        *parents, leaf = full_name.split("/")
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf in node:
            raise TraceError(f"{path}: {short(full_name)} has no place in a capture")
        node[leaf] = widened(file, full_name)
    for group in LISTS:
        parts = capture["response"].get(group, {})
        for name, entries in parts.items():
            if isinstance(entries, dict):
                numbers = [str(i) for i in range(len(entries))]
                if set(numbers) != entries.keys():
                    where = f"response/{group}/{name}"
                    raise TraceError(f"{path}: {where} must have the entries 0 to {len(entries) - 1}")
                parts[name] = [entries[number] for number in numbers]
    return capture


def _save_torch(capture: Capture, path: Path) -> None:
    """Write the dict for `torch.load`: a list and its part of the prompt lie in one storage."""
    storages = Storages()

    def tensors(prompt: Any, response: Any) -> tuple[Any, Any]:
        if isinstance(prompt, dict):
            pairs = {key: tensors(prompt[key], response[key]) for key in prompt}
            return {key: pair[0] for key, pair in pairs.items()}, {
                key: pair[1] for key, pair in pairs.items()
            }
        if not isinstance(prompt, np.ndarray):
            return prompt, response
        if isinstance(response, list):
            first, *others = storages.together([prompt, *response])
            return first, others
        return storages.alone(prompt), storages.alone(response)

    prompt, response = tensors(capture["prompt"], capture["response"])
    write_torch(path, {"prompt": prompt, "response": response}, storages)


def _load_torch(path: Path) -> Any:
    check_regular(path, TraceError)
    try:
        return read_torch_value(path)
    except CheckpointError as error:
        raise TraceError(str(error)) from None


# -- checking -------------------------------------------------------------------------------------


def check_capture(capture: Any, where: str) -> dict[str, Array]:
    """Return every array of a capture by its path, as in `"response/attention/q_proj/17"`; check shapes.

    Raises:
        TraceError: something is missing, is not known, or has another shape than the texts imply.
    """
    if not isinstance(capture, dict) or capture.keys() != {"prompt", "response"}:
        raise TraceError(f"{where}: is no capture: it must have 'prompt' and 'response' and nothing else")
    found: dict[str, Array] = {}
    n_prompt, n_response = (_check_phase(capture[phase], phase, where, found) for phase in PHASES)
    try:
        expected = _expected_shapes(found, n_prompt, n_response)
    except TraceError as error:
        raise TraceError(f"{where}: {error}") from None
    for name, shape in expected.items():
        if name not in found:
            raise TraceError(f"{where}: {name} is missing")
        if found[name].shape != shape:
            raise TraceError(f"{where}: {name} has shape {found[name].shape}, expected {shape}")
    for name in found.keys() - expected.keys():
        raise TraceError(f"{where}: {short(name)} has no place in a capture")
    return found


def _check_phase(phase: Any, name: str, where: str, found: dict[str, Array]) -> int:
    """Its number of tokens; its arrays are added to `found`."""
    phase = phase if isinstance(phase, dict) else {}
    text, tokens, ids = (phase.get(key) for key in ("text", "tokens", "token_ids"))
    if not isinstance(text, str):
        raise TraceError(f"{where}: {name}/text must be a string, found {short(text)}")
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise TraceError(f"{where}: {name}/token_ids must be a list of whole numbers, found {short(ids)}")
    if not isinstance(tokens, list) or len(tokens) != len(ids) or not all(isinstance(t, str) for t in tokens):
        raise TraceError(f"{where}: {name}/tokens must be {len(ids)} strings, found {short(tokens)}")
    check_unicode(f"{where}: {name}", [text, tokens])
    for key, node in phase.items():
        if key not in ("text", "tokens", "token_ids"):
            _collect(node, f"{name}/{key}", where, found)
    return len(ids)


def _collect(node: Any, path: str, where: str, found: dict[str, Array]) -> None:
    """Add the arrays below a path to `found`; lists stand where the response has one entry for each token."""
    phase, group, *below = path.split("/")
    is_list = phase == "response" and group in LISTS and len(below) == 1
    if is_list and not isinstance(node, list):
        raise TraceError(f"{where}: {short(path)} must be a list, found {short(node)}")
    if is_list or isinstance(node, dict):
        for key, child in enumerate(node) if is_list else node.items():
            _collect(child, f"{path}/{key}", where, found)
    elif isinstance(node, np.ndarray) and node.dtype.kind == "f":
        found[path] = node
    else:
        raise TraceError(f"{where}: {short(path)} must be an array of floats, found {short(node)}")


def _expected_shapes(found: dict[str, Array], n_prompt: int, n_response: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path; widths are those of the prompt's arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    lengths = list(enumerate(range(n_prompt, n_prompt + n_response)))

    def last_axis(part: str, ndim: int, axis: int) -> int:
        array = found.get(f"prompt/{part}")
        if array is None or array.ndim != ndim:
            what = "is missing" if array is None else f"has {array.ndim} axes, expected {ndim}"
            raise TraceError(f"prompt/{part} {what}")
        return int(array.shape[axis])

    def add_attention(part: str, heads: tuple[int, ...]) -> None:
        shapes[f"prompt/{part}"] = (*heads, n_prompt, n_prompt)
        shapes.update({f"response/{part}/{i}": (*heads, n, n) for i, n in lengths})

    if any(name.startswith("prompt/activations/") for name in found):
        width = last_axis("activations/0/residual_in", 2, 1)
        n_layer = len({name.split("/")[2] for name in found if name.startswith("prompt/activations/")})
        for layer in range(n_layer):
            add_attention(f"attention/layer_{layer}", ())
            for name in RAW_RESIDUAL:
                part = f"activations/{layer}/{name}"
                shapes |= {f"prompt/{part}": (n_prompt, width), f"response/{part}": (n_response, width)}
        return shapes
    add_attention("attention/attn_weights", (last_axis("attention/attn_weights", 3, 0),))
    for part in (*(f"attention/{name}" for name in PROJECTIONS), *(f"mlp/{name}" for name in MLP)):
        width = last_axis(part, 2, 1)
        shapes[f"prompt/{part}"] = (n_prompt, width)
        shapes.update({f"response/{part}/{i}": (1, width) for i, _ in lengths})
    for name in INTERNAL_RESIDUAL:
        part = f"residual/{name}"
        width = last_axis(part, 2, 1)
        shapes |= {f"prompt/{part}": (n_prompt, width), f"response/{part}": (n_response, 1, width)}
    return shapes
