"""Activation patching: which part of a run on one text makes it behave like a run on another.

`sweep` runs `corrupt` again and again, each time with one value taken from `clean`, and says what a metric
of the prediction becomes (Meng et al. 2022; Wang et al. 2022 for the variants along a path). Only what an
edit can change is computed: a run starts at the edited layer, from the residual stream that was recorded,
and the runs of a layer are packed into one pass.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gpt2np.analysis.interventions import Some, patch
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.positions_and_tokens import heads_of
from gpt2np.characters import readable
from gpt2np.errors import InputError, TraceError, reason, short, whole_number
from gpt2np.ops import Array
from gpt2np.tables import quoted, stream_of_bars
from gpt2np.text.prompts import Prompt
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.edits import Edits
from gpt2np.tracing.lines import lines, matrix_of
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.scratch import Scratch
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.model import Model

_T = TypeVar("_T")
Run = Trace | Prompt
Metric = Callable[[Array], float]  # of the logits of the last position [vocab]

ROWS_A_PASS = 1024  # positions that are packed into one pass, so that memory stays small
DIRECT = ("attn.z", "attn.out", "mlp.post", "mlp.out", "resid_mid", "resid_post")  # written to the residual


def logit_difference(answer: int, wrong: int) -> Metric:
    """Return the usual metric: the logit of the right token minus that of the wrong one, by their ids."""
    for name, token in (("answer", answer), ("wrong", wrong)):
        if isinstance(token, str):
            raise InputError(
                f"{name}={short(token)}: must be a whole number, a token's id: model.find_id({short(token)})"
            )
    answer, wrong = whole_number("answer", answer, 0), whole_number("wrong", wrong, 0)
    return lambda logits: float(logits[answer]) - float(logits[wrong])


def sweep(
    clean: Run,
    corrupt: Run,
    metric: Metric,
    over: str = "h.*.attn.z",
    *,
    model: "Model | None" = None,
    by: str | None = None,
    direct: bool = False,
    progress: bool | None = None,
) -> NamedArray:
    """Patch one value at a time from `clean` into `corrupt`; the metric: [layer, head] or [layer, pos].

    `clean` and `corrupt` are traces that know their model, or prompts, which need `model=`; both of the same
    number of tokens. `metric` is a function of the logits of the last position [vocab]. `over` is a site of
    some or all layers, under any name. A site with heads is patched head by head (keys and values that heads
    share: group by group, [layer, kv_head]), at all positions; others, and any with `by="pos"`, position by
    position. With `direct` only what the patched value itself adds to
    the final residual stream changes, and all later components stay as they were in `corrupt`; the last
    norm is computed anew. A progress bar shows on a terminal.

    The numbers are the metric itself. `gpt2np patch` prints the share that is brought back: 0 is the metric
    of `corrupt`, 1 that of `clean`, so (found - of_corrupt) / (of_clean - of_corrupt).

    A trace must have kept the site, `corrupt` also `embed` and `resid_post`, all positions of them.

    Raises:
        InputError: lengths differ, `over` is more than one site or none of a layer, or no direct path exists.
        TraceError: a trace lacks an array.
    """
    clean, corrupt, model = _runs(
        clean, corrupt, model, lambda config: [*_meant(over, config), "embed", "resid_post"]
    )
    names, site, by = _swept(over, by, model.config)
    layers = [int(name.split(".")[1]) for name in names]
    n = len(corrupt.token_ids) if by == "pos" else model.config.dims[by]
    if direct:
        logits = _direct(clean, corrupt, model, site.name, layers, by, n)
    else:
        logits = _patched(clean, corrupt, model, names, layers, by, n)
    found = [_number(metric, row) for row in _shown(logits, len(layers) * n, progress)]
    way = ", direct path only" if direct else ""
    return _map(found, names, by, clean, corrupt, f"metric with {site.name} patched{way}")


def path_sweep(
    clean: Run,
    corrupt: Run,
    metric: Metric,
    receiver: str | Sequence[str],
    over: str = "h.*.attn.z",
    *,
    receiver_heads: Some = None,
    model: "Model | None" = None,
    by: str | None = None,
    progress: bool | None = None,
) -> NamedArray:
    """Run `path_patch` from each head or position to a receiver: [layer, head] or [layer, pos].

    As a `sweep` of `over`, but each value of `clean` reaches the receiver only, straight along the residual
    stream. Layers without a sender before every receiver are left out.

    Raises:
        InputError: as `sweep` and `path_patch`; no layer of `over` comes before the receiver.
        TraceError: a trace lacks an array.
    """
    clean, corrupt, model = _runs(
        clean, corrupt, model, lambda config: ["attn.out", "mlp.out", *_meant(over, config)]
    )
    names, site, by = _swept(over, by, model.config)
    order = [name for name, _, _ in model.config.architecture.sites.expand(model.config.n_layer)]
    received = _meant(receiver, model.config)
    if not received:
        raise InputError("a path needs at least one receiver")
    first = min(order.index(name) for name in received)
    names = [name for name in names if order.index(name) < first]
    if not names:
        raise InputError(f"no layer of {short(over)} comes before {order[first]}")
    n = len(corrupt.token_ids) if by == "pos" else model.config.dims[by]
    of_position = by == "pos"
    paths = (
        path_patch(
            clean,
            corrupt,
            metric,
            name,
            receiver,
            sender_positions=i if of_position else None,
            sender_heads=None if of_position else i,
            receiver_heads=receiver_heads,
        )
        for name in names
        for i in range(n)
    )
    found = list(_shown(paths, len(names) * n, progress))
    to = receiver if isinstance(receiver, str) else ", ".join(receiver)
    return _map(found, names, by, clean, corrupt, f"metric with {site.name} patched, path to {to} only")


def path_patch(
    clean: Run,
    corrupt: Run,
    metric: Metric,
    sender: str,
    receiver: str | Sequence[str],
    *,
    sender_heads: Some = None,
    receiver_heads: Some = None,
    sender_positions: Some = None,
    receiver_positions: Some = None,
    model: "Model | None" = None,
) -> float:
    """Return the metric of `corrupt` if only the path from one site to another has values of `clean`.

    The receiver is what it would be if `sender` were patched from `clean` while every attention and MLP
    between the two wrote to the residual stream what it wrote in `corrupt`; with the receiver patched to
    that, the rest of `corrupt` runs freely. Names are full names, such as `h.5.attn.z` and `h.9.attn.q`, of
    any dialect; several receivers are patched together.

    Raises:
        InputError: lengths differ, there is no such position, or the sender does not come before each
            receiver.
        TraceError: a trace lacks the sender (`clean`), or `attn.out` and `mlp.out` (`corrupt`).
    """
    receivers = [receiver] if isinstance(receiver, str) else list(receiver)
    clean, corrupt, model = _runs(
        clean, corrupt, model, lambda config: ["attn.out", "mlp.out", *_meant(sender, config)]
    )
    sent, received = _meant(sender, model.config), _meant(receivers, model.config)
    order = [name for name, _, _ in model.config.architecture.sites.expand(model.config.n_layer)]
    if len(sent) != 1 or not received:
        raise InputError(
            f"a path goes from one site to at least one other, not from {short(sender)} to {receivers}"
        )
    first, own = order.index(sent[0]), _written_by(sent[0])
    if first >= min(order.index(name) for name in received):
        raise InputError(f"{sent[0]} does not come before {', '.join(received)}")
    sending = patch(clean, heads=sender_heads, positions=sender_positions)
    for edit in (sending, patch(clean, positions=receiver_positions)):
        edit.check_positions(len(corrupt.token_ids))
    arrived = {}
    for name in received:  # each on its own: on the way to it, other receivers are as in corrupt, too
        between = order[first + 1 : order.index(name)]
        frozen = [n for n in between if n.endswith((".attn.out", ".mlp.out")) and n != own]
        edits = {sent[0]: sending} | {n: patch(corrupt) for n in frozen}
        run = model.trace(corrupt.token_ids, keep=name, edits=edits)
        arrived[name] = patch(run, heads=receiver_heads, positions=receiver_positions)
    return _number(metric, model(corrupt.token_ids, last=True, edits=arrived))


def _swept(over: str, by: str | None, config: ModelConfig) -> tuple[list[str], Site, str]:
    """Full names of the site of each layer that `over` means, that site, and along which axis it is swept."""
    names = _meant(over, config)
    sites = {name.split(".", 2)[2] if name.startswith("h.") else name for name in names}
    table = config.architecture.sites
    if len(sites) != 1 or not table[min(sites)].layered:
        raise InputError(
            f"over={short(over)}: a sweep goes over one site of the layers, not {', '.join(sites)}"
        )
    site = table[sites.pop()]
    heads = site.head_axis
    by = by or ("pos" if heads is None else "head")
    if by not in ("head", "pos", heads) or (by == "head" and heads is None):
        ways = "pos" if heads is None else "head or pos"
        raise InputError(f"by={short(by)}: {site.name} goes by {ways}")
    return names, site, "pos" if by == "pos" or heads is None else heads


def _map(
    found: list[float], names: list[str], by: str, clean: Trace, corrupt: Trace, title: str
) -> NamedArray:
    """The metric for each layer, and each head or position in it."""
    labels = {"layer": [name.split(".")[1] for name in names]}
    if by == "pos":
        labels["pos"] = _position_labels(clean, corrupt)
    return NamedArray(np.array(found).reshape(len(names), -1), ("layer", by), labels, title)


def _patched(
    clean: Trace, corrupt: Trace, model: "Model", names: list[str], layers: list[int], by: str, n: int
) -> Iterator[Array]:
    """Logits [vocab] of each run, layer by layer."""
    ids, scratch = np.array(corrupt.token_ids), Scratch()
    at_once = max(1, ROWS_A_PASS // len(ids))
    for name, layer in zip(names, layers, strict=True):
        entering = corrupt[f"h.{layer}.resid_pre"]
        for start in range(0, n, at_once):
            sequences = []
            for i in range(start, min(start + at_once, n)):
                taken = patch(clean, **{"positions" if by == "pos" else "heads": i})
                sequences.append(PackedSequence(ids, edits=Edits({name: taken}, model.config)))
            residual = np.tile(entering, (len(sequences), 1))
            run = Pass(model.config, model.dtype, sequences, scratch, last_only=True, start=(layer, residual))
            yield from model.run_pass(run)


def _direct(
    clean: Trace, corrupt: Trace, model: "Model", site: str, layers: list[int], by: str, n: int
) -> Iterator[Array]:
    """Logits [vocab] when only what a value adds to the last position's final residual stream changes."""
    if site not in DIRECT:
        raise InputError(f"direct: {site} is not written to the residual stream; {', '.join(DIRECT)} are")
    n_layer, every = model.config.n_layer, lines(model.config, model.parameters)
    final = corrupt[f"h.{n_layer - 1}.resid_post"][-1]
    token, scratch = np.array(corrupt.token_ids[-1:]), Scratch()
    for layer in layers:
        name = f"h.{layer}.{site}"
        change = clean[name][-1:] - corrupt[name][-1:]
        if site == "mlp.post":
            change = change @ matrix_of(model.config, f"h.{layer}.mlp.out", every).weight
        if site == "attn.z":
            change = heads_of(model.config, model.parameters, layer, change)[0]  # [head, n_embd]
        residual = np.tile(final, (n, 1))
        if by != "pos":
            residual += change
        else:  # no other position goes straight to the last position's prediction
            residual[-1] += change.sum(axis=0)
        sequences = [PackedSequence(token) for _ in range(n)]
        yield from model.run_pass(
            Pass(model.config, model.dtype, sequences, scratch, start=(n_layer, residual))
        )


def _runs(
    clean: Run, corrupt: Run, model: "Model | None", keep: Callable[[ModelConfig], list[str]]
) -> "tuple[Trace, Trace, Model]":
    """Both runs as traces, and their model."""
    for run in (clean, corrupt):
        model = model or getattr(run, "model", None)
    if model is None:
        raise InputError("two prompts, or traces without their model: say model=")
    traces = [
        run if isinstance(run, Trace) else model.trace(run, keep=keep(model.config))
        for run in (clean, corrupt)
    ]
    for which, trace in zip(("clean", "corrupt"), traces, strict=True):
        try:
            trace.check_model(model, which)
        except TraceError as error:
            raise InputError(str(error)) from None
        if trace.plan.dtype != model.dtype and which == "corrupt":
            raise InputError(f"corrupt is a trace in {trace.plan.dtype}, but the model runs in {model.dtype}")
        if len(trace.positions) != len(trace.token_ids) or trace.plan.keep.dtype == "float16":
            raise InputError(f"{which} must be a trace of all positions in full precision")
    if traces[1].metadata.get("edits"):
        raise InputError("corrupt is a trace of a run with edits, which the runs of a sweep would not have")
    lengths = [len(trace.token_ids) for trace in traces]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"clean has {lengths[0]} tokens and corrupt {lengths[1]}: patching needs equally many, each "
            "at the place of its counterpart"
        )
    return traces[0], traces[1], model


def _shown(rows: Iterator[_T], total: int, progress: bool | None) -> Iterator[_T]:
    """The same, with a progress bar on a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return rows
    tqdm = importlib.import_module("tqdm").tqdm  # comes with huggingface_hub
    bar: Iterator[_T] = iter(tqdm(rows, total=total, unit="run", file=stream_of_bars(), leave=False))
    return bar


def _number(metric: Metric, logits: Array) -> float:
    if not callable(metric):
        raise InputError(f"metric must be a function of the logits [vocab], not {short(metric)}")
    try:
        found = np.asarray(metric(logits))
    except IndexError as error:
        if "out of bounds" in str(error):
            why = f"asks for a token outside the vocabulary of {len(logits)}"
        else:
            why = f"gets the logits of the last position, [vocab], not more axes ({reason(error)})"
        raise InputError(f"the metric {why}") from None
    if found.size != 1 or found.dtype.kind not in "fiub":
        raise InputError(f"the metric must be one number, not an array {list(found.shape)}")
    return float(found.item())


def _written_by(name: str) -> str | None:
    """The site through which a part of a block writes to the residual stream; None outside such parts."""
    for part, norm in (("attn", "ln_1"), ("mlp", "ln_2")):
        head, _, rest = name.partition(f".{part}.")
        if rest or name.endswith(f".{norm}"):
            return f"{head.removesuffix('.' + norm)}.{part}.out"
    return None


def _position_labels(clean: Trace, corrupt: Trace) -> list[str]:
    """Each position with its token; where the texts differ, clean's and then corrupt's."""
    labels, tokens = [], (readable(clean.tokens), readable(corrupt.tokens))
    for position, (a, b) in enumerate(zip(*tokens, strict=True)):
        labels.append(f"{position} {quoted(a)}" + ("" if a == b else f"/{quoted(b)}"))
    return labels


def _meant(names: str | Sequence[str], config: ModelConfig) -> list[str]:
    """Full names of the sites that names or patterns mean, as in `edits=`."""
    keys = [names] if isinstance(names, str) else names
    return Edits(dict.fromkeys(keys, np.asarray), config).names
