"""The verb that fetches a model from the Hub: download."""

import argparse
import os
from typing import Any

from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import moving_bars, tell
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(verbs, "download", download, "download gpt2")
    verb.add_argument("id", metavar="ID", help="such as gpt2, gpt2-xl, distilgpt2 or owner/name")
    verb.add_argument("--revision", help="branch, tag or commit")
    verb.add_argument("--json", action="store_true", help="print JSON, for programs")


def download(args: argparse.Namespace) -> int:
    """`gpt2np download`."""
    from gpt2np.checkpoints import hub
    from gpt2np.checkpoints.checkpoint import SHIPPED
    from gpt2np.tables import strict_json

    if args.id == SHIPPED or os.path.isdir(args.id):
        raise InputError(f"{args.id} is here already: --model {args.id} needs no network")
    with moving_bars():
        snapshot = hub.fetch(args.id, args.revision)
    if snapshot.note:
        tell(f"note: {snapshot.note}")
    if args.json:
        print(strict_json({"id": args.id, "commit": snapshot.commit, "folder": str(snapshot.folder)}))
    else:
        print(f"{args.id} at commit {snapshot.commit}\n{snapshot.folder}")
        tell(f"run it with --model {args.id}, or offline by that folder")
    return 0
