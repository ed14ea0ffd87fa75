"""How well a model predicts a text: the log-probability of every token, loss and perplexity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2np.errors import InputError, whole_number
from gpt2np.html_tables import shaded_text
from gpt2np.tables import counted, number
from gpt2np.text.prompts import window_of
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.edits import Edits
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.scratch import Scratch

if TYPE_CHECKING:
    from gpt2np.model import Model


@dataclass(frozen=True)
class Score:
    """The log-probability of every token of a text, in nats, and what follows from it.

    `log_probabilities[i]` is that of token i given those before it in its window: NaN where nothing is before
    it, which is the first token of the text and, with a stride of the whole window, of every window.
    """

    token_ids: list[int]
    tokens: list[str]
    log_probabilities: NDArray[np.float64]  # [pos]

    @property
    def n_predicted(self) -> int:
        """Number of tokens that were predicted."""
        return int(np.count_nonzero(~np.isnan(self.log_probabilities)))

    @property
    def losses(self) -> NDArray[np.float64]:
        """-log probability of each token: [pos]."""
        return -self.log_probabilities

    @property
    def loss(self) -> float:
        """Mean of the losses, in nats a token."""
        return float(np.nanmean(self.losses))

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return float(np.exp(self.loss))

    def __repr__(self) -> str:
        n = counted(len(self.token_ids), "token")
        return f"<Score of {n}: loss {number(self.loss)}, perplexity {number(self.perplexity)}>"

    def _repr_html_(self) -> str:
        """The text with each token coloured by its loss."""
        title = repr(self).strip("<>")
        return shaded_text(self.tokens, self.losses.tolist(), title, "loss of each token, in nats")


def score(model: "Model", ids: list[int], stride: int | None = None, edits: Edits | None = None) -> Score:
    """Score a text of any length, in windows of `n_positions` that advance by `stride` tokens.

    The windows are those of Hugging Face's guide "Perplexity of fixed-length models": each one predicts the
    tokens that the windows before it have not, with what stands before them in the window as context. The
    loss is the mean over all predicted tokens; the guide's own code weighs each window as if it predicted one
    token less, so its number differs a little unless the stride is the whole window.
    Where every text begins with a token (BOS), each window does, in the place of its first one.
    A smaller stride gives every token more context and costs more passes; the default is half the window.

    Raises:
        InputError: fewer than two tokens, or a stride that is not from 1 to `n_positions`.
    """
    window = model.config.n_positions
    stride = max(1, window // 2) if stride is None else whole_number("stride", stride, 1, window)
    if len(ids) < 2:
        raise InputError("a score needs at least two tokens: the first one has nothing to be predicted from")
    tokenizer = model.usable_tokenizer
    begin = None if tokenizer is None else tokenizer.begin_id
    all_ids, scratch = np.array(ids), Scratch()
    found = np.full(len(ids), np.nan)
    done = 0
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        if end - start > 1:
            sequence = PackedSequence(window_of(all_ids, start, end, begin), edits=edits)
            logits = model.run_pass(Pass(model.config, model.dtype, [sequence], scratch))
            first = max(done, start + 1)
            for target in range(first, end):
                row = log_probabilities(logits[target - start - 1].astype(np.float64))
                found[target] = row[all_ids[target]]
        done = end
        if end == len(ids):
            break
    return Score(ids, model.tokens(ids), found)
