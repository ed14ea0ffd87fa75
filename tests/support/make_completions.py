"""Makes gpt2np/cli/completions, what `gpt2np completion` prints: python tests/support/make_completions.py

It needs shtab 1.13.0, which is no dependency. A test says when the files are no longer those of the parser.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.capture.prompt_set import SHIPPED
from gpt2np.cli.program import build_parser
from gpt2np.cli.verbs.completion import FOLDER, SHELLS
from gpt2np.tracing.contract import released_names
from gpt2np.viewer.opening_place import PANELS

VERSION = "1.13.0"  # of shtab
LAYERS = 12  # of which sites are offered by their whole names: those of GPT-2 small
MODELS = ["tiny", *released_names(), "distilgpt2"]
GROUPS = ["hidden_states", "attention_weights", "past_key_values"]


def site_names() -> list[str]:
    """What `--show` and `--keep` take: every site of all layers, and of each."""
    every = [site.name for site in SITES]
    each = [name for name, _, _ in SITES.expand(LAYERS)]
    return list(dict.fromkeys([*every, *GROUPS, *each]))


WORDS = {"sites": site_names(), "models": MODELS, "sets": list(SHIPPED), "panels": list(PANELS)}
WORDS["lessons"] = [*map(str, range(1, 8)), "check", "solution"]
ALSO = {"models": "directories", "sets": "files"}  # what is completed beside the words
MORE = {
    "bash": {"directories": 'compgen -d -- "$1"', "files": 'compgen -f -- "$1"'},
    "zsh": {"directories": "_files -/", "files": "_files"},
    "fish": {"directories": "__fish_complete_directories", "files": "__fish_complete_path (commandline -ct)"},
}


def preamble(shell: str) -> str:
    """A function for each kind of words."""
    parts = []
    for kind, words in WORDS.items():
        listed, also = " ".join(words), MORE[shell].get(ALSO.get(kind, ""), "")
        if shell == "bash":
            body = f'  compgen -W "{listed}" -- "$1"\n' + (f"  {also}\n" if also else "")
            parts.append(f"_gpt2np_{kind}() {{\n{body}}}\n")
        elif shell == "zsh":
            body = f"  compadd {listed}\n" + (f"  {also}\n" if also else "")
            parts.append(f"_gpt2np_{kind}() {{\n{body}}}\n")
        else:
            body = f"  printf '%s\\n' {listed}\n" + (f"  {also}\n" if also else "")
            parts.append(f"function _gpt2np_{kind}\n{body}end\n")
    return "\n".join(parts)


PREAMBLES = {shell: preamble(shell) for shell in SHELLS}


def words(kind: str) -> dict:
    """How shtab is told of a kind of words."""
    name = f"_gpt2np_{kind}"
    return {"bash": name, "zsh": name, "fish": f"({name})", "preamble": PREAMBLES}


OF_DEST = dict.fromkeys(("show", "keep", "over", "to"), "sites") | {"model": "models", "prompt_set": "sets"}
OF_METAVAR = {"PANEL": "panels", "LESSON": "lessons"}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of every verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)
        else:
            yield action


def completions(shell: str) -> str:
    """The completion file of a shell."""
    parser = build_parser()
    for action in actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if metavar in OF_METAVAR:
            action.complete = words(OF_METAVAR[metavar])
        elif action.choices is None and action.dest in OF_DEST:
            action.complete = words(OF_DEST[action.dest])
        elif "FILE" in metavar or metavar in ("DUMP", "OUT"):
            action.complete = shtab.FILE
        elif metavar == "DIR":
            action.complete = shtab.DIRECTORY
    return shtab.complete(parser, shell=shell)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SHELLS:
        Path(FOLDER / f"gpt2np.{name}").write_text(completions(name), "utf-8")
