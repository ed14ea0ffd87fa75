"""Verbs that tell about models and sites: sites, plan, info, download."""

import argparse
import os
import sys
import textwrap
from typing import Any

from gpt2np.arguments import add_model, add_verb, count, load_model, load_sizes
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add these verbs to the command line."""
    verb = add_verb(verbs, "sites", sites, "every array that a trace can hold, and what it tells you")
    verb.add_argument("--markdown", action="store_true", help="as the table of the README")
    verb.add_argument("--json", action="store_true", help="for machines")

    verb = add_verb(verbs, "plan", plan, "bytes of a trace, before running it")
    verb.add_argument("lengths", nargs="+", type=count, metavar="N", help="number of tokens")
    add_model(verb)
    verb.add_argument("--keep", action="append", metavar="PATTERN", help="sites to record, such as 'attn.*'")

    verb = add_verb(verbs, "info", info, "config, parameters by component, where the weights lie")
    add_model(verb, dtype=False)
    verb.add_argument("--hash", action="store_true", help="also SHA-256 of the whole weight files")

    verb = add_verb(verbs, "download", download, "fetch a model from the Hub, for use without network")
    verb.add_argument("id", metavar="ID", help="such as gpt2, gpt2-xl, distilgpt2 or owner/name")
    verb.add_argument("--revision", help="branch, tag or commit")
    verb.add_argument("--json", action="store_true", help="for machines")


def sites(args: argparse.Namespace) -> int:
    """`gpt2np sites`."""
    from gpt2np.report import markdown_table
    from gpt2np.sites import SITES
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

    name, sizes = args.model or default_name(), load_sizes(args)
    config = getattr(sizes, "config", sizes)
    for n in args.lengths:
        if n > config.n_positions:
            hint = " (try --model gpt2)" if n <= RELEASED["gpt2"].n_positions else ""
            raise InputError(f"{n} tokens: the context of {name} holds {config.n_positions}{hint}")
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

    model = load_model(args)
    facts = report.model_facts(model, full_hash=args.hash)
    print(report.as_json(facts) if args.json else report.model_text(facts))
    return 0


def download(args: argparse.Namespace) -> int:
    """`gpt2np download`."""
    from gpt2np import hub
    from gpt2np.checkpoint import SHIPPED
    from gpt2np.tables import strict_json

    if args.id == SHIPPED or os.path.isdir(args.id):
        raise InputError(f"{args.id} is here already: --model {args.id} needs no network")
    snapshot = hub.fetch(args.id, args.revision)
    if snapshot.note:
        print(f"gpt2np: note: {snapshot.note}", file=sys.stderr)
    if args.json:
        print(strict_json({"id": args.id, "commit": snapshot.commit, "folder": str(snapshot.folder)}))
    else:
        print(f"{args.id} at commit {snapshot.commit}\n{snapshot.folder}")
        print(f"gpt2np: run it with --model {args.id}, or offline by that folder", file=sys.stderr)
    return 0
