"""The verb patch: which part of a run on one text makes it predict what a run on another does."""

import argparse
from dataclasses import replace
from typing import Any

from gpt2np.cli.arguments import (
    add_chat,
    add_model,
    add_outputs,
    add_picture,
    add_special,
    as_run,
    given_token,
    is_conversation,
    load_model,
    open_trace,
    read_conversation,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.texts import a_text
from gpt2np.cli.verbs.printed_arrays import draw
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "patch",
        patch,
        "patch 'Elizabeth was very' 'Elizabeth had very' --answer ' much' --wrong ' good'",
        "patch 'A B C' 'A D C' --answer ' B' --wrong ' D' --over resid_post",
    )
    help = "a text after which the model answers right"
    verb.add_argument("clean", nargs="?", type=a_text, metavar="CLEAN", help=help)
    help = "a prompt of the same length, after which it does not"
    verb.add_argument("corrupt", nargs="?", type=a_text, metavar="CORRUPT", help=help)
    verb.add_argument("--trace", metavar="FILE", help="the saved trace of CLEAN, instead of that text")
    verb.add_argument("--answer", type=a_text, metavar="A", help="the right token: its text or id")
    verb.add_argument("--wrong", type=a_text, metavar="B", help="the wrong token: its text or id")
    verb.add_argument(
        "--over", default="attn.z", metavar="SITE", help="what is patched (default attn.z: every head)"
    )
    verb.add_argument("--by", choices=["head", "pos"], help="(default: head where the site has heads)")
    way = verb.add_mutually_exclusive_group()
    way.add_argument(
        "--direct", action="store_true", help="only what it adds directly to the final residual stream"
    )
    way.add_argument(
        "--to",
        metavar="SITE",
        help="path patching: only what it sends directly to this site, as in h.3.attn.q",
    )
    verb.add_argument("--to-head", type=int, metavar="H", help="with --to: to this head of it only")
    add_special(verb)
    add_chat(verb)
    add_model(verb)
    add_picture(verb)
    add_outputs(verb, "png")


def patch(args: argparse.Namespace) -> int:
    """`gpt2np patch`."""
    from gpt2np.analysis.named_array import NamedArray
    from gpt2np.analysis.patching import logit_difference, path_sweep, sweep
    from gpt2np.analysis.positions_and_tokens import positions_down
    from gpt2np.tables import quoted, strict_json

    texts = _texts(args)
    if args.to_head is not None and args.to is None:
        raise InputError("--to-head goes with --to SITE")
    if args.png:
        from gpt2np.analysis.plot import check_picture

        check_picture(args.png)
    model = load_model(args, *texts)
    answer, wrong = given_token(model, args.answer), given_token(model, args.wrong)
    if answer == wrong:
        raise InputError("--answer and --wrong are the same token: their logits never differ")
    metric = logit_difference(answer, wrong)
    runs = [model.trace(as_run(args, model, text), special=args.special) for text in texts]
    clean, corrupt = runs if args.trace is None else (open_trace(args.trace, model), *runs)
    if args.to is None:
        found = sweep(clean, corrupt, metric, args.over, by=args.by, direct=args.direct)
    else:
        found = path_sweep(
            clean, corrupt, metric, args.to, args.over, receiver_heads=args.to_head, by=args.by
        )
    ends = [metric(trace["logits"][-1]) for trace in (clean, corrupt)]
    if abs(ends[0] - ends[1]) < 1e-4:
        raise InputError(
            f"the logit difference is {ends[0]:.4g} after CLEAN and {ends[1]:.4g} after CORRUPT: nothing to "
            "bring back; choose texts after which the model prefers different tokens"
        )
    site = found.title.removeprefix("metric with ")
    share = NamedArray(
        (found.array - ends[1]) / (ends[0] - ends[1]),
        found.axes,
        found.labels,
        f"{site}: 0 as after CORRUPT, 1 as after CLEAN",
    )
    names = [model.tokens([i])[0] for i in (answer, wrong)]
    if args.png:
        told = f"{model.name}: {quoted(names[0])} against {quoted(names[1])}"
        picture = replace(share, title=f"{share.title}\n{told}")
        draw(positions_down(picture), args.png, signed=True, quantity="share brought back")
    if args.json:
        facts: dict[str, Any] = {"model": model.name}
        for which, trace, end in zip(("clean", "corrupt"), (clean, corrupt), ends, strict=True):
            facts[which] = {"text": trace.prompt, "tokens": trace.tokens, "logit_difference": end}
        for which, i, name in zip(("answer", "wrong"), (answer, wrong), names, strict=True):
            facts[which] = {"id": i, "token": name}
        print(
            strict_json(
                facts | {"over": args.over, "direct": args.direct, "to": args.to, "map": share.to_json()}
            )
        )
        return 0
    print(f"logit of {quoted(names[0])} less logit of {quoted(names[1])}")
    print(f"  after CLEAN {ends[0]:.3f}, after CORRUPT {ends[1]:.3f}\n")
    print(_grid(share))
    return 0


def _texts(args: argparse.Namespace) -> list[Any]:
    """CLEAN and CORRUPT, or beside a saved trace CORRUPT alone."""
    texts = [text for text in (args.clean, args.corrupt) if text is not None]
    if len(texts) != (2 if args.trace is None else 1):
        raise InputError("give CLEAN and CORRUPT; or --trace FILE, the run on CLEAN, and CORRUPT alone")
    if args.chat and any(map(is_conversation, texts)):
        texts = [read_conversation(text) if is_conversation(text) else text for text in texts]
    for option in ("answer", "wrong"):
        if getattr(args, option) is None:
            raise InputError(f"--{option} is needed: a token, as its text or id, whose logit is looked at")
    return texts


def _grid(share: Any) -> str:
    """The map with two decimals, positions down where it has them; the largest entries of one too wide."""
    from gpt2np.analysis.positions_and_tokens import positions_down
    from gpt2np.tables import cell_width, screen_width, table

    share = positions_down(share)
    array, (down, across) = share.array, share.axes
    labels = [
        [share.label(axis, i) for i in range(n)] for axis, n in zip((down, across), array.shape, strict=True)
    ]
    rows = [
        [name if down != "pos" else _short(name), *(f"{round(x, 2) + 0.0:.2f}" for x in row)]
        for name, row in zip(labels[0], array.tolist(), strict=True)
    ]
    text = table([[f"{down}\\{across}", *labels[1]], *rows], "<" + ">" * len(labels[1]))
    if max(map(cell_width, text.splitlines())) > screen_width() or len(rows) > 100:
        return str(share)
    return f"{share.title}\n{text}"


def _short(label: str) -> str:
    """The label of a position, cut."""
    return label if len(label) <= 24 else label[:23] + "…"
