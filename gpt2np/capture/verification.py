"""Whether a capture is what it was: its shards by their hashes, and a sample of its prompts by running them.

Shards that are run again on the same kind of processor come out as the same bytes. Another kind rounds
otherwise: there the rows must agree within float32 noise, beside the rounding of what was stored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2np.capture.packed_rows import Destinations
from gpt2np.capture.shard_layout import layout, row_offsets
from gpt2np.capture.shard_making import ShardRun, by_prompt
from gpt2np.capture.shard_plan import Choice, Pack, Schedule, kept_of_each, schedule
from gpt2np.capture.shard_reading import Shard, check_size
from gpt2np.capture.worker_model import fingerprint_of, is_same_model
from gpt2np.errors import InputError, TraceError, VerificationError, short, whole_number
from gpt2np.files import sha256_of
from gpt2np.loading import load
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.verify import NOISE

if TYPE_CHECKING:
    from gpt2np.capture.captured import Captured


@dataclass(frozen=True)
class CaptureCheck:
    """What a check of a capture found, when nothing is wrong.

    `shards` have their hashes, and `unfinished` are still to be made. `prompts` are those that ran again;
    `difference` is the largest between their rows and those of the file, relative to the largest magnitude of
    the site (at least 1), without what rounding to the stored precision explains. Where none ran, neither
    that nor whether the bytes are `identical` is known: both are None.
    """

    shards: int
    unfinished: int
    prompts: tuple[int, ...]
    identical: bool | None
    difference: float | None

    def __str__(self) -> str:
        hashed = f"{counted(self.shards, 'shard')}: every hash is right"
        hashed += f"; {self.unfinished} more to be made" if self.unfinished else ""
        if self.difference is None:
            return f"{hashed}; no prompt was run again"
        noise = f"within noise (largest difference {self.difference:.1e})"
        same = "the same bytes" if self.identical else noise
        return f"{hashed}; {counted(len(self.prompts), 'prompt')} run again: {same}"


def verify_capture(
    captured: "Captured",
    model: Model | None = None,
    sample: int = 8,
    advance: Callable[[], object] | None = None,
) -> CaptureCheck:
    """Hold every finished shard against its hash, then run a sample of the prompts again.

    The sample is spread evenly over the prompts that are there; `sample=0` runs none. Without `model`, the
    one that the manifest names is loaded. `advance` is called after each shard and each prompt.

    Raises:
        VerificationError: names the shards that are damaged, or the prompt and site whose rows differ.
        InputError: `model` is another one than the capture is of.
        CheckpointError, HubError: the model that the manifest names cannot be loaded.
    """
    sample = whole_number("sample", sample, 0)
    if model is not None:
        check_model(captured, model)
    check_hashes(captured, advance)
    return run_again(captured, model, sample, advance)


def check_hashes(captured: "Captured", advance: Callable[[], object] | None = None) -> None:
    """Hold every finished shard against its hash.

    Raises:
        VerificationError: names the shards that are damaged.
    """
    damaged = list(_damaged(captured, advance))
    if damaged:
        more = f"; and {counted(len(damaged) - 1, 'more shard')}" if len(damaged) > 1 else ""
        others = ", ".join(name for name, _ in damaged[1:9])
        raise VerificationError(f"{damaged[0][1]}{more}{others and ': ' + others}")


def run_again(
    captured: "Captured", model: Model | None, sample: int, advance: Callable[[], object] | None = None
) -> CaptureCheck:
    """Run a sample of the prompts of a capture whose hashes are right.

    Raises:
        VerificationError, InputError, CheckpointError, HubError: as `verify_capture`.
    """
    there = captured.prompts
    chosen = sorted({there[int(i)] for i in np.linspace(0, len(there) - 1, min(sample, len(there)))})
    if not chosen:
        return CaptureCheck(len(captured.shards), len(captured.unfinished), (), None, None)
    model = _model_of(captured) if model is None else model
    one = Model(model.checkpoint, model.dtype.name, threads=1)  # as shards are made
    packed = captured.options.get("pack_tokens") is not None
    identical, difference = True, 0.0
    for prompt in chosen:
        same, worst = _run_alone(captured, one, prompt)
        identical = identical and (_same_in_its_pack(captured, one, prompt) if packed else same)
        difference = max(difference, worst)
        if advance is not None:
            advance()
    return CaptureCheck(len(captured.shards), len(captured.unfinished), tuple(chosen), identical, difference)


def check_model(captured: "Captured", model: Model) -> None:
    """Refuse a model that cannot have made a capture: of another config, or run in another precision.

    Raises:
        InputError: says which model it was.
    """
    if not isinstance(model, Model):
        raise InputError(f"model={short(model)}: must be a model, as gpt2np.load returns it")
    theirs = captured.model.get("name")
    if model.config.to_dict() != captured.config.to_dict():
        what = f"was captured from {short(theirs)} of another config than {model.name} has"
        raise InputError(f"{captured.folder}: {what}")
    ours = model.checkpoint.origin() | {"fingerprint": fingerprint_of(model.checkpoint)}
    if not is_same_model(captured.model, ours):
        what = f"was captured from {short(theirs)} with other weights than {model.name} has now"
        raise InputError(f"{captured.folder}: {what}")
    dtype = captured.model.get("dtype", "float32")
    if model.dtype.name != dtype:
        raise InputError(
            f"{captured.folder}: was captured in {dtype}; load {model.name} with dtype={dtype!r}"
        )


def _model_of(captured: "Captured") -> Model:
    """The model that the manifest names."""
    facts = captured.model
    if not isinstance(facts.get("name"), str):
        raise InputError(f"{captured.folder}: its manifest does not name the model: give it")
    model = load(facts["name"], dtype=facts.get("dtype", "float32"), revision=facts.get("commit"))
    check_model(captured, model)
    return model


def _damaged(captured: "Captured", advance: Callable[[], object] | None) -> Iterator[tuple[str, str]]:
    """The file of each damaged shard, and what is wrong with it."""
    for facts in captured.shards.there:
        try:
            check_size(captured.manifest, facts)
            if sha256_of(captured.folder / facts.file) != captured.sha256[facts.file]:
                what = "is damaged: its SHA-256 is not that of the capture"
                raise TraceError(
                    f"{captured.folder / facts.file}: {what}; run the capture again, and only it is made anew"
                )
            Shard(captured.manifest, facts)
        except (TraceError, InputError) as error:
            yield facts.file, str(error)
        if advance is not None:
            advance()


def _run_alone(captured: "Captured", model: Model, prompt: int) -> tuple[bool, float]:
    """Whether a prompt that runs alone gives the same bytes, and the largest difference."""
    ids, positions = captured.token_ids(prompt).tolist(), captured.positions(prompt)
    trace = model.trace(ids, keep=Keep((), None, names=frozenset(captured.names)))
    identical, worst = True, 0.0
    for name, stored in captured.rows(prompt).items():
        ragged = captured.manifest.sites[name].ragged
        array = trace[name][:, positions].transpose(1, 0, 2) if ragged else trace[name][positions]
        with np.errstate(over="ignore"):  # as when it was stored
            identical = identical and np.array_equal(stored, array.astype(stored.dtype), equal_nan=True)
        difference = _difference(stored, array)
        if difference > NOISE[model.dtype.name]:
            raise VerificationError(
                f"{captured.shard_of(prompt)[1].path}: {name} of prompt {prompt} is another when it runs "
                f"again: off by {difference:.1e}; noise is up to {NOISE[model.dtype.name]:.0e}"
            )
        worst = max(worst, difference)
    return identical, worst


def _same_in_its_pack(captured: "Captured", model: Model, prompt: int) -> bool:
    """Whether the pass in which a prompt ran gives the same bytes again."""
    options, config = captured.options, model.config
    _, shard = captured.shard_of(prompt)
    first = shard.facts.first_prompt
    number = prompt - first
    choice = Choice(
        tuple(captured.names), options["positions"], options["store"], model.dtype.name,
        options["pack_tokens"], bool(options.get("shared_beginnings")),
    )  # fmt: skip
    prompts = [shard.ids_of(first + i) for i in range(shard.facts.prompts)]
    entries, lengths = choice.entries(config), np.diff(shard.token_offsets)
    kept = kept_of_each(lengths, choice.kept)
    plan = schedule(prompts, kept, choice.pack_tokens, choice.share)
    arrays = {
        name: np.zeros(shape, dtype) for name, dtype, shape in layout(entries, lengths, kept, 0, "").arrays
    }
    flat = {e.name: by_prompt(arrays[e.name], e, lengths, kept) for e in entries if e.site.quadratic}
    to = Destinations(entries, arrays, flat, row_offsets(kept), first)
    run = ShardRun(model, prompts, kept, plan, to)
    for pack in _passes_of(plan, number):
        run.run(pack)
    rows = shard.rows_of(prompt)
    again = {name: flat[name][number] if name in flat else arrays[name][rows] for name in captured.names}
    return all(again[name].tobytes() == stored.tobytes() for name, stored in captured.rows(prompt).items())


def _passes_of(plan: Schedule, number: int) -> list[Pack]:
    """The passes that a prompt of a shard needs: its own, and that of the beginning which it shares."""
    beginnings: list[Pack] = []
    for pack in plan.packs:
        if pack.groups:
            beginnings = [pack]
        if number in pack.prompts:
            shared = any(number in plan.groups[i].prompts for before in beginnings for i in before.groups)
            return [*(beginnings if shared else []), pack]
    return []  # none of its positions was kept


def _difference(stored: Array, again: Array) -> float:
    """The largest difference, relative to the largest magnitude (at least 1), without rounding in the store.

    Whole numbers are the ids of the likeliest tokens, in which near ties swap: they are wrong where most are.
    """
    if stored.dtype.kind in "iu":
        return np.inf if np.sum(stored != again) > stored.size / 2 else 0.0
    wide: type[np.floating[Any]] = (
        np.float64 if stored.dtype.itemsize == 8 or again.dtype.itemsize == 8 else np.float32
    )
    a: Array = stored.astype(wide)
    b: Array = again.astype(wide)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = again.astype(stored.dtype).astype(wide)
        same = (a == rounded) | (np.isnan(a) & np.isnan(b))
        largest = max(1.0, float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0)))
        off = np.abs(a - b)
        if stored.dtype.itemsize < again.dtype.itemsize:
            off = off - np.spacing(np.abs(stored)).astype(wide) / 2
    off = np.where(same, 0, np.where(np.isfinite(off), off, np.inf))
    return max(float(np.max(off, initial=0.0)), 0.0) / largest
