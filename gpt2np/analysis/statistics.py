"""Statistics of attention and of hidden states, for each layer and each step of a generation.

The conventions are those of the baseline notebook "Transformer Internals":

- Step 0 is the prompt's pass; every later step runs the token chosen before. A text without a generation,
  and a trace that was not made by one, is a single step.
- Minimum and mean of attention count the future, where it is 0: the mean is always 1 / keys.
- `hidden_states` are Hugging Face's: the embedding, the residual stream after each block but the last, and
  after the last one ln_f's output. Their standard deviation divides by n - 1.
- The first and the last hidden state point in a "Similar direction" if their cosine is above 0.5, else in a
  "Different direction".
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2np.analysis.named_array import NamedArray
from gpt2np.errors import InputError, TraceError, short
from gpt2np.generation.generated import Generated
from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace

Run = Trace | Generated

ATTENTION = ("min", "max", "mean", "min sum", "max sum", "mean sum")
HIDDEN = ("mean", "std", "min", "max")
EVERY = 3  # layers from one row of a table to the next
SIMILAR = 0.5  # cosines above it
SATURATED = 0.9  # largest attention of a row above it


def trace_of(run: Run) -> Trace:
    """Return the trace of a run, with all its positions.

    Raises:
        TraceError: nothing, or only some positions, were kept.
    """
    trace = run.trace if isinstance(run, Generated) else run
    if trace is None:
        raise TraceError("nothing was recorded: generate(..., keep='*')")
    if trace.positions != range(len(trace.token_ids)):
        raise TraceError(f"statistics need every position of a trace; kept are {trace.positions}")
    return trace


def steps(run: Run) -> list[range]:
    """Return the positions that each step ran: the prompt, then one for each chosen token but the last.

    Raises:
        TraceError: the trace says of its prompt what cannot be.
    """
    trace = trace_of(run)
    n = len(trace.token_ids)
    n_prompt = run.n_prompt if isinstance(run, Generated) else trace.metadata.get("n_prompt", n)
    if type(n_prompt) is not int or not 1 <= n_prompt <= n:
        raise TraceError(f"a prompt of {short(n_prompt)} tokens in a trace of {n} positions")
    return [range(n_prompt), *(range(i, i + 1) for i in range(n_prompt, n))]


def n_generated(run: Run) -> int:
    """Return how many tokens were chosen: one in each step, or none if a text was only read."""
    generated = isinstance(run, Generated) or "n_prompt" in run.metadata
    return len(steps(run)) if generated else 0


# -- attention ------------------------------------------------------------------------------------


@np.errstate(under="ignore")
def attention_statistics(run: Run) -> NamedArray:
    """Minimum, maximum and mean of attention over head, query and key, and of its rows' sums.

    [step, layer, statistic]; section 5 of the notebook.

    Raises:
        TraceError: attn.pattern of some layer was not kept.
    """

    def measure(pattern: NDArray[np.float64]) -> list[Any]:
        sums = pattern.sum(axis=-1)
        return [f(x) for x in (pattern, sums) for f in (np.min, np.max, np.mean)]

    values = _each_pattern(run, measure)
    return NamedArray(values, ("step", "layer", "statistic"), {"statistic": ATTENTION}, "attention")


@np.errstate(under="ignore")
def entropy(run: Run) -> NamedArray:
    """Return the entropy of attention in nats, mean over the queries of a step: [step, layer, head].

    0 where everything goes to one key, log(keys) where all get the same.

    Raises:
        TraceError: attn.pattern of some layer was not kept.
    """

    def measure(pattern: NDArray[np.float64]) -> Any:
        logs = np.log(np.where(pattern > 0, pattern, 1))  # 0 log 0 is 0
        return -(pattern * logs).sum(axis=-1).mean(axis=-1)

    return _per_head(run, measure, "entropy of attention (nats)")


@np.errstate(under="ignore")
def distance(run: Run) -> NamedArray:
    """Return how many positions back attention goes, mean over the queries of a step: [step, layer, head].

    Raises:
        TraceError: attn.pattern of some layer was not kept.
    """

    def measure(pattern: NDArray[np.float64]) -> Any:
        _, n_queries, n_keys = pattern.shape
        back = np.arange(n_keys - n_queries, n_keys)[:, None] - np.arange(n_keys)
        return (pattern * back).sum(axis=-1).mean(axis=-1)

    return _per_head(run, measure, "distance of attention (positions back)")


def first_token(run: Run) -> NamedArray:
    """Return the attention on the first token, mean over the queries of a step: [step, layer, head].

    The first query, which has nothing else to attend to, counts.

    Raises:
        TraceError: attn.pattern of some layer was not kept.
    """
    return _per_head(run, lambda pattern: pattern[:, :, 0].mean(axis=-1), "attention on the first token")


@np.errstate(under="ignore")
def saturation(run: Run, threshold: float = SATURATED) -> NamedArray:
    """Return the share of a step's queries with an attention above the threshold: [step, layer, head].

    There the softmax is saturated: its scores differ so much that one key gets nearly everything. The first
    query, which has nothing else to attend to, counts.

    Raises:
        InputError: the threshold is outside 0 to 1.
        TraceError: attn.pattern of some layer was not kept.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"threshold={short(threshold)}: a share of attention is 0 to 1")
    title = f"share of rows with an attention above {threshold:g}"
    return _per_head(run, lambda pattern: (pattern.max(axis=-1) > threshold).mean(axis=-1), title)


def attention_summary(run: Run, threshold: float = SATURATED) -> NamedArray:
    """Entropy, distance, first token and saturation, each the mean over heads: [step, layer, quantity].

    Raises:
        InputError: the threshold is outside 0 to 1.
        TraceError: attn.pattern of some layer was not kept.
    """
    parts = {
        "entropy": entropy(run),
        "distance": distance(run),
        "first token": first_token(run),
        "saturated": saturation(run, threshold),
    }
    values = np.stack([part.array.mean(axis=-1) for part in parts.values()], axis=-1)
    title = "attention, mean over heads"
    return NamedArray(values, ("step", "layer", "quantity"), {"quantity": list(parts)}, title)


def _per_head(run: Run, measure: Callable[[NDArray[np.float64]], Any], title: str) -> NamedArray:
    return NamedArray(_each_pattern(run, measure), ("step", "layer", "head"), {}, title)


def _each_pattern(run: Run, measure: Callable[[NDArray[np.float64]], Any]) -> Array:
    """A measure of [head, query, key] of each step and layer: [step, layer, ...]."""
    trace = trace_of(run)
    patterns = [trace[f"h.{i}.attn.pattern"] for i in range(trace.config.n_layer)]
    return np.array(
        [[measure(p[:, s.start : s.stop, : s.stop].astype(np.float64)) for p in patterns] for s in steps(run)]
    )


# -- hidden states --------------------------------------------------------------------------------


def hidden_states(run: Run) -> list[Array]:
    """Return Hugging Face's hidden states: the embedding, then after each block; the last after ln_f.

    Raises:
        TraceError: one of them was not kept.
    """
    trace = trace_of(run)
    blocks = [f"h.{i}.resid_post" for i in range(trace.config.n_layer - 1)]
    return [trace[name] for name in ("embed", *blocks, "ln_f")]


@np.errstate(under="ignore")
def hidden_state_statistics(run: Run) -> NamedArray:
    """Mean, standard deviation (of n - 1), minimum and maximum over position and n_embd.

    [step, layer, statistic] with n_layer + 1 layers, named after where they are; section 6 of the notebook.

    Raises:
        TraceError: a hidden state was not kept.
    """

    def measure(x: NDArray[np.float64]) -> list[Any]:
        return [x.mean(), x.std(ddof=1) if x.size > 1 else np.nan, x.min(), x.max()]

    layers = hidden_states(run)
    values = np.array([[measure(x[s.start : s.stop].astype(np.float64)) for x in layers] for s in steps(run)])
    blocks = [f"after layer {i}" for i in range(len(layers) - 2)]
    labels = {"layer": ["embedding", *blocks, "after ln_f"], "statistic": HIDDEN}
    return NamedArray(values, ("step", "layer", "statistic"), labels, "hidden states")


@np.errstate(under="ignore")
def layer_comparison(run: Run, step: int = 0, pos: int = -1) -> NamedArray:
    """Return norms and cosine of the first and last hidden state at one position of a step: [quantity].

    The last one is taken after ln_f. `pos` counts the step's own positions.

    Raises:
        InputError: no such step, or no such position in it.
        TraceError: a hidden state was not kept.
    """
    all_steps = steps(run)
    positions = all_steps[_index("step", step, len(all_steps))]
    at = positions[_index("position", pos, len(positions))]
    layers = hidden_states(run)
    first, last = (x[at].astype(np.float64) for x in (layers[0], layers[-1]))
    norms = np.linalg.norm(first), np.linalg.norm(last)
    cosine = first @ last / max(norms[0] * norms[1], 1e-8)  # as torch's cosine_similarity
    labels = ("first norm", "last norm", "cosine")
    title = f"first and last hidden state at position {at}"
    return NamedArray(np.array([*norms, cosine]), ("quantity",), {"quantity": labels}, title)


def comparison_by_step(run: Run) -> NamedArray:
    """`layer_comparison` at the last position of every step, which chose its token: [step, quantity].

    Raises:
        TraceError: a hidden state was not kept.
    """
    rows = [layer_comparison(run, step) for step in range(len(steps(run)))]
    title = "first and last hidden state"
    return NamedArray(np.array([r.array for r in rows]), ("step", "quantity"), rows[0].labels, title)


def verdict(cosine: float) -> str:
    """Return the notebook's interpretation of a cosine."""
    return "Similar direction" if cosine > SIMILAR else "Different direction"


# -- parts of tables ------------------------------------------------------------------------------


def pick(named: NamedArray, axis: str, index: int) -> NamedArray:
    """Return one entry of an axis: the same table without that axis.

    Raises:
        InputError: no such entry.
    """
    at = named.axes.index(axis)
    index = _index(axis, index, named.array.shape[at])
    labels = {name: names for name, names in named.labels.items() if name != axis}
    axes = tuple(name for name in named.axes if name != axis)
    title = f"{named.title}, {axis} {named.label(axis, index)}"
    return NamedArray(np.take(named.array, index, at), axes, labels, title)


def every_nth(named: NamedArray, layers: Sequence[int]) -> NamedArray:
    """Return some layers of a table, which keep their names or numbers."""
    at = named.axes.index("layer")
    labels = {**named.labels, "layer": [named.label("layer", i) for i in layers]}
    return NamedArray(np.take(named.array, list(layers), at), named.axes, labels, named.title)


def _index(what: str, index: int, n: int) -> int:
    if not -n <= index < n:
        raise InputError(f"{what} {index} is not one of 0 to {n - 1}")
    return index % n
