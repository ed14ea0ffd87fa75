"""The verb that writes a trace in other people's formats: export."""

import argparse
import os
from pathlib import Path
from typing import Any

from gpt2np.cli.arguments import add_outputs, add_special, add_verb, check_outputs, load_model, read_prompt
from gpt2np.cli.terminal import tell
from gpt2np.errors import InputError

LLMC = "llm.c"
KINDS = ("ts", "npz", "json", "csv", "safetensors", LLMC)


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    from gpt2np.export.dialects.registry import NAMES

    verb = add_verb(verbs, "export", export, "write a trace, or a model as llm.c's files, for other programs")
    verb.add_argument(
        "text",
        nargs="?",
        metavar="FILE",
        help="a saved trace, or an npz or safetensors written here; with --to llm.c also a TEXT to run",
    )
    verb.add_argument("--to", required=True, choices=KINDS, help="ts and llm.c: a folder of several files")
    verb.add_argument("-o", "--out", required=True, metavar="OUT", help="the file, or the folder")
    verb.add_argument(
        "--dialect", choices=NAMES, default=NAMES[0], help=f"whose names and shapes (default {NAMES[0]})"
    )
    verb.add_argument("--tokens", metavar="IDS", help="with --to llm.c: token ids to run: 464,3139,286")
    verb.add_argument(
        "--target", type=int, metavar="ID", help="with --to llm.c: what follows the last token (end of text)"
    )
    add_special(verb)
    verb.add_argument("--model", metavar="M", help="the model that ran, or that --to llm.c is to write")
    verb.add_argument("--revision", metavar="REV", help="its branch, tag or commit on the Hub")
    verb.add_argument("--local-files-only", action="store_true", help="do not ask the Hub")
    verb.add_argument("--json", action="store_true", help="what was written, for machines")
    add_outputs(verb, more="; read a FILE that takes more than 1 GB of memory")


def export(args: argparse.Namespace) -> int:
    """`gpt2np export`."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.export.dialects.writing import write_dialect
    from gpt2np.export.typescript import FILES, write_typescript
    from gpt2np.files import MAX_BYTES
    from gpt2np.tables import strict_json

    if args.to in ("ts", LLMC) and args.dialect != "gpt2np":
        raise InputError(f"--to {args.to} has names of its own: leave --dialect out")
    if args.to == LLMC:
        return _export_llmc(args)
    if args.text is None or args.tokens is not None or args.target is not None:
        raise InputError(f"--to {args.to} takes the FILE of a saved trace; --tokens, --target are for llm.c")
    check_outputs(args, args.out, FILES if args.to == "ts" else ())
    max_bytes = None if args.force else MAX_BYTES
    trace = read_dialect(args.text, max_bytes=max_bytes)
    if args.model is not None:
        args.dtype = trace.plan.dtype.name
        trace = read_dialect(args.text, load_model(args), max_bytes=max_bytes)
    if args.to == "ts":
        if trace.plan.dtype != "float32":
            tell(f"note: {trace.plan.dtype} becomes float32")
        n_arrays = write_typescript(trace, args.out)
        n_bytes = sum(os.path.getsize(os.path.join(args.out, name)) for name in FILES)
    else:
        n_arrays = write_dialect(trace, args.out, args.to, args.dialect)
        n_bytes = os.path.getsize(args.out)
    if args.json:
        facts = {"out": args.out, "to": args.to, "arrays": n_arrays, "bytes": n_bytes}
        print(strict_json(facts | ({} if args.to == "ts" else {"dialect": args.dialect})))
    tell(f"wrote {args.out}, {n_arrays} arrays, {n_bytes:,} bytes")
    return 0


def _export_llmc(args: argparse.Namespace) -> int:
    """`gpt2np export --to llm.c`: a text, ids, or a saved trace."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.export.llmc import check_model, file_names, last_target, write_llmc
    from gpt2np.files import MAX_BYTES
    from gpt2np.tables import strict_json

    is_file = args.text is not None and args.tokens is None and os.path.isfile(args.text)
    if not is_file and args.text is not None and Path(args.text).suffix in (".safetensors", ".npz"):
        raise InputError(f"{args.text}: no such file" if args.tokens is None else "give a FILE or --tokens")
    prompt = None if is_file else read_prompt(args)
    model = load_model(args, prompt)
    check_model(model)
    last_target(model, args.target)
    check_outputs(args, args.out, file_names(model))
    if prompt is None:
        trace = read_dialect(args.text, model, max_bytes=None if args.force else MAX_BYTES)
        trace.check_model(model, args.text)
    else:
        trace = model.trace(prompt, special=args.special)
    written = write_llmc(trace, args.out, args.target)
    if args.json:
        print(strict_json({"out": args.out, "to": LLMC, "files": written, "bytes": sum(written.values())}))
    if "gpt2_tokenizer.bin" not in written:
        tell("note: no tokenizer file: the model has no vocabulary")
    for name, n_bytes in written.items():
        tell(f"wrote {os.path.join(args.out, name)}, {n_bytes:,} bytes")
    return 0
