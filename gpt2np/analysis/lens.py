"""The logit lens: what the model would predict if it stopped early (nostalgebraist 2020)."""

from typing import Any

import numpy as np

from gpt2np.derived import log_probabilities, top_k_tokens
from gpt2np.ops import Array, layer_norm, unembedding

RESIDUALS = ["embed", "resid_post"]  # the sites that the lens reads


def lens_logits(residual: Array, parameters: Any) -> Array:
    """ln_f and unembedding of any residual stream: [..., n_embd] -> [..., vocab]."""
    rows = residual.reshape(-1, residual.shape[-1])
    normed = np.empty_like(rows)
    logits = np.empty((len(rows), len(parameters.lm_head)), rows.dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # as in the run itself
        layer_norm(rows, parameters.ln_f, out=normed)
        unembedding(normed, parameters.lm_head, out=logits)
    return logits.reshape(*residual.shape[:-1], -1)


def predictions(trace: Any, k: int = 1) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """For the embedding and the residual after each layer: the k likeliest next tokens at the last position.

    Returns (site, [(token, id, probability), ...]) from the first to the last layer; the last one is the
    model's own prediction.
    """
    names = ["embed"] + [f"h.{layer}.resid_post" for layer in range(trace.config.n_layer)]
    logits = lens_logits(np.stack([trace[name][-1] for name in names]), trace.parameters("the lens"))
    probabilities = np.exp(log_probabilities(logits.astype(np.float64)))
    rows = []
    for name, ids, row in zip(names, top_k_tokens(logits, k).tolist(), probabilities, strict=True):
        rows.append((name, [(trace.token(i), i, float(row[i])) for i in ids]))
    return rows
