"""What must hold inside any trace: each step, computed again from the recorded arrays before it."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np import ops
from gpt2np.errors import VerificationError
from gpt2np.ops import Array
from gpt2np.tracing.derived import bases, split_qkv
from gpt2np.tracing.plan import Entry
from gpt2np.tracing.trace import Trace

# Largest difference that is noise, relative to the largest magnitude (at least 1) of the site.
NOISE = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3}

# statement, the sites that it is about (first the one that it defines), whether it needs weights, how to
# compute (found, expected)
Check = tuple[str, tuple[str, ...], bool, Callable[[], tuple[Array, Array]]]


@dataclass(frozen=True)
class Verification:
    """The identities that were checked, with the largest difference of each, and those that could not be."""

    checked: dict[str, float]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        worst = max(self.checked.values(), default=0.0)
        return (
            f"<Verification: {len(self.checked)} identities hold, largest difference {worst:.1e}; "
            f"{len(self.skipped)} not checked>"
        )


def verify(trace: Trace) -> Verification:
    """Check every identity whose sites were kept.

    Differences are relative to the largest magnitude in the site, at least 1. Identities that need a
    site that was not kept, the model's weights (on an opened trace without `model=`), or all positions
    (where only some were kept), and those of sites that the run edited, are in `skipped` with the reason.

    Raises:
        VerificationError: names the first identity, in execution order, that does not hold.
    """
    tolerance = max(NOISE[name] for name in _precisions(trace))
    checked, skipped, edited = {}, {}, _edited(trace)
    for statement, sites, needs_weights, compute in identities(trace):
        missing = [name for name in sites if name not in trace]
        if missing:
            skipped[statement] = f"{missing[0]} was not kept"
        elif sites[0] in edited:
            skipped[statement] = "edited"
        elif needs_weights and trace.model is None:
            skipped[statement] = "needs the model's weights: Trace.open(path, model=...)"
        elif _meets_positions(sites) and len(trace.positions) < len(trace.token_ids):
            skipped[statement] = "needs every position"
        else:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the comparison finds them
                checked[statement] = _compare(statement, *compute(), tolerance)
    return Verification(checked, skipped)


def _precisions(trace: Trace) -> set[str]:
    """Of the run, of what is stored, and of the weights at hand: the coarsest decides what is noise."""
    names = {trace.plan.dtype.name, trace.plan.keep.dtype or trace.plan.dtype.name}
    return names if trace.model is None else names | {trace.model.dtype.name}


def _edited(trace: Trace) -> set[str]:
    """The sites that are not what their step computed; q, k and v are written into qkv."""
    names = trace.metadata.get("edits")
    found = [str(name) for name in names] if isinstance(names, list) else []
    return {name[:-1] + "qkv" if name.endswith((".attn.q", ".attn.k", ".attn.v")) else name for name in found}


def _meets_positions(sites: tuple[str, ...]) -> bool:
    """Whether the identity looks at several positions at once: attention over keys and values."""
    return any(name.endswith(("attn.scores", "attn.pattern")) for name in sites)


def _compare(statement: str, found: Array, expected: Array, tolerance: float) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))  # infinities too
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(found - expected))
    scale = max(
        1.0, float(np.abs(expected, where=np.isfinite(expected), out=np.ones_like(expected)).max(initial=0))
    )
    worst = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)) / scale
    if worst > tolerance:
        at = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), difference.shape)
        where = ", ".join(str(int(i)) for i in at)
        raise VerificationError(
            f"{statement} does not hold: off by {worst:.1e} of the largest value at [{where}], "
            f"where noise is at most {tolerance:.0e}"
        )
    return worst


def identities(trace: Trace) -> Iterator[Check]:
    """Every identity of this trace, in execution order."""

    dtype = trace.plan.dtype if trace.model is None else trace.model.dtype  # what is computed again

    def get(name: str) -> Array:
        return trace[name].astype(dtype, copy=False)

    def again(op: Callable[..., None], *inputs: Any, like: str) -> tuple[Array, Array]:
        expected = get(like)
        out = np.empty_like(expected)
        op(*inputs, out=out)
        return out, expected

    p: Any = trace.model.parameters if trace.model is not None else None
    cfg = trace.config
    ids, at = np.array(trace.token_ids)[list(trace.positions)], np.array(trace.positions, np.intp)
    yield (
        "wte = row of the token table",
        ("wte",),
        True,
        lambda: again(ops.lookup, ids, p.wte, like="wte"),
    )
    yield (
        "wpe = row of the position table",
        ("wpe",),
        True,
        lambda: again(ops.lookup, at, p.wpe, like="wpe"),
    )
    yield (
        "embed = wte + wpe",
        ("embed", "wte", "wpe"),
        False,
        lambda: again(ops.add, get("wte"), get("wpe"), like="embed"),
    )
    n_layer = cfg.n_layer if trace.plan.stop_at_layer is None else trace.plan.stop_at_layer
    for layer in range(n_layer):
        yield from _block_identities(trace, layer, get, again)
    for entry in trace.plan.entries:
        if entry.site.derived and not entry.name.endswith((".attn.q", ".attn.k", ".attn.v")):
            base = bases(entry.site.name, entry.layer, cfg.n_layer)
            yield (
                f"{entry.name} follows from {base[0]}",
                (entry.name, *base),
                entry.site.name == "attn.heads",
                functools.partial(_derived_again, trace, entry),
            )
    if trace.plan.stop_at_layer is None:
        last = f"h.{cfg.n_layer - 1}.resid_post"
        yield (
            f"ln_f = layer_norm({last})",
            ("ln_f", last),
            True,
            lambda: again(ops.layer_norm, get(last), p.ln_f, like="ln_f"),
        )
        yield (
            "logits = ln_f @ lm_head.T",
            ("logits", "ln_f"),
            True,
            lambda: again(ops.unembedding, get("ln_f"), p.lm_head, like="logits"),
        )


def _derived_again(trace: Trace, entry: Entry) -> tuple[Array, Array]:
    """A stored derived site, and the same computed now."""
    return trace[entry.name], trace.derive(entry.site.name, entry.layer)


def _block_identities(trace: Trace, layer: int, get: Any, again: Any) -> Iterator[Check]:
    h, cfg = f"h.{layer}.", trace.config
    p: Any = trace.model.parameters.h[layer] if trace.model is not None else None

    def qkv(part: int) -> Array:
        return np.asarray(split_qkv(get(h + "attn.qkv"), cfg.n_head)[part])

    def future(site: str, value: float) -> tuple[Array, Array]:
        array = get(h + site)
        i, j = np.triu_indices(array.shape[1], 1)
        return array[:, i, j], np.full((array.shape[0], len(i)), value)

    yield (
        f"{h}ln_1 = layer_norm({h}resid_pre)",
        (h + "ln_1", h + "resid_pre"),
        True,
        lambda: again(ops.layer_norm, get(h + "resid_pre"), p.ln_1, like=h + "ln_1"),
    )
    yield (
        f"{h}attn.qkv = linear({h}ln_1)",
        (h + "attn.qkv", h + "ln_1"),
        True,
        lambda: again(ops.linear, get(h + "ln_1"), p.attn.c_attn, like=h + "attn.qkv"),
    )
    for part, name in enumerate("qkv"):
        if h + f"attn.{name}" not in trace.names():
            continue  # a view of qkv: nothing to compare
        yield (
            f"{h}attn.{name} is a slice of {h}attn.qkv",
            (h + f"attn.{name}", h + "attn.qkv"),
            False,
            functools.partial(lambda part, name: (get(f"{h}attn.{name}"), qkv(part)), part, name),
        )
    yield (
        f"{h}attn.scores are -inf in the future",
        (h + "attn.scores",),
        False,
        lambda: future("attn.scores", -np.inf),
    )
    yield (
        f"{h}attn.scores = q @ k.T, scaled",
        (h + "attn.scores", h + "attn.qkv"),
        False,
        lambda: again(ops.scaled_scores, qkv(0), qkv(1), cfg.attention_scale(layer), like=h + "attn.scores"),
    )
    yield (
        f"{h}attn.pattern is 0 in the future",
        (h + "attn.pattern",),
        False,
        lambda: future("attn.pattern", 0.0),
    )
    yield (
        f"{h}attn.pattern rows sum to 1",
        (h + "attn.pattern",),
        False,
        lambda: (get(h + "attn.pattern").sum(-1), np.ones(get(h + "attn.pattern").shape[:2])),
    )
    yield (
        f"{h}attn.pattern = softmax({h}attn.scores)",
        (h + "attn.pattern", h + "attn.scores"),
        False,
        lambda: again(ops.softmax, get(h + "attn.scores"), like=h + "attn.pattern"),
    )
    yield (
        f"{h}attn.z = pattern @ v",
        (h + "attn.z", h + "attn.pattern", h + "attn.qkv"),
        False,
        lambda: again(ops.mix, get(h + "attn.pattern"), qkv(2), like=h + "attn.z"),
    )
    yield (
        f"{h}attn.out = sum of {h}attn.heads + bias",
        (h + "attn.out", h + "attn.z"),
        True,
        lambda: (trace[h + "attn.heads"].sum(1) + p.attn.c_proj.bias, get(h + "attn.out")),
    )
    yield (
        f"{h}resid_mid = {h}resid_pre + {h}attn.out",
        (h + "resid_mid", h + "resid_pre", h + "attn.out"),
        False,
        lambda: again(ops.add, get(h + "resid_pre"), get(h + "attn.out"), like=h + "resid_mid"),
    )
    yield (
        f"{h}ln_2 = layer_norm({h}resid_mid)",
        (h + "ln_2", h + "resid_mid"),
        True,
        lambda: again(ops.layer_norm, get(h + "resid_mid"), p.ln_2, like=h + "ln_2"),
    )
    yield (
        f"{h}mlp.pre = linear({h}ln_2)",
        (h + "mlp.pre", h + "ln_2"),
        True,
        lambda: again(ops.linear, get(h + "ln_2"), p.mlp.c_fc, like=h + "mlp.pre"),
    )
    yield (
        f"{h}mlp.post = {cfg.activation_function}({h}mlp.pre)",
        (h + "mlp.post", h + "mlp.pre"),
        False,
        lambda: again(ops.ACTIVATIONS[cfg.activation_function], get(h + "mlp.pre"), like=h + "mlp.post"),
    )
    yield (
        f"{h}mlp.out = linear({h}mlp.post)",
        (h + "mlp.out", h + "mlp.post"),
        True,
        lambda: again(ops.linear, get(h + "mlp.post"), p.mlp.c_proj, like=h + "mlp.out"),
    )
    yield (
        f"{h}resid_post = {h}resid_mid + {h}mlp.out",
        (h + "resid_post", h + "resid_mid", h + "mlp.out"),
        False,
        lambda: again(ops.add, get(h + "resid_mid"), get(h + "mlp.out"), like=h + "resid_post"),
    )
