"""What an analysis is told, which token and which position, and how it reads a trace there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2np.analysis.named_array import POSITIONS, NamedArray
from gpt2np.characters import readable
from gpt2np.errors import InputError, TraceError, short
from gpt2np.ops import Array
from gpt2np.tables import quoted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.model import Model


def token_id(model: "Model", token: str | int) -> int:
    """Return the id of a token given as its whole text (mind the space in " France") or as the id itself.

    Raises:
        InputError: the text is not one token of the vocabulary, or the id is outside it.
    """
    return model.find_id(token) if isinstance(token, str) else int(model.token_ids([token])[0])


def row_of(trace: Trace, pos: int) -> int:
    """Return the row of a position in the arrays of a trace; a negative one counts from the end of the text.

    Raises:
        InputError: the text has no such position.
        TraceError: the trace kept only other positions.
    """
    n = len(trace.token_ids)
    if isinstance(pos, bool) or not isinstance(pos, int | np.integer) or not -n <= pos < n:
        raise InputError(f"position {short(pos)} is not one of the {n} positions of this trace")
    if pos % n not in trace.positions:
        raise TraceError(f"position {pos % n} was not kept (kept are {trace.positions})")
    return int(trace.positions.index(pos % n))


def rows_of(trace: Trace, pos: int | None) -> list[int]:
    """Return the row of one position, or with None all rows; raises as `row_of`."""
    if not trace.positions:
        raise TraceError("this trace kept no position")
    return list(range(len(trace.positions))) if pos is None else [row_of(trace, pos)]


def parameters_of_the_end(trace: Trace, needed_for: str) -> Any:
    """Return the model's parameters, for what applies ln_f and the unembedding to a trace itself.

    Raises:
        TraceError: the run replaced ln_f or the logits, or the trace was opened without its model.
    """
    for site in ("ln_f", "logits"):
        if site in (trace.metadata.get("edits") or ()):
            raise TraceError(f"{site} was edited in this run, which {needed_for} would not know")
    return trace.parameters(needed_for)


def pos_labels(trace: Trace, rows: list[int]) -> list[str]:
    """Position and token of each row: "2 | was|"."""
    tokens = readable(trace.tokens)
    return [f"{trace.positions[row]} {quoted(tokens[trace.positions[row]])}" for row in rows]


def recorded(trace: Trace, name: str, rows: list[int]) -> Array:
    """Return the rows of a recorded array [pos, ...], in float32 where it was stored in float16."""
    array = trace[name][rows]
    return np.asarray(array.astype(np.float32) if array.dtype == np.float16 else array)


class _Given:
    """Arrays that a derived site is computed from, as a trace would have them."""

    def __init__(self, config: ModelConfig, parameters: Any, arrays: Mapping[str, Array]) -> None:
        self.config, self._parameters, self._arrays = config, parameters, arrays
        self.token_ids: list[int] = []
        self.positions = range(len(next(iter(arrays.values()))))

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def parameters(self, needed_for: str = "") -> Any:
        return self._parameters


def heads_of(config: ModelConfig, parameters: Any, layer: int, z: Array) -> Array:
    """Return what each head adds to the stream: [pos, head, d_head] -> [pos, head, n_embd]."""
    given = _Given(config, parameters, {f"h.{layer}.attn.z": z})
    return config.architecture.derived["attn.heads"].compute(given, layer)


def positions_down(named: NamedArray) -> NamedArray:
    """Two axes as they are shown: positions go down the page, where the other axis is none of positions."""
    if named.array.ndim != 2 or named.axes[1] not in POSITIONS or named.axes[0] in POSITIONS:
        return named
    return NamedArray(named.array.T, named.axes[::-1], named.labels, named.title)
