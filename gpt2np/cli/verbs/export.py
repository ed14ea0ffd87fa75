"""The verb that writes a trace in other people's formats: export."""

import argparse
import os
from pathlib import Path
from typing import Any

from gpt2np.cli.arguments import (
    add_chat,
    add_model,
    add_outputs,
    add_special,
    as_run,
    check_outputs,
    group,
    load_model,
    read_prompt,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import doing, tell
from gpt2np.errors import InputError
from gpt2np.export.dialect_names import NAMES
from gpt2np.files import kind_of
from gpt2np.outputs import check_kind

LLMC = "llm.c"
KINDS = ("ts", "npz", "json", "csv", "safetensors", LLMC)


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "export",
        export,
        "export t.safetensors --to npz --out t.npz --dialect transformer_lens",
        "export 'Elizabeth was' --to ts --out folder",
    )
    prompt = group(verb, "prompt")
    prompt.add_argument(
        "text",
        nargs="?",
        metavar="TEXT|FILE",
        help="a text to run; or a saved trace, or an npz or safetensors written here",
    )
    prompt.add_argument("--tokens", metavar="IDS", help="token ids to run: 464,3139,286")
    verb.add_argument("--to", required=True, choices=KINDS, help="ts and llm.c: a folder of several files")
    verb.add_argument(
        "--dialect", choices=NAMES, default=NAMES[0], help=f"whose names and shapes (default {NAMES[0]})"
    )
    verb.add_argument(
        "--target", type=int, metavar="ID", help="with --to llm.c: what follows the last token (end of text)"
    )
    help = "sites to run and write: 'attn.*', hidden_states (of a TEXT; default: all)"
    verb.add_argument("--keep", action="append", metavar="PATTERN", help=help)
    add_special(verb)
    add_chat(verb)
    add_model(verb, dtype=False)
    output = group(verb, "output")
    output.add_argument("-o", "--out", required=True, metavar="OUT", help="the file, or the folder")
    add_outputs(verb, more="; read a FILE that takes more than 1 GB of memory")


def export(args: argparse.Namespace) -> int:
    """`gpt2np export`."""
    if args.to in ("ts", LLMC) and args.dialect != "gpt2np":
        raise InputError(f"--to {args.to} has names of its own: leave --dialect out")
    if args.to == LLMC:
        return _export_llmc(args)
    if args.target is not None:
        raise InputError("--target is for --to llm.c")
    return _export_trace(args)


def _export_trace(args: argparse.Namespace) -> int:
    """`gpt2np export` to a kind that holds a trace."""
    from gpt2np.export.dialects.writing import write_dialect
    from gpt2np.export.typescript import FILES, write_typescript
    from gpt2np.tables import counted, strict_json

    saved = _is_saved(args)
    prompt = None if saved else read_prompt(args)
    if saved and args.keep:
        raise InputError("--keep says what is run of a TEXT: a saved trace is written as it is")
    if args.to != "ts":
        check_kind(args.out, f".{args.to}", f"the name says another kind of file than --to {args.to}")
    check_outputs(args, args.out, FILES if args.to == "ts" else ())
    if saved:
        trace = _read(args)
    else:
        model = load_model(args, prompt)
        trace = model.trace(as_run(args, model, prompt), keep=args.keep or "*", special=args.special)
    doing("writing")
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
    tell(f"wrote {args.out}, {counted(n_arrays, 'array')}, {n_bytes:,} bytes")
    return 0


def _is_saved(args: argparse.Namespace) -> bool:
    """Whether what was given is a file, and not a text to run."""
    if args.text is None or args.tokens is not None:
        if args.text is not None and _names_a_file(args.text):
            raise InputError("give a FILE or --tokens, not both")
        return False
    if kind_of(args.text) == "a text file" and not _names_a_file(args.text):
        raise InputError(
            f"{args.text}: is a text file, no saved trace; its text is run by: gpt2np export - < {args.text}"
        )
    if os.path.exists(args.text):
        return True
    if _names_a_file(args.text):
        raise InputError(f"{args.text}: no such file")
    return False


def _names_a_file(text: str) -> bool:
    """Whether a text is the name of a file that can be read, existing or not."""
    return Path(text).suffix in (".safetensors", ".npz", ".json", ".csv")


def _read(args: argparse.Namespace) -> Any:
    """The saved trace, with its model if that is named."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.files import MAX_BYTES

    max_bytes = None if args.force else MAX_BYTES
    trace = read_dialect(args.text, max_bytes=max_bytes)
    if args.model is None:
        return trace
    args.dtype = trace.plan.dtype.name
    return read_dialect(args.text, load_model(args), max_bytes=max_bytes)


def _export_llmc(args: argparse.Namespace) -> int:
    """`gpt2np export --to llm.c`: a text, ids, or a saved trace."""
    from gpt2np.export.dialects.reading import read_dialect
    from gpt2np.export.llmc import check_model, file_names, last_target, write_llmc
    from gpt2np.files import MAX_BYTES
    from gpt2np.tables import strict_json

    if args.keep:
        raise InputError("--to llm.c has arrays of its own: leave --keep out")
    prompt = None if _is_saved(args) else read_prompt(args)
    model = load_model(args, prompt)
    check_model(model)
    last_target(model, args.target)
    check_outputs(args, args.out, file_names(model))
    if prompt is None:
        trace = read_dialect(args.text, model, max_bytes=None if args.force else MAX_BYTES)
        trace.check_model(model, args.text)
    else:
        trace = model.trace(as_run(args, model, prompt), special=args.special)
    written = write_llmc(trace, args.out, args.target)
    if args.json:
        print(strict_json({"out": args.out, "to": LLMC, "files": written, "bytes": sum(written.values())}))
    if "gpt2_tokenizer.bin" not in written:
        tell("note: no tokenizer file: the model has no vocabulary")
    for name, n_bytes in written.items():
        tell(f"wrote {os.path.join(args.out, name)}, {n_bytes:,} bytes")
    return 0
