"""What verbs of the command line share: groups of options, and reading what they were given."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt2np.cli.terminal import doing, moving_bars, tell
from gpt2np.cli.texts import a_text, as_unicode, read_prompt_text, read_text
from gpt2np.errors import InputError, MissingExtraError, printable, short
from gpt2np.generation.options import ALLOWED, Sampling
from gpt2np.json_fields import parse_json
from gpt2np.outputs import check_destinations, make_parents

MEETING = ("trace", "generate", "view")  # verbs where one meets the model
METAVARS: dict[Any, str] = {int: "N", float: "X"}


def group(parser: argparse.ArgumentParser, title: str) -> Any:
    """The group of options that has this title in the help of a verb; made where there is none."""
    found = [each for each in parser._action_groups if each.title == title]
    return found[0] if found else parser.add_argument_group(title)


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """A prompt as text or as ids."""
    prompt = group(parser, "prompt")
    help = "the prompt; - reads it from stdin, less the end of its last line"
    prompt.add_argument("text", nargs="?", metavar="TEXT", help=help)
    prompt.add_argument("--tokens", metavar="IDS", help="token ids instead of a text: 464,3139,286")
    add_special(parser)
    add_chat(parser)


def add_special(parser: argparse.ArgumentParser) -> None:
    """How special tokens in a text are read."""
    group(parser, "prompt").add_argument(
        "--special", action="store_true", help="read <|endoftext|> in a text as one token"
    )


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Whether texts are messages to the model."""
    help = "the text is a user's message, put into the model's turns; a .json file holds a whole conversation"
    group(parser, "prompt").add_argument("--chat", action="store_true", help=help)


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Which model."""
    group(parser, "model").add_argument(
        "--model", metavar="M", help="folder or Hub id (default $GPT2NP_MODEL, else tiny)"
    )


def add_model(parser: argparse.ArgumentParser, dtype: bool = True) -> None:
    """Which model, from where, in which precision."""
    add_model_name(parser)
    model = group(parser, "model")
    model.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    model.add_argument("--local-files-only", action="store_true", help="do not contact the Hub")
    model.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all)")
    widen = "bfloat16 weights become float32 when loaded: more memory, faster generation"
    model.add_argument("--widen", action="store_true", help=widen)
    if dtype:
        model.add_argument(
            "--dtype", choices=["float32", "float64"], default="float32", help="precision (default float32)"
        )
    group(parser, "output").add_argument("--json", action="store_true", help="print JSON, for programs")
    _explain_force(parser)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The options of `Model.generate` for one prompt; those of `Sampling` as that class names them."""
    length, choice = group(parser, "where the text ends"), group(parser, "how tokens are chosen")
    length.add_argument("--max-new-tokens", type=count, default=50, metavar="N", help="(default 50)")
    for option in fields(Sampling):
        flag = "--" + option.name.replace("_", "-")
        if option.name == "early_stopping":
            choice.add_argument(flag, choices=["true", "false", "never"], help="of beam search, as in HF")
        else:
            kind, _, _, allowed = ALLOWED[option.name]
            allowed = allowed.replace(" or None is off", " is off")
            choice.add_argument(flag, type=kind, metavar=METAVARS[kind], help=allowed)
    choice.add_argument(
        "--seed", type=int, metavar="N", help="makes sampling (--temperature above 0) repeatable"
    )
    length.add_argument("--eos", metavar="ID", help="the id that ends a text, or none")
    length.add_argument(
        "--stop", action="append", type=a_text, metavar="TEXT", help="end before this text; may be repeated"
    )
    length.add_argument("--stop-tokens", metavar="IDS", help="end at one of these ids: 11,13")
    choice.add_argument("--lookup", type=int, default=0, metavar="N", help="guess N tokens from repetitions")
    length.add_argument(
        "--on-overflow",
        choices=["refuse", "slide"],
        default="refuse",
        help="beyond the context: refuse, or slide (recomputes every time)",
    )
    output = group(parser, "output")
    output.add_argument(
        "--keep", action="append", metavar="PATTERN", help="sites for --out: 'attn.*', hidden_states"
    )
    output.add_argument("--out", metavar="FILE", help="save the trace of prompt and response")
    output.add_argument("--ledger", metavar="FILE", help="write why each token was chosen, as JSON lines")


def add_edits(parser: argparse.ArgumentParser) -> None:
    """Heads that are switched off while the prompt runs."""
    help = "run without this head: what it gives is zero; may be repeated"
    group(parser, "model").add_argument(
        "--zero-head", action="append", type=_layer_and_head, metavar="L.H", help=help
    )


def _layer_and_head(text: str) -> tuple[int, int]:
    """`2.0`: layer 2, head 0."""
    layer, point, head = text.partition(".")
    if not (point and layer.isdecimal() and head.isdecimal() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"takes L.H, as in 2.0 for layer 2, head 0; not {short(text)}")
    return int(layer), int(head)


def edits_of(args: argparse.Namespace) -> dict[str, Any] | None:
    """The `edits=` of a run that the options of `add_edits` ask for."""
    from gpt2np.analysis.interventions import zero

    heads: dict[str, list[int]] = {}
    for layer, head in args.zero_head or ():
        heads.setdefault(f"h.{layer}.attn.z", []).append(head)
    return {site: zero(heads=chosen) for site, chosen in heads.items()} or None


def add_picture(parser: argparse.ArgumentParser, help: str = "also draw a picture") -> None:
    """Where a picture goes."""
    group(parser, "output").add_argument(
        "--png", metavar="FILE", help=f"{help}: .png, .svg or .pdf (needs matplotlib)"
    )


def add_outputs(parser: argparse.ArgumentParser, *options: str, more: str = "") -> None:
    """`--force`, without which the files that these options name must not be there yet.

    What `options` do not name, such as a folder, the verb gives to `check_outputs` itself. `more` is what
    else `--force` does in this verb.
    """
    help = f"overwrite existing files{more}"
    group(parser, "output").add_argument("--force", action="store_true", help=help)
    _explain_force(parser)
    parser.set_defaults(outputs=options)


def _explain_force(parser: argparse.ArgumentParser) -> None:
    """Say what `--force` does where a model is loaded, once both options are there, in either order."""
    options = parser._option_string_actions
    if "--widen" in options and "--force" in options:
        options["--force"].help = f"{options['--force'].help}; convert weights even if memory may not suffice"


def check_outputs(args: argparse.Namespace, out: str | None = None, files: Sequence[str] = ()) -> None:
    """Refuse files to be written that are there, unless `--force` is given, and those that the command reads.

    Without `out` they are what the options of `add_outputs` name; with `files` it is the folder of those.
    Folders for them are made; if they are empty after the command, it removes them again.
    """
    if out == "":
        raise InputError("the name of what is to be written is empty")
    given = {option: getattr(args, option) for option in getattr(args, "outputs", ())}
    if empty := [option.replace("_", "-") for option, path in given.items() if path == ""]:
        raise InputError(f"--{empty[0]} is empty: give the name of a file")
    paths = list(given.values())
    if out is not None:
        paths = [os.path.join(out, name) for name in files if os.path.isdir(out)] if files else [out]
    args.written = paths  # `load_model` looks whether a model is read from them
    args.new_folders += make_parents(*paths)
    check_destinations(*paths, inputs=_read_by(args), overwrite=getattr(args, "force", True))


def check_ending(path: str | None, *endings: str, needed: bool = False) -> None:
    """Refuse a name that says another kind of file than is written; and if `needed` one without any."""
    if path is not None and Path(path).suffix not in (*endings, *([] if needed else [""])):
        raise InputError(f"{path}: the name must end in {' or '.join(endings)}, which says what it is")


def _read_by(args: argparse.Namespace) -> list[str]:
    """Whatever a command was given that may be a file to read."""
    given: list[str] = []
    for option, value in vars(args).items():
        if option not in (*getattr(args, "outputs", ()), "written", "out"):
            given += [
                text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
            ]
    return given


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{short(text)} is not a whole number of at least 1")
    return int(text)


def add_workers(verb: argparse.ArgumentParser) -> None:
    """Add the option that says how many processes share the work."""
    help = "processes that share the work, on one core each (default: as many as pay off); same files"
    verb.add_argument("--workers", type=count, metavar="N", help=help)


def read_prompt(args: argparse.Namespace) -> str | list[Any]:
    """The prompt of a command: text, or ids; with `--chat` perhaps messages. See `as_run`."""
    if (args.text is None) == (args.tokens is None):
        raise InputError(f"give either a TEXT or --tokens, as in: {args.prog} 'Elizabeth was'")
    if args.tokens is not None:
        if args.chat:
            raise InputError("--chat takes a TEXT: --tokens are run as they are")
        ids = token_ids(args.tokens, "--tokens")
        if not ids:
            raise InputError("the prompt is empty: --tokens needs at least one id")
        return ids
    if args.chat and is_conversation(args.text):
        return read_conversation(args.text)
    if args.text.endswith(".safetensors") and os.path.isfile(args.text):
        saved = f"; a saved trace is shown by --trace {args.text}" if hasattr(args, "trace") else ""
        raise InputError(f"{args.text}: is a file, not a text{saved}")
    if os.path.isfile(args.text):
        tell(f"note: {args.text} is run as a text; - < {args.text} instead of it runs what the file says")
    return as_unicode(args.text) if args.text != "-" else read_prompt_text()


def is_conversation(path: str) -> bool:
    """Whether `--chat` finds messages there: in a .json file."""
    return path.endswith(".json") and os.path.isfile(path)


def read_conversation(path: str) -> list[Any]:
    """The messages of a .json file: a list of them, or the list `messages` of an object."""
    content = parse_json(read_text(path), path)
    messages = content.get("messages") if isinstance(content, dict) else content
    if not isinstance(messages, list):
        raise InputError(f'{path}: must hold a list of messages: [{{"role": "user", "content": "..."}}, ...]')
    return messages


def as_run(args: argparse.Namespace, model: Any, prompt: Any) -> Any:
    """What the model is given of a prompt: with `--chat` the ids of the conversation."""
    return model.chat_prompt(prompt) if args.chat else prompt


def add_trace(parser: argparse.ArgumentParser, help: str = "a saved trace instead of a text") -> None:
    """A saved trace in the place of a prompt."""
    group(parser, "prompt").add_argument("--trace", metavar="FILE", help=help)


def open_trace(path: str, model: Any = None) -> Any:
    """A saved trace; says on stderr if its run was edited, which its numbers do not show."""
    from gpt2np.tracing.trace import Trace

    trace = Trace.open(path, model)
    if trace.edited:
        tell(f"note: this is no run of the model alone; edited: {trace.edited}")
    return trace


def check_one_run(args: argparse.Namespace) -> None:
    """Refuse a saved trace beside a prompt, and neither of them."""
    if args.trace is not None and (args.text is not None or args.tokens is not None):
        raise InputError("give a prompt or --trace FILE, not both")
    if args.trace is not None and getattr(args, "zero_head", None):
        raise InputError("--zero-head needs a prompt to run: it does not go with --trace")
    if args.trace is None and args.text is None and args.tokens is None:
        raise InputError(f"give a TEXT, --tokens or --trace FILE, as in: {args.prog} 'Elizabeth was'")


def integer(text: str, what: str) -> int:
    """A whole number as a user writes it; Python itself reads up to 4,300 digits."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{what} must be a whole number, not {short(text)}") from None


def given_token(model: Any, given: str) -> int:
    """The id of a token of the command line: its text, or digits that are no token's text."""
    from gpt2np.analysis.positions_and_tokens import token_id

    tokenizer = model.usable_tokenizer
    is_text = tokenizer is not None and tokenizer.find_id(given) is not None
    return token_id(model, integer(given, "a token id") if given.isdecimal() and not is_text else given)


def token_ids(given: str | None, option: str) -> list[int]:
    """Ids as a user writes them: `464,3139` or `464 3139`."""
    try:
        return [int(i) for i in (given or "").replace(",", " ").split()]
    except ValueError:
        raise InputError(f"{option} takes whole numbers, not {short(given)}") from None


def end_of_text(given: str | None) -> int | str | None:
    """The `eos` of `Model.generate`."""
    if given is None:
        return "config"
    if given != "none" and not given.isdecimal():
        raise InputError(f"--eos takes a token id or none, not {short(given)}")
    return None if given == "none" else integer(given, "--eos")


def load_sizes(args: argparse.Namespace) -> Any:
    """The config of a released size, which needs no weights, else the model that the options name."""
    from gpt2np.checkpoints.checkpoint import default_name
    from gpt2np.tracing.contract import released

    name = args.model or default_name()
    config = None if os.path.isdir(name) else released(name)
    if config is None:
        return load_model(argparse.Namespace(**vars(args) | {"dtype": "float32"}))  # which converts the least
    if sys.stderr.isatty():
        tell(f"model {name} as released, {config.n_parameters:,} parameters")
    return config


def config_of(args: argparse.Namespace) -> Any:
    """The config of the model that `--model` names, of which no weights are read."""
    from gpt2np.checkpoints.checkpoint import SHIPPED, default_name, shipped_folder
    from gpt2np.checkpoints.config_file import read_config
    from gpt2np.tracing.contract import released

    name = args.model or default_name()
    found = None if os.path.isdir(name) else released(name)
    return found or read_config(shipped_folder() if name == SHIPPED else name)


def load_model(args: argparse.Namespace, *prompts: object) -> Any:
    """The model that the options name; says on stderr which one runs, and what it makes of the prompts."""
    from gpt2np.loading import load
    from gpt2np.text.chat import template_note
    from gpt2np.threads import is_small, keep_one

    _check_chat(args)
    doing("loading the model")
    with moving_bars():
        model = load(
            args.model,
            dtype=getattr(args, "dtype", "float32"),
            threads=getattr(args, "threads", None),
            revision=args.revision,
            local_files_only=args.local_files_only,
            widen=True if getattr(args, "widen", False) else None,
            force=getattr(args, "force", False),
        )
    if model.threads is None and is_small(model.config):
        keep_one()  # for all that this process computes, which is nothing else
    check_destinations(*getattr(args, "written", ()), inputs=model.checkpoint.source_files())
    if sys.stderr.isatty():
        real = model.name == "tiny" and args.run.__name__ in MEETING
        hint = " (GPT-2 small: --model gpt2)" if real else ""
        tell(f"model {model.name}, {model.n_parameters:,} parameters{hint}")
    doing(f"running {model.name}")
    for note in model.checkpoint.notes:
        tell(f"note: {note}")
    other = template_note(model.config.architecture, model.usable_tokenizer)
    if other is not None and getattr(args, "chat", False):
        tell(f"note: {other}")
    _tell_of_texts(model, [text for text in prompts if isinstance(text, str)], args)
    return model


def _check_chat(args: argparse.Namespace) -> None:
    if not getattr(args, "chat", False):
        return
    if args.special:
        raise InputError("--special does not go with --chat, in which every message is plain text")
    for option in ("trace", "generation"):
        if getattr(args, option, None) is not None:
            raise InputError(f"--chat needs a prompt to run: it does not go with --{option}")


def _tell_of_texts(model: Any, texts: list[str], args: argparse.Namespace) -> None:
    """Notes on stderr about how texts become tokens: special ones read as plain text, files passed over."""
    try:
        tokenizer = model.tokenizer
    except MissingExtraError as error:  # ids can be run without; a damaged vocabulary is an error
        if texts:
            raise
        tell(f"note: tokens are shown by their ids: {error}")
        return
    if not texts or tokenizer is None:
        return
    if tokenizer.note:
        tell(f"note: {tokenizer.note}")
    if not args.special and (token := next(filter(None, map(tokenizer.special_token_in, texts)), None)):
        what = f"read as {len(token)} characters of plain text"
        what += ", as all messages are" if getattr(args, "chat", False) else "; --special makes it one token"
        tell(f"note: the text contains {printable(token)}, which is {what}")
