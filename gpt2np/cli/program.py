"""The command line: reads arguments, runs a verb (`gpt2np.cli.verbs`), and turns errors into one line.

Results go to stdout, notes and progress to stderr. Exit 0: fine, 1: a check failed, 2: bad input.
"""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path

from gpt2np.cli.arguments import check_outputs
from gpt2np.cli.parser import Parser
from gpt2np.cli.terminal import give_up_stdout, screens, tell, ticking
from gpt2np.cli.verbs import (
    capture,
    circuits,
    compare,
    completion,
    docs,
    download,
    export,
    fixture,
    generate,
    heads_and_lens,
    info,
    kv,
    learn,
    patch,
    plan,
    score,
    sites,
    stats,
    tokenize,
    trace,
    view,
)
from gpt2np.errors import Gpt2npError, printable
from gpt2np.outputs import remove_empty

DESCRIPTION = "Run GPT-2, GPT-Neo or Gemma-2 in NumPy and see every step of it."
GROUPS = {
    "look at a run": "trace generate view tokenize score",
    "learn how it works": "learn",
    "take it apart": "lens heads circuits stats patch",
    "check your own implementation": "compare fixture",
    "models and data": "info download sites plan capture kv export",
    "help": "docs completion",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code, and lets a KeyboardInterrupt through."""
    new_folders: list[Path] = []
    args = argparse.Namespace(new_folders=new_folders)
    with screens():
        try:
            build_parser().parse_args(argv, args)
            check_outputs(args)
            with ticking(args.run.__name__):
                code: int = args.run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # `gpt2np sites | head`
            give_up_stdout()
            return 0
        except (Gpt2npError, OSError, UnicodeError, MemoryError) as error:
            tell(_in_shell(_told(error), vars(args)))
            if not isinstance(error, Gpt2npError):
                give_up_stdout()
            return 2
        finally:
            remove_empty(new_folders)


def _told(error: BaseException) -> str:
    """What to say of an error, in one line."""
    if isinstance(error, Gpt2npError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; `gpt2np plan N` says how much a trace takes"
    if isinstance(error, OSError) and error.filename is None:  # `gpt2np sites > file` on a full disk
        return f"cannot write the results: {error.strerror or error}"
    if isinstance(error, OSError):
        return f"{printable(str(error.filename))}: {error.strerror}"
    return f"cannot write the results: {printable(str(error))}; set PYTHONIOENCODING=utf-8"


# What a message says of Python, and what a shell has instead.
IN_SHELL = (
    (
        r"; take trace\.to\('hf'\) or trace\.to\('guide'\), or ",
        "; `gpt2np export --dialect hf` has them, or take ",
    ),
    (r"trace\.\w+, (?=`gpt2np)", ""),
    (r"the nearest is trace\.\w+, which is no site", "`gpt2np tokenize` shows what comes from the tokens"),
    (r"model\.weights has it, ", ""),
    (r" \('pattern', 0\), not ", ", not "),
    (r"\bgenerate\(\.\.\., (\w+=[^)]*)\)", r"\1"),
    (r"\btrace\['([^']*)'\]", r"\1"),
)


def _in_shell(message: str, options: Collection[str]) -> str:
    """A message with the arguments of Python in it spelt as the options of the command that ran."""

    def spelt(found: re.Match[str]) -> str:
        name, value = found[1], re.sub(r"^'([\w.-]+)'$", r"\1", found[2])
        return f"--{name.replace('_', '-')} {value}".rstrip() if name in options else found[0]

    name, colon, _ = message.partition(":")
    message = f"--{name.replace('_', '-')}{message[len(name) :]}" if colon and name in options else message
    for python, shell in IN_SHELL:
        message = re.sub(python, shell, message)
    return re.sub(r"\b([a-z]\w*)=('[^']*'|[\w.+-]+|(?=\W|$))", spelt, message)


def build_parser() -> Parser:
    """The whole command line."""
    from gpt2np import __version__

    parser = Parser(prog="gpt2np", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gpt2np {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb_file in (
        trace,
        generate,
        score,
        tokenize,
        sites,
        plan,
        info,
        download,
        heads_and_lens,
        circuits,
        stats,
        patch,
        compare,
        capture,
        kv,
        export,
        fixture,
        view,
        learn,
        completion,
        docs,
    ):
        verb_file.register(verbs)
    parser.groups = GROUPS
    return parser
