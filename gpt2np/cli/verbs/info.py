"""The verb that tells what a model is: info."""

import argparse
from typing import Any

from gpt2np.cli.arguments import add_model, add_verb, load_model
from gpt2np.cli.terminal import tell
from gpt2np.errors import TokenizerError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(verbs, "info", info, "config, parameters by component, where the weights lie")
    add_model(verb, dtype=False)
    verb.add_argument("--hash", action="store_true", help="also SHA-256 of the whole weight files")


def info(args: argparse.Namespace) -> int:
    """`gpt2np info`."""
    from gpt2np.cli import report

    model = load_model(args)
    try:
        _ = model.tokenizer
    except TokenizerError as error:  # ids can be run all the same
        tell(f"note: no text can be given: {error}")
    facts = report.model_facts(model, full_hash=args.hash)
    print(report.as_json(facts) if args.json else report.model_text(facts))
    return 0
