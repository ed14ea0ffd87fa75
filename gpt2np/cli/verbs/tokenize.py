"""The verb that cuts a text into tokens: tokenize."""

import argparse
from typing import Any

from gpt2np.cli.arguments import add_model, add_prompt, add_verb, load_model, read_prompt
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(verbs, "tokenize", tokenize, "cut a text into tokens, or join ids to a text")
    add_prompt(verb)
    add_model(verb, dtype=False)


def tokenize(args: argparse.Namespace) -> int:
    """`gpt2np tokenize`."""
    from gpt2np.tables import quoted, strict_json, table
    from gpt2np.text.prompts import checked_ids

    prompt = read_prompt(args)
    model = load_model(args, prompt)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.checkpoint.folder} has no vocabulary (vocab.json or tokenizer.json)")
    ids = checked_ids(prompt, model.config.vocab_size) if isinstance(prompt, list) else None
    ids = tokenizer.encode(prompt, special=args.special) if ids is None else ids
    text = tokenizer.decode(ids)
    pieces = list(zip(ids, tokenizer.tokens(ids), tokenizer.tokens(ids, marked=True), strict=True))
    if args.json:
        rows = [{"id": i, "token": token, "marked": marked} for i, token, marked in pieces]
        print(strict_json({"model": model.name, "text": text, "token_ids": ids, "tokens": rows}))
        return 0
    shown = [[str(i), str(id_), quoted(t, 30), quoted(m, 30)[1:-1]] for i, (id_, t, m) in enumerate(pieces)]
    print(table([["position", "id", "token", "in vocab.json"], *shown], ">><<", indent=0))
    return 0
