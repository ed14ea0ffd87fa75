"""Finds a model's parameters in a file under whatever a wrapper has put before or into their names.

torch.compile, DistributedDataParallel, FSDP, Opacus, Lightning and whoever holds a model in a module of
theirs save `_orig_mod.transformer.wte.weight` or `model.transformer.wte.weight`. What stands before all names
is taken off, whatever it is, and so are the parts that only wrappers have, wherever they stand.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt2np.errors import CheckpointError, short
from gpt2np.tracing.contract import CheckpointNaming

# Parts of names that wrappers put in: `_orig_mod`, `_fsdp_wrapped_module`, ..., and DDP's `module`.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_[a-z_]*(?:mod|module|model)|module)\.")

_MOST_PREFIXES = 50  # a file that lies would otherwise keep us busy for ever


@dataclass(frozen=True)
class FoundNames:
    """Where the parameters are: `full_names` by their names in a checkpoint, and what is left over.

    `prefix` stood before all of them; `n_found` is how many of the expected ones are there, `first` some name
    of the file.
    """

    full_names: dict[str, str]
    others: list[str]
    prefix: str
    n_found: int
    first: str

    def note(self, naming: CheckpointNaming) -> str:
        """What was taken off, for the user; empty where the names were as they should be."""
        before = {full.removesuffix(name) for name, full in self.full_names.items() if full.endswith(name)}
        before -= {"", naming.prefix}
        if before:
            return f"what stands before the names is taken off: {short(max(before, key=len))}"
        changed = next((full for full in self.full_names.values() if _WRAPPER.search(full)), None)
        return "" if changed is None else f"what wrappers have put into names is taken off: {short(changed)}"


def find_names(
    names: Iterable[str], naming: CheckpointNaming, expected: Iterable[str], where: str | Path
) -> FoundNames:
    """The expected names among those of a file, or as many of them as there are.

    Raises:
        CheckpointError: two prefixes stand before a whole model each, or a parameter is there twice.
    """
    buffers = re.compile(naming.buffers)
    plain = {name: _WRAPPER.sub("", name) for name in names}
    plain = {name: inner for name, inner in plain.items() if not buffers.search(inner)}
    wanted = list(expected)
    there = set(plain.values())
    prefixes = _prefixes(plain, wanted[:2], naming.prefix)
    counts = {prefix: _n_there(prefix, wanted, there, naming.prefix) for prefix in prefixes}
    most = max(counts.values())
    best = [prefix for prefix, n in counts.items() if n == most]
    if len(best) > 1 and "" not in best and most:
        listed = " and ".join(short(prefix) for prefix in best[:2])
        raise CheckpointError(
            f"{where}: both {listed} stand before this model's names: save the one that is meant"
        )
    prefix = "" if "" in best else best[0]
    return _under(prefix, plain, naming, most, where)


def _prefixes(plain: dict[str, str], names: list[str], own: str) -> list[str]:
    """What stands before these names somewhere, nothing first; the naming's own prefix is no part of it."""
    ends = [i.removesuffix(name) for i in plain.values() for name in names if i.endswith(f".{name}")]
    found = [end.removesuffix(own) if f".{end}".endswith(f".{own}") else end for end in ends]
    return list(dict.fromkeys(["", *found]))[:_MOST_PREFIXES]


def _n_there(prefix: str, wanted: list[str], there: set[str], own: str) -> int:
    return sum(prefix + name in there or prefix + own + name in there for name in wanted)


def _under(
    prefix: str, plain: dict[str, str], naming: CheckpointNaming, n_found: int, where: str | Path
) -> FoundNames:
    """The names behind a prefix; an unembedding may stand behind a shorter one, outside the body."""
    found: dict[str, str] = {}
    others = []
    head = naming.tied[0]
    for name, inner in plain.items():
        outer = inner[: -len(head)] if inner.endswith(head) else None
        if inner.startswith(prefix):
            short_name = inner[len(prefix) :].removeprefix(naming.prefix)
        elif outer is not None and prefix.startswith(outer):
            short_name = head
        else:
            others.append(name)
            continue
        if short_name in found:
            twice = f"{short(short_name)} is there twice, as {short(found[short_name])} and {short(name)}"
            raise CheckpointError(f"{where}: {twice}")
        found[short_name] = name
    return FoundNames(found, others, prefix, n_found, min(plain, default=""))
