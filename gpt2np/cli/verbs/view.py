"""The verb that shows a run in a browser: view."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt2np.cli.arguments import (
    add_generation,
    add_model,
    add_outputs,
    add_prompt,
    add_trace,
    as_run,
    check_ending,
    check_outputs,
    end_of_text,
    group,
    load_model,
    read_prompt,
    token_ids,
)
from gpt2np.cli.parser import add_note, add_verb
from gpt2np.cli.terminal import doing, tell
from gpt2np.cli.texts import a_text
from gpt2np.errors import InputError

NAME = "gpt2np-view.html"


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "view",
        view,
        "view 'Elizabeth was'",
        "view 'Elizabeth was' --show attention --layer 1 --head 0 --pos -1",
        "view 'Elizabeth was' --against 'Mr. Darcy was'",
        "view 'Elizabeth was' --max-new-tokens 20 --out page.html --no-open",
        "view --live --out alive.html",
        "view 'Elizabeth was' --poster poster.html --no-open",
    )
    add_note(
        verb,
        f"Without --out the page is {NAME} in a new temporary folder, or here with --no-open. With "
        "--max-new-tokens a generation is made and shown. --generation takes what `generate --out` wrote.",
    )
    add_prompt(verb)
    group(verb, "prompt").add_argument(
        "--against", type=a_text, metavar="OTHER", help="beside it the run of another text, token by token"
    )
    add_model(verb)
    add_trace(verb)
    verb.add_argument(
        "--generation", metavar="FILE", help="the saved trace of a generation instead of a text"
    )
    verb.add_argument(
        "--live",
        action="store_true",
        help="a page that has the model inside and runs it on what is typed; it begins with TEXT",
    )
    verb.add_argument(
        "--poster",
        metavar="FILE",
        help="instead of the page a poster: .svg, or .html that prints on one A1 sheet",
    )
    verb.add_argument("--no-open", action="store_true", help="write the page, but open no browser")
    place = group(verb, "where the page opens")
    place.add_argument("--show", metavar="PANEL", help="map, attention, lens, contributions, mlp, ...")
    for name in ("layer", "head", "pos"):
        place.add_argument(f"--{name}", type=int, metavar="N", help="from 0, or from the end: -1 is the last")
    place.add_argument("--big", action="store_true", help="in larger letters, for a projector")
    add_generation(verb)
    add_outputs(verb, "out", "poster")
    verb.set_defaults(max_new_tokens=None)
    for (
        action
    ) in verb._actions:  # the same options as `generate`, with other words where they mean another thing
        told = {
            "out": "the page (default: a temporary file)",
            "max_new_tokens": "generate N tokens, and show them",
            "ledger": "with --generation: why each token was chosen, as `generate --ledger` wrote it",
            "keep": argparse.SUPPRESS,
        }
        action.help = told.get(action.dest, action.help)


def view(args: argparse.Namespace) -> int:
    """`gpt2np view`."""
    import tempfile

    check_ending(args.out, ".html", ".htm", needed=True)
    if args.poster is not None:
        return _poster(args)
    if args.out is None and args.no_open:
        args.out = NAME
        check_outputs(args)
    page = _live(args) if args.live else _still(args)
    out = Path(args.out or Path(tempfile.mkdtemp(prefix="gpt2np-")) / NAME)
    page.save(out)
    return _opened(args, out)


def _opened(args: argparse.Namespace, out: Path) -> int:
    """Say what was written, and open it in a browser."""
    import webbrowser

    from gpt2np.tables import strict_json

    n_bytes = out.stat().st_size
    if args.json:
        print(strict_json({"out": str(out), "bytes": n_bytes}))
    tell(f"wrote {out}, {n_bytes:,} bytes")
    if not args.no_open and not webbrowser.open(out.resolve().as_uri()):
        tell("note: no browser could be started; open the file in one")
    return 0


def _still(args: argparse.Namespace) -> Any:
    """The page of a run."""
    from gpt2np.viewer import view as make

    run, other = _run(args)
    doing("making the page")
    place = {"show": args.show, "layer": args.layer, "head": args.head, "pos": args.pos, "big": args.big}
    return make(run, against=other, **place)


def _live(args: argparse.Namespace) -> Any:
    """The page that runs a model."""
    from gpt2np.viewer.live_page import live_page

    others = ("trace", "generation", "ledger", "max_new_tokens", "chat", "special", "big", "against")
    if given := [name for name in others if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('_', '-')} is not for --live")
    _check(args, _sampling(args))
    prompt = None if args.text is None and args.tokens is None else read_prompt(args)
    model = load_model(args)
    doing("making the page")
    return live_page(model, prompt=prompt, show=args.show, layer=args.layer, head=args.head, pos=args.pos)


def _poster(args: argparse.Namespace) -> int:
    """`gpt2np view --poster FILE`."""
    from gpt2np.viewer.posters.page import poster

    check_ending(args.poster, ".html", ".svg", needed=True)
    if args.out is not None or args.live:
        option = "--live" if args.live else "--out"
        raise InputError(f"--poster FILE is written instead of the page: leave out {option}")
    if args.big or any(value is not None for value in (args.show, args.layer, args.head, args.pos)):
        raise InputError(
            "--show, --layer, --head, --pos and --big say where a page opens: a poster shows all"
        )
    if args.against is not None:
        raise InputError("--poster shows one run: leave out --against")
    run, _ = _run(args)
    doing("drawing the poster")
    out = poster(run, args.poster)
    return _opened(args, out)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The options for choosing tokens that are given."""
    from gpt2np.generation.options import Sampling

    return {f.name: getattr(args, f.name) for f in fields(Sampling) if getattr(args, f.name) is not None}


def _run(args: argparse.Namespace) -> tuple[Any, Any]:
    """The Trace or the Generated that the options ask for, and with --against that of the other text."""
    chosen = _sampling(args)
    _check(args, chosen)
    saved = args.trace or args.generation
    if saved is not None:
        return _saved(args, saved), None
    prompt = read_prompt(args)
    model = load_model(args, prompt, args.against)
    run = _made(args, chosen, model, prompt)
    if args.against is None:
        return run, None
    try:
        return run, _made(args, chosen, model, args.against)
    except InputError as error:
        raise InputError(f"--against: {error}") from None


def _made(args: argparse.Namespace, chosen: dict[str, Any], model: Any, prompt: Any) -> Any:
    """The run of one prompt: read, or with --max-new-tokens continued."""
    prompt = as_run(args, model, prompt)
    if args.max_new_tokens is None:
        return model.trace(prompt, special=args.special)
    options = dict(chosen)
    if "early_stopping" in chosen:
        options["early_stopping"] = {"true": True, "false": False}.get(args.early_stopping, "never")
    return model.generate(
        prompt,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        eos=end_of_text(args.eos),
        stop=args.stop or (),
        stop_tokens=token_ids(args.stop_tokens, "--stop-tokens"),
        keep="*",
        ledger=args.num_beams in (None, 1),
        lookup=args.lookup,
        on_overflow=args.on_overflow,
        special=args.special,
        **options,
    ).finish()


def _check(args: argparse.Namespace, chosen: dict[str, Any]) -> None:
    """Refuse options that do not belong together."""
    given = [name for name in ("text", "tokens", "trace", "generation") if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError("view shows one thing: a TEXT, --tokens, --trace FILE or --generation FILE")
    if args.against is not None and {"trace", "generation"} & set(given):
        raise InputError("--against needs a prompt to run: it goes with neither --trace nor --generation")
    if args.keep:
        raise InputError("--keep has no use here: view keeps every site")
    if args.ledger and not args.generation:
        raise InputError("--ledger FILE belongs to --generation FILE")
    others = {"seed": args.seed, "eos": args.eos, "stop": args.stop, "stop_tokens": args.stop_tokens}
    others |= {"lookup": args.lookup or None, "on_overflow": None if args.on_overflow == "refuse" else 1}
    names = [*chosen, *(name for name, value in others.items() if value is not None)]
    if args.max_new_tokens is None and names:
        raise InputError(f"--{names[0].replace('_', '-')} needs --max-new-tokens")
    if args.max_new_tokens is not None and "trace" in given + ["trace"] * ("generation" in given):
        raise InputError("--max-new-tokens generates: leave it out with a saved file")


def _saved(args: argparse.Namespace, path: str) -> Any:
    """A saved trace with its model, if that can be had; of a generation with its ledger."""
    from gpt2np.generation.ledger_file import with_ledger
    from gpt2np.generation.saved_generation import is_whole_generation, saved_generation
    from gpt2np.tracing.trace import Trace

    trace = Trace.open(path)
    if args.generation and trace.metadata.get("n_prompt") is None:
        raise InputError(f"{path}: is the trace of a text, not of a generation; give it to --trace")
    args.dtype = trace.plan.dtype.name if trace.plan.dtype.name != "float16" else "float32"
    if args.model is not None or trace.metadata.get("model") == "tiny":
        trace = Trace.open(path, model=load_model(args))
    else:
        tell("note: without --model there is no logit lens and no contributions")
    if args.ledger:
        return with_ledger(trace, args.ledger)
    return saved_generation(trace) if args.generation and is_whole_generation(trace) else trace
