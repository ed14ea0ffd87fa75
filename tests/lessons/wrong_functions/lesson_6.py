"""Functions as learners write them for lesson 6: right ones, and wrong ones with the slug of the mistake."""

import numpy as np

from gpt2np.analysis.interventions import patch

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
    ("patching.patched", changed(last), "last-position-only"),
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
    ("patching.recovered", lambda p, a, b: (p - b) / (a - b), None),
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
    ("patching.direction", mean_of(lambda x: x[-1]), "last-position-only"),
    ("patching.direction", unit, "length-one"),
    ("patching.direction", lambda a, b: np.mean([x[1:].mean(0) for x in a], axis=0), "one-kind-only"),
]
