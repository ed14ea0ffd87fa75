"""What a capture of many prompts will write and run: its prompts as tokens, its shards, their bytes."""

import functools
import os
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np

from gpt2np.capture.packed_rows import Destinations
from gpt2np.capture.prompt_tokens import PromptTokens, tokens_of, windows_of
from gpt2np.capture.shard_layout import SCHEMA, layout, row_offsets, row_shape
from gpt2np.capture.shard_making import ShardRun, by_prompt
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
from gpt2np.capture.worker_model import LENGTH_OF_FINGERPRINT, fingerprint_of, on_one_thread
from gpt2np.errors import InputError, short, whole_number
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.text.prompts import Prompts, is_mapping
from gpt2np.tracing.keep import Keep, KeepLike

PROBE_SECONDS = 2.0


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
        return self.tokens_run_of(self.shards)

    def tokens_run_of(self, shards: Iterable[Shard]) -> int:
        """Return how many tokens are computed for some of the shards."""
        return sum(self._schedule(shard).tokens_run for shard in shards)

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
        from gpt2np import __version__

        config, checkpoint = self.model.config, self.model.checkpoint
        entries, origin = self.choice.entries(config), checkpoint.origin()
        del origin["model"]
        origin["fingerprint"] = fingerprint_of(checkpoint)
        return {
            "schema": SCHEMA,
            "gpt2np": __version__,
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
            "skipped": [bad.facts() for bad in self.tokens.skipped],
        }


class CaptureOptions(TypedDict, total=False):
    """The keyword arguments of `Model.capture` that say how texts become prompts, and prompts shards."""

    window: int | None
    special: bool
    chat: bool
    skip_bad: bool
    shard_bytes: int | None
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
    chat: bool = False,
    skip_bad: bool = False,
    shard_bytes: int | None = None,
    pack_tokens: int = PACK_TOKENS,
    share: bool = True,
) -> CapturePlan:
    """Return the plan of a capture; the arguments are those of `Model.capture`.

    Raises:
        InputError: as `Model.capture`.
    """
    flags = {"special": special, "chat": chat, "skip_bad": skip_bad, "share": share}
    for name, given in flags.items():
        if not isinstance(given, bool | np.bool_):
            raise InputError(f"{name} must be True or False, not {short(given)}")
    most_bytes = SHARD_BYTES if shard_bytes is None else whole_number("shard_bytes", shard_bytes, 1)
    pack_tokens = whole_number("pack_tokens", pack_tokens, 1)
    choice = choose(model.config, keep, positions, store, model.dtype.name, pack_tokens, share)
    tokens = _tokens(model, texts, window, bool(special), bool(chat), bool(skip_bad))
    shards = cut(tokens, model.config, choice, most_bytes, spread=shard_bytes is None)
    options: dict[str, Any] = {"special": bool(special), "chat": bool(chat)}
    options["shard_bytes"] = None if shard_bytes is None else most_bytes
    plan = CapturePlan(model, tokens, choice, tuple(shards), options)
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
    chat: bool,
    skip_bad: bool,
) -> PromptTokens:
    """The ids of all prompts, however they are given, and where those stand that are skipped."""
    if isinstance(texts, os.PathLike):
        texts = read_texts(os.fspath(texts), window is not None)
    if not isinstance(texts, Texts):
        no_list = isinstance(texts, str | bytes | AbstractSet) or is_mapping(texts)
        if no_list or not isinstance(texts, Iterable):
            raise InputError(
                f"a capture takes a list of texts, or a Path of a file of them: not {short(texts)}"
            )
        if window is None:
            return tokens_of(model, texts, special=special, chat=chat, skip_bad=skip_bad)
        texts = Texts([str(text) for text in texts], "text {}".format, whole=True)
    if not texts.texts:
        raise InputError(f"{texts.source}there is no prompt to capture")
    if not texts.whole:
        found = tokens_of(model, texts.texts, texts.where, special=special, chat=chat, skip_bad=skip_bad)
    elif chat:
        raise InputError("chat: takes whole messages, and these texts are cut into windows")
    else:
        window = model.config.n_positions if window is None else whole_number("window", window, 1)
        found = windows_of(model, texts.texts, texts.where, window, special=special, skip_bad=skip_bad)
    skipped = (bad._replace(place=texts.place(bad.prompt)) for bad in found.skipped)
    return replace(found, skipped=tuple(skipped))
