"""Every kind of exercise fits: by output (lists, numbers, arrays), by site, edits, a loop with a cache."""

import itertools

import numpy as np
import pytest

from gpt2np.analysis import interventions
from gpt2np.lessons import checker, models
from gpt2np.lessons.by_output import ByOutput
from gpt2np.lessons.by_site import AtSite
from gpt2np.lessons.exercise import Wrong, todo
from gpt2np.reference.mistakes import KNOWN

ASKS = ("Which pair comes first?", "Is it the first pair that wins, or the oldest?")
PROMPT, PREFILL = models.PROMPT, 6


def merged(symbols, ranks, best=min):
    symbols = list(symbols)
    while pairs := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        pair, i = best(pairs, key=ranks.get), 0
        while i < len(symbols) - 1:
            if (symbols[i], symbols[i + 1]) == pair:
                symbols[i : i + 2] = ["".join(pair)]
            i += 1
    return symbols


def highest_first(symbols, ranks):
    return merged(symbols, ranks, max)


class Merge(ByOutput):
    name = "toy.merge"
    asks = "How does a word become tokens?"
    abouts = ("for 'abc'", "for 'abcd'")
    result_axes = ("token",)
    wrong = (Wrong("highest-rank-first", highest_first, ASKS), Wrong("unmerged", lambda s, r: s, ASKS))

    def inputs(self, model):
        ranks = {("b", "c"): 0, ("a", "b"): 1, ("ab", "c"): 2, ("c", "d"): 3}
        return [{"symbols": list(word), "ranks": ranks} for word in ("abc", "abcd")]

    right = staticmethod(merged)


class Share(ByOutput):
    """An array of numbers, and a case that overflows."""

    name = "toy.share"
    asks = "Who gets how much?"
    result_axes = ("token",)
    abouts = ("", "with numbers a thousand times larger")
    unusual = 1
    wrong = (
        Wrong("no-maximum", lambda x: np.exp(x) / np.exp(x).sum(), ASKS),
        Wrong("not-shared", lambda x: np.exp(x), ASKS),
    )

    def inputs(self, model):
        return [{"x": np.arange(4.0)}, {"x": np.arange(4.0) * 1000}]

    def right(self, x):
        e = np.exp(x - x.max())
        return e / e.sum()


class Without(ByOutput):
    """A function that returns edits, which are judged by what the model then says."""

    name = "toy.without"
    asks = "What is a head for?"
    result_axes = ("token",)
    wrong = (
        Wrong("whole-layer", lambda layer, head: {f"h.{layer}.attn.out": interventions.zero()}, ASKS),
        Wrong("no-edit", lambda layer, head: {}, ASKS),
    )

    def inputs(self, model):
        return [{"layer": 1, "head": 0}]

    def right(self, layer, head):
        return {f"h.{layer}.attn.z": interventions.zero(heads=head)}

    def result(self, function, case, model):
        return model.trace(PROMPT, keep="logits", edits=function(*case.copies()))["logits"][-1]


def step(shift=0):
    """Decoding that runs everything again, with positions that are right, or shifted."""

    def function(token, position, cache):
        model = models.model_of_lessons()
        wte, wpe = model.parameters.wte, model.parameters.wpe
        cache.append(token)
        places = np.arange(position + 1)
        places[PREFILL:] += shift
        vectors = wte[cache] + wpe[places]
        return model.trace(cache, keep="logits", edits={"embed": lambda x: vectors})["logits"][-1]

    return function


class Decode(ByOutput):
    """One token at a time with a cache, held against the logits of the whole text."""

    name = "toy.decode"
    asks = "What need not be computed again?"
    result_axes = ("pos", "vocab")
    wrong = (Wrong("position-off-by-one", step(1)),)

    def inputs(self, model):
        ids = model.token_ids(PROMPT)
        return [{"token": ids[PREFILL], "position": PREFILL, "cache": ids[:PREFILL]}]

    right = staticmethod(step())

    def result(self, function, case, model):
        _, start, cache = case.copies()
        ids = model.token_ids(PROMPT)
        return np.array([function(ids[position], position, cache) for position in range(start, len(ids))])


class Split(AtSite):
    name = "toy.split"
    asks = "Which numbers belong together?"
    sites = ("h.1.attn.q", "h.1.attn.k", "h.1.attn.v")
    mistakes = ("qkv-kv-swapped", "heads-before-qkv")

    def inputs(self, run):
        return {"qkv": run["h.1.attn.qkv"], "n_head": run.config.n_head}


def of(order, cut=True):
    def split(qkv, n_head):
        parts = np.split(qkv, 3, axis=1)
        return tuple(parts[i].reshape(len(qkv), n_head, -1) if cut else parts[i] for i in order)

    return split


TOYS = {toy.name: toy for toy in (Merge, Share, Without, Decode, Split)}
OVERFLOWS = Share.wrong[0].function
TABLE = [
    ("toy.merge", lambda s, r: todo, "todo", None),
    ("toy.merge", merged, "right", None),
    ("toy.merge", lambda s, r: tuple(merged(s, r)), "right", None),
    ("toy.merge", highest_first, "wrong", "highest-rank-first"),
    ("toy.merge", lambda s, r: s, "wrong", "unmerged"),
    ("toy.merge", lambda s, r: ["a", "b", "c"], "wrong", None),
    ("toy.merge", lambda s, r: "abc", "shape", None),
    ("toy.merge", lambda s, r: 7, "shape", None),
    ("toy.merge", lambda s, r: s.clear() or r.clear() or ["a", "bc"], "wrong", None),
    ("toy.merge", lambda s: s, "raised", None),
    ("toy.share", Share().right, "right", None),
    ("toy.share", lambda x: Share().right(x.astype("f4")), "right", None),
    ("toy.share", lambda x: Share().right(x).tolist(), "right", None),
    ("toy.share", OVERFLOWS, "suspicious", "no-maximum"),
    ("toy.share", lambda x: np.exp(x), "wrong", "not-shared"),
    ("toy.share", lambda x: x[:3], "shape", None),
    ("toy.share", lambda x: None, "shape", None),
    ("toy.without", Without().right, "right", None),
    ("toy.without", lambda layer, head: {}, "wrong", "no-edit"),
    (
        "toy.without",
        lambda layer, head: {f"h.{layer}.attn.out": interventions.zero()},
        "wrong",
        "whole-layer",
    ),
    ("toy.without", lambda layer, head: {"h.9.attn.z": interventions.zero()}, "raised", None),
    ("toy.without", lambda layer, head: {"h.1.attn.z": lambda z: 1 / 0}, "raised", None),
    ("toy.without", lambda layer, head: todo, "todo", None),
    ("toy.split", of((0, 1, 2)), "right", None),
    ("toy.split", of((0, 2, 1)), "wrong", "qkv-kv-swapped"),
    ("toy.split", lambda qkv, n: list(of((0, 1, 2))(qkv, n)), "right", None),
    ("toy.split", lambda qkv, n: of((0, 1, 2))(qkv, n)[:2], "shape", None),
    ("toy.split", of((0, 1, 2), cut=False), "shape", None),
    ("toy.split", lambda qkv, n: (todo, todo, todo), "todo", None),
    ("toy.decode", step(), "right", None),
    ("toy.decode", step(1), "wrong", "position-off-by-one"),
    ("toy.decode", lambda token, position, cache: todo, "todo", None),
]


@pytest.mark.parametrize(
    ("name", "function", "state", "slug"), TABLE, ids=[f"{i} {r[0]} {r[2]}" for i, r in enumerate(TABLE)]
)
def test_every_kind_of_exercise_is_judged(monkeypatch, name, function, state, slug):
    monkeypatch.setattr(checker, "exercise", lambda name: TOYS[name]())
    verdict = checker.judge(name, function)
    assert (verdict.state, verdict.mistake) == (state, slug), verdict
    assert verdict.right == (state == "right")
    assert name != "toy.merge" or "rounding" not in str(verdict)  # there is none in a list of tokens
    if slug:
        wrong = {w.slug: w.hints for w in TOYS[name].wrong}
        assert verdict.hint == (wrong.get(slug) or [next(m for m in KNOWN if m.slug == slug).hints[0]])[0]


def for_two_axes(x):
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (
                0.5 * x[i, j] * (1 + np.tanh(np.sqrt(2 / np.pi) * (x[i, j] + 0.044715 * x[i, j] ** 3)))
            )
    return out


def with_exclusive_or(x):
    return 0.5 * x * (1 + np.tanh(x + 0.044715 * x ^ 3))


@pytest.mark.parametrize(
    ("function", "asked"),
    [(for_two_axes, "How many axes"), (with_exclusive_or, "how does it write a power?")],
)
def test_a_curve_that_stops_gets_a_question_about_why(function, asked):
    verdict = checker.judge("stream.gelu", function)
    assert verdict.state == "raised"
    assert asked in verdict.hint


def test_a_softmax_that_vanishes_gets_a_question():
    def pattern(products):
        seen = np.tril(np.ones(products.shape[1:], bool))
        e = np.exp(np.where(seen, products, -np.inf))
        return e / np.maximum(e.sum(-1, keepdims=True), 1e-300)

    verdict = checker.judge("attention.pattern", pattern)
    assert verdict.state == "suspicious"
    assert "exponential" in verdict.hint
