"""The logit lens: what the model would predict if it stopped early (nostalgebraist 2020)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.analysis.attribution import frozen_ln_f
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import (
    heads_of,
    parameters_of_the_end,
    pos_labels,
    recorded,
    row_of,
    rows_of,
    token_id,
)
from gpt2np.errors import whole_number
from gpt2np.ops import Array
from gpt2np.tables import quoted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import log_probabilities, top_k_tokens
from gpt2np.tracing.lines import unembedding_table
from gpt2np.tracing.replay import read_out

RESIDUALS = ["embed", "resid_post"]  # the sites that `predictions` reads
KEEP = ["embed", "resid_mid", "resid_post"]  # those that `logit_lens` reads
KEEP_HEADS = ["attn.z", "resid_post"]  # those that `attention_lens` reads


def lens_logits(residual: Array, parameters: Any, config: ModelConfig) -> Array:
    """What follows the last block, applied to any residual stream: [..., n_embd] -> [..., vocab]."""
    with np.errstate(all="ignore"):  # as in the run itself
        return read_out(residual, parameters, config)


@np.errstate(under="ignore")
def predictions(trace: Any, k: int = 1) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """For the embedding and the residual after each layer: the k likeliest next tokens at the last position.

    Returns (site, [(token, id, probability), ...]) from the first to the last layer; the last one is the
    model's own prediction.

    Raises:
        InputError: k below 1.
        TraceError: a site of `RESIDUALS` or the last position was not kept, the run stopped early, ln_f or
            the logits were edited, or there are no weights.
    """
    parameters = parameters_of_the_end(trace, "the lens")
    k = whole_number("k", k, 1)
    names = ["embed"] + [f"h.{layer}.resid_post" for layer in range(trace.config.n_layer)]
    last = [row_of(trace, -1)]
    residuals = np.concatenate([recorded(trace, name, last) for name in names])
    logits = lens_logits(residuals, parameters, trace.config)
    probabilities = np.exp(log_probabilities(logits.astype(np.float64)))
    rows = []
    for name, ids, row in zip(names, top_k_tokens(logits, k).tolist(), probabilities, strict=True):
        rows.append((name, [(trace.token(i), i, float(row[i])) for i in ids]))
    return rows


@dataclass(frozen=True)
class LogitLens:
    """What the model would predict at every residual point: sites embed, h.0.resid_mid, h.0.resid_post, ...

    `top_ids` and `top_probabilities` [site, pos, k] are the likeliest next tokens; `probability` and `rank`
    [site, pos] are those of `chosen`, one id for each position, and rank 0 is the likeliest; `entropy`
    [site, pos] is in nats; `kl` [site, pos] is KL(final || here) in nats, what would be lost by stopping.
    """

    top_ids: NamedArray
    top_probabilities: NamedArray
    chosen: list[int]
    probability: NamedArray
    rank: NamedArray
    entropy: NamedArray
    kl: NamedArray

    def to_json(self) -> dict[str, Any]:
        """For `tables.strict_json`."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: p.to_json() if isinstance(p, NamedArray) else p for name, p in parts.items()}

    def __str__(self) -> str:
        return "\n\n".join(map(str, (self.probability, self.rank, self.entropy, self.kl)))


@np.errstate(under="ignore")
def logit_lens(trace: Any, token: str | int | None = None, k: int = 1, pos: int | None = None) -> LogitLens:
    """ln_f and the unembedding applied to the residual stream at every point and position, or at one `pos`.

    `token` is the one whose probability and rank are followed, as text or id; None follows at each position
    what the model finally predicts there. The last site is the model's own prediction.

    Raises:
        InputError: no such token or position, or k below 1.
        TraceError: a site of `KEEP` was not kept, the run stopped early, ln_f or the logits were edited, or
            there are no weights.
    """
    parameters = parameters_of_the_end(trace, "the lens")
    k = whole_number("k", k, 1)
    wanted = None if token is None else token_id(trace.model, token)
    rows = rows_of(trace, pos)
    blocks = range(trace.config.n_layer)
    sites = ["embed", *(f"h.{layer}.{at}" for layer in blocks for at in ("resid_mid", "resid_post"))]
    residuals = np.stack([recorded(trace, site, rows) for site in sites])  # [site, pos, n_embd]
    chosen, found = [], []
    for i in range(
        len(rows)
    ):  # one position after another: [site, vocab] is small, [site, pos, vocab] is not
        logits = lens_logits(residuals[:, i], parameters, trace.config)  # [site, vocab]
        log_p = log_probabilities(logits.astype(np.float64))
        p = np.exp(log_p)
        ids = top_k_tokens(logits, k)  # [site, k]
        chosen.append(int(top_k_tokens(logits[-1], 1)[0]) if wanted is None else wanted)
        mine = logits[:, chosen[-1]]  # [site]
        better = (logits > mine[:, None]).sum(axis=1)
        better += (logits[:, : chosen[-1]] == mine[:, None]).sum(axis=1)  # of equals the lower id comes first
        entropy = np.abs((p * log_p).sum(axis=1))  # abs: a certain token has 0, not -0
        kl = (p[-1] * (log_p[-1] - log_p)).sum(axis=1)
        found.append((ids, np.take_along_axis(p, ids, 1), p[:, chosen[-1]], better, entropy, kl))
    top_ids, top_p, probability, rank, entropy, kl = (
        np.stack(each, axis=1) for each in zip(*found, strict=True)
    )
    labels = {"site": sites, "pos": pos_labels(trace, rows)}
    what = "the final prediction" if wanted is None else f"{quoted(trace.token(wanted), 14)} ({wanted})"

    def named(array: Array, title: str) -> NamedArray:
        return NamedArray(array, ("site", "pos", "k")[: array.ndim], labels, title)

    return LogitLens(
        named(top_ids, "ids of the likeliest next tokens"),
        named(top_p, "probabilities of the likeliest next tokens"),
        chosen,
        named(probability, f"probability of {what}"),
        named(rank, f"rank of {what} (0 is the likeliest)"),
        named(entropy, "entropy of the prediction (nats)"),
        named(kl, "KL(final || here) (nats)"),
    )


@dataclass(frozen=True)
class AttentionLens:
    """The tokens that each head raises and lowers most, and by how much their logits: [layer, head, k]."""

    raised_ids: NamedArray
    raised: NamedArray
    lowered_ids: NamedArray
    lowered: NamedArray

    def to_json(self) -> dict[str, Any]:
        """For `tables.strict_json`."""
        return {name: getattr(self, name).to_json() for name in self.__dataclass_fields__}

    def __str__(self) -> str:
        return f"{self.raised}\n\n{self.lowered}"


@np.errstate(under="ignore")
def attention_lens(trace: Any, layer: int | None = None, pos: int = -1, k: int = 5) -> AttentionLens:
    """Each head's output at a position through ln_f, its scale held fixed, and the unembedding.

    Of one layer or of all. A contribution is the same number as in `attribution` to that token.

    Raises:
        InputError: no such layer or position, k below 1, or a model whose logits are not linear in ln_f.
        TraceError: a site of `KEEP_HEADS` was not kept, the run stopped early, ln_f or the logits were
            edited, or there are no weights.
    """
    parameters, n_layer = parameters_of_the_end(trace, "the attention lens"), trace.config.n_layer
    k = whole_number("k", k, 1)
    layers = list(range(n_layer)) if layer is None else [whole_number("layer", layer, 0, n_layer - 1)]
    row, found, table = row_of(trace, pos), [], unembedding_table(trace.config, parameters)
    for i in layers:
        heads = heads_of(trace.config, parameters, i, recorded(trace, f"h.{i}.attn.z", [row]))[0]
        logits = frozen_ln_f(trace, heads, row) @ table.T  # [head, vocab]
        up, down = top_k_tokens(logits, k), top_k_tokens(-logits, k)
        found.append((up, np.take_along_axis(logits, up, 1), down, np.take_along_axis(logits, down, 1)))
    labels = {"layer": [str(i) for i in layers]}
    titles = [
        f"{what} each head {does}" for does in ("raises", "lowers") for what in ("ids that", "how much")
    ]
    parts = (np.stack(each) for each in zip(*found, strict=True))
    return AttentionLens(
        *(NamedArray(p, ("layer", "head", "k"), labels, t) for p, t in zip(parts, titles, strict=True))
    )
