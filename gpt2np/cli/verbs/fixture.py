"""The verb that writes a tiny reference model: fixture."""

import argparse
from typing import Any

from gpt2np.cli.arguments import add_outputs, check_outputs
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import tell


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(verbs, "fixture", fixture, "fixture --out fx", "fixture --out fx2 --seed 1")
    verb.add_argument("--out", "-o", required=True, metavar="DIR", help="the folder; made if need be")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="another one for each N (default 0)")
    verb.add_argument("--json", action="store_true", help="print what was written as JSON, for programs")
    add_outputs(verb)


def fixture(args: argparse.Namespace) -> int:
    """`gpt2np fixture`."""
    from gpt2np.reference.fixture import FILES, write_fixture
    from gpt2np.tables import fitted, strict_json

    check_outputs(args, args.out, FILES)
    written = write_fixture(args.out, args.seed)
    if args.json:
        print(strict_json({"out": args.out, "seed": args.seed, "files": written}))
    else:
        print(fitted([[name, f"{n_bytes:,}"] for name, n_bytes in written.items()], "<>", indent=0))
    tell(f"wrote {args.out}; its README.txt explains how to use it")
    return 0
