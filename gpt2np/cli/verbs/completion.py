"""The verb that prints what a shell needs to complete commands: completion."""

import argparse
from pathlib import Path
from typing import Any

from gpt2np.cli.parser import add_note, add_verb

FOLDER = Path(__file__).parents[1] / "completions"  # made by tests/support/make_completions.py
SHELLS = ("bash", "zsh", "fish")


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "completion",
        completion,
        "completion bash > ~/.local/share/bash-completion/completions/gpt2np",
        "completion zsh > ~/.zfunc/_gpt2np",
        "completion fish > ~/.config/fish/completions/gpt2np.fish",
    )
    add_note(
        verb,
        "Each folder must be there: mkdir -p ~/.local/share/bash-completion/completions (bash), ~/.zfunc "
        "(zsh), ~/.config/fish/completions (fish). A new shell then completes with Tab; for zsh, ~/.zshrc "
        "needs fpath+=~/.zfunc before compinit. In "
        'the shell that runs: eval "$(gpt2np completion bash)"; with fish: gpt2np completion fish | source',
    )
    verb.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def completion(args: argparse.Namespace) -> int:
    """`gpt2np completion`."""
    print((FOLDER / f"gpt2np.{args.shell}").read_text("utf-8"), end="")
    return 0
