"""The loss of a text without the order of its tokens, or with the scale of the norms held fixed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt2np.analysis.interventions import zero
from gpt2np.analysis.subjects import of_model
from gpt2np.errors import InputError
from gpt2np.generation.scoring import Score
from gpt2np.ops import Array
from gpt2np.ops.norms import factor, held, shift
from gpt2np.tracing.edits import Where
from gpt2np.tracing.lines import norms

if TYPE_CHECKING:
    from gpt2np.model import Model


@of_model
def loss_without_positions(model: "Model", text: str | Sequence[int], stride: int | None = None) -> Score:
    """Score a text without position embeddings: what knowing the order is worth.

    Attention still sees the past only, from which a model can tell something of the order.

    Raises:
        InputError: the model has no position embedding, or as `Model.score`.
    """
    architecture = model.config.architecture
    if not architecture.positional:
        raise InputError(f"{architecture.model_type} has no position embedding to leave out")
    score: Score = model.score(text, stride=stride, edits=dict.fromkeys(architecture.positional, zero()))
    return score


@of_model
def loss_with_held_norms(model: "Model", text: str | Sequence[int], stride: int | None = None) -> Score:
    """Score a text with every norm multiplying by a constant instead of by 1 / standard deviation.

    That number is the mean of what the norm multiplies by over the positions of the text's first window, so
    that the norm is linear. A loss that hardly rises means that the model hardly needs what is not linear in
    its norms; without fine-tuning it usually rises much, because the first position is far larger than all
    others.

    Raises:
        InputError: as `Model.score`.
    """
    ids = model.token_ids(text, limit=False)
    every = norms(model.config, model.parameters)
    factors: dict[str, Array] = {}

    def note(array: Array, where: Where) -> Array:
        assert where.norm is not None
        factors[where.name] = factor(*where.norm).mean()
        return array

    model(ids[: model.config.n_positions], edits=dict.fromkeys(every, note))

    def hold(array: Array, where: Where) -> Array:
        assert where.norm is not None
        x, p = where.norm
        moved = held(x, p, factors[where.name].astype(x.dtype))
        added = shift(p)
        return np.asarray(moved if added is None else moved + added)

    score: Score = model.score(ids, stride=stride, edits=dict.fromkeys(every, hold))
    return score
