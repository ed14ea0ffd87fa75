"""The verb that writes a saved trace in other people's formats: export."""

import argparse
import os
import sys
from typing import Any

from gpt2np.arguments import add_verb, load_model
from gpt2np.errors import InputError

KINDS = ("ts", "npz", "json", "csv", "safetensors")


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    from gpt2np.export.naming import NAMES

    verb = add_verb(verbs, "export", export, "write a saved trace for other programs to read")
    verb.add_argument("file", metavar="FILE", help="a saved trace, or an npz or safetensors written here")
    verb.add_argument("--to", required=True, choices=KINDS, help="ts: a folder with a TypeScript interface")
    verb.add_argument("-o", "--out", required=True, metavar="OUT", help="the file, or the folder of ts")
    verb.add_argument(
        "--dialect", choices=NAMES, default=NAMES[0], help=f"whose names and shapes (default {NAMES[0]})"
    )
    verb.add_argument("--model", metavar="M", help="the model that ran, for what is derived from weights")
    verb.add_argument("--revision", metavar="REV", help="its branch, tag or commit on the Hub")
    verb.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    verb.add_argument("--json", action="store_true", help="what was written, for machines")


def export(args: argparse.Namespace) -> int:
    """`gpt2np export`."""
    from gpt2np.export.dialects import read_dialect
    from gpt2np.export.typescript import FILES, write_typescript
    from gpt2np.export.writing import write_dialect
    from gpt2np.tables import strict_json

    if args.to == "ts" and args.dialect != "gpt2np":
        raise InputError("--to ts has names of its own: leave --dialect out")
    trace = read_dialect(args.file)
    if args.model is not None:
        args.dtype = trace.plan.dtype.name
        trace = read_dialect(args.file, load_model(args))
    if args.to == "ts":
        if trace.plan.dtype != "float32":
            print(f"gpt2np: note: {trace.plan.dtype} becomes float32", file=sys.stderr)
        n_arrays = write_typescript(trace, args.out)
        n_bytes = sum(os.path.getsize(os.path.join(args.out, name)) for name in FILES)
    else:
        n_arrays = write_dialect(trace, args.out, args.to, args.dialect)
        n_bytes = os.path.getsize(args.out)
    if args.json:
        facts = {"out": args.out, "to": args.to, "arrays": n_arrays, "bytes": n_bytes}
        print(strict_json(facts | ({} if args.to == "ts" else {"dialect": args.dialect})))
    print(f"gpt2np: wrote {args.out}, {n_arrays} arrays, {n_bytes:,} bytes", file=sys.stderr)
    return 0
