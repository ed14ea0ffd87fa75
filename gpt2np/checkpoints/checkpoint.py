"""A checkpoint as config and arrays: from a folder, from the Hub, or the one that is shipped."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2np.checkpoints.config_file import read_config_file
from gpt2np.checkpoints.weight_files import read_weight_files
from gpt2np.errors import CheckpointError, InputError, printable, short
from gpt2np.ops import Array
from gpt2np.tracing.contract import CheckpointNaming, ModelConfig

SHIPPED = "tiny"
DTYPES = ("float32", "float64")

# Tensors of models that compute something else than GPT-2, and what they belong to.
_FOREIGN = {
    "crossattention": "cross attention",
    "ln_cross_attn": "cross attention",
    "lora_": "a LoRA adapter: merge it into the weights first",
    "adapter": "an adapter: merge it into the weights first",
    "qweight": "quantised weights",
    "qzeros": "quantised weights",
    "SCB": "quantised weights",
    "weight_format": "quantised weights",
    "absmax": "quantised weights",
}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds: config, arrays under their names without `transformer.`.

    `fingerprint` tells weight files apart by header, size and time of change; `full_hash()` reads them.
    """

    name: str
    folder: Path
    config: ModelConfig
    weights: dict[str, Array]
    files: tuple[Path, ...]
    fingerprint: str
    commit: str | None
    notes: tuple[str, ...]

    def full_hash(self) -> str:
        """SHA-256 over the whole contents of the weight files."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    digest.update(chunk)
        return digest.hexdigest()

    def source_files(self) -> list[Path]:
        """What a model was read from, weights, config and vocabulary: files that no output may replace."""
        names = {"vocab.json", "merges.txt", *(path.name for path in self.folder.glob("*config.json"))}
        names |= {path.name for path in self.folder.glob("*token*.json")}
        names |= {path.name for path in self.folder.glob("*.index.json")}
        return [*self.files, *(self.folder / name for name in sorted(names))]

    def not_finite(self) -> CheckpointError:
        """What to say of a run whose results are not finite."""
        damaged = [name for name, weight in self.weights.items() if not np.isfinite(weight).all()]
        reason = f"{damaged[0]} holds values that are not" if damaged else "the weights are too large"
        return CheckpointError(f"{self.folder}: the run is not finite: {reason}")


def default_name() -> str:
    """The model that runs when none is named: `$GPT2NP_MODEL`, else the shipped one."""
    return os.environ.get("GPT2NP_MODEL") or SHIPPED


def shipped_folder() -> Path:
    """Where `tiny` lies: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_weights" / SHIPPED
    return installed if installed.is_dir() else package.parent / "weights" / SHIPPED


def _looks_like_a_path(name: str) -> bool:
    return name[0] in "./~\\" or name[-1] in "/\\" or name.count("/") > 1


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    revision: str | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find a checkpoint and read it: an existing folder, else `tiny`, else a Hub id.

    float32 weights of a `.safetensors` file are views of the file; other types are converted.

    Raises:
        ConfigError, CheckpointError: the folder is not a plain GPT-2, or damaged: file and field are named.
        HubError: the Hub is unreachable or has no such model.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"a model is named by a folder, a Hub id or 'tiny', not {name!r}")
    label = os.fspath(name)
    place = os.path.expanduser(label)  # unlike Path, os.path says no to a name that is empty or too long
    folder, commit, notes = Path(place), None, []
    if label == SHIPPED and not os.path.isfile(os.path.join(place, "config.json")):
        folder = shipped_folder()  # whatever else a folder of this name may be
    elif not os.path.isdir(place):
        if (
            not label
            or label[0] in "./~\\"
            or label[-1] in "/\\"
            or label.count("/") > 1
            or os.path.exists(place)
        ):
            what = "is a file; give its folder" if os.path.exists(place) else "no such folder"
            raise CheckpointError(f"{short(label)}: {what}")
        else:
            from gpt2np.checkpoints import hub

            snapshot = hub.fetch(label, revision, local_files_only=local_files_only)
            folder, commit = snapshot.folder, snapshot.commit
            notes += [snapshot.note] if snapshot.note else []
    if revision is not None and commit is None:
        raise InputError(f"revision={revision!r} goes with a Hub id; {short(label)} is a folder")
    config, config_notes = read_config_file(folder / "config.json")
    files, tensors = read_weight_files(folder)
    weights, weight_notes = _parameters_of(tensors, config, files[0], np.dtype(dtype))
    notes += config_notes + weight_notes
    return Checkpoint(
        printable(label), folder, config, weights, files, _fingerprint(files), commit, tuple(notes)
    )


def _parameters_of(
    tensors: Mapping[str, Array], config: ModelConfig, path: Path, dtype: np.dtype[np.floating]
) -> tuple[dict[str, Array], list[str]]:
    """The parameters that the config asks for, checked and in the precision of the run; notes on the rest."""
    naming = config.architecture.naming
    found = _named(tensors, naming, path)
    shapes = config.architecture.shapes(config)
    weights = {}
    for name, shape in shapes.items():
        if name not in found:
            raise CheckpointError(f"{path}: tensor {name!r} is missing, expected shape {list(shape)}")
        weights[name] = _converted(found.pop(name), name, shape, path, dtype, naming)
    unembedding, table = naming.tied
    if unembedding in found:
        own = _converted(found.pop(unembedding), unembedding, shapes[table], path, dtype, naming)
        if not np.array_equal(own, weights[table]):
            weights[unembedding] = own
    elif not config.tie_word_embeddings:
        what = f"{unembedding} is missing, and config.json does not tie it to {table.split('.')[0]}"
        raise CheckpointError(f"{path}: {what}")
    for name in found:
        layer = re.match(rf"{naming.layers}\.0*(\d+)\.", name)
        if layer and int(layer[1][:9]) >= config.n_layer:
            what = f"has {short(name)}, but config.json says n_layer {config.n_layer}"
            raise CheckpointError(f"{path}: {what}")
    return weights, [f"{path}: unknown tensor {short(name)} is ignored" for name in found]


def _named(tensors: Mapping[str, Array], naming: CheckpointNaming, path: Path) -> dict[str, Array]:
    """The tensors under their names without the prefix; buffers are left out, other models' refused."""
    found: dict[str, Array] = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(naming.prefix)
        if re.search(naming.buffers, name):
            continue
        for part, meaning in _FOREIGN.items():
            if part in name:
                what = f"{short(full_name)} belongs to {meaning}"
                raise CheckpointError(f"{path}: {what}, which is not supported")
        if name in found:
            twice = f"{short(name)} is there twice, with and without {naming.prefix!r}"
            raise CheckpointError(f"{path}: {twice}")
        found[name] = tensor
    return found


def _converted(
    tensor: Array,
    name: str,
    shape: tuple[int, ...],
    path: Path,
    dtype: np.dtype[np.floating],
    naming: CheckpointNaming,
) -> Array:
    if tensor.shape != shape:
        transposed = tensor.shape == shape[::-1]
        hint = f"; it looks transposed ({naming.layout})" if transposed else ""
        raise CheckpointError(
            f"{path}: {name} has shape {list(tensor.shape)}, expected {list(shape)} from config.json{hint}"
        )
    if not np.issubdtype(tensor.dtype, np.floating):
        raise CheckpointError(f"{path}: {name} is {tensor.dtype}, expected a float type (quantised weights?)")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows when it runs
        return np.ascontiguousarray(tensor, dtype)  # the array itself where nothing needs to change


def _fingerprint(files: tuple[Path, ...]) -> str:
    """A short hash of each weight file's header (its first 100 kB), size and time of change."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(100_000))
    return digest.hexdigest()[:16]
