"""Functions as learners write them for lesson 1: right ones, and wrong ones with the slug of the mistake."""

import itertools
from collections import Counter

import numpy as np

# -- merge ------------------------------------------------------------------------------------------------


def together(symbols, pair):
    """All copies of a pair joined, from the left."""
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def possible(symbols, ranks):
    return [(a, b) for a, b in itertools.pairwise(symbols) if (a, b) in ranks]


def by(choice):
    """The pair that is chosen, until there is none."""

    def merge(symbols, ranks):
        while pairs := possible(symbols, ranks):
            symbols = together(symbols, choice(pairs, ranks))
        return symbols

    return merge


def lowest(pairs, ranks):
    return min(pairs, key=ranks.get)


def down_the_file(symbols, ranks):
    """One pass, line by line."""
    for pair in sorted(ranks, key=ranks.get):
        symbols = together(symbols, pair)
    return symbols


def one_copy_at_a_time(symbols, ranks):
    while pairs := possible(symbols, ranks):
        i = list(itertools.pairwise(symbols)).index(lowest(pairs, ranks))
        symbols[i] += symbols.pop(i + 1)  # in place: the truth must not be spoiled
    return tuple(symbols)


def with_a_default(symbols, ranks):
    while len(symbols) > 1:
        pair = min(itertools.pairwise(symbols), key=lambda pair: ranks.get(pair, float("inf")))
        if pair not in ranks:
            break
        symbols = together(symbols, pair)
    return symbols


def from_the_left(symbols, ranks):
    i = 0
    while i < len(symbols) - 1:
        if (symbols[i], symbols[i + 1]) in ranks:
            symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]
            i = 0
        else:
            i += 1
    return symbols


def one_pass(symbols, ranks):
    out = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) in ranks:
            out.append("".join(symbols[i : i + 2]))
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def passes(symbols, ranks):
    while True:
        out = one_pass(symbols, ranks)
        if out == symbols:
            return out
        symbols = out


def growing(symbols, ranks):
    out = [symbols[0]]
    for symbol in symbols[1:]:
        if (out[-1], symbol) in ranks:
            out[-1] = out[-1] + symbol
        else:
            out.append(symbol)
    return out


def longest_match(symbols, ranks):
    word, known, out = "".join(symbols), set(symbols) | {a + b for a, b in ranks}, []
    while word:
        for n in range(len(word), 0, -1):
            if word[:n] in known:
                out.append(word[:n])
                word = word[n:]
                break
    return out


def from_the_right(symbols, ranks):
    while pairs := possible(symbols, ranks):
        pair = lowest(pairs, ranks)
        i = len(symbols) - 2
        while i >= 0:
            if tuple(symbols[i : i + 2]) == pair:
                symbols[i : i + 2] = ["".join(pair)]
            i -= 1
    return symbols


def as_text(symbols, ranks):
    text = " ".join(symbols)
    while pairs := possible(text.split(), ranks):
        first, second = lowest(pairs, ranks)
        text = text.replace(first + " " + second, first + second)
    return text.split()


def unknown_is_zero(symbols, ranks):
    while len(symbols) > 1:
        pair = min(itertools.pairwise(symbols), key=lambda pair: ranks.get(pair, 0))
        symbols = together(symbols, pair)
    return symbols


def unknown_comes_first(symbols, ranks):
    """A default of 0, and an end at the first pair that has no rank."""
    while len(symbols) > 1:
        pair = min(itertools.pairwise(symbols), key=lambda pair: ranks.get(pair, 0))
        if pair not in ranks:
            break
        symbols = together(symbols, pair)
    return symbols


def without_skipping(symbols, ranks):
    """After a pair has been joined, its second symbol is looked at once more."""
    while pairs := possible(symbols, ranks):
        best, out = lowest(pairs, ranks), []
        for i in range(len(symbols) - 1):
            out.append("".join(symbols[i : i + 2]) if (symbols[i], symbols[i + 1]) == best else symbols[i])
        symbols = out
    return symbols


def without_the_last(symbols, ranks):
    """The loop over pairs never copies the last symbol."""
    while pairs := possible(symbols, ranks):
        best, out, i = lowest(pairs, ranks), [], 0
        while i < len(symbols) - 1:
            n = 2 if (symbols[i], symbols[i + 1]) == best else 1
            out.append("".join(symbols[i : i + n]))
            i += n
        symbols = out
    return symbols


def three_rounds(symbols, ranks):
    for _ in range(3):
        pairs = possible(symbols, ranks)
        symbols = together(symbols, lowest(pairs, ranks)) if pairs else symbols
    return symbols


# -- embed ------------------------------------------------------------------------------------------------


def embed(ids, wte, wpe):
    return wte[ids] + wpe[np.arange(len(ids))]


def embed_by_loops(ids, wte, wpe):
    out = np.zeros((len(ids), wte.shape[1]), wte.dtype)
    for place, id in enumerate(ids):
        out[place] += wte[id]
        out[place] += wpe[place]
    return out


def one_hot(ids, wte, wpe):
    return np.eye(len(wte))[ids] @ wte + np.eye(len(wpe))[: len(ids)] @ wpe


def added_in_place(ids, wte, wpe):
    """Only the last place of a token that is there twice is kept."""
    wte[ids] += wpe[: len(ids)]
    return wte[ids]


def written_at_first_places(ids, wte, wpe):
    out = np.zeros((len(ids), wte.shape[1]))
    for i in ids:
        out[ids.index(i)] = wte[i] + wpe[ids.index(i)]
    return out


def returned_in_the_loop(ids, wte, wpe):
    out = np.zeros((len(ids), wte.shape[1]))
    for place, id in enumerate(ids):
        out[place] = wte[id] + wpe[place]
        return out


# -- nearest ----------------------------------------------------------------------------------------------


def cosines(i, wte):
    return wte @ wte[i] / np.linalg.norm(wte, axis=1) / np.linalg.norm(wte[i])


def nearest(i, wte, k):
    near = np.argsort(cosines(i, wte))[::-1]
    return near[near != i][:k]


def nearest_by_loops(i, wte, k):
    found = []
    for j, row in enumerate(wte):
        if j != i:
            found.append((-(row @ wte[i]) / (row @ row) ** 0.5, j))
    return [j for _, j in sorted(found)[:k]]


def half_a_cosine(i, wte, k):
    return np.argsort(-(wte @ wte[i]) / np.linalg.norm(wte[i]))[1 : k + 1]


def by_columns(i, wte, k):
    normed = wte / np.linalg.norm(wte, axis=0)
    return np.argsort(-(normed @ normed[i]))[1 : k + 1]


def unsorted(i, wte, k):
    """The right tokens, as a partition leaves them."""
    near = nearest(i, wte, k)
    return np.sort(near)


# exercise, function, slug of its mistake; None: it is right
TABLE = [
    ("tokens.nearest", lambda i, wte, k: np.argsort(-np.delete(cosines(i, wte), i))[:k], "places-shifted"),
    ("tokens.merge", by(lowest), None),
    ("tokens.merge", down_the_file, None),
    ("tokens.merge", one_copy_at_a_time, None),
    ("tokens.merge", with_a_default, None),
    ("tokens.merge", by(lambda pairs, ranks: pairs[0]), "left-to-right"),
    ("tokens.merge", from_the_left, "left-to-right"),
    ("tokens.merge", one_pass, "left-to-right"),
    ("tokens.merge", passes, "left-to-right"),
    ("tokens.merge", growing, "left-to-right"),
    ("tokens.merge", longest_match, "longest-match"),
    ("tokens.merge", by(lambda pairs, ranks: max(pairs, key=ranks.get)), "highest-rank-first"),
    (
        "tokens.merge",
        by(lambda pairs, ranks: Counter(pairs).most_common(1)[0][0]),
        "most-frequent-first",
    ),
    (
        "tokens.merge",
        lambda symbols, ranks: together(symbols, lowest(possible(symbols, ranks) or [()], ranks)),
        "one-merge-only",
    ),
    ("tokens.merge", lambda symbols, ranks: symbols, "nothing-merged"),
    ("tokens.merge", unknown_is_zero, "unknown-pairs-merged"),
    ("tokens.merge", as_text, "joined-inside-tokens"),
    ("tokens.merge", from_the_right, "copies-from-the-right"),
    ("tokens.merge", unknown_comes_first, "ended-early"),
    ("tokens.merge", three_rounds, "ended-early"),
    ("tokens.merge", without_skipping, "letters-changed"),
    ("tokens.merge", without_the_last, "letters-changed"),
    ("tokens.merge", lambda symbols, ranks: [*by(lowest)(symbols, ranks), "</w>"], "letters-changed"),
    ("tokens.embed", embed, None),
    ("tokens.embed", embed_by_loops, None),
    ("tokens.embed", one_hot, None),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[1 : len(ids) + 1], "position-off-by-one"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids], "position-missing"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] * 192**0.5 + wpe[: len(ids)], "embedding-scaled"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[: len(ids)][::-1], "position-reversed"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[0], "position-constant"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[len(ids)], "position-constant"),
    ("tokens.embed", lambda ids, wte, wpe: wpe[: len(ids)], "token-missing"),
    ("tokens.embed", lambda ids, wte, wpe: wte[: len(ids)] + wpe[: len(ids)], "token-by-place"),
    ("tokens.embed", lambda ids, wte, wpe: (wte[ids] + wpe[: len(ids)]) * 0.5, "embeddings-averaged"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] * wpe[: len(ids)], "embeddings-multiplied"),
    (
        "tokens.embed",
        lambda ids, wte, wpe: np.array([wte[i] + wpe[ids.index(i)] for i in ids]),
        "positions-of-tokens",
    ),
    ("tokens.embed", added_in_place, "positions-of-tokens"),
    ("tokens.embed", written_at_first_places, "positions-of-tokens"),
    ("tokens.embed", returned_in_the_loop, "first-token-only"),
    ("tokens.embed", lambda ids, wte, wpe: wte[ids] + wpe[-len(ids) :], "last-positions"),
    ("tokens.nearest", nearest, None),
    ("tokens.nearest", nearest_by_loops, None),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-cosines(i, wte))[1 : k + 1].tolist(), None),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-(wte @ wte[i]))[1 : k + 1], "dot-product"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-(wte @ wte[i]))[:k], "dot-product"),
    ("tokens.nearest", half_a_cosine, "dot-product"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-cosines(i, wte))[:k], "token-itself"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(cosines(i, wte))[:k], "farthest-first"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(cosines(i, wte))[-k:], "nearest-last"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(cosines(i, wte))[-k - 1 : -1], "nearest-last"),
    (
        "tokens.nearest",
        lambda i, wte, k: np.argsort(np.linalg.norm(wte - wte[i], axis=1))[1 : k + 1],
        "distance",
    ),
    ("tokens.nearest", lambda i, wte, k: np.argsort(((wte - wte[i]) ** 2).sum(1))[:k], "distance"),
    ("tokens.nearest", lambda i, wte, k: -np.sort(-cosines(i, wte))[1 : k + 1], "cosines-returned"),
    ("tokens.nearest", by_columns, "columns-normalised"),
    ("tokens.nearest", unsorted, "order-mixed"),
    (
        "tokens.nearest",
        lambda i, wte, k: np.argsort(-(wte @ wte[i]) / (wte**2).sum(1))[1 : k + 1],
        "norm-squared",
    ),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-cosines(i, wte))[2 : k + 2], "nearest-left-out"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-np.abs(cosines(i, wte)))[1 : k + 1], "sign-lost"),
    ("tokens.nearest", lambda i, wte, k: np.argsort(-(cosines(i, wte) ** 2))[1 : k + 1], "sign-lost"),
]
