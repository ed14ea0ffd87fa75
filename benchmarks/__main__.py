"""Measures gpt2np beside other programs and beside the limits of the machine, in one sitting.

    python -m benchmarks                     everything, meant for 45 minutes on two quiet cores
    python -m benchmarks --quick             the main rows, meant for 6 minutes
    python -m benchmarks --work 'trace-*' --work decode-32 --out FOLDER   these rows; others in FOLDER stay
    python -m benchmarks --continue --out FOLDER                     what an interrupted run has not done
    python -m benchmarks --engines gpt2np,hf                         hf is hf_eager (hooks) and hf_sdpa
    python -m benchmarks --python transformer_lens=/venv/bin/python  an engine in a Python of its own
    python -m benchmarks --before CHECKOUT   beside gpt2np of another checkout, as an engine of its own
    python -m benchmarks scaling --out FOLDER   cost against tokens, layers and width
    python -m benchmarks report FOLDER/RESULTS.json                  the page and the pictures again
    python -m benchmarks publish FOLDER/RESULTS.json                 copied to benchmarks/results

Engines are gpt2np, hf (transformers), transformer_lens and ctranslate2 (sae_lens has rows in
`benchmarks.bench_capture` only); one that is not installed is reported as absent. Install hf with
`pip install '.[ref,plot]'`, and transformer_lens and ctranslate2 in an environment of their own:
`pip install torch==2.13.0 && pip install transformer_lens ctranslate2`. The models have GPT-2 small's and
medium's shape and random weights, made on the spot in $TMPDIR, which needs 10 GB. FOLDER, benchmark-results
unless `--out` says otherwise, gets RESULTS.json (every round of every row, saved after each), RESULTS.md,
RESULTS.png and RESULTS-scaling.png. `publish` copies them to benchmarks/results under the name of the
processor, and writes README's table and the page on speed anew: commit them. A run without `--work` or
`--continue` starts anew, and leaves the former results as previous-RESULTS.json; `scaling` adds to what is
there. Run it on an otherwise idle machine. `--shape tiny` tries the suite out in a few minutes; its figures
mean nothing.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks import readme_table, results, scaling, suite, table
from benchmarks.checks import checks
from benchmarks.engines import VARIABLE
from benchmarks.report import write_report
from benchmarks.turns import EngineError
from benchmarks.works import SHAPES, chosen

GROUPS = {
    "gpt2np": ["gpt2np"],
    "hf": ["hf_eager", "hf_sdpa"],
    "hf_eager": ["hf_eager"],
    "hf_sdpa": ["hf_sdpa"],
    "transformer_lens": ["transformer_lens"],
    "sae_lens": ["sae_lens"],
    "ctranslate2": ["ctranslate2"],
}


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def engine_list(text: str) -> list[str]:
    """Names of engines, gpt2np always among them."""
    names = ["gpt2np"]
    for word in text.split(","):
        if word not in GROUPS:
            raise argparse.ArgumentTypeError(f"no engine is called {word!r}; there are {', '.join(GROUPS)}")
        names += [name for name in GROUPS[word] if name not in names]
    return names


def engine_python(text: str) -> dict[str, str]:
    """`NAME=PATH`: the Python of an engine."""
    name, _, path = text.partition("=")
    if name not in GROUPS or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not ENGINE=PYTHON, ENGINE one of {', '.join(GROUPS)}")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    return dict.fromkeys(GROUPS[name], path)


def checkout(text: str) -> Path:
    """A folder with a gpt2np."""
    path = Path(text).resolve()
    if not (path / "gpt2np" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: no checkout of gpt2np")
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = __doc__.partition("\n\n")
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("verb", nargs="?", choices=["run", "scaling", "report", "publish"], default="run")
    found.add_argument("file", nargs="?", type=Path, help="of report and publish: a RESULTS.json")
    size = found.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the main rows, 2 rounds")
    size.add_argument("--full", action="store_true", help="all rows, 5 rounds (default)")
    found.add_argument("--engines", type=engine_list, default=engine_list("hf,transformer_lens,ctranslate2"))
    found.add_argument("--python", type=engine_python, action="append", default=[], metavar="ENGINE=PYTHON")
    found.add_argument("--before", type=checkout, metavar="CHECKOUT", help="an earlier gpt2np, measured, too")
    found.add_argument("--work", action="append", metavar="NAME", help="a row, or a pattern; may be repeated")
    found.add_argument(
        "--continue", dest="skip_done", action="store_true", help="only rows that FOLDER lacks"
    )
    found.add_argument("--rounds", type=positive)
    found.add_argument("--threads", type=positive, default=2)
    found.add_argument("--out", type=Path, default=Path("benchmark-results"), metavar="FOLDER")
    found.add_argument("--shape", choices=SHAPES, default="gpt2")
    return found


def stop(*_: object) -> None:
    """SIGTERM is told as Ctrl-C is, so that the workers are ended."""
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run a verb; 0, or 1 when an engine failed, 2 for bad input, 130 when interrupted."""
    command = parser()
    args = command.parse_args(argv)
    if (args.verb in ("report", "publish")) != (args.file is not None):
        command.error("report and publish take a RESULTS.json, the other verbs none")
    try:
        works = chosen(args.work, args.quick)
    except ValueError as error:
        command.error(str(error))
    pythons: dict[str, str] = {}
    for given in args.python:
        pythons |= given
    options = suite.Options(
        works=works,
        engines=args.engines,
        out=args.out,
        rounds=args.rounds or (2 if args.quick else 3 if args.verb == "scaling" else 5),
        threads=args.threads,
        shape=args.shape,
        quick=args.quick,
        pythons=pythons,
        merge=bool(args.work) or args.skip_done or args.verb == "scaling",
        skip_done=args.skip_done,
        before=args.before,
    )
    if args.before:
        os.environ[VARIABLE] = str(args.before)  # the workers find it there
    path = args.file or args.out / results.NAME
    before = signal.signal(signal.SIGTERM, stop)
    try:
        if args.verb == "publish":
            path = results.publish(path)
            print("written:", path, *readme_table.write(), file=sys.stderr)
        if args.file:
            found = results.read(path)
        else:
            found = {"run": suite.run, "scaling": scaling.run}[args.verb](options)
        if args.verb == "run":
            print(table.speed(found), "", *checks(found), sep="\n")
        print("written:", *write_report(found, path), file=sys.stderr)
    except (results.ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; finished rows are in {options.out}: --continue goes on", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
