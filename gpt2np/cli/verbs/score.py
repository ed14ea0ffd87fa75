"""The verb that tells how well a model predicts a text: score."""

import argparse
import math
import os
from typing import Any

from gpt2np.characters import readable
from gpt2np.cli.arguments import (
    add_chat,
    add_edits,
    add_model,
    add_special,
    as_run,
    count,
    edits_of,
    group,
    is_conversation,
    load_model,
    read_conversation,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.texts import read_text
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "score",
        score,
        "score novel.txt",
        "score - --tokens < novel.txt",
    )
    verb.add_argument("file", metavar="FILE", help="a text file; - reads stdin")
    verb.add_argument(
        "--stride",
        type=count,
        metavar="N",
        help="tokens from one window's start to the next (default: half a window)",
    )
    verb.add_argument(
        "--without-positions", action="store_true", help="also the loss when no position embedding is added"
    )
    verb.add_argument(
        "--hold-norms", action="store_true", help="also the loss when each norm multiplies by a constant"
    )
    verb.add_argument("--tokens", action="store_true", help="also the loss of every token")
    add_special(verb)
    add_chat(verb)
    add_model(verb)
    add_edits(verb)
    help = "convert the weights even if memory may not suffice"
    group(verb, "output").add_argument("--force", action="store_true", help=help)


def score(args: argparse.Namespace) -> int:
    """`gpt2np score`."""
    from gpt2np.tables import fitted, quoted, strict_json

    if args.file != "-" and not os.path.exists(args.file):
        raise InputError(
            f"{args.file}: no such file; score - reads a text from stdin, as in: echo TEXT | ..."
        )
    text = read_conversation(args.file) if args.chat and is_conversation(args.file) else read_text(args.file)
    model = load_model(args, text)
    text = as_run(args, model, text)
    result = model.score(text, stride=args.stride, special=args.special, edits=edits_of(args))
    n_characters = len(text if isinstance(text, str) else model.decode(text))
    facts: dict[str, Any] = {
        "model": model.name,
        "tokens": len(result.token_ids),
        "predicted": result.n_predicted,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_character": result.loss * result.n_predicted / math.log(2) / max(n_characters, 1),
    }
    facts |= _changed_losses(args, model, result.token_ids)
    if args.tokens:
        rows = zip(result.token_ids, result.tokens, result.losses.tolist(), strict=True)
        facts["per_token"] = [{"id": i, "token": token, "loss": loss} for i, token, loss in rows]
    if args.json:
        print(strict_json(facts))
        return 0
    for row, token in zip(facts.pop("per_token", []), readable(result.tokens), strict=False):
        print(f"{row['loss']:8.3f}  {row['id']:6d}  {quoted(token)}")
    shown = [
        [key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"]
        for key, value in facts.items()
        if key != "model"
    ]
    print(fitted(shown, "<>", indent=0))
    return 0


def _changed_losses(args: argparse.Namespace, model: Any, ids: list[int]) -> dict[str, float]:
    """The losses that were asked for besides, of the model with something taken from it."""
    from gpt2np.analysis.losses import loss_with_held_norms, loss_without_positions

    found = {}
    if args.without_positions:
        found["loss_without_positions"] = loss_without_positions(model, ids, args.stride).loss
    if args.hold_norms:
        found["loss_with_held_norms"] = loss_with_held_norms(model, ids, args.stride).loss
    return found
