"""Ways from logits to the distribution that a token is drawn from: the right one, and those of mistakes."""

import itertools
from dataclasses import dataclass

import numpy as np

from gpt2np.generation import filters
from gpt2np.lessons.exercise import Function, Hints, Wrong
from gpt2np.ops import Array


@dataclass(frozen=True)
class Way:
    """A way to come from logits to the distribution; the defaults are right."""

    temperature: str = "divided"
    extra: int = 0  # tokens more than top_k
    border: int = 0  # tokens more than reach top_p
    order: str = "temperature, top_k, top_p"
    shared: bool = True  # whether what is left adds up to 1

    def __call__(self, logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
        x: Array = np.asarray(logits, np.float64)
        for step in self.order.split(", "):
            if step == "temperature":
                x = self._cooled(x, temperature)
            elif step == "top_k":
                x = filters.keep_top_k(x, max(1, min(top_k + self.extra, x.size)))
            elif top_p < 1:
                x = self._reached(x, top_p)
        chances = filters.probabilities(x)
        if not self.shared:
            chances = filters.probabilities(self._cooled(logits, temperature)) * (chances > 0)
        return np.asarray(chances)

    def _cooled(self, x: Array, temperature: float) -> Array:
        if self.temperature == "twice in the softmax":
            return np.where(np.isfinite(x), filters.probabilities(x) / temperature, -np.inf)
        if self.temperature == "multiplied":
            return np.asarray(x * temperature)
        return np.asarray(x if self.temperature == "nowhere" else x / temperature)

    def _reached(self, x: Array, top_p: float) -> Array:
        kept = filters.keep_top_p(x, top_p)
        n = int(np.isfinite(kept).sum()) + self.border
        return kept if not self.border else np.where(x >= np.sort(x)[::-1][max(n, 1) - 1], x, -np.inf)


_OF_WAYS: dict[str, Hints] = {
    "temperature-multiplied": (
        "Does your text get wilder or tamer, if the temperature goes up?",
        "What should become of the distance between two logits at a temperature below one?",
    ),
    "temperature-without-effect": (
        "Do your numbers change at all, if the temperature does?",
        "Is it used? And if all shares are divided by one number, and then add up to one again, what is new?",
    ),
    "temperature-on-probabilities": (
        "On what does the temperature work: on the shares, or on what they are made of?",
        "How often do your numbers go through an exponential?",
    ),
    "top-k-forgotten": (
        "If only five tokens may stay, how many of your numbers are above 0?",
        "Which of the four inputs changes nothing in your result?",
    ),
    "top-p-forgotten": (
        "If tokens with 90 % of the whole are to stay, how many of your numbers are above 0?",
        "Which of the four inputs changes nothing in your result?",
    ),
    "top-k-off-by-one": (
        "How many tokens are left, if only one may stay?",
        "Is the token at your border one of those that stay?",
    ),
    "top-p-one-short": (
        "Do the tokens that you keep reach the share that was asked for?",
        "What becomes of the token with which the sum goes over the border?",
    ),
    "top-p-one-long": (
        "Have the tokens before the last one that you keep already reached the share?",
        "Where exactly do you stop adding up: at the token that gets there, or behind the next one?",
    ),
    "top-p-before-temperature": (
        "In which order do things happen here?",
        "Which shares do you add up: those that the text is drawn from, or older ones?",
    ),
    "top-p-before-top-k": (
        "When shares are added up for top-p, what do all shares together add up to at that moment?",
        "Do the tokens that top-k removes still have a part of the whole then?",
    ),
    "not-shared-out": (
        "What do your numbers add up to?",
        "Some tokens are gone: who gets what they had?",
    ),
}
_ORDERS = {
    "": "temperature, top_k, top_p",
    "top-p-before-temperature": "top_k, top_p, temperature",
    "top-p-before-top-k": "temperature, top_p, top_k",
    "top-k-forgotten": "temperature, top_p",
    "top-p-forgotten": "temperature, top_k",
}


def one_or_two_mistakes() -> tuple[Wrong, ...]:
    """One mistake, or two of them, of which the first in the computation is told."""
    temperatures = {
        "divided": "",
        "multiplied": "temperature-multiplied",
        "nowhere": "temperature-without-effect",
        "twice in the softmax": "temperature-on-probabilities",
    }
    made = []
    for temperature, extra, order, border, shared in itertools.product(
        temperatures, (0, 1, -1), _ORDERS, (0, -1, 1), (True, False)
    ):
        slugs = [
            temperatures[temperature],
            "top-k-off-by-one" if extra else "",
            order,
            {0: "", -1: "top-p-one-short", 1: "top-p-one-long"}[border],
            "" if shared else "not-shared-out",
        ]
        found = [slug for slug in slugs if slug]
        if 1 <= len(found) <= 2:
            way = Way(temperature, extra, border, _ORDERS[order], shared)
            made.append((len(found), Wrong(found[0], way, _OF_WAYS[found[0]])))
    made.append((2, Wrong("top-k-forgotten", Way(order="temperature"), _OF_WAYS["top-k-forgotten"])))
    return tuple(wrong for _, wrong in sorted(made, key=lambda pair: pair[0]))


def in_order_of_size(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """The right shares, but no longer at the tokens' own places."""
    return np.sort(Way()(logits, temperature, top_k, top_p))[::-1]


def unsorted(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """top_p counted in the order of the vocabulary."""
    x = filters.keep_top_k(np.asarray(logits, np.float64) / temperature, min(top_k, len(logits)))
    chances = filters.probabilities(x)
    before = np.cumsum(chances) - chances
    return filters.probabilities(np.where((before < top_p) | (top_p >= 1), x, -np.inf))


def removed_as_zero() -> tuple[Function, ...]:
    """What is removed gets a logit of 0, not a share of 0: by top-k, by top-p, or by both."""

    def removing(by_k: float, by_p: float) -> Function:
        def function(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
            x = np.asarray(logits, np.float64) / temperature
            x = np.where(np.isfinite(filters.keep_top_k(x, min(top_k, x.size))), x, by_k)
            if top_p < 1:
                x = np.where(np.isfinite(filters.keep_top_p(x, top_p)), x, by_p)
            return filters.probabilities(x)

        return function

    def at_the_end(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
        kept = Way()(logits, temperature, top_k, top_p) > 0
        return filters.probabilities(np.where(kept, np.asarray(logits, np.float64) / temperature, 0.0))

    return at_the_end, removing(0.0, 0.0), removing(0.0, -np.inf), removing(-np.inf, 0.0)


def shared_out_before_top_p(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """Shares that add up to 1 behind top-k, and not behind top-p."""
    kept = Way()(logits, temperature, top_k, top_p) > 0
    return np.asarray(Way()(logits, temperature, top_k, 1.0) * kept)


def filtered_logits(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """Logits, of which those that are removed are minus infinity; no shares."""
    kept = Way()(logits, temperature, top_k, top_p) > 0
    return np.where(kept, logits / temperature, -np.inf)


def from_the_other_end() -> tuple[Function, ...]:
    """The least likely tokens: as many as are right, or by top-k, by top-p, or by both."""

    def keeping(k_from_below: bool, p_from_below: bool) -> Function:
        def function(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
            x = np.asarray(logits, np.float64) / temperature
            rising = np.argsort(x, kind="stable")
            kept = rising[:top_k] if k_from_below else rising[-top_k:]
            kept = kept if p_from_below else kept[::-1]
            chances = filters.probabilities(x[kept])
            n = min(int(np.sum(np.cumsum(chances) < top_p)) + 1, kept.size) if top_p < 1 else kept.size
            out = np.zeros_like(x)
            out[kept[:n]] = chances[:n] / chances[:n].sum()
            return out

        return function

    def as_many(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
        chances = filters.probabilities(np.asarray(logits, np.float64) / temperature)
        last = np.argsort(chances, kind="stable")[: int(np.sum(Way()(logits, temperature, top_k, top_p) > 0))]
        out = np.zeros_like(chances)
        out[last] = chances[last] / chances[last].sum()
        return out

    return as_many, keeping(True, True), keeping(True, False), keeping(False, True)
