"""The verb that tells what a model or a file is: info."""

import argparse
import os
from typing import Any

from gpt2np.cli.arguments import add_model, load_model
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import tell
from gpt2np.errors import InputError, TokenizerError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "info",
        info,
        "info",
        "info --model gpt2",
        "info t.safetensors",
        "info caps --verify",
    )
    help = "a trace, generation, KV file, capture, dump, or a folder, instead of the model that --model names"
    verb.add_argument("file", nargs="?", metavar="FILE", help=help)
    add_model(verb, dtype=False)
    verb.add_argument("--hash", action="store_true", help="also SHA-256 of the whole weight files")
    help = "check a folder of captured prompts: hashes, and a sample run again; exit 1 if something is wrong"
    verb.add_argument("--verify", action="store_true", help=help)
    help = "how many prompts --verify runs again (default 8; 0: none)"
    verb.add_argument("--sample", type=int, metavar="N", help=help)


def info(args: argparse.Namespace) -> int:
    """`gpt2np info`."""
    from gpt2np.cli import report

    if args.verify:
        return _verify(args)
    if args.sample is not None:
        raise InputError("--sample goes with --verify")
    if args.file is not None and not _names_a_model(args):
        return _of_file(args)
    model = load_model(args)
    try:
        _ = model.tokenizer
    except TokenizerError as error:  # ids can be run all the same
        tell(f"note: no text can be given: {error}")
    facts = report.model_facts(model, full_hash=args.hash)
    print(report.as_json(facts) if args.json else report.model_text(facts))
    return 0


def _names_a_model(args: argparse.Namespace) -> bool:
    """Whether FILE is a model: then it is that of `--model`."""
    from gpt2np.checkpoints.checkpoint import SHIPPED
    from gpt2np.tracing.contract import released

    if args.file != SHIPPED and not released(args.file):
        if not os.path.isfile(os.path.join(args.file, "config.json")):
            return False
    elif os.path.isfile(args.file):
        return False
    if args.model is not None:
        raise InputError("give a FILE or --model, not both")
    args.model = args.file
    return True


def _of_file(args: argparse.Namespace) -> int:
    """`gpt2np info FILE`."""
    from gpt2np.cli.verbs.file_facts import file_facts, file_text
    from gpt2np.tables import strict_json

    for option in ("model", "revision", "hash"):
        if getattr(args, option):
            raise InputError(f"--{option} is of a model: leave it out with a FILE")
    facts = file_facts(args.file)
    print(strict_json(facts) if args.json else file_text(facts))
    return 0


def _verify(args: argparse.Namespace) -> int:
    """`gpt2np info FOLDER --verify`."""
    from gpt2np.cli.verbs.captured_facts import captured_facts, check_captured
    from gpt2np.cli.verbs.file_facts import file_text
    from gpt2np.tables import strict_json

    if args.file is None:
        raise InputError(
            "--verify checks a folder of captured prompts: name it, as in gpt2np info caps --verify"
        )
    if args.hash:
        raise InputError("--hash is of a model: leave it out with --verify")
    facts = captured_facts(args.file)
    check, code = check_captured(args)
    facts["check"] = check
    print(strict_json(facts) if args.json else f"{file_text(facts)}\n\n{check['found']}")
    if "unchecked" in check:
        tell(check["unchecked"])
    return code
