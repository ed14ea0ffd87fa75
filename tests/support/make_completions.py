"""Makes gpt2np/cli/completions, what `gpt2np completion` prints: python tests/support/make_completions.py

It needs shtab 1.13.0, which is no dependency. A test says when the files are no longer those of the parser.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import shtab

from gpt2np.architectures.gpt2.sites import DERIVED, SITES
from gpt2np.capture.prompt_set import SHIPPED
from gpt2np.cli.program import build_parser
from gpt2np.cli.verbs.completion import FOLDER, SHELLS
from gpt2np.cli.verbs.docs import page_names
from gpt2np.tracing.contract import released_names
from gpt2np.tracing.sites import Site
from gpt2np.viewer.opening_place import PANELS

VERSION = "1.13.0"  # of shtab
LAYERS = 4  # of which sites are offered by their whole names: those of tiny
MORE_LAYERS = 12  # where another model is named: those of GPT-2 small
MODELS = ["tiny", *released_names(), "distilgpt2"]
GROUPS = ["hidden_states", "attention_weights", "past_key_values"]


def site_names(n_layer: int) -> list[str]:
    """What `--show` and `--keep` take: every site of all layers, and of each."""
    every = [site.name for site in SITES]
    each = [name for name, _, _ in SITES.expand(n_layer)]
    return list(dict.fromkeys([*every, *GROUPS, *each]))


def is_computed(site: Site) -> bool:
    """Whether a step computes a site, or its values are part of what one computes: it can be patched."""
    return site.layered and (not site.derived or DERIVED[site.name].view is not None)


def norm_names(n_layer: int) -> list[str]:
    """What `circuits --norms` takes."""
    norms = [name for name, site, _ in SITES.expand(n_layer) if f"{site.name}.rstd" in SITES]
    return ["all", *norms]


WORDS = {
    "sites": site_names(LAYERS),
    "swept": [site.name for site in SITES if is_computed(site)],
    "receivers": [name for name, site, _ in SITES.expand(LAYERS) if is_computed(site) or name == "logits"],
    "norms": norm_names(LAYERS),
    "pages": page_names(),
    "models": MODELS,
    "sets": list(SHIPPED),
    "panels": list(PANELS),
    "lessons": [*map(str, range(1, 8)), "check", "solution"],
}
FURTHER = {  # where a model is named
    "sites": [name for name in site_names(MORE_LAYERS) if name not in WORDS["sites"]],
    "receivers": [name for name, site, _ in SITES.expand(MORE_LAYERS) if is_computed(site)][48:],
    "norms": [name for name in norm_names(MORE_LAYERS) if name not in WORDS["norms"]],
}
IF_NAMED = {  # a test whether the line or the environment names a model
    "bash": 'if [[ -n "$GPT2NP_MODEL" || "$COMP_LINE" == *--model* ]]; then {}; fi',
    "zsh": 'if [[ -n "$GPT2NP_MODEL" || "$words" == *--model* ]]; then {}; fi',
    "fish": "if set -q GPT2NP_MODEL; or string match -q -- '*--model*' (commandline -p); {}; end",
}
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
        offer = {"bash": 'compgen -W "{}" -- "$1"', "zsh": "compadd {}", "fish": "printf '%s\\n' {}"}[shell]
        lines = [offer.format(listed), *([also] if also else [])]
        if further := FURTHER.get(kind):
            lines.append(IF_NAMED[shell].format(offer.format(" ".join(further))))
        body = "".join(f"  {line}\n" for line in lines)
        name = f"_gpt2np_{kind}"
        parts.append(f"function {name}\n{body}end\n" if shell == "fish" else f"{name}() {{\n{body}}}\n")
    return "\n".join(parts)


PREAMBLES = {shell: preamble(shell) for shell in SHELLS}


def words(kind: str) -> dict:
    """How shtab is told of a kind of words."""
    name = f"_gpt2np_{kind}"
    return {"bash": name, "zsh": name, "fish": f"({name})", "preamble": PREAMBLES}


OF_DEST = dict.fromkeys(("show", "keep", "pattern"), "sites") | {"model": "models", "prompt_set": "sets"}
OF_DEST |= {"over": "swept", "to": "receivers", "norms": "norms", "page": "pages"}
HOW = {  # in the place of shtab's own advice, which names other folders
    "bash": "mkdir -p ~/.local/share/bash-completion/completions\n"
    "# gpt2np completion bash > ~/.local/share/bash-completion/completions/gpt2np",
    "zsh": "mkdir -p ~/.zfunc && gpt2np completion zsh > ~/.zfunc/_gpt2np\n"
    "# and in ~/.zshrc, before compinit: fpath+=~/.zfunc",
    "fish": "mkdir -p ~/.config/fish/completions\n"
    "# gpt2np completion fish > ~/.config/fish/completions/gpt2np.fish",
}
OF_METAVAR = {"PANEL": "panels", "LESSON": "lessons"}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of every verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            action.choices = dict(action.choices)  # shtab takes no other mapping
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
    made = shtab.complete(parser, shell=shell)
    how = f"# Made with shtab. To use it:\n# {HOW[shell]}\n"
    return re.sub(r"(?m)^# Usage:\n(?:#.*\n)+", lambda _: how, made)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SHELLS:
        Path(FOLDER / f"gpt2np.{name}").write_text(completions(name), "utf-8")
