"""Mistakes of whole programs that `compare` has no name for, made from the true steps before."""

from collections.abc import Iterator, Mapping

import numpy as np

from gpt2np.lessons.exercises.after_mlp import GELU
from gpt2np.lessons.exercises.norm_mistakes import WRONG_NORMS
from gpt2np.lessons.exercises.stream import Gelu
from gpt2np.lessons.same import is_same
from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm
from gpt2np.ops.norms import normed
from gpt2np.tracing.trace import Trace

_NORMS = ("ln_1", "ln_2", "ln_f")


def slug_of(array: Array, site: str, truth: Trace, model: Model) -> str | None:
    """The mistake in this one step that gives the array, or None."""
    kind, weights = site.rpartition(".")[2], model.weights
    layer = int(site.split(".")[1]) if site.startswith("h.") else model.config.n_layer
    with np.errstate(all="ignore"):
        for slug, made in _made(kind, site, layer, truth, weights, model):
            if is_same(array, made):
                return slug
    if site == "embed":
        places = array - weights["wte.weight"][list(truth.token_ids)]
        return "position-constant" if is_same(places, np.broadcast_to(places[0], places.shape)) else None
    return None


def _made(
    kind: str, site: str, layer: int, truth: Trace, weights: Mapping[str, Array], model: Model
) -> Iterator[tuple[str, Array]]:
    """What each mistake gives at a step."""
    before = f"h.{layer - 1}." if kind in ("ln_1", "ln_f") else f"h.{layer}."
    stream = "resid_mid" if kind == "ln_2" else "resid_post"
    written = "attn.out" if kind in ("ln_2", "resid_mid") else "mlp.out"
    if kind in _NORMS:
        p = weights[f"{site}.weight"], weights[f"{site}.bias"], model.config.norm_epsilon
        x = truth["embed"] if site == "h.0.ln_1" else truth[before + stream]
        yield from ((wrong.slug, wrong.function(x, *p)) for wrong in WRONG_NORMS)
        if site != "h.0.ln_1":
            yield "norm-of-what-was-written", normed(truth[before + written], LayerNorm(*p))
    elif kind in ("resid_mid", "resid_post"):
        x = truth[f"h.{layer}.resid_pre" if kind == "resid_mid" else f"h.{layer}.resid_mid"]
        yield "residual-subtracted", x - truth[f"h.{layer}.{written}"]
        yield "residual-subtracted", truth[f"h.{layer}.{written}"] - x
    elif kind == "post":
        pre = truth[f"h.{layer}.mlp.pre"]
        yield "missing-bias", GELU(pre - weights[f"h.{layer}.mlp.c_fc.bias"])
        yield from ((wrong.slug, wrong.function(pre)) for wrong in Gelu.wrong)
    elif kind == "pattern":
        scores = truth[f"h.{layer}.attn.scores"]
        for one, other in ((-1, -2), (-2, -1), (-1, None), (-1, 0)):
            e = np.exp(scores - scores.max(axis=one, keepdims=True))
            yield "softmax-two-axes", e / e.sum(axis=other, keepdims=True)
