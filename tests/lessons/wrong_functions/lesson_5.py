"""Functions as learners write them for lesson 5: right ones, and wrong ones with the slug of the mistake."""

import numpy as np

from gpt2np.analysis.interventions import zero

# -- induction_score ----------------------------------------------------------------------------------------


def score(pattern, n):
    queries = np.arange(n, 2 * n)
    return pattern[:, :, queries, queries - n + 1].mean(-1)


def score_by_loops(pattern, n):
    out = np.zeros(pattern.shape[:2])
    for layer in range(pattern.shape[0]):
        for head in range(pattern.shape[1]):
            out[layer, head] = sum(pattern[layer, head, n + i, i + 1] for i in range(n)) / n
    return out


def score_by_diagonal(pattern, n):
    return np.diagonal(pattern[:, :, n:], 1, 2, 3).mean(-1)


def along(offset, from_query=None):
    """The mean of a whole diagonal, or of that of the second half."""

    def function(pattern, n):
        back = offset(n)
        part = pattern if from_query is None else pattern[:, :, n:]
        return np.diagonal(part, -back if from_query is None else n - back, 2, 3).mean(-1)

    return function


def summed(first=0, last=None, by=lambda n: 1.0):
    """The sum over some queries of the second half, divided by a number."""

    def function(pattern, n):
        return np.diagonal(pattern[:, :, n:], 1, 2, 3)[..., first : n if last is None else last].sum(-1) / by(
            n
        )

    return function


def traced(pattern, n):
    return np.trace(pattern[:, :, n:], offset=1, axis1=2, axis2=3)


def of_a_square(pattern, n):
    """The square of second half and first half has one query less beside its diagonal."""
    return np.diagonal(pattern[:, :, n:, :n], 1, 2, 3).mean(-1)


def in_the_future(pattern, n):
    return np.mean([pattern[:, :, n + i, n + i + 1] for i in range(n - 1)], axis=0)


def counted(pattern, n):
    found = np.zeros(pattern.shape[:2])
    for query in range(n, 2 * n):
        found += pattern[:, :, query].argmax(-1) == query - n + 1
    return found / n


def halved(pattern, n):
    return sum(pattern[:, :, q, q - n + 1] for q in range(n, 2 * n)) / (2 * n)


def best(pattern, n):
    return np.diagonal(pattern[:, :, n:], 1, 2, 3).max(-1)


def swapped(pattern, n):
    return score(pattern.swapaxes(2, 3), n)


# -- without ------------------------------------------------------------------------------------------------


def grouped(heads):
    found = {}
    for layer, head in heads:
        found.setdefault(layer, []).append(head)
    return found


def without(heads):
    return {f"h.{layer}.attn.z": zero(heads=each) for layer, each in grouped(heads).items()}


def without_by_hand(heads):
    def remover(chosen):
        def edit(z):
            z[:, chosen] = 0
            return z

        return edit

    return {f"h.{layer}.attn.z": remover(each) for layer, each in grouped(heads).items()}


def without_values(heads):
    return {f"h.{layer}.attn.v": zero(heads=each) for layer, each in grouped(heads).items()}


def without_pattern(heads):
    return {f"h.{layer}.attn.pattern": zero(heads=each) for layer, each in grouped(heads).items()}


def late_binding(heads):
    """Every edit has the layer's last head: a name in a loop."""
    edits = {}
    for layer, head in heads:
        edits[f"h.{layer}.attn.z"] = zero(heads=head)
    return edits


def first_only(heads):
    edits = {}
    for layer, head in heads:
        edits.setdefault(f"h.{layer}.attn.z", zero(heads=head))
    return edits


def rows_removed(heads):
    def remover(chosen):
        def edit(z):
            z = z.copy()
            z[chosen] = 0
            return z

        return edit

    return {f"h.{layer}.attn.z": remover(each) for layer, each in grouped(heads).items()}


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("circuits.induction_score", score, None),
    ("circuits.induction_score", score_by_loops, None),
    ("circuits.induction_score", score_by_diagonal, None),
    ("circuits.induction_score", along(lambda n: n, "second half"), "looks-at-the-twin"),
    ("circuits.induction_score", along(lambda n: n), "looks-at-the-twin"),
    ("circuits.induction_score", along(lambda n: n + 1), "looks-before-the-twin"),
    ("circuits.induction_score", along(lambda n: 1), "looks-at-the-token-before"),
    ("circuits.induction_score", along(lambda n: 1, "second half"), "looks-at-the-token-before"),
    ("circuits.induction_score", along(lambda n: n - 1), "first-half-too"),
    ("circuits.induction_score", halved, "average-over-all"),
    ("circuits.induction_score", best, "best-instead-of-mean"),
    ("circuits.induction_score", swapped, "looks-into-the-future"),
    ("circuits.induction_score", in_the_future, "looks-into-the-future"),
    ("circuits.induction_score", summed(), "not-a-mean"),
    ("circuits.induction_score", traced, "not-a-mean"),
    ("circuits.induction_score", lambda pattern, n: 100 * score(pattern, n), "not-a-mean"),
    ("circuits.induction_score", summed(by=lambda n: n - 1), "not-a-mean"),
    ("circuits.induction_score", summed(last=-1, by=lambda n: n), "query-missing"),
    ("circuits.induction_score", summed(last=-1, by=lambda n: n - 1), "query-missing"),
    ("circuits.induction_score", summed(last=-1), "query-missing"),
    ("circuits.induction_score", summed(first=1, by=lambda n: n - 1), "query-missing"),
    ("circuits.induction_score", of_a_square, "query-missing"),
    ("circuits.induction_score", lambda pattern, n: score(pattern, n).T, "layer-and-head-swapped"),
    ("circuits.induction_score", counted, "counts-instead-of-shares"),
    ("circuits.induction_score", lambda pattern, n: pattern[:, :, n:].max((2, 3)), "looks-anywhere"),
    ("circuits.induction_score", lambda pattern, n: pattern[:, :, n:].max(3).mean(2), "looks-anywhere"),
    ("circuits.without", without, None),
    ("circuits.without", without_by_hand, None),
    ("circuits.without", without_values, None),
    ("circuits.without", without_pattern, None),
    ("circuits.without", late_binding, "last-head-only"),
    ("circuits.without", first_only, "first-head-only"),
    ("circuits.without", lambda heads: {f"h.{i}.attn.out": zero() for i, _ in heads}, "whole-layer"),
    (
        "circuits.without",
        lambda heads: {f"h.{i}.attn.q": zero(heads=each) for i, each in grouped(heads).items()},
        "looks-everywhere",
    ),
    (
        "circuits.without",
        lambda heads: {f"h.{i}.attn.k": zero(heads=each) for i, each in grouped(heads).items()},
        "looks-everywhere",
    ),
    (
        "circuits.without",
        lambda heads: {f"h.{i}.attn.z": zero(heads=[h for _, h in heads]) for i in range(4)},
        "every-layer",
    ),
    (
        "circuits.without",
        lambda heads: {
            f"h.{i}.attn.z": zero(heads=[h for h in range(4) if h not in each])
            for i, each in grouped(heads).items()
        },
        "the-others",
    ),
    ("circuits.without", rows_removed, "position-instead-of-head"),
    (
        "circuits.without",
        lambda heads: {f"h.{h}.attn.z": zero(heads=i) for i, h in heads},
        "layer-and-head-swapped",
    ),
    ("circuits.without", lambda heads: {}, "nothing-removed"),
    ("circuits.without", lambda heads: {f"h.{i}.attn.z": zero() for i, _ in heads}, "whole-layer"),
    (
        "circuits.without",
        lambda heads: {f"h.{i}.attn.z": zero(heads=[h for _, h in heads]) for i, _ in heads},
        "heads-of-all-layers",
    ),
    ("circuits.qk", lambda q, k, s: (s[:, None] * q) @ (s[:, None] * k).T, None),
    ("circuits.qk", lambda q, k, s: np.diag(s) @ q @ k.T @ np.diag(s), None),
    ("circuits.qk", lambda q, k, s: np.einsum("ih,jh,i,j->ij", q, k, s, s), None),
    ("circuits.qk", lambda q, k, s: q @ k.T, "not-folded"),
    ("circuits.qk", lambda q, k, s: (s[:, None] * k) @ (s[:, None] * q).T, "transposed"),
    ("circuits.qk", lambda q, k, s: k @ q.T, "transposed"),
    ("circuits.qk", lambda q, k, s: (s[:, None] * q) @ k.T, "folded-on-one-side"),
    ("circuits.qk", lambda q, k, s: q @ (s[:, None] * k).T, "folded-on-one-side"),
    ("circuits.qk", lambda q, k, s: (s[:, None] * q) @ (s[:, None] * k).T / 48**0.5, "divided-by-the-root"),
    ("circuits.qk", lambda q, k, s: (s[:, None] * q).T @ (s[:, None] * k), "in-the-head"),
    ("circuits.ov", lambda v, o, s: (s[:, None] * v) @ o, None),
    ("circuits.ov", lambda v, o, s: np.diag(s) @ v @ o, None),
    ("circuits.ov", lambda v, o, s: v @ o, "not-folded"),
    ("circuits.ov", lambda v, o, s: ((s[:, None] * v) @ o).T, "transposed"),
    ("circuits.ov", lambda v, o, s: o.T @ v.T, "transposed"),
    ("circuits.ov", lambda v, o, s: (s[:, None] * v) @ o * s, "folded-on-both-sides"),
    ("circuits.qk", lambda q, k, s: np.diag(s) @ np.diag(s) @ q @ k.T, "folded-on-one-side"),
    ("circuits.qk", lambda q, k, s: q @ k.T * s * s, "folded-on-one-side"),
    ("circuits.ov", lambda v, o, s: (s[:, None] * s[:, None] * v) @ o, "folded-twice"),
    ("circuits.ov", lambda v, o, s: v @ o * s, "folded-where-it-writes"),
    ("circuits.ov", lambda v, o, s: o @ v, "wrong-order"),
    ("circuits.ov", lambda v, o, s: o @ (s[:, None] * v), "wrong-order"),
]
