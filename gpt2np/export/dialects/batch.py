"""Traces of equally many tokens as one batch: the arrays of a dialect with the batch in front."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np.errors import InputError
from gpt2np.export.dialects.dialect import Dialect
from gpt2np.tracing.trace import Trace


class Batch(Mapping[str, Any]):
    """Several traces with a batch axis in front, as in `[batch, seq, 12, 64]` for the guide's `Q`.

    `batch["logits"]` and `batch.logits` are the same; tuples stay tuples, over the layers; `tokens` is a list
    of lists. llm.c has its batch behind the layers, and so have its arrays here. Nothing is copied before it
    is looked up.

    Raises:
        InputError: no trace, or traces of different lengths or models, or no such dialect.

    Example:
        >>> Batch(model.trace(["Elizabeth was", "Darcy was not"]), "guide")["Q"][0].shape
        (2, 3, 4, 48)
    """

    def __init__(self, traces: Sequence[Trace], dialect: str = "guide") -> None:
        if not traces:
            raise InputError("a batch needs at least one trace")
        self.traces = list(traces)
        self._rows = [Dialect(trace, dialect) for trace in self.traces]
        for what, values in (
            ("lengths", [len(trace.token_ids) for trace in self.traces]),
            ("kept positions", [trace.positions for trace in self.traces]),
            ("models", [trace.config for trace in self.traces]),
        ):
            if any(value != values[0] for value in values):
                unlike = "" if what == "models" else f": {', '.join(map(str, values[:8]))}"
                raise InputError(f"traces of different {what} are no batch, there is no padding{unlike}")

    def __getitem__(self, key: str) -> Any:
        """An array with the batch in front, a tuple of them, or what is known of the tokens.

        Raises:
            UnknownSiteError: the dialect has no such name.
            TraceError: it was not kept.
        """
        return self._together(key, [row[key] for row in self._rows])

    def __getattr__(self, name: str) -> Any:
        """The same as an attribute.

        Raises:
            AttributeError: the dialect has no such name, or it was not kept.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        return self._together(name, [getattr(row, name) for row in self._rows])

    def __iter__(self) -> Iterator[str]:
        """Names of what every trace has, in the dialect's order."""
        return (name for name in self._rows[0] if all(name in row for row in self._rows))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Batch of {len(self.traces)} traces of {len(self.traces[0].token_ids)} tokens>"

    def _together(self, key: str, values: list[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(self._together(key, list(each)) for each in zip(*values, strict=True))
        if not isinstance(values[0], np.ndarray):
            return values
        at = self._rows[0].batch_axis(key)
        return np.stack(values) if at is None else np.concatenate(values, at)
