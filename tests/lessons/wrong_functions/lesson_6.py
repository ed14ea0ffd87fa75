"""Functions as learners write them for lesson 6: right ones, and wrong ones with the slug of the mistake."""

import numpy as np

from gpt2np.analysis.interventions import patch, zero

# -- patched ------------------------------------------------------------------------------------------------


def patched(clean, corrupt, layer, head):
    if len(clean.token_ids) != len(corrupt.token_ids):
        raise ValueError("count your tokens")
    return {f"h.{layer}.attn.z": patch(clean, heads=head)}


def by_hand(clean, corrupt, layer, head):
    """Lengths that differ are refused by NumPy."""
    site = f"h.{layer}.attn.z"

    def edit(z):
        z[:, head] = clean[site][:, head]
        return z

    return {site: edit}


def changed(change, site="attn.z"):
    """An edit of a site by a function of it, of the clean one and of the head."""

    def function(clean, corrupt, layer, head):
        assert len(clean.token_ids) == len(corrupt.token_ids)
        name = f"h.{layer}.{site}"

        def edit(x):
            x = x.copy()
            change(x, clean[name], head)
            return x

        return {name: edit}

    return function


def last(z, clean, head):
    z[-1, head] = clean[-1, head]


def added(z, clean, head):
    z[:, head] += clean[:, head]


def position(z, clean, head):
    z[head] = clean[head]


def head_of(x, clean, head):
    x[head] = clean[head]


def values_of(v, clean, head):
    v[:, head] = clean[:, head]


def others(z, clean, head):
    for i in range(4):
        if i != head:
            z[:, i] = clean[:, i]


def everything(z, clean, head):
    z[:] = clean


def averaged(z, clean, head):
    z[:, head] = (z[:, head] + clean[:, head]) / 2


def second(z, clean, head):
    z[1, head] = clean[1, head]


def refusing(edits):
    """Edits as a function of the clean run, the layer and the head; other lengths are refused."""

    def function(clean, corrupt, layer, head):
        if len(clean.tokens) != len(corrupt.tokens):
            raise ValueError("other lengths")
        return edits(clean, layer, head)

    return function


def refused_by(length):
    """Other lengths are refused, by another measure than tokens."""

    def function(clean, corrupt, layer, head):
        if length(clean) != length(corrupt):
            raise ValueError("other lengths")
        return {f"h.{layer}.attn.z": patch(clean, heads=head)}

    return function


def error_returned(clean, corrupt, layer, head):
    if len(clean.tokens) != len(corrupt.tokens):
        return ValueError("other lengths")
    return {f"h.{layer}.attn.z": patch(clean, heads=head)}


def pattern_and_values(clean, layer, head):
    """Both things that make up z."""
    return {f"h.{layer}.attn.{part}": patch(clean, heads=head) for part in ("pattern", "v")}


# -- direction ----------------------------------------------------------------------------------------------


def direction(runs_a, runs_b):
    a = sum(x[1:].mean(axis=0) for x in runs_a) / len(runs_a)
    return a - sum(x[1:].mean(axis=0) for x in runs_b) / len(runs_b)


def mean_of(summary, total=np.mean):
    def function(runs_a, runs_b):
        return total([summary(x) for x in runs_a], axis=0) - total([summary(x) for x in runs_b], axis=0)

    return function


def pooled(start):
    def function(runs_a, runs_b):
        a, b = (np.concatenate([x[start:] for x in runs]).mean(axis=0) for runs in (runs_a, runs_b))
        return a - b

    return function


def in_pairs(runs_a, runs_b):
    return np.mean([a[1:].mean(0) - b[1:].mean(0) for a, b in zip(runs_a, runs_b, strict=False)], axis=0)


def last_of_a_loop(runs_a, runs_b):
    for x in runs_a:
        a = x[1:].mean(0)
    for x in runs_b:
        b = x[1:].mean(0)
    return a - b


def numbers_swapped(runs_a, runs_b):
    a, b = (sum(x[1:].mean(0) for x in runs) for runs in (runs_a, runs_b))
    return a / len(runs_b) - b / len(runs_a)


def unit(runs_a, runs_b):
    v = direction(runs_a, runs_b)
    return v / np.sqrt((v**2).sum())


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("patching.patched", patched, None),
    ("patching.patched", by_hand, None),
    ("patching.patched", changed(values_of), None),
    ("patching.patched", lambda a, b, layer, head: patched(b, b, layer, head), "nothing-patched"),
    ("patching.patched", changed(everything), "all-heads"),
    ("patching.patched", changed(everything, "attn.out"), "all-heads"),
    ("patching.patched", changed(last), "one-position-only"),
    ("patching.patched", changed(added), "added-instead-of-replaced"),
    ("patching.patched", changed(position), "position-instead-of-head"),
    ("patching.patched", changed(head_of, "attn.pattern"), "pattern-only"),
    ("patching.patched", changed(values_of, "attn.v"), "values-only"),
    ("patching.patched", changed(others), "the-other-heads"),
    (
        "patching.patched",
        lambda a, b, layer, head: {f"h.{layer}.attn.z": patch(a, heads=head)},
        "lengths-differ",
    ),
    ("patching.patched", refusing(pattern_and_values), None),
    ("patching.patched", changed(second), "one-position-only"),
    ("patching.patched", changed(averaged), "added-instead-of-replaced"),
    ("patching.patched", refusing(lambda a, layer, head: {}), "nothing-patched"),
    ("patching.patched", refusing(lambda a, layer, head: {"attn.z": patch(a, heads=head)}), "every-layer"),
    (
        "patching.patched",
        refusing(lambda a, layer, head: {f"h.{i}.attn.z": patch(a, heads=head) for i in range(layer, 4)}),
        "every-layer",
    ),
    (
        "patching.patched",
        refusing(lambda a, layer, head: {f"h.{head}.attn.z": patch(a, heads=layer)}),
        "layer-and-head-swapped",
    ),
    (
        "patching.patched",
        refusing(lambda a, layer, head: {f"h.{layer}.resid_post": patch(a)}),
        "whole-stream",
    ),
    (
        "patching.patched",
        refusing(lambda a, layer, head: {f"h.{layer}.attn.z": zero(heads=head)}),
        "zeroed-instead",
    ),
    (
        "patching.patched",
        refusing(lambda a, layer, head: {f"h.{layer}.attn.z": patch(a, positions=head)}),
        "position-instead-of-head",
    ),
    ("patching.patched", error_returned, "lengths-differ"),
    ("patching.patched", refused_by(lambda run: "".join(run.tokens).count(" ")), "lengths-differ"),
    ("patching.recovered", lambda p, a, b: (p - b) / (a - b), None),
    ("patching.recovered", lambda p, a, b: [[(x - b) / (a - b) for x in row] for row in p], None),
    ("patching.recovered", lambda p, a, b: p / (a - b), "start-not-subtracted"),
    ("patching.recovered", lambda p, a, b: (p - a) / (a - b), "what-is-missing"),
    ("patching.recovered", lambda p, a, b: p / b, "share-of-the-corrupt"),
    ("patching.recovered", lambda p, a, b: (p - b) / b, "share-of-the-corrupt"),
    ("patching.recovered", lambda p, a, b: (a - b) / (p - b), "upside-down"),
    ("patching.recovered", lambda p, a, b: p - b / a - b, "bracket-missing"),
    ("patching.recovered", lambda p, a, b: (p - b) / a - b, "bracket-missing"),
    ("patching.recovered", lambda p, a, b: (p - b) / (a - b) * 100, "percent"),
    ("patching.recovered", lambda p, a, b: (p - b) / (np.max(p) - b), "share-of-the-best"),
    ("patching.recovered", lambda p, a, b: (p - p.min()) / np.ptp(p), "share-of-the-best"),
    ("patching.recovered", lambda p, a, b: np.abs(p - b) / (a - b), "no-sign"),
    ("patching.recovered", lambda p, a, b: np.minimum((p - b) / (a - b), 1), "clipped"),
    ("patching.recovered", lambda p, a, b: np.round((p - b) / (a - b), 2), "rounded"),
    ("patching.recovered", lambda p, a, b: 1 - (p - a) / (b - a), None),
    ("patching.recovered", lambda p, a, b: p - b, "not-normalised"),
    ("patching.recovered", lambda p, a, b: (b - p) / (a - b), "sign"),
    ("patching.recovered", lambda p, a, b: (p - a) / (b - a), "what-is-missing"),
    ("patching.recovered", lambda p, a, b: p / a, "share-of-the-clean"),
    ("patching.recovered", lambda p, a, b: (p - b) / a, "share-of-the-clean"),
    ("patching.recovered", lambda p, a, b: abs((p - b) / (a - b)), "no-sign"),
    ("patching.recovered", lambda p, a, b: (p - b) / abs(a - b), "no-sign"),
    ("patching.recovered", lambda p, a, b: np.minimum(1, np.maximum(0, (p - b) / (a - b))), "clipped"),
    ("patching.direction", direction, None),
    ("patching.direction", mean_of(lambda x: x[1:].mean(0)), None),
    ("patching.direction", mean_of(lambda x: x.mean(0)), "first-position-too"),
    ("patching.direction", pooled(0), "first-position-too"),
    ("patching.direction", pooled(1), "long-texts-count-more"),
    ("patching.direction", mean_of(lambda x: x[1:].mean(0), np.sum), "sum-over-texts"),
    ("patching.direction", mean_of(lambda x: x[1:].sum(0)), "sum-over-positions"),
    ("patching.direction", lambda a, b: direction(b, a), "the-other-way"),
    ("patching.direction", mean_of(lambda x: x[-1]), "one-position-only"),
    ("patching.direction", unit, "length-one"),
    ("patching.direction", lambda a, b: np.mean([x[1:].mean(0) for x in a], axis=0), "one-kind-only"),
    ("patching.direction", mean_of(lambda x: x[:-1].mean(0)), "last-left-out"),
    ("patching.direction", mean_of(lambda x: x[2:].mean(0)), "two-left-out"),
    ("patching.direction", mean_of(lambda x: x[1:].sum(0) / len(x)), "divided-by-all"),
    ("patching.direction", mean_of(lambda x: x[0]), "one-position-only"),
    ("patching.direction", lambda a, b: direction(a[:1], b[:1]), "one-text-only"),
    ("patching.direction", last_of_a_loop, "one-text-only"),
    ("patching.direction", in_pairs, "in-pairs"),
    ("patching.direction", numbers_swapped, "numbers-swapped"),
    ("patching.direction", lambda a, b: direction(a, b) / 2, "halved"),
    ("patching.direction", lambda a, b: mean_of(lambda x: x.mean(0))(b, a), "first-position-too"),
    ("patching.direction", lambda a, b: pooled(1)(b, a), "long-texts-count-more"),
    (
        "patching.direction",
        lambda a, b: (
            np.mean([x[1:].mean(0) for x in a], axis=0) + np.mean([x[1:].mean(0) for x in b], axis=0)
        ),
        "added",
    ),
]
