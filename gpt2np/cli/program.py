"""The command line: reads arguments, runs a verb (`gpt2np.cli.verbs`), and turns errors into one line.

Results go to stdout, notes and progress to stderr. Exit 0: fine, 1: a check failed, 2: bad input.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from gpt2np.cli.parser import Parser
from gpt2np.cli.terminal import give_up_stdout, screens, tell, ticking
from gpt2np.errors import Gpt2npError, printable
from gpt2np.outputs import remove_empty

DESCRIPTION = "Run GPT-2, GPT-Neo or Gemma-2 in NumPy and see every step of it."
# Every verb by what it is for, and what its help says of it; its file in `gpt2np.cli.verbs` has the rest.
GROUPS = {
    "look at a run": {
        "trace": "run a prompt and show what the model saw, computed and predicts",
        "generate": "continue a prompt, token by token",
        "view": "one HTML page that shows every step of a run; opens it",
        "tokenize": "split a text into tokens, or join ids into a text",
        "score": "log-probability of every token of a text file, and its perplexity",
    },
    "learn how it works": {
        "learn": "write the parts of GPT-2 yourself, in seven lessons: list them, open one, check what you "
        "wrote",
    },
    "take it apart": {
        "lens": "what the model would predict if it stopped early, layer by layer",
        "heads": "what each head and MLP adds to the logit of a token, or to a difference of two",
        "circuits": "what heads and neurons are for: without options a table of all heads; with a TEXT what "
        "its neurons and its residual stream do",
        "stats": "statistics of attention and hidden states, as the baseline notebook prints",
        "patch": "activation patching: put one value of the run on CLEAN into the run on CORRUPT, for each "
        "head or position of each layer, and see how much of the difference between the two comes back",
    },
    "check your own implementation": {
        "compare": "compare another program's tensors with ours: which step is the first that is wrong, and "
        "which known mistake explains it; exit 0 within noise, 1 if something is wrong, 2 for unusable input",
        "fixture": "write a tiny random GPT-2 with a full trace and error bands, to develop your own with",
    },
    "models and data": {
        "info": "what a model is: config, parameters, files; or what is in a FILE",
        "download": "fetch a model from the Hub, for use without network",
        "sites": "every array that a trace can hold, and what it tells you",
        "plan": "bytes of a trace, before running it",
        "capture": "capture activations: of prompts and responses, a file for each; or of very many texts, "
        "in shards, on all cores or a cluster",
        "kv": "keys and values of a text: write them, query them, many at once",
        "export": "write a trace, or a model as llm.c's files, for other programs",
    },
    "help": {
        "docs": "the documentation: list its pages, open one, or look for a word",
        "completion": "print what a shell needs to complete commands, options, sites and files",
    },
}
LIGHT = ("completion", "docs", "download", "learn")  # verbs that may not need NumPy


def main(argv: list[str] | None = None, ready: Callable[[], None] = lambda: None) -> int:
    """Run one command; returns the exit code, and lets a KeyboardInterrupt through.

    `ready` is called when the command was read and NumPy, if it needs that, is imported.
    """
    new_folders: list[Path] = []
    args = argparse.Namespace(new_folders=new_folders)
    with screens():
        try:
            build_parser().parse_args(argv, args)
            from gpt2np.cli.arguments import check_outputs

            check_outputs(args)
            if args.run.__name__ not in LIGHT:
                importlib.import_module("numpy")
            ready()
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
    (r"run in float32, with the weights as stored \(widen=False\)", "run in float32 without --widen"),
    (r"\(force=True\)", "(--force)"),
    (r"\bskip_bad=True\b", "--skip-bad"),
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
    """The whole command line; a verb's file is imported when its parser is asked for."""
    from gpt2np import __version__

    parser = Parser(prog="gpt2np", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gpt2np {__version__}")
    parser.add_verbs(GROUPS)
    return parser
