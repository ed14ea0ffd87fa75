"""Reads the ledger that `gpt2np generate --ledger` wrote: why each token of a generation was chosen."""

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.files import kind_of, read_lines
from gpt2np.generation.generated import Generated
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import LedgerEntry, Removal
from gpt2np.generation.saved_generation import is_whole_generation, saved_generation
from gpt2np.json_fields import (
    TEXT,
    Kind,
    Table,
    check,
    fields_of,
    list_of,
    number,
    optional,
    or_null,
    parse_json,
    row,
    whole,
)
from gpt2np.tracing.trace import Trace

_CHANCE = number(0, 1 + 1e-6)  # sums of rounded ones


def read_ledger(path: str | os.PathLike[str], vocab_size: int, most: int | None = None) -> list[LedgerEntry]:
    """The entries of a ledger, without the logits of every token, which it may hold as well.

    Raises:
        InputError: the file is missing or no ledger, which says line and field and what was expected, or it
            has more than `most` entries.
    """
    table, entries = _table(vocab_size), []
    for step, line in enumerate(_lines(path)):
        if step == 0 and not line.startswith(b"{"):
            kind = kind_of(path) or "something else"
            raise InputError(f"{path}: is not a ledger as `gpt2np generate --ledger` writes it: it is {kind}")
        if step == most:
            raise InputError(f"{path}: is the ledger of another generation: it has more than {most} entries")
        entries.append(_entry(line, step, table, f"{path}: line {step + 1}"))
    if not entries:
        raise InputError(f"{path}: is not a ledger as `gpt2np generate --ledger` writes it: it is empty")
    return entries


def with_ledger(trace: Trace, path: str | os.PathLike[str]) -> Generated:
    """A generation from its saved trace and the ledger beside it.

    Raises:
        InputError: the trace is of no generation, or `read_ledger` refuses the ledger, or it is another's.
    """
    n_prompt = trace.metadata.get("n_prompt")
    if n_prompt is None:
        raise InputError(f"{path}: the trace is not of a generation, so it has no ledger")
    ledger = read_ledger(path, trace.config.vocab_size, len(trace.token_ids) - n_prompt + 1)
    chosen = [entry.token_id for entry in ledger]
    prompts = [entry.prompt_ids for entry in ledger if entry.prompt_ids is not None]
    same = all(list(ids) == trace.token_ids[:n_prompt] for ids in prompts)
    whole = saved_generation(trace) if is_whole_generation(trace) else None
    if whole is not None:
        same = same and whole.token_ids[-1] == chosen[-1]
    if not same or trace.token_ids[n_prompt:] != chosen[:-1]:
        raise InputError(f"{path}: is the ledger of another generation than {short(trace)}")
    if whole is not None:
        return replace(whole, ledger=ledger)
    tokens = [*trace.tokens, trace.token(chosen[-1])]  # of an older version: what the ledger tells
    return Generated(
        token_ids=[*trace.token_ids[:n_prompt], *chosen],
        tokens=tokens,
        text="".join(tokens),
        stopped_by="length",
        trace=trace,
        n_prompt=n_prompt,
        prompt_text=trace.prompt or "",
        probabilities=[entry.probability for entry in ledger],
        ledger=ledger,
        sampling=ledger[0].sampling,
    )


def _lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    return (line for line in read_lines(path) if line)


def _table(vocab_size: int) -> Table:
    """The fields of an entry, in a model with so many tokens."""
    token_id = whole(0, vocab_size - 1)
    removal: Table = {
        "name": TEXT,
        "count": whole(0, vocab_size),
        "mass": _CHANCE,
        "most_likely": list_of(token_id),
    }
    return {
        "step": whole(),
        "token_id": token_id,
        "probability": _CHANCE,
        "raw_logit": or_null(number()),
        "raw_rank": whole(0, vocab_size),
        "removals": list_of(fields_of(removal)),
        "survivors": whole(0, vocab_size),
        "entropy": number(0),
        "top": list_of(row(token_id, _CHANCE)),
        "uniform": or_null(number(0, 1)),
        "interval": or_null(row(_CHANCE, _CHANCE)),
        "sampling": fields_of({field.name: optional(_OPTION) for field in fields(Sampling)}),
        "prompt_ids": or_null(list_of(token_id)),
        "raw_logits": Kind(
            f"{vocab_size} numbers, or null", lambda x: x is None or _are_logits(x, vocab_size)
        ),
    }


_OPTION = Kind("a number", lambda x: x == "never" or type(x) is bool or number().accepts(x))


def _are_logits(given: Any, n: int) -> bool:
    """One number, or null for minus infinity, for each token."""
    return type(given) is list and len(given) == n and set(map(type, given)) <= {int, float, type(None)}


def _entry(line: bytes, step: int, table: Table, where: str) -> LedgerEntry:
    """One line, after a look at every field."""
    found: dict[str, Any] = parse_json(line, where)
    check(found, table, where, InputError, closed=True)
    if found["step"] != step:
        raise InputError(f"{where}: step is {found['step']}, expected {step}")
    try:
        sampling = Sampling(**found["sampling"])
    except InputError as error:
        raise InputError(f"{where}: sampling: {error}") from None
    changed = {
        "removals": tuple(Removal(**r | {"most_likely": tuple(r["most_likely"])}) for r in found["removals"]),
        "sampling": sampling,
        "top": tuple((token_id, chance) for token_id, chance in found["top"]),
        "interval": None if found["interval"] is None else tuple(found["interval"]),
        "prompt_ids": None if found["prompt_ids"] is None else tuple(found["prompt_ids"]),
        "raw_logits": None,
    }
    return LedgerEntry(**found | changed)
