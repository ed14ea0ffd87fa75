"""A capture of many prompts run into a folder of shards, or gone on with."""

import functools
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpt2np import __version__
from gpt2np.capture.capture_folder import CaptureFolder, free_bytes
from gpt2np.capture.capture_plan import CapturePlan
from gpt2np.capture.captured_manifest import MANIFEST
from gpt2np.capture.prompt_tokens import Skipped
from gpt2np.capture.shard_making import MadeShard, ShardSpec, make_shard
from gpt2np.capture.shard_plan import Shard
from gpt2np.capture.shards_of_plan import why_not_of
from gpt2np.capture.worker_model import ModelSource, executor_for, given_to, seconds_a_token
from gpt2np.capture.workers import Submits, results, usable_cores
from gpt2np.errors import InputError, short
from gpt2np.model import Model
from gpt2np.outputs import PathLike
from gpt2np.tracing.plan import human_bytes

_SPARE_BYTES = 1 << 20  # of the disk, for manifest, list and log


@dataclass(frozen=True)
class CaptureDone:
    """What a capture came to: its folder, and how much is in it; `new` counts the shards of this run."""

    folder: Path
    prompts: int
    tokens: int
    rows: int
    bytes: int
    shards: int
    new: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Watch:
    """What is told of a run: each shard with how many are done of all, and notes."""

    shard: Callable[[Shard, MadeShard | None], object] = lambda shard, made: None
    note: Callable[[str], object] = lambda text: None
    start: Callable[[int], object] = lambda tokens: None


def capture_many(
    plan: CapturePlan,
    folder: PathLike,
    *,
    workers: int | None = None,
    executor: Submits | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> CaptureDone:
    """Run a plan into a folder, or what of it is missing there.

    Raises:
        InputError, TraceError: as `Model.capture`.
    """
    watch = watch or Watch()
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"folder={short(folder)}: must be a path")
    if executor is not None and workers is not None:
        raise InputError("give workers or an executor, not both")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise InputError(f"executor={short(executor)}: must have a submit, as those of concurrent.futures")
    with ExitStack() as closing:
        own = None
        if executor is None:
            seconds = plan.tokens_run * seconds_a_token(plan.model)
            executor = own = executor_for(plan.model, workers, len(plan.shards), seconds)
        given = given_to(executor, plan.model)
        if not force:
            check_disk(plan, folder)
        why_not = functools.partial(why_not_of, plan)
        place = closing.enter_context(CaptureFolder(folder, plan.manifest(), why_not))
        if place.anew:
            known = "tokens, positions, sites and weights of the shards are those of this capture"
            tell = "whether the rest is the same, info --verify tells"
            watch.note(f"{place.path / MANIFEST}: was lost, and is written anew: {known}; {tell}")
        if isinstance(given, ModelSource):
            given = replace(given, weights=place.manifest["model"]["fingerprint"])
        if (begun := place.manifest.get("gpt2np")) != __version__:
            by = "an earlier gpt2np" if begun is None else f"gpt2np {short(begun)[1:-1]}"
            what = f"was begun by {by}, and goes on with {__version__}"
            watch.note(f"{place.path}: {what}: rows of the two may differ within noise")
        if own is not None:
            closing.enter_context(own)  # ends before the folder is closed, which removes what is half-done
        good, wrong = place.finished(plan.shards)
        for text in wrong:
            watch.note(text)
        missing = [shard for shard in plan.shards if shard.file not in good]
        watch.start(sum(shard.tokens for shard in missing))
        for shard in plan.shards:
            if shard.file in good:
                watch.shard(shard, None)
        _run(plan, place, given, missing, executor, watch)
        place.complete(plan.shards)
        new = len(missing)
    return CaptureDone(
        Path(folder), len(plan.tokens), len(plan.tokens.ids), plan.n_rows, plan.nbytes, len(plan.shards), new,
        plan.tokens.skipped,
    )  # fmt: skip


def check_disk(plan: CapturePlan, folder: PathLike) -> None:
    """Refuse a capture for which the disk has no room; what is there of it counts as written.

    Raises:
        InputError: says both numbers.
    """
    written = 0
    for shard in plan.shards:
        try:
            written += os.stat(Path(folder) / shard.file).st_size
        except (OSError, ValueError):
            continue
    missing, free = plan.nbytes - written + _SPARE_BYTES, free_bytes(folder)
    if missing > free:
        raise InputError(
            f"{folder}: {human_bytes(missing - _SPARE_BYTES)} are to be written, and the disk has "
            f"{human_bytes(free)} left "
            "(force=True)"
        )


def _run(
    plan: CapturePlan,
    place: CaptureFolder,
    given: Model | ModelSource,
    missing: list[Shard],
    executor: Submits,
    watch: Watch,
) -> None:
    """Make the missing shards, and list each when it is there."""
    by_file = {shard.file: shard for shard in missing}
    who = f"{type(executor).__name__} {getattr(executor, 'n', '')}".rstrip()
    where = f"{platform.node()}, {usable_cores()} cores"
    with_what = f"Python {platform.python_version()}, NumPy {np.__version__}"
    place.log(f"start: {len(missing)} of {len(plan.shards)} shards, {who}, {where}, {with_what}")

    def retried(key: str, error: BaseException) -> None:
        text = str(error).partition("\n")[0] or type(error).__name__
        place.log(f"{key}: {text}; made again")
        watch.note(f"{key}: {text}; it is made again")

    start, tokens = time.monotonic(), 0
    try:
        for _, made in results(executor, make_shard, _tasks(plan, place, given, missing), on_retry=retried):
            place.add(made)
            tokens += made.tokens_run
            rate = tokens / max(1e-9, time.monotonic() - start)
            place.log(f"{made.file}: {made.bytes} bytes, {made.tokens_run} tokens run; {rate:.0f} tokens/s")
            watch.shard(by_file[made.file], made)
    except BaseException as error:
        place.log(f"stopped: {type(error).__name__} {error}")
        raise
    place.log(f"done: {time.monotonic() - start:.1f} s")


def _tasks(
    plan: CapturePlan, place: CaptureFolder, given: Model | ModelSource, missing: list[Shard]
) -> Iterator[tuple[str, tuple[ShardSpec]]]:
    """The shards as tasks, made as they are asked for."""
    folder, fingerprint = os.path.abspath(place.path), place.manifest["model"]["fingerprint"]
    for shard in missing:
        first, last = shard.first_prompt, shard.first_prompt + shard.prompts
        offsets = plan.tokens.offsets[first : last + 1]
        ids = plan.tokens.ids[offsets[0] : offsets[-1]]
        spec = ShardSpec(
            given,
            fingerprint,
            plan.choice,
            folder,
            shard.file,
            shard.number,
            first,
            ids,
            offsets - offsets[0],
        )
        yield os.path.join(folder, shard.file), (spec,)  # a key that no other capture has
