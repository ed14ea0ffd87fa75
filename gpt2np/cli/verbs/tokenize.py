"""The verb that cuts a text into tokens: tokenize."""

import argparse
from typing import Any

from gpt2np.cli.arguments import add_model, add_prompt, as_run, load_model, read_prompt
from gpt2np.cli.parser import add_verb
from gpt2np.errors import InputError
from gpt2np.tables import wrapped


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "tokenize",
        tokenize,
        "tokenize 'Elizabeth was'",
        "tokenize --tokens 36,1116,340",
        "tokenize Elizabeth --merges",
    )
    add_prompt(verb)
    verb.add_argument(
        "--merges", action="store_true", help="also which pairs of pieces are joined to each token, in order"
    )
    add_model(verb, dtype=False)


def tokenize(args: argparse.Namespace) -> int:
    """`gpt2np tokenize`."""
    from gpt2np.tables import fitted, quoted, strict_json
    from gpt2np.text.prompts import checked_ids

    prompt = read_prompt(args)
    model = load_model(args, prompt)
    prompt, tokenizer = as_run(args, model, prompt), model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.checkpoint.folder} has no vocabulary (vocab.json or tokenizer.json)")
    ids = checked_ids(prompt, model.config.vocab_size) if isinstance(prompt, list) else None
    ids = tokenizer.encode(prompt, special=args.special) if ids is None else ids
    text = tokenizer.decode(ids)
    pieces = list(zip(ids, tokenizer.tokens(ids), tokenizer.tokens(ids, marked=True), strict=True))
    parts = tokenizer.parts() if args.merges else None
    if args.json:
        rows: list[dict[str, Any]] = [{"id": i, "token": t, "marked": marked} for i, t, marked in pieces]
        facts = {"model": model.name, "text": text, "token_ids": ids, "tokens": rows}
        if parts is not None:
            facts["vocabulary"] = parts
            for row in rows:
                row["merges"] = [merge._asdict() for merge in tokenizer.merges(row["id"])]
        print(strict_json(facts))
        return 0
    shown = [[str(i), str(id_), quoted(t, 30), quoted(m, 30)[1:-1]] for i, (id_, t, m) in enumerate(pieces)]
    print(fitted([["position", "id", "token", "in vocab.json"], *shown], ">><<", indent=0))
    if parts is not None:
        print(f"\n{_merges(tokenizer, list(dict.fromkeys(ids)))}\n\n{vocabulary_text(parts)}")
    return 0


def _merges(tokenizer: Any, ids: list[int]) -> str:
    """The joins of each token, a line each, with the line of merges.txt that says so."""
    from gpt2np.tables import quoted

    parts = []
    for i in ids:
        lines = [f"{quoted(tokenizer.tokens([i])[0], 30)}, id {i}"]
        merges = tokenizer.merges(i)
        lines += [f"  merge {merge.number:>6,}  {' '.join(merge.pieces)}" for merge in merges]
        if not merges:
            lines.append("  a single byte" if len(tokenizer.token_bytes(i)) == 1 else "  an added token")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def vocabulary_text(parts: dict[str, int]) -> str:
    """What a vocabulary is made of, as a sum."""
    terms = " + ".join(f"{n:,} {name}" for name, n in parts.items())
    return wrapped(f"vocabulary: {terms} = {sum(parts.values()):,} tokens")
