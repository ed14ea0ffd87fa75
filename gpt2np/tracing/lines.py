"""The lines of a forward pass as they stand: which operation each one is, and what it is given.

Analyses ask here for the parameters that an architecture's lines read (`ln_1`'s norm, the unembedding's
table), so that no one has to know under which names the parameters hold them. Nothing is computed.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from gpt2np.errors import InputError
from gpt2np.ops import (
    Array,
    LayerNorm,
    Linear,
    Norm,
    RMSNorm,
    add,
    capped_unembedding,
    layer_norm,
    linear,
    lookup,
    product,
    unembedding,
)
from gpt2np.ops.narrow_weights import widened
from gpt2np.ops.readable_parameters import as_held, readable
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.replay import MISSING, ReplayStep


class Line(NamedTuple):
    """One line: `x = step("name", op, *inputs)`.

    `reads` has for each input the full name of the line that computed it (`token_ids` and `positions` for
    those of the run), or None. `code` is where it stands: module, function and line number.
    """

    op: Callable[..., None]
    inputs: tuple[Any, ...]
    reads: tuple[str | None, ...]
    code: tuple[str, str, int]


class _Noting(ReplayStep):
    """A step over one row of zeros that notes its line instead of running it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, np.float32, [0], [0])
        self.lines: dict[str, Line] = {}
        # which line computed an array; `results` and `_kept` keep them all alive
        self._of = {id(self.token_ids): "token_ids", id(self.positions): "positions"}
        self._kept: list[Array] = []

    def __call__(self, name: str, op: Callable[..., None], *inputs: Any) -> Array:
        full_name, kind = self._named(name)
        reads = tuple(self._of.get(id(x)) for x in inputs)
        self.lines[full_name] = Line(op, inputs, reads, _caller())
        result = self.results[full_name] = self._run(kind, _nothing, inputs)
        self._of[id(result)] = full_name
        return result

    def merged(self, name: str) -> Array:
        """A result with its heads side by side, which is still known as that result."""
        result = super().merged(name)
        self._kept.append(result)
        self._of[id(result)] = self._named(name)[0]
        return result

    def own(self, name: str, x: Array) -> Array:
        """All rows and heads, and the line where they are taken."""
        return self.all(name, x)

    def all(self, name: str, x: Array) -> Array:
        """The same."""
        full_name = self._named(name)[0]
        self.lines.setdefault(full_name, Line(part_of, (x,), (self._of.get(id(x)),), _caller()))
        return x


def _nothing(*inputs: Any, out: Array) -> None:
    out[...] = 0


def part_of(x: Array, *, out: Array) -> None:
    """Stands for the operation of a line that only takes a part of what another one computed."""
    np.copyto(out, x)


def _caller() -> tuple[str, str, int]:
    """Where the line is that asked a step: two frames up."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_globals["__name__"], frame.f_code.co_name, frame.f_lineno


def lines(config: ModelConfig, parameters: Any = MISSING) -> dict[str, Line]:
    """The lines of a whole forward pass, by full name, in execution order; with parameters if given."""
    step = _Noting(config)
    config.architecture.forward(as_held(parameters), config, cast(Any, step))
    return step.lines


def last_lines(config: ModelConfig, parameters: Any = MISSING) -> dict[str, Line]:
    """Those behind the last block."""
    step = _Noting(config)
    config.architecture.unembed(np.zeros((1, config.n_embd), np.float32), as_held(parameters), config, step)
    return step.lines


def first_lines(config: ModelConfig, parameters: Any = MISSING) -> dict[str, Line]:
    """Those before the first block."""
    step = _Noting(config)
    config.architecture.embed(as_held(parameters), config, step)
    return step.lines


# -- what analyses ask for ---------------------------------------------------------------------------


def embedding_parts(config: ModelConfig) -> list[str]:
    """The sites that add up to `embed`: those that it is the sum of, or itself."""
    line = first_lines(config)["embed"]
    return [name for name in line.reads if name is not None] if line.op is add else ["embed"]


def ends_with_a_shift(config: ModelConfig) -> bool:
    """Whether the final norm adds something at its end."""
    return last_lines(config)["ln_f"].op is layer_norm


def token_table(config: ModelConfig, parameters: Any, ids: Any = None) -> Array:
    """The embedding of every token, or of those asked for: [vocab, n_embd].

    Raises:
        InputError: the architecture looks tokens up in no table.
    """
    table = held_token_table(config, parameters)
    return widened(table if ids is None else table[ids])


def unembedding_table(config: ModelConfig, parameters: Any, ids: Any = None) -> Array:
    """What the logits, or some tokens', are dot products with, before any cap: [vocab, n_embd].

    Raises:
        InputError: the logits are something else than dot products.
    """
    table = held_unembedding_table(config, parameters)
    return widened(table if ids is None else table[ids])


def held_token_table(config: ModelConfig, parameters: Any) -> Array:
    """`token_table` as it is held, for who reads it in blocks (`ops.narrow_weights.float_blocks`)."""
    for line in first_lines(config, parameters).values():
        if line.op is lookup and line.reads[0] == "token_ids":
            return cast(Array, line.inputs[1])
    raise InputError(f"{_name(config)} has no table of token embeddings")


def held_unembedding_table(config: ModelConfig, parameters: Any) -> Array:
    """`unembedding_table` as it is held."""
    line = last_lines(config, parameters)["logits"]
    if line.op not in (unembedding, capped_unembedding):
        raise InputError(f"{_name(config)}'s logits are not linear in ln_f: they cannot be taken apart")
    return cast(Array, line.inputs[1])


def final_norm(config: ModelConfig, parameters: Any) -> Norm:
    """The parameters of `ln_f`."""
    return norm_of(last_lines(config, parameters)["ln_f"])


def norms(config: ModelConfig, parameters: Any) -> dict[str, Norm]:
    """The parameters of every norm, by the full name of its site, in execution order."""
    every = lines(config, parameters).items()
    return {name: norm_of(line) for name, line in every if isinstance(line.inputs[-1], LayerNorm | RMSNorm)}


def norm_of(line: Line) -> Norm:
    """The parameters of a norm's line."""
    return cast(Norm, line.inputs[-1])


def matrix_of(config: ModelConfig, name: str, found: dict[str, Line]) -> Linear:
    """Weight [n_in, n_out] and bias [n_out] (zeros where there is none) of a line that is one product.

    Raises:
        InputError: it is something else.
    """
    line = found[name]
    if line.op is linear:
        return cast(Linear, readable(line.inputs[1]))
    if line.op is product:
        weight = widened(line.inputs[1])
        return Linear(weight, np.zeros(weight.shape[1], weight.dtype))
    raise InputError(f"{_name(config)}'s {name} is not one product with a matrix")


def _name(config: ModelConfig) -> str:
    return config.architecture.model_type
