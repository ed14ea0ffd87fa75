"""The command line: one function a verb; what a verb needs is imported inside it.

Results go to stdout, notes and progress to stderr. Exit 0: fine, 1: a check failed, 2: bad input.
"""

import argparse
import math
import os
import sys
import textwrap
from typing import Any

from gpt2np.arguments import (
    add_generation,
    add_model,
    add_prompt,
    count,
    end_of_text,
    read_prompt,
    read_text,
)
from gpt2np.errors import Gpt2npError, InputError

DESCRIPTION = "Run GPT-2 in NumPy and see every step of it."


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except Gpt2npError as error:
        print(f"gpt2np: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `gpt2np sites | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        print("gpt2np: out of memory; `gpt2np plan N` says how much a trace takes", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from gpt2np import __version__

    parser = argparse.ArgumentParser(prog="gpt2np", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gpt2np {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    verb = _verb(verbs, "trace", trace, "run a prompt and show what the model saw, computed and predicts")
    add_prompt(verb)
    add_model(verb)
    verb.add_argument("--keep", action="append", metavar="PATTERN", help="sites to record, such as 'attn.*'")
    verb.add_argument("--out", metavar="FILE", help="write the trace into this .safetensors file")
    verb.add_argument("--top", type=count, default=5, metavar="K", help="how many predictions (default 5)")

    verb = _verb(verbs, "generate", generate, "continue a prompt, token by token")
    add_prompt(verb)
    add_model(verb)
    add_generation(verb)

    verb = _verb(verbs, "score", score, "log-probability of every token of a text file, and its perplexity")
    verb.add_argument("file", metavar="FILE", help="a text file; - reads stdin")
    verb.add_argument("--stride", type=count, metavar="N", help="tokens between windows (default: half one)")
    verb.add_argument("--tokens", action="store_true", help="also the loss of every token")
    add_model(verb)

    verb = _verb(verbs, "tokenize", tokenize, "cut a text into tokens, or join ids to a text")
    add_prompt(verb)
    add_model(verb, dtype=False)
    verb.add_argument("--special", action="store_true", help="let <|endoftext|> in the text be one token")

    verb = _verb(verbs, "sites", sites, "every array that a trace can hold, and what it tells you")
    verb.add_argument("--markdown", action="store_true", help="as the table of the README")
    verb.add_argument("--json", action="store_true", help="for machines")

    verb = _verb(verbs, "plan", plan, "bytes of a trace, before running it")
    verb.add_argument("lengths", nargs="+", type=count, metavar="N", help="number of tokens")
    add_model(verb)
    verb.add_argument("--keep", action="append", metavar="PATTERN", help="sites to record, such as 'attn.*'")

    verb = _verb(verbs, "info", info, "config, parameters by component, where the weights lie")
    add_model(verb, dtype=False)
    verb.add_argument("--hash", action="store_true", help="also SHA-256 of the whole weight files")

    verb = _verb(verbs, "download", download, "fetch a model from the Hub, for use without network")
    verb.add_argument("id", metavar="ID", help="such as gpt2, gpt2-xl, distilgpt2 or owner/name")
    verb.add_argument("--revision", help="branch, tag or commit")
    verb.add_argument("--json", action="store_true", help="for machines")
    return parser


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:]
    )
    parser.set_defaults(run=run)
    return parser


def _load(args: argparse.Namespace) -> Any:
    """The model that the options name; says on stderr which one runs."""
    from gpt2np.model import load

    model = load(
        args.model,
        dtype=getattr(args, "dtype", "float32"),
        revision=args.revision,
        local_files_only=args.local_files_only,
    )
    hint = "; the real one: --model gpt2" if model.name == "tiny" else ""
    print(f"gpt2np: model {model.name}, {model.n_parameters:,} parameters{hint}", file=sys.stderr)
    for note in model.checkpoint.notes:
        print(f"gpt2np: note: {note}", file=sys.stderr)
    return model


# -- verbs ----------------------------------------------------------------------------------------


def trace(args: argparse.Namespace) -> int:
    """`gpt2np trace`."""
    from gpt2np import report
    from gpt2np.analysis import lens

    prompt = read_prompt(args)
    model = _load(args)
    found = model.trace(prompt, keep=args.keep or "*", out=args.out)
    residuals = found
    if any(
        site not in found for site in ("embed", *(f"h.{i}.resid_post" for i in range(model.config.n_layer)))
    ):
        residuals = model.trace(prompt, keep={"patterns": lens.RESIDUALS, "positions": slice(-1, None)})
    facts = report.trace_facts(model, found, lens.predictions(residuals), args.top)
    print(report.as_json(facts) if args.json else report.trace_text(facts))
    if args.out:
        print(f"gpt2np: wrote {args.out}, {os.path.getsize(args.out):,} bytes", file=sys.stderr)
    return 0


def generate(args: argparse.Namespace) -> int:
    """`gpt2np generate`."""
    from dataclasses import fields

    from gpt2np.files import whole_file
    from gpt2np.sampling import Sampling
    from gpt2np.tables import strict_json

    prompt = read_prompt(args)
    chosen = {f.name: getattr(args, f.name) for f in fields(Sampling) if getattr(args, f.name) is not None}
    if "early_stopping" in chosen:
        chosen["early_stopping"] = {"true": True, "false": False}.get(args.early_stopping, "never")
    model = _load(args)
    generation = model.generate(
        prompt,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        eos=end_of_text(args.eos),
        stop=args.stop or (),
        keep=(args.keep or "*") if args.out else None,
        ledger="full" if args.ledger else False,
        lookup=args.lookup,
        on_overflow=args.on_overflow,
        **chosen,
    )
    interrupted = False
    if not args.json:
        print(prompt if isinstance(prompt, str) else model.decode(prompt), end="", flush=True)
    try:
        for token in generation:
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
        print()
    if args.ledger:
        with whole_file(args.ledger) as file:
            file.writelines(strict_json(entry.to_json(), indent=None) + "\n" for entry in done.ledger)
        print(f"gpt2np: wrote {args.ledger}, {len(done.ledger)} lines", file=sys.stderr)
    if args.out and done.trace is not None:
        done.trace.save(args.out)
        print(f"gpt2np: wrote {args.out}, {os.path.getsize(args.out):,} bytes", file=sys.stderr)
    return 130 if interrupted else 0


def score(args: argparse.Namespace) -> int:
    """`gpt2np score`."""
    from gpt2np.tables import quoted, strict_json, table

    text = read_text(args.file)
    model = _load(args)
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
    model = _load(args)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.checkpoint.folder} has no vocabulary (vocab.json and merges.txt)")
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


def sites(args: argparse.Namespace) -> int:
    """`gpt2np sites`."""
    from gpt2np.sites import SITES, markdown_table
    from gpt2np.tables import WIDTH, strict_json

    if args.markdown:
        print(markdown_table(), end="")
        return 0
    rows: list[dict[str, Any]] = [
        {
            "name": site.full_name(None).replace("None", "i"),
            "axes": site.axis_names,
            "derived": site.derived,
            "doc": site.doc,
            "elsewhere": {dialect: names[0] for dialect, names in site.names.items()},
        }
        for site in SITES
    ]
    if args.json:
        print(strict_json(rows))
        return 0
    for row in rows:
        print(f"{row['name']:<24}[{' '.join(row['axes'])}]" + ("  derived" if row["derived"] else ""))
        print(textwrap.fill(row["doc"], WIDTH, initial_indent="    ", subsequent_indent="    "))
        names = "; ".join(f"{dialect} {name}" for dialect, name in row["elsewhere"].items())
        if names:
            print(textwrap.fill(names, WIDTH, initial_indent="    = ", subsequent_indent="      "))
    return 0


def plan(args: argparse.Namespace) -> int:
    """`gpt2np plan`."""
    from gpt2np.checkpoint import default_name
    from gpt2np.config import RELEASED
    from gpt2np.plan import Plan, plan_table
    from gpt2np.tables import strict_json

    name = args.model or default_name()
    if name in RELEASED and not os.path.isdir(name):
        config = RELEASED[name]
        print(f"gpt2np: model {name} as released, {config.n_parameters:,} parameters", file=sys.stderr)
    else:
        config = _load(args).config
    for n in args.lengths:
        if n > config.n_positions:
            raise InputError(
                f"{n} tokens: the context of {name} holds {config.n_positions} (try --model gpt2)"
            )
    plans = [Plan(config, n, args.keep or "*", args.dtype) for n in args.lengths]
    if args.json:
        rows = [
            {
                "tokens": p.length,
                "bytes": p.nbytes,
                "linear": p.nbytes - p.quadratic_nbytes,
                "quadratic": p.quadratic_nbytes,
                "groups": p.groups(),
            }
            for p in plans
        ]
        print(strict_json({"model": name, "dtype": args.dtype, "plans": rows}))
        return 0
    for start in range(0, len(plans), 4):  # four columns fit into a line
        print(("\n" if start else "") + plan_table(plans[start : start + 4]))
    return 0


def info(args: argparse.Namespace) -> int:
    """`gpt2np info`."""
    from gpt2np import report

    model = _load(args)
    facts = report.model_facts(model, full_hash=args.hash)
    print(report.as_json(facts) if args.json else report.model_text(facts))
    return 0


def download(args: argparse.Namespace) -> int:
    """`gpt2np download`."""
    from gpt2np import hub
    from gpt2np.tables import strict_json

    snapshot = hub.fetch(args.id, args.revision)
    if snapshot.note:
        print(f"gpt2np: note: {snapshot.note}", file=sys.stderr)
    if args.json:
        print(strict_json({"id": args.id, "commit": snapshot.commit, "folder": str(snapshot.folder)}))
    else:
        print(f"{args.id} at commit {snapshot.commit}\n{snapshot.folder}")
        print(f"gpt2np: run it with --model {args.id}, or offline by that folder", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
