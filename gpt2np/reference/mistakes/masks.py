"""Mistakes in who sees whom: the causal mask, what it puts where, and how it goes with a cache."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, unseen
from gpt2np.reference.mistakes.base import SCORES, At, Mistake, future, not_seen, scaled_products, softmax
from gpt2np.tracing.contract import ModelConfig

# What softmax makes of a row that is all masked: with -inf, with a large finite number, in a loop over none.
EMPTY_ROWS = ("not a number", "uniform", "zero")
_EMPTY = {
    "not a number": "",
    "uniform": ", and who sees nothing sees all alike",
    "zero": ", and who sees nothing gets 0",
}


class MaskMissing(Mistake):
    """Every position sees every other."""

    slug = "mask-missing"
    explanation = "There is no causal mask: every position sees the whole text."
    cure = "Set scores to -inf where the key comes after the query, before softmax."
    hints = (
        "Whom may a token look at, and whom does it look at in your program?",
        "If you change the last token, what happens to the tokens before it?",
    )
    steps = ("attn.scores",)
    operations = SCORES

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        out[...] = scaled_products(at, q, k)


class Masked(Mistake):
    """Other keys are seen than should be; a query that sees none has a row of its own kind."""

    of_scores = True
    steps = ("attn.scores", "attn.pattern")
    together = True

    def unseen_keys(self, n: int, variant: Any) -> Array:
        """Which keys a query does not see: bool [query, key]."""
        raise NotImplementedError

    def empty(self, variant: Any) -> str:
        """One of EMPTY_ROWS."""
        return "not a number"

    def _hidden(self, at: At, n: int, variant: Any) -> Array:
        """The keys that a query does not see, those too that its layer's window leaves out of the past."""
        outside = not_seen(at, n, n) & ~future(n, n)
        return np.asarray(self.unseen_keys(n, variant) | outside)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "attn.scores":
            q, k, *_ = inputs
            out[...] = scaled_products(at, q, k)
            out[:, self._hidden(at, len(k), variant)] = -np.inf
            return
        out[...] = softmax(inputs[0])
        alone = self._hidden(at, out.shape[2], variant).all(axis=1)
        if self.empty(variant) != "not a number":
            out[:, alone] = 0.0 if self.empty(variant) == "zero" else 1.0 / out.shape[2]


class MaskOffByOne(Masked):
    """The next token is seen, or the token itself is not."""

    slug = "mask-off-by-one"
    explanation = "The causal mask is shifted by one: a position sees the next token, or does not see itself."
    cure = "A query sees the keys up to and including its own position."
    hints = (
        "Which tokens may the third token look at?",
        "Who is the last one that the first token looks at?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield 2, "not a number"
        yield from ((0, empty) for empty in EMPTY_ROWS)

    def unseen_keys(self, n: int, variant: Any) -> Array:
        return future(n, n, variant[0])

    def empty(self, variant: Any) -> str:
        return str(variant[1])

    def detail(self, variant: Any) -> str:
        shift, empty = variant
        return "the next token is seen" if shift == 2 else "the token itself is not seen" + _EMPTY[empty]


class MaskAnticausal(Masked):
    """Keys that come later are seen, the earlier ones are not."""

    slug = "mask-anticausal"
    explanation = "The causal mask is upside down: a position sees what comes after it, not what came before."
    cure = "Mask where the key's index is larger than the query's: np.triu(k=1), rows being queries."
    hints = (
        "In which direction does each token look?",
        "What does your last token know of the first?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield 0, "not a number"
        yield from ((1, empty) for empty in EMPTY_ROWS)

    def unseen_keys(self, n: int, variant: Any) -> Array:
        return ~future(n, n, variant[0])

    def empty(self, variant: Any) -> str:
        return str(variant[1])

    def detail(self, variant: Any) -> str:
        shift, empty = variant
        return "the token itself is seen" if shift == 0 else "the token itself is not seen" + _EMPTY[empty]


class MaskSign(Mistake):
    """A large positive number in the future."""

    slug = "mask-sign"
    explanation = (
        "The mask has the wrong sign: the future gets a large positive score instead of a negative one."
    )
    cure = "Add -1e10, or set to -inf, where the key comes after the query."
    hints = (
        "What do you want the weight of a token to be that has not come yet?",
        "Is what you put there very small, or very large?",
    )
    of_scores = True
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("set", "added")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k = at.earlier("attn.q"), at.earlier("attn.k")
        scores = scaled_products(at, q, k)
        later = not_seen(at, len(q), len(k))
        last: Array = np.asarray(~later.any(axis=1))
        seen = np.where(last[:, None], True, later)
        out[...] = softmax(np.where(seen, scores, -np.inf))
        if variant == "set":
            out[:, ~last] = softmax(np.where(seen, 0.0, -np.inf))[~last]

    def detail(self, variant: Any) -> str:
        return "it is added to the scores" if variant == "added" else "the scores are lost in it"


class MaskAfterSoftmax(Mistake):
    """The future takes its part in softmax, and is set to 0 afterwards."""

    slug = "mask-after-softmax"
    explanation = "The mask is applied after softmax: the rows of the pattern no longer sum to 1."
    cure = "Mask the scores with -inf before softmax."
    hints = (
        "What do the weights of one token add up to?",
        "In which order do the things happen that make weights of numbers?",
    )
    of_scores = True
    steps = ("attn.pattern",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k = at.earlier("attn.q"), at.earlier("attn.k")
        out[...] = softmax(scaled_products(at, q, k))
        out[:, not_seen(at, len(q), len(k))] = 0.0


class MaskValueSmall(Mistake):
    """A finite value in the future that softmax does not take for minus infinity."""

    slug = "mask-value-small"
    explanation = "Future scores get a value that is too small in magnitude: softmax still gives them weight."
    cure = "Use -inf, or at least -1e10."
    hints = (
        "Does a token that has not come yet really count for nothing?",
        "How small is small for an exponential?",
    )
    of_scores = True
    steps = ("attn.pattern",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from (("set", 0.0), ("set", -1.0), ("set", -10.0), ("set", 1e-9), ("set", -100.0))
        yield from (("add", -1.0), ("add", -10.0), ("add", -100.0))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k = at.earlier("attn.q"), at.earlier("attn.k")
        scores = scaled_products(at, q, k)
        how, value = variant
        scores = np.where(not_seen(at, len(q), len(k)), value + (scores if how == "add" else 0.0), scores)
        out[...] = softmax(scores)

    def detail(self, variant: Any) -> str:
        return f"{variant[1]:g} is {'added to' if variant[0] == 'add' else 'put in place of'} them"


class SomeSeen(Mistake):
    """Fewer keys are seen; every query sees at least one. One `of_window` replaces the layer's own window."""

    steps = ("attn.scores",)
    operations = SCORES
    whole = True
    of_window = False

    def unseen_keys(self, query: Array, key: Array, variant: Any) -> Array:
        """Which keys a query does not see beside the later ones: bool [query, key]."""
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        out[...] = scaled_products(at, q, k)
        query, key = np.arange(len(k) - len(q), len(k))[:, None], np.arange(len(k))
        hidden = future(len(q), len(k)) if self.of_window else not_seen(at, len(q), len(k))
        out[:, hidden | self.unseen_keys(query, key, variant)] = -np.inf


class CacheNotUsed(SomeSeen):
    """Queries that run with a cache see nothing of it."""

    slug = "cache-not-used"
    explanation = "The KV cache is not read: a new token attends to itself, or to the new tokens, only."
    cure = "Keys and values are those of the cache, followed by the new ones."
    hints = (
        "Whom does the newest token know?",
        "Does it matter to your program how the text was fed in: at once, or bit by bit?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((start, how) for start in starts for how in ("itself", "the new tokens"))

    def unseen_keys(self, query: Array, key: Array, variant: Any) -> Array:
        start, how = variant
        return np.asarray((query >= start) & (key < (query if how == "itself" else start)))

    def detail(self, variant: Any) -> str:
        return f"from position {variant[0]} on a token sees {variant[1]} only"


class MaskForgetsCache(SomeSeen):
    """The mask's rows are counted from the first new token."""

    slug = "mask-forgets-cache"
    explanation = "With a cache the mask begins at its first row again: new tokens see the oldest keys only."
    cure = (
        "A new token's row of the mask is its position: the number of tokens in the cache, and on from there."
    )
    hints = (
        "Does it matter to your program how the text was fed in: at once, or bit by bit?",
        "Which tokens may the newest one look at, and which does it look at?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((start, how) for start in starts for how in ("one at a time", "at once"))

    def unseen_keys(self, query: Array, key: Array, variant: Any) -> Array:
        start, how = variant
        return np.asarray((query >= start) & (key > (0 if how == "one at a time" else query - start)))

    def detail(self, variant: Any) -> str:
        return f"from position {variant[0]} on, which ran {variant[1]}"


class AttentionWindow(SomeSeen):
    """A window of another length than the layer's, or none."""

    slug = "attention-window"
    explanation = (
        "A query looks back over another number of keys than its layer does: "
        "a window where there is none, or none."
    )
    cure = (
        "GPT-2 sees all keys up to its own; a layer with a window the last so many, its own included: see "
        "config.json."
    )
    of_window = True
    hints = (
        "How far back does a token remember?",
        "Is everything right as long as the text is short?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from starts
        windows = dict.fromkeys(config.window(layer) for layer in range(config.n_layer))
        for window in windows:
            if window is not None:  # of another length, of another kind of layer, or none
                yield from (n for n in (window, window - 1, window + 1) if 0 < n < n_tokens)
                yield None

    def unseen_keys(self, query: Array, key: Array, variant: Any) -> Array:
        return np.asarray(key < 0 if variant is None else key <= query - variant)

    def detail(self, variant: Any) -> str:
        return "all keys, without a window" if variant is None else f"the last {variant}"


class LayerKindsSwapped(SomeSeen):
    """Windows where there are none, and none where there are some."""

    slug = "layer-kinds-swapped"
    explanation = "Layers with a window and those without one are in each other's place."
    cure = "config.json has the order: GPT-Neo begins with a global layer, Gemma-2 with a sliding one."
    hints = (
        "Is it the same everywhere how far back a token looks?",
        "What comes first in your program, and what comes next?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        windows = dict.fromkeys(config.window(layer) for layer in range(config.n_layer))
        yield from (w for w in windows if w is not None and w < n_tokens and None in windows)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        q, k, *_ = inputs
        here = at.config.window(at.layer or 0)
        out[...] = scaled_products(at, q, k)
        rows = range(len(k) - len(q), len(k))
        out[:, unseen(rows, len(k), variant if here is None else None)] = -np.inf
