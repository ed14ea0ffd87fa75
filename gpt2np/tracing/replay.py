"""Runs lines of a forward pass again: on plain arrays, and with some results given instead of computed."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpt2np.ops import Array, capped_unembedding, unembedding
from gpt2np.ops.readable_parameters import as_held, precision
from gpt2np.tracing.contract import ModelConfig


class Missing:
    """Parameters where there are none: whatever is looked up in them is missing too."""

    def __getattr__(self, name: str) -> "Missing":
        return self

    def __getitem__(self, index: Any) -> "Missing":
        return self


MISSING = Missing()


class ReplayStep:
    """A `Step` of one prompt without past, recording or edits: each line computes into memory of its own.

    `given` are results by full name, which are taken as they are; `results` has all of them in the order in
    which they came. It is its own `SequenceStep`.
    """

    start = None

    def __init__(
        self,
        config: ModelConfig,
        dtype: DTypeLike,
        token_ids: Any = (),
        positions: Any = (),
        given: Mapping[str, Array] | None = None,
        stop_at_layer: int | None = None,
    ) -> None:
        self.config, self.dtype, self.stop_at_layer = config, np.dtype(dtype), stop_at_layer
        self.token_ids, self.positions = np.asarray(token_ids, np.intp), np.asarray(positions, np.intp)
        self.n_key = len(self.positions)
        self.given: Mapping[str, Array] = given or {}
        self.results: dict[str, Array] = {}
        self._layer: int | None = None
        self._prefix = ""

    def __call__(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        """Run `op(*inputs, out=...)`, unless its result is given."""
        full_name, kind = self._named(name)
        result = self.given.get(full_name)
        if result is None:
            result = self._run(kind, op, inputs)
        self.results[full_name] = result
        return result

    def _named(self, name: str) -> tuple[str, str]:
        """Full name of a step here, and the name of its site."""
        kind = self._prefix + name
        return self.config.architecture.sites[kind].full_name(self._layer), kind

    def _run(self, kind: str, op: Callable[..., None], inputs: tuple[Any, ...]) -> Array:
        n = len(self.positions) or next(len(x) for x in inputs if isinstance(x, np.ndarray))
        sizes = self.config.dims | {"pos": n, "query": len(self.positions), "key": self.n_key}
        out = np.empty([sizes[axis] for axis in self.config.architecture.sites[kind].axis_names], self.dtype)
        op(*inputs, out=out)
        return out

    def _inside(self, prefix: str, layer: int | None) -> "ReplayStep":
        inside = object.__new__(type(self))
        inside.__dict__ = self.__dict__ | {"_prefix": prefix, "_layer": layer}
        return inside

    def at(self, part: str) -> "ReplayStep":
        """The steps inside a part of the model."""
        return self._inside(f"{self._prefix}{part}.", self._layer)

    def block(self, layer: int) -> "ReplayStep":
        """The steps inside a block."""
        return self._inside("", layer)

    def each_sequence(self, function: Callable[..., None], *inputs: Any) -> None:
        """Call `function(*inputs, sequence)` for the one prompt."""
        function(*inputs, self)

    @property
    def step(self) -> "ReplayStep":
        """The steps of attention."""
        return self

    def own(self, name: str, x: Array) -> Array:
        """All rows and heads."""
        return x

    def all(self, name: str, x: Array) -> Array:
        """The same: there is no past."""
        return x

    def merged(self, name: str) -> Array:
        """A result with its heads side by side."""
        result = self.results[self._named(name)[0]]
        return result.reshape(len(result), math.prod(result.shape[1:]))

    def predicting(self, x: Array) -> Array:
        """Every row."""
        return x


class _BeforeTheCap(ReplayStep):
    """A step in which logits are not bent."""

    def _run(self, kind: str, op: Callable[..., None], inputs: tuple[Any, ...]) -> Array:
        if op is capped_unembedding:
            op, inputs = unembedding, inputs[:2]
        return super()._run(kind, op, inputs)


def read_out(x: Array, p: Any, config: ModelConfig, capped: bool = True) -> Array:
    """The logits of residual vectors as if they left the last block: [..., n_embd] -> [..., vocab].

    Without `capped` they are those before a soft cap.
    """
    rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    step = (ReplayStep if capped else _BeforeTheCap)(config, x.dtype)
    logits = config.architecture.unembed(rows, as_held(p), config, step)
    return logits.reshape(*x.shape[:-1], config.vocab_size)


def unembedded(x: Array, p: Any, config: ModelConfig) -> Array:
    """The logits of vectors that the final norm has given: [pos, n_embd] -> [pos, vocab]."""
    return config.architecture.unembed(x, as_held(p), config, ReplayStep(config, x.dtype, given={"ln_f": x}))


def embedded(p: Any, config: ModelConfig, token_ids: Any, positions: Any) -> dict[str, Array]:
    """What the steps before the first block compute for tokens at some positions, by name of the step."""
    step = ReplayStep(config, precision(p), token_ids, positions)
    config.architecture.embed(as_held(p), config, step)
    return step.results
