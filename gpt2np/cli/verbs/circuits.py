"""The verb that takes the weights apart: circuits."""

import argparse
import re
from typing import Any

from gpt2np.cli.arguments import (
    add_model,
    add_outputs,
    add_picture,
    add_prompt,
    add_trace,
    as_run,
    check_one_run,
    count,
    load_model,
    load_sizes,
    open_trace,
    read_prompt,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.verbs.circuits_weights import head_weights, interference, norms, parameters
from gpt2np.cli.verbs.printed_arrays import Shown, draw
from gpt2np.errors import InputError, short
from gpt2np.tables import fitted, wrapped

OF_WEIGHTS = ("composition", "overlap", "interference", "parameters", "norms", "weights")
SCORES = ("previous", "duplicate", "induction", "first", "copying", "QK", "OV")
EXPLAINED = (
    "previous, duplicate, induction, first: mean attention on random tokens said twice; copying: eigenvalues "
    "of the OV circuit from tokens to logits, -1 to 1; QK, OV: Frobenius norms, ln_1 folded in"
)


TOLD = {  # of the tables of a text
    "attention": "previous, first: how much a head looks at the token before, and at the first one",
    "most_active": "the largest values of mlp.post, each under layer.neuron",
    "sparsity": "near 0: silent neurons; positive: active ones; the rest let a little below zero through",
    "basis_alignment": "kurtosis above 3: a few dimensions are much larger than the others; dimension is "
    "the largest of them, ratio its size over the median size",
    "kurtosis": "above 3: a few numbers of a vector are large, and most are small",
}
SHARES = (
    "share: of what the writer wrote, how much the later one takes back or adds along it; above 1 where the "
    "writer wrote little"
)


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "circuits",
        circuits,
        "circuits",
        "circuits --head 1.2",
        "circuits 'Elizabeth was'",
        "circuits --composition k --top 5",
    )
    add_prompt(verb)
    add_trace(verb, "a saved trace of the model instead of a TEXT")
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "--head", metavar="L.H", help="tokens that a head reads and writes; with a TEXT also its QK and OV"
    )
    what.add_argument("--neuron", metavar="L.I", help="tokens of a neuron; with a TEXT also its activations")
    what.add_argument(
        "--composition", choices=["q", "k", "v"], help="how much later heads read from earlier ones"
    )
    what.add_argument(
        "--overlap",
        choices=["q", "k", "v"],
        help="how far later heads read the subspace that earlier ones write",
    )
    what.add_argument(
        "--interference",
        action="store_true",
        help="cosines between embeddings, and between neurons' directions",
    )
    what.add_argument("--parameters", action="store_true", help="parameters by component")
    what.add_argument(
        "--norms",
        nargs="?",
        const="all",
        metavar="NAME",
        help="learned scale and shift of every norm, or the values of one: h.0.ln_1, ln_f",
    )
    verb.add_argument(
        "--weights", action="store_true", help="with --head: its W_Q, W_K, W_V, W_O and biases themselves"
    )
    verb.add_argument("--score", choices=SCORES, help="sort the table of heads by it; --png draws it")
    verb.add_argument(
        "--top", type=count, metavar="K", help="how many tokens (default 5) or rows (default 10; all heads)"
    )
    add_model(verb)
    add_picture(verb)
    add_outputs(verb, "png")


def circuits(args: argparse.Namespace) -> int:
    """`gpt2np circuits`."""
    from gpt2np.tables import strict_json

    has_text = args.text is not None or args.tokens is not None or args.trace is not None
    if has_text:
        check_one_run(args)
    prompt = read_prompt(args) if has_text and args.trace is None else None
    _check(args, has_text)
    views = {
        head_weights: args.weights,
        _head: args.head is not None,
        _neuron: args.neuron is not None,
        _composition: args.composition is not None,
        _overlap: args.overlap is not None,
        interference: args.interference,
        parameters: args.parameters,
        norms: args.norms is not None,
        _text: has_text,
    }
    show = next((view for view, wanted in views.items() if wanted), _all_heads)
    model = load_sizes(args) if args.parameters else load_model(args, prompt)
    prompt = prompt if prompt is None else as_run(args, model, prompt)
    run = prompt if args.trace is None else open_trace(args.trace, model)
    shown = show(args, model, run)
    if args.png:
        draw(shown.picture, args.png, signed=shown.signed, quantity=shown.quantity, run=shown.run)
    print(strict_json(shown.facts) if args.json else shown.text)
    return 0


def _check(args: argparse.Namespace, has_text: bool) -> None:
    """Refuse what cannot work before a model is loaded."""
    alone = next((o for o in OF_WEIGHTS if getattr(args, o)), None)
    if alone and has_text:
        raise InputError(f"--{alone} is of the weights: it takes no text")
    uncut = next((o for o in ("parameters", "weights", "interference") if getattr(args, o)), None)
    if args.top is not None and uncut:
        raise InputError(f"--top has nothing to cut in --{uncut}")
    if args.weights and args.head is None:
        raise InputError("--weights goes with --head L.H")
    if args.weights and args.png:
        raise InputError("--png does not draw --weights: they are seven arrays")
    if args.score and (has_text or alone or args.head is not None or args.neuron is not None):
        raise InputError("--score goes with the table of all heads: no text, no other option")
    for option, what in (("head", "L.H"), ("neuron", "L.I")):
        given = getattr(args, option)
        if given is not None and not re.fullmatch(r"\d{1,9}\.\d{1,9}", given, re.ASCII):
            raise InputError(
                f"--{option} takes {what}, as in 1.0 for layer 1, {option} 0; not {short(given)}"
            )
        if given is not None and args.png and not has_text:
            raise InputError(f"--png with --{option} draws what it does in a text: give a TEXT")
    if args.png:
        from gpt2np.analysis.plot import check_picture

        check_picture(args.png)


def _all_heads(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Every head with all its scores."""
    import numpy as np

    from gpt2np.analysis import circuits as c
    from gpt2np.analysis.heads import head_scores
    from gpt2np.analysis.named_array import NamedArray

    n = max(2, min(64, model.config.n_positions // 2))
    copies, norms, looks = c.copying_scores(model), c.circuit_norms(model), head_scores(model, n=n)
    scores = np.concatenate([looks.array, copies.array[None], norms.array])  # [score, layer, head]
    names = c.head_labels(model.config)
    by_head = scores.reshape(len(SCORES), -1).T
    order = (
        np.argsort(-by_head[:, SCORES.index(args.score)], kind="stable")
        if args.score
        else np.arange(len(names))
    )
    rows = [[names[i], *(f"{x:.2f}" for x in by_head[i])] for i in order[: args.top]]
    text = f"{looks.title.replace('mean attention on', 'all heads;')}\n"
    text += fitted([["head", *SCORES], *rows], "<" + ">" * len(SCORES)) + "\n" + wrapped(EXPLAINED)
    title = f"{model.name}: {args.score or 'induction'} score of each head"
    picture = NamedArray(scores[SCORES.index(args.score or "induction")], ("layer", "head"), {}, title)
    every = NamedArray(scores, ("score", "layer", "head"), {"score": SCORES}, looks.title)
    return Shown(text, {"model": model.name, "scores": every.to_json()}, picture, args.score == "copying")


def _head(args: argparse.Namespace, model: Any, prompt: Any) -> Shown:
    """What one head reads and writes."""
    from gpt2np.analysis import circuits as c
    from gpt2np.analysis.heads import reads_and_writes

    layer, head = map(int, args.head.split("."))
    directions = reads_and_writes(model, layer, head, k=args.top or 5)
    lines = [wrapped(f"head {layer}.{head}: tokens along the strongest singular directions of its circuits")]
    for d in directions:
        ends = ("queries", "keys") if d.circuit == "QK" else ("reads", "writes")
        lines.append(f"  {d.circuit}  strength {d.strength:.3g}")
        lines += [_words(name, near) for name, near in zip(ends, (d.reads, d.writes), strict=True)]
    facts = {"model": model.name, "head": args.head, "directions": [_direction(d) for d in directions]}
    if prompt is None:
        return Shown("\n".join(lines), facts)
    ids = prompt.token_ids if args.trace is not None else None
    if ids is None:
        ids = model.token_ids(prompt, limit=False, special=args.special, ends=False)
    qk, ov = (f(model, layer, head, ids) for f in (c.token_scores, c.token_effects))
    facts |= {"qk": qk.to_json(), "ov": ov.to_json()}
    return Shown("\n".join([*lines, "", str(qk), "", str(ov)]), facts, qk)


def _neuron(args: argparse.Namespace, model: Any, prompt: Any) -> Shown:
    """What one neuron looks for and writes."""
    from gpt2np.analysis import neurons

    layer, i = map(int, args.neuron.split("."))
    found = neurons.neuron(model, layer, i, k=args.top or 5)
    sides = ("excited_by", "inhibited_by", "raises", "lowers")
    title = f"neuron {layer}.{i}, bias {found.bias:.3g}: tokens that excite it, and logits that it raises"
    lines = [wrapped(title)]
    lines += [_words(side.replace("_", " "), getattr(found, side)) for side in sides]
    facts: dict[str, Any] = {"model": model.name, "neuron": args.neuron, "bias": found.bias}
    facts |= {side: [near._asdict() for near in getattr(found, side)] for side in sides}
    facts |= {"reads": found.reads.tolist(), "writes": found.writes.tolist()}
    if prompt is None:
        return Shown("\n".join(lines), facts)
    saved = args.trace is not None
    trace = prompt if saved else model.trace(prompt, keep="mlp.post", special=args.special)
    active = neurons.neuron_activations(trace, layer, i)
    facts["activations"] = active.to_json()
    return Shown("\n".join([*lines, "", str(active)]), facts, active, quantity="activation", run=trace)


def _composition(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Pairs of heads by what one reads of what the other writes."""
    from gpt2np.analysis.circuits import composition_scores

    return _pairs_of_heads(args, model, "composition", composition_scores(model, args.composition))


def _overlap(args: argparse.Namespace, model: Any, _: Any) -> Shown:
    """Pairs of heads by the subspaces that they read and write."""
    from gpt2np.analysis.directions import subspace_overlap

    return _pairs_of_heads(args, model, "overlap", subspace_overlap(model, args.overlap))


def _pairs_of_heads(args: argparse.Namespace, model: Any, name: str, found: Any) -> Shown:
    """Pairs of heads, the strongest first."""
    import numpy as np

    pairs = found.largest(min(args.top or 10, int(np.isfinite(found.array).sum())))
    rows = [[writer, reader, f"{value:.3f}"] for (writer, reader), value in pairs]
    text = f"{wrapped(found.title)}\n" + fitted([["writer", "reader", "score"], *rows], "<<>")
    return Shown(text, {"model": model.name, name: found.to_json()}, found, signed=False)


def _text(args: argparse.Namespace, model: Any, prompt: Any) -> Shown:
    """Neurons and residual stream of one run."""
    from gpt2np.analysis import neurons, residual_stream
    from gpt2np.analysis.heads import attention_scores

    trace = model.trace(prompt, special=args.special) if args.trace is None else prompt
    k = args.top or 10
    parts = {
        "most_active": neurons.most_active(trace, k),
        "sparsity": neurons.sparsity(trace),
        "basis_alignment": residual_stream.basis_alignment(trace),
        "kurtosis": residual_stream.kurtosis(trace),
    } | residual_stream.memory(trace)
    if len(trace.token_ids) > 1:
        parts["attention"] = attention_scores(trace)
    shown = [f"{parts[name]}\n{wrapped(told)}" for name, told in TOLD.items() if name in parts]
    title = "which component erases what: minus the cosine of the two writes, and the share taken back"
    shown.append(_pairs(title, "opposed", parts["opposition"], parts["erasure"], k))
    title = "which component amplifies what: the cosine of the two writes, and the share added again"
    shown.append(_pairs(title, "agreeing", parts["agreement"], parts["amplification"], k))
    facts = {"model": model.name, "tokens": trace.tokens} | {n: part.to_json() for n, part in parts.items()}
    return Shown("\n\n".join([*shown, wrapped(SHARES)]), facts, parts["opposition"], signed=False, run=trace)


def _pairs(title: str, heading: str, cosines: Any, shares: Any, k: int) -> str:
    """The pairs of components with the largest cosines, and their shares."""
    from gpt2np.tables import fitted, number

    index = {name: i for i, name in enumerate(shares.labels["writer"])}
    rows = [
        [first, second, f"{cosine:.2f}", number(float(shares.array[index[first], index[second]]))]
        for (first, second), cosine in cosines.largest(k)
        if cosine > 0
    ]
    return f"{wrapped(title)}\n" + fitted([[*cosines.axes, heading, "share"], *rows], "<<>>")


def _direction(direction: Any) -> dict[str, Any]:
    ends = {end: [near._asdict() for near in getattr(direction, end)] for end in ("reads", "writes")}
    return {"circuit": direction.circuit, "strength": direction.strength} | ends


def _words(name: str, near: Any) -> str:
    """Tokens in as many lines of a terminal as they need."""
    from gpt2np.tables import cell_width, quoted, screen_width

    lines = [f"    {name:<12}"]
    for token in near:
        piece = f" {quoted(token.token, 14)}"
        if cell_width(lines[-1] + piece) > screen_width():
            lines.append(" " * 16)
        lines[-1] += piece
    return "\n".join(lines)
