"""The logit lens: what the model would predict if it stopped early (nostalgebraist 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpt2np.analysis.attribution import frozen_ln_f
from gpt2np.analysis.heads import dot_products, vectors_at_once
from gpt2np.analysis.named_array import FEW_POSITIONS, NamedArray
from gpt2np.analysis.positions_and_tokens import (
    heads_of,
    parameters_of_the_end,
    pos_labels,
    recorded,
    row_of,
    rows_of,
    token_id,
)
from gpt2np.analysis.subjects import of_trace
from gpt2np.errors import whole_number
from gpt2np.html_tables import heat_table
from gpt2np.ops import Array
from gpt2np.tables import by_shape, first_lines, fitted, quoted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import log_probabilities, top_k_tokens
from gpt2np.tracing.lines import held_unembedding_table, unembedding_table
from gpt2np.tracing.replay import read_out
from gpt2np.tracing.trace import Trace

RESIDUALS = ["embed", "resid_post"]  # the sites that `predictions` reads
KEEP = ["embed", "resid_mid", "resid_post"]  # those that `logit_lens` reads
SIMILARITY = ("dot product", "length of the row", "cosine")
KEEP_HEADS = ["attn.z", "resid_post"]  # those that `attention_lens` reads


def lens_logits(residual: Array, parameters: Any, config: ModelConfig, capped: bool = True) -> Array:
    """Apply ln_f and the unembedding to any residual stream: [..., n_embd] -> [..., vocab].

    With `capped=False` the logits are those before their soft cap, where there is one.
    """
    with np.errstate(all="ignore"):  # as in the run itself
        return read_out(residual, parameters, config, capped)


@np.errstate(under="ignore")
@of_trace
def predictions(trace: Trace, k: int = 1) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Return the k likeliest next tokens at the last position, after the embedding and after each layer.

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
    [site, pos] are those of `chosen`, one id for each position, and rank 1 is the likeliest; `entropy`
    [site, pos] is in nats; `kl` [site, pos] is KL(final || here) in nats, what would be lost by stopping.
    `texts` has the text of each of these ids.
    """

    top_ids: NamedArray
    top_probabilities: NamedArray
    chosen: list[int]
    probability: NamedArray
    rank: NamedArray
    entropy: NamedArray
    kl: NamedArray
    texts: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it for `tables.strict_json`."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: p.to_json() if isinstance(p, NamedArray) else p for name, p in parts.items()}

    def __str__(self) -> str:
        parts = map(str, (self.probability, self.rank, self.entropy, self.kl))
        return "\n\n".join([*self._likeliest(), *parts])

    def _likeliest(self) -> list[str]:
        """The likeliest token at every site and position, in one table; of many positions none."""
        ids, labels = self.top_ids.array[:, :, 0].tolist(), self.top_ids.labels
        if len(labels["pos"]) > FEW_POSITIONS:
            return []
        rows = [
            [site, *(quoted(self.texts.get(i, f"<{i}>"), 12) for i in row)]
            for site, row in zip(labels["site"], ids, strict=True)
        ]
        head = ["site\\pos", *(label.split(" ")[0] for label in labels["pos"])]
        return ["the likeliest next token\n" + fitted([head, *rows], "<" * len(head))]

    def __repr__(self) -> str:
        n_sites, n_pos = self.top_ids.array.shape[:2]
        size = f"{n_sites} sites, {n_pos} positions; also rank, entropy, kl, top_ids"
        return f"<LogitLens: {size}>\n{first_lines(str(self.probability))}"

    def _repr_html_(self) -> str:
        """The likeliest next token at every site and position, coloured by its probability."""
        ids, labels = self.top_ids.array[:, :, 0], self.top_ids.labels
        return heat_table(
            self.top_probabilities.array[:, :, 0],
            labels["site"],
            labels["pos"],
            "Logit lens: the likeliest next token, and how likely it is",
            "site \\ pos",
            texts=lambda i, j: quoted(self.texts.get(int(ids[i, j]), f"<{ids[i, j]}>"), 14),
            most=1.0,
        )


@np.errstate(under="ignore")
@of_trace
def logit_lens(
    trace: Trace,
    token: str | int | None = None,
    k: int = 1,
    pos: int | None = None,
    capped: bool = True,
) -> LogitLens:
    """Apply ln_f and the unembedding to the residual stream, at every position or at one `pos`.

    `token` is the one whose probability and rank are followed, as text or id; None follows at each position
    what the model finally predicts there. The last site is the model's own prediction. Where logits have a
    soft cap, `capped=False` takes them before it, as `logits_raw` and `attribution` have them: ranks are the
    same, probabilities farther apart; where they have none, it changes nothing.

    Raises:
        InputError: no such token or position, or k below 1.
        TraceError: a site of `KEEP` was not kept, the run stopped early, ln_f or the logits were edited, or
            there are no weights.
    """
    parameters = parameters_of_the_end(trace, "the lens")
    k = whole_number("k", k, 1)
    wanted = None if token is None else token_id(trace.model_for("the lens"), token)
    rows = rows_of(trace, pos)
    blocks = range(trace.config.n_layer)
    sites = ["embed", *(f"h.{layer}.{at}" for layer in blocks for at in ("resid_mid", "resid_post"))]
    residuals = np.stack([recorded(trace, site, rows) for site in sites])  # [site, pos, n_embd]
    chosen, found = [], []
    for i in range(
        len(rows)
    ):  # one position after another: [site, vocab] is small, [site, pos, vocab] is not
        logits = lens_logits(residuals[:, i], parameters, trace.config, capped)  # [site, vocab]
        spread, ids = spread_of(logits), top_k_tokens(logits, k)  # [site, k]
        chosen.append(int(top_k_tokens(logits[-1], 1)[0]) if wanted is None else wanted)
        mine = spread.probabilities(logits, np.full((len(logits), 1), chosen[-1]))[:, 0]
        rank = 1 + likelier(logits, chosen[-1])
        found.append((ids, spread.probabilities(logits, ids), mine, rank, spread.entropy, spread.kl))
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
        named(rank, f"rank of {what} (1 is the likeliest)"),
        named(entropy, "entropy of the prediction (nats)"),
        named(kl, "KL(final || here) (nats)"),
        {i: trace.token(i) for i in sorted({*top_ids.ravel().tolist(), *chosen})},
    )


class Spread(NamedTuple):
    """How probability is spread at each of several points of a run, of which the last is the final one.

    `log_total` [point] is what the logarithm of a probability is less than its logit, `entropy` [point] is in
    nats, and `kl` [point] is KL(final || here).
    """

    log_total: Array
    entropy: Array
    kl: Array

    def __repr__(self) -> str:
        return by_shape(self)

    def probabilities(self, logits: Array, ids: Array) -> Array:
        """Those of some tokens at every point, [point, vocab] and [point, k] -> [point, k]."""
        return np.exp(np.take_along_axis(logits, ids, 1).astype(np.float64) - self.log_total[:, None])


@np.errstate(under="ignore")
def spread_of(logits: Array) -> Spread:
    """Return how probability is spread at every point, in double precision: [point, vocab].

    Example:
        >>> spread_of(np.array([[0.0, 0.0]])).entropy
        array([0.69314718])
    """
    largest = logits.max(axis=-1).astype(np.float64)
    found, final = [], None
    for row, most in zip(logits[::-1], largest[::-1], strict=True):  # a row at a time stays in a cache
        x = row - most
        weights = np.exp(x)
        total = weights.sum()
        log_total = np.log(total)
        if final is None:
            final = weights / total, x, log_total
        apart = final[0] @ (final[1] - x) + (log_total - final[2])
        entropy = max(log_total - weights @ x / total, 0.0)
        found.append((most + log_total, entropy, apart))
    return Spread(*np.array(found[::-1]).T)


def likelier(logits: Array, token: int) -> Array:
    """Return how many tokens are likelier than one at each point, or as likely with a lower id: [point]."""
    return np.array(
        [
            np.count_nonzero(row[:token] >= row[token]) + np.count_nonzero(row[token:] > row[token])
            for row in logits
        ]
    )


def similarities(vectors: Array, rows: Array) -> Array:
    """Dot product, length of the row and cosine of a vector with each of its rows: [..., row, measure].

    `vectors` are [..., n_embd], `rows` [..., row, n_embd].
    """
    x, table = vectors.astype(np.float64), rows.astype(np.float64)
    dots, lengths = (table * x[..., None, :]).sum(axis=-1), np.linalg.norm(table, axis=-1)
    both = lengths * np.linalg.norm(x, axis=-1)[..., None]
    return np.stack([dots, lengths, dots / np.maximum(both, np.finfo(float).tiny)], axis=-1)


@of_trace
def nearest_rows(trace: Trace, pos: int = -1, k: int = 5) -> NamedArray:
    """Return the final vector of a position beside the k nearest rows of the unembedding: [token, measure].

    Nearest by dot product, which is the logit (before a soft cap, where there is one): the cosine of the two
    directions times both lengths. So they are the rows of the likeliest tokens.

    Raises:
        InputError: no such position, k below 1, or a model whose logits are not linear in ln_f.
        TraceError: `ln_f` was not kept, or there are no weights.
    """
    parameters = trace.parameters("the unembedding")
    row = row_of(trace, pos)
    ids = [i for _, i, _ in trace.top(k, pos)]
    rows = unembedding_table(trace.config, parameters, ids)
    labels = {"token": [trace.token(i) for i in ids], "measure": SIMILARITY}
    title = f"the final vector beside its nearest rows, at position {pos_labels(trace, [row])[0]}"
    return NamedArray(similarities(trace["ln_f"][row], rows), ("token", "measure"), labels, title)


@dataclass(frozen=True)
class AttentionLens:
    """The tokens that each head raises and lowers most, and by how much their logits: [layer, head, k]."""

    raised_ids: NamedArray
    raised: NamedArray
    lowered_ids: NamedArray
    lowered: NamedArray
    texts: Mapping[int, str] = field(default_factory=dict)  # the text of each of these ids

    def to_json(self) -> dict[str, Any]:
        """Return it for `tables.strict_json`."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: p.to_json() if isinstance(p, NamedArray) else p for name, p in parts.items()}

    def __str__(self) -> str:
        return f"{self.raised}\n\n{self.lowered}"

    def __repr__(self) -> str:
        return first_lines(str(self))

    def _repr_html_(self) -> str:
        """The tokens that each head raises most and lowers most, coloured by how far."""
        n_layer, n_head, k = self.raised.array.shape
        ids = np.concatenate([self.raised_ids.array, self.lowered_ids.array], axis=-1).reshape(-1, 2 * k)
        values = np.concatenate([self.raised.array, self.lowered.array], axis=-1).reshape(-1, 2 * k)
        heads = [f"{self.raised.label('layer', i)}.{j}" for i in range(n_layer) for j in range(n_head)]
        columns = [f"{does} {i + 1}" for does in ("raises", "lowers") for i in range(k)]
        title = "What each head raises and lowers most, by how much a logit"

        def shown(i: int, j: int) -> str:
            return quoted(self.texts.get(int(ids[i, j]), f"<{ids[i, j]}>"), 14)

        return heat_table(values, heads, columns, title, "head", texts=shown)


@np.errstate(under="ignore")
@of_trace
def attention_lens(trace: Trace, layer: int | None = None, pos: int = -1, k: int = 5) -> AttentionLens:
    """Unembed each head's output at a position, through ln_f with its scale held fixed.

    Of one layer or of all. A contribution is the same number as in `attribution` to that token.

    Raises:
        InputError: no such layer or position, k below 1, or a model whose logits are not linear in ln_f.
        TraceError: a site of `KEEP_HEADS` was not kept, the run stopped early, ln_f or the logits were
            edited, or there are no weights.
    """
    parameters, n_layer = parameters_of_the_end(trace, "the attention lens"), trace.config.n_layer
    k = whole_number("k", k, 1)
    layers = list(range(n_layer)) if layer is None else [whole_number("layer", layer, 0, n_layer - 1)]
    row, found, table = row_of(trace, pos), [], held_unembedding_table(trace.config, parameters)
    each = [heads_of(trace.config, parameters, i, recorded(trace, f"h.{i}.attn.z", [row]))[0] for i in layers]
    at_once = max(1, vectors_at_once(trace.config.vocab_size) // trace.config.n_head)
    for start in range(0, len(layers), at_once):
        heads = frozen_ln_f(trace, np.stack(each[start : start + at_once]), row)  # [layer, head, n_embd]
        logits = dot_products(table, heads)  # [layer, head, vocab]
        up = top_k_tokens(logits, k)
        upwards = np.take_along_axis(logits, up, -1)
        down = top_k_tokens(np.negative(logits, out=logits), k)
        found.append((up, upwards, down, -np.take_along_axis(logits, down, -1)))
    labels = {"layer": [str(i) for i in layers]}
    titles = [
        f"{what} each head {does}" for does in ("raises", "lowers") for what in ("ids that", "how much")
    ]
    parts = (np.concatenate(part) for part in zip(*found, strict=True))
    raised_ids, raised, lowered_ids, lowered = (
        NamedArray(p, ("layer", "head", "k"), labels, t) for p, t in zip(parts, titles, strict=True)
    )
    ids = sorted({*raised_ids.array.ravel().tolist(), *lowered_ids.array.ravel().tolist()})
    return AttentionLens(raised_ids, raised, lowered_ids, lowered, {i: trace.token(i) for i in ids})
