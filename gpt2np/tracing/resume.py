"""A run that starts where another one ended: from keys and values that are known already."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from gpt2np.errors import InputError, UnknownSiteError, short
from gpt2np.ops import Array
from gpt2np.tracing.cache import shapes
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.recording import Recording
from gpt2np.tracing.trace import Trace


class Past(Protocol):
    """Keys and values of earlier tokens: a Trace that kept them, or a KV file (`load_kv`)."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens that were run."""

    def __getitem__(self, name: str, /) -> Array:
        """`h.i.attn.k` or `h.i.attn.v`: [pos, head, d_head]."""


def known_positions(past: Past, ids: Sequence[int]) -> int:
    """How many positions of a text need not be run again; its last token always is, for its logits.

    Raises:
        InputError: the text does not begin with the tokens of `past`.
    """
    if not hasattr(past, "token_ids"):
        raise InputError(
            f"past must be a KV file or a trace that kept what keys and values come from, not {short(past)}"
        )
    n = min(len(past.token_ids), len(ids) - 1)
    for position, (known, given) in enumerate(zip(past.token_ids[:n], ids, strict=False)):
        if known != given:
            raise InputError(f"past: its token {position} is {known}, but the prompt has {given} there")
    return n


def fill(recording: Recording, past: Past, n: int) -> None:
    """Put the keys and values of the first n positions into a recording's cache; what it records there is 0.

    Raises:
        InputError: `past` is of another shape, lacks positions, or was stored in half precision.
    """
    config, cache = recording.plan.config, recording.cache
    assert cache is not None, "only a generation goes on from a past"
    if recording.whole:
        for entry in recording.plan.entries:
            array = recording.arrays[entry.name]
            (array[:, :n] if entry.site.quadratic else array[:n])[...] = 0
    if isinstance(past, Trace) and past.plan.keep.dtype == "float16":
        raise InputError("past: was kept in float16, which does not give the same tokens")
    for name, (_, *row) in shapes(config, n).items():
        try:
            rows = past[name]
        except UnknownSiteError as error:  # of another architecture
            raise InputError(f"past: is of another model: {error}") from None
        shape = (len(past.token_ids), *row)
        if rows.shape != shape:
            raise InputError(f"past: {name} is {list(rows.shape)}, expected {list(shape)}")
        cache.write(name, 0, rows[:n])


def keep_from(keep: Keep, n: int) -> Keep:
    """The same choice of sites, without the first n positions: those are not run."""
    start, step = keep.positions.start or 0, keep.positions.step or 1
    late = max(0, -((start - n) // step))  # steps until n is reached
    return replace(keep, positions=slice(start + late * step, keep.positions.stop, step))
