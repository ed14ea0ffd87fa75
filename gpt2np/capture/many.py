"""A capture of many prompts, from their tokens to a folder of shards: planned, run, and gone on with."""

import functools
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from gpt2np.capture.capture_folder import CaptureFolder, free_bytes
from gpt2np.capture.packed_rows import Destinations
from gpt2np.capture.prompt_tokens import PromptTokens, tokens_of, windows_of
from gpt2np.capture.shard_layout import SCHEMA, layout, row_offsets, row_shape
from gpt2np.capture.shard_making import (
    MadeShard,
    ShardRun,
    ShardSpec,
    by_prompt,
    make_shard,
)
from gpt2np.capture.shard_plan import (
    PACK_TOKENS,
    SHARD_BYTES,
    Choice,
    Schedule,
    Shard,
    choose,
    cut,
    kept_of_each,
    schedule,
)
from gpt2np.capture.texts import Texts, read_texts
from gpt2np.capture.worker_model import (
    LENGTH_OF_FINGERPRINT,
    ModelSource,
    executor_for,
    fingerprint_of,
    given_to,
    on_one_thread,
    seconds_a_token,
)
from gpt2np.capture.workers import Submits, results, usable_cores
from gpt2np.errors import InputError, short, whole_number
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.outputs import PathLike
from gpt2np.text.prompts import Prompts
from gpt2np.tracing.keep import Keep, KeepLike
from gpt2np.tracing.plan import human_bytes

PROBE_SECONDS = 2.0
_SPARE_BYTES = 1 << 20  # of the disk, for manifest, list and log
_SHARD_WORK = 1e13  # multiplications and additions that a shard takes at most: a minute or two of one core
_LEAST_TOKENS, _MOST_TOKENS = 1_000, 100_000  # of a shard, whatever they take


@dataclass(frozen=True)
class CapturePlan:
    """What a capture will write and run, before it does.

    `shards` with their exact bytes, `choice` of what is kept, `tokens` of the prompts.
    """

    model: Model
    tokens: PromptTokens
    choice: Choice
    shards: tuple[Shard, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def n_rows(self) -> int:
        """Rows of each site."""
        return sum(shard.rows for shard in self.shards)

    @functools.cached_property
    def tokens_run(self) -> int:
        """How many tokens are computed: those of a shared beginning once a shard."""
        return sum(self._schedule(shard).tokens_run for shard in self.shards)

    @functools.cached_property
    def tokens_needed(self) -> int:
        """How many tokens would be computed if no prompt shared its beginning: to the last that is kept."""
        kept = kept_of_each(np.diff(self.tokens.offsets), self.choice.kept)
        return sum(k[-1] + 1 for k in kept if k)

    def prompts_of(self, shard: Shard) -> list[Array]:
        """Return the ids of each prompt of a shard."""
        return [self.tokens[i] for i in range(shard.first_prompt, shard.first_prompt + shard.prompts)]

    def _schedule(self, shard: Shard) -> Schedule:
        prompts = self.prompts_of(shard)
        kept = kept_of_each(np.array([len(ids) for ids in prompts]), self.choice.kept)
        return schedule(prompts, kept, self.choice.pack_tokens, self.choice.share)

    def tokens_a_second(self, seconds: float = PROBE_SECONDS) -> float:
        """Return the rate of one core, from passes of the first shard for about so long."""
        shard = self.shards[0]
        prompts, entries = self.prompts_of(shard), self.choice.entries(self.model.config)
        lengths = np.array([len(ids) for ids in prompts])
        kept = kept_of_each(lengths, self.choice.kept)
        plan = schedule(prompts, kept, self.choice.pack_tokens, self.choice.share)
        laid_out = layout(entries, lengths, kept, 0, "")
        arrays = {name: np.empty(shape, dtype) for name, dtype, shape in laid_out.arrays}  # pages as needed
        flat = {e.name: by_prompt(arrays[e.name], e, lengths, kept) for e in entries if e.site.quadratic}
        to = Destinations(entries, arrays, flat, row_offsets(kept))
        run = ShardRun(on_one_thread(self.model), prompts, kept, plan, to)
        tokens, start = 0, time.perf_counter()
        for number, pack in enumerate(plan.packs):
            tokens += run.run(pack)
            seconds_run = time.perf_counter() - start
            if seconds_run > seconds:
                break
            if number == 0 and len(plan.packs) > 1 and seconds_run < seconds / 4:
                tokens, start = 0, time.perf_counter()  # the first one also makes room
        return tokens / max(time.perf_counter() - start, 1e-9)

    def manifest(self) -> dict[str, Any]:
        """Return what `manifest.json` says."""
        config, checkpoint = self.model.config, self.model.checkpoint
        entries, origin = self.choice.entries(config), checkpoint.origin()
        del origin["model"]
        origin["fingerprint"] = fingerprint_of(checkpoint)
        return {
            "schema": SCHEMA,
            "model": {"name": checkpoint.name, **origin, "dtype": self.choice.dtype},
            "config": config.to_dict(),
            "options": {
                "positions": self.choice.positions,
                "store": self.choice.store,
                **self.options,
                "pack_tokens": self.choice.pack_tokens,
                "shared_beginnings": self.choice.share,
            },
            "texts": {
                "prompts": len(self.tokens),
                "tokens": len(self.tokens.ids),
                "sha256": self.tokens.sha256,
            },
            "sites": {
                e.name: {"axes": e.site.axes, "row": row_shape(e), "dtype": e.dtype.name} for e in entries
            },
            "shards": [
                {
                    "file": shard.file,
                    "first_prompt": shard.first_prompt,
                    "prompts": shard.prompts,
                    "tokens": shard.tokens,
                    "rows": shard.rows,
                    "bytes": shard.bytes,
                }
                for shard in self.shards
            ],
            "skipped": [{"prompt": number, "reason": why} for number, why in self.tokens.skipped],
        }


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
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Watch:
    """What is told of a run: each shard with how many are done of all, and notes."""

    shard: Callable[[Shard, MadeShard | None], object] = lambda shard, made: None
    note: Callable[[str], object] = lambda text: None
    start: Callable[[int], object] = lambda tokens: None


class CaptureOptions(TypedDict, total=False):
    """The keyword arguments of `Model.capture` that say how texts become prompts, and prompts shards."""

    window: int | None
    special: bool
    skip_bad: bool
    shard_bytes: int
    pack_tokens: int
    share: bool


def plan_capture(
    model: Model,
    texts: Prompts | Texts | os.PathLike[str],
    *,
    keep: KeepLike | Keep = "resid_post",
    positions: str | slice = "all",
    store: str = "float16",
    window: int | None = None,
    special: bool = False,
    skip_bad: bool = False,
    shard_bytes: int = SHARD_BYTES,
    pack_tokens: int = PACK_TOKENS,
    share: bool = True,
) -> CapturePlan:
    """Return the plan of a capture; the arguments are those of `Model.capture`.

    Raises:
        InputError: as `Model.capture`.
    """
    for name, given in (("special", special), ("skip_bad", skip_bad), ("share", share)):
        if not isinstance(given, bool | np.bool_):
            raise InputError(f"{name} must be True or False, not {short(given)}")
    shard_bytes = whole_number("shard_bytes", shard_bytes, 1)
    pack_tokens = whole_number("pack_tokens", pack_tokens, 1)
    choice = choose(model.config, keep, positions, store, model.dtype.name, pack_tokens, share)
    tokens = _tokens(model, texts, window, special, skip_bad)
    per_token = 2 * max(1, model.config.n_parameters)
    most_tokens = int(min(_MOST_TOKENS, max(_LEAST_TOKENS, _SHARD_WORK / per_token)))
    shards = cut(tokens, model.config, choice, shard_bytes, most_tokens)
    plan = CapturePlan(
        model, tokens, choice, tuple(shards), {"special": bool(special), "shard_bytes": shard_bytes}
    )
    entries, sized = choice.entries(model.config), []
    for shard in shards:
        lengths = np.array([len(ids) for ids in plan.prompts_of(shard)])
        kept = kept_of_each(lengths, choice.kept)
        laid_out = layout(entries, lengths, kept, shard.number, "0" * LENGTH_OF_FINGERPRINT)
        sized.append(shard.of_bytes(laid_out.nbytes))
    return replace(plan, shards=tuple(sized))


def _tokens(
    model: Model,
    texts: Prompts | Texts | os.PathLike[str],
    window: int | None,
    special: bool,
    skip_bad: bool,
) -> PromptTokens:
    """The ids of all prompts, however they are given."""
    if isinstance(texts, os.PathLike):
        texts = read_texts(os.fspath(texts), window is not None)
    if not isinstance(texts, Texts):
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise InputError(
                f"a capture takes a list of texts, or a Path of a file of them: not {short(texts)}"
            )
        if window is not None:
            texts = Texts([str(text) for text in texts], "text {}".format, whole=True)
        else:
            return tokens_of(model, texts, special=special, skip_bad=skip_bad)
    if not texts.whole:
        return tokens_of(model, texts.texts, texts.where, special=special, skip_bad=skip_bad)
    window = model.config.n_positions if window is None else whole_number("window", window, 1)
    return windows_of(model, texts.texts, texts.where, window, special=special, skip_bad=skip_bad)


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
        place = closing.enter_context(CaptureFolder(folder, plan.manifest()))
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
