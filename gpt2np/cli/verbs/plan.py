"""The verb that tells the bytes of a trace before it runs: plan."""

import argparse
from typing import Any

from gpt2np.cli.arguments import add_model, count, load_sizes
from gpt2np.cli.parser import add_verb
from gpt2np.errors import InputError

HALF = ("bfloat16", "float16")


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "plan",
        plan,
        "plan 100 1024 --model gpt2",
        "plan 1024 --model gpt2 --keep 'attn.*'",
    )
    verb.add_argument("lengths", nargs="+", type=count, metavar="N", help="number of tokens")
    add_model(verb)
    verb.add_argument("--generating", action="store_true", help="also the cache of a generation")
    verb.add_argument(
        "--keep", action="append", metavar="PATTERN", help="sites to record: 'attn.*', attention_weights"
    )


def plan(args: argparse.Namespace) -> int:
    """`gpt2np plan`."""
    from gpt2np.architectures.gpt2.config import RELEASED
    from gpt2np.checkpoints.checkpoint import default_name
    from gpt2np.tables import counted, screen_width, strict_json
    from gpt2np.tracing.plan import Plan, plan_table

    name, sizes = args.model or default_name(), load_sizes(args)
    config = getattr(sizes, "config", sizes)
    for n in args.lengths:
        if n > config.n_positions:
            hint = " (try --model gpt2)" if n <= RELEASED["gpt2"].n_positions else ""
            raise InputError(f"{counted(n, 'token')}: the context of {name} holds {config.n_positions}{hint}")
    plans = [Plan(config, n, args.keep or "*", args.dtype, generating=args.generating) for n in args.lengths]
    facts = _weights(sizes, config, plans[0].dtype)
    if args.json:
        rows = [
            {
                "tokens": p.length,
                "bytes": p.nbytes,
                "linear": p.nbytes - p.quadratic_nbytes,
                "quadratic": p.quadratic_nbytes,
                "groups": p.groups(),
            }
            | ({"cache": p.cache_nbytes} if p.generating else {})
            for p in plans
        ]
        print(strict_json({"model": name, **facts, "plans": rows}))
        return 0
    each = max(1, (screen_width() - 35) // 11)  # columns of a table that fits
    for start in range(0, len(plans), each):
        print(("\n" if start else "") + plan_table(plans[start : start + each]))
    print(f"and {_weights_told(facts)}, whatever is traced")
    return 0


def _weights(sizes: Any, config: Any, dtype: Any) -> dict[str, Any]:
    """Bytes of the weights in the precision of a run, and as they are stored if that is half of float32."""
    facts = {"weights": config.n_parameters * dtype.itemsize, "dtype": dtype.name}
    stored = config.architecture.stored if sizes is config else sizes.weights.narrow
    as_stored = {"dtype": stored, "bytes": config.n_parameters * 2}
    return facts | ({"weights_as_stored": as_stored} if stored in HALF else {})


def _weights_told(facts: dict[str, Any]) -> str:
    told = f"{facts['weights']:,} bytes of weights"
    stored = facts.get("weights_as_stored")
    if stored is None:
        return told
    return f"{told} as {facts['dtype']} ({stored['bytes']:,} where they are stored in {stored['dtype']})"
