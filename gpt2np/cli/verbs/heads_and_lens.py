"""Verbs that take the residual stream apart: heads, lens."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpt2np.cli.arguments import (
    add_edits,
    add_model,
    add_outputs,
    add_picture,
    add_prompt,
    add_trace,
    as_run,
    check_one_run,
    count,
    edits_of,
    given_token,
    load_model,
    open_trace,
    read_prompt,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.texts import a_text
from gpt2np.cli.verbs.printed_arrays import draw
from gpt2np.errors import InputError, short

MOST_COLUMNS = 54  # of a picture with a token in each cell
OF_LENS = (
    "p and rank of that token (1 is the likeliest); entropy of the prediction and KL(final || here) in nats"
)
OF_HEADS = "norm: length of what it writes; cosine: with the sum of all that is written"


def register(verbs: Any) -> None:
    """Add these verbs to the command line."""
    verb = add_verb(
        verbs,
        "heads",
        heads,
        "heads 'Elizabeth was'",
        "heads 'Elizabeth was' --token ' not' --against ' in'",
    )
    _add_trace(verb)
    verb.add_argument(
        "--token", type=a_text, metavar="T", help="a token's text or id (default: the likeliest one)"
    )
    verb.add_argument(
        "--against", type=a_text, metavar="T2", help="another token: explain the difference of their logits"
    )
    verb.add_argument("--pos", type=int, default=-1, metavar="N", help="position (default -1, the last)")
    verb.add_argument("--top", type=count, default=10, metavar="K", help="how many components (default 10)")

    verb = add_verb(
        verbs,
        "lens",
        lens,
        "lens 'Elizabeth was'",
        "lens 'Elizabeth was' --pos all --png lens.png",
    )
    _add_trace(verb)
    verb.add_argument(
        "--token", type=a_text, metavar="T", help="the token to follow: text or id (default: the prediction)"
    )
    help = "position, or all (default -1, the last; in a picture all)"
    verb.add_argument("--pos", metavar="N", help=help)
    verb.add_argument("--top", type=count, metavar="K", help="how many tokens (default 1; --heads 3)")
    verb.add_argument("--heads", action="store_true", help="instead: what tokens each head's output raises")
    verb.add_argument("--layer", type=int, metavar="L", help="with --heads: only those of this layer")
    help = "of the logits before their soft cap, where the model has one"
    verb.add_argument("--before-cap", action="store_true", help=help)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    """A prompt to run or a saved trace, the model, and where a picture goes."""
    add_prompt(parser)
    add_trace(parser, "a saved trace of the model instead of a text")
    add_model(parser)
    add_edits(parser)
    add_picture(parser)
    add_outputs(parser, "png")


def heads(args: argparse.Namespace) -> int:
    """`gpt2np heads`."""
    from gpt2np.analysis import attribution
    from gpt2np.analysis.positions_and_tokens import pos_labels, row_of
    from gpt2np.tables import fitted, number, strict_json, wrapped

    _check(args)
    model, trace = _read_trace(args, attribution.keep)
    token = _likeliest(trace, args.pos) if args.token is None else given_token(model, args.token)
    if args.against is not None and given_token(model, args.against) == token:
        raise InputError(f"--token and --against are the same token, {token}")
    pair = token if args.against is None else (token, given_token(model, args.against))
    found = attribution.attribution(trace, pair, args.pos)
    grid, written = attribution.head_grid(found), attribution.writers(trace, args.pos)
    if args.png:
        title = f"{found.title.removesuffix(', by component')}: what each head adds"
        at = pos_labels(trace, [row_of(trace, args.pos)])[0]
        draw(replace(grid, title=f"{title} at position {at}"), args.png, signed=True, run=trace)
    where = pos_labels(trace, [row_of(trace, args.pos)])[0]
    total, after = float(found.array.sum()), _after_the_cap(model, trace, pair, args.pos)
    if args.json:
        facts = {"model": model.name, "position": where, "sum": total}
        facts |= {} if after is None else {"after_cap": after}
        similar = attribution.similarity(trace, args.pos)
        parts = {"attribution": found, "heads": grid, "writers": written, "similarity": similar}
        print(strict_json(facts | {name: part.to_json() for name, part in parts.items()}))
        return 0
    largest = found.largest(args.top)
    by_label = dict(zip(written.labels["component"], written.array.tolist(), strict=True))
    rows = [
        [name, number(value), *(number(x) for x in by_label.get(name, [])[:2])] for (name,), value in largest
    ]
    rows = [row + [""] * (4 - len(row)) for row in rows]
    print(f"{found.title}\nat position {where}, the {len(largest)} largest of {len(found.array)}")
    rows.append(["all together", number(total), "", ""])
    rows += [] if after is None else [["after the soft cap", number(after), "", ""]]
    print(fitted([["component", "adds", "norm", "cosine"], *rows], "<>>>"))
    print(wrapped(OF_HEADS) + "\n")
    print("the heads alone")
    print(_grid(grid))
    return 0


def lens(args: argparse.Namespace) -> int:
    """`gpt2np lens`."""
    from gpt2np.analysis import lens as lenses
    from gpt2np.tables import strict_json, wrapped

    _check(args)
    pos = None if args.pos == "all" else _position(args.pos or "-1")
    if args.heads:
        for option, given in (
            ("--token", args.token),
            ("--png", args.png),
            ("--before-cap", args.before_cap),
        ):
            if given:
                raise InputError(f"{option} goes with the lens itself, not with --heads")
        if pos is None:
            raise InputError("--heads looks at one position: give --pos a number")
    elif args.layer is not None:
        raise InputError("--layer goes with --heads")
    model, trace = _read_trace(args, lambda _: lenses.KEEP_HEADS if args.heads else lenses.KEEP)
    if args.heads:
        at = _position(args.pos or "-1")
        pushed = lenses.attention_lens(trace, args.layer, at, args.top or 3)
        print(
            strict_json({"model": model.name} | pushed.to_json())
            if args.json
            else _heads_text(trace, pushed, at)
        )
        return 0
    token = None if args.token is None else given_token(model, args.token)
    if args.before_cap and not _capped(model):
        raise InputError(f"{model.config.architecture.model_type} has no soft cap: leave out --before-cap")
    found = lenses.logit_lens(trace, token, args.top or 1, pos, not args.before_cap)
    if args.png:
        _draw_lens(args, trace, token)
    if args.json:
        print(strict_json({"model": model.name, "tokens": trace.tokens} | found.to_json()))
        return 0
    for column in range(len(found.chosen)):
        print(("\n" if column else "") + _lens_text(trace, found, column))
    print()
    print(wrapped(OF_LENS + ("; all before the soft cap" if args.before_cap else "")))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before a model is loaded."""
    if args.png:
        from gpt2np.analysis.plot import check_picture

        check_picture(args.png)
    check_one_run(args)


def _draw_lens(args: argparse.Namespace, trace: Any, token: int | None) -> None:
    """The likeliest tokens after each layer: of every position, or with --pos the k likeliest of one."""
    from gpt2np.analysis.lens import logit_lens
    from gpt2np.analysis.named_array import NamedArray
    from gpt2np.tables import quoted

    if args.pos in (None, "all"):
        found = logit_lens(trace, token, capped=not args.before_cap)
        shown, ids = found.top_probabilities.array[..., 0], found.top_ids.array[..., 0]
        across, labels, where = "pos", found.kl.labels, ""
    else:
        found = logit_lens(trace, token, max(args.top or 0, 5), _position(args.pos), not args.before_cap)
        shown, ids = found.top_probabilities.array[:, 0], found.top_ids.array[:, 0]
        ranks = [str(i + 1) for i in range(shown.shape[1])]
        labels = {"site": found.kl.labels["site"], "rank": ranks}
        across, where = "rank", f" at position {found.kl.labels['pos'][0]}"
    before = ", before the soft cap" if args.before_cap else ""
    title, quantity = f"logit lens{where}: the likeliest next tokens after each layer{before}", "probability"
    if token is not None and across == "pos":
        shown, quantity = found.probability.array, f"probability of {quoted(trace.token(token))}"
    texts = [[trace.token(i) for i in row] for row in ids.tolist()]
    if shown.shape[1] > MOST_COLUMNS:
        title += f"\n{shown.shape[1]} positions have no room for their tokens: --pos N shows those of one"
    picture = NamedArray(shown, ("site", across), labels, title)
    draw(picture, args.png, signed=False, run=trace, quantity=quantity, texts=texts)


def _read_trace(args: argparse.Namespace, keep: Callable[[Any], list[str]]) -> tuple[Any, Any]:
    """The model, and its run over the prompt or the trace that was saved of one; `keep` by its config."""

    prompt = read_prompt(args) if args.trace is None else None
    model = load_model(args, prompt)
    if prompt is not None:
        prompt = as_run(args, model, prompt)
        return model, model.trace(prompt, keep=keep(model.config), special=args.special, edits=edits_of(args))
    return model, open_trace(args.trace, model)


def _likeliest(trace: Any, pos: int) -> int:
    """The id of the token that the model predicts after a position."""
    return int(_logits(trace, pos).argmax())


def _logits(trace: Any, pos: int) -> Any:
    """What the model says after a position: [vocab]."""
    from gpt2np.analysis.lens import lens_logits
    from gpt2np.analysis.positions_and_tokens import recorded, row_of

    final = recorded(trace, f"h.{trace.config.n_layer - 1}.resid_post", [row_of(trace, pos)])
    return lens_logits(final, trace.parameters(), trace.config)[0]


def _capped(model: Any) -> bool:
    return "logits_raw" in model.config.architecture.sites


def _after_the_cap(model: Any, trace: Any, tokens: Any, pos: int) -> float | None:
    """The logit of a token, or the difference of two, as the model gives it; None where it has no cap."""
    if not _capped(model):
        return None
    logits = _logits(trace, pos)
    first, *other = tokens if isinstance(tokens, tuple) else (tokens,)
    return float(logits[first] - (logits[other[0]] if other else 0))


def _position(given: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise InputError(f"--pos takes a whole number or all, not {short(given)}") from None


def _grid(named: Any) -> str:
    """Layers down and heads across with as many digits as fit; where none do, the largest entries."""
    from gpt2np.tables import cell_width, fitted, screen_width

    for digits in (3, 2, 1):
        rows = [
            [str(i), *(f"{round(x, digits) + 0.0:.{digits}f}" for x in row)]
            for i, row in enumerate(named.array.tolist())
        ]
        head = ["layer\\head", *map(str, range(named.array.shape[1]))]
        text = fitted([head, *rows], ">" * len(head))
        if digits == 1:
            text = fitted([["", *head[1:]], *rows], ">" * len(head), indent=0)
        if max(map(cell_width, text.splitlines())) <= screen_width():
            return text
    return str(named).partition("\n")[2]


def _lens_text(trace: Any, found: Any, column: int) -> str:
    """The lens at one position: a row for each site, more below it for further tokens."""
    from gpt2np.tables import fitted, quoted

    rows = []
    for i, site in enumerate(found.kl.labels["site"]):
        ids = found.top_ids.array[i, column].tolist()
        tops = found.top_probabilities.array[i, column].tolist()
        shown = [[quoted(trace.token(t), 12), f"{p:.3g}"] for t, p in zip(ids, tops, strict=True)]
        p, entropy, kl = (float(x.array[i, column]) for x in (found.probability, found.entropy, found.kl))
        rank = str(int(found.rank.array[i, column]))
        rows.append([site, *shown[0], f"{p:.3g}", rank, f"{entropy:.3g}", f"{max(kl, 0.0):.3g}"])
        rows += [["", *more, "", "", "", ""] for more in shown[1:]]
    token = found.chosen[column]
    head = ["after", "likeliest", "its p", "p", "rank", "entropy", "KL"]
    title = f"position {found.kl.labels['pos'][column]}; p and rank of {quoted(trace.token(token))} ({token})"
    return f"{title}\n" + fitted([head, *rows], "<<>>>>>")


def _heads_text(trace: Any, found: Any, pos: int) -> str:
    """For each head what it raises, on the next line what it lowers."""
    from gpt2np.analysis.positions_and_tokens import pos_labels, row_of
    from gpt2np.tables import cell_width, quoted, screen_width

    lines = [f"position {pos_labels(trace, [row_of(trace, pos)])[0]}: what each head adds to which logits"]
    for i, layer in enumerate(found.raised.labels["layer"]):
        for head in range(found.raised.array.shape[1]):
            for name, ids, values in (
                (f"h.{layer}.attn.head.{head}", found.raised_ids, found.raised),
                ("", found.lowered_ids, found.lowered),
            ):
                line = f"  {name:<17}"
                for token, value in zip(
                    ids.array[i, head].tolist(), values.array[i, head].tolist(), strict=True
                ):
                    piece = f"  {quoted(trace.token(token), 14)} {value:+.2f}"
                    if cell_width(line + piece) > screen_width():
                        lines.append(line)
                        line = " " * 19
                    line += piece
                lines.append(line)
    return "\n".join(lines)
