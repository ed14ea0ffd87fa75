"""The command line: reads arguments, runs a verb (`gpt2np.cli.verbs`), and turns errors into one line.

Results go to stdout, notes and progress to stderr. Exit 0: fine, 1: a check failed, 2: bad input.
"""

import argparse
import sys
from pathlib import Path

from gpt2np.cli.arguments import Parser, check_outputs
from gpt2np.cli.terminal import give_up_stdout, screens, tell
from gpt2np.cli.verbs import (
    capture,
    circuits,
    compare,
    docs,
    download,
    export,
    fixture,
    generate,
    heads_and_lens,
    info,
    kv,
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

DESCRIPTION = "Run GPT-2 in NumPy and see every step of it."


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code, and lets a KeyboardInterrupt through."""
    new_folders: list[Path] = []
    with screens():
        try:
            args = build_parser().parse_args(argv, argparse.Namespace(new_folders=new_folders))
            check_outputs(args)
            code: int = args.run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # `gpt2np sites | head`
            give_up_stdout()
            return 0
        except (Gpt2npError, OSError, UnicodeError, MemoryError) as error:
            tell(f"{_told(error)}")
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


def build_parser() -> argparse.ArgumentParser:
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
        docs,
    ):
        verb_file.register(verbs)
    return parser
