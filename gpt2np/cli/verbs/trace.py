"""Verbs that run a model: trace, generate, score, tokenize."""

import argparse
import math
import os
import sys
from typing import Any

from gpt2np.arguments import (
    add_generation,
    add_model,
    add_prompt,
    add_verb,
    count,
    end_of_text,
    load_model,
    read_prompt,
    read_text,
    token_ids,
)
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add these verbs to the command line."""
    verb = add_verb(verbs, "trace", trace, "run a prompt and show what the model saw, computed and predicts")
    add_prompt(verb)
    add_model(verb)
    verb.add_argument("--keep", action="append", metavar="PATTERN", help="sites to record, such as 'attn.*'")
    verb.add_argument("--out", metavar="FILE", help="write the trace into this .safetensors file")
    verb.add_argument("--top", type=count, metavar="K", help="how many predictions (default 5)")
    verb.add_argument(
        "--show",
        action="append",
        metavar="SITE",
        help="instead: the values of a site under any name, such as h.1.attn.pattern; may be repeated",
    )
    verb.add_argument("--head", type=int, metavar="H", help="with --show: of this head only")
    verb.add_argument(
        "--pos", type=int, metavar="N", help="with --show: of this position (query) only; -1 is the last"
    )
    verb.add_argument("--png", metavar="FILE", help="with --show: also draw a picture (needs matplotlib)")

    verb = add_verb(verbs, "generate", generate, "continue a prompt, token by token")
    add_prompt(verb)
    add_model(verb)
    add_generation(verb)

    verb = add_verb(
        verbs, "score", score, "log-probability of every token of a text file, and its perplexity"
    )
    verb.add_argument("file", metavar="FILE", help="a text file; - reads stdin")
    verb.add_argument("--stride", type=count, metavar="N", help="tokens between windows (default: half one)")
    verb.add_argument("--tokens", action="store_true", help="also the loss of every token")
    add_model(verb)

    verb = add_verb(verbs, "tokenize", tokenize, "cut a text into tokens, or join ids to a text")
    add_prompt(verb)
    add_model(verb, dtype=False)
    verb.add_argument("--special", action="store_true", help="let <|endoftext|> in the text be one token")


def trace(args: argparse.Namespace) -> int:
    """`gpt2np trace`."""
    from gpt2np import report
    from gpt2np.analysis import lens
    from gpt2np.verbs import values

    prompt = read_prompt(args)
    values.check_show(args)
    model = load_model(args)
    if args.show:
        return values.show(args, model, prompt)
    found = model.trace(prompt, keep=args.keep or "*", out=args.out)
    residuals = found
    if any(
        site not in found for site in ("embed", *(f"h.{i}.resid_post" for i in range(model.config.n_layer)))
    ):
        residuals = model.trace(prompt, keep={"patterns": lens.RESIDUALS, "positions": slice(-1, None)})
    facts = report.trace_facts(model, found, lens.predictions(residuals), args.top or 5)
    print(report.as_json(facts) if args.json else report.trace_text(facts))
    if args.out:
        print(f"gpt2np: wrote {args.out}, {os.path.getsize(args.out):,} bytes", file=sys.stderr)
    return 0


def generate(args: argparse.Namespace) -> int:
    """`gpt2np generate`."""
    from dataclasses import fields

    from gpt2np.files import check_destinations, whole_file
    from gpt2np.sampling import Sampling
    from gpt2np.tables import strict_json

    prompt = read_prompt(args)
    chosen = {f.name: getattr(args, f.name) for f in fields(Sampling) if getattr(args, f.name) is not None}
    if "early_stopping" in chosen:
        chosen["early_stopping"] = {"true": True, "false": False}.get(args.early_stopping, "never")
    if args.keep and not args.out:
        raise InputError("--keep says what --out FILE holds; give both")
    check_destinations(args.out, args.ledger)
    model = load_model(args)
    generation = model.generate(
        prompt,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        eos=end_of_text(args.eos),
        stop=args.stop or (),
        stop_tokens=token_ids(args.stop_tokens, "--stop-tokens"),
        keep=(args.keep or "*") if args.out else None,
        ledger="full" if args.ledger else False,
        lookup=args.lookup,
        on_overflow=args.on_overflow,
        **chosen,
    )
    if not args.temperature and (args.top_k or args.top_p or args.min_p or args.seed is not None):
        print("gpt2np: note: without --temperature decoding is greedy: nothing is drawn", file=sys.stderr)
    interrupted, shown = False, generation.prompt_texts[0]
    if not args.json:
        print(shown, end="", flush=True)
    try:
        for token in generation:
            shown += token.text
            if not args.json:
                print(token.text, end="", flush=True)
    except KeyboardInterrupt:
        generation.stop()
        interrupted = True
    done = generation.finish()
    if args.json:
        facts = {
            "model": model.name,
            "text": done.text,
            "prompt": {"text": done.prompt.text, "token_ids": done.prompt.token_ids},
            "response": {"text": done.response.text, "token_ids": done.response.token_ids},
            "tokens": done.response.tokens,
            "probabilities": done.probabilities,
            "stopped_by": done.stopped_by,
        }
        print(strict_json(facts))
    else:
        print(done.text[len(shown) :])  # what an interrupt left held back
    if args.ledger:
        with whole_file(args.ledger) as file:
            file.writelines(strict_json(entry.to_json(), indent=None) + "\n" for entry in done.ledger)
        print(f"gpt2np: wrote {args.ledger}, {len(done.ledger)} lines", file=sys.stderr)
    if args.out and done.trace is None:
        print(f"gpt2np: no token was chosen, so {args.out} was not written", file=sys.stderr)
    elif args.out:
        done.trace.save(args.out)
        print(f"gpt2np: wrote {args.out}, {os.path.getsize(args.out):,} bytes", file=sys.stderr)
    return 130 if interrupted else 0


def score(args: argparse.Namespace) -> int:
    """`gpt2np score`."""
    from gpt2np.tables import quoted, strict_json, table

    text = read_text(args.file)
    model = load_model(args)
    result = model.score(text, stride=args.stride)
    facts: dict[str, Any] = {
        "model": model.name,
        "tokens": len(result.token_ids),
        "predicted": result.n_predicted,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_character": result.loss * result.n_predicted / math.log(2) / len(text),
    }
    if args.tokens:
        rows = zip(result.token_ids, result.tokens, result.losses.tolist(), strict=True)
        facts["per_token"] = [{"id": i, "token": token, "loss": loss} for i, token, loss in rows]
    if args.json:
        print(strict_json(facts))
        return 0
    for row in facts.pop("per_token", []):
        print(f"{row['loss']:8.3f}  {row['id']:6d}  {quoted(row['token'])}")
    shown = [
        [key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"]
        for key, value in facts.items()
        if key != "model"
    ]
    print(table(shown, "<>", indent=0))
    return 0


def tokenize(args: argparse.Namespace) -> int:
    """`gpt2np tokenize`."""
    from gpt2np.tables import quoted, strict_json, table

    prompt = read_prompt(args)
    model = load_model(args)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.checkpoint.folder} has no vocabulary (vocab.json or tokenizer.json)")
    ids = prompt if isinstance(prompt, list) else tokenizer.encode(prompt, allow_special=args.special)
    text = tokenizer.decode(ids)
    pieces = list(zip(ids, tokenizer.tokens(ids), tokenizer.tokens(ids, marked=True), strict=True))
    if args.json:
        rows = [{"id": i, "token": token, "marked": marked} for i, token, marked in pieces]
        print(strict_json({"model": model.name, "text": text, "token_ids": ids, "tokens": rows}))
        return 0
    shown = [[str(i), str(id_), quoted(t, 30), quoted(m, 30)[1:-1]] for i, (id_, t, m) in enumerate(pieces)]
    print(table([["position", "id", "token", "in vocab.json"], *shown], ">><<", indent=0))
    return 0
