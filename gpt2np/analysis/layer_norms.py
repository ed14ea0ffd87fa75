"""What each LayerNorm has learned: a scale (gamma) and a shift (beta) for every dimension."""

from typing import Any

import numpy as np

from gpt2np.analysis.named_array import NamedArray

PARAMETERS = ("scale", "shift")  # `weight` and `bias` in the checkpoint
MEASURES = ("mean", "std", "min", "max", "largest at")


def norm_parameters(model: Any) -> NamedArray:
    """Scale and shift of every LayerNorm: [norm, parameter, n_embd].

    A norm gives `normalized * scale + shift`: it multiplies what has mean 0 and variance 1 by its scale and
    adds its shift. Norms are named as their sites: `h.0.ln_1`, `h.0.ln_2`, ..., `ln_f`.

    Example:
        >>> norm_parameters(model).array[-1, 0]  # the scale of ln_f, [n_embd]
    """
    p = model.parameters
    norms = {
        f"h.{i}.{name}": getattr(block, name) for i, block in enumerate(p.h) for name in ("ln_1", "ln_2")
    }
    norms["ln_f"] = p.ln_f
    return NamedArray(
        np.stack([[norm.weight, norm.bias] for norm in norms.values()]),
        ("norm", "parameter", "n_embd"),
        {"norm": list(norms), "parameter": PARAMETERS},
        "scale and shift of each LayerNorm: normalized * scale + shift",
    )


def norm_statistics(model: Any) -> NamedArray:
    """How scale and shift of every LayerNorm are spread over its dimensions: [parameter, norm, measure].

    `std` divides by n; `largest at` is the dimension of the largest magnitude.
    """
    found = norm_parameters(model)
    x = found.array.astype(np.float64).swapaxes(0, 1)  # [parameter, norm, n_embd]
    measures = [x.mean(-1), x.std(-1), x.min(-1), x.max(-1), np.abs(x).argmax(-1)]
    return NamedArray(
        np.stack(measures, axis=-1),
        ("parameter", "norm", "measure"),
        {"parameter": PARAMETERS, "norm": found.labels["norm"], "measure": MEASURES},
        "scale and shift of each LayerNorm over its dimensions",
    )
