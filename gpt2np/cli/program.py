"""The command line: reads arguments, runs a verb (`gpt2np.cli.verbs`), and turns errors into one line.

Results go to stdout, notes and progress to stderr. Exit 0: fine, 1: a check failed, 2: bad input.
"""

import argparse
import os
import sys

from gpt2np.cli.arguments import Parser
from gpt2np.cli.verbs import (
    capture,
    circuits,
    compare,
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
from gpt2np.errors import Gpt2npError

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
    except OSError as error:  # `gpt2np sites > file` on a full disk
        print(f"gpt2np: cannot write the results: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except UnicodeEncodeError as error:
        print(
            f"gpt2np: the terminal's {error.encoding} cannot show this text; set PYTHONIOENCODING=utf-8",
            file=sys.stderr,
        )
        return 2
    except MemoryError:
        print("gpt2np: out of memory; `gpt2np plan N` says how much a trace takes", file=sys.stderr)
        return 2


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
    ):
        verb_file.register(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
