"""Exercises of lesson 4: logits, the distribution that a token is drawn from, and decoding with a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.generation import filters
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Attempt, Case, Finding, Function, Wrong
from gpt2np.lessons.exercises.distributions import (
    Way,
    filtered_logits,
    from_the_other_end,
    in_order_of_size,
    one_or_two_mistakes,
    removed_as_zero,
    unsorted,
)
from gpt2np.lessons.models import PROMPT, SECOND, run_of
from gpt2np.lessons.same import array_of
from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm, Linear, gelu_tanh, layer_norm
from gpt2np.tracing.lines import unembedding_table

# -- logits -------------------------------------------------------------------------------------------------


def _normed(x: Array, p: LayerNorm) -> Array:
    layer_norm(x, p, out=(out := np.empty_like(x)))
    return out


def _shares(x: Array, ln_f: LayerNorm, wte: Array) -> Array:
    return np.asarray([filters.probabilities(row) for row in _normed(x, ln_f) @ wte.T])


class Logits(AtSite):
    """The last LayerNorm, and a dot product with each token's vector."""

    name = "next_word.logits"
    asks = "How well does each token fit the vector at the end?"
    axes = {"x": "pos n_embd", "wte": "vocab n_embd"}
    site = "logits"
    mistakes = ("missing-ln-f", "layernorm-no-weight", "missing-bias", "layernorm-no-mean", "layernorm-ddof1")
    wrong = (
        Wrong(
            "probabilities-returned",
            _shares,
            (
                "May a logit be below zero?",
                "Have you gone one step further than you were asked to?",
            ),
        ),
        Wrong(
            "log-probabilities-returned",
            lambda x, ln_f, wte: np.log(_shares(x, ln_f, wte)),
            (
                "Must all logits be below zero?",
                "Have you gone one step further than you were asked to?",
            ),
        ),
        Wrong(
            "cosines-returned",
            lambda x, ln_f, wte: _normed(x, ln_f) @ (wte / np.linalg.norm(wte, axis=1, keepdims=True)).T,
            (
                "Does it count here how long a token's vector is?",
                "What have you divided by, and who asked for it?",
            ),
        ),
    )
    look = "Take one position and one token: which 192 products go into their logit?"

    def inputs(self, run: Run) -> dict[str, Any]:
        last = run[f"h.{run.config.n_layer - 1}.resid_post"]
        table = unembedding_table(run.config, run.parameters)  # wte, unless a checkpoint has another one
        return {"x": last, "ln_f": run.parameters.ln_f, "wte": table}


# -- the distribution ---------------------------------------------------------------------------------------


class Filtered(ByOutput):
    """The distribution that the next token is drawn from."""

    name = "next_word.filtered"
    asks = "Which tokens may come next, and how likely is each?"
    axes = {"logits": "vocab"}
    result_axes = ("token",)
    text = "Elizabeth was"
    options = ((0.8, 2048, 1.0), (1.0, 5, 1.0), (1.0, 2048, 0.9), (0.5, 2048, 0.9), (1.2, 40, 0.8))
    abouts = (
        *(f"with temperature {t}, top_k {k}, top_p {p}" for t, k, p in options),
        "with temperature 0.005",
    )
    unusual = len(options)
    wrong = (
        *one_or_two_mistakes(),
        Wrong(
            "order-lost",
            in_order_of_size,
            (
                "Which token does your first number belong to?",
                "You have sorted: who puts everything back in its place?",
            ),
        ),
        Wrong(
            "not-sorted",
            unsorted,
            (
                "In which order do you add up the shares?",
                "Who comes first in your sum: the likeliest token, or the one with the number 0?",
            ),
        ),
        Wrong(
            "removed-logit-zero",
            removed_as_zero,
            (
                "How likely is a token that has been removed?",
                "What does the exponential make of a logit of nothing?",
            ),
        ),
        Wrong(
            "logits-returned",
            filtered_logits,
            (
                "What do your numbers add up to?",
                "Could one draw a token with these numbers as they are?",
            ),
        ),
        Wrong(
            "least-likely-kept",
            from_the_other_end,
            (
                "Which end of your sorted list is which?",
                "Is the likeliest token of all still there?",
            ),
        ),
    )
    hints = {
        "softmax-without-maximum": (
            "What becomes of a large number in an exponential?",
            "If all logits are smaller by the same amount, do the shares change? What would you choose?",
        )
    }
    look = "How many tokens are left over, and is the likeliest one as likely as it should be?"

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        logits = run_of(model, self.text)["logits"][-1]
        options = [*self.options, (0.005, model.config.vocab_size, 1.0)]
        return [
            {"logits": logits, "temperature": t, "top_k": min(k, model.config.vocab_size), "top_p": p}
            for t, k, p in options
        ]

    right = staticmethod(Way())

    def judge(self, attempt: Attempt, attempts: Sequence[Attempt], model: Model) -> Finding:
        """Exponentials that are too large make shares that are no numbers."""
        yours = array_of(attempt.result)
        if attempt.case.unusual and yours is not None and not np.isfinite(yours).all():
            slug = "softmax-without-maximum"
            return Finding(
                "suspicious", "some shares are no numbers (nan)", np.inf, slug, self.hints_of(slug)
            )
        return super().judge(attempt, attempts, model)


# -- decoding with a cache ----------------------------------------------------------------------------------

Rows = list[dict[str, Array]]  # of each layer: "k" and "v", [past, head, d_head]


@dataclass(frozen=True)
class _Step:
    """One token with a cache; the defaults are right."""

    places: str = "position"
    adds: tuple[bool, bool] = (True, True)  # whether attention and the MLP add to the stream
    ln_f: bool = True
    rows: str = "kept"  # what becomes of the token's own keys and values

    def __call__(self, token: int, position: int, cache: Rows, model: Model) -> Array:
        p, places = model.parameters, {"position": position, "0": 0, "later": position + 1}
        places |= {"earlier": position - 1, "none": position}
        if self.places == "new":
            places["new"] = position - int(cache[0].setdefault("first", np.array(position)))
        x = p.wte[token] + p.wpe[places[self.places]] * (self.places != "none")
        for layer, block in enumerate(p.h):
            past = cache[0 if self.rows == "of layer 0" else layer]
            q, k, v = (_normed(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias).reshape(
                3, model.config.n_head, -1
            )
            keys, values = self._with(past, k, v)
            e = np.exp(np.einsum("hd,khd->hk", q, keys) / q.shape[-1] ** 0.5)
            z = np.einsum("hk,khd->hd", e / e.sum(-1, keepdims=True), values).ravel()
            x = x * self.adds[0] + z @ block.attn.c_proj.weight + block.attn.c_proj.bias
            x = x * self.adds[1] + _mlp(_normed(x, block.ln_2), block.mlp.c_fc, block.mlp.c_proj)
        return np.asarray((_normed(x, p.ln_f) if self.ln_f else x) @ p.wte.T)

    def _with(self, past: dict[str, Array], k: Array, v: Array) -> tuple[Array, Array]:
        """The keys and values that a query sees; the cache is left as this way leaves it."""
        old = past["k"], past["v"]
        new = np.concatenate([old[0], k[None]]), np.concatenate([old[1], v[None]])
        if self.rows == "in front":
            new = np.concatenate([k[None], old[0]]), new[1]
        if self.rows == "swapped":
            new = np.concatenate([old[0], v[None]]), np.concatenate([old[1], k[None]])
        if self.rows != "not written":
            past["k"], past["v"] = new
        if self.rows == "not read":
            return k[None], v[None]
        return old if self.rows == "too late" else new


def _mlp(x: Array, c_fc: Linear, c_proj: Linear) -> Array:
    hidden = x @ c_fc.weight + c_fc.bias
    gelu_tanh(hidden.copy(), out=hidden)
    return np.asarray(hidden @ c_proj.weight + c_proj.bias)


_WHERE = (
    "Where does your program believe the newest token to be?",
    "How many tokens stand before the newest one, and which row of the table is its own?",
)


class Step(ByOutput):
    """One token at a time, with the keys and values of the tokens before it."""

    name = "next_word.step"
    asks = "What need not be computed again?"
    result_axes = ("step", "vocab")
    texts = (PROMPT, SECOND)
    starts = (6, 5)  # tokens of each text that are in the cache to begin with
    abouts = tuple(f"for the text {text!r}, after {n} tokens" for text, n in zip(texts, starts, strict=True))
    wrong = (
        Wrong("position-restart", _Step("0"), _WHERE),
        Wrong("position-restart", _Step("new"), _WHERE),
        Wrong("position-off-by-one", _Step("later"), _WHERE),
        Wrong("position-off-by-one", _Step("earlier"), _WHERE),
        Wrong("position-missing", _Step("none")),
        *(
            Wrong("residual-missing", _Step(adds=adds))
            for adds in ((False, True), (True, False), (False, False))
        ),
        Wrong("missing-ln-f", _Step(ln_f=False)),
        Wrong("stale-cache-row", _Step(rows="too late")),
        Wrong(
            "cache-not-written",
            _Step(rows="not written"),
            (
                "Is your first step right, and the second one wrong?",
                "How many rows does the cache have after three steps?",
            ),
        ),
        Wrong(
            "cache-not-read",
            _Step(rows="not read"),
            (
                "Whom does the newest token see?",
                "If the tokens before were others, would your logits change?",
            ),
        ),
        Wrong("cache-of-another-layer", _Step(rows="of layer 0")),
        Wrong("cache-reversed", _Step(rows="in front")),
        Wrong(
            "cache-halves-swapped",
            _Step(rows="swapped"),
            (
                "Two things are remembered of each token: which is which?",
                "Do the newest rows of your two arrays lie in the same arrays as the old ones of their kind?",
            ),
        ),
    )
    look = "Is your very first step right? If so, what is different at the second?"

    def inputs(self, model: Model) -> Sequence[Mapping[str, Any]]:
        made = []
        for text, start in zip(self.texts, self.starts, strict=True):
            run, layers = run_of(model, text), range(model.config.n_layer)
            cache = [{x: run[f"h.{layer}.attn.{x}"][:start].copy() for x in "kv"} for layer in layers]
            made.append(
                {"token": int(run.token_ids[start]), "position": start, "cache": cache, "model": model}
            )
        return made

    def result(self, function: Function, case: Case, model: Model) -> Any:
        """The logits of all steps, one below the other."""
        _, start, cache, _ = case.copies()
        ids = run_of(model, self.texts[self.abouts.index(case.about)]).token_ids
        steps = [function(int(ids[at]), at, cache, model) for at in range(start, len(ids))]
        shapes = [np.shape(logits) for logits in steps]
        return np.array(steps) if len(set(shapes)) == 1 else steps

    right = staticmethod(_Step())
