"""The verb that captures activations of many prompts: capture."""

import argparse
import contextlib
import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gpt2np.cli.arguments import (
    add_chat,
    add_model,
    add_special,
    add_workers,
    count,
    group,
    integer,
    load_model,
    open_trace,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import tell
from gpt2np.cli.texts import a_text
from gpt2np.cli.verbs.capture_many import add_options, capture_texts, check_options
from gpt2np.errors import InputError, TraceError, short

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2np.capture.manifest import Entry


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "capture",
        capture,
        "capture --prompt 'Elizabeth was' --experiment first",
        "capture --prompt-set prompts.txt --experiment mine --layer-internals 2",
        "capture --text texts.txt --keep resid_post --positions last --out captured --plan",
        "capture --list",
    )
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--prompt", type=a_text, metavar="TEXT", help="one prompt, of the set 'prompt'")
    help = "the trace of a generation, which generate --out saved, instead of running one; needs no model"
    what.add_argument("--trace", metavar="FILE", help=help)
    help = "a shipped set (see --list), or your own: lines (.txt), .jsonl or .json"
    what.add_argument("--prompt-set", metavar="NAME|FILE", help=help)
    what.add_argument("--list", action="store_true", help="show the shipped sets with their token counts")
    add_options(verb, what)
    files = group(verb, "prompts and their responses (--prompt, --prompt-set, --trace)")
    files.add_argument(
        "--layer-internals",
        nargs="*",
        metavar="L",
        help="all parts of these layers, a file for each; all: of every layer; no number: of the middle one "
        "(without this option: the residual stream and mean attention of all layers, in one file)",
    )
    help = "of --prompt or --trace (default: that which the experiment has for it, else the next number)"
    files.add_argument("--id", metavar="ID", help=help)
    files.add_argument("--experiment", metavar="NAME", help="the folder that everything goes into")
    files.add_argument(
        "--output", metavar="DIR", default="experiments", help="where experiments are (default: %(default)s)"
    )
    help = "pt: for torch.load (default %(default)s)"
    files.add_argument("--format", choices=["safetensors", "pt"], default="safetensors", help=help)
    files.add_argument(
        "--max-new-tokens", type=count, metavar="N", help="length of the response (default 50)"
    )
    files.add_argument("--temperature", type=float, metavar="T", help="0, the default: greedy")
    files.add_argument("--seed", type=int, help="of sampling (default 0)")
    add_workers(verb)
    add_special(verb)
    add_chat(verb)
    add_model(verb)
    explained = verb._option_string_actions
    explained["--chat"].help = "each text is a user's message, put into the model's turns"
    explained["--threads"].help = "cores to use (default: all); not with --text, where each worker has one"


def capture(args: argparse.Namespace) -> int:
    """`gpt2np capture`."""
    from pathlib import Path

    from gpt2np.capture.capture_files import check_format
    from gpt2np.capture.manifest import NAME
    from gpt2np.capture.prompt_set import check_name
    from gpt2np.tables import fitted, strict_json
    from gpt2np.tracing.plan import human_bytes

    if args.list:
        return _list(args)
    check_options(args)
    if args.text is not None:
        return capture_texts(args)
    if args.prompt is None and args.prompt_set is None and args.trace is None:
        raise InputError(
            "give --prompt TEXT, --prompt-set NAME|FILE or --text FILE; --list shows the shipped sets"
        )
    if args.experiment is None:
        raise InputError("--experiment NAME is needed: the folder that everything goes into")
    if args.id is not None and args.prompt_set is not None:
        raise InputError("--id goes with --prompt or --trace; the prompts of a set have their own")
    check_name(args.experiment, "--experiment")
    if args.id is not None:
        check_name(args.id, "--id")
    check_format(args.format)
    folder = Path(args.output) / args.experiment
    capture = _run if args.trace is None else _saved
    what, (files, new) = capture(args, folder)
    if args.json:
        rows = [entry.row() for entry in files]
        print(strict_json({"folder": str(folder), "manifest": NAME, "new": new, "files": rows}))
        return 0
    lengths = [[entry.prompt_tokens for entry in files], [entry.response_tokens for entry in files]]
    shown = [
        ["prompts", f"{what}, {_span(lengths[0])}"],
        ["responses", _span(lengths[1])],
        ["files", f"{len(files)} ({new} new), {human_bytes(sum(entry.bytes for entry in files))}"],
        ["in", str(Path(files[0].path).parent)],
        ["manifest", NAME],
    ]
    print(fitted(shown, "<<", indent=0))
    tell(f"everything is in {folder}")
    return 0


def _run(args: argparse.Namespace, folder: "Path") -> "tuple[str, tuple[list[Entry], int]]":
    """Run the prompts; what they are, their files, and how many of these are new."""
    from gpt2np.capture.prompt_set import Prompt, PromptSet, load_prompt_set
    from gpt2np.capture.runs import Options, capture_prompts

    if args.prompt is not None:
        prompts = PromptSet("prompt", (Prompt(_id(args.id), args.prompt),))
    else:
        prompts = load_prompt_set(args.prompt_set)
    model = load_model(args, *(prompt.text for prompt in prompts.prompts))
    options = Options(args.max_new_tokens or 50, args.temperature or 0.0, args.seed, args.special, args.chat)
    with _progress(len(prompts.prompts)) as advance:
        done = capture_prompts(
            model,
            prompts,
            folder,
            layers=_layers(args.layer_internals, model.config.n_layer),
            format=args.format,
            options=options,
            advance=advance,
            workers=args.workers,
        )
    return f"{len(prompts.prompts)} of {prompts.name}", done


def _saved(args: argparse.Namespace, folder: "Path") -> "tuple[str, tuple[list[Entry], int]]":
    """The same of a saved generation."""
    from gpt2np.capture.runs import capture_generation

    for option in ("max_new_tokens", "temperature", "seed"):
        if getattr(args, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} chooses tokens, and those of --trace are chosen already"
            )
    if args.chat:
        raise InputError("--chat needs a prompt to run: it does not go with --trace")
    if args.workers is not None:
        raise InputError("--workers share what is to be run: it does not go with --trace")
    trace = open_trace(args.trace)
    layers = _layers(args.layer_internals, trace.config.n_layer)
    try:
        done = capture_generation(trace, folder, id=_id(args.id), layers=layers, format=args.format)
    except TraceError as error:
        raise error if args.trace in str(error) else TraceError(f"{args.trace}: {error}") from None
    return f"1 of {args.trace}", done


def _id(given: str | None) -> int | str | None:
    """An id as a prompt set has it: a number, if it is written like one."""
    is_number = given is not None and re.fullmatch("0|[1-9][0-9]{0,17}", given)
    return int(given) if given is not None and is_number else given


def _layers(given: list[str] | None, n_layer: int) -> list[int] | None:
    """What `--layer-internals` asks for: None without it, the middle layer where it names none."""
    if given is None:
        return None
    if given == ["all"]:
        return list(range(n_layer))
    if not all(layer.isdecimal() for layer in given):
        raise InputError(f"--layer-internals takes layer numbers, or all alone, not {short(' '.join(given))}")
    return [integer(layer, "a layer") for layer in given] or [n_layer // 2]


def _span(numbers: list[int]) -> str:
    from gpt2np.tables import counted

    low, high = min(numbers), max(numbers)
    return counted(low, "token") if low == high else f"{low} to {high} tokens"


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    """A function to call after each prompt: moves a bar on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from gpt2np.tables import stream_of_bars

    tqdm = importlib.import_module("tqdm").tqdm  # comes with huggingface_hub
    with tqdm(total=total, unit="prompt", file=stream_of_bars()) as bar:
        yield bar.update


def _list(args: argparse.Namespace) -> int:
    """`gpt2np capture --list`."""
    from gpt2np.capture.prompt_set import SHIPPED, load_prompt_set
    from gpt2np.tables import counted, fitted, quoted, screen_width, strict_json

    model = load_model(args)
    sets = [load_prompt_set(name) for name in SHIPPED]
    counts = [[len(model.token_ids(p.text, limit=False)) for p in s.prompts] for s in sets]
    if args.json:
        facts = [
            {
                "name": s.name,
                "description": s.description,
                "prompts": [vars(p) | {"tokens": n} for p, n in zip(s.prompts, lengths, strict=True)],
            }
            for s, lengths in zip(sets, counts, strict=True)
        ]
        print(strict_json({"model": model.name, "prompt_sets": facts}))
        return 0
    for i, (s, lengths) in enumerate(zip(sets, counts, strict=True)):
        title = f"{s.name}, {counted(len(s.prompts), 'prompt')}: {s.description}"
        print(("\n" if i else "") + textwrap.fill(title, screen_width()))
        rows = [
            [str(p.id), str(n), quoted(p.text, screen_width() - 18)]
            for p, n in zip(s.prompts, lengths, strict=True)
        ]
        print(fitted([["id", "tokens", "text"], *rows], ">><"))
    return 0
