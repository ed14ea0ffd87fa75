"""Exercises of lesson 3: how q, k and v are cut, scores, pattern, and what is done with the values."""

from typing import Any

from gpt2np.lessons.by_site import AtSite, Run


class Scores(AtSite):
    """Dot products of queries and keys."""

    name = "attention.scores"
    asks = "How much does each word want to know from each word?"
    axes = {"q": "query head d_head", "k": "key head d_head"}
    site = "h.1.attn.scores"
    mistakes = (
        *("scores-unscaled", "scores-scaled-by-d-head", "scores-scaled-by-n-embd", "scores-scaled-by-n-head"),
        *("qkv-order", "mask-missing", "mask-off-by-one", "mask-anticausal", "mask-value-small"),
    )

    def inputs(self, run: Run) -> dict[str, Any]:
        """Queries and keys."""
        return {"q": run["h.1.attn.q"], "k": run["h.1.attn.k"]}
