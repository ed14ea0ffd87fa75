"""One recorded run of packed prompts: where its arrays lie, in memory or in files, and its traces."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from gpt2np import tensorfile
from gpt2np.ops import Array
from gpt2np.tracing.edits import Edits, EditsLike, facts
from gpt2np.tracing.keep import Keep, KeepLike
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.recording import Recording, arena, arenas, with_bases
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_folder import trace_paths
from gpt2np.tracing.trace_metadata import file_metadata, run_metadata

if TYPE_CHECKING:
    from gpt2np.model import Model


class TraceOptions(TypedDict, total=False):
    """The keyword arguments of `Model.trace`."""

    keep: KeepLike | Keep
    out: str | os.PathLike[str] | None
    stop_at_layer: int | None
    timings: bool
    special: bool
    edits: EditsLike | None


class Prompted(NamedTuple):
    """One prompt of a run: its text where it was given as text, its tokens, and what will be kept."""

    text: str | None
    ids: list[int]
    plan: Plan


def traced_run(
    model: "Model",
    prompts: Sequence[Prompted],
    edits: Edits | None,
    timings: dict[str, float] | None,
    out: str | os.PathLike[str] | None,
    several: bool,
) -> list[Trace]:
    """Run the prompts as one pass, and return the trace of each.

    `out` is the file of the trace, or with `several` the folder of their files; None: memory. `timings` is
    filled with the seconds of each step.

    Raises:
        InputError: `out` is a file of the model or of a trace that edits take, or edits are at positions that
            no prompt has.
        TraceError: `out` cannot be written, or is a folder with the traces of another run.
    """
    plans = [prompt.plan for prompt in prompts]
    if edits is not None:
        edits.check_positions(max(plan.length for plan in plans))
    of_all = model.origin() | facts(edits)
    metadata = [
        run_metadata(plan, ids, model.tokens(ids), prompt=text, **of_all) for text, ids, plan in prompts
    ]
    with contextlib.ExitStack() as files:
        together: dict[str, Array] = {}
        if out is None:
            stores, together = arenas(plans)
        else:
            read = model.checkpoint.source_files() + ([] if edits is None else edits.read_files())
            paths = files.enter_context(trace_paths(Path(out), several, plans, metadata, read))
            stores = [
                files.enter_context(
                    tensorfile.create_tensors(
                        path, [(e.name, e.dtype, e.shape) for e in plan.entries], file_metadata(facts)
                    )
                ).arrays
                for path, plan, facts in zip(paths, plans, metadata, strict=True)
            ]
        last = _record(model, prompts, stores, together, timings, edits)
    for store in stores:  # nobody writes to them any more, and a trace need not make views of them
        for array in store.values():
            array.setflags(write=False)
    return [
        Trace(prompt.plan, store, prompt.ids, facts, model, row, timings)
        for prompt, store, facts, row in zip(prompts, stores, metadata, last, strict=True)
    ]


def _record(
    model: "Model",
    prompts: Sequence[Prompted],
    stores: list[dict[str, Array]],
    together: dict[str, Array],
    timings: dict[str, float] | None,
    edits: Edits | None,
) -> list[Array | None]:
    """Run packed prompts into their stores; the logits of each one's last position."""
    recordings = [Recording(prompt.plan, store) for prompt, store in zip(prompts, stores, strict=True)]
    wide = [with_bases(prompt.plan) for prompt in prompts]  # derived sites are stored in a second step
    first = [
        recording if plan is None else Recording(plan, arena(plan))
        for plan, recording in zip(wide, recordings, strict=True)
    ]
    pairs = zip(prompts, first, strict=True)
    sequences = [PackedSequence(np.array(p.ids), recording=r, edits=edits) for p, r in pairs]
    stop = prompts[0].plan.stop_at_layer
    all_logits = any("logits" in recording.arrays for recording in first)
    run = Pass(
        model.config,
        model.dtype,
        sequences,
        last_only=not all_logits,
        stop_at_layer=stop,
        timings=timings,
        together={} if any(wide) else together,
    )
    result = model.run_pass(run)
    for plan, target, source, prompt in zip(wide, recordings, first, prompts, strict=True):
        if plan is not None:
            target.copy(Trace(plan, source.arrays, prompt.ids, {}, model))
    if stop is not None:
        return [None] * len(prompts)
    last = result[[s.rows.stop - 1 for s in sequences]] if all_logits else result.copy()
    return list(last)
