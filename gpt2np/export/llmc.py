"""A model and one of its runs as the files of llm.c, the GPT-2 in plain C (https://github.com/karpathy/llm.c).

- `gpt2_124M.bin`: the weights, float32 (version 3), named after the number of parameters as llm.c does it;
- `gpt2_tokenizer.bin`: the bytes of every token;
- `tokens.bin`: the inputs and, behind them, the last target, as uint16: what a data loader cuts x and y from;
- `gpt2_124M_debug_state.bin`: inputs, targets, logits and loss of the run, which `test_gpt2` checks;
- `activations.bin`: every array of ActivationTensors in its order, float32, one behind the other;
- `activations.json`: name, axes, shape and byte offset of each.

All numbers are little-endian, and the batch is of one sequence. Targets are the inputs moved by one; the last
target is the end-of-text token unless another is given. gpt2np has no backward pass: the gradients in the
debug state are zero. Entries of `preatt` in the future, which llm.c leaves unwritten, are zero, and so are
the logits and probabilities of the padded vocabulary.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config, gpt2_only
from gpt2np.errors import InputError, TokenizerError, TraceError
from gpt2np.export.dialects.dialect import Dialect
from gpt2np.export.dialects.llmc import LLMC_ORDER
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.outputs import whole_binary_file, whole_folder
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.trace import Trace

SCHEMA = "gpt2np.llmc/1"
INDEX = "activations.json"
MODEL_MAGIC, MODEL_VERSION = 20240326, 3  # version 3: float32, padded vocabulary
STATE_MAGIC, STATE_VERSION = 20240327, 2
TOKENIZER_MAGIC, TOKENIZER_VERSION = 20240328, 2
TOKENS_MAGIC, TOKENS_VERSION = 20240520, 1
HEADER_INTS = 256
VOCABULARY_MULTIPLE = 128
EPSILON = 1e-5
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")

# The tensors of a model file, each stacked over the layers; llm.c has matrices as [n_out, n_in].
_BLOCK_TENSORS = """ln_1.weight ln_1.bias attn.c_attn.weight attn.c_attn.bias attn.c_proj.weight
attn.c_proj.bias ln_2.weight ln_2.bias mlp.c_fc.weight mlp.c_fc.bias mlp.c_proj.weight
mlp.c_proj.bias""".split()


def write_llmc(trace: Trace, folder: str | Path, target: int | None = None) -> dict[str, int]:
    """Write a model and a trace of it as llm.c's files; returns the bytes of each file by its name.

    The folder is made if need be, with its parents. No file replaces an older one before all are written.
    A model without a vocabulary, or whose vocabulary has no end-of-text token, has no tokenizer file.

    Raises:
        InputError: llm.c cannot express this model, or the folder cannot be written.
        TraceError: the trace was opened without its model, was edited, or lacks an array or positions.

    Example:
        >>> sorted(write_llmc(load("tiny").trace("Elizabeth was"), "out"))[2:4]
        ['gpt2_2M.bin', 'gpt2_2M_debug_state.bin']
    """
    model = trace.model_for("an export to llm.c")
    check_model(model)
    inputs, targets = trace.token_ids, [*trace.token_ids[1:], last_target(model, target)]
    arrays = _whole_run(trace)
    losses = np.array(
        [
            -log_probabilities(row.astype(np.float64))[i]
            for row, i in zip(trace["logits"], targets, strict=True)
        ]
    )
    size, out = size_name(model.n_parameters), Path(folder)
    index = _index(trace, targets)
    with whole_folder(out, INDEX) as making, contextlib.ExitStack() as stack:

        def create(name: str) -> IO[bytes]:
            return stack.enter_context(whole_binary_file(making / name))

        _write_model(create(f"gpt2_{size}.bin"), model)
        if (end := end_of_text(model)) is not None and (tokenizer := model.usable_tokenizer) is not None:
            _write_tokenizer(create("gpt2_tokenizer.bin"), tokenizer, model.config.vocab_size, end)
        tokens = create("tokens.bin")
        tokens.write(_header(TOKENS_MAGIC, TOKENS_VERSION, len(inputs) + 1))
        tokens.write(np.array([*inputs, targets[-1]], "<u2").tobytes())
        state = create(f"gpt2_{size}_debug_state.bin")
        _write_state(
            state, gpt2_only(model.config, "files of llm.c"), inputs, targets, trace["logits"], losses
        )
        data = create("activations.bin")
        for tensor in index["tensors"]:
            array = losses[None] if tensor["name"] == "losses" else arrays[tensor["name"]]
            data.write(_padded(array, tensor["shape"]).data)
        create(INDEX).write(_json(index).encode())
    return {name: (out / name).stat().st_size for name in file_names(model)}


def file_names(model: Model) -> list[str]:
    """Return the files that `write_llmc` writes of a model, in its order."""
    size = size_name(model.n_parameters)
    vocabulary = (
        [] if end_of_text(model) is None or model.usable_tokenizer is None else ["gpt2_tokenizer.bin"]
    )
    run = ["tokens.bin", f"gpt2_{size}_debug_state.bin", "activations.bin", INDEX]
    return [f"gpt2_{size}.bin", *vocabulary, *run]


def check_model(model: Model) -> None:
    """Refuse, by name, a model that llm.c's files cannot express.

    Raises:
        InputError: what differs, and what llm.c always has.
    """
    c = gpt2_only(model.config, "files of llm.c")
    if "lm_head.weight" in model.weights:
        raise InputError("llm.c ties lm_head to wte, and this model has an lm_head.weight of its own")
    for wrong, name, needed in (
        (c.activation_function not in ACTIVATIONS, "activation_function", "gelu_new"),
        (c.d_mlp != 4 * c.n_embd, "n_inner", f"4 * n_embd = {4 * c.n_embd}"),
        (c.layer_norm_epsilon != EPSILON, "layer_norm_epsilon", EPSILON),
        (not c.scale_attn_weights, "scale_attn_weights", "true"),
        (c.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx", "false"),
    ):
        if wrong:
            raise InputError(f"llm.c cannot express {name} {getattr(c, name)}: it always has {needed}")
    if c.vocab_size > 1 << 16:
        raise InputError(f"llm.c cannot express vocab_size {c.vocab_size}: its tokens are uint16")


def size_name(n_parameters: int) -> str:
    """Return the size in a file's name, in millions as llm.c has it, below that in thousands.

    Example:
        >>> size_name(124_439_808), size_name(9_600)
        ('124M', '10K')
    """
    unit, letter = (1_000_000, "M") if n_parameters >= 1_000_000 else (1_000, "K")
    return f"{n_parameters / unit:.0f}{letter}"


def end_of_text(model: Model) -> int | None:
    """Return the end-of-text id: the vocabulary's, else the checkpoint's first; None if there is none."""
    tokenizer = model.usable_tokenizer
    found = None if tokenizer is None else tokenizer.end_of_text_id
    found = next(iter(model.checkpoint.eos_ids), None) if found is None else found
    return found if found is not None and 0 <= found < model.config.vocab_size else None


def last_target(model: Model, target: int | None = None) -> int:
    """Return the id that follows the last input: `target`, else the end-of-text token.

    Raises:
        InputError: there is none, or it is outside the vocabulary.
    """
    found = end_of_text(model) if target is None else target
    if found is None:
        raise InputError("this model has no end-of-text token to be the last target: give --target ID")
    if not 0 <= found < model.config.vocab_size:
        raise InputError(f"target {found} is no token id: they are 0 to {model.config.vocab_size - 1}")
    return found


def _whole_run(trace: Trace) -> Dialect:
    """The trace in llm.c's names, everything there and as the model itself computes it."""
    if trace.metadata.get("edits"):
        raise TraceError("llm.c's files are of a model as it is; this trace is of an edited run")
    if len(trace.positions) != len(trace.token_ids):
        kept, n = len(trace.positions), len(trace.token_ids)
        raise TraceError(f"llm.c's files hold whole texts; this trace kept {kept} of {n} positions")
    if trace.plan.keep.dtype == "float16":
        raise TraceError("llm.c's files are float32; this trace kept float16")
    arrays = Dialect(trace, "llm.c")
    for name in LLMC_ORDER:
        if name not in arrays:
            arrays[name]  # says why
    return arrays


def _index(trace: Trace, targets: Sequence[int]) -> dict[str, Any]:
    """What `activations.json` says."""
    axes = Dialect(trace, "llm.c").arrays.axes
    padded = padded_vocabulary(trace.config)
    sizes = trace.plan.sizes() | {"layer": trace.config.n_layer, "batch": 1, "vocab": padded}
    tensors, offset = [], 0
    for name in LLMC_ORDER:
        shape = [sizes[axis] for axis in axes[name]]
        tensors.append({"name": name, "axes": list(axes[name]), "shape": shape, "byteOffset": offset})
        offset += 4 * math.prod(shape)
    return {
        "schema": SCHEMA,
        "model": trace.metadata.get("model"),
        "config": trace.config.to_dict(),
        "paddedVocabulary": padded,
        "inputs": trace.token_ids,
        "targets": list(targets),
        "data": "activations.bin",
        "dtype": "float32",
        "byteOrder": "little",
        "byteLength": offset,
        "tensors": tensors,
    }


def _json(index: dict[str, Any]) -> str:
    """The index as JSON, a tensor a line."""
    facts = {name: value for name, value in index.items() if name != "tensors"}
    tensors = ",\n".join(json.dumps(tensor) for tensor in index["tensors"])
    return f'{json.dumps(facts, ensure_ascii=False)[:-1]},\n"tensors": [\n{tensors}\n]}}\n'


def padded_vocabulary(config: ModelConfig) -> int:
    """Return the vocabulary rounded up to a multiple of 128."""
    return -(-config.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _header(*ints: int) -> bytes:
    """256 little-endian int32, zero behind those given."""
    header = np.zeros(HEADER_INTS, "<i4")
    header[: len(ints)] = ints
    return header.tobytes()


def _padded(array: Array, shape: Sequence[int]) -> Array:
    """The array as contiguous little-endian float32, with zeros behind its last axis up to the shape."""
    if array.shape == tuple(shape):
        return np.ascontiguousarray(array, "<f4")
    whole = np.zeros(shape, "<f4")
    whole[..., : array.shape[-1]] = array
    return whole


def _parameter_tensors(model: Model) -> Iterator[Array]:
    """Every parameter in llm.c's order, one layer at a time; matrices turned, the vocabulary padded."""
    weights, c = model.weights, model.config
    yield weights["wte.weight"]
    yield np.zeros((padded_vocabulary(c) - c.vocab_size, c.n_embd), np.float32)
    yield weights["wpe.weight"]
    for name in _BLOCK_TENSORS:
        for layer in range(c.n_layer):
            yield weights[f"h.{layer}.{name}"].T
    yield weights["ln_f.weight"]
    yield weights["ln_f.bias"]


def _write_model(file: IO[bytes], model: Model) -> None:
    c = model.config
    sizes = (c.n_positions, c.vocab_size, c.n_layer, c.n_head, c.n_embd, padded_vocabulary(c))
    file.write(_header(MODEL_MAGIC, MODEL_VERSION, *sizes))
    for tensor in _parameter_tensors(model):
        file.write(np.ascontiguousarray(tensor, "<f4").data)


def _write_tokenizer(file: IO[bytes], tokenizer: Tokenizer, n: int, end: int) -> None:
    """The bytes of each of n ids; those without a token are named, as in `<50300>`."""
    file.write(_header(TOKENIZER_MAGIC, TOKENIZER_VERSION, n, end))
    for id in range(n):
        try:
            raw = tokenizer.token_bytes(id)
        except TokenizerError:
            raw = f"<{id}>".encode()
        if not 1 <= len(raw) <= 255:
            raise InputError(f"llm.c cannot express token {id}: it has {len(raw)} bytes, expected 1 to 255")
        file.write(bytes([len(raw)]) + raw)


def _write_state(
    file: IO[bytes],
    config: Config,
    inputs: Sequence[int],
    targets: Sequence[int],
    logits: Array,
    losses: Array,
) -> None:
    """Inputs, targets, logits [1, pos, vocab], loss, and gradients that are zero."""
    file.write(_header(STATE_MAGIC, STATE_VERSION, 1, len(inputs)))
    file.write(np.array([inputs, targets], "<i4").tobytes())
    file.write(np.ascontiguousarray(logits, "<f4").data)
    file.write(np.array([losses.mean()], "<f4").tobytes())
    n_padding = (padded_vocabulary(config) - config.vocab_size) * config.n_embd
    file.truncate(file.tell() + 4 * (config.n_parameters + n_padding))
