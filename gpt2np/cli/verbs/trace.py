"""The verb that runs a prompt and shows what was computed: trace."""

import argparse
import os
import re
from typing import Any

from gpt2np.characters import readable
from gpt2np.cli.arguments import (
    add_edits,
    add_model,
    add_outputs,
    add_picture,
    add_prompt,
    add_trace,
    as_run,
    check_ending,
    check_one_run,
    count,
    edits_of,
    load_model,
    open_trace,
    read_prompt,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import tell
from gpt2np.cli.texts import a_text
from gpt2np.errors import InputError, short


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "trace",
        trace,
        "trace 'Elizabeth was'",
        "trace 'Elizabeth was' --show h.1.attn.pattern --head 0",
        "trace 'Elizabeth was' --keep 'attn.*' --out t.safetensors",
    )
    add_prompt(verb)
    add_trace(verb, "show a saved trace instead of running a text")
    add_model(verb)
    verb.add_argument(
        "--keep", action="append", metavar="PATTERN", help="sites to record: 'attn.*', attention_weights"
    )
    verb.add_argument("--out", metavar="FILE", help="write the trace into this .safetensors file")
    verb.add_argument(
        "--top", type=count, metavar="K", help="how many predictions (default 5); of --show top_k_tokens 10"
    )
    verb.add_argument(
        "--show",
        action="append",
        metavar="SITE",
        help="instead: the values of a site under any name, such as h.1.attn.pattern, or of every layer: "
        "attention_weights, Q; may be repeated",
    )
    verb.add_argument(
        "--against",
        type=a_text,
        metavar="OTHER",
        help="instead: the runs of the two prompts side by side, at the last position of each (or at --pos)",
    )
    verb.add_argument("--head", type=a_head, metavar="H", help="with --show: of this head only")
    verb.add_argument(
        "--pos",
        type=int,
        metavar="N",
        help="with --show: of this position (query) only; with --against: at this one; -1 is the last",
    )
    add_edits(verb)
    add_picture(verb, "with --show: also draw a picture")
    add_outputs(verb, "out", "png")


def a_head(given: str) -> int:
    """The number of a head; `L.H` names a layer, which stands in the name of the site here."""
    if layered := re.fullmatch(r"(\d{1,9})\.(\d{1,9})", given):
        meant = "--show h.{}.attn.pattern --head {}".format(*layered.groups())
        raise argparse.ArgumentTypeError(f"the layer stands in the site: {meant}")
    try:
        return int(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(given)} is not the number of a head") from None


def trace(args: argparse.Namespace) -> int:
    """`gpt2np trace`."""
    from gpt2np.analysis import lens
    from gpt2np.cli import report
    from gpt2np.cli.verbs import printed_arrays

    check_ending(args.out, ".safetensors")
    if args.trace is not None:
        return _saved(args)
    prompt = read_prompt(args)
    printed_arrays.check_show(args)
    if args.against is not None and (args.show or args.keep or args.out):
        raise InputError("--against shows two runs: it goes with neither --show, --keep nor --out")
    model, options = load_model(args, prompt), {"special": args.special, "edits": edits_of(args)}
    prompt = as_run(args, model, prompt)
    if args.show:
        found = printed_arrays.sites_to_show(args, model.config)
        keep = [*found, "logits"] if args.top else list(found)
        return printed_arrays.show(args, model.trace(prompt, keep=keep, **options), found)
    if args.against is not None:
        return against(args, model, prompt)
    found = model.trace(prompt, keep=args.keep or "*", out=args.out, **options)
    residuals = found
    if any(site not in found for site in _residuals(model.config)):
        last = {"patterns": lens.RESIDUALS, "positions": slice(-1, None)}
        residuals = model.trace(prompt, keep=last, **options)
    facts = report.trace_facts(model, found, lens.predictions(residuals), args.top or 5)
    print(report.as_json(facts) if args.json else report.trace_text(facts))
    if args.out:
        tell(f"wrote {args.out}, {os.path.getsize(args.out):,} bytes")
    return 0


def _residuals(config: Any) -> list[str]:
    """The sites that tell what would be predicted after each layer."""
    return ["embed", *(f"h.{i}.resid_post" for i in range(config.n_layer))]


def _saved(args: argparse.Namespace) -> int:
    """`gpt2np trace --trace FILE`: the same of a saved trace, as far as it kept what it takes."""
    from gpt2np.analysis import lens
    from gpt2np.cli import report
    from gpt2np.cli.verbs import printed_arrays
    from gpt2np.errors import TraceError
    from gpt2np.tracing.trace import Trace

    check_one_run(args)
    printed_arrays.check_show(args)
    for option in ("keep", "out", "against"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} needs a prompt to run: it does not go with --trace")
    saved = Trace.open(args.trace)
    args.dtype = saved.plan.dtype.name if saved.plan.dtype.name != "float16" else "float32"
    model = load_model(args)
    found = open_trace(args.trace, model)
    if args.show:
        return printed_arrays.show(args, found, printed_arrays.sites_to_show(args, model.config))
    try:
        predictions = lens.predictions(found)
    except TraceError as error:
        tell(f"note: not told what each layer would predict: {error}")
        predictions = []
    facts = report.trace_facts(model, found, predictions, args.top or 5)
    print(report.as_json(facts) if args.json else report.trace_text(facts))
    return 0


def against(args: argparse.Namespace, model: Any, prompt: Any) -> int:
    """`gpt2np trace TEXT --against OTHER`."""
    from gpt2np.analysis import two_prompts
    from gpt2np.tables import fitted, number, quoted, strict_json, wrapped

    options = {"special": args.special, "edits": edits_of(args)}
    trace, other = (model.trace(text, **options) for text in (prompt, as_run(args, model, args.against)))
    pos = -1 if args.pos is None else args.pos
    parts = {
        "stream": two_prompts.stream_distance(trace, other, pos),
        "predictions": two_prompts.prediction_difference(trace, other, pos, args.top or 5),
        "attention": two_prompts.attention_difference(trace, other, pos),
    }
    apart = [two_prompts.divergence(trace, other, pos), two_prompts.divergence(other, trace, pos)]
    if args.json:
        facts = {"model": model.name, "tokens": trace.tokens, "other_tokens": other.tokens}
        facts |= {name: part.to_json() for name, part in parts.items()}
        print(strict_json(facts | {"divergence": apart}))
        return 0
    n, shown = max(len(trace.tokens), len(other.tokens)), [readable(run.tokens) for run in (trace, other)]
    rows = [
        [str(i), *(quoted(tokens[i], 30) if i < len(tokens) else "" for tokens in shown)] for i in range(n)
    ]
    print("tokens\n" + fitted([["pos", "here", "other"], *rows], "><<"))
    print("\n" + "\n\n".join(map(str, parts.values())))
    both = f"{number(apart[0])} nats, the other way {number(apart[1])}"
    print("\n" + wrapped(f"divergence of the predictions: {both}"))
    return 0
