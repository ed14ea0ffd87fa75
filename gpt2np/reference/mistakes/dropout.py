"""Dropout that is still on: nothing can replay it, but it leaves a trace in all that is linear in it."""

from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.ops import Array
from gpt2np.reference.mistakes.base import Mistake, Seen

_ROWS = 4  # wrong ones that are looked at
_TRIES = 100  # triples of numbers of a row, of which one has to be of numbers that were kept
_LEAST, _MOST = 1.001, 4.0  # 1 / (1 - p)
_LARGEST = 1e30  # numbers beyond it are no longer solved for


class DropoutActive(Mistake):
    """Some values are 0, and the others larger by 1 / (1 - p)."""

    slug = "dropout-active"
    explanation = "Dropout is active: some values are 0, and the others are larger by 1 / (1 - p)."
    cure = "Evaluate without dropout: model.eval()."
    hints = (
        "Does your program give the same numbers if you run it again?",
        "Is something switched on that only training needs?",
    )
    of_gpt2 = True
    steps = ("embed", "attn.pattern", "attn.out", "mlp.out")
    anywhere = True

    def recognise(self, seen: Seen) -> str | None:
        if seen.values.shape != seen.truth.shape or not (np.abs(seen.values) < _LARGEST).all():
            return None
        seen = replace(seen, values=seen.values.astype(np.float64))  # equations are not solved in halves
        if seen.site in self.steps:
            return "" if _dropped(seen.values, seen.truth, seen.band) else None
        if seen.site in ("resid_mid", "resid_post", "attn.z"):
            return "" if _in_a_sum(seen) or _in_an_average(seen) else None
        normalised = _normalised(seen)
        return "" if normalised is not None and _under_a_norm(seen, normalised) else None


def _dropped(values: Array, truth: Array, band: Array) -> bool:
    """Whether values are the right ones times a constant or 0, as many being 0 as the constant says."""
    counts = np.abs(truth) > 10 * band
    kept = np.abs(values) > 4 * band
    if not (kept & counts).any() or not (~kept & counts).any():
        return False
    factor = float(np.median(values[kept & counts] / truth[kept & counts]))
    if not _LEAST < factor < _MOST:
        return False
    rest = np.abs(values - factor * truth) > np.maximum(4 * band, 1e-4 * np.abs(values))
    share = float((~kept & counts).sum() / counts.sum())
    near = abs(share - (1 - 1 / factor)) < max(0.2, 2 / np.sqrt(counts.sum()))
    return bool(near and not (rest & kept).any())


def _in_a_sum(seen: Seen) -> bool:
    """Dropped from what was added to the residual stream."""
    if seen.site == "attn.z":
        return False
    part, stream = ("attn.out", "resid_pre") if seen.site == "resid_mid" else ("mlp.out", "resid_mid")
    block = f"h.{seen.layer}."
    return _dropped(seen.values - seen.right[block + stream], seen.right[block + part], seen.band)


def _in_an_average(seen: Seen) -> bool:
    """Dropped from the pattern: the weights of values are solved for, where there are few enough of them."""
    if seen.site not in ("attn.z", "resid_mid"):
        return False
    block = f"h.{seen.layer}."
    pattern, v = seen.right[block + "attn.pattern"], seen.right[block + "attn.v"]
    right, wrong = [], []
    for query in range(min(len(v), v.shape[2] - 1)):
        weights = pattern[:, query, : query + 1]
        if seen.site == "attn.z":
            found = [np.linalg.lstsq(v[: query + 1, h].T, seen.values[query, h]) for h in range(len(weights))]
            solved = np.array([weight for weight, *_ in found])
        else:
            p: Any = seen.right.parameters("weights").h[seen.layer].attn.c_proj
            heads = p.weight.reshape(len(weights), -1, p.weight.shape[1])
            terms = np.einsum("khd,hde->hke", v[: query + 1], heads).reshape(weights.size, -1)
            if len(terms) >= terms.shape[1]:
                break
            written = seen.values[query] - seen.right[block + "resid_pre"][query] - p.bias
            solved = np.linalg.lstsq(terms.T, written)[0].reshape(weights.shape)
        right.append(weights.ravel())
        wrong.append(solved.ravel())
    if not right:
        return False
    return _dropped(np.concatenate(wrong), np.concatenate(right), np.array(float(np.max(seen.band))))


def _normalised(seen: Seen) -> Array | None:
    """What a norm made of a row before its scale and shift, if that can be told from the site."""
    p: Any = seen.right.parameters("weights")
    block = p.h[seen.layer or 0]
    products = {"attn.qkv": (block.attn.c_attn, block.ln_1), "mlp.pre": (block.mlp.c_fc, block.ln_2)}
    norms = {"ln_1": block.ln_1, "ln_2": block.ln_2, "ln_f": p.ln_f}
    values = seen.values
    if seen.site in products:
        product, norm = products[seen.site]
        values = np.linalg.lstsq(product.weight.T, (values - product.bias).T)[0].T
    elif seen.site in norms:
        norm = norms[seen.site]
    elif seen.site in ("attn.q", "attn.k", "attn.v"):
        n, third = values.shape[1] * values.shape[2], "qkv".index(seen.site[-1])
        weight = block.attn.c_attn.weight[:, third * n : (third + 1) * n]
        bias = block.attn.c_attn.bias[third * n : (third + 1) * n]
        if np.linalg.cond(weight) > 1e4:
            return None
        values, norm = np.linalg.solve(weight.T, (values.reshape(-1, n) - bias).T).T, block.ln_1
    else:
        return None
    return np.asarray((values - norm.bias) / norm.weight)


def _under_a_norm(seen: Seen, normalised: Array) -> bool:
    """Dropped from the last thing that was added to what the norm reads."""
    layer = len(seen.right.parameters("weights").h) if seen.layer is None else seen.layer
    if seen.site in ("ln_2", "mlp.pre"):
        stream, part = seen.right[f"h.{layer}.resid_pre"], seen.right[f"h.{layer}.attn.out"]
    elif layer:
        stream, part = seen.right[f"h.{layer - 1}.resid_mid"], seen.right[f"h.{layer - 1}.mlp.out"]
    else:
        part = seen.right["embed"]
        stream = np.zeros_like(part)
    outside = np.abs(seen.values - seen.truth) > seen.band
    wrong = np.flatnonzero(outside.reshape(len(outside), -1).any(axis=1))[:_ROWS]
    rows = [_row(normalised[row], stream[row], part[row]) for row in wrong]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows) or not any(some for _, some in found):
        return False
    factors = [factor for factor, _ in found]
    return max(factors) - min(factors) <= 0.01 * max(factors)


def _row(row: Array, stream: Array, part: Array) -> tuple[float, bool] | None:
    """The factor of a row whose numbers are all a (stream + factor part) + b or, where dropped, a stream + b.

    Besides it whether any were dropped. It is 0 where there is no stream; None: the row is not like this.
    """
    rng = np.random.default_rng(0)
    ones = np.ones_like(part)
    columns = np.stack([part, ones, stream] if stream.any() else [part, ones], axis=1)
    unknowns = columns.shape[1]
    if len(part) <= unknowns:  # which any numbers fit
        return None
    for _ in range(_TRIES):
        some = rng.choice(len(part), unknowns, replace=False)
        if np.linalg.cond(columns[some]) > 1e4:
            continue
        solved = np.linalg.solve(columns[some], row[some])
        near = 1e-3 * np.abs(row).max()
        kept = np.abs(row - columns @ solved) <= near
        dropped = np.abs(row - columns[:, 1:] @ solved[1:]) <= near
        if np.count_nonzero(kept) >= max(unknowns + 1, len(row) // 3) and (kept | dropped).all():
            factor = float(solved[0] / solved[2]) if unknowns == 3 else 0.0
            if unknowns == 2 or _LEAST < factor < _MOST:
                return factor, not kept.all()
    return None
