"""`gpt2np.load`: the model of a folder, of a Hub id, or the shipped one."""

import os

import numpy as np

from gpt2np.checkpoints.checkpoint import default_name, load_checkpoint
from gpt2np.generation.hf_arguments import OF_LOADING, answers
from gpt2np.model import Model


@answers(OF_LOADING)
def load(
    name: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    local_files_only: bool = False,
    threads: int | None = None,
    copy: bool = False,
    widen: bool | None = None,
    force: bool = False,
) -> Model:
    """Load a model from a folder or the Hub; without a name `$GPT2NP_MODEL`, else the shipped `tiny`.

    `dtype="float64"` runs the same lines in double precision. `threads` is how many cores a run takes; None
    leaves it to NumPy's BLAS, which takes those that this process may use, or `$OPENBLAS_NUM_THREADS`, as it
    always does where `threadpoolctl` is not installed. float32 weights are views of their file, and a run
    refuses to start once that has been written to; with `copy` they are read into memory instead. bfloat16
    and float16 weights become float32 when they are loaded (`widen=True`), which suits those who generate
    much, or stay as stored and are widened block by block in every pass (`widen=False`), with the same
    results to rounding; None does the latter where the weights would take more than 2 GB as float32. Weights
    to be converted for which this machine has no memory left, with room for a run, are refused without
    `force`.

    Raises:
        InputError: `threads` is no whole number of 1 to 256.
        CheckpointError, ConfigError, TokenizerError: the folder is damaged, or holds no model that runs here,
            or converted weights take more memory than is left.
        HubError: the Hub is unreachable, or has no such model.
    """
    chosen = default_name() if name is None else name
    dtype = np.dtype(dtype).name if dtype in ("float32", "float64", np.float32, np.float64) else dtype
    checkpoint = load_checkpoint(
        chosen,
        dtype=dtype,
        revision=revision,
        local_files_only=local_files_only,
        copy=copy,
        widen=widen,
        force=force,
    )
    return Model(checkpoint, dtype, threads)
