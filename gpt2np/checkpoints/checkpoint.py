"""A checkpoint as config and arrays: from a folder, from the Hub, or the one that is shipped."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.checkpoints.free_memory import free_memory
from gpt2np.checkpoints.generation_file import read_generation_file
from gpt2np.checkpoints.opened_folder import MissingFile, open_folder
from gpt2np.checkpoints.tensor_names import FoundNames, find_names
from gpt2np.checkpoints.training_layouts import as_own_layout, chosen_table
from gpt2np.checkpoints.watched_file import WatchedFile, is_mapped
from gpt2np.checkpoints.weight_files import Shapes, WeightFiles
from gpt2np.checkpoints.weights import Weights
from gpt2np.errors import CheckpointError, HubError, InputError, nearest, printable, short
from gpt2np.ops import Array
from gpt2np.ops.narrow_weights import is_narrow, widened
from gpt2np.tracing.contract import CheckpointNaming, ModelConfig, released_names

SHIPPED = "tiny"
DTYPES = ("float32", "float64")
_ALIASES = dict.fromkeys(("small", "gpt2-small", "gpt2-base", "gtp2", "gpt-2-small"), "gpt2") | {
    size: f"gpt2-{size}" for size in ("medium", "large", "xl")
}
AS_STORED_FROM = 2_000_000_000  # bytes in float32 from which weights of half precision stay as they are
ROOM_FOR_A_RUN = 10  # a run takes up to a tenth of the weights: some hundred tokens, every site of them
_MOST_NOTES = 8  # of tensors that a file has besides; another model's may be thousands

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
    `generation_eos` are the ids by which generation_config.json ends a text, `watched` the files that weights
    are views of, `replaced` the weights that `with_weights` has put into the place of the files' own.
    """

    name: str
    folder: Path
    config: ModelConfig
    weights: Weights
    files: tuple[Path, ...]
    fingerprint: str
    commit: str | None
    notes: tuple[str, ...]
    generation_eos: tuple[int, ...] = ()
    watched: tuple[WatchedFile, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a text, by config.json or generation_config.json."""
        return tuple(dict.fromkeys((*self.config.eos_ids, *self.generation_eos)))

    def origin(self) -> dict[str, Any]:
        """Return where the weights came from, for the metadata of what they compute."""
        replaced = {"replaced_weights": list(self.replaced)} if self.replaced else {}
        return {"model": self.name, "commit": self.commit, "fingerprint": self.fingerprint} | replaced

    def check_unchanged(self) -> None:
        """Refuse to run weights that are views of a file which has been written to since.

        Raises:
            CheckpointError: names the file.
        """
        for file in self.watched:
            file.check()

    def full_hash(self) -> str:
        """SHA-256 over the whole contents of the weight files, and over what has been replaced."""
        digest = hashlib.sha256(self.fingerprint.encode() if self.replaced else b"")
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    digest.update(chunk)
        return digest.hexdigest()

    def source_files(self) -> list[Path]:
        """Return the files of weights, config and vocabulary, which no output may replace."""
        names = {"vocab.json", "merges.txt", *(path.name for path in self.folder.glob("*config.json"))}
        names |= {path.name for path in self.folder.glob("*token*.json")}
        names |= {path.name for path in self.folder.glob("*.index.json")}
        return [*self.files, *(self.folder / name for name in sorted(names))]

    def not_finite(self, where: str = "") -> CheckpointError:
        """Return the error of a run whose results are not finite; `where` names the token."""
        damaged = [name for name, weight in self.weights.items() if not np.isfinite(weight).all()]
        if damaged:
            reason = f"{damaged[0]} holds values that are not"
        elif self.config.norm_epsilon == 0:
            reason = "the norms' epsilon is 0 and they met equal numbers, or the weights are too large"
        else:
            reason = "the weights are too large"
        return CheckpointError(f"{self.folder}: the run is not finite{where}: {reason}")


def default_name() -> str:
    """Return the model that runs when none is named: `$GPT2NP_MODEL`, else the shipped one."""
    return os.environ.get("GPT2NP_MODEL") or SHIPPED


def shipped_folder() -> Path:
    """Return where `tiny` is: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_weights" / SHIPPED
    return installed if installed.is_dir() else package.parent / "weights" / SHIPPED


def _may_be_hub_id(name: str) -> bool:
    return bool(name) and name[0] not in "./~\\" and name[-1] not in "/\\" and name.count("/") <= 1


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    revision: str | None = None,
    local_files_only: bool = False,
    copy: bool = False,
    widen: bool | None = None,
    force: bool = False,
) -> Checkpoint:
    """Find a checkpoint and read it: an existing folder, else `tiny`, else a Hub id.

    float32 weights are views of the file; other types are converted, but for those of half precision: `widen`
    and `force` are what `loading.load` says. With `copy` all are read into memory.

    Raises:
        ConfigError, CheckpointError: the folder holds no model that runs here, or is damaged: file and field.
        HubError: the Hub is unreachable or has no such model.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {short(dtype)}")
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"a model is named by a folder, a Hub id or 'tiny', not {short(name)}")
    folder, commit, notes = _folder_of(os.fspath(name), revision, local_files_only)
    try:
        config, files, shown = open_folder(folder)
    except MissingFile as error:
        hides = isinstance(name, str) and commit is None and _may_be_hub_id(name)
        hint = f"a local folder named {name} comes before the Hub's {name}: rename it, or run elsewhere"
        raise error.error(f"{error} ({hint})" if hides else str(error)) from None
    weights, watched, weight_notes = _parameters_of(files, config, np.dtype(dtype), copy, widen, force)
    generation_eos, generation_notes = read_generation_file(folder)
    notes += shown + weight_notes + generation_notes
    label, fingerprint = printable(os.fspath(name)), _fingerprint(files.paths)
    return Checkpoint(
        label, folder, config, Weights(weights, watched), files.paths, fingerprint, commit, tuple(notes),
        generation_eos, watched,
    )  # fmt: skip


def _folder_of(
    label: str, revision: str | None, local_files_only: bool
) -> tuple[Path, str | None, list[str]]:
    """Where a checkpoint lies, its commit if it is of the Hub, and what the Hub's cache has to say."""
    place = os.path.expanduser(label)  # unlike Path, os.path says no to a name that is empty or too long
    folder, commit = Path(place), None
    notes: list[str] = []
    if label == SHIPPED and not os.path.isfile(os.path.join(place, "config.json")):
        folder = shipped_folder()  # whatever else a folder of this name may be
    elif not os.path.isdir(place):
        if not _may_be_hub_id(label) or os.path.exists(place):
            what = "is a file; give its folder" if os.path.exists(place) else "no such folder"
            raise CheckpointError(f"{short(label)}: {what}")
        if meant := _meant(label):
            elsewhere = "a folder has its path, another model of the Hub its owner: owner/name"
            raise HubError(f"there is no model {short(label)}; did you mean {meant}? ({elsewhere})")
        from gpt2np.checkpoints import hub

        snapshot = hub.fetch(label, revision, local_files_only=local_files_only)
        folder, commit = snapshot.folder, snapshot.commit
        notes += [snapshot.note] if snapshot.note else []
    if revision is not None and commit is None:
        raise InputError(f"revision={short(revision)} goes with a Hub id; {short(label)} is a folder")
    return folder, commit, notes


def _meant(label: str) -> str | None:
    """The model that was probably meant, by a name without an owner: of those, the Hub has no others."""
    known = [SHIPPED, "distilgpt2", *released_names()]
    if "/" in label or label in known:
        return None
    owned = {name.rpartition("/")[2].casefold(): name for name in known}
    return _ALIASES.get(label.casefold()) or owned.get(label.casefold()) or nearest(label, known, cutoff=0.8)


def _parameters_of(
    files: WeightFiles,
    config: ModelConfig,
    dtype: np.dtype[np.floating],
    copy: bool,
    widen: bool | None,
    force: bool,
) -> tuple[dict[str, Array], tuple[WatchedFile, ...], list[str]]:
    """The parameters that the config asks for, checked and in the precision of the run.

    Also the files that some of them are views of, and notes on what else there was.
    """
    naming, path = config.architecture.naming, files.paths[0]
    shapes = config.architecture.shapes(config)
    names, found, notes = _tensors_of(files, naming, shapes, config.tie_word_embeddings)
    widen = _widens(found, shapes, dtype, widen)
    if widen and not force:
        _check_memory(found, shapes, dtype, path.parent)
    weights = {}
    for name, shape in shapes.items():
        if name not in found:
            others = f"; it has {short(names.first)}" if names.first and not names.n_found else ""
            raise CheckpointError(
                f"{path}: tensor {short(name)} is missing, expected shape {list(shape)}{others}"
            )
        weights[name] = _converted(found[name], name, shape, path, dtype, naming, copy, widen)
    unembedding, table = naming.tied
    if unembedding in found:
        own = _converted(found[unembedding], unembedding, shapes[table], path, dtype, naming, copy, widen)
        if not np.array_equal(_bits(own), _bits(weights[table])):
            weights[unembedding] = own
    elif not config.tie_word_embeddings:
        what = f"{unembedding} is missing, and config.json does not tie it to {table.split('.')[0]}"
        raise CheckpointError(f"{path}: {what}")
    unknown = [name for name in found if name not in shapes and name != unembedding]
    for name in unknown:
        layer = re.match(rf"{naming.layers}\.0*(\d+)\.", name)
        if layer and int(layer[1][:9]) >= config.n_layer:
            what = f"has {short(name)}, but config.json says n_layer {config.n_layer}"
            raise CheckpointError(f"{path}: {what}")
    views = {names.full_names.get(name, name) for name, array in weights.items() if is_mapped(array)}
    return weights, files.watched_for(views), notes + _ignored(path, [*unknown, *names.others])


def _tensors_of(
    files: WeightFiles, naming: CheckpointNaming, shapes: Shapes, tied: bool
) -> tuple[FoundNames, dict[str, Array], list[str]]:
    """The tensors under the architecture's names and in its layout, and notes on what was done for it."""
    path = files.paths[0]
    keys, notes = chosen_table(files.tables, naming, shapes, path)
    tensors = files.read(keys)
    older = None if naming.training is None else naming.training.renamed(tensors)
    tensors = tensors if older is None else older
    names = find_names(tensors, naming, shapes, path)
    for name, full_name in names.full_names.items():
        meaning = next((meaning for part, meaning in _FOREIGN.items() if part in name), None)
        if meaning is not None:
            what = f"{short(full_name)} belongs to {meaning}"
            raise CheckpointError(f"{path}: {what}, which is not supported")
    unembedding, table = naming.tied
    if tied and table not in names.full_names and unembedding in names.full_names:
        names.full_names[table] = names.full_names.pop(unembedding)  # of two names for one some keep this
        notes.append(f"{path}: {unembedding} serves as {table}, to which it is tied")
    found = {name: tensors[full] for name, full in names.full_names.items()}
    found, layout_notes = as_own_layout(found, shapes, naming, path)
    taken_off = names.note(naming)
    return names, found, notes + ([f"{path}: {taken_off}"] if taken_off else []) + layout_notes


def _ignored(path: Path, names: list[str]) -> list[str]:
    notes = [f"{path}: unknown tensor {short(name)} is ignored" for name in names[:_MOST_NOTES]]
    more = len(names) - _MOST_NOTES
    return [*notes, f"{path}: {more} more unknown tensors are ignored"] if more > 0 else notes


def _converted(
    tensor: Array,
    name: str,
    shape: tuple[int, ...],
    path: Path,
    dtype: np.dtype[np.floating],
    naming: CheckpointNaming,
    copy: bool,
    widen: bool,
) -> Array:
    if tensor.shape != shape:
        transposed = tensor.shape == shape[::-1]
        hint = f"; it looks transposed ({naming.layout})" if transposed else ""
        raise CheckpointError(
            f"{path}: {name} has shape {list(tensor.shape)}, expected {list(shape)} from config.json{hint}"
        )
    if is_narrow(tensor):
        if not widen and tensor.ndim > 1:
            return np.array(tensor, copy=copy or None)
        tensor = widened(tensor)
    elif not np.issubdtype(tensor.dtype, np.floating):
        raise CheckpointError(f"{path}: {name} is {tensor.dtype}, expected a float type (quantised weights?)")
    with np.errstate(all="ignore"):  # what is not finite shows when it runs
        return np.array(tensor, dtype, copy=copy or None)  # the array itself where nothing needs to change


def _bits(array: Array) -> Array:
    """What can be compared without being widened."""
    return array.view(np.uint16) if is_narrow(array) else array


def _widens(
    found: Mapping[str, Array], shapes: Shapes, dtype: np.dtype[np.floating], asked: bool | None
) -> bool:
    """Whether weights of half precision are widened now."""
    if dtype != np.float32 or not any(is_narrow(array) for array in found.values()):
        return True
    return asked is True or (asked is None and _new_bytes(found, shapes, dtype) <= AS_STORED_FROM)


def _new_bytes(found: Mapping[str, Array], shapes: Shapes, dtype: np.dtype[np.floating]) -> int:
    """Bytes of the weights that are converted, in the precision of the run."""
    return sum(a.size for name, a in found.items() if name in shapes and a.dtype != dtype) * dtype.itemsize


def _check_memory(
    found: Mapping[str, Array], shapes: Shapes, dtype: np.dtype[np.floating], folder: Path
) -> None:
    """Refuse to convert weights for which this machine has no memory left, with room for a run."""
    n_bytes, free = _new_bytes(found, shapes, dtype), free_memory()
    needed = n_bytes + n_bytes // ROOM_FOR_A_RUN
    if free is not None and needed > free:
        sizes = [f"{n / 1e9:.1f} GB" for n in (n_bytes, needed, free)]
        what = f"the weights as {dtype.name} take {sizes[0]} of memory, {sizes[1]} with room for a run"
        narrow = any(is_narrow(array) for array in found.values())
        cure = "run in float32, with the weights as stored (widen=False), or " if narrow else ""
        what += f", and this machine has {sizes[2]} left"
        raise CheckpointError(f"{folder}: {what}: {cure}try all the same (force=True)")


def _fingerprint(files: tuple[Path, ...]) -> str:
    """A short hash of each weight file's header (its first 100 kB), size and time of change."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(100_000))
    return digest.hexdigest()[:16]
