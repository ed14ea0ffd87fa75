"""Whether the shards in a folder that has lost its manifest are those of a plan, by what those say.

A shard has the model's fingerprint, its number, all token ids, the kept positions, the arrays of the sites.
It does not say how prompts were packed, or in which precision they ran, which changes rows within noise.
"""

from pathlib import Path

import numpy as np

from gpt2np.capture.capture_folder import shards_in
from gpt2np.capture.capture_plan import CapturePlan
from gpt2np.capture.captured_manifest import FINISHED, read_finished
from gpt2np.capture.shard_layout import POSITIONS, ROW_OFFSETS, TOKEN_IDS, TOKEN_OFFSETS, layout, row_offsets
from gpt2np.capture.shard_plan import Shard, kept_of_each
from gpt2np.capture.worker_model import fingerprint_of
from gpt2np.errors import TraceError
from gpt2np.tensorfile import open_tensors


def why_not_of(plan: CapturePlan, folder: Path) -> str | None:
    """Return why it is not known that the shards in a folder are of a plan; None: they are.

    Shards whose files are damaged do not count: those are made again.
    """
    planned = {shard.file: shard for shard in plan.shards}
    others = [name for name in shards_in(folder) if name not in planned]
    if others:
        return f"{others[0]} is no shard of this capture"
    listed, wrong = read_finished(folder, {shard.file: shard.bytes for shard in plan.shards})
    if wrong:
        return wrong[0]
    fingerprint, found = fingerprint_of(plan.model.checkpoint), 0
    for shard in plan.shards:
        if shard.file not in listed:
            continue
        try:
            same = _is_of(plan, shard, folder / shard.file, fingerprint)
        except TraceError:
            continue
        if not same:
            return f"{shard.file} is of another capture"
        found += 1
    return None if found else f"{FINISHED} lists no shard that is there"


def _is_of(plan: CapturePlan, shard: Shard, path: Path, fingerprint: str) -> bool:
    """Whether a file is a shard of the plan, but for the values of its rows."""
    file = open_tensors(path, TraceError)
    prompts, choice = plan.prompts_of(shard), plan.choice
    lengths = np.array([len(ids) for ids in prompts])
    kept = kept_of_each(lengths, choice.kept)
    wanted = layout(choice.entries(plan.model.config), lengths, kept, shard.number, fingerprint)
    arrays = [(name, file.numpy_dtype(name), file.shape(name)) for name in file.names]
    if file.metadata != wanted.metadata or sorted(arrays, key=str) != sorted(wanted.arrays, key=str):
        return False
    says = {
        ROW_OFFSETS: row_offsets(kept),
        TOKEN_OFFSETS: np.cumsum([0, *lengths]),
        TOKEN_IDS: np.concatenate(prompts),
        POSITIONS: np.concatenate([np.array(k, np.int32) for k in kept]),
    }
    return all(np.array_equal(file[name], array) for name, array in says.items())
