"""From prompts to shards, and within a shard to passes: what runs together, and what it takes on disk."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gpt2np.capture.prompt_tokens import PromptTokens
from gpt2np.capture.shared_prefixes import Group, shared_beginnings
from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import stored_for
from gpt2np.tracing.keep import Keep, KeepLike
from gpt2np.tracing.plan import Entry, Plan

PACK_TOKENS = 512  # of a pass: more takes memory and gains little, fewer leave the products small
SHARD_BYTES = 256_000_000
# What a shard may take to run, in multiplications and additions: a second of one core, and a minute or two.
_LEAST_WORK, _MOST_WORK = 5e10, 1e13
_LEAST_TOKENS, _MOST_TOKENS = 1_000, 100_000  # of a shard, whatever they take
_SHARDS = 64  # into which a capture is cut where they are of a second at least: so many workers have work
_MOST_LOGITS = 1 << 26  # bytes of logits that a pass may compute
_NAMED = {"first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}


class Pack(NamedTuple):
    """One pass: the beginnings of some groups, or some prompts without the beginning of their group."""

    groups: tuple[int, ...]
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What is kept: sites by full name, positions of each prompt as `first`, `last`, `all` or `A:B:C`, dtype.

    `pack_tokens` is how many tokens run together, `share` whether prompts share their beginnings. All of it
    decides the bytes of a shard.
    """

    names: tuple[str, ...]
    positions: str
    store: str
    dtype: str  # of the run
    pack_tokens: int = PACK_TOKENS
    share: bool = True

    @property
    def kept(self) -> slice:
        """The positions as a slice."""
        return parse_positions(self.positions)

    def entries(self, config: ModelConfig) -> tuple[Entry, ...]:
        """Return the kept sites, in the order of execution; the first axis is of one prompt of one token."""
        keep = Keep((), dtype=self.store, names=frozenset(self.names))
        return Plan(config, 1, keep, self.dtype).entries


def choose(
    config: ModelConfig,
    keep: KeepLike | Keep,
    positions: str | slice,
    store: str,
    dtype: str,
    pack_tokens: int = PACK_TOKENS,
    share: bool = True,
) -> Choice:
    """Return what a capture keeps, with full names in the place of patterns.

    Raises:
        InputError: `keep`, `positions` or `store` is malformed, or a site cannot be captured.
        UnknownSiteError: `keep` names no site.
    """
    keep = Keep.parse(keep)
    if keep.positions != slice(None) or keep.dtype is not None:
        raise InputError("keep: give positions and store as arguments of their own")
    if store not in ("float16", "float32", "float64"):
        raise InputError(f"store={short(store)}: must be float16, float32 or float64")
    entries = Plan(config, 1, keep, dtype).entries
    for entry in entries:
        if entry.site.quadratic and entry.site.derived:
            raise UnknownSiteError(f"{entry.name} cannot be captured: keep what it is computed from")
    names = tuple(entry.name for entry in entries)
    bases = {name for entry in entries for name in stored_for(config, entry.site.name, entry.layer)}
    if any(entry.site.name == "loss" for entry in entries):
        share = False  # what follows a shared beginning differs
    if "logits" in bases:
        pack_tokens = max(1, min(pack_tokens, _MOST_LOGITS // (config.vocab_size * np.dtype(dtype).itemsize)))
    return Choice(names, positions_text(positions), store, dtype, pack_tokens, share)


def parse_positions(text: str) -> slice:
    """Return the positions that a text stands for: `first`, `last`, `all`, or `A:B:C` as Python's slices.

    Raises:
        InputError: it is something else, or goes backwards.
    """
    if text in _NAMED:
        return _NAMED[text]
    found = re.fullmatch(r"(-?\d{1,9})?:(-?\d{1,9})?(?::(\d{1,9})?)?", text)
    if found is None or (found[3] and int(found[3]) < 1):
        raise InputError(f"positions={short(text)}: must be first, last, all, or A:B:C with C above 0")
    return slice(*(None if part is None else int(part) for part in found.groups()))


def positions_text(given: str | slice) -> str:
    """Return positions as one text, however they were written.

    Raises:
        InputError: they are malformed.
    """
    if isinstance(given, slice):
        ends = (given.start, given.stop, given.step)
        if not all(end is None or (isinstance(end, int | np.integer)) for end in ends):
            raise InputError(f"positions must be a slice of whole numbers, not {short(given)}")
        given = ":".join("" if end is None else str(int(end)) for end in ends)
    if not isinstance(given, str):
        raise InputError(f"positions must be first, last, all, A:B:C or a slice, not {short(given)}")
    kept = parse_positions(given)
    kept = slice(kept.start or 0, kept.stop, kept.step or 1)
    for name, meant in _NAMED.items():
        if kept == slice(meant.start or 0, meant.stop, 1):
            return name
    text = f"{kept.start}:{'' if kept.stop is None else kept.stop}"
    return text if kept.step == 1 else f"{text}:{kept.step}"


def kept_of_each(lengths: Array, kept: slice) -> list[range]:
    """Return the positions that are kept of prompts of these lengths."""
    of_length = {int(n): range(*kept.indices(int(n))) for n in np.unique(lengths)}
    return [of_length[n] for n in lengths.tolist()]


@dataclass(frozen=True)
class Schedule:
    """The passes of one shard, and what they run."""

    groups: tuple[Group, ...]
    packs: tuple[Pack, ...]
    tokens_run: int


def schedule(prompts: Sequence[Array], kept: Sequence[range], pack_tokens: int, share: bool) -> Schedule:
    """Return the passes of a shard's prompts: a function of these and of nothing else.

    Tokens behind the last that is kept are not run, nor prompts of which none is kept. The keys and values of
    beginnings are used by the packs that follow, until the next pack of beginnings.
    """
    lengths = [positions[-1] + 1 if positions else 0 for positions in kept]
    running = [i for i, n in enumerate(lengths) if n]
    parts = [prompts[i][: lengths[i]] for i in running]
    alone = [Group(0, tuple(range(len(parts))))] if parts else []
    found = shared_beginnings(parts) if share else alone
    groups = [group._replace(prompts=tuple(running[i] for i in group.prompts)) for group in found]
    packs: list[Pack] = []
    shared = [number for number, group in enumerate(groups) if group.length]
    for some in _filled(shared, [group.length for group in groups], pack_tokens):
        packs.append(Pack(tuple(some), ()))
        members = [i for number in some for i in groups[number].prompts]
        rest = {i: lengths[i] - groups[number].length for number in some for i in groups[number].prompts}
        packs += [Pack((), tuple(pack)) for pack in _filled(members, rest, pack_tokens)]
    members = [i for group in groups if not group.length for i in group.prompts]
    packs += [Pack((), tuple(pack)) for pack in _filled(members, lengths, pack_tokens)]
    saved = sum((len(group.prompts) - 1) * group.length for group in groups if group.length)
    return Schedule(tuple(groups), tuple(packs), sum(lengths) - saved)


def _filled(items: list[int], size: "Sequence[float] | dict[int, int]", most: float) -> list[list[int]]:
    """Items in their order, in parts whose sizes add up to at most so much; a larger one is alone."""
    parts: list[list[int]] = []
    total = 0.0
    for item in items:
        if not parts or total + size[item] > most:
            parts.append([])
            total = 0.0
        parts[-1].append(item)
        total += size[item]
    return parts


@dataclass(frozen=True)
class Shard:
    """One shard: its prompts, their tokens, how many rows are kept of them, bytes of its file."""

    number: int
    first_prompt: int
    prompts: int
    tokens: int
    rows: int
    bytes: int = 0

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"shard_{self.number:05}.safetensors"

    def of_bytes(self, n: int) -> "Shard":
        """Return the same with the size of its file."""
        return replace(self, bytes=n)


def cut(
    tokens: PromptTokens, config: ModelConfig, choice: Choice, shard_bytes: int, spread: bool = False
) -> list[Shard]:
    """Return the prompts in shards of at most so many bytes, which run a minute or two, in their order.

    One prompt may be larger. With `spread` they are smaller where the capture is short, so that workers can
    share it.

    Raises:
        InputError: no position of any prompt is kept.
    """
    lengths = np.diff(tokens.offsets)
    kept = kept_of_each(lengths, choice.kept)
    if not any(kept):
        raise InputError(f"positions={choice.positions}: no prompt has any of them")
    of_row, of_key = row_bytes(choice.entries(config))
    sizes = [
        len(k) * (of_row + of_key * n) + 20 + 4 * n + 4 * len(k)
        for k, n in zip(kept, lengths.tolist(), strict=True)
    ]
    shards, first = list[Shard](), 0
    running = [k[-1] + 1 if k else 0 for k in kept]
    most = _most_tokens(tokens, kept, running, config.n_parameters, choice, spread)
    shares = [max(size / shard_bytes, n / most) for size, n in zip(sizes, running, strict=True)]
    for part in _filled(list(range(len(tokens))), shares, 1 + 1e-9):  # sums of shares are not exact
        rows, n = sum(len(kept[i]) for i in part), int(tokens.offsets[part[-1] + 1] - tokens.offsets[first])
        shards.append(Shard(len(shards), first, len(part), n, rows))
        first += len(part)
    return shards


def _most_tokens(
    tokens: PromptTokens,
    kept: list[range],
    running: list[int],
    n_parameters: int,
    choice: Choice,
    spread: bool,
) -> int:
    """How many tokens a shard runs at most: a function of the capture, and not of who makes it."""
    least, most = (
        int(min(_MOST_TOKENS, max(_LEAST_TOKENS, work / (2 * max(1, n_parameters)))))
        for work in (_LEAST_WORK, _MOST_WORK)
    )
    total = sum(running)
    if not spread or total >= _SHARDS * most:
        return most
    if choice.share:  # what is shared runs once in each shard
        prompts = [tokens[i] for i in range(len(tokens))]
        run = schedule(prompts, kept, choice.pack_tokens, share=True).tokens_run
    else:
        run = total
    shards = max(1, min(_SHARDS, run // least))
    return min(most, -(-total // shards) + max(running) - 1)  # the last term: a shard is seldom quite full


def row_bytes(entries: Sequence[Entry]) -> tuple[int, int]:
    """Return the bytes that one kept position takes, and those that it takes for each token of its prompt."""
    rows = sum(math.prod(e.shape[1:]) * e.dtype.itemsize for e in entries if not e.site.quadratic)
    return rows, sum(e.shape[0] * e.dtype.itemsize for e in entries if e.site.quadratic)
