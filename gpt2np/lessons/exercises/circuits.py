"""Exercises of lesson 5: a score for induction, heads taken away, and the two matrices of a head."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.analysis.circuits import head_weights
from gpt2np.analysis.interventions import zero
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Wrong
from gpt2np.lessons.exercises.stripes import MISTAKES, stripe
from gpt2np.lessons.same import kind_of
from gpt2np.model import Model
from gpt2np.ops import Array

Heads = list[tuple[int, int]]


def twice(n: int, seed: int) -> list[int]:
    """As many random tokens, none of them a single character, and the same ones again."""
    rng = np.random.default_rng(seed)
    return 2 * [int(token) for token in rng.choice(np.arange(256, 2047), n, replace=False)]


# -- where a head looks -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _patterns(model: Model, n: int) -> Array:
    return model.trace(twice(n, n), keep="attn.pattern").stack("attn.pattern")


class InductionScore(ByOutput):
    """How much of its attention each head gives to the token behind the twin."""

    name = "circuits.induction_score"
    asks = "Which heads look at what came next, the last time?"
    axes = {"pattern": "layer head query key"}
    result_axes = ("layer", "head")
    abouts = ("", "with another number of tokens")
    look = (
        "Take six tokens said twice: which numbers of the pattern go into your score, and by how many do you "
        "divide?"
    )
    wrong = MISTAKES

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [{"pattern": _patterns(model, n), "n": n} for n in (20, 13)]

    right = staticmethod(stripe(lambda n: n - 1))


# -- heads taken away ---------------------------------------------------------------------------------------


def _by_layer(heads: Heads) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for layer, head in heads:
        found.setdefault(layer, []).append(head)
    return found


def _others(heads: Heads) -> dict[str, Any]:
    return {
        f"h.{layer}.attn.z": zero(heads=[head for head in range(4) if head not in chosen])
        for layer, chosen in _by_layer(heads).items()
    }


OF_EDITS = "What does a dict of edits have as its keys, and what as its values?"


@dataclass(frozen=True)
class NoEdits:
    """What a function returned in the place of a dict."""

    value: Any

    def told(self) -> str:
        if self.value is None:
            return "a dict of edits; yours is None: does the function end in a return?"
        return f"a dict of edits; yours is {kind_of(self.value)}"


class Without(ByOutput):
    """Edits that take heads out of a run; the model's answer is what is judged."""

    name = "circuits.without"
    asks = "What can the model still do without these heads?"
    result_axes = ("vocab",)
    abouts = ("for three heads of a layer", "for head 0.0", "for heads of two layers", "for no heads")
    look = "Run the model with your edits: which sites have other numbers than before, and in which heads?"
    stops = {
        "UnknownSiteError": "Which layer is meant, and which site holds what its heads have gathered?",
        "InputError": OF_EDITS,
    }
    wrong = (
        Wrong(
            "last-head-only",
            lambda heads: {f"h.{layer}.attn.z": zero(heads=head) for layer, head in heads},
            (
                "How many entries has the dict that you return, and how many heads were asked for?",
                "What happens to the first entry of a dict, if a second one has the same name?",
            ),
        ),
        Wrong(
            "first-head-only",
            lambda heads: {f"h.{layer}.attn.z": zero(heads=head) for layer, head in reversed(heads)},
            (
                "How many entries has the dict that you return, and how many heads were asked for?",
                "What happens to the second head of the same layer?",
            ),
        ),
        *(
            Wrong(
                "whole-layer",
                function,
                (
                    "Is anything left of the other heads of this layer?",
                    "Where do you say which of the heads that lie side by side is meant?",
                ),
            )
            for function in (
                lambda heads: {f"h.{layer}.attn.out": zero() for layer, _ in heads},
                lambda heads: {f"h.{layer}.attn.z": zero() for layer, _ in heads},
            )
        ),
        Wrong(
            "heads-of-all-layers",
            lambda heads: {
                f"h.{layer}.attn.z": zero(heads=[head for _, head in heads]) for layer, _ in heads
            },
            (
                "Are two heads asked for in two layers: how many disappear in each of them?",
                "Does your list of heads know which layer each of them belongs to?",
            ),
        ),
        Wrong(
            "looks-everywhere",
            lambda heads: {
                f"h.{layer}.attn.q": zero(heads=chosen) for layer, chosen in _by_layer(heads).items()
            },
            (
                "A head without a question: where does it look, and does it then gather nothing?",
                "What shares does a row give away in which all scores are the same?",
            ),
        ),
        Wrong(
            "every-layer",
            lambda heads: {"h.*.attn.z": zero(heads=[head for _, head in heads])} if heads else {},
            (
                "In how many layers does a head disappear?",
                "Which part of a head's name have you not used?",
            ),
        ),
        Wrong(
            "the-others",
            _others,
            (
                "Which heads are left: those that were asked for, or the others?",
                "What do you set to zero: what is in the list, or what is not?",
            ),
        ),
        Wrong(
            "position-instead-of-head",
            lambda heads: {
                f"h.{layer}.attn.z": zero(positions=chosen) for layer, chosen in _by_layer(heads).items()
            },
            (
                "Which of the three axes do you set to zero: who writes, or where it is written?",
                "In which order are position, head and the head's numbers, at this site?",
            ),
        ),
        Wrong(
            "layer-and-head-swapped",
            lambda heads: {f"h.{head}.attn.z": zero(heads=[layer]) for layer, head in heads},
            (
                "In which layer is the head that disappears?",
                "In 1.3, which of the two numbers is the layer's?",
            ),
        ),
        Wrong(
            "nothing-removed",
            lambda heads: {},
            (
                "Does the model answer anything else than before, with your edits?",
                "How many entries has the dict that you return?",
            ),
        ),
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [{"heads": heads} for heads in ([(1, 0), (1, 1), (1, 3)], [(0, 0)], [(2, 2), (1, 0)], [])]

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The logits of the last position, of a text said twice."""
        edits = function(*case.copies())
        if not isinstance(edits, Mapping):
            return NoEdits(edits)
        return model.trace(twice(16, 0), keep="logits", edits=edits)["logits"][-1]

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """What is no dict at all is told as such, and not by the model's answer."""
        if isinstance(attempt.result, NoEdits):
            return Finding("shape", attempt.result.told(), hints=(OF_EDITS,))
        return super().judge(attempt, attempts, model)

    def right(self, heads: Heads) -> Any:
        return {f"h.{layer}.attn.z": zero(heads=chosen) for layer, chosen in _by_layer(heads).items()}


# -- two matrices -------------------------------------------------------------------------------------------

_NOT_FOLDED = (
    "What happens to a vector of the stream before a head reads it?",
    "Which of the inputs have you not used?",
)
_ROWS_COLUMNS = (
    "Whose numbers are the rows of your matrix, and whose are the columns?",
    "On which side of your matrix does the one that reads stand?",
)


class Qk(ByOutput):
    """Where a head looks: one matrix for two vectors of the stream."""

    name = "circuits.qk"
    asks = "Whom does this head look for?"
    axes = {"W_Q": "n_embd d_head", "W_K": "n_embd d_head", "scale": "n_embd"}
    result_axes = ("n_embd of the query", "n_embd of the key")
    abouts = ("", "for another head")
    look = "Take two vectors, one that asks and one that is asked: what happens to each until they meet?"
    wrong = (
        Wrong(
            "transposed",
            lambda W_Q, W_K, scale: (scale[:, None] * W_K) @ (scale[:, None] * W_Q).T,
            _ROWS_COLUMNS,
        ),
        Wrong("not-folded", lambda W_Q, W_K, scale: W_Q @ W_K.T, _NOT_FOLDED),
        Wrong("transposed", lambda W_Q, W_K, scale: W_K @ W_Q.T, _ROWS_COLUMNS),
        *(
            Wrong(
                "folded-on-one-side",
                function,
                (
                    "Two vectors meet here. Does only one of them pass through LayerNorm?",
                    "How often must the scale come in, and on which sides?",
                ),
            )
            for function in (
                lambda W_Q, W_K, scale: scale[:, None] * W_Q @ W_K.T,
                lambda W_Q, W_K, scale: W_Q @ W_K.T * scale,
                lambda W_Q, W_K, scale: scale[:, None] ** 2 * W_Q @ W_K.T,
                lambda W_Q, W_K, scale: W_Q @ W_K.T * scale**2,
            )
        ),
        Wrong(
            "divided-by-the-root",
            lambda W_Q, W_K, scale: scale[:, None] * W_Q @ W_K.T * scale / W_Q.shape[1] ** 0.5,
            (
                "All of your numbers are too small by one factor. Which?",
                "Was dividing asked for? When does attention do that?",
            ),
        ),
        Wrong(
            "in-the-head",
            lambda W_Q, W_K, scale: (scale[:, None] * W_Q).T @ (scale[:, None] * W_K),
            (
                "How large is your matrix? Does a vector of the stream fit onto its side?",
                "Which axis do the two matrices share: that of the stream, or that of the head?",
            ),
        ),
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [_matrices(model, layer, head, ("W_Q", "W_K")) for layer, head in ((0, 0), (1, 3))]

    def right(self, W_Q: Array, W_K: Array, scale: Array) -> Array:
        return np.asarray(scale[:, None] * W_Q @ W_K.T * scale)


class Ov(ByOutput):
    """What a head hands over: one matrix from a vector of the stream to what is added to it."""

    name = "circuits.ov"
    asks = "What does this head make of a vector that it looks at?"
    axes = {"W_V": "n_embd d_head", "W_O": "d_head n_embd", "scale": "n_embd"}
    result_axes = ("n_embd that is read", "n_embd that is written")
    abouts = ("", "for another head")
    look = "Take one vector of the stream: what happens to it first, what then, and what last?"
    wrong = (
        Wrong("not-folded", lambda W_V, W_O, scale: W_V @ W_O, _NOT_FOLDED),
        Wrong("transposed", lambda W_V, W_O, scale: (scale[:, None] * W_V @ W_O).T, _ROWS_COLUMNS),
        Wrong("transposed", lambda W_V, W_O, scale: (W_V @ W_O).T, _ROWS_COLUMNS),
        Wrong(
            "folded-on-both-sides",
            lambda W_V, W_O, scale: scale[:, None] * W_V @ W_O * scale,
            (
                "Does what a head writes pass through this LayerNorm?",
                "Where does LayerNorm stand: before reading, after writing, or both?",
            ),
        ),
        Wrong(
            "folded-twice",
            lambda W_V, W_O, scale: scale[:, None] ** 2 * W_V @ W_O,
            (
                "How often does a vector pass through LayerNorm before it is read?",
                "How often does the scale come in, in your matrix?",
            ),
        ),
        Wrong(
            "folded-where-it-writes",
            lambda W_V, W_O, scale: W_V @ W_O * scale,
            (
                "Does LayerNorm belong to what is read, or to what is written?",
                "Are the numbers that you scale those of the rows, or those of the columns?",
            ),
        ),
        Wrong(
            "wrong-order",
            lambda W_V, W_O, scale: W_O @ (scale[:, None] * W_V),
            (
                "How large is your matrix? Does a vector of the stream fit onto its side?",
                "Which comes first: reading a value, or writing it?",
            ),
        ),
        Wrong(
            "wrong-order",
            lambda W_V, W_O, scale: W_O @ W_V,
            (
                "How large is your matrix? Does a vector of the stream fit onto its side?",
                "Which comes first: reading a value, or writing it?",
            ),
        ),
    )

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        return [_matrices(model, layer, head, ("W_V", "W_O")) for layer, head in ((0, 0), (1, 3))]

    def right(self, W_V: Array, W_O: Array, scale: Array) -> Array:
        return np.asarray(scale[:, None] * W_V @ W_O)


def _matrices(model: Model, layer: int, head: int, names: Sequence[str]) -> dict[str, Any]:
    """Two matrices of a head, and the weight of the LayerNorm before them."""
    weights = head_weights(model, layer, head)
    scale = model.parameters.h[layer].ln_1.weight
    return {name: getattr(weights, name) for name in names} | {"scale": scale}
