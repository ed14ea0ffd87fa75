"""What each norm has learned for every dimension: a scale (gamma), and a LayerNorm also a shift (beta)."""

from typing import TYPE_CHECKING

import numpy as np

from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.subjects import of_model
from gpt2np.ops.norms import shift
from gpt2np.tracing.lines import norms

if TYPE_CHECKING:
    from gpt2np.model import Model

MEASURES = ("mean", "std", "min", "max", "largest at")


@of_model
def norm_parameters(model: "Model") -> NamedArray:
    """Return the scale and shift of every norm: [norm, parameter, n_embd]; an RMSNorm has a scale only.

    A norm gives `normalized * scale + shift`: it multiplies what has variance 1 (mean square 1) by its scale
    and adds its shift. They are `weight` and `bias` in GPT-2's checkpoints. Norms are named as their sites:
    `h.0.ln_1`, `h.0.ln_2`, ..., `ln_f`.

    Example:
        >>> norm_parameters(model).array[-1, 0]  # the scale of ln_f, [n_embd]
    """
    found = norms(model.config, model.parameters)
    shifts = [shift(norm) for norm in found.values()]
    shifted = all(each is not None for each in shifts)
    scales = [norm.weight for norm in found.values()]
    pairs = zip(scales, shifts, strict=True)
    values = [list(pair) for pair in pairs] if shifted else [[scale] for scale in scales]
    kind = type(next(iter(found.values()))).__name__
    says = "scale and shift of each {}: normalized * scale + shift" if shifted else "scale of each {}"
    return NamedArray(
        np.array(values),
        ("norm", "parameter", "n_embd"),
        {"norm": list(found), "parameter": ("scale", "shift") if shifted else ("scale",)},
        says.format(kind),
    )


@np.errstate(under="ignore")
@of_model
def norm_statistics(model: "Model") -> NamedArray:
    """Return how scale and shift of every norm are spread over its dimensions: [parameter, norm, measure].

    `std` divides by n; `largest at` is the dimension of the largest magnitude.
    """
    found = norm_parameters(model)
    x = found.array.astype(np.float64).swapaxes(0, 1)  # [parameter, norm, n_embd]
    measures = [x.mean(-1), x.std(-1), x.min(-1), x.max(-1), np.abs(x).argmax(-1)]
    return NamedArray(
        np.stack(measures, axis=-1),
        ("parameter", "norm", "measure"),
        {"parameter": found.labels["parameter"], "norm": found.labels["norm"], "measure": MEASURES},
        f"{found.title.partition(':')[0]} over its dimensions",
    )
